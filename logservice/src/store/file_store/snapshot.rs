//! Snapshots as files: written under a name that does not count, then renamed; recorded in the manifest last.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::files::sync_directory;
use crate::store::{InFile, SnapshotError, SnapshotRecord, SnapshotWriter};

const PARTIAL: &str = ".partial";
/// Synced whenever that much was written, so that the last sync is short: leadership cannot change during it, and the
/// log on the same disk never waits behind gigabytes.
const SYNC_BYTES: u64 = 32 << 20;

/// A snapshot that is being written.
pub struct FileSnapshot {
    directory: PathBuf,
    name: String,
    file: File,
    offset: u64,
    bytes: u64,
    synced_bytes: u64,
    crc32c: u32,
    finished: bool,
}

impl FileSnapshot {
    /// Creates the file. Its name has a random part: a snapshot never takes the place of one that a manifest records.
    pub fn create(directory: &Path, epoch: u64, offset: u64) -> Result<Self, SnapshotError> {
        let random = getrandom::u32().map_err(std::io::Error::from).in_file("cannot name a file in", directory)?;
        let name = format!("{offset:020}-{epoch}-{random:08x}.rdb");
        let path = directory.join(format!("{name}{PARTIAL}"));
        let file = File::create_new(&path).in_file("cannot create", &path)?;
        Ok(FileSnapshot {
            directory: directory.to_owned(),
            name,
            file,
            offset,
            bytes: 0,
            synced_bytes: 0,
            crc32c: 0,
            finished: false,
        })
    }

    fn partial_path(&self) -> PathBuf {
        self.directory.join(format!("{}{PARTIAL}", self.name))
    }
}

impl SnapshotWriter for FileSnapshot {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_all(bytes);
        written.in_file("cannot write", &self.partial_path())?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced_bytes >= SYNC_BYTES {
            self.file.sync_data().in_file("cannot sync", &self.partial_path())?;
            self.synced_bytes = self.bytes;
        }
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        Ok(())
    }

    fn finish(mut self: Box<Self>, replid: &str) -> Result<SnapshotRecord, SnapshotError> {
        let partial = self.partial_path();
        let path = self.directory.join(&self.name);
        self.file.sync_all().in_file("cannot sync", &partial)?;
        std::fs::rename(&partial, &path).in_file("cannot rename a snapshot to", &path)?;
        self.finished = true;
        sync_directory(&self.directory)?;
        Ok(SnapshotRecord {
            offset: self.offset,
            file: self.name.clone(),
            bytes: self.bytes,
            crc32c: self.crc32c,
            replid: replid.to_owned(),
        })
    }
}

impl Drop for FileSnapshot {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(self.partial_path());
        }
    }
}

/// Opens a recorded snapshot and checks its length. Its checksum is verified by whoever reads it.
pub fn open(directory: &Path, record: &SnapshotRecord) -> Result<File, SnapshotError> {
    let path = directory.join(&record.file);
    let file = File::open(&path).in_file("cannot open", &path)?;
    let found = file.metadata().in_file("cannot read the size of", &path)?.len();
    if found != record.bytes {
        return Err(SnapshotError::WrongSize { file: record.file.clone(), found, recorded: record.bytes });
    }
    Ok(file)
}

/// Removes every snapshot but the recorded one.
pub fn remove_others(directory: &Path, recorded: Option<&SnapshotRecord>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if recorded.is_none_or(|record| entry.file_name() != record.file.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
