//! The held connections, by socket number: written by the main thread, read by every thread that writes to sockets.

use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::decide::gate::ClientId;
use crate::decide::taken_replies::Taken;
use crate::decide::valve::{Group, Valve};
use crate::server::diversion::Diversion;
use crate::server::half_closed::gathered::Gathered;
use crate::server::handed_over::{Told, MOST_SOCKETS};
use crate::server::structs::Connection;

/// A connection that is held, or was: it stays known until its client disconnects.
pub struct HeldConnection {
    /// Only compared, never followed.
    pub connection: *const Connection,
    /// Whose it is.
    pub client: ClientId,
    /// Whether writes have to look at `state`. Changed only under its lock.
    pub is_closed: AtomicBool,
    /// What a write has to look at.
    pub state: Mutex<State>,
    /// What the server was told about writes whose outcome it has not taken in.
    pub told: Told,
}

/// What is asked when something is written to it.
#[derive(Default)]
pub struct State {
    /// Decides how much may leave.
    pub valve: Valve,
    /// What was taken from the server because it may not leave. While there is anything, the server has more to write.
    pub taken: Taken,
    /// How many more times the server is to offer what it has although nothing may leave: there may be more to take.
    pub wanted_offers: u8,
    /// For a client that gets messages: the end of what the server has written, in which one may begin.
    pub end: Vec<u8>,
    /// For the tap's own connection: what is written goes there, not into the socket.
    pub diversion: Option<Diversion>,
    /// While the server frees a client that is half closed: what was still to be written to it is gathered there.
    pub unsent: Option<Gathered>,
    /// Whether the client gets messages: it subscribed. What is written to it is then looked at.
    pub is_receiver: bool,
    /// Whether another module may answer the client at any time: it blocked it. All that is written to it is then held.
    pub awaits_answer: bool,
    /// Something was written since that may be the answer.
    pub saw_answer: bool,
}

impl State {
    /// Whether all writes have to look at this, also if nothing is held.
    pub fn is_watched(&self) -> bool {
        self.is_receiver || self.awaits_answer
    }

    /// Whether the server is to write when the socket takes more: something may be sent, or taken.
    pub fn may_write(&self, released: Group) -> bool {
        self.wanted_offers > 0 || self.valve.may_send(released)
    }

    /// Nothing leaves any more, whatever is released.
    pub fn shut(&mut self) {
        self.valve.shut();
        self.taken.clear();
        self.wanted_offers = 0;
    }
}

impl HeldConnection {
    /// Its state, locked.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

const PAGE_ENTRIES: usize = 4096;
const PAGES: usize = MOST_SOCKETS / PAGE_ENTRIES;
type Page = [AtomicPtr<HeldConnection>; PAGE_ENTRIES];

/// Held connections by socket number. Entries are written by the main thread only, and read by every thread that
/// writes to sockets. A page, once made, stays.
static TABLE: [AtomicPtr<Page>; PAGES] = [const { AtomicPtr::new(ptr::null_mut()) }; PAGES];

/// The entry of a socket number, if its page was made.
pub fn entry(fd: c_int) -> Option<&'static AtomicPtr<HeldConnection>> {
    let fd = usize::try_from(fd).ok()?;
    let page = TABLE.get(fd / PAGE_ENTRIES)?.load(Ordering::Acquire);
    // SAFETY: a page that is not null was leaked by `entry_or_new` and stays.
    unsafe { page.as_ref() }.map(|page| &page[fd % PAGE_ENTRIES])
}

/// Main thread only. `None` for a socket number beyond the table's four million.
pub fn entry_or_new(fd: c_int) -> Option<&'static AtomicPtr<HeldConnection>> {
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
pub unsafe fn held<'a>(connection: *const Connection) -> Option<&'a HeldConnection> {
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
pub unsafe fn gated<'a>(connection: *const Connection) -> Option<&'a HeldConnection> {
    // SAFETY: by contract of this function.
    unsafe { held(connection) }.filter(|held| held.is_closed.load(Ordering::Acquire))
}

/// Forgets all connections. Main thread, when no reply is held and none will be.
pub fn forget_all() {
    for page in &TABLE {
        // SAFETY: a page that is not null was leaked by `entry_or_new` and stays.
        let Some(page) = (unsafe { page.load(Ordering::Acquire).as_ref() }) else { continue };
        for entry in page {
            let held = entry.swap(ptr::null_mut(), Ordering::AcqRel);
            if !held.is_null() {
                // Not freed: an I/O thread may be on its way through it, and this happens once in a server's life.
                // SAFETY: entries come from `Box::into_raw` and are freed only after they were taken out of the table.
                let held = unsafe { &*held };
                held.is_closed.store(false, Ordering::Release);
                let mut state = held.state();
                state.taken.clear();
                state.valve = Valve::default();
            }
        }
    }
}

/// The clients whose replies were taken and are not sent yet, each with how many bytes. Main thread.
pub fn taken_bytes() -> Vec<(ClientId, u64)> {
    let mut clients = Vec::new();
    for page in &TABLE {
        // SAFETY: a page that is not null was leaked by `entry_or_new` and stays.
        let Some(page) = (unsafe { page.load(Ordering::Acquire).as_ref() }) else { continue };
        for entry in page {
            // SAFETY: only the main thread, which this is, removes and frees entries.
            let Some(held) = (unsafe { entry.load(Ordering::Acquire).as_ref() }) else { continue };
            let bytes = held.state().taken.bytes() as u64;
            if bytes > 0 {
                clients.push((held.client, bytes));
            }
        }
    }
    clients
}
