//! File operations whose errors name the file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct FileError {
    /// The operation, as "cannot ...".
    pub action: &'static str,
    /// The file.
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

/// Adds the file's name to an `io::Error`.
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

/// Makes creations, renames and removals in a directory durable. Blocks on I/O.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).in_file("cannot sync directory", path)
}
