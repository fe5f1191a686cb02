//! Settling: while a node attaches to a log that answers, which takes milliseconds, its clients wait instead of being
//! refused. Nothing is read from their connections meanwhile, for a bounded time.
//!
//! The function through which the server reads is replaced for that time only. The first read of a client's connection
//! finds nothing, and the server does not ask for more until the node has settled.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;

use crate::base::panic_guard::guard;
use crate::decide::gate::ClientId;
use crate::server::api;
use crate::server::connections::ServerConnections;
use crate::server::internals::{Connection, ConnectionHandler, ConnectionType, Internals, ReadFunction};
use crate::server::write_path::{is_main_thread, set_errno_again};
use crate::settings;

/// The longest that clients wait; then they are refused until the node leads.
const LIMIT: Duration = Duration::from_secs(1);

/// TCP ports from which the module's own connections to its server come.
static OWN_PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// A connection of the module's own to its server comes from that TCP port. Called before it sends anything. Any thread.
pub fn expect_own(port: u16) {
    // A few in a server's life; ports of connections that have ended may stay, as a settling server has no others there.
    let mut ports = OWN_PORTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !ports.contains(&port) {
        ports.push(port);
    }
}

struct Replaced {
    table: *mut ConnectionType,
    read: ReadFunction,
}
// SAFETY: written once on the main thread before the functions below can run; the pointer is to a static.
unsafe impl Send for Replaced {}
// SAFETY: as above.
unsafe impl Sync for Replaced {}

const TCP: usize = 0;
const TLS: usize = 1;
static REPLACED: [OnceLock<Replaced>; 2] = [const { OnceLock::new() }; 2];

/// A client that waits, and what the server calls when there is something to read.
type Waiting = (ClientId, ConnectionHandler);

thread_local! {
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
}

/// A time in which clients wait. Main thread.
pub struct Settling {
    deadline: Instant,
}

impl Settling {
    /// From now on nothing is read from clients. The server's writing functions are decorated.
    pub fn begin(internals: &Internals) -> Self {
        let [tcp, tls, _] = internals.types();
        replace::<TCP>(tcp);
        replace::<TLS>(tls);
        Settling { deadline: Instant::now() + LIMIT }
    }

    /// Whether clients have waited long enough.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Clients are read from again.
    pub fn end(self, connections: &ServerConnections) {
        for replaced in REPLACED.iter().filter_map(OnceLock::get) {
            // SAFETY: the server's live table; a function pointer, aligned, so another thread sees the old or the new one.
            unsafe { (*replaced.table).read = replaced.read };
        }
        for (client, handler) in WAITING.take() {
            connections.read_again(client, handler);
        }
    }
}

fn replace<const KIND: usize>(table: *mut ConnectionType) {
    if table.is_null() {
        return;
    }
    // SAFETY: as in `Settling::end`.
    unsafe {
        REPLACED[KIND].get_or_init(|| Replaced { table, read: (*table).read });
        (*table).read = paused_read::<KIND>;
    }
}

unsafe extern "C" fn paused_read<const KIND: usize>(
    connection: *mut Connection,
    buffer: *mut c_void,
    length: usize,
) -> c_int {
    // SAFETY: the server reads from a live connection.
    let is_paused = guard("pausing a client", false, || unsafe { pause(connection) });
    match REPLACED[KIND].get() {
        // SAFETY: the server's own arguments to its own function.
        Some(replaced) if !is_paused => unsafe { (replaced.read)(connection, buffer, length) },
        _ => {
            set_errno_again();
            -1
        }
    }
}

/// Whether the connection is a client's, which now waits.
///
/// # Safety
/// The connection is live.
unsafe fn pause(connection: *mut Connection) -> bool {
    // SAFETY: a live connection; its client, if it has one, lives as long.
    let (fd, client) = unsafe { ((*connection).fd, (*connection).private_data.as_ref()) };
    // Without a client it is the server's own link to a primary, on its way.
    let Some(client) = client else { return false };
    if !is_main_thread() {
        // An I/O thread, which may neither change the event loop nor ask for the client's flags. It will be asked again.
        return !is_own(fd) && !is_link_to_log(fd);
    }
    if is_own(fd) || api::client_flags(client.id).is_primary {
        return false;
    }
    // SAFETY: a live connection on the main thread, and the function of its own type.
    unsafe {
        WAITING.with_borrow_mut(|waiting| waiting.push((client.id, (*connection).read_handler)));
        ((*(*connection).kind).set_read_handler)(connection, None);
    }
    true
}

/// Whether the other end of the socket has the log's port.
fn is_link_to_log(fd: c_int) -> bool {
    let log_port = settings::parse_address(&settings::LOG.value()).ok().map(|(_, port)| port);
    matches!(peer(fd), Some(Peer::Tcp(port)) if Some(port) == log_port)
}

/// Whether the other end of the socket is this process.
fn is_own(fd: c_int) -> bool {
    match peer(fd) {
        // Another machine's client may have that port too; it is refused then instead of made to wait.
        Some(Peer::Tcp(port)) => OWN_PORTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).contains(&port),
        Some(Peer::Unix { is_own }) => is_own,
        None => false,
    }
}

/// The other end of a socket.
enum Peer {
    /// Its port.
    Tcp(u16),
    /// Whether it is this process.
    Unix { is_own: bool },
}

/// `None` for a socket that is not connected.
fn peer(fd: c_int) -> Option<Peer> {
    // SAFETY: the descriptor of a live connection, for the time of this call.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    let address = rustix::net::getpeername(socket).ok().flatten()?;
    Some(match SocketAddr::try_from(address) {
        Ok(address) => Peer::Tcp(address.port()),
        Err(_) => {
            Peer::Unix { is_own: socket_peercred(socket).is_ok_and(|peer| peer.pid == rustix::process::getpid()) }
        }
    })
}
