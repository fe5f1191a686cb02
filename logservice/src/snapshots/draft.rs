//! A snapshot that is being written: a file whose name does not count yet.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blocks::BlockSums;
use super::reader::Expected;
use super::{SnapshotError, SnapshotReader, Use};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::frames::{Opener, Sealer};
use crate::encryption::KeyRing;
use crate::store::Blocks;

/// A draft is synced whenever so much was written. So the last sync is short, during which leadership cannot change, and the log on the same
/// disk never waits behind gigabytes.
pub(super) const SYNC_BYTES: u64 = 32 << 20;
const READ_BYTES: usize = 1 << 20;

/// A snapshot that is being written, and encrypted before it reaches the file if there is a key for that. Leaves nothing if it is dropped
/// before it is stored.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    /// The name under which it will be stored.
    pub(super) name: String,
    /// Keeps what is stored under that name.
    in_use: Use,
    offset: u64,
    file: File,
    keys: Arc<KeyRing>,
    /// `None` if it is not encrypted.
    sealer: Option<Sealer>,
    /// Encrypted bytes that are not written. Kept only to reuse the buffer.
    sealed: Vec<u8>,
    /// Length of the RDB so far.
    bytes: u64,
    stored_bytes: u64,
    synced_bytes: u64,
    crc32c: u32,
    blocks: BlockSums,
    pub(super) is_stored: bool,
}

impl Draft {
    /// Creates the file at `path`, for a snapshot at `offset` that will be stored as `name`. Blocks on I/O.
    pub(super) fn create(
        path: PathBuf,
        name: String,
        in_use: Use,
        offset: u64,
        keys: Arc<KeyRing>,
    ) -> Result<Self, SnapshotError> {
        let begun = Sealer::begin(&keys, &name).in_file("cannot draw a key for", &path)?;
        let file = File::create_new(&path).in_file("cannot create", &path)?;
        let mut draft = Self::empty(path, name, in_use, offset, file, keys);
        if let Some((sealer, header)) = begun {
            draft.sealer = Some(sealer);
            draft.store(&header)?;
        }
        Ok(draft)
    }

    /// Takes over the finished file at `path`, which stays unencrypted, and reads it for its checksums. Blocks on I/O.
    pub(super) fn adopt(
        path: PathBuf,
        name: String,
        in_use: Use,
        offset: u64,
        keys: Arc<KeyRing>,
    ) -> Result<Self, SnapshotError> {
        let file = File::open(&path).in_file("cannot open", &path)?;
        let mut draft = Self::empty(path.clone(), name, in_use, offset, file, keys);
        let written = draft.file.try_clone().in_file("cannot read", &path)?;
        read_parts(written, &path, |part| {
            draft.bytes += part.len() as u64;
            draft.count(part);
            Ok(())
        })?;
        Ok(draft)
    }

    /// Writes the content of the file at `path`, and finishes. Blocks on I/O.
    pub(super) fn copy_from(&mut self, path: &Path) -> Result<(), SnapshotError> {
        let written = File::open(path).in_file("cannot open", path)?;
        read_parts(written, path, |part| self.write(part))?;
        self.finish()
    }

    fn empty(path: PathBuf, name: String, in_use: Use, offset: u64, file: File, keys: Arc<KeyRing>) -> Self {
        Draft {
            path,
            name,
            in_use,
            offset,
            file,
            keys,
            sealer: None,
            sealed: Vec::new(),
            bytes: 0,
            stored_bytes: 0,
            synced_bytes: 0,
            crc32c: 0,
            blocks: BlockSums::default(),
            is_stored: false,
        }
    }

    /// Adds stored bytes to the length and the checksums.
    fn count(&mut self, stored: &[u8]) {
        self.stored_bytes += stored.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, stored);
        self.blocks.add(stored);
    }

    fn store(&mut self, stored: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(stored).in_file("cannot write", &self.path)?;
        self.count(stored);
        if self.stored_bytes - self.synced_bytes >= SYNC_BYTES {
            self.file.sync_data().in_file("cannot sync", &self.path)?;
            self.synced_bytes = self.stored_bytes;
        }
        Ok(())
    }

    /// Adds bytes of the RDB. Blocks on I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.bytes += bytes.len() as u64;
        match &mut self.sealer {
            None => self.store(bytes),
            Some(sealer) => {
                let mut sealed = std::mem::take(&mut self.sealed);
                sealed.clear();
                sealer.push(bytes, &mut sealed).in_file("cannot encrypt", &self.path)?;
                let stored = self.store(&sealed);
                self.sealed = sealed;
                stored
            }
        }
    }

    /// Ends the RDB. Has to be called before the draft is read or stored. Blocks on I/O.
    pub fn finish(&mut self) -> Result<(), SnapshotError> {
        let Some(sealer) = &mut self.sealer else { return Ok(()) };
        let mut sealed = Vec::new();
        sealer.finish(&mut sealed).in_file("cannot encrypt", &self.path)?;
        self.store(&sealed)
    }

    /// Makes everything that was written durable. Blocks on I/O.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        self.check_finished()?;
        Ok(self.file.sync_all().in_file("cannot sync", &self.path)?)
    }

    fn check_finished(&self) -> Result<(), SnapshotError> {
        match &self.sealer {
            Some(sealer) if !sealer.is_finished() => {
                let source = std::io::Error::other("its last byte has not come");
                Err(SnapshotError::Read { file: self.name.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// The id of the key that it is encrypted with; `None` if it is not encrypted.
    pub fn encrypt_key(&self) -> Option<&str> {
        self.sealer.as_ref().map(Sealer::key_id)
    }

    /// A reader of the finished draft.
    pub fn reader(&self) -> Result<SnapshotReader, SnapshotError> {
        self.check_finished()?;
        let file = File::open(&self.path).in_file("cannot open", &self.path)?;
        let in_use = self.in_use.again();
        let blocks = self.blocks();
        let opener = self.sealer.as_ref().map(|_| Opener::new(self.keys.clone(), &self.name, self.bytes));
        let (bytes, crc32c) = (self.stored_bytes, self.crc32c);
        let expected = Expected { file: &self.name, bytes, crc32c, blocks: Some(&blocks), opener };
        Ok(SnapshotReader::of_file(file, expected, in_use))
    }

    /// Keeps what is stored under its name from being removed.
    pub(super) fn use_stored(&self) -> Use {
        self.in_use.again()
    }

    /// Its file, until it is stored.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its offset in the stream.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length of the RDB so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Length of what is stored so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// CRC32C of what is stored so far.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Checksums of the blocks of what is stored so far.
    pub fn blocks(&self) -> Blocks {
        self.blocks.blocks()
    }
}

/// Calls `each` with a file part by part.
fn read_parts(
    mut file: File,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(FileError { action: "cannot read", path: path.to_owned(), source }.into()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_stored {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
