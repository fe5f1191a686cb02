//! The functions through which the server writes to its connections: every write of a TCP, unix-socket or TLS connection passes here, on
//! the main thread or on an I/O thread. The lease decides whether anything may leave, and `decide/valve.rs` how much.
//!
//! The functions stand in the server's tables in place of its own (`server/connection_functions.rs`). A connection that was never held costs two
//! loads and a branch for each write.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use crate::base::panic_guard::guard;
use crate::decide::taken_replies::{is_due, shows_uncopied, total, worth_taking, SHOWN_BYTES};
use crate::decide::valve::{Group, Permit};
use crate::exchange::lease_clock;
use crate::server::cluster::bus_links::{belongs_to_bus, client_of};
use crate::server::cluster::bus_messages;
use crate::server::connection_functions::{self, original, WriteFunctions, TCP, TLS};
use crate::server::groups::GROUPS;
use crate::server::half_closed::{self, closing};
use crate::server::held_table::{gated, held, HeldConnection, State};
use crate::server::internals::Internals;
use crate::server::late_holds::{hold_answer, hold_messages, remember_end};
use crate::server::structs::{Connection, ConnectionHandler, TlsConnection};
use crate::server::vectors::{buffers, cut, write_again_later};
use crate::server::{handed_over, main_thread};
use crate::settings;

/// Has the server write through this file. Main thread, with I/O threads idle or not: each function passes writes through until something is
/// held.
pub fn install(internals: &Internals) {
    main_thread::note();
    connection_functions::save(internals);
    connection_functions::put_write_functions::<TCP>(&functions::<TCP>());
    connection_functions::put_write_functions::<TLS>(&functions::<TLS>());
    connection_functions::put_unix_postpone_function(internals, noted_postpone::<TCP>);
}

/// Has the server write by itself again. Main thread, when no reply is held and none will be.
pub fn uninstall() {
    connection_functions::restore_write_functions();
}

fn functions<const KIND: usize>() -> WriteFunctions {
    WriteFunctions {
        write: gated_write::<KIND>,
        writev: gated_writev::<KIND>,
        set_write_handler: gated_set_write_handler::<KIND>,
        shutdown: gated_shutdown::<KIND>,
        close: gated_close::<KIND>,
        postpone_update_state: noted_postpone::<KIND>,
    }
}

/// Whether anything may be written to the connection now: for as long as the node's lease lasts, and to clients that came after it. If not,
/// the main thread is woken to close the clients.
///
/// # Safety
/// The server is about to write to the connection, so it is live.
#[inline]
unsafe fn lets_write(connection: *const Connection) -> bool {
    // SAFETY: by contract of this function.
    !lease_clock::has_passed() || unsafe { lets_write_beyond(connection) }
}

/// As [`lets_write`], once the lease has passed.
///
/// # Safety
/// As [`lets_write`].
#[cold]
unsafe fn lets_write_beyond(connection: *const Connection) -> bool {
    // SAFETY: a live connection. If nothing is known of what it belongs to yet, there is no client.
    let client = unsafe { client_of(connection) };
    client.is_none_or(|client| lease_clock::lets_answer_beyond(client.id))
}

unsafe extern "C" fn gated_write<const KIND: usize>(
    connection: *mut Connection,
    data: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: the server calls this to write that to a live connection.
    unsafe {
        if belongs_to_bus(connection) {
            return bus_messages::write::<KIND>(connection, data, length);
        }
        if !lets_write(connection) {
            return write_nothing::<KIND>(connection);
        }
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
    if !unsafe { lets_write(connection) } {
        return write_nothing::<KIND>(connection);
    }
    let vectors = match usize::try_from(count) {
        // SAFETY: the server passes `count` vectors.
        Ok(count) if count > 0 => unsafe { std::slice::from_raw_parts(vectors, count) },
        _ => &[],
    };
    // SAFETY: as above.
    let answer = match unsafe { gated(connection) } {
        Some(held) => write_held::<KIND>(held, connection, vectors),
        None => {
            // SAFETY: the server's own arguments to its own function.
            unsafe { (original::<KIND>().writev)(connection, vectors.as_ptr(), count) }
        }
    };
    // SAFETY: as above.
    unsafe { note_answer(connection, vectors, answer) };
    answer
}

/// The thread that writes these vectors is told `answer`: how many of their bytes are written, or that none are.
///
/// # Safety
/// As [`held`].
#[inline]
unsafe fn note_answer(connection: *const Connection, vectors: &[libc::iovec], answer: c_int) {
    if handed_over::is_used() && answer > 0 && !main_thread::is_it() {
        // SAFETY: by contract.
        if let Some(held) = unsafe { held(connection) } {
            held.told.told(vectors, answer.unsigned_abs() as usize);
        }
    }
}

/// Whether nothing is held any more; then the server writes as it did before, with the cheaper of the two calls.
fn opens(held: &HeldConnection, pending: usize) -> bool {
    guard("opening a held connection", false, || {
        let mut state = held.state();
        let released = GROUPS.released();
        let opens = state.diversion.is_none()
            && state.unsent.is_none()
            && !state.is_watched()
            && state.taken.is_empty()
            && state.valve.mark() <= released
            && state.valve.offer(pending as u64, released) == Permit::Open;
        if opens {
            held.is_closed.store(false, Ordering::Release);
        }
        opens
    })
}

/// At most this many vectors go out in one call, as many as the server passes: OpenSSL wants what it could not send offered again in
/// one piece, and that may be of all of them. The server calls again for the rest.
const MAX_VECTORS: usize = 1024;

fn write_held<const KIND: usize>(held: &HeldConnection, connection: *mut Connection, vectors: &[libc::iovec]) -> c_int {
    if vectors.is_empty() {
        // A client that is being freed: the server has nothing left. By TLS, to write nothing may be an error.
        return write_again_later();
    }
    guard("writing to a held connection", -1, || {
        let pending: u64 = vectors.iter().map(|vector| vector.iov_len as u64).sum();
        let mut state = held.state();
        if let Some(diversion) = &mut state.diversion {
            return diversion.take(vectors);
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
        let is_first = state.valve.seen_bytes() == 0;
        let had_wanted = state.wanted_offers;
        state.wanted_offers = had_wanted.saturating_sub(1);
        match state.valve.offer(pending, GROUPS.released()) {
            Permit::Open => {
                held.is_closed.store(state.is_watched(), Ordering::Release);
                let is_receiver = state.is_receiver;
                let state = is_receiver.then_some(state);
                // SAFETY: the server's own arguments to its own function.
                let sent = unsafe { (original::<KIND>().writev)(connection, vectors.as_ptr(), vectors.len() as c_int) };
                if let Some(mut state) = state {
                    remember_end(&mut state, vectors, usize::try_from(sent).unwrap_or(0));
                }
                sent
            }
            Permit::Part(0) => match take::<KIND>(&mut state, connection, vectors, is_first) {
                Some(taken) => taken,
                None if had_wanted > 1 => write_again_later(),
                None => write_nothing::<KIND>(connection),
            },
            Permit::Part(allowed) => send::<KIND>(&mut state, connection, vectors, allowed),
        }
    })
}

/// Sends at most `allowed` bytes of what was taken before and of what the server offers behind it. Answers the server as its socket
/// does for what it offers.
fn send<const KIND: usize>(
    state: &mut State,
    connection: *mut Connection,
    vectors: &[libc::iovec],
    allowed: u64,
) -> c_int {
    let mut part = [const { MaybeUninit::uninit() }; MAX_VECTORS];
    let (mut count, mut own) = (0, 0);
    for (bytes, to) in state.taken.first(usize::try_from(allowed).unwrap_or(usize::MAX)).zip(&mut part) {
        to.write(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        own += bytes.len();
        count += 1;
    }
    if own == state.taken.bytes() {
        count += cut(vectors, allowed - own as u64, &mut part[count..]);
    }
    // SAFETY: the first `count` are written. Each is a part of what was taken, which stays as long as `state` is locked, or of one
    // that the server passed.
    let sent = unsafe { (original::<KIND>().writev)(connection, part.as_ptr().cast(), count as c_int) };
    let Some(sent) = usize::try_from(sent).ok().filter(|sent| *sent > 0) else { return sent };
    state.taken.sent(own.min(sent));
    state.valve.sent(sent as u64);
    let offered = sent - own.min(sent);
    if offered == 0 {
        return write_again_later();
    }
    remember_end(state, vectors, offered);
    c_int::try_from(offered).expect("not more was sent than the server's function told")
}

/// Takes what the server keeps in memory and may not be sent, but never all. `None` if that is not worth it. `is_first`: nothing of
/// it was offered before.
fn take<const KIND: usize>(
    state: &mut State,
    connection: *const Connection,
    vectors: &[libc::iovec],
    is_first: bool,
) -> Option<c_int> {
    let is_shut = state.valve.mark() == Group::MAX;
    // OpenSSL wants what it could not send offered again in one piece.
    // SAFETY: the server writes to it, and the functions of this kind are in the table of TLS connections only.
    let is_unfinished = KIND == TLS && unsafe { TlsConnection::unfinished_bytes(connection) } > 0;
    if is_shut || is_unfinished {
        return None;
    }
    let mut last = buffers(vectors).rev();
    let (end, beginning) = (last.next(), last.nth(1));
    let is_reference = end.zip(beginning).is_some_and(|(end, beginning)| is_reference(beginning, end));
    let lengths = vectors.iter().map(|vector| vector.iov_len);
    let bytes = worth_taking(lengths.clone(), is_reference)?;
    let is_uncopied = is_reference || shows_uncopied(lengths);
    let would_close = || total() + bytes as u64 > settings::MAX_HELD_BYTES.value();
    if is_uncopied && (is_first || would_close()) {
        // It costs the server next to nothing; there may be something behind it that does.
        return None;
    }
    if !is_due() {
        return None;
    }
    let taken = state.taken.take(buffers(vectors), bytes);
    state.valve.took(taken as u64);
    if bytes >= SHOWN_BYTES {
        // The rest of this offer may come first, and then what the server did not show.
        state.wanted_offers = 2;
    }
    remember_end(state, vectors, taken);
    Some(c_int::try_from(taken).expect("less than 2 GB is taken at once"))
}

/// Whether these are the beginning and the end of a value that the server does not copy: it writes those in three parts.
fn is_reference(beginning: &[u8], end: &[u8]) -> bool {
    end == b"\r\n" && beginning.starts_with(b"$") && beginning.ends_with(b"\r\n")
}

/// What a socket that takes nothing answers; the connection's state stays as it is.
fn write_nothing<const KIND: usize>(connection: *mut Connection) -> c_int {
    // SAFETY: a live connection; on the main thread nobody else changes its handlers.
    let waits_for_socket = main_thread::is_it() && unsafe { (*connection).write_handler.is_some() };
    if waits_for_socket {
        // The socket would be reported as writable again and again.
        // SAFETY: the server's own function, called on the main thread as the server does.
        unsafe { (original::<KIND>().set_write_handler)(connection, None, 0) };
    }
    write_again_later()
}

/// The server asks, on the main thread, to be called when the socket takes more. While nothing may leave that would
/// be a busy loop, and needless: a release queues the client for writing.
unsafe extern "C" fn gated_set_write_handler<const KIND: usize>(
    connection: *mut Connection,
    handler: ConnectionHandler,
    barrier: c_int,
) -> c_int {
    // SAFETY: the server calls this for a live connection.
    let (held, lets_write) = unsafe {
        if belongs_to_bus(connection) {
            return bus_messages::set_write_handler::<KIND>(connection, handler, barrier);
        }
        (gated(connection), lets_write(connection))
    };
    let may_write = |held: &HeldConnection| held.state().may_write(GROUPS.released());
    let handler = match held {
        _ if !lets_write => None,
        Some(held) if handler.is_some() => guard("waiting for a socket", None, || handler.filter(|_| may_write(held))),
        _ => handler,
    };
    // SAFETY: the server's own arguments to its own function; a handler that is null is as good as one.
    unsafe { (original::<KIND>().set_write_handler)(connection, handler, barrier) }
}

/// The server frees a client, and ends its connection for child processes as well.
unsafe extern "C" fn gated_shutdown<const KIND: usize>(connection: *mut Connection) {
    if !closing::is_kept(connection) {
        // SAFETY: the server's own arguments to its own function.
        unsafe { (original::<KIND>().shutdown)(connection) }
    }
}

/// The server frees a client, and with it the connection.
unsafe extern "C" fn gated_close<const KIND: usize>(connection: *mut Connection) {
    if closing::is_kept(connection) {
        // SAFETY: the server has a live connection closed, and does not use it afterwards.
        guard("keeping a half-closed connection", (), || unsafe { half_closed::detach(connection) });
    } else {
        // SAFETY: the server's own arguments to its own function.
        unsafe {
            handed_over::closed(connection);
            bus_messages::closed(connection);
            (original::<KIND>().close)(connection);
        }
    }
}

/// The server says what is to wait for I/O threads.
unsafe extern "C" fn noted_postpone<const KIND: usize>(connection: *mut Connection, mask: c_int) {
    // SAFETY: the server calls this for a live connection. On the main thread, which alone asks for the entry, that entry stays meanwhile.
    unsafe { handed_over::postponed(connection, mask, || held(connection).map(|held| &held.told)) };
    if let Some(postpone) = original::<KIND>().postpone_update_state {
        // SAFETY: the server's own arguments to its own function.
        unsafe { postpone(connection, mask) }
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::decide::taken_replies::set_log_is_slow;

    const VALUE: usize = 5 << 20;

    /// What is taken of these buffers at each of the first two offers, while 3 MB may be held.
    fn taken_of(offer: &[&[u8]]) -> [Option<c_int>; 2] {
        settings::MAX_HELD_BYTES.set(3 << 20);
        set_log_is_slow(true);
        let vectors: Vec<libc::iovec> = offer
            .iter()
            .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
            .collect();
        let mut state = State::default();
        state.valve.hold(1);
        [(); 2].map(|()| {
            let is_first = state.valve.seen_bytes() == 0;
            assert_eq!(state.valve.offer(offer.concat().len() as u64, 0), Permit::Part(0));
            take::<TCP>(&mut state, ptr::null(), &vectors, is_first)
        })
    }

    #[test]
    fn a_connection_without_a_client_may_be_written_to_whatever_became_of_the_lease() {
        // SAFETY: all zeros are a connection without anything.
        let connection: Connection = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: it lives through the call.
        assert!(unsafe { lets_write_beyond(&raw const connection) });
    }

    #[test]
    fn values_that_the_server_does_not_copy_are_left_to_it_wherever_they_are() {
        let value = vec![b'v'; VALUE];
        let prefix = format!("${VALUE}\r\n").into_bytes();
        let reference: [&[u8]; 3] = [&prefix, &value, b"\r\n"];
        assert_eq!(taken_of(&reference), [None; 2]);
        assert_eq!(taken_of(&[&reference[..], &[b"+PONG\r\n"]].concat()), [None; 2], "a small reply behind it");
        assert_eq!(taken_of(&reference[1..]), [None; 2], "its beginning was sent");
        let small = vec![b'v'; 20_000];
        let many: [&[u8]; 3] = [b"$20000\r\n", &small, b"\r\n"];
        let all: Vec<&[u8]> = many.into_iter().cycle().take(1024).collect();
        assert_eq!(taken_of(&all), [None; 2], "as many buffers as the server shows");
        assert_eq!(taken_of(&[&value[..]])[0], Some(VALUE as c_int - 1), "a buffer of the server's own");
    }
}
