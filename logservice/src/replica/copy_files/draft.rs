//! A copy in the making, of what was kept otherwise: a directory beside the copies, which gets its name when all of it is durable.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use raft::eraftpb::Entry;

use super::head::Head;
use super::log::Log;
use super::open::LOG;
use super::vote::VoteFile;
use super::writer::Writer;
use crate::base::file_error::{FileError, InFile};
use crate::replica::copy::{Base, Checkpoint, CopyDraft};
use crate::store::file_store::files::{ReplaceError, Step};
use crate::store::file_store::spare::Spare;
use crate::store::file_store::{remove, FileStoreOptions};
use crate::store::MediumError;

/// Precedes the name of a copy of which entries are being written. No shard's name begins with a dot.
const DRAFT: &str = ".draft-";

/// The copies that are in the making: what else has such a name was left by a crash.
#[derive(Clone, Default)]
pub struct Drafts(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Drafts {
    /// Removes the directory of that path and name, if it was left by a crash. Whether it is one of a draft. Blocks on I/O.
    pub fn remove_left_over(&self, path: &Path, name: &str) -> Result<bool, FileError> {
        if !name.starts_with(DRAFT) {
            return Ok(false);
        }
        // Held meanwhile, so that none is begun there.
        let begun = self.lock();
        if !begun.contains(path) {
            remove::remove_rest(path)?;
        }
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the place of the draft of that path, which is empty then.
    fn begin(&self, path: &Path) -> Result<Begun, FileError> {
        let mut begun = self.lock();
        if !begun.insert(path.to_owned()) {
            let source = std::io::ErrorKind::AlreadyExists.into();
            return Err(FileError { action: "a copy is being made in", path: path.to_owned(), source });
        }
        drop(begun);
        let begun = Begun { drafts: self.clone(), path: path.to_owned() };
        remove::remove_rest(path)?;
        Ok(begun)
    }
}

/// The place of a draft.
struct Begun {
    drafts: Drafts,
    path: PathBuf,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.drafts.lock().remove(&self.path);
    }
}

/// A copy in the making.
pub struct CopyFilesDraft {
    group: String,
    base: Base,
    /// What it becomes.
    copy: PathBuf,
    writer: Writer,
    is_finished: bool,
    begun: Begun,
}

impl CopyFilesDraft {
    /// Begins one that becomes `copy`, the directory of that name of a group.
    pub fn begin(
        drafts: &Drafts,
        copy: PathBuf,
        name: &str,
        group: &str,
        base: &Base,
        options: &FileStoreOptions,
    ) -> Result<Self, FileError> {
        let begun = drafts.begin(&copy.with_file_name(format!("{DRAFT}{name}")))?;
        let directory = begun.path.join(LOG);
        Step::OpenCreate.create_directories(&directory).in_file("cannot create", &directory)?;
        let spare =
            Spare::new(&directory, options.segment_bytes, options.threads.spare_makers.clone(), options.keys.clone());
        let writer = Writer {
            directory,
            group: group.to_owned(),
            segment_bytes: options.segment_bytes,
            last: base.position,
            active: None,
            next_sequence: FIRST_SEQUENCE,
            log: Arc::new(Log::new(base.position)),
            spare: Arc::new(spare),
            keys: options.keys.clone(),
        };
        Ok(CopyFilesDraft { group: group.to_owned(), base: base.clone(), copy, writer, is_finished: false, begun })
    }

    fn install(&mut self, checkpoint: Checkpoint) -> Result<(), FileError> {
        let (draft, copy) = (&self.begun.path, &self.copy);
        self.writer.spare.close();
        VoteFile::create(draft, &self.group)?;
        let head = Head { base: self.base.clone(), checkpoint, first_sequence: FIRST_SEQUENCE, lost_in: None };
        head.replace(draft, &self.group).map_err(ReplaceError::into_error)?;
        // A copy that is there is not replaced: its directory is not empty.
        Step::CopyRename.rename(draft, copy).in_file("cannot rename a copy to", copy)?;
        self.is_finished = true;
        copy.parent().map_or(Ok(()), |parent| Step::CopyDirectorySync.sync_directory(parent))
    }
}

/// The sequence of a copy's first segment.
const FIRST_SEQUENCE: u64 = 1;

impl CopyDraft for CopyFilesDraft {
    fn append(&mut self, entries: &[Entry]) -> Result<(), MediumError> {
        // None is replaced.
        self.writer.write(entries).map(drop).map_err(MediumError::new)
    }

    fn finish(mut self: Box<Self>, checkpoint: Checkpoint) -> Result<(), MediumError> {
        Ok(self.install(checkpoint)?)
    }
}

impl Drop for CopyFilesDraft {
    fn drop(&mut self) {
        self.writer.spare.close();
        if self.is_finished {
            return;
        }
        if let Err(error) = remove::remove_rest(&self.begun.path) {
            tracing::warn!("a copy that was not finished stays until the next start: {error}");
        }
    }
}
