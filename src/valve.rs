//! Which bytes of one connection may leave: the arithmetic of the gate, without a connection.
//!
//! A connection is held when one of its replies depends on a group of writes that the log has not acknowledged. The
//! valve learns, at each attempt of the server to write, how many bytes wait behind it, and so which byte position
//! ends which group. Positions count from the moment the valve closed.

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
    /// At most this many of the offered bytes may be sent; 0 means none.
    Part(u64),
}

/// The state of one held connection. Called under a lock, by the main thread and by I/O threads.
#[derive(Debug, Default)]
pub struct Valve {
    /// Bytes sent since the valve closed.
    sent: u64,
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

    /// Bytes that were offered last and may not leave yet, as far as the server showed them.
    pub fn waiting_bytes(&self) -> u64 {
        self.boundaries.back().map_or(0, |newest| newest.end - self.sent)
    }

    /// From now on the bytes that are pending, or come, depend on `group`. Returns whether that is news.
    pub fn hold(&mut self, group: Group) -> bool {
        let is_news = group > self.mark;
        self.mark = self.mark.max(group);
        is_news
    }

    /// The server offers `pending` bytes, the first of which is the one after the last that was sent. `released` is
    /// the newest group that is durable.
    ///
    /// The server may show less than all that is pending. Bytes that appear later without a mark of their own
    /// belong to the newest boundary, so no byte is ever counted to an older group than its own.
    pub fn offer(&mut self, pending: u64, released: Group) -> Permit {
        let (newest, known) = self.boundaries.back().map_or((released, 0), |boundary| (boundary.group, boundary.end));
        // An I/O thread may be shown less than the main thread was before.
        let end = known.max(self.sent + pending);
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
            self.open();
            return Permit::Open;
        }
        debug_assert!(self.sent <= self.allowed);
        Permit::Part(pending.min(self.allowed - self.sent))
    }

    /// `bytes` of those that a [`Permit::Part`] allowed were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
        assert!(self.sent <= self.allowed, "a connection sent more than its valve allowed");
    }

    /// Whether an attempt to write now would be allowed to send something.
    pub fn may_send(&self, released: Group) -> bool {
        self.mark <= released
            || self.sent < self.allowed
            || self.boundaries.front().is_some_and(|first| first.group <= released)
    }

    /// Nothing leaves any more until [`Valve::reset`], whatever is released.
    pub fn shut(&mut self) {
        *self = Valve { mark: Group::MAX, ..Valve::default() };
    }

    /// As new: nothing is held.
    pub fn reset(&mut self) {
        *self = Valve::default();
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
        /// The event loop goes round: the server tries to write, showing at most so many bytes.
        Attempt { shown: u64 },
        /// The log acknowledged so many more groups.
        Release { groups: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..50u64, any::<bool>()).prop_map(|(bytes, write)| Step::Reply { bytes, write }),
            (1..200u64).prop_map(|shown| Step::Attempt { shown }),
            (1..3u64).prop_map(|groups| Step::Release { groups }),
        ]
    }

    proptest! {
        #[test]
        fn no_byte_of_a_write_leaves_before_its_group(steps in proptest::collection::vec(step(), 1..200)) {
            let mut valve = Valve::default();
            let (mut open_group, mut released) = (1, 0);
            let mut pending: VecDeque<(u64, Group)> = VecDeque::new();
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
                    Step::Attempt { shown } => {
                        open_group += 1;
                        let all: u64 = pending.iter().map(|(bytes, _)| bytes).sum();
                        let shown = shown.min(all);
                        if shown == 0 { continue }
                        let permit = if gated { valve.offer(shown, released) } else { Permit::Open };
                        let mut take = match permit {
                            Permit::Open => { gated = false; shown }
                            Permit::Part(bytes) => { valve.sent(bytes); bytes }
                        };
                        prop_assert!(take <= shown);
                        while take > 0 {
                            let (bytes, group) = pending.pop_front().unwrap();
                            prop_assert!(group <= released, "a byte of group {} left at {}", group, released);
                            if bytes > take {
                                pending.push_front((bytes - take, group));
                                take = 0;
                            } else {
                                take -= bytes;
                            }
                        }
                    }
                }
            }
            // Once everything is durable, everything leaves.
            let all: u64 = pending.iter().map(|(bytes, _)| bytes).sum();
            if gated && all > 0 {
                prop_assert_eq!(valve.offer(all, open_group), Permit::Open);
            }
        }
    }
}
