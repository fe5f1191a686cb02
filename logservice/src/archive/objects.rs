//! Stores and reads the objects of an archive.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use durability_protocol::EngineVersion;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::{Piece, PieceError, PieceName, SnapshotName};
use crate::encryption::KeyRing;
use crate::snapshots::SnapshotStore;
use crate::store::SnapshotRecord;

/// The folder of all archives, below the place for snapshots. No shard has it, as theirs are named `SHARD-ID`.
const ARCHIVES: &str = "archive";
const PIECES: &str = "log";
const SNAPSHOTS: &str = "snapshots";
const BACKUPS: &str = "backups";
/// The newest layout of a snapshot's object that this build reads, and the one that it writes.
const FORMAT: u32 = 1;

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The place for snapshots refused, or is away.
    #[error("{action} {object}: {source}")]
    Object {
        /// What was being done, as "cannot ...".
        action: &'static str,
        /// Which object, or folder.
        object: String,
        /// Why it failed.
        source: object_store::Error,
    },
    /// A piece of the log cannot be used.
    #[error("{object} cannot be used: {source}")]
    Piece {
        /// Its object.
        object: String,
        /// Why.
        source: PieceError,
    },
    /// The object of a snapshot is not what was stored.
    #[error("{object} cannot be used: {reason}")]
    Snapshot {
        /// Its object.
        object: String,
        /// Why.
        reason: String,
    },
}

/// A snapshot in the archive, and what is needed to start from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedSnapshot {
    /// Version of this layout.
    pub format: u32,
    /// The generation of the log that it is of.
    pub generation: u64,
    /// Where it stands.
    pub offset: u64,
    /// When it was recorded, in milliseconds since 1970.
    pub time_ms: u64,
    /// The snapshot; none is the beginning of a log that began without data.
    pub record: Option<SnapshotRecord>,
    /// The newest version of the server that had written the log by then; none if unknown.
    pub engine: Option<EngineVersion>,
    /// How many databases a leader could write to; none if unknown.
    pub databases: Option<u32>,
}

impl ArchivedSnapshot {
    /// A snapshot, or the beginning of a log, as this build writes it.
    pub fn new(generation: u64, offset: u64, time_ms: u64, record: Option<SnapshotRecord>) -> Self {
        ArchivedSnapshot { format: FORMAT, generation, offset, time_ms, record, engine: None, databases: None }
    }

    /// Its name; none if its file is named in a way that this build does not know.
    pub fn name(&self) -> Option<SnapshotName> {
        let ArchivedSnapshot { generation, offset, time_ms, .. } = *self;
        match &self.record {
            None => Some(SnapshotName { generation, offset, time_ms, number: None }),
            Some(record) => SnapshotName::of(generation, offset, time_ms, &record.file),
        }
    }
}

/// A snapshot under a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedBackup {
    /// The name.
    pub name: String,
    /// The snapshot.
    pub snapshot: SnapshotName,
}

/// The archive of one log.
#[derive(Debug, Clone)]
pub struct Archive {
    snapshots: Arc<SnapshotStore>,
    /// `SHARD-ID`.
    place: String,
}

/// The logs of which there are archives, as `SHARD-ID`. Sorted.
///
/// # Errors
/// The place for snapshots cannot be listed.
pub async fn logs(snapshots: &SnapshotStore) -> Result<Vec<String>, ArchiveError> {
    let folder = snapshots.object_path(ARCHIVES);
    let listed = snapshots.objects().list_with_delimiter(Some(&folder)).await;
    let failed = |source| ArchiveError::Object { action: "cannot list", object: folder.to_string(), source };
    let found = listed.map_err(failed)?.common_prefixes;
    let mut logs: Vec<_> = found.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect();
    logs.sort();
    Ok(logs)
}

impl Archive {
    /// The archive of the log whose snapshots lie in `place` (`SHARD-ID`). Nothing is read or written yet.
    pub fn new(snapshots: Arc<SnapshotStore>, place: String) -> Self {
        Archive { snapshots, place }
    }

    /// `SHARD-ID` of its log.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where the snapshots are that it names.
    pub fn snapshot_store(&self) -> &Arc<SnapshotStore> {
        &self.snapshots
    }

    /// The keys of what is stored.
    pub fn keys(&self) -> &Arc<KeyRing> {
        self.snapshots.keys()
    }

    fn objects(&self) -> &Arc<dyn ObjectStore> {
        self.snapshots.objects()
    }

    fn path(&self, folder: &str, object: &str) -> ObjectPath {
        self.snapshots.object_path(&format!("{ARCHIVES}/{}/{folder}/{object}", self.place))
    }

    /// The names of the objects of a folder that sort after `after`, without the folder.
    async fn list(&self, folder: &str, after: &str) -> Result<Vec<String>, ArchiveError> {
        let of_folder = self.path(folder, "");
        let failed = |source| ArchiveError::Object { action: "cannot list", object: of_folder.to_string(), source };
        let listed = match after {
            "" => self.objects().list(Some(&of_folder)),
            after => self.objects().list_with_offset(Some(&of_folder), &self.path(folder, after)),
        };
        let depth = of_folder.parts_count();
        let name = |path: ObjectPath| path.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect::<Vec<_>>();
        let found: Vec<_> = listed.map_ok(|meta| name(meta.location).join("/")).try_collect().await.map_err(failed)?;
        Ok(found)
    }

    /// The pieces of the log, sorted; with `from`, a generation and an offset, at least those that begin there or later.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn pieces(&self, from: Option<(u64, u64)>) -> Result<Vec<PieceName>, ArchiveError> {
        let after = from.map_or_else(String::new, |(generation, start)| PieceName::before(generation, start));
        let found = self.list(PIECES, &after).await?;
        let mut pieces: Vec<_> = found.iter().filter_map(|object| PieceName::parse(object)).collect();
        pieces.sort();
        Ok(pieces)
    }

    /// The snapshots, sorted.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotName>, ArchiveError> {
        let found = self.list(SNAPSHOTS, "").await?;
        let mut snapshots: Vec<_> = found.iter().filter_map(|object| SnapshotName::parse(object)).collect();
        snapshots.sort();
        Ok(snapshots)
    }

    /// The named backups, sorted by their names.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn backups(&self) -> Result<Vec<NamedBackup>, ArchiveError> {
        let found = self.list(BACKUPS, "").await?;
        let backup = |object: &String| {
            let (name, snapshot) = object.split_once('/')?;
            Some(NamedBackup { name: name.to_owned(), snapshot: SnapshotName::parse(snapshot)? })
        };
        let mut backups: Vec<_> = found.iter().filter_map(backup).collect();
        backups.sort();
        Ok(backups)
    }

    /// The files of all snapshots that the archive needs, those of named backups included.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn files(&self) -> Result<BTreeSet<String>, ArchiveError> {
        let (snapshots, backups) = (self.snapshots().await?, self.backups().await?);
        let names = snapshots.iter().chain(backups.iter().map(|backup| &backup.snapshot));
        Ok(names.filter_map(|name| name.file(&self.place)).collect())
    }

    /// Stores a piece. It is durable when this returns. A piece of that name that is there already is replaced by the same records.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn put_piece(&self, name: &PieceName, bytes: Bytes) -> Result<(), ArchiveError> {
        self.put(self.path(PIECES, &name.object()), bytes).await
    }

    /// Reads a piece, and verifies it.
    ///
    /// # Errors
    /// It cannot be read, is not what was stored, or lacks a key.
    pub async fn piece(&self, name: &PieceName) -> Result<Piece, ArchiveError> {
        let path = self.path(PIECES, &name.object());
        let bytes = self.get(&path).await?;
        let piece = Piece::decode(name, &self.place, self.keys(), bytes);
        piece.map_err(|source| ArchiveError::Piece { object: path.to_string(), source })
    }

    /// Stores what is known of a snapshot. It is durable when this returns.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn put_snapshot(&self, name: &SnapshotName, snapshot: &ArchivedSnapshot) -> Result<(), ArchiveError> {
        self.put(self.path(SNAPSHOTS, &name.object()), encoded(snapshot)).await
    }

    /// Stores a named backup. It is durable when this returns.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn put_backup(&self, backup: &NamedBackup, snapshot: &ArchivedSnapshot) -> Result<(), ArchiveError> {
        let object = format!("{}/{}", backup.name, backup.snapshot.object());
        self.put(self.path(BACKUPS, &object), encoded(snapshot)).await
    }

    /// Reads what is known of a snapshot.
    ///
    /// # Errors
    /// It cannot be read, or is not what was stored.
    pub async fn snapshot(&self, name: &SnapshotName) -> Result<ArchivedSnapshot, ArchiveError> {
        self.read_snapshot(self.path(SNAPSHOTS, &name.object()), name).await
    }

    /// Reads what is known of a named backup.
    ///
    /// # Errors
    /// It cannot be read, or is not what was stored.
    pub async fn backup(&self, backup: &NamedBackup) -> Result<ArchivedSnapshot, ArchiveError> {
        let object = format!("{}/{}", backup.name, backup.snapshot.object());
        self.read_snapshot(self.path(BACKUPS, &object), &backup.snapshot).await
    }

    async fn read_snapshot(&self, path: ObjectPath, name: &SnapshotName) -> Result<ArchivedSnapshot, ArchiveError> {
        let bytes = self.get(&path).await?;
        let decoded = decoded(&bytes).and_then(|snapshot| match snapshot.name().as_ref() == Some(name) {
            true => Ok(snapshot),
            false => Err("it is of another snapshot than its name says".to_owned()),
        });
        decoded.map_err(|reason| ArchiveError::Snapshot { object: path.to_string(), reason })
    }

    /// Removes the pieces of the log that end at or below `offset` of `generation`, and those of earlier ones. Answers how many. Takes the same
    /// memory however many there are.
    ///
    /// # Errors
    /// They cannot be listed, or one could not be removed.
    pub async fn remove_pieces_below(&self, generation: u64, offset: u64) -> Result<u64, ArchiveError> {
        let folder = self.path(PIECES, "");
        let failed = |source| ArchiveError::Object { action: "cannot remove from", object: folder.to_string(), source };
        let named = |path: &ObjectPath| path.filename().and_then(PieceName::parse);
        let is_aged = move |name: &PieceName| (name.generation, name.end) <= (generation, offset);
        // Object stores list in order of the names: behind these there are none.
        let is_sorted = !self.snapshots.is_local();
        let may_follow = move |path: &ObjectPath| {
            !is_sorted || named(path).is_none_or(|name| (name.generation, name.start) < (generation, offset))
        };
        let listed = self.objects().list(Some(&folder)).map_ok(|meta| meta.location);
        let listed = listed.try_take_while(move |path| ready(Ok(may_follow(path))));
        let aged = listed.try_filter(move |path| ready(named(path).is_some_and(|name| is_aged(&name))));
        let mut removed = self.objects().delete_stream(aged.boxed());
        let mut count = 0;
        while let Some(outcome) = removed.next().await {
            match outcome {
                Ok(_) => count += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(count)
    }

    /// Removes what is known of a snapshot. Its RDB stays.
    ///
    /// # Errors
    /// It could not be removed.
    pub async fn remove_snapshot(&self, name: &SnapshotName) -> Result<(), ArchiveError> {
        self.remove(self.path(SNAPSHOTS, &name.object())).await
    }

    async fn put(&self, path: ObjectPath, bytes: Bytes) -> Result<(), ArchiveError> {
        let stored = self.objects().put(&path, bytes.into()).await;
        let failed = |source| ArchiveError::Object { action: "cannot store", object: path.to_string(), source };
        stored.map(drop).map_err(failed)
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, ArchiveError> {
        let failed = |source| ArchiveError::Object { action: "cannot read", object: path.to_string(), source };
        self.objects().get(path).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn remove(&self, path: ObjectPath) -> Result<(), ArchiveError> {
        match self.objects().delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(ArchiveError::Object { action: "cannot remove", object: path.to_string(), source }),
        }
    }
}

/// A line with the CRC32C of what follows, then JSON.
fn encoded(snapshot: &ArchivedSnapshot) -> Bytes {
    let json = serde_json::to_string(snapshot).unwrap_or_default();
    format!("{:08x}\n{json}", crc32c::crc32c(json.as_bytes())).into()
}

fn decoded(bytes: &[u8]) -> Result<ArchivedSnapshot, String> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let (crc, json) = text.split_once('\n').ok_or("it has one line only")?;
    if crc != format!("{:08x}", crc32c::crc32c(json.as_bytes())) {
        return Err("it does not match its checksum".to_owned());
    }
    let version: Version = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if version.format > FORMAT {
        return Err("it was written by a newer version: upgrade logservice".to_owned());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}
