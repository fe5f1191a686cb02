//! Where each service keeps snapshots in a directory of its own: what is missing here is fetched, and nothing is given up that is needed until
//! then.
//!
//! 1. A state that names a snapshot is proposed only when that is at two services (`store_snapshot`).
//! 2. Log is dropped here only below a snapshot that the state names and that is here. So each service can give its data to anybody who asks
//!    without another one's help, as soon as it could once.
//! 3. A snapshot that no state names any more is removed here only when a newer one is here that the state names. One that no state names yet is
//!    at or above the newest that is named, and stays.

use std::sync::atomic::Ordering;

use super::Shard;
use crate::base::log_throttle::say;
use crate::snapshots::SnapshotError;
use crate::store::{Manifest, SnapshotRecord};

impl Shard {
    /// The newest offset at which a snapshot stands that `manifest` names and that is here; none if there is none.
    async fn newest_here(&self, manifest: &Manifest) -> Option<u64> {
        for record in manifest.snapshots.iter().rev() {
            // What cannot be found out may not be here.
            if self.snapshots.is_here(record).await.unwrap_or(false) {
                return Some(record.offset);
            }
        }
        None
    }

    /// Up to where log can be dropped here that is not needed below `base`; none if nothing can be.
    pub(super) async fn droppable_below(&self, base: u64) -> Option<u64> {
        if !self.snapshots.has_others() {
            return Some(base);
        }
        let manifest = self.store.manifest();
        if manifest.begins_empty() {
            // It goes back to where it began without data, and has not moved from there.
            return Some(base.min(manifest.base));
        }
        self.newest_here(&manifest).await.map(|offset| base.min(offset))
    }

    /// Fetches what the state names and is not here, or is damaged here. Answers how many are still missing.
    pub async fn fetch_missing_snapshots(&self) -> usize {
        if !self.snapshots.has_others() {
            return 0;
        }
        let mut missing = 0;
        // The newest first: with that nothing else is needed.
        for record in self.store.manifest().snapshots.iter().rev() {
            if let Err(error) = self.fetch_if_missing(record).await {
                missing += 1;
                let is_named = self.store.manifest().snapshots.iter().any(|named| named.file == record.file);
                if is_named {
                    say!(self.lines, warn, "shard {}: {error}", self.name);
                }
            }
        }
        self.missing_snapshots.store(missing as u64, Ordering::Relaxed);
        missing
    }

    async fn fetch_if_missing(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let is_suspect = self.copies().suspects.contains(&record.file);
        if !is_suspect {
            return self.snapshots.fetch(record).await;
        }
        match self.snapshots.verify(record).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_of_one() => {
                self.snapshots.fetch_anew(record, true).await?;
                tracing::warn!("shard {}: {error}; it was fetched from another service again", self.name);
            }
            Err(SnapshotError::NotHere { .. }) => self.snapshots.fetch(record).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes snapshots that no state names any more, where another service decides.
    pub async fn remove_superseded_snapshots(&self) {
        if !self.snapshots.has_others() || self.decides() {
            return;
        }
        let Some(newest) = self.newest_here(&self.store.manifest()).await.filter(|newest| *newest > 0) else { return };
        self.remove_other_snapshots(newest - 1).await;
    }

    /// Whether snapshots may be removed here at all.
    pub(super) async fn may_remove_snapshots(&self) -> bool {
        if !self.snapshots.has_others() {
            return true;
        }
        let manifest = self.store.manifest();
        manifest.snapshots.is_empty() || self.newest_here(&manifest).await.is_some()
    }
}

#[cfg(test)]
#[path = "own_files_tests.rs"]
mod tests;
