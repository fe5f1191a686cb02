//! The directory in which engines write what will be encrypted, inside a given directory that other users may share, such as /dev/shm.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::base::file_error::{FileError, InFile};

/// Begins the directory's name. The rest distinguishes services that were given the same directory.
const PREFIX: &str = "logservice-plain-";
/// Bytes of the hash in the directory's name.
const NAME_BYTES: usize = 8;

/// A directory that only this service uses.
#[derive(Debug)]
pub struct Scratch {
    given: PathBuf,
    path: PathBuf,
}

impl Scratch {
    /// In the directory `given`, for the service that keeps its data below `kept_in`. Creates nothing.
    pub fn new(given: &Path, kept_in: &Path) -> Self {
        // A relative path distinguishes less, and is good enough.
        let own = std::path::absolute(kept_in).unwrap_or_else(|_| kept_in.to_owned());
        let mut hash = Sha256::new();
        hash.update(rustix::process::geteuid().as_raw().to_le_bytes());
        hash.update(own.as_os_str().as_bytes());
        let digits: String = hash.finalize()[..NAME_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Scratch { given: given.to_owned(), path: given.join(format!("{PREFIX}{digits}")) }
    }

    /// Its path; creates it if it does not exist. Blocks on I/O.
    ///
    /// # Errors
    /// It cannot be created, or other users have access to it.
    pub fn create(&self) -> Result<&Path, FileError> {
        std::fs::create_dir_all(&self.given).in_file("cannot create", &self.given)?;
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.check().in_file("cannot use", &self.path)?;
            }
            created => created.in_file("cannot create", &self.path)?,
        }
        Ok(&self.path)
    }

    /// Removes it with its content. It must not be in use. Blocks on I/O.
    ///
    /// # Errors
    /// It cannot be removed, or other users have access to it.
    pub fn remove(&self) -> Result<(), FileError> {
        match self.check() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            checked => checked.in_file("cannot use", &self.path)?,
        }
        std::fs::remove_dir_all(&self.path).in_file("cannot remove", &self.path)
    }

    fn check(&self) -> io::Result<()> {
        let found = std::fs::symlink_metadata(&self.path)?;
        let (uid, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o7777);
        let what = if !found.is_dir() {
            "it is no directory".to_owned()
        } else if found.uid() != uid {
            format!("it is of user {}, and this process of user {uid}", found.uid())
        } else if mode != 0o700 {
            format!("it has mode {mode:04o} instead of 0700")
        } else {
            return Ok(());
        };
        let text =
            format!("{what}: somebody else may have made it; remove it, or choose another --encrypt-scratch-dir");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn services_that_share_a_directory_have_places_of_their_own() {
        let directory = tempfile::tempdir().expect("tempdir");
        let given = directory.path().join("given");
        let [one, other] = ["one", "other"].map(|name| Scratch::new(&given, &directory.path().join(name)));
        for scratch in [&one, &other] {
            std::fs::write(scratch.create().expect("created").join("dump.rdb"), "data").expect("written");
        }
        assert!(one.create().is_ok(), "it is there already");
        one.remove().expect("removed");
        assert!(!one.path.exists() && other.path.join("dump.rdb").exists());
        one.remove().expect("nothing to do");
        let again = Scratch::new(&given, &directory.path().join("other"));
        assert_eq!(again.path, other.path, "a restart would not find what a crash has left");
    }

    #[test]
    fn a_directory_that_another_user_may_have_made_is_neither_used_nor_removed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let scratch = Scratch::new(directory.path(), directory.path());
        let refused = |why: &str| {
            for error in [scratch.create().map(|_| ()).expect_err("refused"), scratch.remove().expect_err("refused")] {
                let text = error.to_string();
                assert!(text.contains(&scratch.path.display().to_string()) && text.contains(why), "{text}");
            }
        };
        let theirs = directory.path().join("theirs");
        std::fs::create_dir(&theirs).expect("created");
        std::fs::write(theirs.join("file"), "").expect("written");
        std::os::unix::fs::symlink(&theirs, &scratch.path).expect("linked");
        refused("it is no directory");
        std::fs::remove_file(&scratch.path).expect("removed");
        std::fs::rename(&theirs, &scratch.path).expect("renamed");
        std::fs::set_permissions(&scratch.path, std::fs::Permissions::from_mode(0o777)).expect("changed");
        refused("it has mode 0777 instead of 0700");
        assert!(scratch.path.join("file").exists());
    }
}
