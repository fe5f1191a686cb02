//! A log that takes as much as it may goes on once some of it is dropped: what it can do without is given up for that.

use durability_protocol::Refusal;

use super::Shard;
use crate::store::SnapshotRecord;

impl Shard {
    /// Whether appends are refused for lack of space.
    pub fn is_out_of_space(&self) -> bool {
        self.accepting().no_space
    }

    /// Whether appends are refused as the log takes as much as it may.
    pub fn is_over_quota(&self) -> bool {
        self.is_out_of_space() && self.store.usage().is_full
    }

    /// Whether all of the log is needed that there is: nothing of it lies below the newest snapshot.
    pub fn needs_all_log(&self) -> bool {
        let manifest = self.store.manifest();
        manifest.newest_snapshot().is_none_or(|newest| newest.offset <= manifest.base)
    }

    /// Drops log that somebody needed when the last snapshot was recorded, and needs no more. If that leaves no space for appends, older
    /// snapshots are forgotten, with the log that only they need.
    pub async fn drop_log_over_quota(&self) {
        self.drop_log_below(self.store.manifest().base).await;
        if !self.is_over_quota() {
            return;
        }
        match self.forget_older_snapshots().await {
            Ok(Some(base)) => {
                tracing::warn!(
                    "shard {}: the log takes as much as --max-log-mb allows, so it goes back no further than the newest snapshot, at offset {base}",
                    self.name
                );
                self.drop_log_below(base).await;
                self.remove_all_other_snapshots().await;
            }
            Ok(None) => {}
            Err(refusal) => tracing::warn!("shard {}: older snapshots stay: {refusal}", self.name),
        }
    }

    /// Forgets all snapshots older than the newest that can be read. Answers the base that the log has then; none if it is the same.
    async fn forget_older_snapshots(&self) -> Result<Option<u64>, Refusal> {
        let Some(newest) = self.newest_readable_above_base().await else { return Ok(None) };
        let _changing = self.changing.lock().await;
        let mut manifest = self.store.manifest().next();
        // Another one, or another log, may have taken its place.
        let Some(older) = manifest.snapshots.iter().position(|record| record.file == newest.file) else {
            return Ok(None);
        };
        manifest.snapshots.drain(..older);
        manifest.base = manifest.base.max(newest.offset);
        let (store, base) = (self.store.clone(), manifest.base);
        self.change_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await?;
        self.retain_suspects();
        Ok(Some(base))
    }

    /// The newest snapshot that can be read to its end, if there is log below it.
    async fn newest_readable_above_base(&self) -> Option<SnapshotRecord> {
        let manifest = self.store.manifest();
        for record in manifest.snapshots.into_iter().rev().take_while(|record| record.offset > manifest.base) {
            if self.copies().suspects.contains(&record.file) {
                continue;
            }
            match self.snapshots.verify(&record).await {
                Ok(()) => return Some(record),
                Err(error) if error.is_of_one() => self.note_unreadable(&record, &error),
                // The place of all of them is away: it is not known which can be read.
                Err(_) => return None,
            }
        }
        None
    }
}
