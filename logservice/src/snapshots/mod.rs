//! Where snapshots are kept: a local directory, or an object store by URL. A manifest says which of them count.
//!
//! A snapshot is written as a [`Draft`], a local file; [`SnapshotStore::put`] makes it durable under its name; then it is
//! recorded in the manifest. What is stored and not recorded is removed when its shard is opened, and by the next snapshot.

mod blocks;
mod draft;
#[cfg(test)]
mod fuzz;
mod in_use;
mod reader;
mod scratch;

pub use draft::Draft;
pub use in_use::Use;
pub use reader::SnapshotReader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, GetResultPayload, ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig};
use tempfile::TempDir;
use url::Url;

use self::in_use::InUse;
use self::reader::Expected;
use self::scratch::Scratch;
use crate::encryption::frames::{self, OpenFrameError, Opener};
use crate::encryption::KeyRing;
use crate::store::file_store::files::sync_directory;
use crate::store::{FileError, InFile, Manifest, SnapshotRecord};

/// Appended to the name of a snapshot that is not stored yet.
const PARTIAL: &str = ".partial";
/// Smallest part of an upload.
const MIN_PART_BYTES: u64 = 8 << 20;
/// Parts of an upload: object stores take ten thousand.
const MAX_PARTS: u64 = 5000;
/// How long a request to an object store is sent again. Whoever waits for it (a node that starts, a seed) is told soon, and
/// comes again by itself; a snapshot is made again later.
const RETRY_AT_MOST: Duration = Duration::from_secs(20);
/// How often, with pauses that double, up to three seconds.
const MAX_RETRIES: usize = 8;

/// Why a snapshot could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The object store refused.
    #[error("{action} {file}: {source}")]
    Object {
        /// What was being done, as "cannot ...".
        action: &'static str,
        /// Name of the snapshot, or of its shard's place.
        file: String,
        /// Why it failed.
        source: object_store::Error,
    },
    /// The snapshot could not be sent to the object store.
    #[error("cannot store {file}: {source}")]
    Upload {
        /// Name of the snapshot.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The snapshot cannot be read to its end.
    #[error("cannot read snapshot {file}: {source}")]
    Read {
        /// Name of the snapshot.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The snapshot is not as long as was recorded.
    #[error("snapshot {file} has {found} bytes instead of {recorded}")]
    WrongSize {
        /// Name of the snapshot.
        file: String,
        /// Its length now.
        found: u64,
        /// Its length when it was stored.
        recorded: u64,
    },
    /// The checksums of its blocks are not as many as it has blocks.
    #[error("snapshot {file} cannot be verified: the manifest has {found} checksums for {bytes} bytes in blocks of {block_bytes}")]
    Index {
        /// Name of the snapshot.
        file: String,
        /// How many checksums there are.
        found: usize,
        /// Its length.
        bytes: u64,
        /// The length of its blocks, but the last.
        block_bytes: u64,
    },
    /// The snapshot's bytes are not those that were stored.
    #[error("snapshot {file} does not match its checksum, between bytes {from} and {until}")]
    Damaged {
        /// Name of the snapshot.
        file: String,
        /// The first byte of what was compared.
        from: u64,
        /// Its end (exclusive).
        until: u64,
    },
    /// The snapshot cannot be decrypted.
    #[error("cannot decrypt snapshot {file}: {source}")]
    Locked {
        /// Name of the snapshot.
        file: String,
        /// Why.
        source: OpenFrameError,
    },
}

impl SnapshotError {
    /// Whether the file system had no room.
    pub fn is_no_space(&self) -> bool {
        matches!(self, SnapshotError::File(error) if error.is_no_space())
    }

    /// Whether a key is missing for it, and nothing is known to be wrong.
    pub fn is_locked(&self) -> bool {
        matches!(self, SnapshotError::Locked { source: OpenFrameError::Key(_), .. })
    }

    /// Whether it is this snapshot that is wrong, and not the place where all are kept.
    pub fn is_of_one(&self) -> bool {
        match self {
            SnapshotError::File(_) | SnapshotError::Upload { .. } => false,
            // A key may come back.
            SnapshotError::Locked { source, .. } => !matches!(source, OpenFrameError::Key(_)),
            SnapshotError::Object { source, .. } => matches!(source, object_store::Error::NotFound { .. }),
            SnapshotError::Read { .. }
            | SnapshotError::WrongSize { .. }
            | SnapshotError::Index { .. }
            | SnapshotError::Damaged { .. } => true,
        }
    }
}

/// The place for snapshots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// It is no URL, or not one of a place that is known.
    #[error("--snapshots {url}: {reason}; give file:///directory or s3://bucket/prefix")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where the snapshots of all shards of a service are kept.
#[derive(Debug)]
pub struct SnapshotStore {
    objects: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// The directory, if it is one of this machine: drafts are written beside what is stored.
    local: Option<PathBuf>,
    /// Where drafts are written otherwise.
    drafts: PathBuf,
    /// With what new snapshots are encrypted, and those that are there.
    keys: Arc<KeyRing>,
    /// Where engines write what is to be encrypted, if not beside the drafts.
    plain: Option<Scratch>,
    in_use: Arc<InUse>,
}

/// A snapshot that is stored. It is not removed as long as this lives, recorded or not.
#[derive(Debug)]
pub struct Stored {
    /// Its name.
    pub file: String,
    _in_use: Use,
}

impl SnapshotStore {
    /// Snapshots at `url`, or in a directory of its own below `directory`. Credentials and endpoints of object stores are taken
    /// from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT` …). Nothing is created.
    ///
    /// # Errors
    /// The URL says nothing that is known.
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
        // An error means that there is one already.
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
        })
    }

    fn local(root: PathBuf, drafts: PathBuf) -> Result<Self, LocationError> {
        let root = std::path::absolute(&root).in_file("cannot use", &root)?;
        let prefix = ObjectPath::from_absolute_path(&root)
            .map_err(|error| LocationError::Url { url: root.display().to_string(), reason: error.to_string() })?;
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        let (keys, plain) = (Arc::default(), None);
        Ok(SnapshotStore { objects, prefix, local: Some(root), drafts, keys, plain, in_use: Arc::default() })
    }

    /// Snapshots are encrypted with `keys` from now on. Engines write what is to be encrypted to a directory in `plain`, if there is any,
    /// or else beside the drafts.
    pub fn encrypted_with(self, keys: Arc<KeyRing>, plain: Option<&Path>) -> Self {
        let plain = plain.map(|plain| Scratch::new(plain, &self.drafts));
        SnapshotStore { keys, plain, ..self }
    }

    /// Whether what is encrypted with the key of that id can be read.
    pub fn has_key(&self, id: &str) -> bool {
        self.keys.has(id)
    }

    /// A draft of a snapshot of the shard of `manifest` that will stand at `offset`. Its name has a random part: a snapshot
    /// never takes the place of another. Blocks on I/O.
    pub fn draft(&self, manifest: &Manifest, offset: u64) -> Result<Draft, SnapshotError> {
        let (path, name) = self.name(manifest, offset)?;
        let in_use = self.in_use.begin(&name);
        Draft::create(path, name, in_use, offset, self.keys.clone())
    }

    /// As [`SnapshotStore::draft`], from a file in [`SnapshotStore::engine_directory`], which is not there any more then. Blocks on I/O.
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

    /// Where engines write files for [`SnapshotStore::adopt`], which are not encrypted. Blocks on I/O.
    pub fn engine_directory(&self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let Some(plain) = self.plain.as_ref().filter(|_| self.keys.id_for_new().is_some()) else {
            return self.draft_directory(manifest);
        };
        Ok(plain.create()?.to_owned())
    }

    /// A directory in [`SnapshotStore::engine_directory`] for one engine, which goes when the answer is dropped. Nothing else names what an
    /// engine leaves there: what it saves while it is killed, and, with a module that cannot load while its data is served, the RDB that
    /// it is fed. Blocks on I/O.
    pub fn directory_of_engine(&self, manifest: &Manifest) -> Result<TempDir, SnapshotError> {
        let place = self.engine_directory(manifest)?;
        let directory = tempfile::Builder::new().prefix("engine-").tempdir_in(&place);
        Ok(directory.in_file("cannot create a directory in", &place)?)
    }

    /// Where drafts are written. Blocks on I/O.
    pub fn draft_directory(&self, manifest: &Manifest) -> Result<PathBuf, SnapshotError> {
        let directory = match &self.local {
            Some(root) => root.join(place(manifest)),
            None => self.drafts.clone(),
        };
        if !directory.is_dir() {
            std::fs::create_dir_all(&directory).in_file("cannot create", &directory)?;
            // What is stored in it is durable only if it is itself: a rename syncs no more than the directory it is in.
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

    /// Stores a draft under its name. It is durable when this returns, and counts when a manifest records it.
    ///
    /// # Errors
    /// It could not be stored; nothing of it is left, or what is left is removed later.
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

    /// Opens a recorded snapshot, and checks its length; its bytes are verified, and decrypted, as they are read.
    pub async fn get(&self, record: &SnapshotRecord) -> Result<SnapshotReader, SnapshotError> {
        let opener = record.encrypt_key.as_ref();
        self.open_stored(record, opener.map(|_| Opener::new(self.keys.clone(), &record.file, record.bytes))).await
    }

    /// The RDB if there is an opener, or else what is stored.
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
        let opened = self.objects.get(&path).await.map_err(failed)?;
        check_size(record, opened.meta.size)?;
        match opened.payload {
            GetResultPayload::File(file, _) => Ok(SnapshotReader::of_file(file, expected, in_use)),
            GetResultPayload::Stream(_) => Ok(SnapshotReader::of_object(self.objects.clone(), path, expected, in_use)),
        }
    }

    /// Reads a recorded snapshot to its end. Without any keys it is not decrypted: that it is as it was stored can be told without.
    ///
    /// # Errors
    /// It is not as it was recorded.
    pub async fn verify(&self, record: &SnapshotRecord) -> Result<(), SnapshotError> {
        let mut reader = match self.keys.has_keys() {
            true => self.get(record).await?,
            false => self.open_stored(record, None).await?,
        };
        while reader.next().await?.is_some() {}
        Ok(())
    }

    /// Removes what drafts a crash has left that belong to no shard. None may be in the making. Blocks on I/O.
    pub fn remove_unnamed_drafts(&self) -> Result<(), FileError> {
        match std::fs::remove_dir_all(&self.drafts) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).in_file("cannot remove", &self.drafts)?;
            }
            _ => {}
        }
        self.plain.as_ref().map_or(Ok(()), Scratch::remove)
    }

    /// Removes what drafts a crash has left of the shard of `manifest`. None may be in the making. Blocks on I/O.
    pub fn remove_drafts(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let Some(root) = &self.local else { return Ok(()) };
        let directory = root.join(place(manifest));
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.in_file("cannot list", &directory)?,
        };
        for entry in entries {
            let path = entry.in_file("cannot list", &directory)?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(&path).in_file("cannot remove", &path)?;
            } else if path.file_name().and_then(|name| name.to_str()).and_then(snapshot_offset).is_none() {
                std::fs::remove_file(&path).in_file("cannot remove", &path)?;
            }
        }
        Ok(())
    }

    /// Removes snapshots of the shard of `manifest` that nobody uses and that `is_needed` does not want, which is asked for each by
    /// its name and offset, after it was seen that nobody uses it.
    pub async fn remove_others(
        &self,
        manifest: &Manifest,
        is_needed: impl Fn(&str, u64) -> bool,
    ) -> Result<(), SnapshotError> {
        let place = place(manifest);
        let failed = |source| SnapshotError::Object { action: "cannot clean up", file: place.clone(), source };
        let of_shard = self.object_path(&place);
        let mut found = self.objects.list(Some(&of_shard)).map_ok(|meta| meta.location).boxed();
        while let Some(path) = found.try_next().await.map_err(failed)? {
            let Some((name, offset)) = path.filename().and_then(|name| Some((name, snapshot_offset(name)?))) else {
                continue;
            };
            let file = format!("{place}/{name}");
            if self.in_use.contains(&file) || is_needed(&file, offset) {
                continue;
            }
            match self.objects.delete(&path).await {
                Ok(()) => tracing::debug!("removed {path}, a snapshot that is not needed"),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Removes all snapshots of the shard of `manifest`, which was dropped, that nobody uses; drafts as well if `is_released`: then
    /// none may be in the making. Answers whether none is left.
    pub async fn remove_all(&self, manifest: &Manifest, is_released: bool) -> Result<bool, SnapshotError> {
        self.remove_others(manifest, |_, _| false).await?;
        let place = place(manifest);
        let of_shard = self.object_path(&place);
        let failed = |source| SnapshotError::Object { action: "cannot list", file: place.clone(), source };
        if !is_released {
            return Ok(false);
        }
        let mut found = self.objects.list(Some(&of_shard)).map_ok(|meta| meta.location).boxed();
        while let Some(path) = found.try_next().await.map_err(failed)? {
            // What else is there is left over from a crash, or from an engine that was killed.
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

    /// Whether that is a stored snapshot, or one on its way that somebody still writes.
    fn is_stored_or_used(&self, place: &str, name: &str) -> bool {
        let is_used = |name: &str| self.in_use.contains(&format!("{place}/{name}"));
        snapshot_offset(name).is_some() || name.strip_suffix(PARTIAL).is_some_and(is_used)
    }

    fn object_path(&self, file: &str) -> ObjectPath {
        self.prefix.parts().chain(ObjectPath::from(file).parts()).collect()
    }
}

fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(3), base: 2.0 };
    RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRY_AT_MOST }
}

/// Where a stored snapshot stands, by its name; none if that is something on its way to be one.
fn snapshot_offset(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".rdb")?.split_once('-')?.0;
    if digits.len() == 20 {
        digits.parse().ok()
    } else {
        None
    }
}

/// The name of a shard's own place among all snapshots.
fn place(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.shard, manifest.id)
}

/// How long what is stored of a snapshot has to be.
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
