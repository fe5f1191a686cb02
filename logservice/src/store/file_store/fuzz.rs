//! Any bytes on the disk: headers, a segment, a shard's directory.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{
    stored_bytes, RecordHeader, SegmentHeader, MAX_RECORD_PAYLOAD_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES,
};
use super::look::Look;
use super::reader::FileReader;
use super::scan::{scan_segment, Tail};
use super::segment::{segment_name, Segment};
use super::segments::Segments;
use crate::encryption::{KeyRing, NONCE_BYTES};
use crate::store::{LogReader, Manifest};

/// Files of the length of a few records.
const FILE_BYTES: usize = 16 << 10;
const SALT: u32 = 7;

/// Where the records of a segment lie: position in the file, offset in the log, length.
type Places = Vec<(usize, u64, usize)>;

/// A directory in memory, as what is fuzzed is not the disk.
pub(super) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let directory = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    directory.expect("tempdir")
}

fn header(file_bytes: u64) -> SegmentHeader {
    let shard = "s1".to_owned();
    SegmentHeader { shard, generation: 0, first_offset: 0, running_checksum: 0, salt: SALT, file_bytes, envelope: None }
}

pub(super) fn keys() -> Arc<KeyRing> {
    KeyRing::of_text(&format!("k1 01{}", "23".repeat(31))).expect("parses")
}

/// A sound segment with records of those lengths, as many as fit; encrypted, if there are keys.
fn sound_segment(lengths: &[u16], keys: &KeyRing) -> (Vec<u8>, Places) {
    let plain = header(FILE_BYTES as u64);
    let (key, envelope) = keys.draw(&plain.context()).expect("drawn").unzip();
    let mut file = SegmentHeader { envelope, ..plain }.encode();
    file.resize(FILE_BYTES, 0);
    let (mut at, mut offset, mut running_checksum, mut places) = (SEGMENT_HEADER_BYTES as usize, 0_u64, 0, Vec::new());
    for length in lengths {
        let length = usize::from(*length % 3000) + 1;
        let mut payload: Vec<u8> = (0..length).map(|byte| (offset as usize + byte) as u8).collect();
        let mut record = RecordHeader::following(running_checksum, length as u32, 1, offset, 5, 0);
        if let Some(key) = &key {
            let nonce = [at as u8; NONCE_BYTES];
            key.seal(nonce, &record.context(), &mut payload).expect("sealed");
            record.nonce = Some(nonce);
        }
        if at + record.file_bytes() > FILE_BYTES {
            break;
        }
        record.payload_crc32c = crc32c::crc32c(&payload);
        record.running_checksum = record.checksum_after(running_checksum);
        file[at..at + RECORD_HEADER_BYTES].copy_from_slice(&record.encode(SALT));
        file[at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        places.push((at, offset, length));
        running_checksum = record.running_checksum;
        offset += length as u64;
        at += record.file_bytes();
    }
    (file, places)
}

fn segment_path(directory: &Path) -> PathBuf {
    directory.join("log").join(segment_name(0, 0))
}

#[test]
fn any_bytes_are_a_header_that_survives_encoding_or_none() {
    bolero::check!().with_type::<(Vec<u8>, u32)>().for_each(|(bytes, salt)| {
        allocation::within(8192, || {
            if let Ok(header) = SegmentHeader::decode(bytes) {
                assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
            }
            if let Some(header) = RecordHeader::decode(bytes, *salt) {
                assert!((1..=MAX_RECORD_PAYLOAD_BYTES).contains(&(header.payload_bytes as usize)));
                assert_eq!(RecordHeader::decode(&header.encode(*salt), *salt), Some(header));
            }
        });
    });
}

#[test]
fn any_fields_with_a_sound_checksum_are_read_as_they_were_written() {
    bolero::check!().with_type::<(u32, u64, u64, u64, u32, u32)>().for_each(|fields| {
        let (payload_bytes, epoch, offset, time_ms, crc32c, salt) = *fields;
        let header = RecordHeader::following(1, payload_bytes, epoch, offset, time_ms, crc32c);
        let decoded = RecordHeader::decode(&header.encode(salt), salt);
        let may_be = (1..=MAX_RECORD_PAYLOAD_BYTES).contains(&(payload_bytes as usize));
        assert_eq!(decoded, may_be.then_some(header));
        assert!(header.end() >= offset);
    });
}

#[test]
fn a_segment_is_read_up_to_the_first_byte_that_was_changed_and_never_wrongly() {
    let directory = directory();
    std::fs::create_dir_all(directory.path().join("log")).expect("made");
    let manifest = serde_json::to_vec(&Manifest::new("s1", "a".repeat(40), "b".repeat(16))).expect("serialises");
    std::fs::write(directory.path().join("MANIFEST"), manifest).expect("written");
    let (plain, encrypted) = (Arc::default(), keys());
    bolero::check!().with_type::<(bool, Vec<u16>, Vec<(u16, u8)>, u16)>().for_each(
        |(is_plain, lengths, changes, cut)| {
            let keys = if *is_plain { &plain } else { &encrypted };
            let (mut file, places) = sound_segment(lengths, keys);
            let sound = file.clone();
            for (at, byte) in changes {
                file[usize::from(*at) % FILE_BYTES] = *byte;
            }
            // Mostly the whole file.
            file.truncate(FILE_BYTES.saturating_sub(usize::from(*cut).saturating_sub(50_000)));
            let is_same = |&(at, _, length): &(usize, u64, usize)| {
                let record = at..at + RECORD_HEADER_BYTES + stored_bytes(length, !is_plain);
                file.get(record.clone()) == Some(&sound[record])
            };
            let sound_records = places.iter().take_while(|place| is_same(place)).count();
            let end = places[..sound_records].last().map_or(0, |(_, offset, length)| offset + *length as u64);
            std::fs::write(segment_path(directory.path()), &file).expect("written");
            allocation::within(4 << 20, || read_back(directory.path(), end, &places, keys));
        },
    );
}

/// Reads the log in every way; its sound records end at `end`.
fn read_back(directory: &Path, end: u64, places: &Places, keys: &KeyRing) {
    let Ok(mut segment) = Segment::open(&segment_path(directory), false).expect("readable") else { return };
    if segment.header.first_offset != 0 || segment.header.salt != SALT || segment.header.running_checksum != 0 {
        return;
    }
    if segment.unlock(keys).is_err() {
        assert!(Look::open(directory, "s1", keys).is_err());
        return;
    }
    let scanned = scan_segment(&segment, &mut || Ok(())).expect("readable");
    assert_eq!(scanned.end.offset, end);
    assert!(scanned.end.position <= segment.file_bytes.max(SEGMENT_HEADER_BYTES));
    if let Tail::Torn { bytes } = scanned.tail {
        assert!(bytes > 0 && scanned.end.position + bytes <= segment.file_bytes);
    }
    let mut bytes = 0;
    if let Ok(Some(look)) = Look::open(directory, "s1", keys) {
        let dumped = look.for_each_record(|record| {
            assert_eq!(record.offset, bytes);
            bytes += record.payload.len() as u64;
            true
        });
        assert!(dumped.is_err() || bytes == end, "{bytes} bytes of {end} were dumped");
    }
    let segments = Arc::new(Segments::new(vec![Arc::new(segment)]));
    // Beyond the sound records as well, where a reader finds damage and says so.
    let limit = places.last().map_or(0, |(_, offset, length)| offset + *length as u64);
    let Ok(mut reader) = FileReader::new(segments, 0) else { return };
    while reader.offset() < limit {
        let from = reader.offset();
        let Ok(chunk) = reader.read(limit, 1000) else {
            assert!(from >= end, "what is sound cannot be read at {from}");
            return;
        };
        assert!(!chunk.is_empty());
        let expected: Vec<u8> = places
            .iter()
            .flat_map(|(_, offset, length)| (0..*length).map(move |at| (*offset as usize + at) as u8))
            .collect();
        assert!(chunk[..] == expected[from as usize..reader.offset() as usize], "wrong bytes at {from}");
    }
}

#[test]
fn any_bytes_are_a_segment_that_ends_somewhere() {
    let directory = directory();
    let path = directory.path().join("segment");
    bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
        let mut file = header(SEGMENT_HEADER_BYTES + bytes.len() as u64).encode();
        file.resize(SEGMENT_HEADER_BYTES as usize, 0);
        file.extend_from_slice(bytes);
        std::fs::write(&path, &file).expect("written");
        let segment = Segment::open(&path, false).expect("readable").expect("a header");
        let scanned = allocation::within(4 << 20, || scan_segment(&segment, &mut || Ok(())).expect("readable"));
        assert!(scanned.end.position <= segment.file_bytes);
        let mut first = [0; 4];
        let _ = segment.file.read_at(&mut first, SEGMENT_HEADER_BYTES);
        assert!(scanned.end.offset > 0 || scanned.end.position == SEGMENT_HEADER_BYTES);
    });
}

#[test]
fn what_is_sound_before_damage_can_be_read() {
    let directory = directory();
    std::fs::create_dir_all(directory.path().join("log")).expect("made");
    for keys in [Arc::default(), keys()] {
        let (mut file, places) = sound_segment(&[99, 99, 99], &keys);
        file[places[2].0 + RECORD_HEADER_BYTES] ^= 1;
        std::fs::write(segment_path(directory.path()), &file).expect("written");
        let mut segment = Segment::open(&segment_path(directory.path()), false).expect("readable").expect("a header");
        segment.unlock(&keys).expect("unlocked");
        let mut reader = FileReader::new(Arc::new(Segments::new(vec![Arc::new(segment)])), 0).expect("a reader");
        assert_eq!(reader.read(300, 1000).expect("two records").len(), 200);
        let error = reader.read(300, 1000).expect_err("damaged").to_string();
        assert!(error.contains(&format!("at byte {}", places[2].0)), "{error}");
    }
}
