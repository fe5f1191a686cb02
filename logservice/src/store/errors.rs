use std::io;
use std::path::{Path, PathBuf};

use crate::encryption::KeyError;

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct FileError {
    /// What was being done, as "cannot ...".
    pub action: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// Whether the file system, the quota or the file size limit had no room.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// Gives an `io::Error` the name of the file it is about.
pub trait InFile<T> {
    /// `action` reads as "cannot ...".
    fn in_file(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> InFile<T> for io::Result<T> {
    fn in_file(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.to_owned(), source })
    }
}

impl<T> InFile<T> for Result<T, rustix::io::Errno> {
    fn in_file(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(io::Error::from).in_file(action, path)
    }
}

/// Why a shard's store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest is there but says nothing that can be used.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the log is encrypted with a key that is not here. Nothing was changed.
    #[error("{}: {source}", path.display())]
    Locked {
        /// The segment file.
        path: PathBuf,
        /// Which key.
        source: KeyError,
    },
    /// The log is damaged at a place that no crash explains.
    #[error("{} at byte {position}: {reason}", path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// Why a store did not take an append. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many bytes wait for the disk.
    #[error("{waiting_bytes} bytes of appends already wait for the disk")]
    Busy {
        /// How many.
        waiting_bytes: usize,
    },
    /// The store has failed or is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Why log bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The position is below the base: trimmed, or replaced by a seed.
    #[error("offset {offset} is not in the log any more")]
    Trimmed {
        /// The position asked for.
        offset: u64,
    },
    /// A record does not match its checksums.
    #[error("{} at byte {position}: {reason}", path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        position: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// Why the manifest was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Somebody replaced it in between. Nothing has changed.
    #[error("the manifest is at revision {found}, not {expected}")]
    Conflict {
        /// The revision that was to be replaced.
        expected: u64,
        /// The revision that stands.
        found: u64,
    },
    /// The store is closed. Nothing has changed.
    #[error("the log is closed")]
    Closed,
    /// There was no space for it. Nothing has changed.
    #[error("no space: {0}")]
    NoSpace(FileError),
    /// It is not known which of the two manifests a restart would find.
    #[error(transparent)]
    Unknown(FileError),
}

/// Why log could not be trimmed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TrimError(#[from] pub FileError);
