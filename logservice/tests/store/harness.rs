//! A store whose reports are remembered, and what tests do to its files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use logservice::encryption::KeyRing;
use logservice::store::file_store::form::Form;
use logservice::store::file_store::format::{self, SegmentHeader, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::{self, FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use logservice::store::{Append, OpenError, Opened, ReadError, Store, StoreEvents};

use crate::common::pattern;

/// Remembers what the store reported.
#[derive(Default)]
pub struct Events {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default, Clone, Debug)]
pub struct Seen {
    pub durable: u64,
    pub refused: Option<u64>,
    pub refusal: Option<String>,
    pub failed: Option<String>,
    pub damaged: Option<String>,
}

impl Events {
    pub fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("lock"));
        self.changed.notify_all();
    }

    pub fn wait(&self, until: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.seen.lock().expect("lock");
        let waited = self.changed.wait_timeout_while(seen, Duration::from_secs(10), |seen| !until(seen));
        let (seen, timeout) = waited.expect("lock");
        assert!(!timeout.timed_out(), "still {seen:?}");
        seen.clone()
    }
}

impl StoreEvents for Events {
    fn durable(&self, end: u64) {
        self.note(|seen| seen.durable = end);
    }

    fn refused(&self, end: u64, reason: &str) {
        self.note(|seen| (seen.refused, seen.refusal) = (Some(end), Some(reason.to_owned())));
    }

    fn failed(&self, reason: &str) {
        self.note(|seen| seen.failed = Some(reason.to_owned()));
    }

    fn damaged(&self, reason: &str) {
        self.note(|seen| seen.damaged = Some(reason.to_owned()));
    }
}

pub struct Log {
    pub store: Arc<dyn Store>,
    /// Which are its alone, unless it was opened on those of another.
    #[allow(dead_code)] // Not for the tests without failpoints.
    pub threads: Arc<Threads>,
    pub events: Arc<Events>,
    pub end: u64,
}

impl Log {
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, MIN_SEGMENT_BYTES)
    }

    pub fn open_with(directory: &Path, segment_bytes: u64) -> Result<Self, OpenError> {
        Self::open_on(directory, segment_bytes, Threads::start().expect("threads"))
    }

    /// Whose work `threads` do.
    pub fn open_on(directory: &Path, segment_bytes: u64, threads: Arc<Threads>) -> Result<Self, OpenError> {
        Self::open_encrypted(directory, segment_bytes, threads, crate::keys())
    }

    /// Encrypted with those keys.
    pub fn open_encrypted(
        directory: &Path,
        segment_bytes: u64,
        threads: Arc<Threads>,
        keys: Arc<KeyRing>,
    ) -> Result<Self, OpenError> {
        Self::open_bounded(directory, FileStoreOptions { segment_bytes, max_log_bytes: None, threads, keys })
    }

    /// Which may take no more than it may.
    pub fn open_bounded(directory: &Path, options: FileStoreOptions) -> Result<Self, OpenError> {
        let events = Arc::new(Events::default());
        let threads = options.threads.clone();
        let Opened { store, end } = file_store::open(directory, "s1", &options, events.clone())?;
        events.note(|seen| seen.durable = end);
        Ok(Log { store, threads, events, end })
    }

    pub fn submit(&mut self, bytes: usize) {
        self.submit_bytes(pattern(self.end, bytes));
    }

    fn submit_bytes(&mut self, bytes: Vec<u8>) {
        let length = bytes.len() as u64;
        let append = Append { epoch: 1, offset: self.end, payload: Bytes::from(bytes) };
        self.store.submit(append).expect("submitted");
        self.end += length;
    }

    /// Appends these bytes as one record and waits for it.
    pub fn append_bytes(&mut self, bytes: &[u8]) {
        self.submit_bytes(bytes.to_vec());
        let end = self.end;
        self.events.wait(|seen| seen.durable >= end);
    }

    /// Appends one record and waits for it.
    pub fn append(&mut self, bytes: usize) {
        self.submit(bytes);
        let end = self.end;
        self.events.wait(|seen| seen.durable >= end);
    }

    /// Waits until everything is verified that was there when the log was opened. The error is the damage that was found.
    pub fn verdict(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut seen = self.events.seen.lock().expect("lock");
        loop {
            if let Some(damage) = &seen.damaged {
                return Err(damage.clone());
            }
            if self.store.usage().unverified_bytes == 0 {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "no verdict");
            // It is told of damage only.
            seen = self.events.changed.wait_timeout(seen, Duration::from_millis(1)).expect("lock").0;
        }
    }

    pub fn read_all(&self, from: u64) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        if from < self.end {
            let mut reader = self.store.reader(from)?;
            while reader.offset() < self.end {
                out.extend_from_slice(&reader.read(self.end, 100_000)?);
            }
        }
        Ok(out)
    }

    pub fn assert_holds_pattern(&self, from: u64) {
        let all = self.read_all(from).expect("readable");
        assert!(all == pattern(from, (self.end - from) as usize), "the log differs from {from} to {}", self.end);
    }
}

/// A byte of a segment file, as the store's errors name it.
pub fn place(path: &Path, position: u64) -> String {
    format!("{} at byte {position}", path.display())
}

/// Drops the log below `base`.
pub fn trim(log: &Log, base: u64) {
    let mut manifest = log.store.manifest().next();
    manifest.base = base;
    log.store.replace_manifest(manifest).expect("replaced");
    log.store.trim(base).expect("trimmed");
}

pub fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("log")).expect("listed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Makes a segment shorter, and says so in its header: a small one is quickly verified.
pub fn shrink(path: &Path, file_bytes: u64) {
    let mut header = SegmentHeader::decode(&read_at(path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    header.file_bytes = file_bytes;
    overwrite(path, 0, &header.encode());
    OpenOptions::new().write(true).open(path).expect("opened").set_len(file_bytes).expect("shortened");
}

/// Bytes of a payload of that length as it is stored.
pub fn stored_bytes(payload_bytes: usize) -> usize {
    let form = if crate::keys().has_keys() { Form::Framed } else { Form::Plain };
    form.stored_bytes(payload_bytes)
}

/// Bytes that a record takes in the file whose payload has that length.
pub fn record_bytes(payload_bytes: usize) -> usize {
    format::record_bytes(stored_bytes(payload_bytes))
}

pub fn overwrite(path: &Path, position: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all_at(bytes, position).expect("written");
}

pub fn read_at(path: &Path, position: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    fs::File::open(path).expect("opened").read_exact_at(&mut out, position).expect("read");
    out
}
