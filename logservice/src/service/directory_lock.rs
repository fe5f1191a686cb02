//! The lock by which one process has a directory to itself.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::base::file_error::FileError;
use crate::store::MediumError;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("{} is in use by another logservice: it holds the lock on {}; stop that one or choose another --dir", directory.display(), lock.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// Something that a crash has left cannot be removed.
    #[error(transparent)]
    LeftOver(#[from] FileError),
    /// It cannot be created or written to.
    #[error("cannot write in {}: {source}; choose a --dir that this user can write", directory.display())]
    NotWritable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The shards' stores cannot be listed.
    #[error("cannot write in {}: {source}; choose a --dir that this user can write", directory.display())]
    Stores {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: MediumError,
    },
}

/// Takes the directory for this process, until the file is closed.
pub(super) fn take_lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join("LOCK");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| DirectoryError::NotWritable { directory: directory.to_owned(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(DirectoryError::InUse { directory: directory.to_owned(), lock: path })
        }
        Err(error) => Err(DirectoryError::NotWritable { directory: directory.to_owned(), source: error.into() }),
    }
}
