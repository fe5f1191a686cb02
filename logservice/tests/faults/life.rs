//! A life of a shard in which every step of the store happens, and what was promised in it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fail::FailGuard;
use logservice::store::file_store::files::Step;
use logservice::store::file_store::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::{Append, Leader, Manifest};

use crate::common::pattern;
use crate::harness::{overwrite, read_at, segments, Log};

const MIB: usize = 1 << 20;

/// What a restart must find.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promised {
    /// Everything below was acknowledged.
    pub durable: u64,
    /// The log begins here at most.
    pub base: u64,
    /// The log is being begun anew there, so that either is right.
    pub maybe_restarted_at: Option<u64>,
}

/// One life, which ends with the first error that somebody is told of.
#[derive(Default)]
pub struct Life {
    pub promised: Arc<Mutex<Promised>>,
    /// Whether spares stop being made after the first, so that the writer makes segments itself.
    pub spare_is_held: bool,
}

impl Life {
    fn note(&self, change: impl FnOnce(&mut Promised)) {
        change(&mut self.promised.lock().expect("lock"));
    }

    /// Lives in `directory`, which is empty. The error is the text that was given.
    pub fn live(&self, directory: &Path) -> Result<(), String> {
        let mut log = self.open(directory)?;
        // Which has a spare made: the first append waits for it.
        replace(&log, |manifest| {
            manifest.leader =
                Some(Leader { node_id: "n1".into(), address: "host:1".into(), lease_ms: 0, process: None });
        })?;
        self.append(&mut log, 100)?;
        let hold = || FailGuard::new(Step::SpareCreate.name(), "pause").expect("configured");
        let held = self.spare_is_held.then(hold);
        for _ in 0..6 {
            self.append(&mut log, MIB)?;
        }
        let base = 5 * MIB as u64;
        replace(&log, |manifest| manifest.base = base)?;
        self.note(|promised| promised.base = base);
        log.store.trim(base).map_err(|error| error.to_string())?;
        for _ in 0..3 {
            self.append(&mut log, MIB)?;
        }
        drop(held);
        let end = log.end;
        drop(log);
        leave_what_a_crash_leaves(directory, end);

        let mut log = self.open(directory)?;
        self.append(&mut log, 50)?;
        let restarted_at = log.end + 1000;
        self.note(|promised| promised.maybe_restarted_at = Some(restarted_at));
        let mut manifest = log.store.manifest().next();
        manifest.base = restarted_at;
        log.store.restart(manifest).map_err(|error| error.to_string())?;
        log.end = restarted_at;
        self.note(|promised| {
            *promised = Promised { durable: restarted_at, base: restarted_at, maybe_restarted_at: None };
        });
        self.append(&mut log, 77)
    }

    fn open(&self, directory: &Path) -> Result<Log, String> {
        Log::open(directory).map_err(|error| error.to_string())
    }

    fn append(&self, log: &mut Log, bytes: usize) -> Result<(), String> {
        let (offset, end) = (log.end, log.end + bytes as u64);
        let append = Append { epoch: 1, offset, payload: Bytes::from(pattern(offset, bytes)) };
        log.store.submit(append).map_err(|error| error.to_string())?;
        let seen = log.events.wait(|seen| seen.durable >= end || seen.refused.is_some() || seen.failed.is_some());
        self.note(|promised| promised.durable = seen.durable);
        if seen.durable >= end {
            log.end = end;
            return Ok(());
        }
        Err(seen.failed.or(seen.refusal).expect("a reason"))
    }
}

fn replace(log: &Log, change: impl FnOnce(&mut Manifest)) -> Result<(), String> {
    let mut manifest = log.store.manifest().next();
    change(&mut manifest);
    log.store.replace_manifest(manifest).map_err(|error| error.to_string())
}

/// A torn record at the end, and files that never became segments.
fn leave_what_a_crash_leaves(directory: &Path, end: u64) {
    let path = segments(directory).pop().expect("a segment");
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let (mut position, mut running_checksum) = (SEGMENT_HEADER_BYTES, header.running_checksum);
    while let Some(record) = RecordHeader::decode(&read_at(&path, position, RECORD_HEADER_BYTES), header.salt) {
        position += record.file_bytes() as u64;
        running_checksum = record.running_checksum;
    }
    // The payload never came.
    let (form, nonce) = (header.form, header.envelope.is_some().then_some([7; 12]));
    let torn = RecordHeader { form, nonce, ..RecordHeader::following(running_checksum, 1000, 1, end, 0, 1) };
    overwrite(&path, position, &torn.encode(header.salt));
    fs::write(directory.join("log/unnamed"), b"x").expect("written");
}

/// Opens what was left, and compares it with what was promised.
pub fn assert_kept(directory: &Path, promised: &Promised, what: &str) {
    let mut log = Log::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    let base = log.store.manifest().base;
    if promised.maybe_restarted_at == Some(base) {
        assert_eq!(log.end, base, "{what}");
    } else {
        assert!(base <= promised.base.max(5 * MIB as u64), "{what}: base {base}");
        assert!(log.end >= promised.durable, "{what}: the log ends at {}, {promised:?}", log.end);
    }
    log.assert_holds_pattern(base);
    assert_eq!(log.verdict(), Ok(()), "{what}");
    // It goes on, and what goes on is kept as well.
    log.append(10);
    let end = log.end;
    drop(log);
    let log = Log::open(directory).unwrap_or_else(|error| panic!("{what}, second time: {error}"));
    assert_eq!(log.end, end, "{what}");
    log.assert_holds_pattern(base);
    assert_eq!(log.verdict(), Ok(()), "{what}, second time");
}
