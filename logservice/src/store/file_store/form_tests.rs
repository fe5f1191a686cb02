//! Frames: that none can be changed, cut, swapped or moved unnoticed; and segments of the form that was written before there were any.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::super::fuzz::{keys, shard_directory, sound_segment};
use super::super::look::Look;
use super::super::segment::{segment_name, Segment};
use super::super::{open, FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use super::*;
use crate::encryption::KeyRing;
use crate::store::{Append, OpenError, Opened, StoreEvents};

#[test]
fn a_payload_has_a_tag_for_each_frame_that_was_begun() {
    let framed = |payload_bytes| (Form::Framed.stored_bytes(payload_bytes) - payload_bytes) / TAG_BYTES;
    assert_eq!([1, FRAME_BYTES, FRAME_BYTES + 1, MAX_RECORD_PAYLOAD_BYTES].map(framed), [1, 1, 2, 16]);
    assert_eq!(Form::Whole.stored_bytes(MAX_RECORD_PAYLOAD_BYTES), MAX_RECORD_PAYLOAD_BYTES + TAG_BYTES);
    assert_eq!(Form::Plain.stored_bytes(5), 5);
}

#[test]
fn the_frames_of_a_record_have_different_nonces() {
    let record = [0xa5; 12];
    let mut nonces: Vec<_> = (0..64).map(|number| frame_nonce(record, number)).collect();
    assert_eq!(nonces[0], record);
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 64);
    assert!(nonces.iter().all(|nonce| nonce[..8] == record[..8]));
}

/// A record of a segment, as somebody changes it who can write to the disk.
struct Forged {
    header: RecordHeader,
    stored: Vec<u8>,
}

/// Two whole frames and a short one.
const LENGTH: usize = 2 * FRAME_BYTES + 100;

/// Opens the first of two records of that length after `forge` has changed it; its checksum is made right.
fn opened(length: usize, forge: impl FnOnce(&mut Forged, &Forged)) -> Result<Vec<u8>, String> {
    let (file, places) = sound_segment(&[length, length], Form::Framed, 2 << 20);
    let directory = shard_directory();
    let path = directory.path().join("log").join(segment_name(0, 0));
    std::fs::write(&path, &file).expect("written");
    let mut segment = Segment::open(&path, false).expect("readable").expect("a header");
    segment.unlock(&keys()).expect("unlocked");
    let record = |number: usize| {
        let bytes = &file[places[number].0..];
        let header = segment.decode_record(bytes).expect("sound");
        let stored = bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.stored_bytes()].to_vec();
        Forged { header, stored }
    };
    let (mut forged, other) = (record(0), record(1));
    forge(&mut forged, &other);
    let Forged { mut header, mut stored } = forged;
    header.payload_crc32c = crc32c::crc32c(&stored);
    segment.open_payload(&header, &mut stored)?;
    stored.truncate(header.payload_bytes as usize);
    Ok(stored)
}

/// The bytes of a frame of a record of that length, and those of its tag.
fn frame(length: usize, number: usize) -> (Range<usize>, Range<usize>) {
    let (from, tag) = (number * FRAME_BYTES, length + number * TAG_BYTES);
    (from..length.min(from + FRAME_BYTES), tag..tag + TAG_BYTES)
}

fn swap_first_two(record: &mut Forged) {
    let length = record.header.payload_bytes as usize;
    record.stored[..2 * FRAME_BYTES].rotate_left(FRAME_BYTES);
    record.stored[length..length + 2 * TAG_BYTES].rotate_left(TAG_BYTES);
}

#[test]
fn frames_that_were_changed_cut_swapped_or_moved_are_refused() {
    let payload: Vec<u8> = (0..LENGTH).map(|at| at as u8).collect();
    assert!(opened(LENGTH, |_, _| {}) == Ok(payload));
    for at in [0, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES, LENGTH - 1, LENGTH, LENGTH + 3 * TAG_BYTES - 1] {
        assert!(opened(LENGTH, |record, _| record.stored[at] ^= 1).is_err(), "byte {at}");
    }
    assert!(opened(LENGTH, |record, _| swap_first_two(record)).is_err(), "swapped");
    let cut = opened(LENGTH, |record, _| {
        let (short, tag) = frame(LENGTH, 2);
        record.stored.drain(tag);
        record.stored.drain(short);
        record.header.payload_bytes = 2 * FRAME_BYTES as u32;
    });
    assert!(cut.is_err(), "cut after a frame");
    for number in 0..3 {
        let moved = opened(LENGTH, |record, other| {
            let (bytes, tag) = frame(LENGTH, number);
            record.stored[bytes.clone()].copy_from_slice(&other.stored[bytes]);
            record.stored[tag.clone()].copy_from_slice(&other.stored[tag]);
        });
        assert!(moved.is_err(), "frame {number} of another record");
    }
    let whole = opened(LENGTH, |record, other| {
        record.stored.clone_from(&other.stored);
        record.header.nonce = other.header.nonce;
    });
    assert!(whole.is_err(), "all of another record");
}

/// Two frames that change places, and a nonce in the header that gives each the one with which it was sealed: only the frame's number in
/// what the tag takes in tells.
#[test]
fn frames_that_change_places_under_their_own_nonces_are_refused() {
    let length = 2 * FRAME_BYTES;
    assert!(opened(length, |_, _| {}).is_ok());
    let swapped = opened(length, |record, _| {
        swap_first_two(record);
        record.header.nonce = record.header.nonce.map(|nonce| frame_nonce(nonce, 1));
    });
    assert!(swapped.is_err());
}

/// Writes a segment of version 3, byte by byte as builds did that knew no frames, with records of those payloads.
fn write_old_segment(path: &Path, keys: &KeyRing, payloads: &[Vec<u8>]) {
    const SALT: u32 = 0x0102_0304;
    let mut fields = [0; 128];
    fields[..8].copy_from_slice(b"VKDURLOG");
    fields[8..12].copy_from_slice(&3_u32.to_le_bytes());
    fields[12..16].copy_from_slice(&SALT.to_le_bytes());
    // Generation 0, from offset 0 on.
    fields[32..40].copy_from_slice(&MIN_SEGMENT_BYTES.to_le_bytes());
    fields[44..46].copy_from_slice(b"s1");
    let checksum = crc32c::crc32c(&fields[..124]);
    fields[124..].copy_from_slice(&checksum.to_le_bytes());
    let (key, envelope) = keys.draw(&[&fields[..32], &fields[40..108]].concat()).expect("drawn").expect("encrypts");
    let mut file = fields.to_vec();
    file.extend(envelope.encode());
    file.resize(SEGMENT_HEADER_BYTES as usize, 0);
    let (mut offset, mut running_checksum) = (0_u64, 0_u32);
    for payload in payloads {
        let nonce = [offset as u8 ^ 0x5a; 12];
        let mut header = [0; 64];
        header[..4].copy_from_slice(&(0x4443_4552 ^ SALT).to_le_bytes());
        header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&1_u64.to_le_bytes());
        header[16..24].copy_from_slice(&offset.to_le_bytes());
        header[24..32].copy_from_slice(&1_700_000_000_000_u64.to_le_bytes());
        let mut stored = payload.clone();
        key.seal(nonce, &header[4..32], &mut stored).expect("sealed");
        header[32..36].copy_from_slice(&crc32c::crc32c(&stored).to_le_bytes());
        running_checksum = crc32c::crc32c(&[&running_checksum.to_le_bytes(), &header[4..36], &[0; 4]].concat());
        header[36..40].copy_from_slice(&running_checksum.to_le_bytes());
        header[40] = 1;
        header[41..53].copy_from_slice(&nonce);
        let checksum = crc32c::crc32c_append(SALT, &header[..60]);
        header[60..].copy_from_slice(&checksum.to_le_bytes());
        file.extend(header);
        file.extend(&stored);
        file.resize(file.len().next_multiple_of(8), 0);
        offset += payload.len() as u64;
    }
    file.resize(MIN_SEGMENT_BYTES as usize, 0);
    std::fs::write(path, file).expect("written");
}

/// Tells how far the log is durable.
struct Durable(std::sync::mpsc::SyncSender<u64>);

impl StoreEvents for Durable {
    fn durable(&self, end: u64) {
        let _ = self.0.send(end);
    }

    fn refused(&self, end: u64, reason: &str) {
        panic!("refused at {end}: {reason}");
    }

    fn failed(&self, reason: &str) {
        panic!("failed: {reason}");
    }

    fn damaged(&self, reason: &str) {
        panic!("damaged: {reason}");
    }
}

fn payload(offset: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((offset as usize + at) * 7 % 251) as u8).collect()
}

/// Opens the log, and appends records of those lengths. Returns its end.
fn append(directory: &Path, keys: &Arc<KeyRing>, lengths: &[usize]) -> u64 {
    let threads = Threads::start().expect("threads");
    let options =
        FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes: None, threads, keys: keys.clone() };
    let (durable, is_durable) = std::sync::mpsc::sync_channel(100);
    let Opened { store, mut end } =
        super::super::open(directory, "s1", &options, Arc::new(Durable(durable))).expect("opens");
    for &bytes in lengths {
        let append = Append { epoch: 1, offset: end, payload: Bytes::from(payload(end, bytes)) };
        store.submit(append).expect("submitted");
        end += bytes as u64;
        while is_durable.recv_timeout(std::time::Duration::from_secs(10)).expect("durable") < end {}
    }
    let mut reader = store.reader(0).expect("a reader");
    while reader.offset() < end {
        let from = reader.offset();
        let read = reader.read(end, 1 << 20).expect("readable");
        assert!(read[..] == payload(from, read.len()), "wrong bytes from {from} on");
    }
    end
}

/// The form of each segment, and of each of its records.
fn forms(directory: &Path) -> Vec<(Form, Vec<Form>)> {
    let found = open::verify(directory, "s1", Some(&keys())).expect("sound").expect("not empty");
    let forms = |segment: &Arc<Segment>| {
        let bytes = std::fs::read(&segment.path).expect("read");
        let (mut at, mut forms) = (SEGMENT_HEADER_BYTES as usize, Vec::new());
        while let Some(record) = bytes.get(at..).and_then(|bytes| segment.decode_record(bytes)) {
            forms.push(record.form);
            at += record.file_bytes();
        }
        (segment.header.form, forms)
    };
    found.segments.iter().map(forms).collect()
}

#[test]
fn a_segment_of_version_3_is_read_and_goes_on_until_it_is_full() {
    let directory = shard_directory();
    let path = directory.path().join("log").join(segment_name(0, 0));
    let old = [100, 70_000, 300_000];
    let mut offset = 0;
    let payloads = old.map(|bytes| {
        let payload = payload(offset, bytes);
        offset += bytes as u64;
        payload
    });
    write_old_segment(&path, &keys(), &payloads);
    let look = Look::open(directory.path(), "s1", &keys()).expect("sound").expect("not empty");
    assert_eq!(look.end, 370_100);
    let mut read = Vec::new();
    look.for_each_record(|record| {
        read.push(record.payload.to_vec());
        true
    })
    .expect("readable");
    assert!(read == payloads);
    // Records of one frame and of several, in the old segment and then, as there is no room, in another.
    let new = [1000, 280_000, 700_000, 1 << 20, 30];
    let end = append(directory.path(), &keys(), &new);
    assert_eq!(end, 370_100 + new.iter().sum::<usize>() as u64);
    let found = forms(directory.path());
    assert_eq!(found[0], (Form::Whole, vec![Form::Whole; 6]));
    assert!(
        found.len() > 1
            && found[1..].iter().all(|(segment, records)| {
                *segment == Form::Framed && records.iter().all(|record| *record == Form::Framed)
            })
    );
    assert_eq!(append(directory.path(), &keys(), &[]), end);
}

/// Or it could be made to be read in another way.
#[test]
fn a_segment_under_another_version_is_locked() {
    let directory = shard_directory();
    let path = directory.path().join("log").join(segment_name(0, 0));
    for (form, other) in [(Form::Whole, Form::Framed), (Form::Framed, Form::Whole)] {
        let (mut file, _) = sound_segment(&[100], form, 16 << 10);
        let header = SegmentHeader { form: other, ..SegmentHeader::decode(&file).expect("sound") };
        let forged = header.encode();
        file[..forged.len()].copy_from_slice(&forged);
        std::fs::write(&path, file).expect("written");
        let refused = Look::open(directory.path(), "s1", &keys()).map(|_| ()).expect_err("refused");
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    }
}
