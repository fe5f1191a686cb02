//! What is acknowledged before this copy's own disk has it: a quorum of the others has.
//!
//! The consensus crate hands out committed entries to be applied when they are persisted here as well. An append that was proposed here can
//! be applied if it is committed (rule 3), so its sender need not wait for that.

use std::collections::VecDeque;

use super::rule_switches::{holds, Rule};
use super::{Event, Group};

/// Entries that were proposed in a term and are not applied, in order.
#[derive(Debug, Default)]
pub(super) struct Proposed {
    /// Index of each, and the end of the log with it; none if it is a state. What comes after a state is acknowledged when that is applied.
    entries: VecDeque<(u64, Option<u64>)>,
    /// The end that was acknowledged.
    told: u64,
}

impl Proposed {
    /// An entry was proposed.
    pub fn note(&mut self, index: u64, end: Option<u64>) {
        self.entries.push_back((index, end));
    }

    /// The last entry up to `committed` of which the log's end can be told, if that is news; all up to `applied` was told.
    fn next(&mut self, applied: u64, committed: u64) -> Option<(u64, u64)> {
        while self.entries.front().is_some_and(|&(index, _)| index <= applied) {
            self.entries.pop_front();
        }
        let mut last = None;
        while let Some(&(index, Some(end))) = self.entries.front().filter(|&&(index, _)| index <= committed) {
            last = Some((index, end));
            self.entries.pop_front();
        }
        last.filter(|&(_, end)| std::mem::replace(&mut self.told, end) < end)
    }
}

impl Group {
    /// Tells what a quorum has and this copy's own disk has not.
    pub(super) fn acknowledge(&mut self) {
        let applied = self.machine.position().index;
        let raft_log = &self.node.raft.raft_log;
        let committed = if holds(Rule::AcknowledgesCommitted) { raft_log.committed } else { raft_log.last_index() };
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.decides()) else { return };
        let next = leading.proposed.next(applied, committed);
        self.events.extend(next.map(|(index, end)| Event::Acknowledged { index, end }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_state_waits_until_that_is_applied() {
        let mut proposed = Proposed::default();
        for (index, end) in [(2, Some(10)), (3, Some(20)), (4, None), (5, Some(30))] {
            proposed.note(index, end);
        }
        assert_eq!(proposed.next(1, 1), None);
        assert_eq!(proposed.next(1, 3), Some((3, 20)));
        assert_eq!(proposed.next(2, 5), None, "the state is not applied");
        assert_eq!(proposed.next(3, 5), None);
        assert_eq!(proposed.next(4, 5), Some((5, 30)));
        assert_eq!(proposed.next(5, 5), None);
    }
}
