//! A snapshot on its way: a file whose name does not count yet.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::blocks::BlockSums;
use super::reader::Expected;
use super::{SnapshotError, SnapshotReader, Use};
use crate::store::{Blocks, FileError, InFile};

/// Synced whenever that much was written, so that the last sync is short: leadership cannot change during it, and the
/// log on the same disk never waits behind gigabytes.
const SYNC_BYTES: u64 = 32 << 20;
const READ_BYTES: usize = 1 << 20;

/// A snapshot that is being written. Dropped before it is stored it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    /// Below which name it is to be stored.
    pub(super) name: String,
    /// That name.
    in_use: Use,
    offset: u64,
    file: File,
    bytes: u64,
    synced_bytes: u64,
    crc32c: u32,
    blocks: BlockSums,
    pub(super) is_stored: bool,
}

impl Draft {
    /// Creates the file at `path`, for a snapshot that stands at `offset` and will be called `name`. Blocks on I/O.
    pub(super) fn create(path: PathBuf, name: String, in_use: Use, offset: u64) -> Result<Self, SnapshotError> {
        let file = File::create_new(&path).in_file("cannot create", &path)?;
        Ok(Self::empty(path, name, in_use, offset, file))
    }

    /// Takes over the file at `path`, that somebody else wrote, and reads it. Blocks on I/O.
    pub(super) fn adopt(path: PathBuf, name: String, in_use: Use, offset: u64) -> Result<Self, SnapshotError> {
        let file = File::open(&path).in_file("cannot open", &path)?;
        let mut draft = Self::empty(path, name, in_use, offset, file);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match draft.file.read(&mut buffer) {
                Ok(0) => return Ok(draft),
                Ok(count) => draft.count(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FileError { action: "cannot read", path: draft.path.clone(), source }.into()),
            }
        }
    }

    fn empty(path: PathBuf, name: String, in_use: Use, offset: u64, file: File) -> Self {
        let (bytes, synced_bytes, crc32c, is_stored) = (0, 0, 0, false);
        Draft { path, name, in_use, offset, file, bytes, synced_bytes, crc32c, blocks: BlockSums::default(), is_stored }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.blocks.add(bytes);
    }

    /// Adds bytes. Blocks on I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(bytes).in_file("cannot write", &self.path)?;
        self.count(bytes);
        if self.bytes - self.synced_bytes >= SYNC_BYTES {
            self.file.sync_data().in_file("cannot sync", &self.path)?;
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    /// Everything that was written is on the medium when this returns. Blocks on I/O.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        Ok(self.file.sync_all().in_file("cannot sync", &self.path)?)
    }

    /// Reads what was written.
    pub fn reader(&self) -> Result<SnapshotReader, SnapshotError> {
        let file = File::open(&self.path).in_file("cannot open", &self.path)?;
        let in_use = self.in_use.again();
        let blocks = self.blocks();
        let expected = Expected { file: &self.name, bytes: self.bytes, crc32c: self.crc32c, blocks: Some(&blocks) };
        Ok(SnapshotReader::of_file(file, expected, in_use))
    }

    /// Keeps what it is stored as from being removed.
    pub(super) fn use_stored(&self) -> Use {
        self.in_use.again()
    }

    /// Where it is until it is stored.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the stream it stands.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC32C of its bytes so far.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Checksums of its blocks so far.
    pub fn blocks(&self) -> Blocks {
        self.blocks.blocks()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_stored {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
