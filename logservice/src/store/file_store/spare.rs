//! The next segment, made ready ahead of time so that the writer never waits for a file to be filled with zeros.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::segment::create_zeroed;

/// How long after a failed attempt (a full disk, most likely) the next one is made.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest the writer waits for a spare that is being made.
const WAIT_AT_MOST: Duration = Duration::from_secs(5);

/// How long the maker rests after each 64 KiB while the log is in use: zeros take at most 32 MB/s of the disk and of a core.
/// A log that grows faster than that gets some segments that are only allocated.
const REST: Duration = Duration::from_millis(2);

/// At most one prepared segment file.
pub struct Spare {
    shared: Arc<Shared>,
    maker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    path: PathBuf,
    segment_bytes: u64,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    None { retry_at: Option<Instant> },
    Making,
    Ready(File),
}

impl Spare {
    /// No spare yet; it will be made at `path`.
    pub fn new(path: PathBuf, segment_bytes: u64) -> Self {
        let state = Mutex::new(State::None { retry_at: None });
        let stop = AtomicBool::new(false);
        let shared = Arc::new(Shared { path, segment_bytes, stop, state, changed: Condvar::new() });
        Spare { shared, maker: Mutex::new(None) }
    }

    /// Where the spare is until it gets a segment's name.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Has a spare made in the background unless there is one; `at_once` if nothing is written to the log yet.
    pub fn prepare(&self, at_once: bool) {
        {
            let mut state = self.shared.lock();
            match *state {
                State::None { retry_at } if retry_at.is_none_or(|at| Instant::now() >= at) => *state = State::Making,
                _ => return,
            }
        }
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new()
            .name("log-spare".to_owned())
            .spawn(move || shared.make(if at_once { Duration::ZERO } else { REST }));
        match spawned {
            Ok(handle) => *self.maker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(handle),
            Err(error) => {
                tracing::warn!("cannot start a thread that prepares the next segment: {error}");
                self.shared.set(State::None { retry_at: Some(Instant::now() + RETRY_AFTER) });
            }
        }
    }

    /// Takes the spare if there is one. With `wait`, a spare that is being made is waited for: right for the first
    /// segment of a log, where nothing is being written yet.
    pub fn take(&self, wait: bool) -> Option<File> {
        let mut state = self.shared.lock();
        if wait {
            let making = |state: &mut State| matches!(state, State::Making);
            let waited = self.shared.changed.wait_timeout_while(state, WAIT_AT_MOST, making);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        if !matches!(*state, State::Ready(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, State::None { retry_at: None }) {
            State::Ready(file) => Some(file),
            _ => None,
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let maker = self.maker.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(handle) = maker {
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn make(&self, rest: Duration) {
        let state = match create_zeroed(&self.path, self.segment_bytes, rest, &self.stop) {
            Ok(file) => State::Ready(file),
            Err(_) if self.stop.load(Ordering::Relaxed) => State::None { retry_at: None },
            Err(error) => {
                tracing::warn!("the next segment could not be prepared: {error}");
                State::None { retry_at: Some(Instant::now() + RETRY_AFTER) }
            }
        };
        self.set(state);
    }

    fn set(&self, state: State) {
        *self.lock() = state;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
