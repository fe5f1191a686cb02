//! Removes snapshots and drafts that do not count: left over from a crash, replaced by newer ones, or of a dropped shard.

use std::future::{ready, Future};

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use super::incoming::comes_as;
use super::scratch::Scratch;
use super::{blocking, place, snapshot_offset, SnapshotError, SnapshotStore, PARTIAL};
use crate::base::file_error::{FileError, InFile};
use crate::store::Manifest;

impl SnapshotStore {
    /// Removes drafts that a crash has left and that belong to no shard. None may be in progress. Blocks on I/O.
    pub fn remove_unnamed_drafts(&self) -> Result<(), FileError> {
        match std::fs::remove_dir_all(&self.drafts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).in_file("cannot remove", &self.drafts)?;
            }
            _ => {}
        }
        self.plain.as_ref().map_or(Ok(()), Scratch::remove)
    }

    /// Removes drafts that a crash has left of the shard of `manifest`. None may be in progress but of what comes from another service: that may
    /// have begun before the shard was opened here. Blocks on I/O.
    pub fn remove_drafts(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let Some(root) = &self.local else { return Ok(()) };
        let place = place(manifest);
        let directory = root.join(&place);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.in_file("cannot list", &directory)?,
        };
        let comes =
            |name: &str| comes_as(name).is_some_and(|snapshot| self.in_use.contains(&format!("{place}/{snapshot}")));
        for entry in entries {
            let path = entry.in_file("cannot list", &directory)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(comes) {
                continue;
            }
            if path.is_dir() {
                std::fs::remove_dir_all(&path).in_file("cannot remove", &path)?;
            } else if path.file_name().and_then(|name| name.to_str()).and_then(snapshot_offset).is_none() {
                std::fs::remove_file(&path).in_file("cannot remove", &path)?;
            }
        }
        Ok(())
    }

    /// Removes snapshots of the shard of `manifest` that are not in use and not needed. `is_needed` is called with the name and offset of each
    /// snapshot after it was found not to be in use. Nothing is removed if `may_remove`, which is asked after the snapshots were listed,
    /// says so: another service may have made those that are not known to be needed.
    pub async fn remove_others(
        &self,
        manifest: &Manifest,
        is_needed: impl Fn(&str, u64) -> bool,
        may_remove: impl Future<Output = bool>,
    ) -> Result<(), SnapshotError> {
        let place = place(manifest);
        let failed = |source| SnapshotError::Object { action: "cannot clean up", file: place.clone(), source };
        let of_shard = self.object_path(&place);
        let found = self.objects.list(Some(&of_shard)).map_ok(|meta| meta.location);
        let is_removed = |path: &ObjectPath| {
            let named = path.filename().and_then(|name| Some((name, snapshot_offset(name)?)));
            named.is_some_and(|(name, offset)| {
                let file = format!("{place}/{name}");
                !self.in_use.contains(&file) && !is_needed(&file, offset)
            })
        };
        let others: Vec<_> = found.try_filter(|path| ready(is_removed(path))).try_collect().await.map_err(failed)?;
        if others.is_empty() || !may_remove.await {
            return Ok(());
        }
        // Somebody may have begun to use one meanwhile.
        for path in others.into_iter().filter(is_removed) {
            match self.objects.delete(&path).await {
                Ok(()) => tracing::debug!("removed {path}, a snapshot that is not needed"),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Removes all snapshots that are not in use of the shard of `manifest`, which was dropped. If `is_released`, removes drafts as well; then
    /// none may be in progress. Returns whether none is left.
    pub async fn remove_all(&self, manifest: &Manifest, is_released: bool) -> Result<bool, SnapshotError> {
        self.remove_others(manifest, |_, _| false, ready(true)).await?;
        let place = place(manifest);
        let of_shard = self.object_path(&place);
        let failed = |source| SnapshotError::Object { action: "cannot list", file: place.clone(), source };
        if !is_released {
            return Ok(false);
        }
        let mut found = self.objects.list(Some(&of_shard)).map_ok(|meta| meta.location).boxed();
        while let Some(path) = found.try_next().await.map_err(failed)? {
            // Anything else is left over from a crash, or from an engine that was killed.
            if path.filename().is_some_and(|name| self.is_stored_or_used(&place, name)) {
                return Ok(false);
            }
        }
        let Some(root) = &self.local else { return Ok(true) };
        let directory = root.join(&place);
        blocking(move || match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Ok(Err(error).in_file("cannot remove", &directory)?)
            }
            _ => Ok(true),
        })
        .await
    }

    /// Whether that is a stored snapshot, or a draft that is in use.
    fn is_stored_or_used(&self, place: &str, name: &str) -> bool {
        let is_used = |name: &str| self.in_use.contains(&format!("{place}/{name}"));
        snapshot_offset(name).is_some() || name.strip_suffix(PARTIAL).is_some_and(is_used)
    }
}
