//! As much of the protocol as is needed: requests that are built ahead of time, and replies that are not copied.

use crate::Result;

/// A reply, in the buffer that it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+OK`
    Status(&'a [u8]),
    /// `-ERR ...`
    Error(&'a [u8]),
    /// `:1`
    Integer(i64),
    /// A string of known length.
    Bulk(&'a [u8]),
    /// There is no such value.
    Nil,
    /// So many replies follow, which belong together.
    Array(i64),
}

/// The first reply in `bytes` and its length; `None` if it is not whole yet.
///
/// # Errors
/// It is of a kind that no request of this program is answered with.
#[inline]
pub fn take(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>> {
    let Some(line_end) = bytes.iter().position(|byte| *byte == b'\r') else { return Ok(None) };
    if bytes.len() < line_end + 2 {
        return Ok(None);
    }
    let (line, length) = (&bytes[1..line_end], line_end + 2);
    Ok(Some(match bytes[0] {
        b'+' => (Reply::Status(line), length),
        b'-' => (Reply::Error(line), length),
        b':' => (Reply::Integer(number(line)?), length),
        b'*' => (Reply::Array(number(line)?), length),
        b'$' if line == b"-1" => (Reply::Nil, length),
        b'$' => {
            let end = length + usize::try_from(number(line)?)?;
            if bytes.len() < end + 2 {
                return Ok(None);
            }
            (Reply::Bulk(&bytes[length..end]), end + 2)
        }
        _ => return Err(format!("unknown reply: {}", String::from_utf8_lossy(line)).into()),
    }))
}

fn number(digits: &[u8]) -> Result<i64> {
    Ok(std::str::from_utf8(digits)?.parse()?)
}

/// Adds a request to `to`.
pub fn encode(to: &mut Vec<u8>, arguments: &[&[u8]]) {
    to.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        to.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        to.extend_from_slice(argument);
        to.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_when_they_are_whole() {
        let all = b"+OK\r\n$3\r\nabc\r\n$-1\r\n:-7\r\n-ERR no\r\n*2\r\n";
        let expected = [
            Reply::Status(b"OK"),
            Reply::Bulk(b"abc"),
            Reply::Nil,
            Reply::Integer(-7),
            Reply::Error(b"ERR no"),
            Reply::Array(2),
        ];
        let mut start = 0;
        for wanted in expected {
            let (reply, length) = take(&all[start..]).unwrap().unwrap();
            assert_eq!(reply, wanted);
            for cut in 0..length {
                assert_eq!(take(&all[start..start + cut]).unwrap(), None, "cut at {cut}");
            }
            start += length;
        }
        assert_eq!(start, all.len());
        assert!(take(b"%1\r\n").is_err());
    }
}
