//! Holds replies on the server's connections: every write of a TCP, unix-socket or TLS connection passes the functions
//! here, on the main thread or on an I/O thread. `valve.rs` decides how much of it may leave.
//!
//! The server writes through a table of functions for each connection type. The module replaces three entries of the
//! two tables that end in a socket (unix-socket connections write through the one of TCP). A connection that was never
//! held costs two loads and a branch for each write.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::ffi::{Client, Connection, ConnectionHandler, ConnectionType, Internals};
use crate::gate::{ClientId, Connections, Held};
use crate::guard::guard;
use crate::pipe::Pipe;
use crate::shared::Shared;
use crate::valve::{Group, Permit, Valve};

/// A connection that is held, or was: it stays known until its client disconnects.
struct HeldConnection {
    /// Only compared, never followed.
    connection: *const Connection,
    /// Whether writes have to look at `state`. Changed only under its lock.
    is_closed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    valve: Valve,
    /// For the tap's own connection: what is written goes there, not into the socket.
    diversion: Option<Diversion>,
}

/// Where the stream goes instead of the tap's socket.
pub struct Diversion {
    /// Into this.
    pub pipe: Arc<Pipe>,
    /// Has the agent's bell.
    pub shared: Arc<Shared>,
}

impl HeldConnection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const PAGE_ENTRIES: usize = 4096;
const PAGES: usize = 1024;
type Page = [AtomicPtr<HeldConnection>; PAGE_ENTRIES];

/// Held connections by socket number. Entries are written by the main thread only, and read by every thread that
/// writes to sockets. A page, once made, stays.
static TABLE: [AtomicPtr<Page>; PAGES] = [const { AtomicPtr::new(ptr::null_mut()) }; PAGES];
/// The newest group that may leave.
static RELEASED: AtomicU64 = AtomicU64::new(0);
/// The main thread, as `pthread_self` names it.
static MAIN_THREAD: AtomicUsize = AtomicUsize::new(0);

/// What the tables held before: the server's own functions.
struct Originals {
    table: *mut ConnectionType,
    functions: ConnectionType,
}
// SAFETY: written once on the main thread before any other thread can see it; the pointer is to a static.
unsafe impl Send for Originals {}
// SAFETY: as above; the functions themselves are called by the server from any of its threads.
unsafe impl Sync for Originals {}

const TCP: usize = 0;
const TLS: usize = 1;
static ORIGINALS: [OnceLock<Originals>; 2] = [const { OnceLock::new() }; 2];

fn original<const KIND: usize>() -> &'static ConnectionType {
    match ORIGINALS[KIND].get() {
        Some(originals) => &originals.functions,
        // The decorated functions are put in place after the originals are kept.
        None => std::process::abort(),
    }
}

/// Replaces the writing functions of the server's connection types. Main thread, with I/O threads idle or not: the
/// entries are swapped one by one, and each of the new ones passes writes through until something is held.
pub fn install(internals: &Internals) {
    // SAFETY: has no preconditions.
    MAIN_THREAD.store(unsafe { libc::pthread_self() } as usize, Ordering::Relaxed);
    let [tcp, tls, _] = internals.types();
    install_one::<TCP>(tcp);
    install_one::<TLS>(tls);
}

fn install_one<const KIND: usize>(table: *mut ConnectionType) {
    if table.is_null() {
        return;
    }
    // SAFETY: `table` is the server's live table of that type, which is never freed; the fields that are read
    // and written are function pointers, aligned, so that a reader on another thread sees the old or the new one.
    unsafe {
        // Kept from the first time if the module was unloaded in between.
        ORIGINALS[KIND].get_or_init(|| Originals { table, functions: ptr::read(table) });
        (*table).write = gated_write::<KIND>;
        (*table).writev = gated_writev::<KIND>;
        (*table).set_write_handler = gated_set_write_handler::<KIND>;
    }
}

/// Puts the server's own functions back and forgets all connections. Main thread, when no reply is held and none will be.
pub fn uninstall() {
    for originals in ORIGINALS.iter().filter_map(OnceLock::get) {
        // SAFETY: as in `install_one`.
        unsafe {
            (*originals.table).write = originals.functions.write;
            (*originals.table).writev = originals.functions.writev;
            (*originals.table).set_write_handler = originals.functions.set_write_handler;
        }
    }
    for page in &TABLE {
        // SAFETY: a page that is not null was leaked by `entry_or_new` and stays.
        let Some(page) = (unsafe { page.load(Ordering::Acquire).as_ref() }) else { continue };
        for entry in page {
            let held = entry.swap(ptr::null_mut(), Ordering::AcqRel);
            if !held.is_null() {
                // Not freed: an I/O thread may be on its way through it, and this happens once in a server's life.
                // SAFETY: entries come from `Box::into_raw` and are freed only after they were taken out of the table.
                unsafe { (*held).is_closed.store(false, Ordering::Release) };
            }
        }
    }
}

fn entry(fd: c_int) -> Option<&'static AtomicPtr<HeldConnection>> {
    let fd = usize::try_from(fd).ok()?;
    let page = TABLE.get(fd / PAGE_ENTRIES)?.load(Ordering::Acquire);
    // SAFETY: a page that is not null was leaked by `entry_or_new` and stays.
    unsafe { page.as_ref() }.map(|page| &page[fd % PAGE_ENTRIES])
}

/// Main thread only. `None` for a socket number beyond the table's four million.
fn entry_or_new(fd: c_int) -> Option<&'static AtomicPtr<HeldConnection>> {
    let page = TABLE.get(usize::try_from(fd).ok()? / PAGE_ENTRIES)?;
    if page.load(Ordering::Acquire).is_null() {
        let new: Box<Page> = Box::new([const { AtomicPtr::new(ptr::null_mut()) }; PAGE_ENTRIES]);
        page.store(Box::leak(new), Ordering::Release);
    }
    entry(fd)
}

/// The held connection behind `connection`, whether or not its valve is closed.
///
/// # Safety
/// The caller is the server, writing to the connection, or the main thread. Neither can meet the removal of the
/// entry: the main thread removes it when the client disconnects, which the server puts off while an I/O thread works
/// for that client.
unsafe fn held<'a>(connection: *const Connection) -> Option<&'a HeldConnection> {
    // SAFETY: the server passes a live connection.
    let entry = entry(unsafe { (*connection).fd })?;
    // SAFETY: by contract, the entry is not removed while the reference lives.
    let held = unsafe { entry.load(Ordering::Acquire).as_ref() }?;
    ptr::eq(held.connection, connection).then_some(held)
}

/// As [`held`], but only if writes have to ask the valve.
///
/// # Safety
/// As [`held`].
#[inline]
unsafe fn gated<'a>(connection: *const Connection) -> Option<&'a HeldConnection> {
    // SAFETY: by contract of this function.
    unsafe { held(connection) }.filter(|held| held.is_closed.load(Ordering::Acquire))
}

fn is_main_thread() -> bool {
    // SAFETY: has no preconditions.
    MAIN_THREAD.load(Ordering::Relaxed) == unsafe { libc::pthread_self() } as usize
}

unsafe extern "C" fn gated_write<const KIND: usize>(
    connection: *mut Connection,
    data: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: the server calls this to write to a live connection.
    match unsafe { gated(connection) } {
        Some(held) if !opens(held, length) => {
            let one = libc::iovec { iov_base: data.cast_mut(), iov_len: length };
            write_held::<KIND>(held, connection, &[one])
        }
        _ => {
            // SAFETY: the server's own arguments to its own function.
            unsafe { (original::<KIND>().write)(connection, data, length) }
        }
    }
}

unsafe extern "C" fn gated_writev<const KIND: usize>(
    connection: *mut Connection,
    vectors: *const libc::iovec,
    count: c_int,
) -> c_int {
    // SAFETY: the server calls this to write to a live connection.
    match unsafe { gated(connection) } {
        Some(held) if count > 0 => {
            // SAFETY: the server passes `count` vectors.
            let vectors = unsafe { std::slice::from_raw_parts(vectors, count as usize) };
            write_held::<KIND>(held, connection, vectors)
        }
        _ => {
            // SAFETY: the server's own arguments to its own function.
            unsafe { (original::<KIND>().writev)(connection, vectors, count) }
        }
    }
}

/// Whether nothing is held any more; then the connection writes as ever, with the cheaper of the two calls.
fn opens(held: &HeldConnection, pending: usize) -> bool {
    guard("opening a held connection", false, || {
        let mut state = held.state();
        let opens = state.diversion.is_none()
            && state.valve.mark() <= RELEASED.load(Ordering::Acquire)
            && state.valve.offer(pending as u64, RELEASED.load(Ordering::Acquire)) == Permit::Open;
        if opens {
            held.is_closed.store(false, Ordering::Release);
        }
        opens
    })
}

/// At most this many vectors go out in one call; the server calls again for the rest.
const MAX_VECTORS: usize = 64;

fn write_held<const KIND: usize>(held: &HeldConnection, connection: *mut Connection, vectors: &[libc::iovec]) -> c_int {
    guard("writing to a held connection", -1, || {
        let pending: u64 = vectors.iter().map(|vector| vector.iov_len as u64).sum();
        let mut state = held.state();
        if let Some(diversion) = &state.diversion {
            return divert(diversion, vectors, pending);
        }
        match state.valve.offer(pending, RELEASED.load(Ordering::Acquire)) {
            Permit::Open => {
                held.is_closed.store(false, Ordering::Release);
                drop(state);
                // SAFETY: the server's own arguments to its own function.
                unsafe { (original::<KIND>().writev)(connection, vectors.as_ptr(), vectors.len() as c_int) }
            }
            Permit::Part(0) => {
                // SAFETY: a live connection; on the main thread nobody else changes its handlers.
                let waits_for_socket = is_main_thread() && unsafe { (*connection).write_handler.is_some() };
                if waits_for_socket {
                    // The socket would be reported as writable again and again.
                    // SAFETY: the server's own function, called on the main thread as the server does.
                    unsafe { (original::<KIND>().set_write_handler)(connection, None, 0) };
                }
                // What a socket that takes nothing answers; the connection's state stays as it is.
                set_errno_again();
                -1
            }
            Permit::Part(allowed) => {
                let mut part = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_VECTORS];
                let count = cut(vectors, allowed, &mut part);
                // SAFETY: `part` holds `count` vectors, each the beginning of one that the server passed.
                let sent = unsafe { (original::<KIND>().writev)(connection, part.as_ptr(), count as c_int) };
                if let Ok(sent) = u64::try_from(sent) {
                    state.valve.sent(sent);
                }
                sent
            }
        }
    })
}

/// Takes everything, as a socket with endless room would.
fn divert(diversion: &Diversion, vectors: &[libc::iovec], pending: u64) -> c_int {
    let is_awaited = diversion.pipe.push(|bytes| {
        bytes.reserve(pending as usize);
        for vector in vectors {
            // SAFETY: the server passes readable buffers of that length.
            let buffer = unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) };
            bytes.extend_from_slice(buffer);
        }
    });
    if is_awaited {
        diversion.shared.agent_bell.ring();
    }
    c_int::try_from(pending).expect("the server writes less than 2 GB at once")
}

/// Fills `part` with the first `bytes` bytes of `vectors`, or fewer if it is too small. Returns how many it filled.
fn cut(vectors: &[libc::iovec], mut bytes: u64, part: &mut [libc::iovec]) -> usize {
    let mut count = 0;
    for (from, to) in vectors.iter().zip(part) {
        if bytes == 0 {
            break;
        }
        to.iov_base = from.iov_base;
        to.iov_len = from.iov_len.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        bytes -= to.iov_len as u64;
        count += 1;
    }
    count
}

fn set_errno_again() {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() = libc::EAGAIN };
}

/// The server asks, on the main thread, to be called when the socket takes more. While nothing may leave that would
/// be a busy loop, and needless: a release queues the client for writing.
unsafe extern "C" fn gated_set_write_handler<const KIND: usize>(
    connection: *mut Connection,
    handler: ConnectionHandler,
    barrier: c_int,
) -> c_int {
    // SAFETY: the server calls this for a live connection.
    let held = unsafe { gated(connection) };
    let may_send = |held: &HeldConnection| held.state().valve.may_send(RELEASED.load(Ordering::Acquire));
    let handler = match held {
        Some(held) if handler.is_some() => guard("waiting for a socket", None, || handler.filter(|_| may_send(held))),
        _ => handler,
    };
    // SAFETY: the server's own arguments to its own function; a handler that is null is as good as one.
    unsafe { (original::<KIND>().set_write_handler)(connection, handler, barrier) }
}

/// The server's connections. Main thread only.
pub struct ServerConnections {
    internals: &'static Internals,
    /// The types of connections that can be held.
    types: [*mut ConnectionType; 3],
    /// Where in a client its connection stands, in bytes; found once.
    connection_offset: Cell<Option<usize>>,
}

impl ServerConnections {
    /// The connections of the running server; [`install`] has been called.
    pub fn new(internals: &'static Internals) -> Self {
        ServerConnections { internals, types: internals.types(), connection_offset: Cell::new(None) }
    }

    /// The client's connection, if it has one that this module can hold.
    fn connection(&self, id: ClientId) -> Option<*mut Connection> {
        let client = self.internals.lookup_client(id);
        if client.is_null() {
            return None;
        }
        self.connection_of(client)
    }

    /// As [`ServerConnections::connection`], of a client that was just looked up.
    fn connection_of(&self, client: *mut Client) -> Option<*mut Connection> {
        let offset = match self.connection_offset.get() {
            Some(offset) => offset,
            None => {
                let offset = find_connection(&self.types, client)?;
                self.connection_offset.set(Some(offset));
                offset
            }
        };
        // SAFETY: the offset was found in a client of this server, so it is within the struct and holds the pointer to
        // the connection, or null; a client that is in the server's index has a live connection.
        unsafe {
            let connection = *client.byte_add(offset).cast::<*mut Connection>();
            let is_its = !connection.is_null()
                && (*connection).private_data == client
                && self.types.contains(&(*connection).kind);
            is_its.then_some(connection)
        }
    }

    fn held(&self, id: ClientId) -> Option<&HeldConnection> {
        // SAFETY: on the main thread; the reference ends before the client can disconnect.
        self.connection(id).and_then(|connection| unsafe { held(connection) })
    }

    /// As [`ServerConnections::held`], but makes the connection known. `None` if it cannot be held.
    fn held_or_new(&self, id: ClientId) -> Option<(*mut Connection, &HeldConnection)> {
        let connection = self.connection(id)?;
        // SAFETY: a live connection.
        let entry = entry_or_new(unsafe { (*connection).fd })?;
        if entry.load(Ordering::Acquire).is_null() {
            let new = HeldConnection { connection, is_closed: AtomicBool::new(false), state: Mutex::default() };
            entry.store(Box::into_raw(Box::new(new)), Ordering::Release);
        }
        // SAFETY: not null, and only the main thread removes it.
        let held = unsafe { &*entry.load(Ordering::Acquire) };
        assert!(ptr::eq(held.connection, connection), "a held connection was closed without notice");
        Some((connection, held))
    }

    /// From now on, what the server writes to that client takes `diversion`, until it disconnects. Returns whether that
    /// is possible.
    pub fn divert(&self, id: ClientId, diversion: Diversion) -> bool {
        let Some((_, held)) = self.held_or_new(id) else { return false };
        held.state().diversion = Some(diversion);
        held.is_closed.store(true, Ordering::Release);
        true
    }

    /// The client is about to be freed. Returns the newest group it was held for.
    pub fn disconnected(&self, id: ClientId) -> Option<Group> {
        let connection = self.connection(id)?;
        // SAFETY: a live connection, on the main thread.
        let entry = entry(unsafe { (*connection).fd })?;
        let held = entry.swap(ptr::null_mut(), Ordering::AcqRel);
        if held.is_null() {
            return None;
        }
        // SAFETY: the pointer came from `Box::into_raw` and was just taken out of the table. The server reports a
        // disconnection only when no I/O thread works for the client, so nobody else uses it.
        let held = unsafe { Box::from_raw(held) };
        debug_assert!(ptr::eq(held.connection, connection));
        let mark = held.state().valve.mark();
        Some(mark)
    }

    /// How many bytes the server last offered that wait on the client's connection.
    pub fn waiting_bytes(&self, id: ClientId) -> u64 {
        self.held(id).map_or(0, |held| held.state().valve.waiting_bytes())
    }

    fn close_by_id(&self, id: ClientId) {
        let client = self.internals.lookup_client(id);
        if !client.is_null() {
            // SAFETY: just looked up.
            unsafe { self.internals.close_client(client) };
        }
    }

    fn flush_by_id(&self, id: ClientId) {
        let client = self.internals.lookup_client(id);
        if !client.is_null() {
            // SAFETY: just looked up.
            unsafe { self.internals.flush_client(client) };
        }
    }
}

impl Connections for ServerConnections {
    fn hold(&mut self, client: ClientId, group: Group) -> Held {
        let Some((connection, held)) = self.held_or_new(client) else {
            // A real client whose connection cannot be held must not be answered.
            self.close_by_id(client);
            return Held::NoConnection;
        };
        let released = RELEASED.load(Ordering::Acquire);
        let mut state = held.state();
        let before = state.valve.mark();
        if !state.valve.hold(group) {
            return Held::Already;
        }
        held.is_closed.store(true, Ordering::Release);
        let may_send = state.valve.may_send(released);
        drop(state);
        // SAFETY: a live connection on the main thread, and the function of its own type.
        unsafe {
            if !may_send && (*connection).write_handler.is_some() {
                ((*(*connection).kind).set_write_handler)(connection, None, 0);
            }
        }
        if before > released {
            Held::Longer
        } else {
            Held::Now
        }
    }

    fn set_released(&mut self, group: Group) {
        RELEASED.store(group, Ordering::Release);
    }

    fn flush(&mut self, client: ClientId) {
        self.flush_by_id(client);
    }

    fn flush_released(&mut self, id: ClientId, group: Group) -> bool {
        let client = self.internals.lookup_client(id);
        if client.is_null() {
            return false;
        }
        // SAFETY: just looked up.
        unsafe { self.internals.flush_client(client) };
        // SAFETY: on the main thread; the reference ends before the client can disconnect.
        let held = self.connection_of(client).and_then(|connection| unsafe { held(connection) });
        held.is_some_and(|held| held.state().valve.mark() == group)
    }

    fn mark(&self, client: ClientId) -> Option<Group> {
        self.held(client).map(|held| held.state().valve.mark())
    }

    fn reset(&mut self, client: ClientId) {
        if let Some(held) = self.held(client) {
            let mut state = held.state();
            state.valve.reset();
            held.is_closed.store(false, Ordering::Release);
        }
    }

    fn close(&mut self, client: ClientId) {
        if let Some(held) = self.held(client) {
            held.state().valve.shut();
        }
        self.close_by_id(client);
    }
}

/// How far into a client the search for its connection goes, in bytes.
const SEARCH_BYTES: usize = 512;

/// Finds where a client keeps the pointer to its connection: the word that points to something whose type is one of the
/// server's and which points back to the client.
fn find_connection(types: &[*mut ConnectionType], client: *mut Client) -> Option<usize> {
    let word = std::mem::size_of::<usize>();
    (word..SEARCH_BYTES).step_by(word).find(|offset| {
        let Some(candidate) = read_foreign::<usize>(client.wrapping_byte_add(*offset).cast()) else { return false };
        if candidate == 0 || candidate % std::mem::align_of::<Connection>() != 0 {
            return false;
        }
        let candidate = ptr::with_exposed_provenance::<Connection>(candidate);
        let kind = candidate.wrapping_byte_add(std::mem::offset_of!(Connection, kind));
        let owner = candidate.wrapping_byte_add(std::mem::offset_of!(Connection, private_data));
        read_foreign::<usize>(kind.cast())
            .is_some_and(|kind| kind != 0 && types.iter().any(|known| known.expose_provenance() == kind))
            && read_foreign::<usize>(owner.cast()) == Some(client.expose_provenance())
    })
}

/// Reads a value from an address that may not be readable, by having the kernel look: a bad address fails the system
/// call instead of the process.
fn read_foreign<T: Copy + Default>(address: *const T) -> Option<T> {
    let (reader, writer) = rustix::pipe::pipe().ok()?;
    let mut value = T::default();
    let size = std::mem::size_of::<T>();
    // SAFETY: `write` only reads `size` bytes at `address`, and answers EFAULT where it cannot; `read` fills `value`,
    // a plain number of that size.
    unsafe {
        use std::os::fd::AsRawFd;
        let written = libc::write(writer.as_raw_fd(), address.cast(), size);
        (usize::try_from(written) == Ok(size)
            && libc::read(reader.as_raw_fd(), (&raw mut value).cast(), size) == written)
            .then_some(value)
    }
}
