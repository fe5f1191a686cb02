//! A shard's log in a directory, whichever way it is kept there: by this service alone, or as a copy of a log that several services keep.

use std::path::{Path, PathBuf};

use durability_protocol::is_valid_name;

use crate::encryption::KeyRing;
use crate::replica::copy_files::look::CopyLook;
use crate::store::file_store::look::{Look, Record};
use crate::store::{LogReader, Manifest, OpenError, ReadError};

/// Where the logs are that this service keeps alone.
pub const ALONE: &str = "shards";
/// Where the copies are of logs that several services keep.
pub const COPIES: &str = "replicas";

/// A shard's log that is read without being served. Changes nothing.
pub trait LogLook {
    /// What the shard remembers besides its bytes.
    fn manifest(&self) -> &Manifest;

    /// The end of the log (exclusive).
    fn end(&self) -> u64;

    /// Reads from `offset` on. Blocks on I/O.
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError>;

    /// Hands every record to `each`, in order, until that returns false. Another process may serve the log meanwhile: a record that it
    /// overwrites is an error, never a wrong record. Blocks on I/O.
    fn for_each_record(&self, each: &mut dyn FnMut(Record) -> bool) -> Result<(), OpenError>;
}

/// The directory of a shard below that of a service, and whether it holds a copy; none if there is no such shard.
pub fn directory_of(directory: &Path, shard: &str) -> Option<(PathBuf, bool)> {
    if !is_valid_name(shard) {
        return None;
    }
    let places = [(directory.join(ALONE), false), (directory.join(COPIES), true)];
    places.into_iter().map(|(place, is_copy)| (place.join(shard), is_copy)).find(|(place, _)| place.is_dir())
}

/// Verifies the log of a shard in the directory of a service. `None` if there is no such shard, or nothing was ever stored there. Blocks on
/// I/O.
///
/// # Errors
/// It is damaged, cannot be read, or lacks one of `keys`.
pub fn open(directory: &Path, shard: &str, keys: &KeyRing) -> Result<Option<Box<dyn LogLook>>, OpenError> {
    match directory_of(directory, shard) {
        None => Ok(None),
        Some((place, false)) => {
            let look = Look::open(&place, shard, keys)?;
            Ok(look.map(|look| Box::new(look) as Box<dyn LogLook>))
        }
        Some((place, true)) => {
            let look = CopyLook::open(&place, shard, Some(keys))?;
            Ok(Some(Box::new(ShardCopy::new(look, &place)?)))
        }
    }
}

impl LogLook for Look {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Look::reader(self, offset)
    }

    fn for_each_record(&self, each: &mut dyn FnMut(Record) -> bool) -> Result<(), OpenError> {
        Look::for_each_record(self, each)
    }
}

/// A copy of a shard's log.
struct ShardCopy {
    look: CopyLook,
    manifest: Manifest,
}

impl ShardCopy {
    fn new(look: CopyLook, place: &Path) -> Result<Self, OpenError> {
        let wrong = |reason: String| OpenError::Manifest { place: place.display().to_string(), reason };
        if look.state_index > look.last.index {
            return Err(wrong(format!(
                "this copy has just begun to be fetched from other services: it has entries up to index {}, and its state is that of index \
                 {}: use the directory of another service",
                look.last.index, look.state_index
            )));
        }
        let manifest = Manifest::parse(&look.state).map_err(wrong)?;
        Ok(ShardCopy { look, manifest })
    }
}

impl LogLook for ShardCopy {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn end(&self) -> u64 {
        self.look.last.end
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.look.reader(offset)
    }

    fn for_each_record(&self, each: &mut dyn FnMut(Record) -> bool) -> Result<(), OpenError> {
        self.look.for_each_record(each).map_err(|error| match error {
            ReadError::Damaged(damage) => OpenError::Damaged(damage),
            ReadError::Medium(error) => OpenError::Medium(error),
            error @ ReadError::Trimmed { .. } => OpenError::Medium(crate::store::MediumError::new(error)),
        })
    }
}
