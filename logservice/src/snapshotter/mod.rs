//! Makes snapshots without the leader, when they are due or requested, and runs audits: several at a time, each of another shard. One task
//! looks at all shards; each attempt is a task of its own. Where several services keep a log, one that follows makes its snapshots, and the
//! one that decides over the log makes one only if none of them can.
//!
//! This file decides when a snapshot is due. Read `turns.rs` first: which shard is next. `attempts.rs` is one attempt, `make.rs` makes one
//! snapshot, and has the order of its steps, `clear_end.rs` says up to where it may go, and `elsewhere.rs` has another service make one.

mod attempts;
mod clear_end;
mod elsewhere;
mod make;
mod turns;

pub use make::MakeError;
pub use turns::run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};

use crate::base::background::Priority;
use crate::base::printable::printable;
use crate::engine::EngineOptions;
use crate::service::Service;
use crate::shard::Shard;

/// How often to check whether a shard's log has grown enough.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Time from a failure to the next attempt; doubled with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(30);
/// The longest such time.
const LAST_RETRY: Duration = Duration::from_secs(3600);

/// How snapshots are made.
#[derive(Debug, Clone)]
pub struct SnapshotterOptions {
    /// The engine.
    pub engine: EngineOptions,
    /// Most attempts at a time.
    pub max_engines: usize,
    /// Snapshots that are kept of each shard; at least one is.
    pub keep: usize,
    /// Length of the log since the last snapshot at which the next one should be done, or the length of that snapshot if it is longer. 0:
    /// snapshots are made only on request.
    pub log_bytes: u64,
}

impl SnapshotterOptions {
    /// The same with engines of another priority.
    fn with_priority(&self, priority: Priority) -> Self {
        SnapshotterOptions { engine: EngineOptions { priority, ..self.engine.clone() }, ..self.clone() }
    }
}

/// The results of attempts at a shard's snapshots. A requested attempt counts only if it made one.
#[derive(Debug, Clone, Copy)]
struct Attempts {
    last: Instant,
    /// The next attempt waits until then after failures.
    not_before: Instant,
    next_wait: Duration,
    /// Bytes that were written to the log while the last snapshot was made.
    grown_bytes: u64,
}

impl Attempts {
    /// Whether there may be another attempt. If the log is out of space, the wait does not grow with each failure.
    fn allow(&self, now: Instant, is_out_of_space: bool) -> bool {
        let latest = self.last + FIRST_RETRY;
        now >= if is_out_of_space { self.not_before.min(latest) } else { self.not_before }
    }

    /// Adds one more attempt, during which the log grew by `grown_bytes`; `None` if it failed.
    fn after(before: Option<Self>, grown_bytes: Option<u64>) -> Self {
        let last = Instant::now();
        match grown_bytes {
            Some(grown_bytes) => Attempts { last, not_before: last, next_wait: FIRST_RETRY, grown_bytes },
            None => {
                let (wait, grown_bytes) =
                    before.map_or((FIRST_RETRY, 0), |before| (before.next_wait, before.grown_bytes));
                Attempts { last, not_before: last + wait, next_wait: (wait * 2).min(LAST_RETRY), grown_bytes }
            }
        }
    }
}

/// The shard that was tried longest ago, among those that are due, may be tried, and are not `is_busy`.
fn most_overdue(
    service: &Service,
    options: &SnapshotterOptions,
    attempts: &BTreeMap<String, Attempts>,
    is_busy: impl Fn(&Shard) -> bool,
) -> Option<Arc<Shard>> {
    let now = Instant::now();
    let may_try = |shard: &Arc<Shard>| {
        attempts.get(&shard.log_id()).is_none_or(|attempts| attempts.allow(now, shard.is_out_of_space()))
    };
    let grown_bytes = |shard: &Shard| attempts.get(&shard.log_id()).map_or(0, |attempts| attempts.grown_bytes);
    let is_due = |shard: &Arc<Shard>| is_due(shard, options, grown_bytes(shard));
    let due = service
        .open_shards()
        .into_iter()
        .filter(|shard| shard.decides())
        .filter(is_due)
        .filter(may_try)
        .filter(|shard| !is_busy(shard));
    due.min_by_key(|shard| attempts.get(&shard.log_id()).map(|attempts| attempts.last))
}

fn refusal(error: MakeError) -> Refusal {
    match error {
        MakeError::Refused(Refusal { code, detail }) => Refusal::new(code, format!("no snapshot was made: {detail}")),
        error => Refusal::new(Code::Err, printable(&format!("no snapshot was made: {error}"))),
    }
}

/// Whether the log since the last snapshot is long enough, given how much it grew while that was made.
fn is_due(shard: &Shard, options: &SnapshotterOptions, grown_bytes: u64) -> bool {
    let SnapshotterOptions { log_bytes, keep, .. } = *options;
    if log_bytes == 0 {
        return false;
    }
    let manifest = shard.store().manifest();
    let (offset, bytes) = manifest.newest_snapshot().map_or((manifest.base, 0), |newest| (newest.offset, newest.bytes));
    let since = shard.notifier().progress().visible.saturating_sub(offset);
    let bound = bound(log_bytes.max(bytes), shard.store().usage().max_log_bytes, keep);
    since > starts_at(bound, grown_bytes) || since > 0 && shard.is_over_quota()
}

/// How long the log since the last snapshot may become: `wanted`, but no more than a share of the most that the log may take. That has to
/// hold what `keep` snapshots need and what is written while the next one is made.
fn bound(wanted: u64, max_log_bytes: Option<u64>, keep: usize) -> u64 {
    max_log_bytes.map_or(wanted, |most| wanted.min(most / (keep as u64 + 1)))
}

/// The length of the log at which a snapshot is begun, so that it is about `bound` when the snapshot is done. Not before half of `bound`, as
/// a writer that outruns the snapshotter would otherwise cause snapshots without a pause.
fn starts_at(bound: u64, grown_bytes: u64) -> u64 {
    bound.saturating_sub(grown_bytes).max(bound / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_begun_so_early_that_the_log_is_at_the_bound_when_it_is_done() {
        assert_eq!(starts_at(100, 0), 100);
        assert_eq!(starts_at(100, 30), 70);
        assert_eq!(starts_at(100, 80), 50);
        assert_eq!(starts_at(100, u64::MAX), 50);
    }

    #[test]
    fn a_snapshot_is_due_before_the_log_is_as_long_as_it_may_be() {
        assert_eq!(bound(256, None, 1), 256);
        assert_eq!(bound(256, Some(1000), 1), 256);
        assert_eq!(bound(5000, Some(1000), 1), 500);
        assert_eq!(bound(5000, Some(1000), 4), 200);
    }

    #[test]
    fn a_failure_keeps_what_is_known_of_the_growth_and_puts_off_the_next_attempt() {
        let made = Attempts::after(None, Some(7));
        assert_eq!((made.not_before, made.grown_bytes), (made.last, 7));
        let failed = Attempts::after(Some(made), None);
        assert_eq!((failed.not_before, failed.grown_bytes), (failed.last + FIRST_RETRY, 7));
        let again = Attempts::after(Some(failed), None);
        assert_eq!(again.not_before, again.last + 2 * FIRST_RETRY);
        let made = Attempts::after(Some(again), Some(7));
        assert_eq!((made.not_before, made.next_wait), (made.last, FIRST_RETRY));
    }

    #[test]
    fn a_log_without_space_is_not_put_off_for_longer_than_after_the_first_failure() {
        let failed = (0..8).fold(None, |before, _| Some(Attempts::after(before, None))).expect("some");
        let (soon, at_last) = (failed.last + FIRST_RETRY, failed.not_before);
        assert!(at_last > soon);
        assert!(!failed.allow(soon, false) && failed.allow(at_last, false));
        assert!(!failed.allow(soon - Duration::from_millis(1), true) && failed.allow(soon, true));
        // A snapshot that was made is followed by the next as soon as that is due.
        let made = Attempts::after(Some(failed), Some(0));
        assert!(made.allow(made.last, true) && made.allow(made.last, false));
    }
}
