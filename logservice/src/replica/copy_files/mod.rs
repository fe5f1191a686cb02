//! Copies of logs in segment files, as [`CopyDisk`](super::copy::CopyDisk) wants them.
//!
//! The files are those of the log of a single service (`store/file_store/`) as far as they can be: preallocated segments, spares, threads
//! that all shards share, group commit. What differs is that a copy's entries have an index and a term, that several records are written
//! under one sync, and that its end may be replaced. A copy's directory:
//!
//! | file | |
//! |---|---|
//! | `VOTE` | what the member has promised to the others |
//! | `COPY` | where the copy begins, and what the group was after some prefix |
//! | `log/` | segments with the entries, and spares |
//!
//! | file of the source | |
//! |---|---|
//! | `mod.rs` | the directory with all copies |
//! | `disk/` | one copy: how its parts work together, its checkpoints, and what is dropped of it |
//! | `format.rs` | the bytes of segments and records |
//! | `segment.rs`, `log.rs` | one segment file, and those of a copy |
//! | `queue.rs`, `writer.rs` | entries on their way into records |
//! | `draft.rs` | a copy in the making, of what was kept otherwise |
//! | `records.rs`, `reader.rs` | entries, and bytes of the log, out of records |
//! | `look.rs` | for tools: a copy that is read, and not served |
//! | `open.rs`, `tail.rs`, `verify.rs` | recovery, what a crash has torn, and what is verified when |
//! | `removed.rs` | the end of a copy's directory |
//! | `vote.rs`, `head.rs` | the files `VOTE` and `COPY` |

#[cfg(test)]
mod anew_tests;
#[cfg(test)]
mod damage_tests;
mod disk;
mod draft;
#[cfg(test)]
mod draft_tests;
pub mod format;
#[cfg(test)]
mod harness_tests;
mod head;
mod log;
pub mod look;
#[cfg(test)]
mod model_tests;
mod open;
mod queue;
mod reader;
mod records;
mod removed;
mod segment;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod tracked;
mod verify;
mod vote;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use durability_protocol::is_valid_name;

use self::disk::CopyFilesDisk;
use self::draft::{CopyFilesDraft, Drafts};
use self::head::Head;
use self::removed::RemovedCopy;
use self::vote::VoteFile;
use super::copy::{Base, CopyDisks, CopyDraft, CopyEvents, FoundCopy, Install, OpenedCopy};
use super::group_name::{made_after, shard_of};
use crate::base::file_error::{sync_directory, FileError, InFile};
use crate::base::private;
use crate::store::file_store::files::{ReplaceError, Step};
use crate::store::file_store::{remove, FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use crate::store::{MediumError, OpenError, RemovedStore, StoreOptions};

/// Directory of the group without a name. No shard may be called so.
pub const UNNAMED_GROUP: &str = "_cluster";
/// Precedes the name of a copy that is being made. No shard's name begins with a dot.
const IN_THE_MAKING: &str = ".new-";

/// The copies of a service, each in a directory of its own.
pub struct CopyFiles {
    directory: PathBuf,
    options: FileStoreOptions,
    drafts: Drafts,
}

impl CopyFiles {
    /// The copies of a service that is configured so. Nothing is read or written yet.
    ///
    /// # Errors
    /// The threads that do their work cannot be started.
    pub fn start(options: &StoreOptions) -> io::Result<Self> {
        let options_of_files = FileStoreOptions {
            segment_bytes: options.segment_mb << 20,
            max_log_bytes: options.max_log_bytes,
            threads: Threads::start()?,
            keys: options.keys.clone(),
        };
        Ok(CopyFiles::new(&options.directory.join("replicas"), options_of_files))
    }

    /// Copies in directories below `directory`, which need not exist yet.
    pub fn new(directory: &Path, options: FileStoreOptions) -> Self {
        CopyFiles { directory: directory.to_owned(), options, drafts: Drafts::default() }
    }

    /// The name of a group's directory.
    fn name_of<'a>(&self, group: &'a str) -> Result<&'a str, FileError> {
        match group {
            "" => Ok(UNNAMED_GROUP),
            UNNAMED_GROUP => Err("this name is the cluster's own"),
            _ if !is_valid_name(shard_of(group)) || made_after(group).is_none() => Err("it is no name of a group"),
            _ => Ok(group),
        }
        .map_err(io::Error::other)
        .in_file("cannot keep a copy in", &self.directory.join(group.replace('/', "_")))
    }

    fn options_of(&self, group: &str) -> FileStoreOptions {
        // The cluster's own log is small, and stays so.
        let most = if group.is_empty() { MIN_SEGMENT_BYTES } else { u64::MAX };
        FileStoreOptions { segment_bytes: self.options.segment_bytes.min(most), ..self.options.clone() }
    }

    fn make_directory(&self) -> Result<(), FileError> {
        Step::OpenCreate.create_directories(&self.directory).in_file("cannot create", &self.directory)?;
        private::take_back(&self.directory).in_file("cannot restrict access to", &self.directory)?;
        self.directory.parent().map_or(Ok(()), sync_directory)
    }

    fn list(&self) -> Result<Vec<String>, FileError> {
        self.make_directory()?;
        let mut groups = Vec::new();
        for entry in fs::read_dir(&self.directory).in_file("cannot list", &self.directory)? {
            let entry = entry.in_file("cannot list", &self.directory)?;
            match entry.file_name().into_string() {
                Ok(name) if name == UNNAMED_GROUP => groups.push(String::new()),
                Ok(name) if is_valid_name(shard_of(&name)) && made_after(&name).is_some() => groups.push(name),
                Ok(name) if name.starts_with(IN_THE_MAKING) => remove::remove_rest(&entry.path())?,
                Ok(name) if remove::is_set_aside(&name) => {}
                Ok(name) if self.drafts.remove_left_over(&entry.path(), &name)? => {}
                _ => tracing::warn!("{} is no copy; left alone", entry.path().display()),
            }
        }
        groups.sort();
        Ok(groups)
    }

    fn create(&self, group: &str, install: &Install) -> Result<(), FileError> {
        let name = self.name_of(group)?;
        let (path, making) = (self.directory.join(name), self.directory.join(format!("{IN_THE_MAKING}{name}")));
        if path.is_dir() {
            // Whoever renamed it may have been cut off before that was synced.
            return Step::CopyDirectorySync.sync_directory(&self.directory);
        }
        self.make_directory()?;
        if making.is_dir() {
            remove::remove_rest(&making)?;
        }
        let log = making.join(open::LOG);
        Step::OpenCreate.create_directories(&log).in_file("cannot create", &log)?;
        VoteFile::create(&making, group)?;
        let Install { base, checkpoint } = install.clone();
        let head = Head { base, checkpoint, first_sequence: 1, lost_in: None };
        head.replace(&making, group).map_err(ReplaceError::into_error)?;
        Step::CopyRename.rename(&making, &path).in_file("cannot rename a copy to", &path)?;
        Step::CopyDirectorySync.sync_directory(&self.directory)
    }

    fn draft(&self, group: &str, base: &Base) -> Result<CopyFilesDraft, FileError> {
        let name = self.name_of(group)?;
        let path = self.directory.join(name);
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists)).in_file("there is a copy in", &path);
        }
        self.make_directory()?;
        CopyFilesDraft::begin(&self.drafts, path, name, group, base, &self.options_of(group))
    }

    /// The file `COPY` says that the copy begins anew, after which the segments that are there are left-overs: opening it removes them. The
    /// file `VOTE` is not touched.
    fn begin_anew(&self, group: &str, install: &Install) -> Result<(), OpenError> {
        let path = self.directory.join(self.name_of(group)?);
        let vote = VoteFile::look(&path, group)?;
        let log = path.join(open::LOG);
        Step::OpenCreate.create_directories(&log).in_file("cannot create", &log)?;
        let newest = open::list(&log)?.segments.last().map_or(0, |newest| newest.0);
        // Of the file that is there, which may be the one that is damaged, nothing is needed but what its segments are numbered from.
        let known = Head::read(&path, group).map_or(0, |head| head.first_sequence);
        let Install { base, checkpoint } = install.clone();
        let lost_in = Some(vote.term.max(base.position.term));
        let head = Head { base, checkpoint, first_sequence: newest.max(known) + 1, lost_in };
        head.replace(&path, group).map_err(|error| OpenError::from(error.into_error()))
    }

    fn open_disk(
        &self,
        group: &str,
        events: Arc<dyn CopyEvents>,
    ) -> Result<Option<(CopyFilesDisk, FoundCopy)>, OpenError> {
        let path = self.directory.join(self.name_of(group)?);
        if !path.is_dir() {
            return Ok(None);
        }
        // It was renamed, perhaps by a process that was cut off before that was synced. What is promised from now on must not be lost with it.
        Step::OpenDirectorySync.sync_directory(&self.directory)?;
        CopyFilesDisk::open(path, group, &self.options_of(group), events).map(Some)
    }

    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, FileError> {
        self.make_directory()?;
        let mut removed: Vec<Arc<dyn RemovedStore>> = Vec::new();
        for entry in fs::read_dir(&self.directory).in_file("cannot list", &self.directory)? {
            let entry = entry.in_file("cannot list", &self.directory)?;
            if entry.file_name().to_str().is_some_and(remove::is_set_aside) {
                removed.push(Arc::new(RemovedCopy(entry.path())));
            }
        }
        Ok(removed)
    }

    fn remove(&self, group: &str) -> Result<(), FileError> {
        let path = self.directory.join(self.name_of(group)?);
        remove::remove_rest(&remove::set_aside(&path).map_err(ReplaceError::into_error)?)
    }
}

impl CopyDisks for CopyFiles {
    fn list(&self) -> Result<Vec<String>, MediumError> {
        Ok(CopyFiles::list(self)?)
    }

    fn create(&self, group: &str, install: &Install) -> Result<(), MediumError> {
        Ok(CopyFiles::create(self, group, install)?)
    }

    fn draft(&self, group: &str, base: &Base) -> Result<Box<dyn CopyDraft>, MediumError> {
        Ok(Box::new(CopyFiles::draft(self, group, base)?))
    }

    fn open(&self, group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError> {
        let opened = self.open_disk(group, events)?;
        Ok(opened.map(|(disk, found)| OpenedCopy { disk: Arc::new(disk), found }))
    }

    fn begin_anew(&self, group: &str, install: &Install) -> Result<(), OpenError> {
        CopyFiles::begin_anew(self, group, install)
    }

    fn remove(&self, group: &str) -> Result<(), MediumError> {
        Ok(CopyFiles::remove(self, group)?)
    }

    fn set_aside(&self, group: &str) -> Result<Arc<dyn RemovedStore>, MediumError> {
        let path = self.directory.join(self.name_of(group)?);
        let path = remove::set_aside(&path).map_err(ReplaceError::into_error)?;
        Ok(Arc::new(RemovedCopy(path)))
    }

    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, MediumError> {
        Ok(CopyFiles::left_over(self)?)
    }
}
