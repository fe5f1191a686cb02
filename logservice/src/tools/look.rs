//! A shard's log in a directory, whichever way it is kept there: by this service alone, or as a copy of a log that several services keep.

use std::io;
use std::path::{Path, PathBuf};

use durability_protocol::is_valid_name;

use crate::encryption::KeyRing;
use crate::replica::copy_files::look::CopyLook;
use crate::replica::group_name::{made_after, shard_of};
use crate::store::file_store::look::Look;
use crate::store::{LogReader, Manifest, OpenError, ReadError, Record};

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

/// Where a shard's log is below the directory of a service.
pub struct Place {
    /// Its own directory.
    pub path: PathBuf,
    /// The group of which it is a copy; none if the service keeps the log alone.
    pub group: Option<String>,
}

/// The names of the directories in one of the places for logs: those that are named as logs are there, and the others. Sorted; none if there
/// is no such place. Names that begin with a dot are of what is being made or removed.
///
/// # Errors
/// It cannot be listed.
pub fn list(directory: &Path, place: &str) -> io::Result<(Vec<String>, Vec<String>)> {
    let entries = match std::fs::read_dir(directory.join(place)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    let is_of_log = |name: &String| match place {
        COPIES => is_valid_name(shard_of(name)) && made_after(name).is_some(),
        _ => is_valid_name(name),
    };
    Ok(names.into_iter().partition(is_of_log))
}

/// Where the log of a shard is; none if there is no such shard. A shard that was dropped from a cluster and made again lies in another place
/// than before: that of the newest of its name counts, unless `shard` names the place, as in `orders#1`.
pub fn place_of(directory: &Path, shard: &str) -> Option<Place> {
    if !is_valid_name(shard_of(shard)) {
        return None;
    }
    let alone = directory.join(ALONE).join(shard);
    if is_valid_name(shard) && alone.is_dir() {
        return Some(Place { path: alone, group: None });
    }
    // A place that cannot be listed has no shard that can be read.
    let (groups, _) = list(directory, COPIES).unwrap_or_default();
    let is_it = |group: &&String| *group == shard || (is_valid_name(shard) && shard_of(group) == shard);
    let group = groups.iter().filter(is_it).max_by_key(|group| made_after(group))?;
    Some(Place { path: directory.join(COPIES).join(group), group: Some(group.clone()) })
}

/// Verifies the log of a shard in the directory of a service. `None` if there is no such shard, or nothing was ever stored there. Blocks on
/// I/O.
///
/// # Errors
/// It is damaged, cannot be read, or lacks one of `keys`.
pub fn open(directory: &Path, shard: &str, keys: &KeyRing) -> Result<Option<Box<dyn LogLook>>, OpenError> {
    let Some(Place { path, group }) = place_of(directory, shard) else { return Ok(None) };
    match group {
        None => {
            let look = Look::open(&path, shard, keys)?;
            Ok(look.map(|look| Box::new(look) as Box<dyn LogLook>))
        }
        Some(group) => {
            let look = CopyLook::open(&path, &group, Some(keys))?;
            Ok(Some(Box::new(ShardCopy::new(look, &path)?)))
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
