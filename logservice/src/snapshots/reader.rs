//! Reads a stored snapshot, verified.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{SnapshotError, Use};
use crate::store::SnapshotRecord;

/// The most that is read from a file at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// What is asked of an object store at a time: a request of its own for each, so that none lasts as long as a slow replica.
const RANGE_BYTES: u64 = 4 << 20;

/// The bytes of a snapshot, from the first on.
pub struct SnapshotReader {
    source: Source,
    /// Its name, for messages.
    file: String,
    expected_crc32c: u32,
    crc32c: u32,
    left: u64,
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
    pub(super) fn of_file(file: std::fs::File, name: &str, bytes: u64, crc32c: u32, in_use: Use) -> Self {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(CHUNK_BYTES as usize);
        Self::new(Source::File(file), name, bytes, crc32c, in_use)
    }

    pub(super) fn of_object(
        objects: Arc<dyn ObjectStore>,
        path: ObjectPath,
        record: &SnapshotRecord,
        in_use: Use,
    ) -> Self {
        let SnapshotRecord { file, bytes, crc32c, .. } = record;
        let ranges = Ranges { objects, path, end: *bytes, next: 0, ahead: None, runtime: Handle::current() };
        Self::new(Source::Object(ranges), file, *bytes, *crc32c, in_use)
    }

    fn new(source: Source, name: &str, bytes: u64, crc32c: u32, in_use: Use) -> Self {
        SnapshotReader {
            source,
            file: name.to_owned(),
            expected_crc32c: crc32c,
            crc32c: 0,
            left: bytes,
            _in_use: in_use,
        }
    }

    /// The next bytes; `None` behind the last. The last come only if the checksum of the whole is right: who passes on what it
    /// gets never passes on a whole damaged snapshot.
    ///
    /// # Errors
    /// It cannot be read, or its bytes are not those that were stored.
    pub async fn next(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        if self.left == 0 {
            return Ok(None);
        }
        let chunk = match &mut self.source {
            Source::File(file) => {
                let mut chunk = vec![0; self.left.min(CHUNK_BYTES) as usize];
                let read = file.read_exact(&mut chunk).await;
                read.map_err(|source| SnapshotError::Read { file: self.file.clone(), source })?;
                Bytes::from(chunk)
            }
            Source::Object(ranges) => ranges.next().await.map_err(|source| SnapshotError::Object {
                action: "cannot read",
                file: self.file.clone(),
                source,
            })?,
        };
        self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk);
        self.left = self.left.saturating_sub(chunk.len() as u64);
        if self.left == 0 && self.crc32c != self.expected_crc32c {
            return Err(SnapshotError::Damaged { file: self.file.clone() });
        }
        Ok(Some(chunk))
    }
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
