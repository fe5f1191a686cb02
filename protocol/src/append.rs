//! How an append is framed, without copying its payload.

use std::io::Write;

use crate::APPEND;

/// Writes into `out` the RESP framing of an append up to the first byte of its payload. The caller then sends the
/// `payload_bytes` bytes and `\r\n`, so the payload is never copied.
pub fn append_header(out: &mut Vec<u8>, shard: &str, epoch: u64, offset: u64, payload_bytes: usize) {
    let (epoch, offset) = (epoch.to_string(), offset.to_string());
    out.extend_from_slice(b"*5\r\n");
    for argument in [APPEND, shard, &epoch, &offset] {
        write!(out, "${}\r\n{}\r\n", argument.len(), argument).expect("writing into a Vec cannot fail");
    }
    write!(out, "${payload_bytes}\r\n").expect("writing into a Vec cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_payload_make_one_resp_command() {
        let mut out = Vec::new();
        append_header(&mut out, "s1", 7, 1234, 3);
        out.extend_from_slice(b"abc\r\n");
        assert_eq!(out, b"*5\r\n$10\r\nLOG.APPEND\r\n$2\r\ns1\r\n$1\r\n7\r\n$4\r\n1234\r\n$3\r\nabc\r\n");
    }
}
