//! Snapshots of a shard: recorded once they are stored, and what becomes of the log below them.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};

use durability_protocol::{Code, EngineVersion, Refusal};

use super::rule_switches::{self, Rule};
use super::Shard;
use crate::base::log_throttle::{LineBudget, ReasonThrottle};
use crate::base::printable::printable;
use crate::encryption::KeyUse;
use crate::snapshots::{Draft, SnapshotStore, Stored};
use crate::store::{Contents, Manifest, SnapshotRecord};

/// How the making of snapshots goes.
#[derive(Debug, Clone, Default)]
pub struct Snapshotting {
    /// One is being made.
    pub is_running: bool,
    /// Why the last one was not made, or cannot be read.
    pub error: Option<String>,
    /// How many attempts failed one after the other.
    pub failures: u64,
    /// When the first of them did, in milliseconds since 1970.
    pub failing_since_ms: u64,
    told: ReasonThrottle,
    /// What causes errors may have a part in what they say.
    lines: LineBudget,
}

impl Shard {
    /// Where its snapshots are.
    pub fn snapshots(&self) -> &Arc<SnapshotStore> {
        &self.snapshots
    }

    /// With which keys its log and snapshots are encrypted.
    pub fn key_uses(&self) -> Vec<KeyUse> {
        let of = |what: &str, id| KeyUse { id, used_by: format!("{what} of shard {}", self.name) };
        let snapshots = self.store.manifest().snapshots.into_iter();
        let of_snapshots = snapshots.filter_map(|record| Some(of("a snapshot", record.encrypt_key?)));
        let of_log = self.store.key_ids().into_iter().map(|id| of("log", id));
        of_log.chain(of_snapshots).collect()
    }

    /// A snapshot is being made, or no longer; `outcome` is why the last one was not made, `None` within if it was.
    pub fn note_snapshotting(&self, is_running: bool, outcome: Option<Option<String>>) {
        let mut snapshotting = self.lock_snapshotting();
        snapshotting.is_running = is_running;
        let Some(error) = outcome else { return };
        let error = error.map(|error| printable(&error));
        match &error {
            Some(error) => {
                if snapshotting.failures == 0 {
                    snapshotting.failing_since_ms = self.environment.unix_ms();
                }
                snapshotting.failures += 1;
                let now = self.environment.now();
                if snapshotting.told.pass_at(error, now) && snapshotting.lines.pass_at(now) {
                    tracing::error!(
                        "shard {}: no snapshot was made, {} attempts failed since the last one, and the log, of {} MiB, grows: {error}",
                        self.name,
                        snapshotting.failures,
                        self.store.usage().log_bytes >> 20
                    );
                }
            }
            None => (snapshotting.failures, snapshotting.failing_since_ms) = (0, 0),
        }
        snapshotting.error = error;
    }

    fn lock_snapshotting(&self) -> MutexGuard<'_, Snapshotting> {
        self.snapshotting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether a snapshot is being made, and why the last one was not.
    pub(super) fn snapshotting(&self) -> Snapshotting {
        self.lock_snapshotting().clone()
    }

    /// A snapshot cannot be read, or those that could not can be.
    pub(super) fn note_snapshot_error(&self, error: Option<String>) {
        self.lock_snapshotting().error = error.map(|error| printable(&error));
    }

    /// Stores and records a snapshot, made of the log as `made_of` tells it, and forgets the oldest beyond `keep`. Log that no
    /// snapshot needs any more is dropped.
    ///
    /// # Errors
    /// It could not be stored, or the log was begun anew meanwhile, or the manifest cannot be replaced: it does not count.
    pub async fn keep_snapshot(
        &self,
        made_of: &Manifest,
        draft: Draft,
        origin: Origin<'_>,
        keep: usize,
    ) -> Result<SnapshotRecord, Refusal> {
        let (record, stored) = self.store_snapshot(draft, origin).await?;
        self.keep_stored(made_of, record, stored, keep).await
    }

    /// As [`Shard::keep_snapshot`], when it is `stored` already.
    ///
    /// # Errors
    /// The log was begun anew meanwhile, or the manifest cannot be replaced: it does not count.
    pub async fn keep_stored(
        &self,
        made_of: &Manifest,
        record: SnapshotRecord,
        stored: Stored,
        keep: usize,
    ) -> Result<SnapshotRecord, Refusal> {
        let unreadable = self.unreadable_still().await;
        let recorded = self.record_snapshot(made_of, record.clone(), &unreadable, keep).await;
        drop(stored);
        if let Ok(base) = recorded {
            self.drop_log_below(base).await;
            self.archive().into_iter().for_each(|archive| archive.ask());
        }
        self.remove_all_other_snapshots().await;
        recorded.map(|_| record)
    }

    /// Names of the snapshots that could not be read to their end, and still cannot be, for a reason of their own: the
    /// place of all of them may have been away for a moment, and those are sound.
    async fn unreadable_still(&self) -> BTreeSet<String> {
        let suspects = self.copies().suspects.clone();
        let mut unreadable = BTreeSet::new();
        for record in self.store.manifest().snapshots.into_iter().filter(|record| suspects.contains(&record.file)) {
            match self.snapshots.verify(&record).await {
                Ok(()) => drop(self.copies().suspects.remove(&record.file)),
                Err(error) if error.is_of_one() => drop(unreadable.insert(record.file)),
                Err(_) => {}
            }
        }
        unreadable
    }

    /// Records a snapshot in the place of those that are `unreadable`. Answers the base that the log has then.
    async fn record_snapshot(
        &self,
        made_of: &Manifest,
        record: SnapshotRecord,
        unreadable: &BTreeSet<String>,
        keep: usize,
    ) -> Result<u64, Refusal> {
        let _changing = self.changing.lock().await;
        let mut manifest = self.store.manifest().next();
        let began_empty = manifest.begins_empty();
        // What cannot be read serves nobody, and one that is made of an older one may stand where it does.
        manifest.snapshots.retain(|record| !unreadable.contains(&record.file));
        let is_newest = manifest.newest_snapshot().is_none_or(|newest| newest.offset < record.offset);
        let counts = manifest.generation == made_of.generation && is_newest;
        if !counts && rule_switches::holds(Rule::RecordsOnlyNewest) {
            return Err(Refusal::new(Code::Err, "the log was begun anew while the snapshot was made; make another"));
        }
        manifest.snapshots.push(record);
        self.forget_oldest(&mut manifest, keep, began_empty);
        let (store, base) = (self.store.clone(), manifest.base);
        self.change_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await?;
        self.retain_suspects();
        self.note_copy();
        Ok(base)
    }

    /// No snapshot is suspected that is not recorded.
    pub(super) fn retain_suspects(&self) {
        let kept = self.store.manifest().snapshots;
        self.copies().suspects.retain(|file| kept.iter().any(|record| record.file == *file));
    }

    /// Drops the log below `base` that nobody reads, and tells those to go for whom too much is kept. A log that can take nothing is
    /// kept for no replica: it would keep all others waiting.
    pub(super) async fn drop_log_below(&self, base: u64) {
        let snapshot_bytes = self.store.manifest().newest_snapshot().map_or(0, |newest| newest.bytes);
        self.pins.cut(&*self.environment, base, snapshot_bytes).await;
        self.trim_below(base).await;
        if self.is_over_quota() {
            self.pins.cut_bounded(&*self.environment, base).await;
            self.trim_below(base).await;
        }
    }

    async fn trim_below(&self, base: u64) {
        let Some(base) = self.droppable_below(base).await else { return };
        let base = if rule_switches::holds(Rule::TrimsBelowSnapshots) { base } else { self.notifier().durable() };
        let limit = if rule_switches::holds(Rule::KeepsPinned) { self.pins.limit(base) } else { base };
        let store = self.store.clone();
        let error = match self.environment.run_blocking(move || store.trim(limit)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // The snapshot counts all the same; what stays is removed with the next, or when the shard is next opened.
        tracing::warn!("shard {}: log that is not needed stays: {error}", self.name);
    }

    /// Removes snapshots that a crash has left. Not those above the newest that is recorded: if this is an older copy of a
    /// directory that is served elsewhere, they are needed there. The next snapshot removes them.
    pub async fn clean_up_snapshots(&self) {
        let newest = self.store.manifest().newest_snapshot().map_or(0, |newest| newest.offset);
        self.remove_other_snapshots(newest).await;
    }

    /// Removes all that the manifest does not record and nobody uses.
    pub async fn remove_all_other_snapshots(&self) {
        self.remove_other_snapshots(u64::MAX).await;
    }

    /// Removes all up to `offset` that the manifest does not record and nobody uses.
    pub(super) async fn remove_other_snapshots(&self, offset: u64) {
        if !self.may_remove_snapshots().await {
            return;
        }
        let archived = match self.archived_files().await {
            Ok(archived) => archived,
            Err(error) => {
                return tracing::warn!("shard {}: snapshots that are not needed stay: {error}", self.name);
            }
        };
        let is_needed = |file: &str, stands_at: u64| {
            // After a failure the manifest on the medium may be another. What is on its way from being stored to being recorded
            // is in use until it is recorded, so the manifest is looked at last.
            stands_at > offset
                || self.check_not_failed().is_err()
                || self.archive().is_some_and(|archive| archive.needs(file))
                || archived.contains(file)
                || rule_switches::holds(Rule::KeepsRecordedSnapshots)
                    && self.store.manifest().snapshots.iter().any(|record| record.file == file)
        };
        // In a directory of its own, another service's snapshots are not at stake.
        let is_follower = !self.decides() && self.snapshots.has_others();
        let may_remove = async { is_follower || self.confirm().await.is_ok() };
        if let Err(error) = self.snapshots.remove_others(&self.store.manifest(), is_needed, may_remove).await {
            tracing::warn!("shard {}: snapshots that are not needed stay: {error}", self.name);
        }
    }

    /// Stores a draft, at two services if several keep the log and each keeps its own; answers what is to be recorded, and what keeps it until then.
    pub(super) async fn store_snapshot(
        &self,
        draft: Draft,
        origin: Origin<'_>,
    ) -> Result<(SnapshotRecord, Stored), Refusal> {
        let (record, stored) = self.store_snapshot_here(draft, origin).await?;
        if self.is_replicated() {
            let spread = self.snapshots.spread(&record).await;
            spread.map_err(|error| Refusal::new(Code::Err, error.to_string()))?;
        }
        Ok((record, stored))
    }

    /// Stores a draft at this service; answers what is to be recorded by the one that decides, and what keeps it until then.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn store_snapshot_here(
        &self,
        draft: Draft,
        origin: Origin<'_>,
    ) -> Result<(SnapshotRecord, Stored), Refusal> {
        let (offset, bytes, crc32c, blocks) = (draft.offset(), draft.bytes(), draft.crc32c(), Some(draft.blocks()));
        let encrypt_key = draft.encrypt_key().map(str::to_owned);
        let stored = self.snapshots.put(draft).await;
        let stored = stored.map_err(|error| {
            let code = if error.is_no_space() { Code::NoSpace } else { Code::Err };
            Refusal::new(code, error.to_string())
        })?;
        if let Some(id) = encrypt_key.as_deref().filter(|id| !self.snapshots.has_key(id)) {
            let text = format!("the key '{id}' was taken from the key file while the snapshot was made; make another");
            return Err(Refusal::new(Code::Err, text));
        }
        let time_ms = self.environment.unix_ms();
        let Origin { replid, engine, contents } = origin;
        let (file, replid) = (stored.file.clone(), replid.to_owned());
        let record =
            SnapshotRecord { offset, file, bytes, crc32c, blocks, replid, engine, time_ms, contents, encrypt_key };
        Ok((record, stored))
    }
}

/// Where a snapshot comes from.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The replication id of the stream where it stands.
    pub replid: &'a str,
    /// The version that made it, if it is known.
    pub engine: Option<EngineVersion>,
    /// What a rehearsal found in it.
    pub contents: Option<Contents>,
}
