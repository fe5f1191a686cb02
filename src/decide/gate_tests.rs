use std::collections::HashMap;

use super::*;

/// Connections that only remember what they were told.
#[derive(Default)]
pub struct Fake {
    /// The database that a client has selected; the first if none is given.
    pub databases: HashMap<ClientId, u32>,
    marks: HashMap<ClientId, Group>,
    released: Group,
    flushed: Vec<ClientId>,
    closed: Vec<ClientId>,
    late: Vec<LateHold>,
    receivers: Vec<ClientId>,
    /// Clients that left, each with how many had been flushed by then.
    forgotten: Vec<(ClientId, usize)>,
    half_closed_are_abandoned: bool,
}

impl Connections for Fake {
    fn can_hold(&self, client: ClientId) -> bool {
        client != 0
    }
    fn hold(&mut self, client: ClientId, group: Group) -> Held {
        if client == 0 {
            return Held::NoConnection;
        }
        let mark = self.marks.entry(client).or_default();
        let before = std::mem::replace(mark, group.max(*mark));
        match before {
            before if before >= group => Held::Already,
            before if before > self.released => Held::Longer,
            _ => Held::Now,
        }
    }
    fn begin_counting(&mut self) {
        self.released = 0;
    }
    fn set_released(&mut self, group: Group) {
        self.released = group;
    }
    fn set_newest(&mut self, _: Group) {}
    fn late_holds(&mut self) -> Vec<LateHold> {
        std::mem::take(&mut self.late)
    }
    fn flush(&mut self, client: ClientId) {
        self.flushed.push(client);
    }
    fn flush_released(&mut self, client: ClientId, group: Group) -> bool {
        self.flushed.push(client);
        self.mark(client) == Some(group)
    }
    fn database(&self, client: ClientId) -> Database {
        Database::new(self.databases.get(&client).copied().unwrap_or(0))
    }
    fn mark(&self, client: ClientId) -> Option<Group> {
        // Who gets messages has a connection that is known.
        self.marks.get(&client).copied().or(self.receivers.contains(&client).then_some(0))
    }
    fn receivers(&self) -> Vec<ClientId> {
        self.receivers.clone()
    }
    fn reset(&mut self, client: ClientId) {
        self.marks.remove(&client);
    }
    fn close(&mut self, client: ClientId) {
        self.closed.push(client);
        self.marks.insert(client, Group::MAX);
    }
    fn forget(&mut self, client: ClientId) -> Option<Group> {
        self.forgotten.push((client, self.flushed.len()));
        self.marks.remove(&client)
    }
    fn abandon_half_closed(&mut self) {
        self.half_closed_are_abandoned = true;
    }
}

fn gate() -> Gate<Fake> {
    Gate::new(Fake::default())
}

/// Client `client` writes `key`.
fn set(gate: &mut Gate<Fake>, client: ClientId, key: &str) {
    let hash = gate.hash(key.as_bytes());
    let group = gate.write_key(hash, Database::new(0));
    gate.hold(client, group);
}

/// Client `client` reads `key`.
fn get(gate: &mut Gate<Fake>, client: ClientId, key: &str) {
    let group = gate.read_key(gate.hash(key.as_bytes()), Some(client));
    gate.hold(client, group);
}

fn is_held(gate: &Gate<Fake>, client: ClientId) -> bool {
    gate.connections.mark(client).is_some_and(|mark| mark > gate.connections.released)
}

#[test]
fn a_writer_is_held_until_its_offset_is_durable() {
    let mut gate = gate();
    assert!(gate.is_idle());
    set(&mut gate, 1, "a");
    assert!(!gate.is_idle());
    gate.close_group(|| 100);
    gate.release(99);
    assert!(is_held(&gate, 1));
    gate.release(100);
    assert!(!is_held(&gate, 1) && gate.is_idle());
    assert_eq!((gate.held_clients(), gate.dirty_keys()), (0, 0));
}

#[test]
fn a_reader_of_a_dirty_key_waits_for_the_write_that_it_saw() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    set(&mut gate, 1, "b");
    gate.close_group(|| 200);
    get(&mut gate, 2, "a");
    get(&mut gate, 3, "b");
    get(&mut gate, 4, "clean");
    assert!(is_held(&gate, 2) && is_held(&gate, 3) && !is_held(&gate, 4));
    assert_eq!(gate.held_clients(), 3);
    gate.release(100);
    assert!(!is_held(&gate, 2) && is_held(&gate, 3) && is_held(&gate, 1));
    gate.release(200);
    assert_eq!(gate.held_clients(), 0);
}

#[test]
fn a_key_that_is_written_again_stays_dirty() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    set(&mut gate, 1, "a");
    gate.close_group(|| 200);
    gate.release(100);
    get(&mut gate, 2, "a");
    assert!(is_held(&gate, 2));
}

#[test]
fn a_read_in_the_iteration_of_the_write_waits_with_it() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    get(&mut gate, 2, "a");
    gate.close_group(|| 100);
    assert!(is_held(&gate, 2));
    gate.release(100);
    assert!(!is_held(&gate, 2));
    assert_eq!(gate.connections.flushed, [1, 2], "both are written to");
}

#[test]
fn a_held_client_that_goes_on_learns_where_its_newest_bytes_end() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    assert!(gate.connections.flushed.is_empty(), "the server writes to it by itself");
    set(&mut gate, 1, "b");
    set(&mut gate, 1, "c");
    gate.close_group(|| 200);
    assert_eq!(gate.connections.flushed, [1]);
}

#[test]
fn a_barrier_holds_reads_of_everything() {
    let mut gate = gate();
    let group = gate.write_all();
    gate.hold(1, group);
    gate.close_group(|| 10);
    get(&mut gate, 2, "any");
    assert!(is_held(&gate, 2));
}

#[test]
fn an_iteration_without_writes_makes_no_group() {
    let mut gate = gate();
    for _ in 0..10 {
        gate.close_group(|| panic!("nobody needs the offset"));
    }
    assert_eq!(gate.waiting_groups(), 0);
}

#[test]
fn a_client_that_leaves_while_held_is_not_counted_any_more() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    set(&mut gate, 1, "b");
    gate.close_group(|| 200);
    gate.disconnected(1);
    assert_eq!(gate.held_clients(), 0);
    gate.release(200);
    assert_eq!(gate.held_clients(), 0);
}

#[test]
fn writes_without_a_connection_dirty_their_keys_all_the_same() {
    let mut gate = gate();
    set(&mut gate, 0, "a");
    assert_eq!(gate.held_clients(), 0);
    get(&mut gate, 2, "a");
    assert!(is_held(&gate, 2));
}

#[test]
fn abandoning_closes_those_who_wait_and_the_offset_may_go_back() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    set(&mut gate, 2, "b");
    set(&mut gate, 1, "c");
    gate.close_group(|| 200);
    set(&mut gate, 3, "d");
    gate.release(100);
    gate.abandon();
    assert_eq!(gate.connections.closed, [1, 2, 3]);
    assert!(gate.connections.half_closed_are_abandoned);
    assert!(gate.is_idle() && gate.dirty_keys() == 0);
    get(&mut gate, 4, "a");
    assert!(!is_held(&gate, 4));
    gate.write();
    gate.close_group(|| 50);
}

#[test]
fn memory_is_given_back_after_a_burst() {
    let mut gate = gate();
    for client in 1..=10_000 {
        set(&mut gate, client, &client.to_string());
    }
    gate.close_group(|| 1);
    gate.release(1);
    assert!(gate.spare.is_empty());
    assert!(gate.touched.capacity() <= SPARE_ENTRIES);
}

#[test]
#[should_panic(expected = "went back")]
fn an_offset_that_goes_back_is_noticed() {
    let mut gate = gate();
    gate.write();
    gate.close_group(|| 100);
    gate.write();
    gate.close_group(|| 99);
}

#[test]
fn a_client_that_is_held_because_of_a_message_waits_as_others_do() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    gate.connections.marks.insert(2, 1);
    gate.connections.late.push(LateHold { client: 2, group: 1, is_new: true, is_answer: false });
    gate.release(99);
    assert_eq!(gate.held_clients(), 2);
    gate.release(100);
    assert_eq!(gate.held_clients(), 0);
    // Told after its group was released: nobody else would have it written.
    gate.connections.flushed.clear();
    gate.connections.late.push(LateHold { client: 2, group: 1, is_new: true, is_answer: false });
    gate.release(100);
    assert_eq!((gate.held_clients(), &gate.connections.flushed[..]), (0, &[2][..]));
}

#[test]
fn who_gets_messages_is_closed_with_what_they_may_tell_of() {
    let mut gate = gate();
    gate.connections.receivers.push(9);
    gate.abandon();
    assert!(gate.connections.closed.is_empty(), "nothing was written");
    set(&mut gate, 1, "a");
    gate.abandon();
    gate.connections.closed.sort_unstable();
    assert_eq!(gate.connections.closed, [1, 9]);
    assert_eq!(gate.held_clients(), 2, "closed ones are held for good");
    for client in [1, 9] {
        gate.disconnected(client);
    }
    assert_eq!(gate.held_clients(), 0);
}

#[test]
fn a_connection_that_was_shut_while_it_was_written_to_is_closed() {
    let mut gate = Gate::new(Fake::default());
    gate.connections.late.push(LateHold { client: 2, group: Group::MAX, is_new: true, is_answer: false });
    assert_eq!(gate.take_late_holds(), 1);
    assert_eq!((gate.connections.closed.as_slice(), gate.held_clients()), (&[2][..], 1));
    gate.disconnected(2);
    assert_eq!(gate.held_clients(), 0);
}

#[test]
fn what_was_reported_of_a_client_that_leaves_is_taken_in_before_it_is_forgotten() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    gate.close_group(|| 100);
    gate.release(100);
    gate.connections.flushed.clear();
    for (client, group) in [(2, 1), (2, 2), (3, 2)] {
        gate.connections.marks.insert(client, group);
        gate.connections.late.push(LateHold { client, group, is_new: group == 2, is_answer: false });
    }
    gate.disconnected(2);
    assert_eq!(gate.connections.forgotten, [(2, 1)], "it is not found any more once it is forgotten");
    assert_eq!((gate.held_clients(), &gate.connections.flushed[..]), (1, &[2][..]));
}

#[test]
fn late_answers_are_told_once_and_messages_are_not() {
    let mut gate = Gate::new(Fake::default());
    gate.write();
    for (client, is_answer) in [(2, true), (3, false)] {
        gate.connections.late.push(LateHold { client, group: 1, is_new: true, is_answer });
    }
    gate.close_group(|| 10);
    gate.release(0);
    assert_eq!(gate.late_answers(), [(2, 1)]);
    assert_eq!(gate.late_answers(), []);
    assert_eq!(gate.held_clients(), 2);
}

#[test]
fn who_waits_for_an_older_group_is_asked_to_be_offered_again() {
    let mut gate = gate();
    set(&mut gate, 1, "a");
    set(&mut gate, 2, "b");
    gate.close_group(|| 10);
    let newest = gate.newest_closed_group();
    set(&mut gate, 3, "c");
    gate.close_group(|| 20);
    set(&mut gate, 4, "d");
    gate.connections.flushed.clear();
    assert_eq!(gate.offer_again(0), 0);
    assert_eq!(gate.offer_again(newest), 2);
    assert_eq!(gate.connections.flushed, [1, 2]);
    let newest = gate.newest_closed_group();
    gate.release(10);
    gate.connections.flushed.clear();
    assert_eq!(gate.offer_again(newest), 1);
    assert_eq!(gate.connections.flushed, [3]);
}

#[test]
fn a_throttled_reply_leaves_when_the_log_lacks_no_more_than_the_window() {
    let mut gate = gate();
    assert_eq!(gate.throttle(0, 300), Held::NoConnection);
    assert!(gate.is_idle(), "nothing is held");
    gate.throttle(1, 300);
    assert!(!gate.has_open_writes() && !gate.is_idle());
    gate.close_group(|| 1000);
    gate.throttle(2, 300);
    gate.close_group(|| 1100);
    assert_eq!((gate.throttled_clients(), gate.held_clients(), gate.dirty_keys()), (2, 2, 0));
    assert_eq!(gate.waiting_clients().count(), 0, "no timeout is for them");
    gate.release(699);
    assert!(is_held(&gate, 1));
    gate.release(700);
    assert!(!is_held(&gate, 1) && is_held(&gate, 2));
    gate.disconnected(2);
    assert_eq!((gate.throttled_clients(), gate.held_clients()), (0, 0));
    gate.release(800);
    assert!(gate.is_idle() && !gate.is_throttling());
}

#[test]
fn offsets_ascend_also_when_the_window_grows() {
    let mut gate = gate();
    gate.throttle(1, 0);
    gate.close_group(|| 1000);
    gate.throttle(2, 500);
    gate.close_group(|| 1001);
    gate.release(999);
    assert!(is_held(&gate, 1) && is_held(&gate, 2));
    gate.release(1000);
    assert!(gate.is_idle());
}

#[test]
fn a_reply_that_depends_on_a_write_waits_for_all_of_it_whatever_is_throttled_beside_it() {
    for is_first in [true, false] {
        let mut gate = gate();
        if is_first {
            gate.throttle(1, 300);
        }
        set(&mut gate, 2, "key");
        gate.throttle(1, 300);
        gate.close_group(|| 1000);
        gate.end_throttling();
        gate.release(999);
        assert!(is_held(&gate, 1) && is_held(&gate, 2));
        gate.release(1000);
        assert!(gate.is_idle());
    }
}

#[test]
fn when_throttling_ends_all_leave_but_those_behind_a_write() {
    let mut gate = gate();
    gate.throttle(1, 0);
    gate.close_group(|| 100);
    gate.throttle(2, 0);
    gate.close_group(|| 200);
    set(&mut gate, 3, "key");
    gate.close_group(|| 300);
    gate.throttle(4, 0);
    gate.close_group(|| 400);
    assert!(gate.is_throttling());
    gate.end_throttling();
    assert!(!is_held(&gate, 1) && !is_held(&gate, 2) && is_held(&gate, 3) && is_held(&gate, 4));
    gate.release(300);
    assert!(gate.is_idle() && !gate.is_throttling());
    assert_eq!(gate.held_clients(), 0);
    gate.throttle(1, 0);
    gate.close_group(|| 500);
    gate.abandon();
    assert!(!gate.is_throttling());
}
