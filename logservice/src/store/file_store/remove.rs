//! The end of a shard's directory: set aside by one rename, then removed piece by piece, its manifest last.

use std::fs;
use std::path::{Path, PathBuf};

use super::checksum_line;
use super::files::{ReplaceError, Step};
use super::open::MANIFEST;
use crate::base::file_error::{FileError, InFile};
use crate::store::Manifest;

/// Precedes the name of a shard whose directory is set aside. No shard's name begins with a dot.
const SET_ASIDE: &str = ".dropped-";

/// The directory beside that of all shards for those that are kept otherwise by now.
pub const KEPT: &str = "before-cluster";

/// Whether that is the name of a directory that was set aside.
pub fn is_set_aside(name: &str) -> bool {
    name.starts_with(SET_ASIDE)
}

/// Gives a shard's directory another name beside its own, by which it is no shard any more. Returns the new path; nothing is there if
/// there was no such directory. Blocks on I/O.
pub fn set_aside(directory: &Path) -> Result<PathBuf, ReplaceError> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name().and_then(|name| name.to_str())) else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(ReplaceError::Unchanged(FileError { action: "cannot rename", path: directory.to_owned(), source }));
    };
    let random = getrandom::u32().map_err(std::io::Error::from).in_file("cannot draw a random number for", directory);
    let path = parent.join(format!("{SET_ASIDE}{name}-{:08x}", random.map_err(ReplaceError::Unchanged)?));
    match Step::DropRename.rename(directory, &path) {
        // It was removed by hand.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        renamed => renamed.in_file("cannot rename", directory).map_err(ReplaceError::Unchanged)?,
    }
    Step::DropDirectorySync.sync_directory(parent).map_err(ReplaceError::Unknown)?;
    Ok(path)
}

/// Moves a shard's directory into the directory `kept`, for people. Returns where it is then; none if there is no such directory. Blocks on I/O.
pub fn keep_aside(directory: &Path, kept: &Path) -> Result<Option<PathBuf>, ReplaceError> {
    let unchanged = ReplaceError::Unchanged;
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        let source = std::io::ErrorKind::InvalidInput.into();
        return Err(unchanged(FileError { action: "cannot move", path: directory.to_owned(), source }));
    };
    if !directory.is_dir() {
        return Ok(None);
    }
    Step::AsideCreate.create_directories(kept).in_file("cannot create", kept).map_err(unchanged)?;
    if let Some(above) = kept.parent() {
        Step::AsideDirectorySync.sync_directory(above).map_err(unchanged)?;
    }
    let mut path = kept.join(name);
    if path.exists() {
        let random = getrandom::u32().map_err(std::io::Error::from).in_file("cannot draw a random number for", kept);
        path.as_mut_os_string().push(format!("-{:08x}", random.map_err(unchanged)?));
    }
    Step::AsideRename.rename(directory, &path).in_file("cannot move", directory).map_err(unchanged)?;
    for changed in [kept, parent] {
        Step::AsideDirectorySync.sync_directory(changed).map_err(ReplaceError::Unknown)?;
    }
    Ok(Some(path))
}

/// Removes everything in a directory that was set aside except the manifest. Blocks on I/O.
pub fn remove_log(path: &Path) -> Result<(), FileError> {
    remove_entries(path, |name| name != MANIFEST)
}

/// Removes what `is_removed` says in a directory that was set aside. Blocks on I/O.
pub fn remove_some(path: &Path, is_removed: fn(&str) -> bool) -> Result<(), FileError> {
    remove_entries(path, is_removed)
}

/// The manifest in a directory that was set aside, or why it says nothing. `None` if there is no file. Blocks on I/O.
pub fn manifest_set_aside(path: &Path) -> Result<Option<Result<Manifest, String>>, FileError> {
    let path = path.join(MANIFEST);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(checksum_line::verify(&bytes).and_then(Manifest::parse))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).in_file("cannot read", &path),
    }
}

/// Removes a directory that was set aside, with what is left in it. Blocks on I/O.
pub fn remove_rest(path: &Path) -> Result<(), FileError> {
    remove_entries(path, |_| true)?;
    remove_directory(path)
}

fn remove_entries(directory: &Path, is_removed: fn(&str) -> bool) -> Result<(), FileError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.in_file("cannot list", directory)?,
    };
    for entry in entries {
        let entry = entry.in_file("cannot list", directory)?;
        if !entry.file_name().to_str().is_none_or(is_removed) {
            continue;
        }
        let path = entry.path();
        // The type of the link itself, not of what it leads to.
        if entry.file_type().in_file("cannot look at", &path)?.is_dir() {
            remove_entries(&path, |_| true)?;
            remove_directory(&path)?;
        } else {
            Step::DropRemove.remove_file(&path).in_file("cannot remove", &path)?;
        }
    }
    Ok(())
}

/// Removes an empty directory, or a link to one.
fn remove_directory(path: &Path) -> Result<(), FileError> {
    match if path.is_symlink() { fs::remove_file(path) } else { fs::remove_dir(path) } {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).in_file("cannot remove", path),
        _ => Ok(()),
    }
}
