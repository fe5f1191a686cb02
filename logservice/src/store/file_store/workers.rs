//! Threads that do the work of all shards. They start when there is work, up to a maximum, and end when there was none for a while.
//!
//! A shard without work owns no thread. The idle thread that has waited for the shortest time is woken first: a single busy shard always
//! gets the same one, whose caches are warm, and threads that are not needed any more wait for [`IDLE_AT_MOST`] and end. Below the
//! maximum no job waits for another. At the maximum jobs take turns.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Builder;
use std::time::Duration;
use std::{io, mem};

use crate::base::background::{give_way_here, Priority};
use crate::base::log_throttle::LineThrottle;

/// How long a thread waits for work before it ends. The last one stays: a job must not wait for a thread that cannot be started.
const IDLE_AT_MOST: Duration = Duration::from_secs(5);

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller is one of these threads. It must not wait for the end of another job, which may be waiting for its turn.
pub fn is_worker() -> bool {
    IS_WORKER.get()
}

/// Does something that must not wait for the end of a job, as one of these threads would. For tests.
#[cfg(any(test, feature = "testing"))]
pub fn as_worker<T>(run: impl FnOnce() -> T) -> T {
    let was_worker = IS_WORKER.replace(true);
    let done = run();
    IS_WORKER.set(was_worker);
    done
}

/// Work that one thread at a time does.
pub trait Job: Send + Sync {
    /// Does all there is to do. If `others_wait`, it ends early and returns true, to get another turn.
    fn run(&self, others_wait: &dyn Fn() -> bool) -> bool;
}

/// Does that when it is dropped by a panic: what a job does that fails like that.
pub struct OnPanic<F: Fn()>(pub F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// What a store says whose writing thread has panicked.
pub const WRITER_PANICKED: &str = "the thread that writes the log has panicked";

/// Threads of one kind. When this is dropped they end, after the jobs that they were given.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    most: usize,
    gives_way: bool,
    cannot_start: LineThrottle,
    state: Mutex<State>,
    /// The number of [`State::jobs`], checked after each part of a job.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Jobs that no thread has. Not empty only if no more threads can be started.
    jobs: VecDeque<Arc<dyn Job>>,
    /// The threads that wait, the one that has waited for the shortest time last.
    idle: Vec<Arc<Seat>>,
    threads: usize,
    is_closed: bool,
}

/// Where a thread waits.
#[derive(Default)]
struct Seat {
    given: Mutex<Given>,
    woken: Condvar,
}

#[derive(Default)]
enum Given {
    #[default]
    Nothing,
    Job(Arc<dyn Job>),
    End,
}

impl Workers {
    /// At most `most` threads of that name; the first one starts now. With `gives_way` they give way to everything else on the machine.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(name: &'static str, most: usize, gives_way: bool) -> io::Result<Self> {
        let (state, waiting) = (Mutex::default(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { name, most, gives_way, cannot_start: LineThrottle::new(), state, waiting });
        shared.lock().threads = 1;
        shared.spawn(None)?;
        Ok(Workers { shared })
    }

    /// No threads: jobs wait until somebody calls [`Workers::turn`]. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn by_hand(name: &'static str) -> Self {
        let (state, waiting, cannot_start) = (Mutex::default(), AtomicUsize::new(0), LineThrottle::new());
        Workers { shared: Arc::new(Shared { name, most: 0, gives_way: false, cannot_start, state, waiting }) }
    }

    /// Gives the job that has waited longest a turn, on this thread. False if none waits.
    #[cfg(any(test, feature = "testing"))]
    pub fn turn(&self) -> bool {
        let Some(job) = self.shared.lock().jobs.pop_front() else { return false };
        if as_worker(|| job.run(&|| true)) {
            let mut state = self.shared.lock();
            self.shared.push(&mut state, job);
        }
        true
    }

    /// Forgets the jobs that wait.
    #[cfg(any(test, feature = "testing"))]
    pub fn forget_jobs(&self) {
        let jobs = mem::take(&mut self.shared.lock().jobs);
        // What they hold may ask for others.
        drop(jobs);
    }

    /// Whether jobs wait for [`Workers::turn`], so that nothing may depend on the time.
    pub fn are_by_hand(&self) -> bool {
        self.shared.most == 0
    }

    /// Has a job done, which must not be under way already. Returns whether a thread has it now; otherwise it waits for its turn.
    pub fn run(&self, job: Arc<dyn Job>) -> bool {
        let mut state = self.shared.lock();
        if let Some(seat) = state.idle.pop() {
            drop(state);
            seat.give(Given::Job(job));
            return true;
        }
        if state.threads >= self.shared.most {
            self.shared.push(&mut state, job);
            return false;
        }
        state.threads += 1;
        drop(state);
        if let Err(error) = self.shared.spawn(Some(job.clone())) {
            if let Some(left_out) = self.shared.cannot_start.pass() {
                tracing::warn!(
                    "cannot start another {} thread, those that run do its work ({left_out} more of these): {error}",
                    self.shared.name
                );
            }
            let mut state = self.shared.lock();
            state.threads -= 1;
            // One may have come to wait meanwhile.
            match state.idle.pop() {
                Some(seat) => seat.give(Given::Job(job)),
                None => {
                    self.shared.push(&mut state, job);
                    return false;
                }
            }
        }
        true
    }
}

impl Workers {
    /// Whether there is any job that is not done.
    pub fn is_busy(&self) -> bool {
        let state = self.shared.lock();
        !state.jobs.is_empty() || state.idle.len() < state.threads
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.shared.lock();
            state.is_closed = true;
            mem::take(&mut state.idle)
        };
        idle.iter().for_each(|seat| seat.give(Given::End));
    }
}

impl Seat {
    fn give(&self, given: Given) {
        *self.lock() = given;
        self.woken.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, first: Option<Arc<dyn Job>>) -> io::Result<()> {
        let shared = self.clone();
        Builder::new().name(self.name.to_owned()).spawn(move || shared.serve(first)).map(drop)
    }

    fn serve(&self, mut job: Option<Arc<dyn Job>>) {
        let counted = Counted(self);
        IS_WORKER.set(true);
        if self.gives_way {
            give_way_here(Priority::Idle);
        }
        let seat = Arc::new(Seat::default());
        loop {
            if let Some(job) = job.take() {
                if job.run(&|| self.waiting.load(Ordering::Relaxed) > 0) {
                    let mut state = self.lock();
                    self.push(&mut state, job);
                }
            }
            match self.next(&seat) {
                Some(next) => job = Some(next),
                // It is counted no more.
                None => return mem::forget(counted),
            }
        }
    }

    /// The next job for the thread that waits at `seat`; none if that is to end, and is not counted any more.
    fn next(&self, seat: &Arc<Seat>) -> Option<Arc<dyn Job>> {
        {
            let mut state = self.lock();
            if let Some(job) = state.jobs.pop_front() {
                self.waiting.store(state.jobs.len(), Ordering::Relaxed);
                return Some(job);
            }
            if state.is_closed {
                state.threads -= 1;
                return None;
            }
            state.idle.push(seat.clone());
        }
        let mut given = seat.lock();
        loop {
            match mem::take(&mut *given) {
                Given::Job(job) => return Some(job),
                Given::End => {
                    self.lock().threads -= 1;
                    return None;
                }
                Given::Nothing => {}
            }
            let (waited, timeout) = match seat.woken.wait_timeout(given, IDLE_AT_MOST) {
                Ok(waited) => waited,
                Err(poisoned) => poisoned.into_inner(),
            };
            given = waited;
            if timeout.timed_out() && matches!(*given, Given::Nothing) {
                drop(given);
                let mut state = self.lock();
                // If it is not there, somebody is about to give it something.
                let at = state.idle.iter().position(|idle| Arc::ptr_eq(idle, seat));
                if let Some(at) = at.filter(|_| state.threads > 1) {
                    state.idle.remove(at);
                    state.threads -= 1;
                    return None;
                }
                drop(state);
                given = seat.lock();
            }
        }
    }

    fn push(&self, state: &mut State, job: Arc<dyn Job>) {
        state.jobs.push_back(job);
        self.waiting.store(state.jobs.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A thread that a panic ends is counted no more, so that another one can take its place.
struct Counted<'a>(&'a Shared);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
