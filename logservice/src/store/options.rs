//! The one place where a kind of store is chosen.

use std::path::PathBuf;
use std::sync::Arc;

use super::file_store::{FileStoreOptions, FileStores, Threads, MIN_SEGMENT_BYTES};
use super::StoreFactory;
use crate::encryption::KeyRing;

/// Smallest length of a segment in MiB.
pub const MIN_SEGMENT_MB: u64 = MIN_SEGMENT_BYTES >> 20;

/// How a service keeps its logs, as it is configured.
#[derive(Clone)]
pub struct StoreOptions {
    /// The service's directory.
    pub directory: PathBuf,
    /// Length of a segment in MiB, at least [`MIN_SEGMENT_MB`].
    pub segment_mb: u64,
    /// The most bytes that the log of a shard takes; none is no bound.
    pub max_log_bytes: Option<u64>,
    /// The keys with which logs are encrypted.
    pub keys: Arc<KeyRing>,
}

impl StoreOptions {
    /// The factory of the kind of store that is configured. Nothing is read or written yet.
    ///
    /// # Errors
    /// The store's threads cannot be started.
    pub fn factory(self) -> std::io::Result<Arc<dyn StoreFactory>> {
        let directory = self.directory.join("shards");
        Ok(Arc::new(FileStores::new(&directory, self.files()?)))
    }

    /// As [`StoreOptions::factory`], if stores were ever made there.
    ///
    /// # Errors
    /// As of [`StoreOptions::factory`].
    pub fn factory_of_used(self) -> std::io::Result<Option<Arc<dyn StoreFactory>>> {
        match self.directory.join("shards").is_dir() {
            true => self.factory().map(Some),
            false => Ok(None),
        }
    }

    /// How segment files are written, for whatever consists of them.
    ///
    /// # Errors
    /// The threads that write them cannot be started.
    pub fn files(self) -> std::io::Result<FileStoreOptions> {
        Ok(FileStoreOptions {
            segment_bytes: self.segment_mb << 20,
            max_log_bytes: self.max_log_bytes,
            threads: Threads::start()?,
            keys: self.keys,
        })
    }
}
