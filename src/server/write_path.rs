//! The functions through which the server writes to its connections, decorated: every write of a TCP, unix-socket or TLS
//! connection passes here, on the main thread or on an I/O thread. `decide/valve.rs` decides how much of it may leave.
//!
//! The server writes through a table of functions for each connection type. The module replaces entries of the
//! two tables that end in a socket (unix-socket connections go through the one of TCP). A connection that was never
//! held costs two loads and a branch for each write.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use crate::base::panic_guard::guard;
use crate::decide::taken_replies::{append, is_due, shows_uncopied, total, worth_taking, SHOWN_BYTES};
use crate::decide::valve::{Group, Permit};
use crate::exchange::lease_clock;
use crate::server::held_table::{forget_all, gated, Diversion, HeldConnection, State, RELEASED};
use crate::server::internals::{Connection, ConnectionHandler, ConnectionType, Internals, TlsConnection};
use crate::server::late_holds::{buffers, hold_answer, hold_messages, remember_end};
use crate::server::{half_closed, handed_over};
use crate::settings;

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
    let [tcp, tls, unix] = internals.types();
    install_one::<TCP>(tcp);
    install_one::<TLS>(tls);
    if !unix.is_null() {
        // Its other functions are those of TCP.
        // SAFETY: as in `install_one`.
        unsafe { (*unix).postpone_update_state = Some(noted_postpone::<TCP>) };
    }
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
        (*table).postpone_update_state = Some(noted_postpone::<KIND>);
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
            // Where there was none, the new one stays, as an I/O thread may be about to call it. It does no harm.
            if originals.functions.postpone_update_state.is_some() {
                (*originals.table).postpone_update_state = originals.functions.postpone_update_state;
            }
        }
    }
    handed_over::forget_all();
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
    if !unsafe { lease_clock::lets_write(connection) } {
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
    if !unsafe { lease_clock::lets_write(connection) } {
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
    unsafe { handed_over::answered(connection, vectors, answer) };
    answer
}

/// Whether nothing is held any more; then the connection writes as ever, with the cheaper of the two calls.
fn opens(held: &HeldConnection, pending: usize) -> bool {
    guard("opening a held connection", false, || {
        let mut state = held.state();
        let released = RELEASED.load(Ordering::Acquire);
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
            return divert(diversion, vectors, MOST_DIVERTED_BYTES);
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
        match state.valve.offer(pending, RELEASED.load(Ordering::Acquire)) {
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
    let would_close = || total() + bytes as u64 > settings::MAX_HELD_BYTES.load(Ordering::Relaxed).unsigned_abs();
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

/// The server is to try again when the socket takes more, or as it is asked to.
pub fn write_again_later() -> c_int {
    set_errno_again();
    -1
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
    write_again_later()
}

/// The server counts what it wrote in one turn as an `int`, and writes on in that turn as long as something is taken.
const MOST_DIVERTED_BYTES: usize = 1 << 30;

/// Takes everything, but not more than `most` bytes in one of the server's turns, as a socket with endless room would.
fn divert(diversion: &mut Diversion, vectors: &[libc::iovec], most: usize) -> c_int {
    let offered = vectors.iter().map(|vector| vector.iov_len).sum();
    let Some(bytes) = diversion.turn.take(offered, most) else { return write_again_later() };
    if diversion.pipe.push(|pipe| append(pipe, buffers(vectors), bytes)) {
        diversion.shared.agent_bell.ring();
    }
    c_int::try_from(bytes).expect("no more is taken at a time than fits")
}

/// Fills `part` with the first `bytes` bytes of `vectors`, or fewer if it is too small. Returns how many it filled.
fn cut(vectors: &[libc::iovec], mut bytes: u64, part: &mut [MaybeUninit<libc::iovec>]) -> usize {
    let mut count = 0;
    for (from, to) in vectors.iter().zip(part) {
        if bytes == 0 {
            break;
        }
        let iov_len = from.iov_len.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        to.write(libc::iovec { iov_base: from.iov_base, iov_len });
        bytes -= iov_len as u64;
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
    let (held, lets_write) = unsafe { (gated(connection), lease_clock::lets_write(connection)) };
    let may_write = |held: &HeldConnection| held.state().may_write(RELEASED.load(Ordering::Acquire));
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
        unsafe {
            handed_over::closed(connection);
            (original::<KIND>().close)(connection);
        }
    }
}

/// The server says what is to wait for I/O threads.
unsafe extern "C" fn noted_postpone<const KIND: usize>(connection: *mut Connection, mask: c_int) {
    // SAFETY: the server calls this for a live connection.
    unsafe { handed_over::postponed(connection, mask) };
    if let Some(postpone) = original::<KIND>().postpone_update_state {
        // SAFETY: the server's own arguments to its own function.
        unsafe { postpone(connection, mask) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::taken_replies::set_log_is_slow;
    use crate::server::held_table::Turn;

    const VALUE: usize = 5 << 20;

    /// What is taken of these buffers at each of the first two offers, while 3 MB may be held.
    fn taken_of(offer: &[&[u8]]) -> [Option<c_int>; 2] {
        settings::MAX_HELD_BYTES.store(3 << 20, Ordering::Relaxed);
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
    fn what_is_diverted_is_taken_in_turns_that_are_bounded_and_all_of_it_in_order() {
        let all: Vec<u8> = (0..200).collect();
        for most in [1, 2, 7, 99, 100, 199, 200, 201] {
            let (mut turn, mut pipe) = (Turn::default(), Vec::new());
            while pipe.len() < all.len() {
                let begun = pipe.len();
                // One turn of the server: it offers the blocks of its stream, and what was not taken again until nothing is.
                while pipe.len() < all.len() {
                    let rest = &all[pipe.len()..];
                    let (first, second) = rest.split_at(rest.len() / 3);
                    let vectors = [first, &[], second]
                        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
                    let Some(bytes) = turn.take(rest.len(), most) else { break };
                    append(&mut pipe, buffers(&vectors), bytes);
                }
                let taken = pipe.len() - begun;
                assert!((1..=most).contains(&taken), "{taken} bytes in a turn of at most {most}");
            }
            assert_eq!(pipe, all, "{most} at a time");
        }
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
