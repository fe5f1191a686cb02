//! Files for the next segments, made ready ahead of time so that the writer never waits for one to be filled with zeros.
//!
//! Segments that are dropped from the log become spares as they are: a sync into blocks that were written before is as cheap as into
//! zeros, and nothing has to be written first. Their contents do not matter, because records count only with the salt of their
//! segment's header (`format.rs`), which is written and synced before the file gets a segment's name.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::files::Step;
use super::segment::create_zeroed;
use super::workers::{is_worker, Job, Workers};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::KeyRing;

/// The most spares at a time, including one in the making: the space that the log takes beside its segments.
const MAX_SPARES: usize = 2;
/// Pause after a failed attempt, most likely because of a full disk.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest that the writer waits for a spare in the making.
const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// Rest after each 64 KiB while the log is in use, so that zeros take at most 32 MB/s of the disk. A log that grows faster than that gets
/// some segments that are only allocated.
const REST: Duration = Duration::from_millis(2);

/// Name of a spare, before its number.
const PREFIX: &str = "spare-";

/// Whether a file in the log directory is a spare.
pub fn is_spare_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A file that can become a segment.
#[derive(Debug)]
pub struct SpareFile {
    /// Open for reading and writing.
    pub file: File,
    /// Its place until it gets a segment's name.
    pub path: PathBuf,
    /// Whether it was a segment that was not encrypted.
    holds_plain: bool,
}

/// A file that was a segment, has left the log, and that nobody reads.
#[derive(Debug)]
pub struct UsedFile {
    /// Open for reading and writing.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub file_bytes: u64,
    /// Whether what it holds is encrypted.
    pub is_encrypted: bool,
}

/// The prepared files of one shard. Threads that all shards share make more.
pub struct Spare {
    shared: Arc<Shared>,
    makers: Arc<Workers>,
}

struct Shared {
    directory: PathBuf,
    segment_bytes: u64,
    keys: Arc<KeyRing>,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: Vec<SpareFile>,
    making: Option<Making>,
    /// No attempt before then, because the last one failed.
    retry_at: Option<Instant>,
    /// Names given so far.
    named: u64,
}

/// A spare that is to be made.
#[derive(Clone)]
struct Making {
    path: PathBuf,
    rest: Duration,
    /// Whether a thread has begun. If not, it may have to wait for many others.
    is_begun: bool,
}

impl Spare {
    /// No spares yet. They will be in `directory` and have `segment_bytes`; `makers` make them. `keys` encrypt the segments that they
    /// become.
    pub fn new(directory: &std::path::Path, segment_bytes: u64, makers: Arc<Workers>, keys: Arc<KeyRing>) -> Self {
        let (directory, stop) = (directory.to_owned(), AtomicBool::new(false));
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Shared { directory, segment_bytes, keys, stop, state, changed };
        Spare { shared: Arc::new(shared), makers }
    }

    /// Has a spare made in the background unless there is one; without rests if `at_once`, as while nothing is written to the log.
    pub fn prepare(&self, at_once: bool) {
        let mut state = self.shared.lock();
        let is_too_early = state.retry_at.is_some_and(|at| Instant::now() < at) && !self.makers.are_by_hand();
        let is_closed = self.shared.stop.load(Ordering::Relaxed);
        if state.making.is_some() || is_too_early || is_closed || !state.ready.is_empty() {
            return;
        }
        let (path, rest) = (
            self.shared.next_path(&mut state),
            if at_once || self.makers.are_by_hand() { Duration::ZERO } else { REST },
        );
        // Under the lock, so that it is noted before it can be done.
        let is_begun = self.makers.run(self.shared.clone());
        state.making = Some(Making { path, rest, is_begun });
    }

    /// Whether there is one.
    pub fn is_ready(&self) -> bool {
        !self.shared.lock().ready.is_empty()
    }

    /// No spare is made any more once this returns.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        self.shared.stop.store(true, Ordering::Relaxed);
        while !is_worker() && state.making.as_ref().is_some_and(|making| making.is_begun) {
            state = self.shared.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Makes a spare of a segment's file. False if none is needed, or it cannot be done: the file then stays what it was. The directory is not synced: after a crash the file may have its old name, by which it is a left-over
    /// whatever it holds.
    pub fn recycle(&self, used: UsedFile) -> bool {
        let mut state = self.shared.lock();
        let has_room = state.ready.len() + usize::from(state.making.is_some()) < MAX_SPARES;
        // Plain data would stay on the disk behind encrypted records.
        let may_stay = used.is_encrypted || self.shared.keys.is_for_new(None);
        if used.file_bytes != self.shared.segment_bytes || !has_room || !may_stay {
            return false;
        }
        let path = self.shared.next_path(&mut state);
        if let Err(error) = Step::SegmentRecycle.rename(&used.path, &path) {
            tracing::warn!("{} cannot be used again: {error}", used.path.display());
            return false;
        }
        state.ready.push(SpareFile { file: used.file, path, holds_plain: !used.is_encrypted });
        self.shared.changed.notify_all();
        true
    }

    /// Removes files of segments, each with its path, or makes spares of them. One that somebody reads is given without its file, and is
    /// removed. Continues after an error, and returns the first.
    pub fn recycle_or_remove(
        &self,
        segments: impl IntoIterator<Item = (PathBuf, Option<UsedFile>)>,
    ) -> Result<(), FileError> {
        let mut released = Ok(());
        for (path, used) in segments {
            if used.is_some_and(|used| self.recycle(used)) {
                continue;
            }
            let removed = Step::SegmentRemove.remove_file(&path).in_file("cannot remove", &path);
            released = released.and(removed);
        }
        released
    }

    /// Takes a spare if there is one. With `wait`, waits for one in the making, as for the first segment of a log, before which nothing is
    /// written. For a segment that `is_encrypted`, spares that hold plain data are removed.
    pub fn take(&self, wait: bool, is_encrypted: bool) -> Option<SpareFile> {
        let mut state = self.shared.lock();
        if is_encrypted {
            state.remove_plain();
        }
        if wait {
            let is_begun = |state: &State| state.making.as_ref().is_some_and(|making| making.is_begun);
            let waits = |state: &mut State| state.ready.is_empty() && is_begun(state);
            let waited = self.shared.changed.wait_timeout_while(state, WAIT_AT_MOST, waits);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if is_encrypted {
                state.remove_plain();
            }
        }
        state.ready.pop()
    }
}

impl State {
    /// Removes spares that hold plain data, which would stay behind the records of a segment.
    fn remove_plain(&mut self) {
        let all = std::mem::take(&mut self.ready);
        let (plain, others): (Vec<_>, _) = all.into_iter().partition(|spare| spare.holds_plain);
        self.ready = others;
        for spare in plain {
            if let Err(error) = Step::SegmentRemove.remove_file(&spare.path) {
                // The next opening does.
                tracing::warn!("{}, which is not encrypted, cannot be removed: {error}", spare.path.display());
            }
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.close();
    }
}

impl Job for Shared {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        let making = {
            let mut state = self.lock();
            if self.stop.load(Ordering::Relaxed) {
                state.making = None;
            }
            state.making.as_mut().map(|making| {
                making.is_begun = true;
                making.clone()
            })
        };
        if let Some(Making { path, rest, .. }) = making {
            self.make(path, rest);
        }
        self.changed.notify_all();
        false
    }
}

impl Shared {
    fn make(&self, path: PathBuf, rest: Duration) {
        match create_zeroed(&path, self.segment_bytes, rest, &self.stop) {
            Ok(file) => self.made(Some(SpareFile { file, path, holds_plain: false })),
            Err(error) => {
                if !self.stop.load(Ordering::Relaxed) {
                    tracing::warn!("the next segment could not be prepared: {error}");
                }
                self.made(None);
            }
        }
    }

    fn made(&self, spare: Option<SpareFile>) {
        let mut state = self.lock();
        state.making = None;
        state.retry_at = spare.is_none().then(|| Instant::now() + RETRY_AFTER);
        // Those that were segments are taken first: they are in the page cache.
        state.ready.splice(..0, spare);
        self.changed.notify_all();
    }

    /// A name that no spare has had since the shard was opened.
    fn next_path(&self, state: &mut State) -> PathBuf {
        state.named += 1;
        self.directory.join(format!("{PREFIX}{}", state.named))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
