//! A client that waits for its replies.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use rustix::net::RecvFlags;

use crate::resp::{self, Reply};
use crate::Result;

/// A reply that takes longer than this does not come.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// So many requests are sent before their replies are read.
const BATCH: usize = 1000;

/// A connection on loopback.
pub struct Client {
    /// The connection.
    pub socket: TcpStream,
    /// Came, and was not taken yet.
    unread: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Client { socket, unread: Vec::new() })
    }

    /// Sends requests that are encoded already.
    pub fn send(&mut self, requests: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(requests)?)
    }

    /// Waits for a reply, and has `look` look at it.
    pub fn reply<T>(&mut self, look: impl FnOnce(Reply<'_>) -> T) -> Result<T> {
        loop {
            if let Some((reply, length)) = resp::take(&self.unread)? {
                let seen = look(reply);
                self.unread.drain(..length);
                return Ok(seen);
            }
            let mut bytes = [0; 16 << 10];
            match self.socket.read(&mut bytes)? {
                0 => return Err("the server closed the connection".into()),
                count => self.unread.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// Waits for a reply that must be `wanted`.
    pub fn expect(&mut self, wanted: Reply<'_>) -> Result<()> {
        self.reply(
            |reply| if reply == wanted { Ok(()) } else { Err(format!("{reply:?} instead of {wanted:?}").into()) },
        )?
    }

    /// Sends a request and waits for its reply, as text. An error is an error.
    pub fn call(&mut self, arguments: &[&str]) -> Result<String> {
        let mut request = Vec::new();
        let parts: Vec<&[u8]> = arguments.iter().map(|argument| argument.as_bytes()).collect();
        resp::encode(&mut request, &parts);
        self.send(&request)?;
        self.reply(|reply| match reply {
            Reply::Status(text) | Reply::Bulk(text) => Ok(String::from_utf8_lossy(text).into_owned()),
            Reply::Integer(number) => Ok(number.to_string()),
            Reply::Nil => Ok(String::new()),
            Reply::Array(_) => Err(format!("{}: answered by an array", arguments.join(" ")).into()),
            Reply::Error(text) => Err(format!("{}: {}", arguments.join(" "), String::from_utf8_lossy(text)).into()),
        })?
    }

    /// Runs `count` requests that `request` encodes, each of which answers `+OK`.
    pub fn run_all(&mut self, count: usize, request: impl Fn(usize, &mut Vec<u8>)) -> Result<()> {
        let mut requests = Vec::new();
        let mut done = 0;
        while done < count {
            let batch = BATCH.min(count - done);
            requests.clear();
            (done..done + batch).for_each(|index| request(index, &mut requests));
            self.send(&requests)?;
            for _ in 0..batch {
                self.expect(Reply::Status(b"OK"))?;
            }
            done += batch;
        }
        Ok(())
    }

    /// A value of an INFO section, before any comma.
    pub fn info(&mut self, section: &str, name: &str) -> Result<String> {
        let text = self.call(&["INFO", section])?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim_end().to_owned()).ok_or_else(|| format!("INFO {section} has no {name}").into())
    }

    /// A figure of `INFO durability`.
    pub fn durability(&mut self, name: &str) -> Result<u64> {
        Ok(self.info("durability", &format!("durability_{name}"))?.parse()?)
    }

    /// How many bytes have arrived, or more than zero if the connection has ended. Does not wait.
    pub fn arrived(&self) -> Result<usize> {
        let mut bytes = [0; 16 << 10];
        match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(self.unread.len() + count.max(1)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(self.unread.len()),
            Err(error) => Err(error.into()),
        }
    }
}
