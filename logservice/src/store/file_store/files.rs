//! Steps on files that must survive a crash, and the hook with which tests make them fail.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::store::{FileError, InFile};

/// A step that a test can make fail, or stop at as if the process had died there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Before space for the next segment is taken.
    Allocate,
    /// Before the header of a new segment is written.
    SegmentHeader,
    /// Before a new segment gets its name.
    SegmentRename,
    /// Before a record is written.
    RecordWrite,
    /// Before a record is synced.
    RecordSync,
    /// Before the new manifest is written beside the old one.
    ManifestWrite,
    /// Before the new manifest takes the old one's name.
    ManifestRename,
    /// Before the directory is synced after that.
    ManifestSync,
    /// Before log that is not needed any more is deleted.
    DeleteOld,
}

type Hook = dyn Fn(Step) -> std::io::Result<()> + Send + Sync;

/// Called before each step; an error takes the place of the step.
#[derive(Clone, Default)]
pub struct FaultHook(Option<Arc<Hook>>);

impl FaultHook {
    /// Calls `hook` before each step.
    pub fn new(hook: impl Fn(Step) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        FaultHook(Some(Arc::new(hook)))
    }

    /// To be called before `step`.
    pub fn before(&self, step: Step) -> std::io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl std::fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "FaultHook(set)" } else { "FaultHook(none)" })
    }
}

/// Makes creations, renames and removals in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).in_file("cannot sync directory", path)
}

/// How far a replacement got before it failed.
pub enum ReplaceError {
    /// The old file stands.
    Unchanged(FileError),
    /// Either may be found after a crash.
    Unknown(FileError),
}

/// Puts `bytes` in place of the file `name` so that a crash leaves either the old content or the new.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8], faults: &FaultHook) -> Result<(), ReplaceError> {
    let path = directory.join(name);
    let partial = directory.join(format!("{name}.partial"));
    let written = faults.before(Step::ManifestWrite).and_then(|()| {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        faults.before(Step::ManifestRename)
    });
    if let Err(error) = written.in_file("cannot write", &partial) {
        let _ = std::fs::remove_file(&partial);
        return Err(ReplaceError::Unchanged(error));
    }
    std::fs::rename(&partial, &path)
        .and_then(|()| faults.before(Step::ManifestSync))
        .in_file("cannot replace", &path)
        .and_then(|()| sync_directory(directory))
        .map_err(ReplaceError::Unknown)
}
