//! What waits to be made durable.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use raft::eraftpb::Entry;

use crate::replica::copy::{Install, Persist, Vote};

/// Data of entries that is written and synced at once, unless a single [`Persist`] has more.
const BATCH_BYTES: usize = 4 << 20;

/// Several [`Persist`]s that are done together: the vote first, then the base, then the entries.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// The number of the last of them.
    pub number: u64,
    /// The newest vote.
    pub vote: Option<Vote>,
    /// The copy begins anew.
    pub install: Option<Install>,
    /// All entries but those that others have replaced meanwhile.
    pub entries: Vec<Entry>,
}

impl Batch {
    /// Takes over what comes next.
    fn add(&mut self, persist: Persist) {
        self.number = self.number.max(persist.number);
        self.vote = persist.vote.or(self.vote);
        if persist.install.is_some() {
            self.install = persist.install;
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            let kept = self.entries.partition_point(|entry| entry.index < first.index);
            self.entries.truncate(kept);
            self.entries.extend(persist.entries);
        }
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }
}

/// What waits, in order. There is one consumer for as long as there is anything in it.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Persist>,
    is_closed: bool,
    has_failed: bool,
    /// There is a consumer, or one was requested.
    has_consumer: bool,
}

impl Queue {
    /// Adds what is to be done last, unless the queue is closed. Returns whether the caller has to request a consumer.
    pub fn push(&self, persist: Persist) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            return false;
        }
        state.waiting.push_back(persist);
        !std::mem::replace(&mut state.has_consumer, true)
    }

    /// What is to be done next; none if nothing is: then the consumer has left. Called by the consumer.
    pub fn next_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        let mut batch = Batch::default();
        batch.add(match state.waiting.pop_front() {
            Some(first) => first,
            None => {
                self.leave(&mut state);
                return None;
            }
        });
        let mut bytes = batch.bytes();
        while let Some(next) = state.waiting.front() {
            bytes += next.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
            if bytes > BATCH_BYTES {
                break;
            }
            if let Some(next) = state.waiting.pop_front() {
                batch.add(next);
            }
        }
        Some(batch)
    }

    /// Takes nothing more; what waits is still handed out.
    pub fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Takes nothing more and drops what waits; the consumer has left. Called by the consumer.
    pub fn fail(&self) {
        let mut state = self.lock();
        (state.is_closed, state.has_failed) = (true, true);
        state.waiting.clear();
        self.leave(&mut state);
    }

    /// Whether it has failed.
    pub fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Waits until there is no consumer, and none was requested.
    pub fn wait_until_left(&self) {
        let left = self.left.wait_while(self.lock(), |state| state.has_consumer);
        drop(left);
    }

    fn leave(&self, state: &mut State) {
        state.has_consumer = false;
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
        indexes.map(|index| Entry { index, term, ..Entry::default() }).collect()
    }

    fn persist(number: u64, entries: Vec<Entry>) -> Persist {
        Persist { number, entries, ..Persist::default() }
    }

    #[test]
    fn what_waits_is_done_together() {
        let queue = Queue::default();
        assert!(queue.push(persist(1, entries(5..8, 1))), "a consumer is needed");
        assert!(!queue.push(Persist { vote: Some(Vote { term: 2, member: 1 }), ..persist(2, entries(8..9, 1)) }));
        assert!(!queue.push(Persist { vote: Some(Vote { term: 3, member: 0 }), ..persist(4, entries(6..8, 3)) }));
        let batch = queue.next_batch().expect("a batch");
        let expected = [entries(5..6, 1), entries(6..8, 3)].concat();
        let vote = Some(Vote { term: 3, member: 0 });
        assert_eq!(batch, Batch { number: 4, vote, install: None, entries: expected });
        assert_eq!(queue.next_batch(), None);
        assert!(queue.push(persist(5, entries(8..9, 3))), "the consumer has left");
    }

    #[test]
    fn a_base_that_is_installed_drops_what_was_to_be_written_before() {
        let queue = Queue::default();
        let install = Install { base: Default::default(), checkpoint: Default::default() };
        queue.push(persist(1, entries(5..8, 1)));
        queue.push(Persist { install: Some(install.clone()), ..persist(2, Vec::new()) });
        queue.push(persist(3, entries(90..92, 4)));
        let batch = queue.next_batch().expect("a batch");
        assert_eq!(batch, Batch { number: 3, vote: None, install: Some(install), entries: entries(90..92, 4) });
    }

    #[test]
    fn a_batch_is_bounded_and_nothing_is_taken_once_closed() {
        let queue = Queue::default();
        for number in 1..=3 {
            let data = vec![0; BATCH_BYTES / 2 + 1].into();
            queue.push(persist(number, vec![Entry { index: number, data, ..Entry::default() }]));
        }
        queue.close();
        queue.push(persist(4, entries(4..5, 1)));
        let numbers = std::iter::from_fn(|| queue.next_batch()).map(|batch| batch.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3]);
    }
}
