//! A shard whose log is archived: it forgets no snapshot, and so drops no log, before the archive has both.
//!
//! The rule is about the manifest, which all services share that keep the log. So it holds at each of them, and whoever decides next finds
//! on its own disk all that the archive lacks. It gives way only where the disk is at stake: a log that takes as much as `--max-log-mb`
//! allows, or of which more waits for the archive than `--max-unarchived-mb`.

use std::collections::BTreeSet;
use std::sync::Arc;

use durability_protocol::Refusal;

use super::Shard;
use crate::archive::{Archive, ArchiveError, ArchiveOptions, ArchiveStatus, ArchiveWatch};
use crate::snapshots::place;
use crate::store::Manifest;

impl Shard {
    /// Has its log archived from now on, by whoever asks for [`Shard::archive`]. Before the shard is used.
    pub fn keep_archived(&mut self, options: ArchiveOptions) {
        self.archive = Some(Arc::new(ArchiveWatch::new(options)));
    }

    /// What is known of its archive; none if its log is not archived.
    pub fn archive(&self) -> Option<&Arc<ArchiveWatch>> {
        self.archive.as_ref()
    }

    /// How the archive goes; none if its log is not archived.
    pub(super) fn archive_status(&self) -> Option<ArchiveStatus> {
        self.archive.as_ref().map(|archive| archive.status(self.environment.unix_ms()))
    }

    /// The files of snapshots that an archive needs, which this service does not keep now. It may have done so before, or another one may.
    pub(super) async fn archived_files(&self) -> Result<BTreeSet<String>, ArchiveError> {
        // What each service keeps in a directory of its own is in no archive.
        if self.archive.is_some() || self.snapshots.has_others() {
            return Ok(BTreeSet::new());
        }
        Archive::new(self.snapshots.clone(), place(&self.store.manifest())).files().await
    }

    /// The time of day, in milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        self.environment.unix_ms()
    }

    /// Forgets the oldest snapshots of `manifest` beyond `keep`, as far as the archive allows, and has the log begin at the oldest that is
    /// left. `began_empty` says whether it began without data.
    pub(super) fn forget_oldest(&self, manifest: &mut Manifest, keep: usize, began_empty: bool) {
        // A log that takes as much as it may goes back no further than it must: it is to go on.
        let is_full = self.store.usage().is_full;
        let keep = if is_full { 1 } else { keep };
        let (generation, end) = (manifest.generation, self.notifier().durable());
        let archive = self.archive.as_ref().filter(|_| !is_full);
        let beyond = manifest.snapshots.len().saturating_sub(keep.max(1));
        let archived = archive.map(|archive| archive.forgettable(generation, &manifest.snapshots, end));
        manifest.snapshots.drain(..beyond.min(archived.unwrap_or(usize::MAX)));
        // As long as there are fewer, a log that began without any data goes back to there. One that began with a snapshot begins
        // with the oldest that is left: else it would look as if it had begun without data.
        let Some(oldest) = manifest.snapshots.first().map(|oldest| oldest.offset) else { return };
        let is_archived = archive.is_none_or(|archive| archive.allows_base(generation, oldest, end));
        if !began_empty || manifest.snapshots.len() >= keep && is_archived {
            // What lies below the base is gone already.
            manifest.base = manifest.base.max(oldest);
        }
    }

    /// The manifest after `before`, with less that is kept for the archive; none if that is no less.
    fn forgets(&self, before: &Manifest, keep: usize) -> Option<Manifest> {
        let mut manifest = before.next();
        self.forget_oldest(&mut manifest, keep, before.begins_empty());
        let is_less = (manifest.base, manifest.snapshots.len()) != (before.base, before.snapshots.len());
        is_less.then_some(manifest)
    }

    /// The archive has more than before: forgets snapshots beyond `keep` that were kept for it, and drops log that no other needs.
    ///
    /// # Errors
    /// The manifest cannot be replaced.
    pub async fn forget_archived(&self, keep: usize) -> Result<(), Refusal> {
        if self.forgets(&self.store.manifest(), keep).is_none() {
            return Ok(());
        }
        let base = {
            let _changing = self.changing.lock().await;
            let Some(manifest) = self.forgets(&self.store.manifest(), keep) else { return Ok(()) };
            let (store, base) = (self.store.clone(), manifest.base);
            self.change_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await?;
            self.retain_suspects();
            base
        };
        self.drop_log_below(base).await;
        self.remove_all_other_snapshots().await;
        Ok(())
    }
}
