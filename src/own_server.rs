//! How the agent reaches its own server.
//!
//! The server is handed one end of a pair of connected sockets, as if it had accepted it. So nothing that operators do to its
//! addresses concerns the module, no client can take its place, and its secret does not leave the process. Where the server is of
//! a version whose internals are not known, it is reached at its address, as any client reaches it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent::Agent;
use crate::facts::Facts;
use crate::interrupt::Interrupt;
use crate::log_connection::encode;
use crate::module;
use crate::settle;
use crate::shared::Task;

/// How long the server may take to answer a step of a handshake.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to this server and logs in with the module's secret, without waiting for the answer. The agent's thread.
///
/// # Errors
/// The server cannot be reached, or something else is to be done first.
pub fn log_in(agent: &mut Agent, user: &str) -> Result<Stream, Interrupt> {
    let stream = connect(agent)?;
    let logging_in = stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .and_then(|()| (&stream).write_all(&encode(&["AUTH", user, &agent.shared.secret])));
    logging_in.map_err(failed)?;
    Ok(stream)
}

fn failed(error: io::Error) -> Interrupt {
    Interrupt::Failed(format!("the module cannot connect to its own server: {error}"))
}

fn connect(agent: &mut Agent) -> Result<Stream, Interrupt> {
    if module::why_sync_is_impossible().is_none() {
        let (own, servers) = UnixStream::pair().map_err(failed)?;
        servers.set_nonblocking(true).map_err(failed)?;
        agent.ask(|reply| Task::TakeConnection(servers.into(), reply))?.map_err(|why| failed(io::Error::other(why)))?;
        return Ok(Stream::Unix(own));
    }
    // Asked each time: operators change where a server listens.
    let facts = agent.ask(Task::Describe)?;
    match Address::of(&facts).map_err(Interrupt::Failed)? {
        Address::Tcp(address) => {
            let socket = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            settle::expect_own(socket.local_addr().map_err(failed)?.port());
            Ok(Stream::Tcp(socket))
        }
        Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix).map_err(failed),
    }
}

/// Where this server can be reached from within its own machine.
#[derive(Debug)]
enum Address {
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
    fn of(facts: &Facts) -> Result<Address, String> {
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
        let ip = match facts.bind.as_str() {
            "*" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            bind => match bind.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Ok(IpAddr::V6(ip)) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                Ok(ip) => ip,
                // Somebody else may listen at what the name stands for, and would be sent the secret.
                Err(_) => {
                    return Err(format!(
                        "the server listens on '{bind}', which is no IP address, so the module does not connect to it there: \
                         set unixsocket, or bind to an address"
                    ))
                }
            },
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(tcp(facts(6379, "0.0.0.0", "")), "127.0.0.1:6379");
        assert!(Address::of(&facts(0, "", "")).unwrap_err().contains("unixsocket"));
        assert!(Address::of(&facts(6379, "db.example", "")).unwrap_err().contains("unixsocket"));
    }
}
