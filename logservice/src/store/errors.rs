//! What can go wrong in a store, whatever it keeps its bytes in.
//!
//! Texts name the place in the store's own words (a file and a byte, an object, a peer); callers show them and never take them apart.
//! A failed change is either *determinate*: nothing has happened, and the store goes on; or *indeterminate*: it may have happened,
//! now or after the next crash. The caller of an indeterminate change asks again, or reopens the store to find out.

use std::error::Error;

use crate::encryption::KeyError;

/// The medium failed an operation.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct MediumError(Box<dyn Error + Send + Sync>);

impl MediumError {
    /// An error with that cause, whose text says what was attempted and where.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        MediumError(cause.into())
    }
}

/// Stored bytes are not what was written, which no crash explains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Damage {
    /// Where on the medium.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

/// Why a shard's store could not be opened. It may be opened again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The medium could not be read, or changed where that was necessary.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// There is a manifest, but it cannot be used.
    #[error("{place}: {reason}")]
    Manifest {
        /// Where it is kept.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the log is encrypted with a key that is missing. Nothing was changed.
    #[error("{place}: {source}")]
    Locked {
        /// Which part.
        place: String,
        /// Which key.
        source: KeyError,
    },
    /// The log is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// Why a store did not take an append. Determinate: nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many bytes wait for the medium. The same append may be submitted again later.
    #[error("{waiting_bytes} bytes of appends already wait for the disk")]
    Busy {
        /// How many.
        waiting_bytes: usize,
    },
    /// There is no space for it, or the log takes as much as it may. The same append may be submitted again later.
    #[error("{0}")]
    NoSpace(String),
    /// The store has failed or was closed. It takes no append until it is opened again.
    #[error("the log is closed")]
    Closed,
}

/// Why log bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The medium could not be read. The same read may be repeated.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The position was trimmed, or the log was restarted.
    #[error("offset {offset} is not in the log any more")]
    Trimmed {
        /// The position asked for.
        offset: u64,
    },
    /// The bytes there are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// Why the manifest was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Another replacement came in between. Determinate.
    #[error("the manifest is at revision {found}, not {expected}")]
    Conflict {
        /// The revision that was to be replaced.
        expected: u64,
        /// The revision that stands.
        found: u64,
    },
    /// The store is closed. Determinate.
    #[error("the log is closed")]
    Closed,
    /// This service does not decide over the log. Determinate.
    #[error("another service decides over the log")]
    NotLeader,
    /// There was no space for it. Determinate.
    #[error("no space: {0}")]
    NoSpace(MediumError),
    /// The medium failed before anything was changed. Determinate.
    #[error(transparent)]
    Refused(MediumError),
    /// Either manifest may be found when the store is opened next. Indeterminate: replacing the same revision again settles it.
    #[error(transparent)]
    Unknown(MediumError),
}

impl ManifestError {
    /// Whether the manifest is certainly the one before.
    pub fn is_determinate(&self) -> bool {
        !matches!(self, ManifestError::Unknown(_))
    }
}

/// Why log could not be trimmed. Indeterminate, which does no harm: parts of it may be gone, and trimming again drops the others.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TrimError(#[from] pub MediumError);

/// Why a shard's store was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is as it was. Determinate.
    #[error(transparent)]
    Unchanged(MediumError),
    /// It may be there or gone when the service starts next. Indeterminate.
    #[error(transparent)]
    Unknown(MediumError),
}

impl RemoveError {
    /// Whether the store is certainly still there.
    pub fn is_determinate(&self) -> bool {
        matches!(self, RemoveError::Unchanged(_))
    }
}
