//! Reads a stored snapshot, and verifies it before any byte is passed on.

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

/// The most that is read from a file, or passed on, at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// The range of one request to an object store. Each range has a request of its own, so that none lasts as long as a slow replica.
const RANGE_BYTES: u64 = 4 << 20;

/// The bytes of a snapshot's RDB, from the first on.
pub struct SnapshotReader {
    source: Source,
    /// `None` if it is not encrypted, or stays so.
    opener: Option<Opener>,
    /// The snapshot's name, for messages.
    file: String,
    /// Checksums of its blocks. `None` for snapshots of an older build, which have only one of the whole.
    blocks: Option<Blocks>,
    expected_crc32c: u32,
    crc32c: u32,
    /// Length of what is stored in bytes.
    bytes: u64,
    /// How much of it was read, and verified if it has blocks.
    read_bytes: u64,
    /// Bytes that were read and not verified.
    unverified: BytesMut,
    /// Bytes that were verified and decrypted and not passed on.
    verified: Bytes,
    _in_use: Use,
}

enum Source {
    File(tokio::fs::File),
    Object(Ranges),
}

/// An object that is read range by range, with one range requested ahead.
struct Ranges {
    objects: Arc<dyn ObjectStore>,
    path: ObjectPath,
    end: u64,
    next: u64,
    ahead: Option<JoinHandle<object_store::Result<Bytes>>>,
    /// The runtime of all requests, as connections live as long as their runtime.
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

    /// The next bytes; `None` after the last. With checksums of blocks, a block is verified before any byte of it is returned. Without them,
    /// the last bytes are returned only if the checksum of the whole is right, so that a damaged snapshot is never passed on completely.
    ///
    /// # Errors
    /// It cannot be read, or its bytes differ from those that were stored.
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

    /// Reads the first bytes if none were read, so that an error in them is found before the snapshot is offered to a client.
    ///
    /// # Errors
    /// As [`SnapshotReader::next`].
    pub async fn begin(&mut self) -> Result<(), SnapshotError> {
        if self.read_bytes == 0 && self.bytes > 0 {
            self.verified = self.next_opened().await?;
        }
        Ok(())
    }

    /// The next block, decrypted as far as that is possible without the following bytes.
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
            // Checked before reading, as a wrong index could claim one block as long as the whole, which would have to be in memory.
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

    /// Reads at least one byte of those up to `wanted` that are verified next.
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

/// What a stored snapshot has to be.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// Its name.
    pub file: &'a str,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC32C of the whole.
    pub crc32c: u32,
    /// Checksums of its blocks, if they are known.
    pub blocks: Option<&'a Blocks>,
    /// Decrypts it, if it is encrypted and read as an RDB.
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
