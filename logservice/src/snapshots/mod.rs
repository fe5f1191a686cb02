//! Where snapshots are kept: a local directory, or an object store by URL. A manifest says which of them count. No lock is held while an
//! object store takes its time.
//!
//! A snapshot is written as a [`Draft`], a local file; [`SnapshotStore::put`] makes it durable under its name; then it is recorded in the
//! manifest. What is stored and not recorded is removed when its shard is opened, and by the next snapshot.
//!
//! Read this file first: it stores and opens snapshots. `draft.rs` writes, `reader.rs` reads and verifies block by block (`blocks.rs`).
//! `cleanup.rs` removes what does not count, and `in_use.rs` keeps it from removing what is being read or stored. `scratch.rs` is where
//! engines write what is to be encrypted. Where several services keep a log, each with snapshots in a directory of its own, `others.rs` is what
//! one needs of the others, and `incoming.rs` stores what comes from them.

mod blocks;
mod cleanup;
mod draft;
mod errors;
#[cfg(test)]
mod fuzz;
mod in_use;
mod incoming;
mod others;
mod reader;
mod scratch;

pub use draft::Draft;
pub use errors::{LocationError, SnapshotError};
pub use in_use::Use;
pub use incoming::Incoming;
pub use others::{Asked, OtherServices};
pub use reader::SnapshotReader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, GetResultPayload, ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig};
use tempfile::TempDir;
use url::Url;

use self::in_use::InUse;
use self::others::Others;
use self::reader::Expected;
use self::scratch::Scratch;
use crate::base::file_error::{sync_directory, InFile};
use crate::encryption::frames::{self, Opener};
use crate::encryption::KeyRing;
use crate::store::{Manifest, SnapshotRecord};

/// A data set without keys, in a format that every Valkey version reads; the checksum is zero, which means none.
pub const EMPTY_RDB: &[u8] = b"REDIS0011\xff\0\0\0\0\0\0\0\0";

/// Appended to the name of a draft.
const PARTIAL: &str = ".partial";
/// Smallest part of an upload.
const MIN_PART_BYTES: u64 = 8 << 20;
/// Most parts of an upload. Object stores allow ten thousand.
const MAX_PARTS: u64 = 5000;
/// How long a request to an object store is retried. A client that waits for it (a node that starts, an upload) learns of the failure soon
/// and comes again by itself; a snapshot is made again later.
const RETRY_AT_MOST: Duration = Duration::from_secs(20);
/// How often a request is retried, with pauses that double up to three seconds.
const MAX_RETRIES: usize = 8;

/// The snapshots of all shards of a service.
#[derive(Debug)]
pub struct SnapshotStore {
    objects: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// The directory, if it is a local one. Drafts are then written beside what is stored.
    local: Option<PathBuf>,
    /// The directory for drafts otherwise.
    drafts: PathBuf,
    /// The keys of new and stored snapshots.
    keys: Arc<KeyRing>,
    /// Where engines write what will be encrypted, if not beside the drafts.
    plain: Option<Scratch>,
    in_use: Arc<InUse>,
    /// Those that keep the same snapshots, each in a directory of its own.
    others: Others,
}

/// A stored snapshot. It is not removed while this lives, recorded or not.
#[derive(Debug)]
pub struct Stored {
    /// Its name.
    pub file: String,
    _in_use: Use,
}

impl SnapshotStore {
    /// Snapshots at `url`, or below `directory` without one. Credentials and endpoints of object stores are taken from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT` …). Creates nothing.
    ///
    /// # Errors
    /// The URL is invalid or of an unknown kind.
    pub fn open(url: Option<&str>, directory: &Path) -> Result<Self, LocationError> {
        let drafts = directory.join("drafts");
        let Some(url) = url else { return Self::local(directory.join("snapshots"), drafts) };
        let wrong = |reason: String| LocationError::Url { url: url.to_owned(), reason };
        let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if parsed.scheme() == "file" {
            let path = parsed.to_file_path().map_err(|()| wrong("not an absolute path".to_owned()))?;
            return Self::local(path, drafts);
        }
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|error| wrong(error.to_string()))?;
        if !matches!(scheme, ObjectStoreScheme::AmazonS3) {
            return Err(wrong("not a place that is known".to_owned()));
        }
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = AmazonS3Builder::from_env().with_url(url).with_retry(retries());
        let objects = Arc::new(builder.build().map_err(|error| wrong(error.to_string()))?);
        Ok(SnapshotStore {
            objects,
            prefix,
            local: None,
            drafts,
            keys: Arc::default(),
            plain: None,
            in_use: Arc::default(),
            others: Others::default(),
        })
    }

    /// Snapshots in `objects`, with drafts in the directory `drafts`. For tests, whose objects are in memory.
    pub fn over(objects: Arc<dyn ObjectStore>, drafts: PathBuf) -> Self {
        let (prefix, keys, plain) = (ObjectPath::default(), Arc::default(), None);
        let (in_use, others) = (Arc::default(), Others::default());
        SnapshotStore { objects, prefix, local: None, drafts, keys, plain, in_use, others }
    }

    /// Keeps the snapshot `file`, which is stored or about to be, from being removed for as long as the answer lives.
    pub fn hold(&self, file: &str) -> Stored {
        Stored { file: file.to_owned(), _in_use: self.in_use.begin(file) }
    }

    fn local(root: PathBuf, drafts: PathBuf) -> Result<Self, LocationError> {
        let root = std::path::absolute(&root).in_file("cannot use", &root)?;
        let prefix = ObjectPath::from_absolute_path(&root)
            .map_err(|error| LocationError::Url { url: root.display().to_string(), reason: error.to_string() })?;
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        let (keys, plain) = (Arc::default(), None);
        let (in_use, others) = (Arc::default(), Others::default());
        Ok(SnapshotStore { objects, prefix, local: Some(root), drafts, keys, plain, in_use, others })
    }

    /// Encrypts snapshots with `keys` from now on. Engines write what will be encrypted to a directory in `plain`, or beside the drafts
    /// without one.
    pub fn encrypted_with(self, keys: Arc<KeyRing>, plain: Option<&Path>) -> Self {
        let plain = plain.map(|plain| Scratch::new(plain, &self.drafts));
        SnapshotStore { keys, plain, ..self }
    }

    /// Whether there is a key of that id.
    pub fn has_key(&self, id: &str) -> bool {
        self.keys.has(id)
    }

    /// A draft of a snapshot of the shard of `manifest` at `offset`. Its name has a random part, so that a snapshot never replaces another.
    /// Blocks on I/O.
    pub fn draft(&self, manifest: &Manifest, offset: u64) -> Result<Draft, SnapshotError> {
        let (path, name) = self.name(manifest, offset)?;
        let in_use = self.in_use.begin(&name);
        Draft::create(path, name, in_use, offset, self.keys.clone())
    }

    /// As [`SnapshotStore::draft`], from a file in [`SnapshotStore::engine_directory`], which is gone afterwards. Blocks on I/O.
    pub fn adopt(&self, manifest: &Manifest, offset: u64, written: &Path) -> Result<Draft, SnapshotError> {
        let (path, name) = self.name(manifest, offset)?;
        let in_use = self.in_use.begin(&name);
        let is_moved = self.keys.id_for_new().is_none()
            && match std::fs::rename(written, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => false,
                renamed => renamed.map(|()| true).in_file("cannot rename a snapshot to", &path)?,
            };
        if is_moved {
            return Draft::adopt(path, name, in_use, offset, self.keys.clone());
        }
        let mut draft = Draft::create(path, name, in_use, offset, self.keys.clone())?;
        draft.copy_from(written)?;
        std::fs::remove_file(written).in_file("cannot remove", written)?;
        Ok(draft)
    }

    /// Where engines write files, unencrypted, for [`SnapshotStore::adopt`]. Blocks on I/O.
    pub fn engine_directory(&self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let Some(plain) = self.plain.as_ref().filter(|_| self.keys.id_for_new().is_some()) else {
            return self.draft_directory(manifest);
        };
        Ok(plain.create()?.to_owned())
    }

    /// A directory in [`SnapshotStore::engine_directory`] for one engine, removed when the result is dropped. An engine leaves files there
    /// whose names are unknown: one that it was saving when it was killed, and, with some modules, the RDB that it was fed. Blocks on I/O.
    pub fn directory_of_engine(&self, manifest: &Manifest) -> Result<TempDir, SnapshotError> {
        let place = self.engine_directory(manifest)?;
        let directory = tempfile::Builder::new().prefix("engine-").tempdir_in(&place);
        Ok(directory.in_file("cannot create a directory in", &place)?)
    }

    /// The directory for drafts, created if needed. Blocks on I/O.
    pub fn draft_directory(&self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let directory = match &self.local {
            Some(root) => root.join(place(manifest)),
            None => self.drafts.clone(),
        };
        if !directory.is_dir() {
            std::fs::create_dir_all(&directory).in_file("cannot create", &directory)?;
            // A rename syncs only the directory that it is in, so the directory itself has to be durable before.
            for parent in directory.ancestors().skip(1).take(2) {
                sync_directory(parent)?;
            }
        }
        Ok(directory)
    }

    fn name(&self, manifest: &Manifest, offset: u64) -> Result<(PathBuf, String), SnapshotError> {
        let directory = self.draft_directory(manifest)?;
        let random = getrandom::u32().map_err(std::io::Error::from).in_file("cannot name a file in", &directory)?;
        let name = format!("{offset:020}-{random:08x}.rdb");
        Ok((directory.join(format!("{name}{PARTIAL}")), format!("{}/{name}", place(manifest))))
    }

    /// Stores a draft under its name. The snapshot is durable when this returns, and counts once a manifest records it.
    ///
    /// # Errors
    /// It could not be stored; what may be left of it is removed later.
    pub async fn put(&self, mut draft: Draft) -> Result<Stored, SnapshotError> {
        let to = self.object_path(&draft.name);
        let file = draft.name.clone();
        let failed = |source| SnapshotError::Object { action: "cannot store", file: file.clone(), source };
        draft = blocking(move || draft.sync().map(|()| draft)).await?;
        if self.local.is_some() {
            let from = self.object_path(&format!("{}{PARTIAL}", draft.name));
            self.objects.rename(&from, &to).await.map_err(failed)?;
            draft.is_stored = true;
        } else {
            let part_bytes = MIN_PART_BYTES.max(draft.stored_bytes() / MAX_PARTS) as usize;
            let mut writer = BufWriter::with_capacity(self.objects.clone(), to, part_bytes);
            let unreadable = |source| SnapshotError::Read { file: file.clone(), source };
            let mut reader = tokio::fs::File::open(draft.path()).await.map_err(unreadable)?;
            let not_stored = |source| SnapshotError::Upload { file: file.clone(), source };
            let copied = tokio::io::copy(&mut reader, &mut writer).await;
            if let Err(source) = copied {
                let _ = writer.abort().await;
                return Err(not_stored(source));
            }
            tokio::io::AsyncWriteExt::shutdown(&mut writer).await.map_err(not_stored)?;
        }
        let _in_use = draft.use_stored();
        Ok(Stored { file, _in_use })
    }

    /// Opens a recorded snapshot and checks its length. Its bytes are verified and decrypted as they are read.
    pub async fn get(&self, record: &SnapshotRecord) -> Result<SnapshotReader, SnapshotError> {
        let opener = record.encrypt_key.as_ref();
        self.open_stored(record, opener.map(|_| Opener::new(self.keys.clone(), &record.file, record.bytes))).await
    }

    /// Reads the RDB with an opener, or the stored bytes without one.
    async fn open_stored(
        &self,
        record: &SnapshotRecord,
        opener: Option<Opener>,
    ) -> Result<SnapshotReader, SnapshotError> {
        let bytes = stored_bytes(record);
        let SnapshotRecord { file, crc32c, blocks, .. } = record;
        let expected = Expected { file, bytes, crc32c: *crc32c, blocks: blocks.as_ref(), opener };
        let in_use = self.in_use.begin(&record.file);
        let path = self.object_path(&record.file);
        let failed = |source| SnapshotError::Object { action: "cannot open", file: record.file.clone(), source };
        if self.local.is_none() {
            let found = self.objects.head(&path).await.map_err(failed)?.size;
            check_size(record, found)?;
            return Ok(SnapshotReader::of_object(self.objects.clone(), path, expected, in_use));
        }
        let opened = match self.objects.get(&path).await {
            Err(object_store::Error::NotFound { .. }) if self.has_others() => {
                self.others.want();
                return Err(SnapshotError::NotHere { file: record.file.clone() });
            }
            opened => opened.map_err(failed)?,
        };
        check_size(record, opened.meta.size)?;
        match opened.payload {
            GetResultPayload::File(file, _) => Ok(SnapshotReader::of_file(file, expected, in_use)),
            GetResultPayload::Stream(_) => Ok(SnapshotReader::of_object(self.objects.clone(), path, expected, in_use)),
        }
    }

    /// Verifies a recorded snapshot by reading all of it. Without keys it is not decrypted, which is not needed to find damage.
    ///
    /// # Errors
    /// It differs from what was recorded.
    pub async fn verify(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let mut reader = match self.keys.has_keys() {
            true => self.get(record).await?,
            false => self.open_stored(record, None).await?,
        };
        while reader.next().await?.is_some() {}
        Ok(())
    }

    /// Copies a stored snapshot from another place, as it is stored there, and verifies it on the way. It is durable when this returns.
    ///
    /// # Errors
    /// It cannot be read, differs from what was recorded, or could not be stored; then there is none.
    pub async fn copy_from(&self, other: &SnapshotStore, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let mut reader = other.open_stored(record, None).await?;
        let part_bytes = MIN_PART_BYTES.max(stored_bytes(record) / MAX_PARTS) as usize;
        let to = self.object_path(&record.file);
        let mut writer = BufWriter::with_capacity(self.objects.clone(), to, part_bytes);
        let not_stored = |source| SnapshotError::Upload { file: record.file.clone(), source };
        let copied = async {
            while let Some(part) = reader.next().await? {
                tokio::io::AsyncWriteExt::write_all(&mut writer, &part).await.map_err(not_stored)?;
            }
            Ok(())
        };
        if let Err(error) = copied.await {
            let _ = writer.abort().await;
            return Err(error);
        }
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await.map_err(not_stored)
    }

    /// Where everything is stored.
    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Whether it is a local directory.
    pub(crate) fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The keys of what is stored.
    pub(crate) fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// The object of that name below this place.
    pub(crate) fn object_path(&self, file: &str) -> ObjectPath {
        self.prefix.parts().chain(ObjectPath::from(file).parts()).collect()
    }
}

fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), base: 2.0 };
    RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRY_AT_MOST }
}

/// The offset of a stored snapshot, by its name; `None` for a draft.
fn snapshot_offset(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".rdb")?.split_once('-')?.0;
    if digits.len() == 20 {
        digits.parse().ok()
    } else {
        None
    }
}

/// The name of a shard's directory among all snapshots.
pub fn place(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.shard, manifest.id)
}

/// The length that a stored snapshot has to have.
fn stored_bytes(record: &SnapshotRecord) -> u64 {
    match record.encrypt_key {
        Some(_) => frames::stored_bytes(record.bytes),
        None => record.bytes,
    }
}

fn check_size(record: &SnapshotRecord, found: u64) -> Result<(), SnapshotError> {
    let recorded = stored_bytes(record);
    if found == recorded {
        return Ok(());
    }
    Err(SnapshotError::WrongSize { file: record.file.clone(), found, recorded })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(SnapshotError::Read { file: String::new(), source: std::io::Error::other(error) }),
    }
}
