//! The tap: the module's connection to its own server, as a replica that takes the replication stream.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::is_valid_replid;
use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::agent::Agent;
use crate::auth;
use crate::bell::Bell;
use crate::facts::Facts;
use crate::interrupt::Interrupt;
use crate::log_connection::encode;
use crate::pipe::Pipe;
use crate::settle;
use crate::shared::{Shared, Task};

/// How long the server may take to answer a step of the handshake.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// While the server prepares a full sync it sends a newline every few seconds. Longer silence means that it is gone.
const FULL_SYNC_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest line of the server's answers in bytes.
const MAX_LINE_BYTES: usize = 1024;

/// Where this server can be reached from within its own machine.
#[derive(Debug, Clone)]
pub enum Address {
    /// By TCP.
    Tcp(SocketAddr),
    /// By unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The best of the server's addresses: its unix socket, else its TCP port.
    ///
    /// # Errors
    /// The server listens on neither.
    pub fn of(facts: &Facts) -> Result<Address, String> {
        if !facts.unix_socket.is_empty() {
            return Ok(Address::Unix(PathBuf::from(&facts.unix_socket)));
        }
        if facts.port == 0 {
            return Err(
                "the server listens neither on a TCP port nor on a unix socket, and the module reaches its own \
                        server by one of them: set unixsocket, or port"
                    .to_owned(),
            );
        }
        // A wildcard, or a name, is reached by loopback.
        let ip = match facts.bind.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() => ip,
            Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        Ok(Address::Tcp(SocketAddr::new(ip, facts.port)))
    }
}

/// A connection to the server of either kind.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix socket.
    Unix(UnixStream),
}

macro_rules! either {
    ($stream:expr, $socket:ident => $work:expr) => {
        match $stream {
            Stream::Tcp($socket) => $work,
            Stream::Unix($socket) => $work,
        }
    };
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect_timeout(address, ANSWER_TIMEOUT)?;
                socket.set_nodelay(true)?;
                settle::expect_own(socket.local_addr()?.port());
                Stream::Tcp(socket)
            }
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        })
    }

    /// Connects and logs in with the module's secret, without waiting for the answer.
    ///
    /// # Errors
    /// The server does not listen there, or takes no more clients.
    pub fn log_in(address: &Address, shared: &Shared, user: &str) -> io::Result<Self> {
        let stream = Stream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        (&stream).write_all(&encode(&["AUTH", user, &shared.secret]))?;
        Ok(stream)
    }

    /// How long a read may wait; `None` for ever.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        either!(self, socket => socket.set_read_timeout(timeout))
    }

    /// Whether reads and writes return at once when they cannot go on.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        either!(self, socket => socket.set_nonblocking(nonblocking))
    }

    /// The same connection a second time.
    ///
    /// # Errors
    /// As the system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Stream::Tcp(socket) => Stream::Tcp(socket.try_clone()?),
            Stream::Unix(socket) => Stream::Unix(socket.try_clone()?),
        })
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, socket => (&mut &*socket).read(buffer))
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        either!(self, socket => (&mut &*socket).write(buffer))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

/// Where in the stream a tap begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// With the byte that was asked for.
    Continue,
    /// With a snapshot, which is still being made: see [`Tap::snapshot_bytes`]. Then the stream comes from `offset` on.
    Snapshot {
        /// The server's replication id.
        replid: String,
        /// What the snapshot contains.
        offset: u64,
    },
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The connection failed.
    #[error("the module cannot connect to its own server: {0}")]
    Io(#[from] io::Error),
    /// The server answered something else than it should.
    #[error("the server answered '{answer}' to the module's {step}")]
    Answer {
        /// What was asked.
        step: &'static str,
        /// What came.
        answer: String,
    },
}

/// The tap, once it is open.
pub struct Tap {
    /// The connection. The stream comes on it, unless there is a pipe.
    pub stream: Stream,
    /// Where the stream comes, if the server's writes can be diverted.
    pub pipe: Option<Arc<Pipe>>,
    /// The beginning of the stream, as far as it came with the server's answer.
    pub first: Vec<u8>,
}

impl Tap {
    /// Waits for the snapshot with which the tap begins, up to its first byte. Returns its length.
    ///
    /// # Errors
    /// The server breaks off.
    pub fn snapshot_bytes(&self, shared: &Shared) -> Result<u64, TapError> {
        let length = read_answer(&self.stream, shared)?;
        parse_snapshot_bytes(&length).ok_or(TapError::Answer { step: "request for a snapshot", answer: length })
    }
}

/// Opens the tap. With `position` (replication id and offset) the stream goes on from there if the server still has
/// it; without, or if it does not, it begins with a snapshot, which is the next thing to be read from the connection.
///
/// # Errors
/// The server cannot be reached or does not serve replicas now; or something else is to be done first.
pub fn open(agent: &mut Agent, address: &Address, position: Option<(&str, u64)>) -> Result<(Tap, Start), Interrupt> {
    if let Some(position) = position {
        if let Some(tap) = resume(agent, address, position)? {
            return Ok((tap, Start::Continue));
        }
    }
    // A snapshot comes through the socket, where it can wait.
    let stream = introduce(address, &agent.shared)?;
    (&stream).write_all(&encode(&["PSYNC", "?", "-1"]))?;
    // If the server is busy with another snapshot, it first finishes that.
    let answer = read_answer(&stream, &agent.shared)?;
    let Some((replid, offset)) = parse_full_sync(&answer) else {
        return Err(TapError::Answer { step: "PSYNC", answer }.into());
    };
    stream.set_read_timeout(Some(FULL_SYNC_TIMEOUT))?;
    Ok((Tap { stream, pipe: None, first: Vec::new() }, Start::Snapshot { replid, offset }))
}

/// Logs in and introduces the connection as a replica's.
fn introduce(address: &Address, shared: &Shared) -> Result<Stream, TapError> {
    let stream = Stream::log_in(address, shared, auth::TAP)?;
    expect(&stream, "AUTH", "+OK")?;
    // No "eof": a snapshot then comes with its length, and without the delay that diskless syncs begin with.
    (&stream).write_all(&encode(&["REPLCONF", "capa", "psync2"]))?;
    expect(&stream, "REPLCONF", "+OK")?;
    Ok(stream)
}

/// Asks for the stream from `position` on. `None` if the server does not have it any more.
fn resume(agent: &mut Agent, address: &Address, (replid, offset): (&str, u64)) -> Result<Option<Tap>, Interrupt> {
    let stream = introduce(address, &agent.shared)?;
    let pipe = Arc::new(Pipe::default());
    // Every answer so far was read, so the next byte that the server writes is the first of its answer to PSYNC.
    let is_diverted = agent.ask(|reply| Task::Divert(Arc::clone(&pipe), reply))?;
    // PSYNC counts from one and asks for the next byte.
    (&stream).write_all(&encode(&["PSYNC", replid, &(offset + 1).to_string()]))?;
    let (answer, first) =
        if is_diverted { read_line_from(&pipe, &agent.shared.agent_bell)? } else { (read_line(&stream)?, Vec::new()) };
    if parse_full_sync(&answer).is_some() {
        return Ok(None);
    }
    if !answer.starts_with("+CONTINUE") {
        return Err(TapError::Answer { step: "PSYNC", answer }.into());
    }
    stream.set_read_timeout(None)?;
    Ok(Some(Tap { stream, pipe: is_diverted.then_some(pipe), first }))
}

/// Reads a line from the pipe. Returns what came after it as well.
fn read_line_from(pipe: &Pipe, bell: &Bell) -> Result<(String, Vec<u8>), TapError> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let (mut all, mut taken) = (Vec::new(), Vec::new());
    loop {
        pipe.take(&mut taken);
        all.append(&mut taken);
        if let Some(end) = memchr::memchr(b'\n', &all) {
            let rest = all.split_off(end + 1);
            return Ok((String::from_utf8_lossy(&all).trim_end().to_owned(), rest));
        }
        if all.len() > MAX_LINE_BYTES {
            return Err(io::Error::from(ErrorKind::InvalidData).into());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(ErrorKind::TimedOut).into());
        }
        if pipe.await_ring() {
            bell.wait(left)?;
        }
    }
}

fn parse_snapshot_bytes(answer: &str) -> Option<u64> {
    answer.strip_prefix('$')?.parse().ok()
}

fn parse_full_sync(answer: &str) -> Option<(String, u64)> {
    let (replid, offset) = answer.strip_prefix("+FULLRESYNC ")?.split_once(' ')?;
    is_valid_replid(replid).then_some((replid.to_owned(), offset.parse().ok()?))
}

fn expect(stream: &Stream, step: &'static str, wanted: &str) -> Result<(), TapError> {
    let answer = read_line(stream)?;
    if answer == wanted {
        Ok(())
    } else {
        Err(TapError::Answer { step, answer })
    }
}

/// Reads a line that is not empty: empty ones keep the connection alive while the server makes a snapshot.
fn read_answer(stream: &Stream, shared: &Shared) -> io::Result<String> {
    loop {
        await_input(stream, shared)?;
        let line = read_line(stream)?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

/// Waits for the server's next sign of life. A server that shuts down gives none: it waits for this thread.
fn await_input(stream: &Stream, shared: &Shared) -> io::Result<()> {
    const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let deadline = Instant::now() + FULL_SYNC_TIMEOUT;
    while !matches!(poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&LOOK_INTERVAL)), Ok(1..)) {
        if shared.is_stopping.load(Ordering::Relaxed) {
            return Err(io::Error::other("the module ends"));
        }
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Reads a line byte by byte, so that nothing after it is taken from the socket.
fn read_line(mut stream: impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() == MAX_LINE_BYTES => return Err(ErrorKind::InvalidData.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_is_a_full_sync() {
        let replid = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(parse_full_sync(&format!("+FULLRESYNC {replid} 42")), Some((replid.to_owned(), 42)));
        for bad in ["+CONTINUE", "+FULLRESYNC", "+FULLRESYNC x 1", &format!("+FULLRESYNC {replid} -1")] {
            assert_eq!(parse_full_sync(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_module_reaches_its_server_by_the_shortest_way() {
        let facts = |port, bind: &str, unix: &str| Facts {
            port,
            bind: bind.to_owned(),
            unix_socket: unix.to_owned(),
            ..Facts::default()
        };
        let tcp = |facts| match Address::of(&facts) {
            Ok(Address::Tcp(address)) => address.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(Address::of(&facts(1, "", "/s")), Ok(Address::Unix(_))));
        assert_eq!(tcp(facts(6379, "*", "")), "127.0.0.1:6379");
        assert_eq!(tcp(facts(6379, "10.0.0.5", "")), "10.0.0.5:6379");
        assert_eq!(tcp(facts(6379, "::", "")), "[::1]:6379");
        assert!(Address::of(&facts(0, "", "")).unwrap_err().contains("unixsocket"));
    }

    #[test]
    fn any_bytes_are_lines_that_end_or_an_error() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            allocation::within(8 * MAX_LINE_BYTES, || {
                let mut rest = &bytes[..];
                while let Ok(line) = read_line(&mut rest) {
                    // Bytes that are no text become longer.
                    assert!(line.len() <= 3 * MAX_LINE_BYTES);
                    if let Some((replid, _)) = parse_full_sync(&line) {
                        assert!(is_valid_replid(&replid));
                    }
                    let _ = parse_snapshot_bytes(&line);
                }
            });
        });
    }
}
