//! What a shard knows of its archive, and shows of it. The [archiver](crate::archiver) writes it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::Notify;

use super::ArchiveOptions;
use crate::base::log_throttle::{LineBudget, ReasonThrottle};
use crate::store::SnapshotRecord;

/// The archive of a shard, as far as the service that decides over its log knows it.
#[derive(Debug)]
pub struct ArchiveWatch {
    options: ArchiveOptions,
    known: Mutex<Known>,
    due: Notify,
    /// Held while a named backup is made, so that no name is taken twice.
    pub naming: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// None until the archive was listed.
    reached: Option<Reached>,
    /// Files of the snapshots that it has.
    files: BTreeSet<String>,
    error: Option<String>,
    failures: u64,
    failing_since_ms: u64,
    oldest_ms: u64,
    gaps: u64,
    told: ReasonThrottle,
    lines: LineBudget,
}

/// Up to where the log is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reached {
    generation: u64,
    end: u64,
}

/// How the archive of a shard goes, as an operator sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// The end (exclusive) of what is in the archive; -1 if there is none, or it is not known yet.
    pub end: i64,
    /// Age of the oldest byte that is not in the archive, in milliseconds; 0 if all is there.
    pub behind_ms: u64,
    /// Attempts that have failed since the last one that did not.
    pub failures: u64,
    /// When the first of them did, in milliseconds since 1970; 0 none did.
    pub failing_since_ms: u64,
    /// Times that log was given up before it was in the archive, since the service started.
    pub gaps: u64,
    /// Why the last attempt failed; empty if it did not.
    pub error: String,
}

impl ArchiveWatch {
    /// The archive of a shard, of which nothing is known.
    pub fn new(options: ArchiveOptions) -> Self {
        let (known, due, naming) = (Mutex::default(), Notify::new(), tokio::sync::Mutex::default());
        ArchiveWatch { options, known, due, naming }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How it is kept.
    pub fn options(&self) -> &ArchiveOptions {
        &self.options
    }

    /// All log is to be archived now that is durable.
    pub fn ask(&self) {
        self.due.notify_one();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.due.notified().await;
    }

    /// The archive has the snapshots of these `files`.
    pub fn set_files(&self, files: BTreeSet<String>) {
        self.lock().files = files;
    }

    /// The archive has the snapshot of that `file`.
    pub fn add_file(&self, file: &str) {
        self.lock().files.insert(file.to_owned());
    }

    /// The log of `generation` is in the archive up to `end` (exclusive), from a snapshot on that is there.
    pub fn set_end(&self, generation: u64, end: u64) {
        self.lock().reached = Some(Reached { generation, end });
    }

    /// The archive is to be listed again before anything is done by what is known.
    pub fn forget(&self) {
        self.lock().reached = None;
    }

    /// When the oldest byte was written that is not in the archive, in milliseconds since 1970; 0 if all is there.
    pub fn set_oldest(&self, time_ms: u64) {
        self.lock().oldest_ms = time_ms;
    }

    /// Log was given up before it was archived.
    pub fn note_gap(&self) {
        self.lock().gaps += 1;
    }

    /// An attempt went well.
    pub fn note_success(&self) {
        let mut known = self.lock();
        (known.failures, known.failing_since_ms, known.error) = (0, 0, None);
    }

    /// An attempt failed at `unix_ms`. Answers whether that is worth a line.
    pub fn note_failure(&self, error: &str, unix_ms: u64) -> bool {
        let (mut known, now) = (self.lock(), Instant::now());
        if known.failures == 0 {
            known.failing_since_ms = unix_ms;
        }
        known.failures += 1;
        known.error = Some(error.to_owned());
        known.told.pass_at(error, now) && known.lines.pass_at(now)
    }

    /// Whether the snapshot of that `file` is needed for the archive, or may be.
    pub fn needs(&self, file: &str) -> bool {
        let known = self.lock();
        known.reached.is_none() || known.files.contains(file)
    }

    /// How many of `snapshots`, which are those of a manifest of `generation`, oldest first, can be forgotten: the archive has each, and
    /// the log from it to the next. If more log than is allowed waits for the archive below `end`, all can be.
    pub fn forgettable(&self, generation: u64, snapshots: &[SnapshotRecord], end: u64) -> usize {
        let known = self.lock();
        let reached = known.reached.filter(|reached| reached.generation == generation);
        let oldest = snapshots.first().map_or(end, |oldest| oldest.offset);
        let archived = reached.map_or(oldest, |reached| reached.end.max(oldest));
        if end.saturating_sub(archived) > self.options.max_unarchived_bytes {
            return snapshots.len();
        }
        let has = |pair: &&[SnapshotRecord]| {
            known.files.contains(&pair[0].file) && reached.is_some_and(|reached| reached.end >= pair[1].offset)
        };
        snapshots.windows(2).take_while(has).count()
    }

    /// Whether log of `generation` below `base` can be dropped that began without data, and ends at `end`.
    pub fn allows_base(&self, generation: u64, base: u64, end: u64) -> bool {
        let reached = self.lock().reached.filter(|reached| reached.generation == generation);
        let archived = reached.map_or(0, |reached| reached.end);
        archived >= base || end.saturating_sub(archived) > self.options.max_unarchived_bytes
    }

    /// What an operator sees at `unix_ms`.
    pub fn status(&self, unix_ms: u64) -> ArchiveStatus {
        let known = self.lock();
        ArchiveStatus {
            end: known.reached.map_or(-1, |reached| i64::try_from(reached.end).unwrap_or(i64::MAX)),
            behind_ms: if known.oldest_ms > 0 { unix_ms.saturating_sub(known.oldest_ms) } else { 0 },
            failures: known.failures,
            failing_since_ms: known.failing_since_ms,
            gaps: known.gaps,
            error: known.error.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(offset: u64) -> SnapshotRecord {
        let file = format!("s1-id/{offset:020}-00000001.rdb");
        let (blocks, engine, contents, encrypt_key) = (None, None, None, None);
        SnapshotRecord {
            offset,
            file,
            bytes: 1,
            crc32c: 0,
            blocks,
            replid: "r".repeat(40),
            engine,
            time_ms: 0,
            contents,
            encrypt_key,
        }
    }

    #[test]
    fn a_snapshot_is_forgotten_only_when_the_archive_has_it_and_the_log_to_the_next_one() {
        let archive = ArchiveWatch::new(ArchiveOptions { keep: Duration::from_secs(60), max_unarchived_bytes: 1000 });
        let snapshots = [record(100), record(200), record(300)];
        assert_eq!(archive.forgettable(1, &snapshots, 350), 0);
        assert!(archive.needs(&snapshots[0].file), "it is not known");
        archive.set_end(1, 299);
        assert_eq!(archive.forgettable(1, &snapshots, 350), 0);
        assert!(!archive.needs(&snapshots[0].file));
        archive.add_file(&snapshots[0].file);
        archive.add_file(&snapshots[1].file);
        assert_eq!(archive.forgettable(1, &snapshots, 350), 1);
        archive.set_end(1, 300);
        assert_eq!(archive.forgettable(1, &snapshots, 350), 2);
        // Of another log, nothing is known.
        assert_eq!(archive.forgettable(2, &snapshots, 350), 0);
        // More waits than may.
        assert_eq!(archive.forgettable(1, &snapshots, 1301), 3);
        archive.forget();
        assert_eq!(archive.forgettable(1, &snapshots, 350), 0);
        assert_eq!(archive.forgettable(1, &snapshots, 1101), 3);
    }

    #[test]
    fn a_log_that_began_without_data_begins_later_only_when_the_archive_reaches_there() {
        let archive = ArchiveWatch::new(ArchiveOptions { keep: Duration::from_secs(60), max_unarchived_bytes: 1000 });
        assert!(!archive.allows_base(0, 100, 150));
        archive.set_end(0, 99);
        assert!(!archive.allows_base(0, 100, 150));
        archive.set_end(0, 100);
        assert!(archive.allows_base(0, 100, 150) && !archive.allows_base(1, 100, 150));
        assert!(archive.allows_base(1, 100, 1001));
    }
}
