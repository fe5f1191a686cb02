//! Brings the log of one shard into its archive.
//!
//! Only what is durable is archived: of a log that several services keep, what most of them have. A later leader of the shard, or another
//! service that decides, never takes back any of that, so a piece never has to be replaced by another one, and two services that both think
//! that they decide store the same bytes. The log is read where it is on disk, and what was read counts only if the log was not begun anew
//! meanwhile.
//!
//! What the archive has is found out by listing it, each time this service begins to decide. Then, in this order:
//!
//! 1. Snapshots that the manifest names are recorded in the archive.
//! 2. Log is stored from the oldest of them on, piece by piece.
//! 3. The shard forgets snapshots, and so drops log, that the archive has.
//! 4. What is older than `--keep` and not needed for what is younger is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::Refusal;
use tokio::sync::Semaphore;

use crate::archive::{
    covered_from, needed_from, Archive, ArchiveError, ArchiveWatch, ArchivedSnapshot, PieceBuilder, PieceName,
    SnapshotName,
};
use crate::base::printable::printable;
use crate::shard::Shard;
use crate::snapshots::place;
use crate::store::{Manifest, MediumError, ReadError, Record, RecordReader};

/// How often it is looked whether there is something to archive.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that wait no longer for others that would go into the same piece.
const PIECE_AFTER: Duration = Duration::from_secs(45);
/// Bytes of log in a piece. One that ends with a long record is longer.
const PIECE_BYTES: u64 = 8 << 20;
/// The first pause after a failure. It doubles each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long it may take until this service knows that all is committed that is in the archive.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked what is older than is kept.
const AGE_INTERVAL: Duration = Duration::from_secs(60);

/// Why the log is not archived for the moment.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot read the log: {0}")]
    Read(#[from] ReadError),
    #[error("cannot make a piece of the log: {0}")]
    Seal(#[from] std::io::Error),
    #[error("reading the log did not finish: {0}")]
    Unfinished(#[from] tokio::task::JoinError),
    #[error("{0}")]
    Refused(Refusal),
    /// Its directory may be a copy of one that was served elsewhere meanwhile.
    #[error(
        "the archive has another log than this: {object} differs from what is here. If this directory is a copy, give it another place for \
         snapshots (--snapshots)"
    )]
    OtherLog { object: String },
    #[error(
        "the archive reaches to offset {archived}, and this log only to {end}. If this directory is an older copy, give it another place \
         for snapshots (--snapshots)"
    )]
    Ahead { archived: u64, end: u64 },
}

/// What is archived of the log as it is now.
struct Line {
    generation: u64,
    /// The end (exclusive) of what is in the archive.
    end: u64,
    /// The snapshots that are in the archive, sorted.
    snapshots: Vec<SnapshotName>,
}

/// Archives the log of one shard.
pub struct LogArchiver {
    shard: Arc<Shard>,
    watch: Arc<ArchiveWatch>,
    archive: Archive,
    turns: Arc<Semaphore>,
    keep_snapshots: usize,
    /// None until the archive was listed for the log as it is.
    line: Option<Line>,
    /// Since when there is log that is not archived.
    waits_since: Option<Instant>,
    aged_at: Option<Instant>,
    known_within: Duration,
}

impl LogArchiver {
    /// Nothing is read or written yet.
    pub fn new(shard: Arc<Shard>, watch: Arc<ArchiveWatch>, turns: Arc<Semaphore>, keep_snapshots: usize) -> Self {
        let archive = Archive::new(shard.snapshots().clone(), place(&shard.store().manifest()));
        let (line, waits_since, aged_at, known_within) = (None, None, None, KNOWN_WITHIN);
        LogArchiver { shard, watch, archive, turns, keep_snapshots, line, waits_since, aged_at, known_within }
    }

    /// Archives until the shard has ended, or another service decides over its log.
    pub async fn run(mut self) {
        let shard = self.shard.clone();
        tokio::select! {
            _ = shard.notifier().ended() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let mut pause = FIRST_RETRY;
        let mut is_asked = false;
        loop {
            match self.step(is_asked).await {
                Ok(()) => {
                    self.watch.note_success();
                    pause = FIRST_RETRY;
                    is_asked = tokio::select! {
                        () = self.watch.asked() => true,
                        () = tokio::time::sleep(LOOK_INTERVAL) => false,
                    };
                }
                Err(failure) => {
                    self.note(&failure);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_RETRY);
                }
            }
        }
    }

    fn note(&self, failure: &Failure) {
        let text = printable(&failure.to_string());
        if self.watch.note_failure(&text, self.shard.unix_ms()) {
            tracing::error!(
                "shard {}: its log is not archived, and kept on disk meanwhile, up to --max-unarchived-mb: {text}",
                self.shard.name()
            );
        }
    }

    /// Does what is to be done now. With `is_asked`, all log is archived that is durable.
    async fn step(&mut self, is_asked: bool) -> Result<(), Failure> {
        let manifest = self.shard.store().manifest();
        let mut line = match self.line.take().filter(|line| line.generation == manifest.generation) {
            Some(line) => line,
            None => self.begin(&manifest).await?,
        };
        // What failed changes nothing of what is known.
        let done = self.go_on(&manifest, &mut line, is_asked).await;
        self.line = Some(line);
        done
    }

    async fn go_on(&mut self, manifest: &Manifest, line: &mut Line, is_asked: bool) -> Result<(), Failure> {
        self.record_snapshots(manifest, line).await?;
        let durable = self.shard.notifier().durable();
        self.note_waiting(line, durable);
        while line.end < durable && (is_asked || self.is_due(line, durable)) {
            if !self.store_piece(line, durable).await? {
                // The log was begun anew meanwhile.
                return Ok(());
            }
            self.waits_since = (line.end < durable).then(Instant::now);
        }
        if line.end >= durable {
            self.watch.set_oldest(0);
        }
        self.shard.forget_archived(self.keep_snapshots).await.map_err(Failure::Refused)?;
        if self.aged_at.is_none_or(|at| at.elapsed() >= AGE_INTERVAL) {
            self.remove_aged(line).await?;
            self.aged_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Lists the archive, and finds out how far it reaches.
    async fn begin(&self, manifest: &Manifest) -> Result<Line, Failure> {
        self.watch.forget();
        let snapshots = self.archive.snapshots().await?;
        // No backup gets its name between the list and what is taken from it.
        let _naming = self.watch.naming.lock().await;
        let backups = self.archive.backups().await?;
        let of_backups = backups.iter().map(|backup| &backup.snapshot);
        let files: BTreeSet<_> =
            snapshots.iter().chain(of_backups).filter_map(|name| name.file(self.archive.place())).collect();
        let (generation, start) = (manifest.generation, begins_at(manifest));
        // A piece that holds the start may begin before it. One that is missed is stored again.
        let pieces = self.archive.pieces(Some((generation, start.saturating_sub(4 * PIECE_BYTES)))).await?;
        let end = covered_from(&pieces, generation, start);
        let mut progress = self.shard.notifier().subscribe();
        // A service that has just begun to decide may not know yet that all of that is committed.
        let is_known = progress.wait_for(|progress| progress.visible >= end);
        if !tokio::time::timeout(self.known_within, is_known).await.is_ok_and(|known| known.is_ok()) {
            return Err(Failure::Ahead { archived: end, end: self.shard.notifier().durable() });
        }
        let last = pieces
            .iter()
            .rev()
            .find(|piece| piece.generation == generation && piece.end == end && piece.start >= start);
        if let Some(last) = last {
            self.compare(last).await?;
        }
        self.watch.set_files(files);
        self.watch.set_end(generation, end);
        Ok(Line { generation, end, snapshots })
    }

    /// Compares a piece of the archive with the log.
    async fn compare(&self, name: &PieceName) -> Result<(), Failure> {
        let piece = self.archive.piece(name).await?;
        let (shard, end) = (self.shard.clone(), name.end);
        let start = name.start;
        let here = tokio::task::spawn_blocking(move || read_records(&shard, start, end, u64::MAX)).await?;
        let here = match here {
            // What is not here cannot be compared.
            Err(ReadError::Trimmed { .. }) => return Ok(()),
            here => here?,
        };
        let is_same = here.len() == piece.records.len()
            && here
                .iter()
                .zip(&piece.records)
                .all(|(one, other)| (one.offset, &one.payload) == (other.offset, &other.payload));
        match is_same {
            true => Ok(()),
            false => Err(Failure::OtherLog { object: name.object() }),
        }
    }

    /// Records the snapshots of the manifest in the archive, and where a log begins that began without data.
    async fn record_snapshots(&self, manifest: &Manifest, line: &mut Line) -> Result<(), Failure> {
        let generation = manifest.generation;
        let is_there = |name: &SnapshotName| line.snapshots.binary_search(name).is_ok();
        let mut missing = Vec::new();
        let has_beginning = line.snapshots.iter().any(|name| name.generation == generation && name.number.is_none());
        if manifest.begins_empty() && !has_beginning {
            missing.push(ArchivedSnapshot::new(generation, manifest.base, self.shard.unix_ms(), None));
        }
        for record in &manifest.snapshots {
            let (offset, time_ms) = (record.offset, record.time_ms);
            missing.push(ArchivedSnapshot::new(generation, offset, time_ms, Some(record.clone())));
        }
        let missing: Vec<_> = missing.into_iter().filter_map(|snapshot| Some((snapshot.name()?, snapshot))).collect();
        for (name, snapshot) in missing.into_iter().filter(|(name, _)| !is_there(name)).collect::<Vec<_>>() {
            let snapshot = ArchivedSnapshot { engine: manifest.engine(), databases: manifest.databases(), ..snapshot };
            // A seed is recorded only if it is what the log began with.
            if self.shard.store().manifest().generation != generation {
                return Ok(());
            }
            self.archive.put_snapshot(&name, &snapshot).await?;
            name.file(self.archive.place()).iter().for_each(|file| self.watch.add_file(file));
            line.snapshots.push(name);
            line.snapshots.sort();
        }
        Ok(())
    }

    fn note_waiting(&mut self, line: &Line, durable: u64) {
        if line.end >= durable {
            self.waits_since = None;
        } else if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            self.watch.set_oldest(self.shard.unix_ms());
        }
    }

    fn is_due(&self, line: &Line, durable: u64) -> bool {
        durable - line.end >= PIECE_BYTES || self.waits_since.is_some_and(|since| since.elapsed() >= PIECE_AFTER)
    }

    /// Stores the next piece of the log below `durable`. False if the log was begun anew meanwhile.
    async fn store_piece(&self, line: &mut Line, durable: u64) -> Result<bool, Failure> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let (shard, start) = (self.shard.clone(), line.end);
        let read = tokio::task::spawn_blocking(move || read_records(&shard, start, durable, PIECE_BYTES)).await?;
        let now = self.shard.store().manifest();
        if now.generation != line.generation {
            return Ok(false);
        }
        let records = match read {
            Err(ReadError::Trimmed { .. }) => {
                self.skip_gap(&now, line);
                return Ok(true);
            }
            read => read?,
        };
        let mut builder = PieceBuilder::new(line.generation, start);
        records.iter().for_each(|record| builder.add(record));
        drop(records);
        let Some(name) = builder.name() else { return Ok(true) };
        if name.end > durable {
            // A record becomes durable as a whole.
            let reason =
                format!("a record that begins before offset {durable} ends at {}, beyond what is durable", name.end);
            return Err(ReadError::from(MediumError::new(reason)).into());
        }
        self.watch.set_oldest(name.first_ms);
        let (keys, of) = (self.archive.keys().clone(), (name.clone(), self.archive.place().to_owned()));
        let bytes = tokio::task::spawn_blocking(move || builder.finish(&of.0, &of.1, &keys)).await??;
        self.archive.put_piece(&name, bytes).await?;
        line.end = name.end;
        self.watch.set_end(line.generation, line.end);
        Ok(true)
    }

    /// The log that comes next was dropped before it was archived: goes on at the first snapshot behind it.
    fn skip_gap(&self, manifest: &Manifest, line: &mut Line) {
        let next = manifest.snapshots.iter().map(|record| record.offset).find(|offset| *offset > line.end);
        let next = next.unwrap_or(manifest.base).max(manifest.base);
        tracing::error!(
            "shard {}: log from offset {} to {next} was dropped before it was archived: the shard can be restored to moments before and \
             after, not to those between. Raise --max-unarchived-mb or --max-log-mb, or see why the archive is slow",
            self.shard.name(),
            line.end
        );
        self.watch.note_gap();
        line.end = next;
        self.watch.set_end(line.generation, next);
    }

    /// Removes what is older than is kept.
    async fn remove_aged(&self, line: &mut Line) -> Result<(), Failure> {
        let keep_ms = u64::try_from(self.watch.options().keep.as_millis()).unwrap_or(u64::MAX);
        // Nothing is removed for a clock that is far ahead, until a snapshot is recorded at such a time.
        let newest_ms = line.snapshots.iter().map(|name| name.time_ms).max().unwrap_or(0);
        let begin_ms = self.shard.unix_ms().min(newest_ms).saturating_sub(keep_ms);
        let Some(oldest) = needed_from(&line.snapshots, begin_ms).cloned() else { return Ok(()) };
        let aged: Vec<_> = line.snapshots.iter().take_while(|name| **name < oldest).cloned().collect();
        if aged.is_empty() {
            return Ok(());
        }
        // Whoever does not decide any more may not know what the archive has by now.
        self.shard.confirm().await.map_err(Failure::Refused)?;
        // The snapshots first: what is listed can be restored.
        for name in &aged {
            self.archive.remove_snapshot(name).await?;
        }
        let pieces = self.archive.remove_pieces_below(oldest.generation, oldest.offset).await?;
        line.snapshots.retain(|name| *name >= oldest);
        // No backup gets its name between the list and what is taken from it.
        let naming = self.watch.naming.lock().await;
        let backups = self.archive.backups().await?;
        let kept = line.snapshots.iter().chain(backups.iter().map(|backup| &backup.snapshot));
        self.watch.set_files(kept.filter_map(|name| name.file(self.archive.place())).collect());
        drop(naming);
        self.shard.remove_all_other_snapshots().await;
        tracing::info!(
            "shard {}: {} snapshots and {pieces} pieces of the log, older than --keep, are removed from its archive",
            self.shard.name(),
            aged.len()
        );
        Ok(())
    }
}

/// Where the archive of a log begins, if it has nothing yet.
fn begins_at(manifest: &Manifest) -> u64 {
    match manifest.snapshots.first() {
        Some(oldest) if !manifest.begins_empty() => oldest.offset,
        _ => manifest.base,
    }
}

/// The records that begin from `start` to `end` (exclusive), which are durable, up to about `bytes`. Blocks on I/O.
fn read_records(shard: &Shard, start: u64, end: u64, bytes: u64) -> Result<Vec<Record>, ReadError> {
    let mut reader: Box<dyn RecordReader> = shard.store().records(start)?;
    let (mut records, mut read) = (Vec::new(), 0);
    while reader.offset() < end && read < bytes {
        let record = reader.next(end)?;
        read += record.payload.len() as u64;
        records.push(record);
    }
    Ok(records)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
