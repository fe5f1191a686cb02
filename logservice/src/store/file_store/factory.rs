//! A directory with a directory for each shard.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use durability_protocol::is_valid_name;

use super::{open, remove, FileStoreOptions};
use crate::base::file_error::{sync_directory, FileError, InFile};
use crate::base::private;
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

/// The file stores of a service.
pub struct FileStores {
    directory: PathBuf,
    pub(super) options: FileStoreOptions,
}

impl FileStores {
    /// Stores in directories below `directory`, which need not exist yet.
    pub fn new(directory: &Path, options: FileStoreOptions) -> Self {
        FileStores { directory: directory.to_owned(), options }
    }

    /// The directory of a shard.
    pub(super) fn directory_of(&self, shard: &str) -> PathBuf {
        self.directory.join(shard)
    }

    fn list(&self) -> Result<Listed, FileError> {
        fs::create_dir_all(&self.directory).in_file("cannot create", &self.directory)?;
        private::take_back(&self.directory).in_file("cannot restrict access to", &self.directory)?;
        if let Some(parent) = self.directory.parent() {
            sync_directory(parent)?;
        }
        let mut listed = Listed::default();
        for entry in fs::read_dir(&self.directory).in_file("cannot list", &self.directory)? {
            let entry = entry.in_file("cannot list", &self.directory)?;
            match entry.file_name().into_string() {
                Ok(name) if is_valid_name(&name) => listed.shards.push(name),
                Ok(name) if remove::is_set_aside(&name) => {
                    listed.removed.push(Arc::new(RemovedDirectory(entry.path())))
                }
                _ => {}
            }
        }
        Ok(listed)
    }
}

impl StoreFactory for FileStores {
    fn list(&self) -> Result<Listed, MediumError> {
        Ok(FileStores::list(self)?)
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        super::open(&self.directory_of(shard), shard, &self.options, events)
    }

    fn exists(&self, shard: &str) -> bool {
        self.directory_of(shard).is_dir()
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        open::read_manifest(&self.directory_of(shard), shard, true).ok().flatten()
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        Ok(Arc::new(RemovedDirectory(remove::set_aside(&self.directory_of(shard))?)))
    }

    fn set_aside(&self, shard: &str) -> Result<Option<String>, RemoveError> {
        let kept = self.directory.with_file_name(remove::KEPT);
        let path = remove::keep_aside(&self.directory_of(shard), &kept)?;
        Ok(path.map(|path| path.display().to_string()))
    }
}

/// A shard's directory that was set aside.
struct RemovedDirectory(PathBuf);

impl Display for RemovedDirectory {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
    }
}

impl RemovedStore for RemovedDirectory {
    fn remove_log(&self) -> Result<(), MediumError> {
        Ok(remove::remove_log(&self.0)?)
    }

    fn manifest(&self) -> Result<Option<Result<Manifest, String>>, MediumError> {
        Ok(remove::manifest_set_aside(&self.0)?)
    }

    fn finish(&self) -> Result<(), MediumError> {
        Ok(remove::remove_rest(&self.0)?)
    }
}
