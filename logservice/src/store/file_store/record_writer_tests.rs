//! In which order, and where, a record is written.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::super::form::FRAME_BYTES;
use super::super::format::SEGMENT_HEADER_BYTES;
use super::super::fuzz::{directory, keys, sound_segment};
use super::super::scan::{scan_segment, Tail};
use super::super::watch::{watched, Deed, Watcher};
use super::*;

/// Position and length of each write; no length for a sync.
#[derive(Default)]
struct Writes(Mutex<Vec<(u64, Option<u64>)>>);

impl Watcher for Writes {
    fn instead(&self, step: Step, deed: &Deed<'_>) -> Option<std::io::Result<()>> {
        let noted = match (step, deed) {
            (Step::RecordWrite, Deed::Write(_, position, bytes)) => (*position, Some(bytes.len() as u64)),
            (Step::RecordSync, Deed::Sync(_)) => (0, None),
            _ => panic!("{step:?}"),
        };
        self.0.lock().expect("lock").push(noted);
        None
    }

    fn created(&self, path: &Path, _file: &File) {
        panic!("{}", path.display());
    }
}

/// Writes appends of those lengths as the first record of a segment, and returns how.
fn writes(form: Form, appends: &[usize]) -> Vec<(u64, Option<u64>)> {
    let directory = directory();
    let path = directory.path().join("segment");
    std::fs::write(&path, sound_segment(&[], form, 2 << 20).0).expect("written");
    let mut segment = Segment::open(&path, true).expect("readable").expect("a header");
    segment.unlock(&keys()).expect("unlocked");
    let mut offset = 0;
    let mut append = |bytes: &usize| {
        let append = Append { epoch: 1, offset, payload: Bytes::from(vec![7; *bytes]) };
        offset += *bytes as u64;
        append
    };
    let batch: Vec<_> = appends.iter().map(&mut append).collect();
    let header = RecordHeader::following(0, offset as u32, 1, 0, 5, 0);
    let seen = Arc::new(Writes::default());
    let written = watched(seen.clone(), || write(&segment, SEGMENT_HEADER_BYTES, &batch, header, 0)).expect("written");
    let scanned = scan_segment(&segment, &mut || Ok(())).expect("readable");
    assert_eq!((scanned.tail, scanned.end.offset), (Tail::Clean, offset));
    assert_eq!(scanned.end.running_checksum, written.running_checksum);
    let writes = std::mem::take(&mut *seen.0.lock().expect("lock"));
    assert_eq!(writes.last(), Some(&(0, None)), "the sync is not the last");
    writes[..writes.len() - 1].to_vec()
}

#[test]
fn a_record_without_frames_or_of_one_frame_is_one_write() {
    let stored = |form: Form, bytes: usize| Some((RECORD_HEADER_BYTES + form.stored_bytes(bytes)) as u64);
    for form in [Form::Plain, Form::Whole] {
        let bytes = 3 * FRAME_BYTES;
        assert_eq!(writes(form, &[10, bytes - 10]), [(SEGMENT_HEADER_BYTES, stored(form, bytes))]);
    }
    let whole = [(SEGMENT_HEADER_BYTES, stored(Form::Framed, FRAME_BYTES))];
    assert_eq!(writes(Form::Framed, &[FRAME_BYTES - 1, 1]), whole);
}

#[test]
fn the_header_of_a_record_of_several_frames_is_written_last_and_pages_are_written_whole() {
    for appends in [&[2 * FRAME_BYTES + 1000][..], &[100, FRAME_BYTES, 5000, FRAME_BYTES]] {
        let bytes: usize = appends.iter().sum();
        let writes = writes(Form::Framed, appends);
        assert_eq!(writes.len(), 4, "{writes:?}");
        assert_eq!(writes[3], (SEGMENT_HEADER_BYTES, Some(RECORD_HEADER_BYTES as u64)));
        let mut at = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES as u64;
        for (number, (position, length)) in writes[..3].iter().enumerate() {
            assert_eq!(*position, at);
            assert!(number == 0 || at.is_multiple_of(PAGE_BYTES), "{writes:?}");
            at += length.expect("a write");
        }
        let stored = Form::Framed.stored_bytes(bytes) as u64;
        assert_eq!(at, SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES as u64 + stored);
    }
}
