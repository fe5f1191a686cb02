//! One connection: what is under way on it, and what comes.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::requests::{Kind, Requests};
use crate::Result;

const READ_BYTES: usize = 64 << 10;

/// A request that is not answered. Times count from the beginning of the load.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// What it is.
    pub kind: Kind,
    /// When it was to be sent.
    pub due: Duration,
    /// When it was.
    pub sent: Duration,
}

/// A connection.
pub struct Connection {
    /// Its socket, which never blocks.
    pub socket: TcpStream,
    /// What is under way.
    pub under_way: VecDeque<Asked>,
    /// Encoded, and not in the socket yet.
    outgoing: Vec<u8>,
    /// Came, and is no whole reply yet.
    incoming: Vec<u8>,
}

impl Connection {
    /// Takes a connected socket.
    pub fn new(socket: TcpStream) -> Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Connection { socket, under_way: VecDeque::new(), outgoing: Vec::new(), incoming: Vec::new() })
    }

    /// Adds the next request. Returns whether there was one.
    pub fn ask(&mut self, requests: &mut Requests, due: Duration, now: Duration) -> bool {
        let kind = requests.add(&mut self.outgoing);
        self.under_way.extend(kind.map(|kind| Asked { kind, due, sent: now }));
        kind.is_some()
    }

    /// Sends what the socket takes. Returns whether that is all.
    pub fn send(&mut self) -> Result<bool> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.socket.write(&self.outgoing[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing.drain(..sent);
        Ok(self.outgoing.is_empty())
    }

    /// Takes the replies that are there, in their order. `answered` hears whether each is an error.
    pub fn hear(&mut self, mut answered: impl FnMut(Asked, bool)) -> Result<()> {
        let mut bytes = [0; READ_BYTES];
        let count = match self.socket.read(&mut bytes) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.incoming.extend_from_slice(&bytes[..count]);
        let mut taken = 0;
        while let Some(length) = reply_length(&self.incoming[taken..])? {
            let asked = self.under_way.pop_front().ok_or("a reply that nothing asked for")?;
            answered(asked, self.incoming[taken] == b'-');
            taken += length;
        }
        self.incoming.drain(..taken);
        Ok(())
    }
}

/// The length of the reply with which these bytes begin; none if it is not whole yet.
fn reply_length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let head = line + 1;
    let length = match bytes[0] {
        b'+' | b'-' => head,
        b'$' => {
            let number = std::str::from_utf8(&bytes[1..line])?.trim_end().parse::<i64>()?;
            // -1: there is no such key.
            usize::try_from(number).map_or(head, |length| head + length + 2)
        }
        other => return Err(format!("a reply that begins with {other:?}").into()),
    };
    Ok((length <= bytes.len()).then_some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_whole_or_waited_for() {
        for whole in ["+OK\r\n", "-ERR no\r\n", "$3\r\nabc\r\n", "$0\r\n\r\n", "$-1\r\n"] {
            let bytes = whole.as_bytes();
            assert_eq!(reply_length(&[bytes, b"+"].concat()).ok().flatten(), Some(bytes.len()), "{whole:?}");
            for part in 1..bytes.len() {
                assert!(matches!(reply_length(&bytes[..part]), Ok(None)), "{whole:?} {part}");
            }
        }
        assert!(reply_length(b"*1\r\n").is_err());
    }
}
