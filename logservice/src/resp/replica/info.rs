//! `REPLCONF`: what a replica reports of itself before `PSYNC`.

use bytes::Bytes;
use durability_protocol::{EngineVersion, Refusal};

use crate::resp::arguments::{number, text};
use crate::resp::leadership_commands::engine_version;
use crate::resp::reply::{self, failure, Reply};

/// As much of a replica's address as log lines show.
const MAX_ADDRESS_BYTES: usize = 256;

/// What a replica has reported.
#[derive(Debug, Default)]
pub struct ReplicaInfo {
    port: Option<u64>,
    ip: Option<String>,
    version: Option<EngineVersion>,
}

impl ReplicaInfo {
    /// `REPLCONF name value ...`. An acknowledgement has no reply. Capabilities are ignored: a full sync over two channels, or one without
    /// a length, is an offer that is not taken up.
    pub fn configure(&mut self, arguments: &[Bytes]) -> Result<Option<Reply>, Refusal> {
        for pair in arguments[1..].chunks(2) {
            let [name, value] = pair else { return Err(failure("usage: REPLCONF name value [name value ...]")) };
            match name.to_ascii_lowercase().as_slice() {
                b"ack" | b"getack" => return Ok(None),
                b"listening-port" => self.port = Some(number(value, "listening-port")?),
                b"version" => self.version = Some(engine_version(value)?),
                b"ip-address" => self.ip = Some(shown_address(value)?),
                _ => {}
            }
        }
        Ok(Some(reply::ok()))
    }

    /// The version that it runs; `None` if it did not report one.
    pub fn version(&self) -> Option<EngineVersion> {
        self.version
    }

    /// The replica's name in log lines, when its connection comes from `peer`.
    pub fn listening(&self, peer: &str) -> String {
        match (&self.ip, self.port) {
            (Some(ip), Some(port)) => format!("{ip}:{port} ({peer})"),
            (None, Some(port)) => format!("port {port} ({peer})"),
            _ => peer.to_owned(),
        }
    }
}

/// An address as log lines show it. Nothing in it can end a line, look like a part of another, or steer a terminal.
fn shown_address(value: &[u8]) -> Result<String, Refusal> {
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err(failure("ip-address is not printable ASCII text without spaces"));
    }
    Ok(text(&value[..value.len().min(MAX_ADDRESS_BYTES)])?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_address(address: &'static [u8]) -> Result<String, Refusal> {
        let arguments = [&b"REPLCONF"[..], b"listening-port", b"6379", b"ip-address", address];
        let mut info = ReplicaInfo::default();
        info.configure(&arguments.map(Bytes::from_static))?;
        Ok(info.listening("peer"))
    }

    #[test]
    fn an_address_that_would_break_a_log_line_is_refused() {
        assert_eq!(with_address(b"fe80::1%eth0"), Ok("fe80::1%eth0:6379 (peer)".to_owned()));
        assert_eq!(with_address(b"node-1.example"), Ok("node-1.example:6379 (peer)".to_owned()));
        assert_eq!(with_address(&[b'x'; 300]), Ok(format!("{}:6379 (peer)", "x".repeat(256))));
        let wrong: [&[u8]; 6] = [b"a\nb", b"a\r", b"\x1b[2J", b"a b", b"\x7f", "\u{202e}".as_bytes()];
        for address in wrong {
            assert!(with_address(address).is_err(), "{address:?}");
        }
    }
}
