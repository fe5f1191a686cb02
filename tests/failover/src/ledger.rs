//! All answers that clients got from leaders, with the epoch of who answered.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::leader::Term;

/// An answer of a leader.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Of the leader, as it said on that connection.
    pub term: Term,
    /// Before this the operation was not sent.
    pub invoked: Instant,
    /// By then the answer was there.
    pub answered: Instant,
    /// Whether it acknowledged a write.
    pub is_write: bool,
}

/// What all clients write into.
#[derive(Debug, Default)]
pub struct Ledger {
    answers: Mutex<Vec<Answer>>,
    added: Condvar,
}

impl Ledger {
    /// Adds an answer that has just arrived.
    pub fn add(&self, term: Term, invoked: Instant, is_write: bool) {
        let mut answers = self.lock();
        answers.push(Answer { term, invoked, answered: Instant::now(), is_write });
        self.added.notify_all();
    }

    /// Waits for a write that was sent after `since` to be acknowledged in a later epoch than `epoch`. Returns when that was.
    pub fn wait_for_write(&self, epoch: u64, since: Instant, timeout: Duration) -> Option<Instant> {
        let mut seen = 0;
        let mut found = None;
        let waited = self.added.wait_timeout_while(self.lock(), timeout, |answers| {
            let fits = |answer: &&Answer| answer.is_write && answer.term.epoch > epoch && answer.invoked > since;
            found = answers[seen..].iter().find(fits).map(|answer| answer.answered);
            seen = answers.len();
            found.is_none()
        });
        drop(waited);
        found
    }

    /// All answers so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says so if two leaders of a shard answered at the same time: somebody sent an operation after a later leader had answered, and the
/// earlier one answered it.
pub fn overlap(answers: &[Answer]) -> Option<String> {
    let mut by_term: Vec<&Answer> = answers.iter().collect();
    by_term.sort_by_key(|answer| std::cmp::Reverse(answer.term));
    // The first answer of each later epoch of the same shard.
    let mut first: Option<&Answer> = None;
    for term in by_term.chunk_by(|one, other| one.term == other.term) {
        first = first.filter(|later| later.term.shard == term[0].term.shard);
        if let Some(later) = first {
            let late = term.iter().filter(|answer| answer.invoked > later.answered);
            if let Some(late) = late.max_by_key(|answer| answer.invoked) {
                return Some(format!(
                    "{} answered {} sent {:.3} ms after {} had answered",
                    late.term,
                    if late.is_write { "a write" } else { "a read" },
                    (late.invoked - later.answered).as_secs_f64() * 1000.0,
                    later.term
                ));
            }
        }
        let earliest = term.iter().copied().min_by_key(|answer| answer.answered);
        first = first.into_iter().chain(earliest).min_by_key(|answer| answer.answered);
    }
    None
}

/// The longest time between two acknowledged writes, in all epochs together, and when it began.
pub fn longest_gap(answers: &[Answer]) -> (Duration, Option<Instant>) {
    let mut times: Vec<Instant> =
        answers.iter().filter(|answer| answer.is_write).map(|answer| answer.answered).collect();
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0], Some(pair[0])));
    gaps.max_by_key(|(gap, _)| *gap).unwrap_or_default()
}

/// How often a leader that answered followed another one, in all shards.
pub fn takeovers(answers: &[Answer]) -> usize {
    let terms: BTreeSet<Term> = answers.iter().map(|answer| answer.term).collect();
    let shards: BTreeSet<usize> = terms.iter().map(|term| term.shard).collect();
    terms.len() - shards.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(of: &[(u64, u64, u64)]) -> Vec<Answer> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let answer = |&(epoch, invoked, answered)| Answer {
            term: Term { shard: epoch as usize / 100, epoch },
            invoked: at(invoked),
            answered: at(answered),
            is_write: true,
        };
        of.iter().map(answer).collect()
    }

    #[test]
    fn an_answer_to_what_was_sent_after_a_later_leader_answered_is_found() {
        assert_eq!(overlap(&answers(&[(1, 0, 1), (2, 5, 6), (1, 3, 9)])), None);
        assert!(overlap(&answers(&[(1, 0, 1), (2, 5, 6), (1, 7, 9)])).is_some());
        assert!(overlap(&answers(&[(1, 0, 1), (3, 5, 6), (2, 7, 9)])).is_some());
        // Shards have nothing to do with each other.
        assert_eq!(overlap(&answers(&[(1, 0, 1), (102, 5, 6), (1, 7, 9), (101, 2, 3)])), None);
        // Also if the epoch in between began late.
        assert!(overlap(&answers(&[(1, 7, 8), (2, 20, 21), (3, 5, 6)])).is_some());
    }

    #[test]
    fn the_first_leader_of_a_shard_takes_over_from_nobody() {
        assert_eq!(takeovers(&answers(&[(1, 0, 1), (2, 0, 1), (2, 0, 1), (101, 0, 1), (103, 0, 1), (104, 0, 1)])), 3);
        assert_eq!(takeovers(&[]), 0);
    }

    #[test]
    fn gaps_are_between_writes() {
        let answers = answers(&[(1, 0, 1), (2, 5, 60), (1, 3, 9)]);
        assert_eq!(longest_gap(&answers), (Duration::from_millis(51), Some(answers[2].answered)));
    }
}
