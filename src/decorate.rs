//! The functions through which the server writes to its connections, decorated: every write of a TCP, unix-socket or TLS
//! connection passes here, on the main thread or on an I/O thread. `valve.rs` decides how much of it may leave.
//!
//! The server writes through a table of functions for each connection type. The module replaces entries of the
//! two tables that end in a socket (unix-socket connections go through the one of TCP). A connection that was never
//! held costs two loads and a branch for each write.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use crate::ffi::{Connection, ConnectionHandler, ConnectionType, Internals};
use crate::guard::guard;
use crate::held_table::{
    forget_all, gated, report_late_hold, Diversion, HeldConnection, LateHold, State, NEWEST, RELEASED,
    WITHHOLDS_NOTIFICATIONS,
};
use crate::valve::{Group, Permit};
use crate::{half_closed, lease, messages};

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
        (*table).shutdown = gated_shutdown::<KIND>;
        (*table).close = gated_close::<KIND>;
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
            (*originals.table).shutdown = originals.functions.shutdown;
            (*originals.table).close = originals.functions.close;
        }
    }
    forget_all();
}

/// Whether this is the thread that called [`install`].
pub fn is_main_thread() -> bool {
    // SAFETY: has no preconditions.
    MAIN_THREAD.load(Ordering::Relaxed) == unsafe { libc::pthread_self() } as usize
}

unsafe extern "C" fn gated_write<const KIND: usize>(
    connection: *mut Connection,
    data: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: the server calls this to write to a live connection.
    if !unsafe { lease::lets_write(connection) } {
        return write_nothing::<KIND>(connection);
    }
    // SAFETY: as above.
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
    if !unsafe { lease::lets_write(connection) } {
        return write_nothing::<KIND>(connection);
    }
    // SAFETY: as above.
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
        let released = RELEASED.load(Ordering::Acquire);
        let opens = state.diversion.is_none()
            && state.unsent.is_none()
            && !state.is_watched()
            && state.valve.mark() <= released
            && state.valve.offer(pending as u64, released) == Permit::Open;
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
        if let Some(unsent) = &mut state.unsent {
            return unsent.gather(vectors);
        }
        if state.is_receiver {
            hold_messages(held, &mut state, vectors);
        }
        if state.awaits_answer {
            hold_answer(held, &mut state, vectors, pending);
        }
        match state.valve.offer(pending, RELEASED.load(Ordering::Acquire)) {
            Permit::Open => {
                held.is_closed.store(state.is_watched(), Ordering::Release);
                drop(state);
                // SAFETY: the server's own arguments to its own function.
                unsafe { (original::<KIND>().writev)(connection, vectors.as_ptr(), vectors.len() as c_int) }
            }
            Permit::Part(0) => write_nothing::<KIND>(connection),
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

/// What a socket that takes nothing answers; the connection's state stays as it is.
fn write_nothing<const KIND: usize>(connection: *mut Connection) -> c_int {
    // SAFETY: a live connection; on the main thread nobody else changes its handlers.
    let waits_for_socket = is_main_thread() && unsafe { (*connection).write_handler.is_some() };
    if waits_for_socket {
        // The socket would be reported as writable again and again.
        // SAFETY: the server's own function, called on the main thread as the server does.
        unsafe { (original::<KIND>().set_write_handler)(connection, None, 0) };
    }
    set_errno_again();
    -1
}

/// Holds what is pending if a part of it that was not seen before is a message: keyspace notifications tell of writes, and any
/// message may.
fn hold_messages(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec]) {
    let (newest, released) = (NEWEST.load(Ordering::Acquire), RELEASED.load(Ordering::Acquire));
    let withholds = WITHHOLDS_NOTIFICATIONS.load(Ordering::Acquire) && state.valve.mark() != Group::MAX;
    if newest <= released.max(state.valve.mark()) && !withholds {
        return;
    }
    // SAFETY: the server passes readable buffers of that length, which live as long as this call.
    let buffers =
        vectors.iter().map(|vector| unsafe { std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len) });
    let seen = state.valve.waiting_bytes();
    let is_new = state.valve.mark() <= released;
    if withholds && messages::tell_of_keys(buffers.clone(), seen) {
        state.valve.shut();
        report_late_hold(LateHold { client: held.client, group: Group::MAX, is_new, is_answer: false });
    } else if newest > released.max(state.valve.mark()) && messages::contain_one(buffers, seen) {
        state.valve.hold(newest);
        report_late_hold(LateHold { client: held.client, group: newest, is_new, is_answer: false });
    }
}

/// Holds what is pending if a part of it was not seen before: a module answers, and what it tells of is not known.
fn hold_answer(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec], pending: u64) {
    let (newest, released) = (NEWEST.load(Ordering::Acquire), RELEASED.load(Ordering::Acquire));
    let seen = state.valve.waiting_bytes();
    if pending <= seen {
        return;
    }
    // An invalidation, which is no answer, may have been pushed while the client waits.
    state.saw_answer |= byte_at(vectors, seen) != Some(b'>');
    if newest > released.max(state.valve.mark()) {
        let is_new = state.valve.mark() <= released;
        state.valve.hold(newest);
        report_late_hold(LateHold { client: held.client, group: newest, is_new, is_answer: true });
    }
}

/// What stands at that position of the buffers together.
fn byte_at(vectors: &[libc::iovec], position: u64) -> Option<u8> {
    let mut position = usize::try_from(position).ok()?;
    for vector in vectors {
        if position < vector.iov_len {
            // SAFETY: the server passes readable buffers of that length.
            return Some(unsafe { *vector.iov_base.cast::<u8>().add(position) });
        }
        position -= vector.iov_len;
    }
    None
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

/// What a socket reports that cannot go on now.
pub fn set_errno_again() {
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
    let (held, lets_write) = unsafe { (gated(connection), lease::lets_write(connection)) };
    let may_send = |held: &HeldConnection| held.state().valve.may_send(RELEASED.load(Ordering::Acquire));
    let handler = match held {
        _ if !lets_write => None,
        Some(held) if handler.is_some() => guard("waiting for a socket", None, || handler.filter(|_| may_send(held))),
        _ => handler,
    };
    // SAFETY: the server's own arguments to its own function; a handler that is null is as good as one.
    unsafe { (original::<KIND>().set_write_handler)(connection, handler, barrier) }
}

/// The server frees a client, and ends its connection for child processes as well.
unsafe extern "C" fn gated_shutdown<const KIND: usize>(connection: *mut Connection) {
    if !half_closed::is_kept(connection) {
        // SAFETY: the server's own arguments to its own function.
        unsafe { (original::<KIND>().shutdown)(connection) }
    }
}

/// The server frees a client, and with it the connection.
unsafe extern "C" fn gated_close<const KIND: usize>(connection: *mut Connection) {
    if half_closed::is_kept(connection) {
        // SAFETY: the server has a live connection closed, and does not use it afterwards.
        guard("keeping a half-closed connection", (), || unsafe { half_closed::detach(connection) });
    } else {
        // SAFETY: the server's own arguments to its own function.
        unsafe { (original::<KIND>().close)(connection) }
    }
}
