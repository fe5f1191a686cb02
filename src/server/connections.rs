//! The server's connections as the gate sees them: finds a client's connection, and holds it, lets it go or closes it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::decide::client_lookup::ClientLookup;
use crate::decide::dirty_keys::Database;
use crate::decide::gate::{ClientId, Connections, Held, LateHold};
use crate::decide::taken_replies;
use crate::decide::valve::Group;
use crate::exchange::Shared;
use crate::server::client_layout::{find_connection, ArgumentLayout, DatabaseLayout};
use crate::server::diversion::Diversion;
use crate::server::groups::GROUPS;
use crate::server::half_closed::{self, HalfClosed};
use crate::server::handed_over::Told;
use crate::server::held_table::{entry, entry_or_new, held, HeldConnection};
use crate::server::internals::Internals;
use crate::server::structs::{Client, Connection, ConnectionHandler, ConnectionType};
use crate::server::{api, late_holds};

/// The server's connections. Main thread only.
pub struct ServerConnections {
    internals: &'static Internals,
    /// The types of connections that can be held.
    types: [*mut ConnectionType; 3],
    /// The offset of a client's connection in its struct, in bytes; found once.
    connection_offset: Cell<Option<usize>>,
    /// Where a client's database stands; found by the self-test.
    pub layout: DatabaseLayout,
    /// Where a client's arguments stand; found by the self-test.
    pub arguments: ArgumentLayout,
    lookup: ClientLookup<Client>,
    /// The clients that get messages.
    receivers: RefCell<HashSet<ClientId>>,
    /// The clients that another module has blocked, until their next command.
    awaiting: RefCell<HashSet<ClientId>>,
    /// Connections that outlive their clients until what is held on them has left.
    pub half_closed: Rc<RefCell<HalfClosed>>,
    /// Has what wakes the main thread.
    shared: Arc<Shared>,
}

impl ServerConnections {
    /// The connections of the running server, whose writing functions are the module's.
    pub fn new(internals: &'static Internals, shared: Arc<Shared>) -> Self {
        ServerConnections {
            internals,
            types: internals.types(),
            connection_offset: Cell::new(None),
            layout: DatabaseLayout::default(),
            arguments: ArgumentLayout::default(),
            lookup: ClientLookup::new(),
            receivers: RefCell::default(),
            awaiting: RefCell::default(),
            half_closed: half_closed::of_module(),
            shared,
        }
    }

    /// The client with that id, if it is one of the network's. It lives until its disconnection was reported.
    pub fn client(&self, id: ClientId) -> Option<*mut Client> {
        self.lookup.find(id, || self.internals.lookup_client(id))
    }

    /// The event loop goes round: what disconnected is gone.
    #[inline]
    pub fn round_is_over(&self) {
        self.lookup.round_is_over();
    }

    /// Functions of the server.
    pub fn internals(&self) -> &'static Internals {
        self.internals
    }

    /// Whether a script or function runs.
    #[inline]
    pub fn is_script_running(&self) -> bool {
        self.internals.is_script_running()
    }

    /// The client has just selected the database with that number: one more fact from which the layout of clients is
    /// learned. Returns whether it is known now.
    pub fn learn_database(&mut self, id: ClientId, number: u32) -> bool {
        match self.client(id) {
            Some(client) => self.layout.learn(client, number),
            None => false,
        }
    }

    /// The client's connection, if it has one that this module can hold.
    fn connection(&self, id: ClientId) -> Option<*mut Connection> {
        self.connection_of(self.client(id)?)
    }

    /// As [`ServerConnections::connection`], for a client that was just looked up.
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
        let fd = unsafe { (*connection).fd };
        let entry = entry_or_new(fd)?;
        if entry.load(Ordering::Acquire).is_null() {
            let (is_closed, told) = (AtomicBool::new(false), Told::new(fd));
            let new = HeldConnection { connection, client: id, is_closed, state: Mutex::default(), told };
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

    /// The client gets messages from now on, until it disconnects: what is written to it is looked at.
    pub fn receives_messages(&self, id: ClientId) {
        if let Some((_, held)) = self.held_or_new(id) {
            held.state().is_receiver = true;
            held.is_closed.store(true, Ordering::Release);
            self.receivers.borrow_mut().insert(id);
        }
    }

    /// Another module has blocked the client and may answer it at any time: whatever is written to it is held for the newest
    /// write, until its next command.
    pub fn awaits_answer(&self, id: ClientId) {
        if let Some((_, held)) = self.held_or_new(id) {
            let mut state = held.state();
            (state.awaits_answer, state.saw_answer) = (true, false);
            drop(state);
            held.is_closed.store(true, Ordering::Release);
            self.awaiting.borrow_mut().insert(id);
        }
    }

    /// The client runs commands again: if another module had blocked it, that module has answered. Returns whether the answer may be pending
    /// and nobody has looked at it yet.
    #[inline]
    pub fn has_unseen_answer(&self, id: ClientId) -> bool {
        if self.awaiting.borrow().is_empty() || !self.awaiting.borrow_mut().remove(&id) {
            return false;
        }
        self.held(id).is_some_and(|held| {
            // It opens when it is next written to.
            let mut state = held.state();
            state.awaits_answer = false;
            !state.saw_answer
        })
    }

    /// Whether any client may be answered at any time.
    pub fn is_anyone_awaiting(&self) -> bool {
        !self.awaiting.borrow().is_empty()
    }

    /// The clients that another module has blocked and not answered yet, as far as that is known.
    pub fn blocked_by_modules(&self) -> Vec<ClientId> {
        self.awaiting.borrow().iter().copied().filter(|client| self.is_blocked(*client)).collect()
    }

    /// Whether the client, one of the network's, is blocked.
    pub fn is_blocked(&self, id: ClientId) -> bool {
        // The server would look into the connection of a client that has none.
        self.connection(id).is_some() && api::client_flags(id).is_blocked
    }

    /// The client has connected.
    #[inline]
    pub fn connected(&self, id: ClientId) {
        if self.half_closed.borrow().is_empty() {
            return;
        }
        if let Some(connection) = self.connection(id) {
            // SAFETY: a live connection.
            self.half_closed.borrow_mut().make_room(unsafe { (*connection).fd });
        }
    }

    /// How many bytes the server last offered that wait on the client's connection.
    pub fn waiting_bytes(&self, id: ClientId) -> u64 {
        self.held(id).map_or(0, |held| held.state().valve.waiting_bytes())
    }

    /// Has the server read from the client again, after a pause.
    pub fn read_again(&self, id: ClientId, handler: ConnectionHandler) {
        let Some(connection) = self.connection(id) else { return };
        // SAFETY: a live connection on the main thread, and the function of its own type.
        unsafe {
            if (*connection).read_handler.is_none() {
                ((*(*connection).kind).set_read_handler)(connection, handler);
            }
        }
    }

    fn close_by_id(&self, id: ClientId) {
        if let Some(client) = self.client(id) {
            // SAFETY: just looked up.
            unsafe { self.internals.close_client(client) };
        }
    }

    fn flush_by_id(&self, id: ClientId) {
        if let Some(client) = self.client(id) {
            // SAFETY: just looked up.
            unsafe { self.internals.flush_client(client) };
        }
    }
}

impl Connections for ServerConnections {
    fn can_hold(&self, client: ClientId) -> bool {
        self.held_or_new(client).is_some()
    }

    fn hold(&mut self, client: ClientId, group: Group) -> Held {
        let Some((connection, held)) = self.held_or_new(client) else {
            // A real client whose connection cannot be held must not be answered.
            self.close_by_id(client);
            return Held::NoConnection;
        };
        let released = GROUPS.released();
        let mut state = held.state();
        let before = state.valve.mark();
        if !state.valve.hold(group) {
            return Held::Already;
        }
        held.is_closed.store(true, Ordering::Release);
        let may_write = state.may_write(released);
        drop(state);
        // SAFETY: a live connection on the main thread, and the function of its own type.
        unsafe {
            if !may_write && (*connection).write_handler.is_some() {
                ((*(*connection).kind).set_write_handler)(connection, None, 0);
            }
        }
        if before > released {
            Held::Longer
        } else {
            Held::Now
        }
    }

    fn begin_counting(&mut self) {
        GROUPS.reset();
        taken_replies::acknowledged();
    }

    fn set_released(&mut self, group: Group) {
        GROUPS.set_released(group);
        taken_replies::acknowledged();
    }

    fn set_newest(&mut self, group: Group) {
        GROUPS.set_newest(group);
    }

    fn late_holds(&mut self) -> Vec<LateHold> {
        late_holds::take()
    }

    fn flush(&mut self, client: ClientId) {
        self.flush_by_id(client);
    }

    fn flush_released(&mut self, id: ClientId, group: Group) -> bool {
        let Some(client) = self.client(id) else { return false };
        // SAFETY: just looked up.
        unsafe { self.internals.flush_client(client) };
        // SAFETY: on the main thread; the reference ends before the client can disconnect.
        let held = self.connection_of(client).and_then(|connection| unsafe { held(connection) });
        held.is_some_and(|held| held.state().valve.mark() == group)
    }

    fn database(&self, client: ClientId) -> Database {
        self.client(client).map_or(Database::ANY, |client| self.layout.database(client))
    }

    fn mark(&self, client: ClientId) -> Option<Group> {
        self.held(client).map(|held| held.state().valve.mark())
    }

    fn receivers(&self) -> Vec<ClientId> {
        self.receivers.borrow().union(&self.awaiting.borrow()).copied().collect()
    }

    fn reset(&mut self, client: ClientId) {
        if let Some(held) = self.held(client) {
            let mut state = held.state();
            state.valve.reset();
            held.is_closed.store(state.is_watched() || !state.taken.is_empty(), Ordering::Release);
        }
    }

    fn abandon_half_closed(&mut self) {
        self.half_closed.borrow_mut().end_all();
    }

    fn close(&mut self, client: ClientId) {
        if let Some(held) = self.held(client) {
            held.state().shut();
        }
        self.close_by_id(client);
    }

    fn forget(&mut self, id: ClientId) -> Option<Group> {
        let client = self.client(id);
        let connection = client.and_then(|client| self.connection_of(client));
        self.lookup.leaves(id);
        if !self.receivers.borrow().is_empty() {
            self.receivers.borrow_mut().remove(&id);
        }
        if self.is_anyone_awaiting() {
            self.awaiting.borrow_mut().remove(&id);
        }
        let connection = connection?;
        // SAFETY: a live connection on the main thread, of a client that is about to be freed.
        if let (Some(client), Some(held)) = (client, unsafe { held(connection) }) {
            // SAFETY: as above.
            let is_kept = unsafe { self.half_closed.borrow_mut().keep(self.internals, client, connection, held) };
            if is_kept {
                // What is released already is not to wait for something else to wake the server.
                self.shared.main_waker.wake();
            }
        }
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
}
