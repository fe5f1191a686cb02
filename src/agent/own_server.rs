//! How the agent reaches its own server.
//!
//! The agent hands the server one end of a pair of connected sockets, as if the server had accepted it. So the server's addresses do not
//! matter, no client can take the module's place, and the module's secrets do not leave the process. A server whose internals are not
//! known is reached at its address, as any client reaches it. A secret that another process received there would open nothing.
//! Agent's thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use crate::agent::control::Control;
use crate::agent::interrupt::Interrupt;
use crate::exchange::mailbox::Task;
use crate::exchange::own_logins::{random_secret, Origin};
use crate::exchange::server_facts::ServerFacts;
use crate::log::request::encode;

/// How long the server may take to answer a step of a handshake.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to this server and logs in `times` times, without waiting for the answers.
///
/// # Errors
/// The server cannot be reached, or something else is to be done first.
pub fn log_in(control: &mut Control, user: &str, times: usize) -> Result<Stream, Interrupt> {
    let secrets = (0..times).map(|_| random_secret()).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let stream = connect(control, &secrets)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    for secret in &secrets {
        (&stream).write_all(&encode(&["AUTH", user, secret])).map_err(failed)?;
    }
    Ok(stream)
}

fn failed(error: io::Error) -> Interrupt {
    Interrupt::Failed(format!("the module cannot connect to its own server: {error}"))
}

fn connect(control: &mut Control, secrets: &[String]) -> Result<Stream, Interrupt> {
    if control.support.why_no_sync.is_none() {
        let (own, servers) = UnixStream::pair().map_err(failed)?;
        servers.set_nonblocking(true).map_err(failed)?;
        let taken = control.ask(|reply| Task::TakeConnection(servers.into(), secrets.to_vec(), reply))?;
        taken.map_err(|why| failed(io::Error::other(why)))?;
        return Ok(Stream::Unix(own));
    }
    // Ask each time: operators change where a server listens.
    let facts = control.ask(Task::Describe)?;
    match Address::of(&facts).map_err(Interrupt::Failed)? {
        Address::Tcp(address) => {
            let socket = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT).map_err(failed)?;
            socket.set_nodelay(true).map_err(failed)?;
            let own = socket.local_addr().map_err(failed)?;
            (control.support.expect_own_port)(own.port());
            control.ask(|reply| Task::ExpectLogins(Origin::Tcp(own), secrets.to_vec(), reply))?;
            Ok(Stream::Tcp(socket))
        }
        Address::Unix(path) => {
            let socket = UnixStream::connect(&path).map_err(failed)?;
            check_listens_here(&socket, &path).map_err(failed)?;
            control.ask(|reply| Task::ExpectLogins(Origin::Unix, secrets.to_vec(), reply))?;
            Ok(Stream::Unix(socket))
        }
    }
}

/// The server does not identify the clients of its unix socket. So no secret is sent before it is certain that no other process receives
/// it.
fn check_listens_here(socket: &UnixStream, path: &Path) -> io::Result<()> {
    let listener = socket_peercred(socket)?.pid;
    if listener == rustix::process::getpid() {
        return Ok(());
    }
    let (path, listener) = (path.display(), listener.as_raw_nonzero());
    Err(io::Error::other(format!("another process ({listener}) listens on its unix socket {path}")))
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
    /// The best of the server's addresses: its unix socket, or else its TCP port.
    ///
    /// # Errors
    /// The server listens on neither.
    fn of(facts: &ServerFacts) -> Result<Address, String> {
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
                // Another process may listen where the name points to, and would receive the secret.
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
    /// How long a read may wait; `None`: for ever.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        either!(self, socket => socket.set_read_timeout(timeout))
    }

    /// Whether reads and writes return at once when they cannot proceed.
    ///
    /// # Errors
    /// As the system says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        either!(self, socket => socket.set_nonblocking(nonblocking))
    }

    /// A second handle of the same connection.
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
    fn a_unix_socket_of_another_process_gets_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let own = std::os::unix::net::UnixListener::bind(&path).unwrap();
        check_listens_here(&UnixStream::connect(&path).unwrap(), &path).unwrap();
        drop(own);
        std::fs::remove_file(&path).unwrap();
        let listen = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\nprint('up', flush=True)\ninput()";
        let mut other = std::process::Command::new("python3")
            .args(["-c", listen])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let why = check_listens_here(&UnixStream::connect(&path).unwrap(), &path).unwrap_err().to_string();
        other.kill().unwrap();
        assert!(why.contains(&format!("another process ({})", other.id())) && why.contains("socket"), "{why}");
        other.wait().unwrap();
    }

    #[test]
    fn the_module_reaches_its_server_at_the_best_address() {
        let facts = |port, bind: &str, unix: &str| ServerFacts {
            port,
            bind: bind.to_owned(),
            unix_socket: unix.to_owned(),
            ..ServerFacts::default()
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
