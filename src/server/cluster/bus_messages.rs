//! Messages of PUBLISH and SPUBLISH on their way to other nodes of the cluster: they wait until the log has the writes before them
//! (`decide/bus_link.rs`). The server writes each frame of the bus by one call, so a frame that may not leave is copied here, and the server
//! is told that it is written. What is released leaves before the server sleeps.
//!
//! Main thread, as everything about the bus.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use valkey_module::logging::log_warning;

use crate::base::panic_guard::guard;
use crate::decide::bus_link::{BusLink, Circumstances, Offered};
use crate::exchange::lease_clock;
use crate::server::connection_functions::original;
use crate::server::groups::GROUPS;
use crate::server::structs::{Connection, ConnectionHandler, ConnectionType, CONNECTED};
use crate::server::vectors::write_again_later;
use crate::settings;

struct Link {
    /// The server's own functions for connections of its kind.
    functions: &'static ConnectionType,
    state: BusLink,
}

/// The links of which something is to be remembered.
#[derive(Default)]
struct Links {
    links: HashMap<*mut Connection, Link>,
    /// How many messages wait, and how many bytes they have.
    waiting: (usize, usize),
    /// How many messages were lost because there was no room for them.
    lost: u64,
    /// Whether any was since one began to wait.
    has_lost: bool,
}

thread_local! {
    static LINKS: RefCell<Links> = RefCell::default();
}

impl Links {
    /// Does `work` on what is remembered of a link, and counts what waits then.
    fn with<R>(
        &mut self,
        connection: *mut Connection,
        functions: &'static ConnectionType,
        work: impl FnOnce(&mut Link) -> R,
    ) -> R {
        let link = self.links.entry(connection).or_insert_with(|| Link { functions, state: BusLink::default() });
        let before = link.state.waiting();
        let done = work(link);
        let after = link.state.waiting();
        if link.state.is_idle() {
            self.links.remove(&connection);
        }
        self.count(before, after);
        done
    }

    fn count(&mut self, before: (usize, usize), after: (usize, usize)) {
        self.waiting = (self.waiting.0 - before.0 + after.0, self.waiting.1 - before.1 + after.1);
        self.has_lost &= self.waiting.0 > 0;
    }

    fn circumstances(&self) -> Circumstances {
        let most = usize::try_from(settings::MAX_HELD_BYTES.value()).unwrap_or(usize::MAX);
        Circumstances {
            newest: GROUPS.newest(),
            released: GROUPS.released(),
            room: most.saturating_sub(self.waiting.1),
            may_tell: lease_clock::may_tell_anybody(),
        }
    }

    fn lose(&mut self) {
        self.lost += 1;
        if !std::mem::replace(&mut self.has_lost, true) {
            log_warning(format!(
                "durability: messages to other nodes of the cluster are lost: those that wait for the log take durability.max-held-bytes ({})",
                settings::MAX_HELD_BYTES.value()
            ));
        }
    }
}

impl Link {
    /// Writes what may leave of what waits.
    ///
    /// # Safety
    /// It is the link's connection, which is live.
    unsafe fn write_own(&mut self, connection: *mut Connection) {
        while let Some(bytes) = self.state.next(GROUPS.released()) {
            let length = bytes.len();
            // SAFETY: a live connection, and the server's own function of its kind, called on the main thread as the server does.
            let written = unsafe { (self.functions.write)(connection, bytes.as_ptr().cast(), length) };
            let written = usize::try_from(written).unwrap_or(0);
            self.state.sent(written);
            if written < length {
                return;
            }
        }
    }

    /// As [`Link::write_own`]. The server calls again when the socket takes more, if a message is written in part.
    ///
    /// # Safety
    /// As [`Link::write_own`].
    unsafe fn write_own_now(&mut self, connection: *mut Connection) {
        // SAFETY: by contract.
        unsafe { self.write_own(connection) };
        if !self.state.server_has_more() {
            // SAFETY: a live connection, and the server's own function of its kind.
            unsafe { (self.functions.set_write_handler)(connection, self.own_handler(connection), 0) };
        }
    }

    /// What the server is to call when the socket takes more, if it has nothing of its own to write.
    ///
    /// # Safety
    /// As [`Link::write_own`].
    unsafe fn own_handler(&self, connection: *const Connection) -> ConnectionHandler {
        // SAFETY: by contract.
        let is_up = unsafe { (*connection).state } == CONNECTED;
        (self.state.has_begun() && is_up).then_some(takes_more as unsafe extern "C" fn(*mut Connection))
    }
}

/// The socket of a link takes more, and the server has nothing for it.
unsafe extern "C" fn takes_more(connection: *mut Connection) {
    guard("writing a message to the cluster's bus", (), || {
        LINKS.with_borrow_mut(|links| {
            let Some(functions) = links.links.get(&connection).map(|link| link.functions) else { return };
            // SAFETY: the server calls this for a live connection.
            links.with(connection, functions, |link| unsafe { link.write_own_now(connection) });
        });
    });
}

/// The server writes a frame to a link of the bus, or the rest of one. The answer is that of its own function for that.
///
/// # Safety
/// The connection is live, and belongs to the bus; there are `length` bytes at `data`.
pub unsafe fn write<const KIND: usize>(connection: *mut Connection, data: *const c_void, length: usize) -> c_int {
    guard("writing to the cluster's bus", -1, || {
        // SAFETY: by contract.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) };
        LINKS.with_borrow_mut(|links| {
            let now = links.circumstances();
            let (offered, answer) = links.with(connection, original::<KIND>(), |link| {
                // SAFETY: by contract.
                unsafe { link.write_own(connection) };
                let offered = link.state.offer(bytes, &now);
                let answer = match offered {
                    Offered::Passes => {
                        // SAFETY: the server's own arguments to its own function.
                        let written = unsafe { (link.functions.write)(connection, data, length) };
                        link.state.wrote(usize::try_from(written).unwrap_or(0), length);
                        written
                    }
                    Offered::Later => write_again_later(),
                    Offered::Waits | Offered::Dropped | Offered::NoRoom => c_int::try_from(length).unwrap_or(-1),
                };
                (offered, answer)
            });
            if offered == Offered::NoRoom {
                links.lose();
            }
            answer
        })
    })
}

/// The server has something to write to a link of the bus, and asks to be called when the socket takes it; or it has nothing any more.
///
/// # Safety
/// As [`write`].
pub unsafe fn set_write_handler<const KIND: usize>(
    connection: *mut Connection,
    handler: ConnectionHandler,
    barrier: c_int,
) -> c_int {
    let handler = guard("waiting for the cluster's bus", handler, || {
        LINKS.with_borrow_mut(|links| {
            links.with(connection, original::<KIND>(), |link| {
                link.state.server_has(handler.is_some());
                // SAFETY: by contract.
                handler.or_else(|| unsafe { link.own_handler(connection) })
            })
        })
    });
    // SAFETY: the server's own arguments to its own function. The module stays loaded while a handler of its own is in place.
    unsafe { (original::<KIND>().set_write_handler)(connection, handler, barrier) }
}

/// The server closes a connection, of the bus or another one.
pub fn closed(connection: *mut Connection) {
    LINKS.with_borrow_mut(|links| {
        if let Some(link) = links.links.remove(&connection) {
            links.count(link.state.waiting(), (0, 0));
        }
    });
}

/// Writes what the log has acknowledged since.
#[inline]
pub fn send_released() {
    if waiting().0 > 0 {
        LINKS.with_borrow_mut(|links| {
            // One that is begun goes on when the socket takes more.
            let may_begin = |link: &Link| !link.state.has_begun() && link.state.next(GROUPS.released()).is_some();
            let ready: Vec<_> = links.links.iter().filter(|(_, link)| may_begin(link)).collect();
            let ready: Vec<_> = ready.into_iter().map(|(connection, link)| (*connection, link.functions)).collect();
            for (connection, functions) in ready {
                // SAFETY: a link is forgotten when its connection is closed.
                links.with(connection, functions, |link| unsafe { link.write_own_now(connection) });
            }
        });
    }
}

/// This node has ceased to lead, or what it wrote may never be durable: no message that was published until now leaves.
pub fn abandon() {
    LINKS.with_borrow_mut(|links| {
        let connections: Vec<_> = links.links.iter().map(|(connection, link)| (*connection, link.functions)).collect();
        for (connection, functions) in connections {
            links.with(connection, functions, |link| link.state.abandon());
        }
    });
}

/// How many messages wait, and how many bytes they have. Each counts once for each node that it goes to.
#[inline]
pub fn waiting() -> (usize, usize) {
    LINKS.with_borrow(|links| links.waiting)
}

/// How many were lost because there was no room for them.
pub fn lost() -> u64 {
    LINKS.with_borrow(|links| links.lost)
}

/// Forgets all links. When nothing waits, or none of it is to leave.
pub fn forget_all() {
    LINKS.take();
}
