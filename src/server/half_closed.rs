//! Clients that have ended their sending (a *half-close*, `nc -N`) while replies to them are held. The server frees a client as
//! soon as it reads that end, as ever. By then it has long written all replies, unless they are held; so their bytes and the socket
//! are kept here, without a client, until the log has what they wait for.
//!
//! From outside, such a client is gone: it subscribes to nothing, blocks nowhere and does not count as connected. A client that
//! has closed its whole connection looks the same until something is written to it, so what is kept is bounded, see [`HalfClosed`].

use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::base::panic_guard::guard;
use crate::decide::valve::{Group, Permit, Valve};
use crate::exchange::lease_clock;
use crate::node;
use crate::server::handed_over::Next;
use crate::server::held_table::{HeldConnection, NEWEST, RELEASED, WITHHOLDS_NOTIFICATIONS};
use crate::server::internals::{Client, Connection, Internals, CLIENT_IS_CHECKED, CLOSED, CONNECTED};
use crate::server::late_holds::buffers;
use crate::server::write_path::write_again_later;
use crate::settings;

/// The longest that a connection is kept, unless `durability.sync-timeout-ms` is shorter.
const LONGEST: Duration = Duration::from_secs(10);
/// Of `maxclients`, one in so many connections may be kept.
const SHARE_OF_CLIENTS: usize = 10;
/// As many until the server was asked for `maxclients`: that share of its default.
const FIRST_SHARE: usize = 1000;
/// The most bytes that are kept, of all connections together; no more are copied in one round of the event loop either.
const MOST_BYTES: usize = 64 << 20;
/// The most bytes that are kept of one connection.
const MOST_BYTES_OF_ONE: usize = 32 << 20;
/// Connections that were reset meanwhile are looked for this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The addresses of the connections that are kept and that the server is about to close. There is more than one where another module
/// has a client killed while the server frees one.
static ATTACHED: Mutex<Vec<usize>> = Mutex::new(Vec::new());
static HAS_ATTACHED: AtomicBool = AtomicBool::new(false);

fn attached() -> MutexGuard<'static, Vec<usize>> {
    ATTACHED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The server will not close the connection, or is not to find it kept. Returns whether it was about to.
fn take_attached(connection: *const Connection) -> bool {
    if !HAS_ATTACHED.load(Ordering::Relaxed) {
        return false;
    }
    let mut attached = attached();
    let found = attached.iter().position(|address| *address == connection.addr());
    if let Some(at) = found {
        attached.swap_remove(at);
    }
    HAS_ATTACHED.store(!attached.is_empty(), Ordering::Relaxed);
    found.is_some()
}

/// How long a connection is kept.
fn longest() -> Duration {
    match settings::SYNC_TIMEOUT_MS.load(Ordering::Relaxed).unsigned_abs() {
        0 => LONGEST,
        timeout_ms => LONGEST.min(Duration::from_millis(timeout_ms)),
    }
}

/// Whether the connection, which the server has closed, is kept.
#[inline]
pub fn is_kept(connection: *const Connection) -> bool {
    HAS_ATTACHED.load(Ordering::Relaxed) && attached().contains(&connection.addr())
}

/// The server lets go of a connection that is kept, and will not be called for it any more. Main thread.
///
/// # Safety
/// [`is_kept`] says so, and the server does not use the connection after this.
pub unsafe fn detach(connection: *mut Connection) {
    take_attached(connection);
    // SAFETY: a live connection on the main thread, and the functions of its own type. Its client is about to be freed.
    unsafe {
        (*connection).private_data = ptr::null_mut();
        (*connection).flags &= !CLIENT_IS_CHECKED;
        // The server is in the middle of taking in what an I/O thread has read. Else the event loop would go on to report the end.
        if let Some(postpone) = (*(*connection).kind).postpone_update_state {
            postpone(connection, 0);
        }
        ((*(*connection).kind).set_read_handler)(connection, None);
        ((*(*connection).kind).set_write_handler)(connection, None, 0);
    }
}

/// What the server writes to a client that is half closed.
pub struct Gathered {
    bytes: Vec<u8>,
    /// How many may be kept.
    most: usize,
    /// The byte after them, once it is offered alone: it is the last. It stays with the server, which would close the client anew once it
    /// has nothing left to write.
    last: Option<u8>,
    is_too_much: bool,
    /// The address in the server's memory before which all is written already, until it is offered.
    begin: Option<usize>,
    /// How many bytes stood before that.
    written: Option<usize>,
}

impl Gathered {
    /// Begins with `bytes`; more than `most` are not kept. Of what the server offers, what comes before the address `begin` is written.
    fn new(bytes: Vec<u8>, most: usize, begin: Option<usize>) -> Self {
        Gathered { bytes, most, last: None, is_too_much: false, begin, written: None }
    }

    /// Takes what the server offers, all but its last byte, as a socket with endless room would.
    pub fn gather(&mut self, vectors: &[libc::iovec]) -> c_int {
        let offered: usize = vectors.iter().map(|vector| vector.iov_len).sum();
        self.is_too_much |= self.bytes.len() + offered > self.most;
        if offered == 0 || self.is_too_much {
            return write_again_later();
        }
        for buffer in buffers(vectors) {
            let place = self.begin.and_then(|begin| begin.checked_sub(buffer.as_ptr().addr()));
            if let Some(place) = place.filter(|place| *place < buffer.len()) {
                (self.begin, self.written) = (None, Some(self.bytes.len() + place));
            }
            self.bytes.extend_from_slice(buffer);
        }
        let last = self.bytes.pop();
        self.last = last.filter(|_| offered == 1);
        if offered == 1 {
            return write_again_later();
        }
        c_int::try_from(offered - 1).expect("more than is kept")
    }

    /// All of it that is not written, behind the first `taken` bytes, with which it began. `None` if it is more than may be kept, or not
    /// all of it was offered: the lease has passed meanwhile.
    fn complete(mut self, taken: usize) -> Option<Vec<u8>> {
        self.bytes.push(self.last?);
        if self.begin.is_some() || self.is_too_much {
            return None;
        }
        if let Some(written) = self.written {
            self.bytes.drain(taken..written);
        }
        Some(self.bytes)
    }
}

/// A connection without a client, and what is still to be written to it.
struct Unsent {
    connection: *mut Connection,
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    sent: usize,
    /// Which of them may leave.
    valve: Valve,
    since: Instant,
}

/// What became of an attempt to write.
#[derive(PartialEq, Eq)]
enum Progress {
    Waits,
    /// All is written, or nothing can be any more.
    Ended,
}

/// The connections of clients that are half closed, oldest first. Main thread only.
///
/// They are bounded, and the oldest are closed beyond that: in time ([`LONGEST`], or `durability.sync-timeout-ms`, from the half-close
/// on), in number (a share of `maxclients`, and as many as leave the server room for new clients), in bytes. One that has too many bytes
/// by itself is not kept, nor one for which too many would be copied in one round of the event loop: a round may last.
#[derive(Default)]
pub struct HalfClosed {
    kept: VecDeque<Unsent>,
    /// Of all together.
    bytes: usize,
    /// How many were copied in this round of the event loop.
    copied: usize,
    /// One was kept since the server was last asked for its `maxclients`.
    has_new: bool,
    /// The server's `maxclients` then; 0 before that.
    max_clients: usize,
    /// What was released when they were last written to.
    released: Group,
    next_look: Option<Instant>,
}

impl HalfClosed {
    /// Whether there are none, and there was none in this round of the event loop.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.copied == 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// The server is freeing the client. Keeps its connection if it is half closed and replies are held on it. Returns whether it does:
    /// then it is to go round its event loop soon.
    ///
    /// # Safety
    /// Called from the event of the client's disconnection, on the main thread. `connection` is the client's, and `held` its entry.
    pub unsafe fn keep(
        &mut self,
        internals: &Internals,
        client: *mut Client,
        connection: *mut Connection,
        held: &HeldConnection,
    ) -> bool {
        // SAFETY: a live connection.
        let (state, fd) = unsafe { ((*connection).state, (*connection).fd) };
        if state != CLOSED || !may_be_kept(held) || are_gone([fd]) == [true] {
            return false;
        }
        // SAFETY: the client lives, and the event comes only when no I/O thread works for it.
        if !unsafe { internals.has_pending_replies(client) } {
            return false;
        }
        let begin = match held.told.next(fd) {
            Next::First => None,
            Next::At(address) => Some(address),
            Next::Unknown => return false,
        };
        let most = MOST_BYTES_OF_ONE.min(MOST_BYTES - self.copied);
        let taken = {
            let mut state = held.state();
            if state.taken.bytes() > most {
                return false;
            }
            let bytes = state.taken.take_out();
            let taken = bytes.len();
            state.valve.untake();
            state.unsent = Some(Gathered::new(bytes, most, begin));
            taken
        };
        // It may have opened already: an I/O thread has read the end, and by TLS what is released then is not written any more.
        held.is_closed.store(true, Ordering::Release);
        // SAFETY: as above. While the connection counts as connected, the server neither takes what is gathered for an error nor, as one
        // byte stays with it, closes the client that it is closing.
        unsafe {
            (*connection).state = CONNECTED;
            let gathered = || held.state().unsent.as_ref().map_or(0, |unsent| unsent.bytes.len());
            let mut before = usize::MAX;
            while before != gathered() {
                before = gathered();
                internals.write_to_client(client);
            }
            (*connection).state = CLOSED;
        }
        let mut state = held.state();
        let Some(unsent) = state.unsent.take() else { return false };
        self.copied += unsent.bytes.len();
        let Some(bytes) = unsent.complete(taken).filter(|bytes| !bytes.is_empty()) else { return false };
        // SAFETY: as above. TLS writes only to what is connected.
        unsafe { (*connection).state = CONNECTED };
        self.bytes += bytes.len();
        let mut valve = std::mem::take(&mut state.valve);
        state.valve.hold(valve.mark());
        if state.is_watched() {
            // A message or a late answer among them that was not offered before has not been looked at.
            valve.hold(NEWEST.load(Ordering::Acquire));
        }
        self.has_new = true;
        self.kept.push_back(Unsent { connection, bytes, sent: 0, valve, since: Instant::now() });
        attached().push(connection.addr());
        HAS_ATTACHED.store(true, Ordering::Relaxed);
        // What was released before they came has not been offered to them.
        self.released = 0;
        // The round may last, and there is room for this one by itself.
        self.end_oldest_beyond_bounds();
        true
    }

    /// All of them together.
    fn end_oldest_beyond_bounds(&mut self) {
        let most = if self.max_clients > 0 { (self.max_clients / SHARE_OF_CLIENTS).max(1) } else { FIRST_SHARE };
        while self.kept.len() > most || self.bytes > MOST_BYTES {
            self.end_oldest();
        }
    }

    /// Writes what may leave, and closes what has ended or is beyond the bounds. `max_clients`: the server's `maxclients`, asked for
    /// if one was kept since.
    pub fn go_on(&mut self, max_clients: impl FnOnce() -> usize) {
        self.copied = 0;
        if self.kept.is_empty() {
            return;
        }
        let released = RELEASED.load(Ordering::Acquire);
        if self.released != released {
            self.released = released;
            // For the others the socket decides.
            self.write(|unsent| !unsent.waits_for_socket());
        }
        let now = Instant::now();
        if self.next_look.is_none_or(|next| now >= next) {
            self.next_look = Some(now + LOOK_INTERVAL);
            // SAFETY: a connection that is kept lives.
            let gone = are_gone(self.kept.iter().map(|unsent| unsafe { (*unsent.connection).fd }));
            let mut gone = gone.into_iter();
            self.end_where(|unsent| {
                let is_gone = gone.next() == Some(true);
                is_gone || now.saturating_duration_since(unsent.since) >= longest()
            });
        }
        if std::mem::take(&mut self.has_new) {
            self.max_clients = max_clients();
        }
        self.end_oldest_beyond_bounds();
    }

    /// A client has connected, on that socket number. The lowest free one is taken, so a high one tells that few are left.
    pub fn make_room(&mut self, fd: c_int) {
        // The server lets itself have 32 more than `maxclients`. Two for one, so that there is room again.
        if self.max_clients > 0 && fd as usize >= self.max_clients {
            self.end_oldest();
            self.end_oldest();
        }
    }

    /// Closes all without another byte.
    pub fn end_all(&mut self) {
        self.end_where(|_| true);
    }

    /// The socket takes more.
    fn is_writable(&mut self, connection: *mut Connection) {
        self.write(|unsent| ptr::eq(unsent.connection, connection));
    }

    fn write(&mut self, mut which: impl FnMut(&Unsent) -> bool) {
        let mut ended = Vec::new();
        for unsent in &mut self.kept {
            if which(unsent) && unsent.write() == Progress::Ended {
                ended.push(unsent.connection);
            }
        }
        if !ended.is_empty() {
            self.end_where(|unsent| ended.contains(&unsent.connection));
        }
    }

    /// Asks of each once, in their order.
    fn end_where(&mut self, mut has_ended: impl FnMut(&Unsent) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|unsent| {
            let ends = has_ended(unsent);
            if ends {
                *bytes -= unsent.bytes.len();
                unsent.end();
            }
            !ends
        });
    }

    fn end_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= oldest.bytes.len();
            oldest.end();
        }
    }
}

impl Unsent {
    /// Writes what may leave and the socket takes.
    fn write(&mut self) -> Progress {
        while self.sent < self.bytes.len() {
            let left = (self.bytes.len() - self.sent) as u64;
            let permit = self.valve.offer(left, RELEASED.load(Ordering::Acquire));
            let (is_part, allowed) = match permit {
                Permit::Open => (false, left),
                Permit::Part(allowed) => (true, allowed),
            };
            if allowed == 0 {
                self.wait_for_socket(false);
                return Progress::Waits;
            }
            if lease_clock::has_passed() {
                return Progress::Ended;
            }
            let data = self.bytes[self.sent..].as_ptr();
            // SAFETY: a connection that is kept lives, the function is of its own type, and `allowed` is at most what is left.
            let written = unsafe { ((*(*self.connection).kind).write)(self.connection, data.cast(), allowed as usize) };
            // SAFETY: as above.
            let is_connected = unsafe { (*self.connection).state == CONNECTED };
            match u64::try_from(written) {
                Ok(written) if written > 0 => {
                    self.sent += written as usize;
                    if is_part {
                        self.valve.sent(written);
                    }
                }
                _ if is_connected => {
                    self.wait_for_socket(true);
                    return Progress::Waits;
                }
                _ => return Progress::Ended,
            }
        }
        Progress::Ended
    }

    fn waits_for_socket(&self) -> bool {
        // SAFETY: a connection that is kept lives.
        unsafe { (*self.connection).write_handler.is_some() }
    }

    fn wait_for_socket(&self, waits: bool) {
        let handler = waits.then_some(on_writable as unsafe extern "C" fn(*mut Connection));
        // SAFETY: a connection that is kept lives, on the main thread, and the function is of its own type.
        unsafe { ((*(*self.connection).kind).set_write_handler)(self.connection, handler, 0) };
    }

    fn end(&self) {
        // SAFETY: as above. The server's own functions, in the state in which it closes a connection of which it has read the end.
        // A child process may share the socket.
        unsafe {
            (*self.connection).state = CLOSED;
            if take_attached(self.connection) {
                // The server is about to do the rest.
                return;
            }
            let kind = (*self.connection).kind;
            ((*kind).shutdown)(self.connection);
            ((*kind).close)(self.connection);
        }
    }
}

unsafe extern "C" fn on_writable(connection: *mut Connection) {
    guard("writing to a half-closed connection", (), || {
        node::with(|module| {
            if let Some(gate) = &module.gate {
                gate.connections.half_closed.borrow_mut().is_writable(connection);
            }
        });
    });
}

/// Whether what is pending there may leave some day.
fn may_be_kept(held: &HeldConnection) -> bool {
    let state = held.state();
    let may_leave = !state.is_receiver || !WITHHOLDS_NOTIFICATIONS.load(Ordering::Acquire);
    may_leave && state.diversion.is_none() && state.valve.mark() != Group::MAX
}

/// Of each socket, whether nothing that is written to it arrives: it was reset, or, as far as that can be told, closed.
fn are_gone(sockets: impl IntoIterator<Item = c_int>) -> Vec<bool> {
    let mut polls: Vec<_> = sockets.into_iter().map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    // SAFETY: as many entries as there are, and no waiting. If it fails, as none of them can make it do, it has found nothing.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) };
    polls.iter().map(|poll| poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::*;

    /// As the server offers `all` to a connection: `at_once` bytes at most, and again what was not taken.
    fn gathered(all: &[u8], at_once: usize) -> Option<Vec<u8>> {
        let mut gathered = Gathered::new(Vec::new(), MOST_BYTES, None);
        let mut sent = 0;
        loop {
            let offered = &all[sent..all.len().min(sent + at_once)];
            let (first, second) = offered.split_at(offered.len() / 2);
            let vectors = [first, second]
                .map(|part| libc::iovec { iov_base: part.as_ptr().cast::<c_void>().cast_mut(), iov_len: part.len() });
            match gathered.gather(&vectors) {
                -1 => return gathered.complete(0),
                taken => sent += taken as usize,
            }
            assert!(sent < all.len(), "the server has nothing left, and closes the client");
        }
    }

    #[test]
    fn all_is_gathered_and_the_server_keeps_one_byte() {
        let all: Vec<u8> = (0..=255).collect();
        for length in [1, 2, 3, 7, 256] {
            for at_once in [2, 3, 100, 1000] {
                assert_eq!(gathered(&all[..length], at_once).as_deref(), Some(&all[..length]), "{length} {at_once}");
            }
        }
    }

    #[test]
    fn a_part_of_it_is_not_kept() {
        let taken = || Gathered::new(vec![0; 100], MOST_BYTES, None);
        assert_eq!(taken().complete(100), None, "nothing was offered");
        let mut gathered = taken();
        let part = libc::iovec { iov_base: b"begin".as_ptr().cast::<c_void>().cast_mut(), iov_len: 5 };
        assert_eq!(gathered.gather(&[part]), 4);
        assert_eq!(gathered.complete(100), None, "the rest was not offered");
    }

    #[test]
    fn what_an_io_thread_has_written_is_not_kept_though_it_is_offered_again() {
        let all: Vec<u8> = (0..=255).collect();
        for (begin, at_once) in [(0, 256), (1, 256), (15, 256), (254, 256), (255, 256), (15, 10), (10, 10), (100, 7)] {
            let address = all.as_ptr().addr() + begin;
            let mut gathered = Gathered::new(b"taken".to_vec(), MOST_BYTES, Some(address));
            let mut sent = 0;
            let kept = loop {
                let offered = &all[sent..all.len().min(sent + at_once)];
                let (first, second) = offered.split_at(offered.len() / 2);
                let vectors = [first, second].map(|part| libc::iovec {
                    iov_base: part.as_ptr().cast::<c_void>().cast_mut(),
                    iov_len: part.len(),
                });
                match gathered.gather(&vectors) {
                    -1 => break gathered.complete(5),
                    taken => sent += taken as usize,
                }
            };
            assert_eq!(kept.unwrap(), [b"taken", &all[begin..]].concat(), "from {begin}, {at_once} at once");
        }
        let mut gathered = Gathered::new(Vec::new(), MOST_BYTES, Some(1));
        let one = libc::iovec { iov_base: all.as_ptr().cast::<c_void>().cast_mut(), iov_len: 1 };
        assert_eq!(gathered.gather(&[one]), -1);
        assert_eq!(gathered.complete(0), None, "it is not known where to go on");
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let all = vec![0; MOST_BYTES + 1];
        assert_eq!(gathered(&all, MOST_BYTES / 3), None);
        assert!(gathered(&all[1..], MOST_BYTES / 3).is_some());
    }

    #[test]
    fn each_that_the_server_is_about_to_close_is_known_whatever_it_closes_first() {
        let address = |number: usize| ptr::without_provenance::<Connection>(number);
        attached().extend([8, 16]);
        HAS_ATTACHED.store(true, Ordering::Relaxed);
        assert!(is_kept(address(8)) && is_kept(address(16)) && !is_kept(address(24)));
        assert!(take_attached(address(8)) && !take_attached(address(8)));
        assert!(!is_kept(address(8)) && is_kept(address(16)));
        assert!(take_attached(address(16)) && !is_kept(address(16)) && !take_attached(address(16)));
    }

    #[test]
    fn sockets_whose_other_end_is_gone_are_found() {
        use std::os::fd::AsRawFd;
        let (here, there) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let (other, gone) = std::os::unix::net::UnixStream::pair().expect("sockets");
        there.shutdown(std::net::Shutdown::Write).expect("a half-close");
        drop(gone);
        assert_eq!(are_gone([here.as_raw_fd(), other.as_raw_fd(), here.as_raw_fd()]), [false, true, false]);
        assert_eq!(are_gone([]), []);
    }
}
