//! Clients that have ended their sending (a *half-close*, `nc -N`) while replies to them are held. The server frees a client as soon as it
//! reads that end. By then it would have written all replies if none were held; so their bytes and the socket are kept here, without a
//! client, until the log has what they wait for.
//!
//! From outside, such a client is gone: it subscribes to nothing, blocks nowhere and does not count as connected. A client that
//! has closed its whole connection looks the same until something is written to it, so what is kept is bounded, see [`HalfClosed`].

pub mod closing;
pub mod gathered;
mod unsent;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::base::panic_guard::guard;
use crate::decide::valve::Group;
use crate::server::groups::GROUPS;
use crate::server::half_closed::gathered::Gathered;
use crate::server::half_closed::unsent::{Progress, Unsent};
use crate::server::handed_over::Next;
use crate::server::held_table::HeldConnection;
use crate::server::internals::Internals;
use crate::server::late_holds::withholds_notifications;
use crate::server::structs::{Client, Connection, CLIENT_IS_CHECKED, CLOSED, CONNECTED};
use crate::settings;

/// The longest that a connection is kept, unless `durability.sync-timeout-ms` is shorter.
const LONGEST: Duration = Duration::from_secs(10);
/// One in this many connections may be kept, counted from `maxclients`.
const SHARE_OF_CLIENTS: usize = 10;
/// How many may be kept until the server was asked for `maxclients`: that share of its default.
const FIRST_SHARE: usize = 1000;
/// The most bytes that are kept, of all connections together; no more are copied in one round of the event loop either.
const MOST_BYTES: usize = 64 << 20;
/// The most bytes that are kept of one connection.
const MOST_BYTES_OF_ONE: usize = 32 << 20;
/// How often to look for connections that were reset meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection is kept.
fn longest() -> Duration {
    match settings::SYNC_TIMEOUT_MS.value() {
        0 => LONGEST,
        timeout_ms => LONGEST.min(Duration::from_millis(timeout_ms)),
    }
}

/// The server lets go of a connection that is kept, and will not be called for it any more. Main thread.
///
/// # Safety
/// [`closing::is_kept`] says so, and the server does not use the connection after this.
pub unsafe fn detach(connection: *mut Connection) {
    closing::remove(connection);
    // SAFETY: a live connection on the main thread, and the functions of its own type. Its client is about to be freed.
    unsafe {
        (*connection).private_data = ptr::null_mut();
        (*connection).flags &= !CLIENT_IS_CHECKED;
        // The server is in the middle of taking in what an I/O thread has read. Without this the event loop would go on to report the end.
        if let Some(postpone) = (*(*connection).kind).postpone_update_state {
            postpone(connection, 0);
        }
        ((*(*connection).kind).set_read_handler)(connection, None);
        ((*(*connection).kind).set_write_handler)(connection, None, 0);
    }
}

/// The connections of clients that are half closed, oldest first. Main thread only.
///
/// They are bounded, and the oldest are closed beyond that: in time ([`LONGEST`], or `durability.sync-timeout-ms`, from the half-close
/// on), in number (a share of `maxclients`, and as many as leave the server room for new clients), in bytes. A connection is not kept if it
/// has too many bytes by itself, or if too many would be copied in one round of the event loop: a round may last.
#[derive(Default)]
pub struct HalfClosed {
    kept: VecDeque<Unsent>,
    /// How many bytes are kept, of all together.
    bytes: usize,
    /// How many were copied in this round of the event loop.
    copied: usize,
    /// A connection was kept since the server was last asked for its `maxclients`.
    has_new: bool,
    /// The server's `maxclients` then; 0 before that.
    max_clients: usize,
    /// What was released when they were last written to.
    released: Group,
    next_look: Option<Instant>,
}

impl HalfClosed {
    /// Whether none is kept, and none was in this round of the event loop.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.copied == 0
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// The server is freeing the client. Keeps its connection if it is half closed and replies are held on it. Returns whether it does so;
    /// then the server has to go round its event loop soon.
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
        // SAFETY: by contract of this function.
        let Some((gathered, taken)) = (unsafe { gather(internals, client, connection, held, most, begin) }) else {
            return false;
        };
        let mut state = held.state();
        self.copied += gathered.len();
        let Some(bytes) = gathered.complete(taken).filter(|bytes| !bytes.is_empty()) else { return false };
        // SAFETY: as above. TLS writes only to what is connected.
        unsafe { (*connection).state = CONNECTED };
        self.bytes += bytes.len();
        let mut valve = std::mem::take(&mut state.valve);
        state.valve.hold(valve.mark());
        if state.is_watched() {
            // A message or a late answer among them that was not offered before has not been looked at.
            valve.hold(GROUPS.newest());
        }
        self.has_new = true;
        let since = Instant::now();
        self.kept.push_back(Unsent { connection, bytes, sent: 0, valve, since, on_writable: Some(on_writable) });
        closing::add(connection);
        // What was released before they came has not been offered to them.
        self.released = 0;
        // The round may last, and there is room for this one by itself.
        self.end_oldest_beyond_bounds();
        true
    }

    /// Closes the oldest until the others are within the bounds.
    fn end_oldest_beyond_bounds(&mut self) {
        let most = if self.max_clients > 0 { (self.max_clients / SHARE_OF_CLIENTS).max(1) } else { FIRST_SHARE };
        while self.kept.len() > most || self.bytes > MOST_BYTES {
            self.end_oldest();
        }
    }

    /// Writes what may leave, and closes what has ended or is beyond the bounds. `max_clients`: the server's `maxclients`, called only if a
    /// connection was kept since the last time.
    pub fn go_on(&mut self, max_clients: impl FnOnce() -> usize) {
        self.copied = 0;
        if self.kept.is_empty() {
            return;
        }
        let released = GROUPS.released();
        if self.released != released {
            self.released = released;
            // The socket decides for the others.
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

    /// A client has connected, on that socket number. The system takes the lowest free one, so a high one tells that few are left.
    pub fn make_room(&mut self, fd: c_int) {
        // The server allows itself 32 more than `maxclients`. Two for one, so that there is room again.
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

    /// Closes those for which `has_ended` says so. It is called once for each, in their order.
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

thread_local! {
    /// The connections of the module that is loaded, for [`on_writable`]; nothing once that module is unloaded.
    static OF_MODULE: RefCell<Weak<RefCell<HalfClosed>>> = const { RefCell::new(Weak::new()) };
}

/// The connections of a module that is being loaded: none yet. Main thread.
pub fn of_module() -> Rc<RefCell<HalfClosed>> {
    let half_closed = Rc::default();
    OF_MODULE.set(Rc::downgrade(&half_closed));
    half_closed
}

/// The socket of a connection that is kept takes more. The server calls this from its event loop.
unsafe extern "C" fn on_writable(connection: *mut Connection) {
    guard("writing to a half-closed connection", (), || {
        let Some(half_closed) = OF_MODULE.with_borrow(Weak::upgrade) else { return };
        let borrowed = half_closed.try_borrow_mut();
        if let Ok(mut half_closed) = borrowed {
            half_closed.is_writable(connection);
        }
    });
}

/// Has the server write everything that is left for the client, at most `most` bytes, and collects it behind what was taken before. Returns
/// what was collected, and how many bytes of it were taken before. `None` if more was taken. `begin`: see [`Gathered::new`].
///
/// # Safety
/// As [`HalfClosed::keep`].
unsafe fn gather(
    internals: &Internals,
    client: *mut Client,
    connection: *mut Connection,
    held: &HeldConnection,
    most: usize,
    begin: Option<usize>,
) -> Option<(Gathered, usize)> {
    let taken = {
        let mut state = held.state();
        if state.taken.bytes() > most {
            return None;
        }
        let bytes = state.taken.take_out();
        let taken = bytes.len();
        state.valve.untake();
        state.unsent = Some(Gathered::new(bytes, most, begin));
        taken
    };
    // It may have opened already: an I/O thread has read the end, and by TLS what is released then is not written any more.
    held.is_closed.store(true, Ordering::Release);
    // SAFETY: by contract. While the connection counts as connected, the server neither takes what is gathered for an error nor, as one byte
    // stays with it, closes the client that it is closing.
    unsafe {
        (*connection).state = CONNECTED;
        let gathered = || held.state().unsent.as_ref().map_or(0, Gathered::len);
        let mut before = usize::MAX;
        while before != gathered() {
            before = gathered();
            internals.write_to_client(client);
        }
        (*connection).state = CLOSED;
    }
    let gathered = held.state().unsent.take()?;
    Some((gathered, taken))
}

/// Whether what is pending there may leave some day.
fn may_be_kept(held: &HeldConnection) -> bool {
    let state = held.state();
    let may_leave = !state.is_receiver || !withholds_notifications();
    may_leave && state.diversion.is_none() && state.valve.mark() != Group::MAX
}

/// For each socket, whether nothing that is written to it arrives: it was reset, or, as far as the system knows, closed.
fn are_gone(sockets: impl IntoIterator<Item = c_int>) -> Vec<bool> {
    let mut polls: Vec<_> = sockets.into_iter().map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    // SAFETY: as many entries as there are, and no waiting. If it fails, as none of them can make it do, it has found nothing.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) };
    polls.iter().map(|poll| poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
