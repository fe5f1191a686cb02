//! Which bytes of one connection may leave: the arithmetic of the gate, without a connection.
//!
//! A connection is held when one of its replies depends on a group of writes that the log has not acknowledged. The
//! valve learns, at each attempt of the server to write, how many bytes wait behind it, and so which byte position
//! ends which group. Positions count from the moment the valve closed.
//!
//! Some of the bytes that wait may have been taken from the server (`decide/taken_replies.rs`). They come before those that it offers.

use std::collections::VecDeque;

/// A numbered set of writes that become durable together. Group 0 is "before everything".
pub type Group = u64;

/// A connection that never pauses collects one boundary for each group in flight. Beyond this many, boundaries are
/// merged into the newest: its replies then wait longer than needed, never shorter.
const MAX_BOUNDARIES: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Boundary {
    group: Group,
    /// Position after the last byte that depends on `group`.
    end: u64,
}

/// What the valve answers to an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Nothing is held: everything may be sent, and the valve is out of the way again.
    Open,
    /// At most this many bytes may be sent, those that were taken first, then the offered ones; 0 means none.
    Part(u64),
}

/// The state of one held connection. Called under a lock, by the main thread and by I/O threads.
#[derive(Debug, Default)]
pub struct Valve {
    /// Bytes sent since the valve closed.
    sent: u64,
    /// Bytes taken from the server and not sent yet.
    taken: u64,
    /// Position up to which bytes may leave.
    allowed: u64,
    /// The newest group that a reply of this connection depends on.
    mark: Group,
    /// Ascending in both fields.
    boundaries: VecDeque<Boundary>,
}

impl Valve {
    /// The newest group that a reply of this connection depends on.
    pub fn mark(&self) -> Group {
        self.mark
    }

    /// Bytes that were offered last and may not leave yet, as far as the server showed them, with those that were taken from it.
    pub fn waiting_bytes(&self) -> u64 {
        (self.boundaries.back().map_or(self.allowed, |newest| newest.end) - self.sent).max(self.taken)
    }

    /// How many of the bytes that the server offers next were offered before.
    pub fn seen_bytes(&self) -> u64 {
        self.waiting_bytes() - self.taken
    }

    /// Bytes that were taken from the server and not sent yet.
    #[cfg(test)]
    fn taken_bytes(&self) -> u64 {
        self.taken
    }

    /// From now on the bytes that are pending, or come, depend on `group`. Returns whether that is news.
    pub fn hold(&mut self, group: Group) -> bool {
        let is_news = group > self.mark;
        self.mark = self.mark.max(group);
        is_news
    }

    /// The server offers `pending` bytes, the first of which is the one after the last that was sent or taken. `released` is
    /// the newest group that is durable.
    ///
    /// The server may show less than all that is pending. Bytes that appear later without a mark of their own
    /// belong to the newest boundary, so no byte is ever counted to an older group than its own.
    pub fn offer(&mut self, pending: u64, released: Group) -> Permit {
        let (newest, known) =
            self.boundaries.back().map_or((released, self.allowed), |boundary| (boundary.group, boundary.end));
        // An I/O thread may be shown less than the main thread was before.
        let all = self.taken + pending;
        let end = known.max(self.sent + all);
        if self.mark > newest && self.boundaries.len() < MAX_BOUNDARIES {
            self.boundaries.push_back(Boundary { group: self.mark, end });
        } else if let Some(last) = self.boundaries.back_mut() {
            last.group = last.group.max(self.mark);
            last.end = end;
        }
        while let Some(first) = self.boundaries.front() {
            if first.group > released {
                break;
            }
            self.allowed = first.end;
            self.boundaries.pop_front();
        }
        if self.boundaries.is_empty() {
            debug_assert!(self.mark <= released);
            if self.taken == 0 {
                self.open();
                return Permit::Open;
            }
            self.allowed = end;
        }
        debug_assert!(self.sent <= self.allowed);
        Permit::Part(all.min(self.allowed - self.sent))
    }

    /// `bytes` of those that a [`Permit::Part`] allowed were sent, those that were taken first.
    pub fn sent(&mut self, bytes: u64) {
        self.taken -= bytes.min(self.taken);
        self.sent += bytes;
        assert!(self.sent <= self.allowed, "a connection sent more than its valve allowed");
    }

    /// What was taken is offered again, before what the server has.
    pub fn untake(&mut self) {
        self.taken = 0;
    }

    /// The first `bytes` of those that were offered last were taken from the server.
    pub fn took(&mut self, bytes: u64) {
        self.taken += bytes;
        debug_assert!(self.taken <= self.waiting_bytes(), "more was taken than was offered");
    }

    /// Whether an attempt to write now would be allowed to send something.
    pub fn may_send(&self, released: Group) -> bool {
        self.mark <= released
            || self.sent < self.allowed
            || self.boundaries.front().is_some_and(|first| first.group <= released)
    }

    /// Nothing leaves any more until [`Valve::reset`], whatever is released. What was taken is forgotten.
    pub fn shut(&mut self) {
        *self = Valve { mark: Group::MAX, ..Valve::default() };
    }

    /// As new: nothing is held. What was taken is still to be sent.
    pub fn reset(&mut self) {
        *self = Valve { taken: self.taken, ..Valve::default() };
    }

    /// Ends a time of holding. Keeps no memory.
    fn open(&mut self) {
        *self = Valve { mark: self.mark, ..Valve::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reply_waits_for_its_group_and_no_longer() {
        let mut valve = Valve::default();
        assert!(valve.hold(1));
        assert_eq!(valve.offer(5, 0), Permit::Part(0));
        assert!(!valve.may_send(0));
        assert!(valve.may_send(1));
        assert_eq!(valve.offer(5, 1), Permit::Open);
    }

    #[test]
    fn groups_on_one_connection_leave_one_after_the_other() {
        let mut valve = Valve::default();
        valve.hold(1);
        assert_eq!(valve.offer(5, 0), Permit::Part(0));
        valve.hold(2);
        assert_eq!(valve.offer(12, 0), Permit::Part(0));
        assert_eq!(valve.offer(12, 1), Permit::Part(5));
        valve.sent(5);
        assert_eq!(valve.offer(7, 1), Permit::Part(0));
        assert_eq!(valve.offer(7, 2), Permit::Open);
    }

    #[test]
    fn a_reply_without_a_mark_stays_behind_the_held_one_before_it() {
        let mut valve = Valve::default();
        valve.hold(1);
        assert_eq!(valve.offer(5, 0), Permit::Part(0));
        assert_eq!(valve.offer(12, 0), Permit::Part(0), "a PING after the SET");
        assert_eq!(valve.offer(12, 1), Permit::Open);
    }

    #[test]
    fn a_partial_write_goes_on_where_it_stopped() {
        let mut valve = Valve::default();
        valve.hold(1);
        valve.offer(100, 0);
        valve.hold(2);
        valve.offer(150, 0);
        assert_eq!(valve.offer(150, 1), Permit::Part(100));
        valve.sent(60);
        assert!(valve.may_send(1));
        assert_eq!(valve.offer(90, 1), Permit::Part(40));
        valve.sent(40);
        assert!(!valve.may_send(1));
        assert_eq!(valve.offer(50, 1), Permit::Part(0));
    }

    #[test]
    fn what_was_taken_leaves_before_what_the_server_offers() {
        let mut valve = Valve::default();
        valve.hold(1);
        assert_eq!(valve.offer(100, 0), Permit::Part(0));
        valve.took(70);
        valve.hold(2);
        assert_eq!(valve.offer(40, 0), Permit::Part(0), "30 of the old ones and 10 new ones");
        assert_eq!((valve.waiting_bytes(), valve.seen_bytes()), (110, 40));
        assert_eq!(valve.offer(40, 1), Permit::Part(100));
        valve.sent(60);
        assert_eq!(valve.taken_bytes(), 10);
        assert_eq!(valve.offer(40, 1), Permit::Part(40));
        valve.sent(40);
        assert_eq!((valve.taken_bytes(), valve.seen_bytes()), (0, 10));
        assert_eq!(valve.offer(10, 2), Permit::Open);
    }

    #[test]
    fn a_valve_is_not_open_before_all_that_was_taken_is_sent() {
        let mut valve = Valve::default();
        valve.hold(1);
        valve.offer(100, 0);
        valve.took(99);
        assert_eq!(valve.offer(1, 1), Permit::Part(100));
        valve.sent(50);
        assert!(valve.may_send(1));
        assert_eq!(valve.offer(21, 1), Permit::Part(70), "20 more that wait for nothing");
        valve.sent(50);
        valve.hold(2);
        assert_eq!(valve.offer(30, 1), Permit::Part(20));
        valve.sent(20);
        assert_eq!(valve.offer(10, 1), Permit::Part(0));
        assert_eq!(valve.offer(10, 2), Permit::Open);
        valve.hold(3);
        valve.offer(10, 2);
        valve.took(9);
        valve.reset();
        assert_eq!(valve.offer(1, 2), Permit::Part(10));
        valve.shut();
        assert_eq!((valve.taken_bytes(), valve.offer(1, 9)), (0, Permit::Part(0)));
    }

    #[test]
    fn a_shut_valve_lets_nothing_leave_whatever_is_released() {
        let mut valve = Valve::default();
        valve.hold(1);
        valve.offer(5, 0);
        valve.shut();
        assert_eq!(valve.offer(5, 1_000), Permit::Part(0));
        assert!(!valve.may_send(1_000));
        valve.reset();
        assert_eq!(valve.offer(5, 0), Permit::Open);
    }

    #[test]
    fn more_groups_than_boundaries_only_make_replies_wait_longer() {
        let mut valve = Valve::default();
        let groups = MAX_BOUNDARIES as u64 + 10;
        for group in 1..=groups {
            valve.hold(group);
            assert_eq!(valve.offer(group, 0), Permit::Part(0));
        }
        assert_eq!(valve.boundaries.len(), MAX_BOUNDARIES);
        assert_eq!(valve.offer(groups, groups - 1), Permit::Part(MAX_BOUNDARIES as u64 - 1));
        assert_eq!(valve.offer(groups, groups), Permit::Open);
    }

    /// What can happen to a connection, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        /// A command answered with so many bytes, and its reply depends on a group of this iteration or none.
        Reply { bytes: u64, write: bool },
        /// The event loop goes round: the server tries to write, showing at most so many bytes. The socket has room for so many,
        /// and of what may not leave, that part of 256 is taken.
        Attempt { shown: u64, room: u64, takes: u8 },
        /// The log acknowledged so many more groups.
        Release { groups: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..50u64, any::<bool>()).prop_map(|(bytes, write)| Step::Reply { bytes, write }),
            (1..200u64, prop_oneof![0..300u64, Just(u64::MAX)], prop_oneof![Just(0u8), any::<u8>()])
                .prop_map(|(shown, room, takes)| Step::Attempt { shown, room, takes }),
            (1..3u64).prop_map(|groups| Step::Release { groups }),
        ]
    }

    fn sum(bytes: &VecDeque<(u64, Group)>) -> u64 {
        bytes.iter().map(|(bytes, _)| bytes).sum()
    }

    /// Takes the first `count` bytes out.
    fn cut(from: &mut VecDeque<(u64, Group)>, mut count: u64) -> Vec<(u64, Group)> {
        let mut out = Vec::new();
        while count > 0 {
            let (bytes, group) = from.pop_front().unwrap();
            let part = bytes.min(count);
            out.push((part, group));
            if bytes > part {
                from.push_front((bytes - part, group));
            }
            count -= part;
        }
        out
    }

    proptest! {
        #[test]
        fn no_byte_of_a_write_leaves_before_its_group(steps in proptest::collection::vec(step(), 1..200)) {
            let mut valve = Valve::default();
            let (mut open_group, mut released) = (1, 0);
            // What the server has, and what was taken from it and comes before: bytes, and the group that they wait for.
            let mut pending: VecDeque<(u64, Group)> = VecDeque::new();
            let mut taken: VecDeque<(u64, Group)> = VecDeque::new();
            let mut gated = false;
            for step in steps {
                match step {
                    Step::Reply { bytes, write } => {
                        if write {
                            valve.hold(open_group);
                            gated = true;
                        }
                        pending.push_back((bytes, if write { open_group } else { 0 }));
                    }
                    Step::Release { groups } => {
                        released = (released + groups).min(open_group - 1);
                    }
                    Step::Attempt { shown, room, takes } => {
                        open_group += 1;
                        let shown = shown.min(sum(&pending));
                        if shown == 0 { continue }
                        let permit = if gated { valve.offer(shown, released) } else { Permit::Open };
                        let sent = match permit {
                            Permit::Open => {
                                prop_assert_eq!(sum(&taken), 0, "what was taken is left behind");
                                gated = false;
                                shown.min(room)
                            }
                            Permit::Part(allowed) => {
                                let sent = allowed.min(room);
                                valve.sent(sent);
                                sent
                            }
                        };
                        prop_assert!(sent <= sum(&taken) + shown);
                        let own = sent.min(sum(&taken));
                        for (_, group) in cut(&mut taken, own).into_iter().chain(cut(&mut pending, sent - own)) {
                            prop_assert!(group <= released, "a byte of group {} left at {}", group, released);
                        }
                        // One byte stays, so that the server writes again.
                        let takes = (shown - 1) * u64::from(takes) / 256;
                        if permit == Permit::Part(0) && takes > 0 {
                            valve.took(takes);
                            taken.extend(cut(&mut pending, takes));
                        }
                        if gated {
                            prop_assert_eq!(valve.taken_bytes(), sum(&taken));
                            prop_assert!(valve.seen_bytes() <= sum(&pending));
                        }
                    }
                }
            }
            // Once everything is durable, everything leaves.
            if gated && sum(&pending) > 0 {
                let all = sum(&taken) + sum(&pending);
                let permit = valve.offer(sum(&pending), open_group);
                prop_assert_eq!(permit, if taken.is_empty() { Permit::Open } else { Permit::Part(all) });
            }
        }
    }
}
