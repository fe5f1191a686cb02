//! A pause in which nothing is read from clients: while a node attaches to a log that answers, which takes milliseconds, its clients wait
//! instead of being refused. The pause has a time limit.
//!
//! The function through which the server reads is another one for that time (`server/connection_functions.rs`). The first read of a client's
//! connection finds nothing, and the server does not ask for more until the pause ends.
//!
//! The same function reads nothing from the cluster's bus while that is held ([`hold_bus`]); the server asks again by itself.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;

use crate::base::panic_guard::guard;
use crate::decide::gate::ClientId;
use crate::server::cluster::bus_links::{client_of, is_bus_link};
use crate::server::connection_functions::{self, original, TCP, TLS};
use crate::server::connections::ServerConnections;
use crate::server::structs::{Connection, ConnectionHandler};
use crate::server::vectors::set_errno_again;
use crate::server::{api, main_thread};
use crate::settings;

/// The longest that clients wait; then they are refused until the node leads.
const LIMIT: Duration = Duration::from_secs(1);

/// TCP ports from which the module's own connections to its server come.
static OWN_PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// The module's own connection from that TCP port to its server is read from during a pause as well. Called before it sends anything. Any
/// thread.
pub fn expect_own(port: u16) {
    // A few in a server's life. Ports of connections that have ended may stay, as a server that pauses has no others there.
    let mut ports = OWN_PORTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !ports.contains(&port) {
        ports.push(port);
    }
}

/// A client that waits, and what the server calls when there is something to read.
type Waiting = (ClientId, ConnectionHandler);

thread_local! {
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
}

/// Whether clients wait.
static HOLDS_CLIENTS: AtomicBool = AtomicBool::new(false);
/// Whether nothing is read from the cluster's bus.
static HOLDS_BUS: AtomicBool = AtomicBool::new(false);

/// Forgets everything: no pause is under way. Main thread.
pub fn forget_all() {
    WAITING.take();
    HOLDS_CLIENTS.store(false, Ordering::Relaxed);
    HOLDS_BUS.store(false, Ordering::Relaxed);
    OWN_PORTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
}

/// A pause that is under way. Main thread.
pub struct ReadPause {
    deadline: Instant,
}

impl ReadPause {
    /// Nothing is read from clients from now on. The module's functions for writing are in place.
    pub fn begin() -> Self {
        HOLDS_CLIENTS.store(true, Ordering::Relaxed);
        put_read_functions();
        ReadPause { deadline: Instant::now() + LIMIT }
    }

    /// Clients may wait for that long from now on.
    pub fn last(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// Whether clients have waited for as long as they may.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The server reads from clients again.
    pub fn end(self, connections: &ServerConnections) {
        HOLDS_CLIENTS.store(false, Ordering::Relaxed);
        restore_read_functions();
        for (client, handler) in WAITING.take() {
            connections.read_again(client, handler);
        }
    }
}

/// Nothing is read from the cluster's bus from now on. Main thread, once the server's own functions are kept.
pub fn hold_bus() {
    HOLDS_BUS.store(true, Ordering::Relaxed);
    put_read_functions();
}

/// The cluster's bus is read again. What has come meanwhile was left where it was.
pub fn let_bus_go() {
    HOLDS_BUS.store(false, Ordering::Relaxed);
    restore_read_functions();
}

fn put_read_functions() {
    connection_functions::put_read_function::<TCP>(paused_read::<TCP>);
    connection_functions::put_read_function::<TLS>(paused_read::<TLS>);
}

/// Has the server read by itself again, unless something is still held.
fn restore_read_functions() {
    if !HOLDS_CLIENTS.load(Ordering::Relaxed) && !HOLDS_BUS.load(Ordering::Relaxed) {
        connection_functions::restore_read_functions();
    }
}

unsafe extern "C" fn paused_read<const KIND: usize>(
    connection: *mut Connection,
    buffer: *mut c_void,
    length: usize,
) -> c_int {
    // SAFETY: the server reads from a live connection.
    let is_paused = guard("pausing a client", false, || unsafe { pause(connection) });
    if is_paused {
        set_errno_again();
        return -1;
    }
    // SAFETY: the server's own arguments to its own function.
    unsafe { (original::<KIND>().read)(connection, buffer, length) }
}

/// Whether nothing is to be read from the connection now: it is a client's, which now waits, or one of the bus.
///
/// # Safety
/// The connection is live.
unsafe fn pause(connection: *mut Connection) -> bool {
    // SAFETY: a live connection; its client, if it has one, lives as long.
    let (fd, client) = unsafe {
        if is_bus_link(connection) {
            // Only the main thread reads from the bus.
            return main_thread::is_it() && HOLDS_BUS.load(Ordering::Relaxed);
        }
        ((*connection).fd, client_of(connection))
    };
    if !HOLDS_CLIENTS.load(Ordering::Relaxed) {
        return false;
    }
    // Without a client it is the server's own link to a primary, on its way.
    let Some(client) = client else { return false };
    if !main_thread::is_it() {
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

/// Whether the other end of the socket has the port of a log service.
fn is_link_to_log(fd: c_int) -> bool {
    let Some(Peer::Tcp(port)) = peer(fd) else { return false };
    let services = settings::parse_services(&settings::LOG.value());
    services.is_ok_and(|services| services.iter().any(|(_, _, log_port)| *log_port == port))
}

/// Whether the other end of the socket is this process.
fn is_own(fd: c_int) -> bool {
    match peer(fd) {
        // Another machine's client may have that port too; then it is refused instead of made to wait.
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
