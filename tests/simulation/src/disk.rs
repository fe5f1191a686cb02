//! What survives a crash: a manifest, and a log whose last record may be torn. Beside it the truth is kept, which no crash touches: all
//! bytes that were ever durable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use logservice::store::{Append, Manifest};

use crate::draw::Draw;

/// Length and checksum of a record.
const HEADER_BYTES: usize = 8;

/// A disk that many lives of the service use one after the other.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Contents>>);

/// How the disk misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// There is no space for anything.
    pub is_full: bool,
    /// A thousandth part of writes and syncs fails.
    pub failing: u32,
    /// A thousandth part of the manifest's replacements finds no space.
    pub manifest_no_space: u32,
    /// A thousandth part of the manifest's replacements fails, and it is not known which one is found.
    pub manifest_unknown: u32,
    /// A thousandth part of appends is told to come again.
    pub busy: u32,
}

/// What is on it.
pub struct Contents {
    /// Decides over faults and torn writes.
    pub draw: Draw,
    /// How it misbehaves.
    pub faults: Faults,
    /// The manifest as its text is read; none before the first service.
    manifest: Option<Manifest>,
    /// Where the log begins.
    pub base: u64,
    /// The log's durable bytes from there on.
    pub log: Vec<u8>,
    /// A record that is being written.
    unsynced: Vec<u8>,
    /// A manifest with which the log begins anew, if the next life finds it.
    pub restarts_with: Option<Manifest>,
    /// The truth: all bytes from offset 0 to the durable end.
    pub history: Vec<u8>,
    /// The truth: what was stored as a snapshot of that name.
    pub stored: BTreeMap<String, Bytes>,
    /// What the store was asked to do and must never be.
    pub violations: Vec<String>,
    /// How many records were torn, and how many whole ones were found that nobody had waited for.
    pub torn: [u64; 2],
}

impl Disk {
    /// An empty disk.
    pub fn new(draw: Draw) -> Self {
        Disk(Arc::new(Mutex::new(Contents {
            draw,
            faults: Faults::default(),
            manifest: None,
            base: 0,
            log: Vec::new(),
            unsynced: Vec::new(),
            restarts_with: None,
            history: Vec::new(),
            stored: BTreeMap::new(),
            violations: Vec::new(),
            torn: [0; 2],
        })))
    }

    /// What is on it. Held for an instant.
    pub fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Contents {
    /// The durable end (exclusive).
    pub fn end(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// The manifest that a restart would find.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The newest epoch that a restart would find.
    pub fn newest_epoch(&self) -> u64 {
        self.manifest().and_then(|manifest| manifest.epochs.last()).map_or(0, |entry| entry.epoch)
    }

    /// `next` takes the place of the manifest. `restarts` if the log begins anew with it.
    pub fn put_manifest(&mut self, next: &Manifest, restarts: bool) {
        let before = self.newest_epoch();
        let text = serde_json::to_vec(next).unwrap_or_default();
        match Manifest::parse(&text) {
            Ok(read) => self.manifest = Some(read),
            Err(error) => self.violation(format!("a manifest was stored that cannot be read: {error}")),
        }
        if self.newest_epoch() < before {
            self.violation(format!("epoch {} was stored after epoch {before}", self.newest_epoch()));
        }
        if !restarts {
            return;
        }
        (self.base, self.log, self.unsynced) = (next.base, Vec::new(), Vec::new());
        match next.snapshots.last().and_then(|record| self.stored.get(&record.file)) {
            Some(seed) => self.history = seed.to_vec(),
            None => self.violation("the log was begun anew from a snapshot that was never stored".to_owned()),
        }
    }

    /// Begins to write appends as one record.
    pub fn write(&mut self, batch: &[Append]) {
        let payload: Vec<u8> = batch.iter().flat_map(|append| append.payload.iter().copied()).collect();
        self.unsynced = (payload.len() as u32).to_le_bytes().to_vec();
        self.unsynced.extend(crc32c::crc32c(&payload).to_le_bytes());
        self.unsynced.extend(payload);
    }

    /// What was being written is durable.
    pub fn sync(&mut self) {
        let record = std::mem::take(&mut self.unsynced);
        self.take(&record);
    }

    /// The machine stops: what was being written is there in whole, in part, or not at all. What is torn is cut off.
    pub fn crash(&mut self) {
        if let Some(manifest) = self.restarts_with.take() {
            self.put_manifest(&manifest, true);
        }
        let mut record = std::mem::take(&mut self.unsynced);
        if record.is_empty() {
            return;
        }
        match self.draw.below(4) {
            0 => record.clear(),
            1 => record.truncate(self.draw.below(record.len())),
            2 => {
                let from = self.draw.below(record.len());
                record[from..].fill(0);
            }
            _ => {}
        }
        let is_whole = self.take(&record);
        self.torn[usize::from(is_whole)] += 1;
    }

    /// Takes a record if it is whole.
    fn take(&mut self, record: &[u8]) -> bool {
        let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else { return false };
        let [length, checksum] =
            [0, 4].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        if payload.len() != length as usize || payload.is_empty() || crc32c::crc32c(payload) != checksum {
            return false;
        }
        self.log.extend_from_slice(payload);
        self.history.extend_from_slice(payload);
        true
    }

    /// Drops log below `offset`.
    pub fn drop_below(&mut self, offset: u64) {
        let dropped = offset.saturating_sub(self.base).min(self.log.len() as u64);
        self.log.drain(..dropped as usize);
        self.base += dropped;
    }

    /// Notes that something happened that must not.
    pub fn violation(&mut self, text: String) {
        self.violations.push(text);
    }
}
