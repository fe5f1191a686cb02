use crate::base::file_error::FileError;
use crate::encryption::frames::OpenFrameError;

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
    /// The snapshot's length differs from the recorded one.
    #[error("snapshot {file} has {found} bytes instead of {recorded}")]
    WrongSize {
        /// Name of the snapshot.
        file: String,
        /// Its length now.
        found: u64,
        /// Its length when it was stored.
        recorded: u64,
    },
    /// The number of checksums differs from the number of blocks.
    #[error("snapshot {file} cannot be verified: the manifest has {found} checksums for {bytes} bytes in blocks of {block_bytes}")]
    Index {
        /// Name of the snapshot.
        file: String,
        /// How many checksums there are.
        found: usize,
        /// Its length.
        bytes: u64,
        /// The length of each block except the last.
        block_bytes: u64,
    },
    /// The snapshot's bytes differ from those that were stored.
    #[error("snapshot {file} does not match its checksum, between bytes {from} and {until}")]
    Damaged {
        /// Name of the snapshot.
        file: String,
        /// The first byte of what was compared.
        from: u64,
        /// Its end (exclusive).
        until: u64,
    },
    /// The snapshot is at other services only.
    #[error("snapshot {file} is not at this log service yet: it is being fetched from another one")]
    NotHere {
        /// Name of the snapshot.
        file: String,
    },
    /// The snapshot could not be fetched.
    #[error("snapshot {file} is not at this log service, and cannot be fetched: {reason}")]
    NotFetched {
        /// Name of the snapshot.
        file: String,
        /// What the others say.
        reason: String,
    },
    /// No other service has stored the snapshot.
    #[error("snapshot {file} is at this log service only, and must be at two before it counts: {reason}")]
    NotAtTwo {
        /// Name of the snapshot.
        file: String,
        /// What the others say.
        reason: String,
    },
    /// Nobody has ever stored a snapshot of that name.
    #[error("'{file}' is no name of a snapshot")]
    Name {
        /// What was given.
        file: String,
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

    /// Whether only a key is missing.
    pub fn is_locked(&self) -> bool {
        matches!(self, SnapshotError::Locked { source: OpenFrameError::Key(_), .. })
    }

    /// Whether this snapshot is at fault, and not the place of all snapshots.
    pub fn is_of_one(&self) -> bool {
        match self {
            SnapshotError::File(_)
            | SnapshotError::Upload { .. }
            | SnapshotError::NotHere { .. }
            | SnapshotError::NotFetched { .. }
            | SnapshotError::NotAtTwo { .. }
            | SnapshotError::Name { .. } => false,
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
    /// It is no URL, or one of an unknown kind.
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
