//! What the store does to files. Every operation belongs to a [`Step`], and stands for the operating system's of the same name.
//!
//! With the feature `failpoints` (tests only) a step can be made to fail, by the `fail` crate's configuration `return(FAULT)`:
//! `eio` and `enospc` are returned in place of the step; `short` writes the first half of the bytes, then returns EIO; `kill`
//! kills the process before the step; `torn` writes the first half, then kills the process; `lie` writes nothing and says that it
//! did. Without it nothing of this is built.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::FallocateFlags;

pub use super::steps::Step;
#[cfg(feature = "failpoints")]
use super::watch::{self, Deed};
use crate::base::file_error::{self, FileError, InFile};
use crate::base::latency::Latency;

/// How long it took to make records of logs durable, of all shards: they share the disk.
pub static RECORD_SYNCS: Latency = Latency::new();

/// Returns what a test has done in the place of a deed, if it watches this thread and has done something.
macro_rules! watched {
    ($step:expr, $deed:expr) => {
        #[cfg(feature = "failpoints")]
        if let Some(done) = watch::instead($step, &$deed) {
            return done;
        }
    };
}

impl Step {
    /// Creates an empty file, or empties the one that is there, for reading and writing.
    pub fn create(self, path: &Path) -> io::Result<File> {
        self.before()?;
        #[cfg(feature = "failpoints")]
        watch::instead(self, &Deed::Create(path)).unwrap_or(Ok(()))?;
        let created = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        #[cfg(feature = "failpoints")]
        created.iter().for_each(|file| watch::created(path, file));
        created
    }

    /// Creates a directory and those above it.
    pub fn create_directories(self, path: &Path) -> io::Result<()> {
        self.before()?;
        std::fs::create_dir_all(path)
    }

    /// Takes space for a file, which is that long then.
    pub fn allocate(self, file: &File, bytes: u64) -> io::Result<()> {
        self.before()?;
        watched!(self, Deed::Allocate(file, bytes));
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    /// Writes all of `bytes`.
    pub fn write_all_at(self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        watched!(self, Deed::Write(file, position, bytes));
        let half = || file.write_all_at(&bytes[..bytes.len() / 2], position);
        self.instead(half).unwrap_or_else(|| file.write_all_at(bytes, position))
    }

    /// Writes all of `parts`, one after the other.
    pub fn write_all_vectored_at(
        self,
        file: &File,
        mut parts: &mut [IoSlice<'_>],
        mut position: u64,
    ) -> io::Result<()> {
        #[cfg(feature = "failpoints")]
        if watch::is_watched() {
            let bytes = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
            watched!(self, Deed::Write(file, position, &bytes));
        }
        let half = || {
            let bytes = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
            file.write_all_at(&bytes[..bytes.len() / 2], position)
        };
        if let Some(result) = self.instead(half) {
            return result;
        }
        while !parts.is_empty() {
            match rustix::io::pwritev(file, parts, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes a file's bytes durable.
    pub fn sync_data(self, file: &File) -> io::Result<()> {
        let begun = Instant::now();
        self.before()?;
        watched!(self, Deed::Sync(file));
        file.sync_data()?;
        if self == Step::RecordSync {
            RECORD_SYNCS.note(begun.elapsed());
        }
        Ok(())
    }

    /// Makes a file's bytes and everything else about it durable, but not its name.
    pub fn sync_all(self, file: &File) -> io::Result<()> {
        self.before()?;
        watched!(self, Deed::Sync(file));
        file.sync_all()
    }

    /// Makes creations, renames and removals in a directory durable.
    pub fn sync_directory(self, path: &Path) -> Result<(), FileError> {
        self.before().in_file("cannot sync directory", path)?;
        #[cfg(feature = "failpoints")]
        if let Some(done) = watch::instead(self, &Deed::SyncDirectory(path)) {
            return done.in_file("cannot sync directory", path);
        }
        file_error::sync_directory(path)
    }

    /// Renames a file, which takes the place of one that has the name.
    pub fn rename(self, from: &Path, to: &Path) -> io::Result<()> {
        self.before()?;
        watched!(self, Deed::Rename(from, to));
        std::fs::rename(from, to)
    }

    /// Removes a file.
    pub fn remove_file(self, path: &Path) -> io::Result<()> {
        self.before()?;
        watched!(self, Deed::Remove(path));
        std::fs::remove_file(path)
    }

    fn before(self) -> io::Result<()> {
        self.instead(|| Ok(())).unwrap_or(Ok(()))
    }

    /// What happens in the step's place; none if it is to be done. `write_half` does a part of it, if it is a write.
    #[cfg(not(feature = "failpoints"))]
    fn instead(self, _write_half: impl FnOnce() -> io::Result<()>) -> Option<io::Result<()>> {
        None
    }

    #[cfg(feature = "failpoints")]
    fn instead(self, write_half: impl FnOnce() -> io::Result<()>) -> Option<io::Result<()>> {
        let fault = self.fault()?;
        let half = if matches!(fault.as_str(), "short" | "torn") { write_half() } else { Ok(()) };
        Some(match fault.as_str() {
            "eio" | "short" => half.and(Err(rustix::io::Errno::IO.into())),
            "enospc" => Err(rustix::io::Errno::NOSPC.into()),
            "kill" | "torn" => self.kill_process(),
            "lie" => Ok(()),
            other => panic!("failpoint {}: there is no fault {other:?}", self.name()),
        })
    }

    #[cfg(feature = "failpoints")]
    fn fault(self) -> Option<String> {
        fail::fail_point!(self.name(), |fault| Some(fault.unwrap_or_default()));
        None
    }

    /// As a crash: nothing of this process runs after it.
    #[cfg(feature = "failpoints")]
    fn kill_process(self) -> ! {
        eprintln!("failpoint {}: killed", self.name());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

/// Reads what is to fail from the environment's `FAILPOINTS`: `STEP=ACTION;...`, in the language of the `fail` crate; and from the file that
/// its `FAILPOINTS_FILE` names, also later, whenever that is replaced.
#[cfg(feature = "failpoints")]
pub fn configure_failpoints() {
    // For as long as the process lives.
    std::mem::forget(fail::FailScenario::setup());
    if let Some(path) = std::env::var_os("FAILPOINTS_FILE") {
        super::failpoint_file::watch(path.into());
    }
}

/// How far a replacement got before it failed.
pub enum ReplaceError {
    /// The old file stands.
    Unchanged(FileError),
    /// Either may be found after a crash.
    Unknown(FileError),
}

impl ReplaceError {
    /// What failed, for whom it makes no difference.
    pub fn into_error(self) -> FileError {
        match self {
            ReplaceError::Unchanged(error) | ReplaceError::Unknown(error) => error,
        }
    }
}

/// Puts `bytes` in place of the manifest `name` so that a crash leaves either the old content or the new.
pub fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), ReplaceError> {
    let path = directory.join(name);
    let partial = directory.join(format!("{name}.partial"));
    let written = Step::ManifestCreate.create(&partial).and_then(|file| {
        Step::ManifestWrite.write_all_at(&file, bytes, 0)?;
        Step::ManifestSync.sync_all(&file)
    });
    if let Err(error) = written.in_file("cannot write", &partial) {
        let _ = Step::ManifestRemove.remove_file(&partial);
        return Err(ReplaceError::Unchanged(error));
    }
    Step::ManifestRename
        .rename(&partial, &path)
        .in_file("cannot replace", &path)
        .and_then(|()| Step::ManifestDirectorySync.sync_directory(directory))
        .map_err(ReplaceError::Unknown)
}
