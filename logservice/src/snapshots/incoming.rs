//! A snapshot that comes from another service: a draft until all of it is here and is what was recorded.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::draft::SYNC_BYTES;
use super::others::check_name;
use super::{blocking, snapshot_offset, stored_bytes, SnapshotError, SnapshotStore, Stored, Use, PARTIAL};
use crate::base::file_error::{sync_directory, InFile};
use crate::store::SnapshotRecord;

/// A snapshot of which the beginning is here. Leaves nothing if it is dropped before it is stored.
#[derive(Debug)]
pub struct Incoming {
    path: PathBuf,
    /// Name of the draft, below the place of all snapshots.
    draft: String,
    file: File,
    record: SnapshotRecord,
    bytes: u64,
    synced_bytes: u64,
    crc32c: u32,
    is_stored: bool,
    in_use: Use,
}

impl SnapshotStore {
    /// Begins to take the snapshot of `record` from another service. Blocks on I/O.
    ///
    /// # Errors
    /// Its draft cannot be made.
    pub fn incoming(&self, record: &SnapshotRecord) -> Result<Incoming, SnapshotError> {
        check_name(&record.file)?;
        let not_here = || SnapshotError::NotHere { file: record.file.clone() };
        let root = self.local.as_ref().ok_or_else(not_here)?;
        // Kept from the first byte on: nobody else may remove what is about to be named.
        let in_use = self.in_use.begin(&record.file);
        let random = getrandom::u32().map_err(std::io::Error::from).in_file("cannot name a file in", root)?;
        let draft = format!("{}.{random:08x}{PARTIAL}", record.file);
        let path = root.join(&draft);
        if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
            std::fs::create_dir_all(directory).in_file("cannot create", directory)?;
            for parent in directory.ancestors().skip(1).take(2) {
                sync_directory(parent)?;
            }
        }
        let file = File::create_new(&path).in_file("cannot create", &path)?;
        let record = record.clone();
        let (bytes, synced_bytes, crc32c, is_stored) = (0, 0, 0, false);
        Ok(Incoming { path, draft, file, record, bytes, synced_bytes, crc32c, is_stored, in_use })
    }

    /// Gives the snapshot its name, if all of it has come and is what was recorded. It is durable when this returns.
    ///
    /// # Errors
    /// It is another one, or could not be stored.
    pub async fn keep(&self, mut incoming: Incoming) -> Result<Stored, SnapshotError> {
        incoming = blocking(move || incoming.finish().map(|()| incoming)).await?;
        let (from, to) = (self.object_path(&incoming.draft), self.object_path(&incoming.record.file));
        let file = incoming.record.file.clone();
        let failed = |source| SnapshotError::Object { action: "cannot store", file: file.clone(), source };
        object_store::ObjectStoreExt::rename(&*self.objects, &from, &to).await.map_err(failed)?;
        incoming.is_stored = true;
        let _in_use = incoming.in_use.again();
        Ok(Stored { file, _in_use })
    }
}

/// The name of the snapshot that comes from another service as the draft of that name; none if it is no such draft.
pub(super) fn comes_as(draft: &str) -> Option<&str> {
    let (snapshot, _random) = draft.strip_suffix(PARTIAL)?.rsplit_once('.')?;
    snapshot_offset(snapshot).map(|_| snapshot)
}

impl Incoming {
    /// How many bytes have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many are still to come.
    pub fn missing_bytes(&self) -> u64 {
        stored_bytes(&self.record).saturating_sub(self.bytes)
    }

    /// The next bytes have come. Blocks on I/O.
    ///
    /// # Errors
    /// They cannot be written, or there are more than the snapshot has.
    pub fn write(&mut self, part: &[u8]) -> Result<(), SnapshotError> {
        if part.len() as u64 > self.missing_bytes() {
            return Err(self.wrong_size(self.bytes + part.len() as u64));
        }
        self.file.write_all(part).in_file("cannot write", &self.path)?;
        self.bytes += part.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, part);
        if self.bytes - self.synced_bytes >= SYNC_BYTES {
            self.file.sync_data().in_file("cannot sync", &self.path)?;
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    /// Verifies what has come, and makes it durable. Blocks on I/O.
    fn finish(&mut self) -> Result<(), SnapshotError> {
        if self.missing_bytes() > 0 {
            return Err(self.wrong_size(self.bytes));
        }
        if self.crc32c != self.record.crc32c {
            return Err(SnapshotError::Damaged { file: self.record.file.clone(), from: 0, until: self.bytes });
        }
        Ok(self.file.sync_all().in_file("cannot sync", &self.path)?)
    }

    fn wrong_size(&self, found: u64) -> SnapshotError {
        let (file, recorded) = (self.record.file.clone(), stored_bytes(&self.record));
        SnapshotError::WrongSize { file, found, recorded }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.is_stored {
            // What stays is removed when the service starts.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Manifest;

    #[test]
    fn what_comes_is_not_taken_for_what_a_crash_has_left() {
        let directory = tempfile::tempdir().expect("tempdir");
        let snapshots = SnapshotStore::open(None, directory.path()).expect("a directory");
        let manifest = Manifest::new("s1", "r".repeat(40), "id".to_owned());
        let record = SnapshotRecord {
            offset: 7,
            file: "s1-id/00000000000000000007-0000002a.rdb".to_owned(),
            bytes: 3,
            crc32c: crc32c::crc32c(b"abc"),
            blocks: None,
            replid: "r".repeat(40),
            engine: None,
            time_ms: 0,
            contents: None,
            encrypt_key: None,
        };
        let mut incoming = snapshots.incoming(&record).expect("begun");
        incoming.write(b"ab").expect("written");
        let left = directory.path().join("snapshots/s1-id/00000000000000000009-0000002b.rdb.0000002c.partial");
        std::fs::write(&left, "").expect("written");
        // The shard is opened.
        snapshots.remove_drafts(&manifest).expect("removed");
        assert!(incoming.path.is_file() && !left.exists());
        let path = incoming.path.clone();
        drop(incoming);
        assert!(!path.exists());
    }
}
