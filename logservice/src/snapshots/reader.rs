//! Reads a stored snapshot, verified.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{SnapshotError, Use};
use crate::encryption::frames::{OpenFrameError, Opener};
use crate::store::Blocks;

/// The most that is read from a file, or handed out, at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// What is asked of an object store at a time: a request of its own for each, so that none lasts as long as a slow replica.
const RANGE_BYTES: u64 = 4 << 20;

/// The bytes of a snapshot's RDB, from the first on.
pub struct SnapshotReader {
    source: Source,
    /// None if it is not encrypted, or is not to be decrypted.
    opener: Option<Opener>,
    /// Its name, for messages.
    file: String,
    /// Checksums of its blocks; those of an older build have one of the whole only.
    blocks: Option<Blocks>,
    expected_crc32c: u32,
    crc32c: u32,
    /// Length of what is stored in bytes.
    bytes: u64,
    /// So much of it was verified, block by block, or has been read.
    read_bytes: u64,
    /// What was read and is not verified.
    unverified: BytesMut,
    /// What was verified and decrypted and is not handed out.
    verified: Bytes,
    _in_use: Use,
}

enum Source {
    File(tokio::fs::File),
    Object(Ranges),
}

/// An object that is read range by range, one of them ahead.
struct Ranges {
    objects: Arc<dyn ObjectStore>,
    path: ObjectPath,
    end: u64,
    next: u64,
    ahead: Option<JoinHandle<object_store::Result<Bytes>>>,
    /// Where requests run, wherever this is read: connections live as long as their runtime.
    runtime: Handle,
}

impl SnapshotReader {
    pub(super) fn of_file(file: std::fs::File, stored: Expected<'_>, in_use: Use) -> Self {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK_BYTES);
        Self::new(Source::File(file), stored, in_use)
    }

    pub(super) fn of_object(
        objects: Arc<dyn ObjectStore>,
        path: ObjectPath,
        stored: Expected<'_>,
        in_use: Use,
    ) -> Self {
        let ranges = Ranges { objects, path, end: stored.bytes, next: 0, ahead: None, runtime: Handle::current() };
        Self::new(Source::Object(ranges), stored, in_use)
    }

    fn new(source: Source, stored: Expected<'_>, in_use: Use) -> Self {
        SnapshotReader {
            source,
            opener: stored.opener,
            file: stored.file.to_owned(),
            blocks: stored.blocks.cloned(),
            expected_crc32c: stored.crc32c,
            crc32c: 0,
            bytes: stored.bytes,
            read_bytes: 0,
            unverified: BytesMut::new(),
            verified: Bytes::new(),
            _in_use: in_use,
        }
    }

    /// The next bytes; `None` behind the last. What has checksums of its blocks is verified before any of a block is handed out. Of
    /// the rest the last bytes come only if the checksum of the whole is right: who passes on what it gets never passes on a whole
    /// damaged snapshot.
    ///
    /// # Errors
    /// It cannot be read, or its bytes are not those that were stored.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        while self.verified.is_empty() {
            if self.read_bytes == self.bytes {
                return Ok(None);
            }
            self.verified = self.next_opened().await?;
        }
        let length = self.verified.len().min(CHUNK_BYTES);
        Ok(Some(self.verified.split_to(length)))
    }

    /// Reads the first bytes, if none were read: what is wrong with them is told before anybody is given any.
    ///
    /// # Errors
    /// As [`SnapshotReader::next`].
    pub async fn begin(&mut self) -> Result<(), SnapshotError> {
        if self.read_bytes == 0 && self.bytes > 0 {
            self.verified = self.next_opened().await?;
        }
        Ok(())
    }

    /// The next block, decrypted as far as that can be without what follows.
    async fn next_opened(&mut self) -> Result<Bytes, SnapshotError> {
        let block = self.next_block().await?;
        let Some(opener) = &mut self.opener else { return Ok(block) };
        let opened = opener.push(&block).and_then(|opened| match self.read_bytes == self.bytes && !opener.is_done() {
            true => Err(OpenFrameError::Header("what is stored is not as long as its RDB should be".to_owned())),
            false => Ok(opened),
        });
        opened.map_err(|source| SnapshotError::Locked { file: self.file.clone(), source })
    }

    async fn next_block(&mut self) -> Result<Bytes, SnapshotError> {
        if let Some(blocks) = self.blocks.as_ref().filter(|blocks| !blocks.fit(self.bytes)) {
            // Before it is read: a block may be said to be as long as all of it, which would then be in memory at a time.
            let (file, found, block_bytes) = (self.file.clone(), blocks.crc32c.len(), blocks.bytes);
            return Err(SnapshotError::Index { file, found, bytes: self.bytes, block_bytes });
        }
        let left = self.bytes - self.read_bytes;
        let block_bytes = self.blocks.as_ref().map_or(CHUNK_BYTES as u64, |blocks| blocks.bytes);
        let wanted = block_bytes.min(left) as usize;
        while self.unverified.len() < wanted {
            self.read_more(wanted).await?;
        }
        let block = self.unverified.split_to(wanted).freeze();
        let from = self.read_bytes;
        self.read_bytes += wanted as u64;
        let damaged = |from| SnapshotError::Damaged { file: self.file.clone(), from, until: self.read_bytes };
        match &self.blocks {
            Some(blocks) => {
                if blocks.crc32c.get((from / block_bytes) as usize) != Some(&crc32c::crc32c(&block)) {
                    return Err(damaged(from));
                }
            }
            None => {
                self.crc32c = crc32c::crc32c_append(self.crc32c, &block);
                if self.read_bytes == self.bytes && self.crc32c != self.expected_crc32c {
                    return Err(damaged(0));
                }
            }
        }
        Ok(block)
    }

    /// Reads at least one byte of those up to `wanted` that are to be verified next.
    async fn read_more(&mut self, wanted: usize) -> Result<(), SnapshotError> {
        let unreadable = |source| SnapshotError::Read { file: self.file.clone(), source };
        match &mut self.source {
            Source::File(file) => {
                self.unverified.reserve(wanted - self.unverified.len());
                let mut part = file.take((wanted - self.unverified.len()) as u64);
                if part.read_buf(&mut self.unverified).await.map_err(unreadable)? == 0 {
                    return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Source::Object(ranges) => {
                let failed = |source| SnapshotError::Object { action: "cannot read", file: self.file.clone(), source };
                let part = ranges.next().await.map_err(failed)?;
                if part.is_empty() {
                    return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
                }
                self.unverified.extend_from_slice(&part);
            }
        }
        Ok(())
    }
}

/// What a snapshot has to be as it is stored.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// Its name.
    pub file: &'a str,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole.
    pub crc32c: u32,
    /// Of its blocks, if they are known.
    pub blocks: Option<&'a Blocks>,
    /// Decrypts it, if it is encrypted and is to be read as an RDB.
    pub opener: Option<Opener>,
}

impl Ranges {
    async fn next(&mut self) -> object_store::Result<Bytes> {
        let current = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.request(),
        };
        self.ahead = (self.next < self.end).then(|| self.request());
        current.await?
    }

    fn request(&mut self) -> JoinHandle<object_store::Result<Bytes>> {
        let range = self.next..self.end.min(self.next + RANGE_BYTES);
        self.next = range.end;
        let (objects, path) = (self.objects.clone(), self.path.clone());
        self.runtime.spawn(async move { objects.get_range(&path, range).await })
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.abort();
        }
    }
}
