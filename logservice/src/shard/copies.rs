//! Full copies, for whoever has nothing to continue from: the newest snapshot that can be read, with the log after it.

use std::collections::BTreeSet;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};

use super::{Pin, Shard};
use crate::base::log_throttle::ReasonThrottle;
use crate::snapshots::{SnapshotError, SnapshotReader};
use crate::store::SnapshotRecord;

/// How long whoever asks waits until it is tried again to give a full copy: doubled from the first to the second.
const WAIT_FROM: Duration = Duration::from_secs(1);
/// See [`WAIT_FROM`].
const WAIT_TO: Duration = Duration::from_secs(15);
/// If nobody has asked for so long after it was worth it, nothing is known any more: those who wait ask at once.
const OVER_AFTER: Duration = WAIT_TO.saturating_mul(4);

/// What a server loads, and where the stream goes on after it.
pub struct FullCopy {
    /// The replication id under which the stream goes on.
    pub replid: String,
    /// Where the copy stands.
    pub offset: u64,
    /// The snapshot; none is an empty data set.
    pub snapshot: Option<(SnapshotRecord, SnapshotReader)>,
    /// The stream it belongs to: when [`Progress::stream`](super::Progress::stream) moves, a replica must ask again.
    pub stream: u64,
    /// Keeps the log from there on.
    pub pin: Pin,
}

/// Why there is no full copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The log has failed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No snapshot can be read; this is about the newest.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// A snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot at offset {offset} cannot be read: {source}")]
pub struct Unreadable {
    /// Where it stands.
    pub offset: u64,
    /// Why.
    pub source: SnapshotError,
}

/// Nobody is given a full copy for the moment.
#[derive(Debug)]
pub struct NoCopy {
    /// Why.
    pub reason: String,
    /// When it is worth asking again.
    pub until: Instant,
}

/// What is known of the full copies that could not be given.
#[derive(Debug, Clone, Default)]
pub(super) struct Copies {
    /// Names of snapshots that could not be read to their end: each is verified before any of it is given to anybody.
    pub suspects: BTreeSet<String>,
    failure: Option<Failure>,
    told: ReasonThrottle,
}

#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    wait: Duration,
    not_before: Instant,
}

impl Failure {
    fn is_over(&self, now: Instant) -> bool {
        now > self.not_before + OVER_AFTER
    }
}

impl Copies {
    /// Why the last one who asked was given none; empty if it was given one, or nobody asks any more.
    pub fn error(&self, now: Instant) -> &str {
        self.failure.as_ref().filter(|failure| !failure.is_over(now)).map_or("", |failure| &failure.reason)
    }

    /// Why there is none for the moment. Who is told that there may be one looks for the others too: they wait for longer.
    fn claim(&mut self, now: Instant) -> Result<(), NoCopy> {
        self.failure.take_if(|failure| failure.is_over(now));
        let Some(failure) = &mut self.failure else { return Ok(()) };
        if now < failure.not_before {
            return Err(NoCopy { reason: failure.reason.clone(), until: failure.not_before });
        }
        failure.not_before = now + failure.wait;
        Ok(())
    }

    /// There is none, or what was given broke off. Answers whether that is worth a line in the log.
    fn failed(&mut self, reason: &str, now: Instant) -> (NoCopy, bool) {
        let before = self.failure.take();
        let wait = before.map_or(WAIT_FROM, |before| (before.wait * 2).min(WAIT_TO));
        let not_before = now + wait;
        self.failure = Some(Failure { reason: reason.to_owned(), wait, not_before });
        (NoCopy { reason: reason.to_owned(), until: not_before }, self.told.pass_at(reason, now))
    }
}

impl Shard {
    /// A full copy, of the newest snapshot that can be read. A log that goes back to before its first snapshot began without data,
    /// so what can be read of all of them is at last nothing, with all of the log.
    ///
    /// # Errors
    /// There is none.
    pub async fn full_copy(&self) -> Result<FullCopy, CopyError> {
        let mut passed_over = BTreeSet::new();
        let mut first_error = None;
        loop {
            let (found, pin) = self.next_copy(&passed_over)?;
            let Some(Found { replid, offset, record, stream }) = found else {
                return Err(first_error.unwrap_or_else(|| Refusal::new(Code::Err, "there is no snapshot").into()));
            };
            let Some(record) = record else { return Ok(FullCopy { replid, offset, snapshot: None, stream, pin }) };
            match self.open_snapshot(&record).await {
                Ok(reader) => return Ok(FullCopy { replid, offset, snapshot: Some((record, reader)), stream, pin }),
                Err(source) => {
                    let is_of_one = source.is_of_one();
                    if is_of_one {
                        self.note_unreadable(&record, &source);
                    }
                    let error = Unreadable { offset, source }.into();
                    if !is_of_one {
                        return Err(error);
                    }
                    passed_over.insert(record.file);
                    first_error.get_or_insert(error);
                }
            }
        }
    }

    /// As [`Shard::full_copy`], for a replica. After a failure it is tried again after growing waits only, whoever asks meanwhile.
    ///
    /// # Errors
    /// There is none for the moment.
    pub async fn full_copy_for_replica(&self) -> Result<FullCopy, NoCopy> {
        self.copies().claim(self.environment.now())?;
        match self.full_copy().await {
            Ok(copy) => Ok(copy),
            Err(error) => Err(self.note_no_copy(&error.to_string())),
        }
    }

    /// Nobody can be given a full copy, or the one that was given broke off, for that reason.
    pub fn note_no_copy(&self, reason: &str) -> NoCopy {
        let (no_copy, is_news) = self.copies().failed(reason, self.environment.now());
        if is_news {
            tracing::error!(
                "shard {}: whoever asks for a full copy is given none, and waits until there is one: {reason}",
                self.name
            );
        }
        no_copy
    }

    /// A whole copy was given, or there is another snapshot.
    pub fn note_copy(&self) {
        if self.copies().failure.take().is_some() {
            tracing::info!("shard {}: there is a full copy again for whoever asks", self.name);
        }
    }

    /// A snapshot could not be read to its end, for a reason of its own.
    pub fn note_unreadable(&self, record: &SnapshotRecord, error: &SnapshotError) {
        if self.copies().suspects.insert(record.file.clone()) {
            tracing::error!("shard {}: the snapshot at offset {} cannot be read: {error}", self.name, record.offset);
            // Another service may have it whole.
            self.snapshots.want();
        }
        self.note_snapshot_error(Some(error.to_string()));
    }

    pub(super) fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The newest snapshot but for those that were `passed_over`, or the empty log's beginning.
    fn next_copy(&self, passed_over: &BTreeSet<String>) -> Result<(Option<Found>, Pin), Refusal> {
        self.check_not_failed()?;
        self.check_caught_up(self.store.manifest().base, self.notifier().progress().visible)?;
        let stream = self.notifier().progress().stream;
        let replid = self.accepting().epochs.replid().to_owned();
        let (pin, found) = self.pins.pin(|| {
            let manifest = self.store.manifest();
            let newest = manifest.snapshots.iter().rev().find(|record| !passed_over.contains(&record.file));
            match newest {
                Some(record) => (record.offset, Some((record.offset, Some(record.clone())))),
                None => (manifest.base, manifest.begins_empty().then_some((manifest.base, None))),
            }
        });
        Ok((found.map(|(offset, record)| Found { replid, offset, record, stream }), pin))
    }

    /// Opens a snapshot of which anybody is to be given anything. One that could not be read before is verified first, and so is one
    /// that has no checksums of its blocks: a server that loads what is damaged ends.
    async fn open_snapshot(&self, record: &SnapshotRecord) -> Result<SnapshotReader, SnapshotError> {
        if record.blocks.is_none() || self.copies().suspects.contains(&record.file) {
            self.snapshots.verify(record).await?;
            let mut copies = self.copies();
            if copies.suspects.remove(&record.file) && copies.suspects.is_empty() {
                // It was mended.
                self.note_snapshot_error(None);
            }
        }
        let mut reader = self.snapshots.get(record).await?;
        reader.begin().await?;
        Ok(reader)
    }
}

/// What a full copy begins with.
struct Found {
    replid: String,
    offset: u64,
    record: Option<SnapshotRecord>,
    stream: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_after_growing_waits_by_one_of_those_who_ask() {
        let (mut copies, mut now) = (Copies::default(), Instant::now());
        assert!(copies.claim(now).is_ok());
        let mut waits = Vec::new();
        for _ in 0..6 {
            let (no_copy, _) = copies.failed("gone", now);
            assert!(copies.claim(no_copy.until - Duration::from_millis(1)).is_err());
            waits.push((no_copy.until - now).as_secs());
            now = no_copy.until;
            assert!(copies.claim(now).is_ok());
            assert_eq!(
                copies.claim(now).map_err(|no_copy| no_copy.reason),
                Err("gone".to_owned()),
                "another one looks"
            );
        }
        assert_eq!(waits, [1, 2, 4, 8, 15, 15]);
    }

    #[test]
    fn a_failure_of_which_nobody_has_asked_for_long_is_over() {
        let (mut copies, now) = (Copies::default(), Instant::now());
        copies.failed("gone", now);
        let (again, _) = copies.failed("gone", now);
        let last = again.until + OVER_AFTER;
        assert_eq!(copies.error(last), "gone");
        let after = last + Duration::from_millis(1);
        assert_eq!(copies.error(after), "");
        // Whoever asks before that keeps it.
        let mut asked = copies.clone();
        assert!(asked.claim(last).is_ok());
        assert_eq!(asked.error(after), "gone");
        // It begins as if there had been none.
        assert!(copies.claim(after).is_ok() && copies.claim(after).is_ok());
        assert_eq!(copies.failed("gone", after).0.until, after + WAIT_FROM);
    }
}
