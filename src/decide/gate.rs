//! The gate: which clients wait for which writes. It decides; [`Connections`] carries it out.

use std::collections::VecDeque;

use crate::decide::dirty_keys::{Database, DirtyKeys, KeyHash};
use crate::decide::valve::Group;

#[path = "gate_throttle.rs"]
mod throttle;

/// A client of the server, by the id that `CLIENT ID` shows.
pub type ClientId = u64;

/// What came of asking a connection to hold its replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It held nothing, and now does.
    Now,
    /// It held for an older group, and now for this one as well.
    Longer,
    /// It already holds for this group or a newer one.
    Already,
    /// There is no such connection (the client is gone, or is not one of the network's).
    NoConnection,
}

/// A connection that was held because of a message or a late answer, by the thread that wrote to it.
pub struct LateHold {
    /// The connection's client.
    pub client: ClientId,
    /// The connection is held until this group is released. [`Group::MAX`]: it is shut for good, and has to be closed.
    pub group: Group,
    /// The connection was not held before.
    pub is_new: bool,
    /// The hold is for an answer that the client waits for, not for a message.
    pub is_answer: bool,
}

/// The connections of the server, as the gate sees them. Main thread only.
pub trait Connections {
    /// Whether [`Connections::hold`] can hold the client's connection.
    fn can_hold(&self, client: ClientId) -> bool;
    /// From now on, nothing that is pending on the client's connection, or comes, leaves before `group` is released.
    fn hold(&mut self, client: ClientId, group: Group) -> Held;
    /// Groups are counted from the beginning: none has written, and none is released.
    fn begin_counting(&mut self);
    /// Groups up to `group` may leave. Takes effect on a connection when it is next flushed or written to.
    fn set_released(&mut self, group: Group);
    /// `group` is the newest that wrote anything. Messages that are written from now on are held for it.
    fn set_newest(&mut self, group: Group);
    /// Connections that were held because of messages since the last time, with the group that they are held for and
    /// whether they were not held before.
    fn late_holds(&mut self) -> Vec<LateHold>;
    /// Makes the server try to write what is pending for the client, before it sleeps.
    fn flush(&mut self, client: ClientId);
    /// As [`Connections::flush`]. Returns whether `group` is the newest that the connection was held for.
    fn flush_released(&mut self, client: ClientId, group: Group) -> bool;
    /// The database that the client has selected; any if that is not known, as for a client without a connection.
    fn database(&self, client: ClientId) -> Database;
    /// The newest group that the client's connection holds or held for; `None` if it never did, or is gone.
    fn mark(&self, client: ClientId) -> Option<Group>;
    /// The clients to which something may be written that is no reply to their last command: messages, late answers.
    fn receivers(&self) -> Vec<ClientId>;
    /// Holds nothing on the client's connection any more, whatever it was held for.
    fn reset(&mut self, client: ClientId);
    /// Closes the connection without an answer: nothing that is held leaves it any more, whatever is released.
    fn close(&mut self, client: ClientId);
    /// The server is about to free the client: for every other function here it is gone from now on. Returns the newest group that its
    /// connection was held for; `None` if it never was.
    fn forget(&mut self, client: ClientId) -> Option<Group>;
    /// What is held for clients that have ended their sending, and are gone, never leaves.
    fn abandon_half_closed(&mut self);
}

/// What one iteration of the event loop wrote, and who waits for it.
#[derive(Debug, Default)]
struct Waiting {
    /// The log's offset from which on the group is durable. Exclusive; not known while the group is open.
    offset: u64,
    clients: Vec<ClientId>,
    keys: Vec<KeyHash>,
    /// Nothing was written that anybody waits for: replies are held for the log's pace only, up to an earlier offset.
    is_throttled: bool,
}

/// What the open group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Nothing yet, so it stays open for the next iteration.
    Nothing,
    /// Replies of writes are held until the log has acknowledged all but so many bytes of what the iteration wrote.
    Throttle(u64),
    /// Something was written that replies depend on.
    Write,
}

/// The groups of writes that are not durable, the keys they dirtied and the clients that wait. Main thread only.
///
/// Invariants:
/// - Groups are numbered without gaps; `waiting` holds those after `released`, oldest first, and the last is open.
/// - Offsets of closed groups ascend, so groups become durable in their order.
/// - A client stands in the list of the newest group that its connection is held for (and may in older ones).
pub struct Gate<C> {
    /// Carries out what the gate decides.
    pub connections: C,
    dirty: DirtyKeys,
    waiting: VecDeque<Waiting>,
    released: Group,
    open_group_is_for: Use,
    /// How many closed groups hold replies for the log's pace only.
    throttled_groups: usize,
    /// Clients that were held already, and whose newest bytes have no boundary yet. Those that were not are written to by
    /// the server itself, as nothing was pending for them.
    touched: Vec<ClientId>,
    held_clients: usize,
    /// Clients that were held because of a late answer, since [`Gate::late_answers`].
    late_answers: Vec<(ClientId, Group)>,
    /// Emptied lists of released groups, for the next ones.
    spare: Vec<Waiting>,
}

/// Lists above this capacity are freed, not kept, so that a burst does not stay in memory.
const SPARE_ENTRIES: usize = 1024;
const SPARE_GROUPS: usize = 64;

impl<C: Connections> Gate<C> {
    /// A gate that holds nothing.
    pub fn new(mut connections: C) -> Self {
        connections.begin_counting();
        Gate {
            connections,
            dirty: DirtyKeys::default(),
            waiting: VecDeque::from([Waiting::default()]),
            released: 0,
            open_group_is_for: Use::Nothing,
            throttled_groups: 0,
            touched: Vec::new(),
            held_clients: 0,
            late_answers: Vec::new(),
            spare: Vec::new(),
        }
    }

    fn open_group(&self) -> Group {
        self.released + self.waiting.len() as Group
    }

    /// Whether nothing at all is dirty, held or open: then a read depends on nothing.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.waiting.len() == 1 && self.open_group_is_for == Use::Nothing
    }

    /// Whether anything was written in this round of the event loop.
    pub fn has_open_writes(&self) -> bool {
        self.open_group_is_for == Use::Write
    }

    /// The hash that stands for `key`.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        self.dirty.hash(key)
    }

    /// A key was written. Returns the group that its writer must wait for.
    pub fn write_key(&mut self, key: KeyHash, database: Database) -> Group {
        let group = self.write();
        if self.dirty.mark(key, database, group) {
            self.newest().keys.push(key);
        }
        group
    }

    /// Something was written that the caller accounts for by other means. Returns the group its writer must wait for.
    pub fn write(&mut self) -> Group {
        let group = self.open_group();
        if self.open_group_is_for != Use::Write {
            self.open_group_is_for = Use::Write;
            self.connections.set_newest(group);
        }
        group
    }

    /// Everything was written at once. Returns the group that the writer must wait for.
    pub fn write_all(&mut self) -> Group {
        let group = self.write();
        self.dirty.mark_all(group);
        group
    }

    /// The group that a read of `key` must wait for, in the database that `client` has selected; in any without a client.
    pub fn read_key(&self, key: KeyHash, client: Option<ClientId>) -> Group {
        let database = || client.map_or(Database::ANY, |client| self.connections.database(client));
        self.dirty.dependency(key, database)
    }

    /// The group that a read of the whole keyspace must wait for.
    pub fn read_all(&self) -> Group {
        self.dirty.newest_write()
    }

    /// The group that a read of functions must wait for.
    pub fn read_functions(&self) -> Group {
        self.dirty.barrier()
    }

    /// The client's reply to the command that just ran depends on `group`.
    pub fn hold(&mut self, client: ClientId, group: Group) -> Held {
        if group <= self.released {
            return Held::Already;
        }
        debug_assert!(group <= self.open_group());
        let held = self.connections.hold(client, group);
        match held {
            Held::Already | Held::NoConnection => return held,
            Held::Now => self.held_clients += 1,
            Held::Longer => self.touched.push(client),
        }
        let index = (group - self.released - 1) as usize;
        self.waiting[index].clients.push(client);
        held
    }

    /// Holds everything on the client's connection until [`Gate::let_go`]. For the self-test.
    pub fn hold_forever(&mut self, client: ClientId) -> Held {
        let held = self.connections.hold(client, Group::MAX);
        if held == Held::Now {
            self.held_clients += 1;
        }
        held
    }

    /// Ends [`Gate::hold_forever`].
    pub fn let_go(&mut self, client: ClientId) {
        if self.connections.mark(client) == Some(Group::MAX) {
            self.held_clients -= 1;
            self.connections.reset(client);
            self.connections.flush(client);
        }
    }

    /// The iteration is over, and all that it wrote is in the stream up to `offset()`. To be called before the server
    /// writes replies: held connections then learn where their newest bytes end.
    pub fn close_group(&mut self, offset: impl FnOnce() -> u64) {
        if self.open_group_is_for != Use::Nothing {
            let offset = offset();
            let previous = self.waiting.len().checked_sub(2).map_or(0, |index| self.waiting[index].offset);
            assert!(offset >= previous, "the replication offset went back from {previous} to {offset}");
            match self.open_group_is_for {
                Use::Throttle(window) => self.close_throttled(offset.saturating_sub(window).max(previous)),
                _ => self.newest().offset = offset,
            }
            self.open_group_is_for = Use::Nothing;
            self.waiting.push_back(self.spare.pop().unwrap_or_default());
        }
        for client in self.touched.drain(..) {
            self.connections.flush(client);
        }
        if self.touched.capacity() > SPARE_ENTRIES {
            self.touched.shrink_to(SPARE_ENTRIES);
        }
    }

    /// Has the server offer again what waits for the clients that wait for a group up to `newest`: more replies may have come behind those that
    /// were offered, without an event. Returns how many clients that are.
    pub fn offer_again(&mut self, newest: Group) -> usize {
        let groups = newest.saturating_sub(self.released) as usize;
        let clients = self.waiting.iter().take(groups).flat_map(|group| &group.clients);
        let mut count = 0;
        for client in clients {
            self.connections.flush(*client);
            count += 1;
        }
        count
    }

    /// The newest group to which nothing is added any more.
    pub fn newest_closed_group(&self) -> Group {
        self.open_group() - 1
    }

    /// The log has acknowledged everything up to `durable`: lets go of the groups that lie below.
    pub fn release(&mut self, durable: u64) {
        self.take_late_holds();
        while self.waiting.len() > 1 && self.waiting[0].offset <= durable {
            let Some(mut group) = self.waiting.pop_front() else { return };
            self.released += 1;
            self.throttled_groups -= usize::from(std::mem::take(&mut group.is_throttled));
            self.connections.set_released(self.released);
            self.dirty.clean(&group.keys, self.released);
            for client in group.clients.drain(..) {
                if self.connections.flush_released(client, self.released) {
                    self.held_clients -= 1;
                }
            }
            group.keys.clear();
            if self.spare.len() < SPARE_GROUPS
                && group.keys.capacity() <= SPARE_ENTRIES
                && group.clients.capacity() <= SPARE_ENTRIES
            {
                self.spare.push(group);
            }
        }
    }

    /// Connections were held while they were written to: their clients wait as others do. Those that were shut for good are
    /// closed; returns how many.
    pub fn take_late_holds(&mut self) -> usize {
        let mut closed = 0;
        for LateHold { client, group, is_new, is_answer } in self.connections.late_holds() {
            if group == Group::MAX {
                self.held_clients += usize::from(is_new);
                self.connections.close(client);
                closed += 1;
                continue;
            }
            if group <= self.released {
                // Released while this was on its way.
                self.connections.flush(client);
                continue;
            }
            self.held_clients += usize::from(is_new);
            if is_answer {
                self.late_answers.push((client, group));
            }
            let index = (group - self.released - 1) as usize;
            self.waiting[index].clients.push(client);
        }
        closed
    }

    /// The clients with a late answer that waits, each with its group. Returns each once.
    pub fn late_answers(&mut self) -> Vec<(ClientId, Group)> {
        std::mem::take(&mut self.late_answers)
    }

    /// The server is about to free the client. What was reported of its connection is taken in while it is still there, and it is
    /// forgotten last.
    pub fn disconnected(&mut self, client: ClientId) {
        self.take_late_holds();
        let mark = self.connections.forget(client);
        if mark.is_some_and(|mark| mark > self.released) {
            self.held_clients -= 1;
        }
    }

    /// Closes a client without another answer. It is held for good, so it counts until it disconnects.
    pub fn close(&mut self, client: ClientId) {
        let was_held = self.connections.mark(client).is_some_and(|mark| mark > self.released);
        self.connections.close(client);
        let is_held = self.connections.mark(client).is_some_and(|mark| mark > self.released);
        self.held_clients += usize::from(is_held && !was_held);
    }

    /// What waits will never be acknowledged under this leader: closes without an answer every held client, and every client that may be sent a
    /// message about what waits; forgets groups and dirty keys.
    pub fn abandon(&mut self) {
        self.take_late_holds();
        if !self.is_idle() {
            for client in self.connections.receivers() {
                self.close(client);
            }
        }
        let mut clients: Vec<ClientId> = self.waiting.iter().flat_map(|group| &group.clients).copied().collect();
        clients.sort_unstable();
        clients.dedup();
        for client in clients {
            if self.connections.mark(client).is_some_and(|mark| mark > self.released) {
                self.connections.close(client);
            }
        }
        self.connections.abandon_half_closed();
        // Closed connections never let go, whatever is released, so the numbers of abandoned groups can pass.
        self.released = self.open_group();
        self.connections.set_released(self.released);
        self.waiting = VecDeque::from([Waiting::default()]);
        self.open_group_is_for = Use::Nothing;
        self.throttled_groups = 0;
        self.touched = Vec::new();
        self.late_answers = Vec::new();
        self.dirty.clear();
    }

    /// The newest group that is durable.
    pub fn released(&self) -> Group {
        self.released
    }

    /// The clients that wait for writes, each with a group that one of its replies waits for. Some appear more than once, and some are gone.
    pub fn waiting_clients(&self) -> impl Iterator<Item = (ClientId, Group)> + '_ {
        let groups = self.waiting.iter().zip(self.released + 1..).filter(|(waiting, _)| !waiting.is_throttled);
        groups.flat_map(|(waiting, group)| waiting.clients.iter().map(move |client| (*client, group)))
    }

    /// How many clients have a reply that waits for the log.
    pub fn held_clients(&self) -> usize {
        self.held_clients
    }

    /// How many keys are written and not acknowledged.
    pub fn dirty_keys(&self) -> usize {
        self.dirty.len()
    }

    /// How many groups are written and not acknowledged.
    pub fn waiting_groups(&self) -> usize {
        self.waiting.len() - 1 + usize::from(self.open_group_is_for != Use::Nothing)
    }

    fn newest(&mut self) -> &mut Waiting {
        self.waiting.back_mut().expect("there is always an open group")
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
pub mod tests;
