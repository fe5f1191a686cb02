//! Keeps this program's files from other users: directories are 0700 and files 0600, whatever umask it was started with.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Mode;

/// Mode bits of everyone but the owner.
const OTHERS: u32 = 0o077;

/// From now on only the owner may access what this process, or a program that it starts, creates. Call it before there are threads, as the
/// mask belongs to the process.
pub fn keep_private() {
    rustix::process::umask(Mode::from_raw_mode(OTHERS));
}

/// Removes the rights of others from a directory and everything below it, if they have any on the directory itself: an earlier version of
/// this program left them to the umask. The directory itself comes last, so that the next start finishes what an error has interrupted.
/// Does not follow links.
///
/// # Errors
/// Something cannot be read or changed.
pub fn take_back(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() && metadata.mode() & OTHERS != 0 => take_back_all(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn take_back_all(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            take_back_all(&entry.path())?;
        } else if metadata.is_file() {
            restrict(&entry.path(), metadata.mode())?;
        }
    }
    restrict(directory, std::fs::metadata(directory)?.mode())
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    if mode & OTHERS == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & !OTHERS & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn permissions_of_an_earlier_version_are_taken_back_and_links_are_not_followed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (own, other) = (directory.path().join("own"), directory.path().join("other"));
        std::fs::create_dir_all(own.join("s1/log")).expect("directories");
        std::fs::write(&other, "").expect("file");
        std::fs::write(own.join("s1/log/segment"), "").expect("file");
        std::os::unix::fs::symlink(&other, own.join("link")).expect("link");
        for path in [own.clone(), own.join("s1"), own.join("s1/log")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        for path in [other.clone(), own.join("s1/log/segment")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).expect("permissions");
        }
        take_back(&own).expect("taken back");
        assert_eq!([mode(&own), mode(&own.join("s1")), mode(&own.join("s1/log"))], [0o700; 3]);
        assert_eq!((mode(&own.join("s1/log/segment")), mode(&other)), (0o600, 0o644));
        take_back(&directory.path().join("missing")).expect("nothing to do");
    }
}
