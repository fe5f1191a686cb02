//! A store whose events are recorded.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Subject;
use crate::store::{Append, Manifest, OpenError, Opened, ReadError, Store, StoreEvents, SubmitError};

/// The shard of most cases.
pub const SHARD: &str = "s1";
/// A mebibyte: the largest append.
pub const MIB: usize = 1 << 20;
/// How often a subject that is waited for is asked for its patience.
const LOOK_EVERY: Duration = Duration::from_millis(200);

thread_local! {
    static IS_SUBMITTING: Cell<bool> = const { Cell::new(false) };
}

/// Records what a store reports, and panics if it may not report that.
#[derive(Default)]
pub struct Recorder {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What a store has reported.
#[derive(Default, Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Each end that was reported as durable.
    pub durable: Vec<u64>,
    /// Each refusal's end.
    pub refused: Vec<u64>,
    pub failed: Option<String>,
    pub damaged: Option<String>,
    /// Rules that were broken; a panic in the store's thread would not reach the test.
    pub broken: Vec<String>,
}

impl Recorder {
    fn note(&self, what: &str, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.lock();
        if IS_SUBMITTING.get() {
            seen.broken.push(format!("{what} from within submit"));
        }
        change(&mut seen);
        self.changed.notify_all();
    }

    pub fn seen(&self) -> Seen {
        let seen = self.lock().clone();
        assert!(seen.broken.is_empty(), "{:?}", seen.broken);
        seen
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl StoreEvents for Recorder {
    fn durable(&self, end: u64) {
        self.note("durable", |seen| {
            if seen.durable.last().is_some_and(|last| end <= *last) {
                seen.broken.push(format!("durable up to {end} after {:?}", seen.durable));
            }
            if seen.failed.is_some() {
                seen.broken.push(format!("durable up to {end} after a failure"));
            }
            seen.durable.push(end);
        });
    }

    fn refused(&self, end: u64, _reason: &str) {
        self.note("refused", |seen| seen.refused.push(end));
    }

    fn failed(&self, reason: &str) {
        self.note("failed", |seen| seen.failed = Some(reason.to_owned()));
    }

    fn damaged(&self, reason: &str) {
        self.note("damaged", |seen| {
            if seen.damaged.is_some() {
                seen.broken.push("damaged twice".to_owned());
            }
            seen.damaged = Some(reason.to_owned());
        });
    }
}

/// An open store.
pub struct Log {
    pub shard: String,
    pub store: Arc<dyn Store>,
    pub events: Arc<Recorder>,
    /// The end of what was submitted (exclusive).
    pub end: u64,
}

impl Log {
    pub fn try_open(subject: &(impl Subject + ?Sized), shard: &str) -> Result<Self, OpenError> {
        let events = Arc::new(Recorder::default());
        let Opened { store, end } = subject.stores().open(shard, events.clone())?;
        Ok(Log { shard: shard.to_owned(), store, events, end })
    }

    pub fn open(subject: &(impl Subject + ?Sized)) -> Self {
        Self::try_open(subject, SHARD).expect("opens")
    }

    /// Submits so many bytes. A store may refuse them for want of space at once, or later.
    pub fn submit(&mut self, bytes: usize) {
        let end = self.end;
        match self.try_submit(1, end, bytes) {
            Err(SubmitError::NoSpace(reason)) => self.events.refused(end, &reason),
            submitted => submitted.expect("submitted"),
        }
        self.end += bytes as u64;
    }

    pub fn try_submit(&self, epoch: u64, offset: u64, bytes: usize) -> Result<(), SubmitError> {
        IS_SUBMITTING.set(true);
        let submitted = self.store.submit(Append { epoch, offset, payload: Bytes::from(pattern(offset, bytes)) });
        IS_SUBMITTING.set(false);
        submitted
    }

    /// Waits until the store has reported that.
    pub fn wait(&self, subject: &(impl Subject + ?Sized), until: impl Fn(&Seen) -> bool) -> Seen {
        subject.run(&self.shard);
        let (since, mut seen) = (Instant::now(), self.events.lock());
        while !until(&seen) {
            assert!(since.elapsed() < subject.patience(), "still {seen:?}");
            let waited = self.events.changed.wait_timeout_while(seen, LOOK_EVERY, |seen| !until(seen));
            seen = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        drop(seen);
        self.events.seen()
    }

    /// Waits until everything that was submitted is durable.
    pub fn settle(&self, subject: &(impl Subject + ?Sized)) -> Seen {
        let end = self.end;
        self.wait(subject, |seen| seen.durable.last() == Some(&end))
    }

    /// Appends so many bytes and waits for them.
    pub fn append(&mut self, subject: &(impl Subject + ?Sized), bytes: usize) {
        self.submit(bytes);
        self.settle(subject);
    }

    /// The bytes from `from` up to `to` (exclusive).
    pub fn read(&self, from: u64, to: u64, at_a_time: usize) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        if from < to {
            let mut reader = self.store.reader(from)?;
            while reader.offset() < to {
                out.extend_from_slice(&reader.read(to, at_a_time)?);
            }
        }
        Ok(out)
    }

    pub fn assert_holds_pattern(&self, from: u64) {
        let read = self.read(from, self.end, 100_000).expect("readable");
        assert!(read == pattern(from, (self.end - from) as usize), "the log differs from {from} to {}", self.end);
    }

    /// Moves the base to `base`.
    pub fn set_base(&self, base: u64) {
        let mut next = self.store.manifest().next();
        next.base = base;
        self.store.replace_manifest(next).expect("replaced");
    }

    /// Starts the log anew at `base`.
    pub fn restart(&mut self, base: u64) -> Manifest {
        let mut next = self.store.manifest().next();
        next.base = base;
        self.store.restart(next).expect("restarted");
        self.end = base;
        self.store.manifest()
    }

    /// Waits until the store has verified all that it found, or has found damage.
    pub fn wait_verified(&self, subject: &(impl Subject + ?Sized)) -> Seen {
        let deadline = Instant::now() + subject.patience();
        while self.store.usage().unverified_bytes > 0 && self.events.seen().damaged.is_none() {
            assert!(Instant::now() < deadline, "not verified: {:?}", self.store.usage());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.events.seen()
    }
}

/// Bytes that differ from place to place: `bytes` bytes of log from `offset` on.
pub fn pattern(offset: u64, bytes: usize) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
    (offset..offset + bytes as u64).map(byte).collect()
}
