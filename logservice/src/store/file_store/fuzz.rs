//! Any bytes on the disk: headers, a segment, a shard's directory.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksum_line;
use super::form::{frame_nonce, Form, FRAME_BYTES};
use super::format::{RecordHeader, SegmentHeader, MAX_RECORD_PAYLOAD_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::look::Look;
use super::reader::FileReader;
use super::scan::{scan_segment, Tail};
use super::segment::{segment_name, Segment};
use super::segments::Segments;
use crate::encryption::{KeyRing, NONCE_BYTES};
use crate::store::{LogReader, Manifest};

/// Files of the length of a few records.
const FILE_BYTES: usize = 16 << 10;
/// That of a few records of several frames.
const LARGE_FILE_BYTES: usize = 1200 << 10;
const SALT: u32 = 7;

/// Where the records of a segment lie: position in the file, offset in the log, length.
pub(super) type Places = Vec<(usize, u64, usize)>;

/// A directory in memory, as what is fuzzed is not the disk.
pub(super) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let directory = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    directory.expect("tempdir")
}

pub(super) fn header(file_bytes: u64) -> SegmentHeader {
    let (shard, form, envelope) = ("s1".to_owned(), Form::Plain, None);
    SegmentHeader { shard, generation: 0, first_offset: 0, running_checksum: 0, salt: SALT, file_bytes, form, envelope }
}

pub(super) fn keys() -> Arc<KeyRing> {
    KeyRing::of_text(&format!("k1 01{}", "23".repeat(31))).expect("parses")
}

/// A sound segment of that form and length with records of those lengths, as many as fit. If it is encrypted, then with [`keys`].
pub(super) fn sound_segment(lengths: &[usize], form: Form, file_bytes: usize) -> (Vec<u8>, Places) {
    let plain = SegmentHeader { form, ..header(file_bytes as u64) };
    let keys = if form.is_encrypted() { keys() } else { Arc::default() };
    let (key, envelope) = keys.draw(&plain.context()).expect("drawn").unzip();
    let mut file = SegmentHeader { envelope, ..plain }.encode();
    file.resize(file_bytes, 0);
    let (mut at, mut offset, mut running_checksum, mut places) = (SEGMENT_HEADER_BYTES as usize, 0_u64, 0, Vec::new());
    for &length in lengths {
        let mut payload: Vec<u8> = (0..length).map(|byte| (offset as usize + byte) as u8).collect();
        let mut record = RecordHeader::following(running_checksum, length as u32, 1, offset, 5, 0);
        if let Some(key) = &key {
            let nonce = [places.len() as u8 + 1; NONCE_BYTES];
            (record.form, record.nonce) = (form, Some(nonce));
            let mut tags = Vec::new();
            for (frame, number) in payload.chunks_mut(form.frame_bytes()).zip(0..) {
                let context = record.context(number);
                tags.extend(key.seal_apart(frame_nonce(nonce, number), &context, frame).expect("sealed"));
            }
            payload.extend(tags);
        }
        if at + record.file_bytes() > file_bytes {
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

/// A shard's directory without a log.
pub(super) fn shard_directory() -> tempfile::TempDir {
    let directory = directory();
    std::fs::create_dir_all(directory.path().join("log")).expect("made");
    let manifest = serde_json::to_vec(&Manifest::new("s1", "a".repeat(40), "b".repeat(16))).expect("serialises");
    std::fs::write(directory.path().join("MANIFEST"), checksum_line::add(&manifest)).expect("written");
    directory
}

/// Writes a segment of that form in which bytes were changed, cut off after `length`, and reads it back.
fn read_changed(
    directory: &Path,
    form: Form,
    (sound, places): &(Vec<u8>, Places),
    changes: &[(usize, u8)],
    length: usize,
) {
    let mut file = sound.clone();
    changes.iter().for_each(|(at, byte)| file[*at % sound.len()] = *byte);
    file.truncate(length);
    let is_same = |&(at, _, length): &(usize, u64, usize)| {
        let record = at..at + RECORD_HEADER_BYTES + form.stored_bytes(length);
        file.get(record.clone()) == Some(&sound[record])
    };
    let sound_records = places.iter().take_while(|place| is_same(place)).count();
    let end = places[..sound_records].last().map_or(0, |(_, offset, length)| offset + *length as u64);
    std::fs::write(segment_path(directory), &file).expect("written");
    allocation::within(8 * sound.len().max(512 << 10), || read_back(directory, end, places, &keys()));
}

#[test]
fn a_segment_is_read_up_to_the_first_byte_that_was_changed_and_never_wrongly() {
    let directory = shard_directory();
    bolero::check!().with_type::<(u8, Vec<u16>, Vec<(u16, u8)>, u16)>().for_each(|(form, lengths, changes, cut)| {
        let form = Form::ALL[usize::from(*form) % Form::ALL.len()];
        let lengths: Vec<_> = lengths.iter().map(|length| usize::from(*length % 3000) + 1).collect();
        let sound = sound_segment(&lengths, form, FILE_BYTES);
        let changes: Vec<_> = changes.iter().map(|(at, byte)| (usize::from(*at), *byte)).collect();
        // Mostly the whole file.
        let length = FILE_BYTES.saturating_sub(usize::from(*cut).saturating_sub(50_000));
        read_changed(directory.path(), form, &sound, &changes, length);
    });
}

#[test]
fn records_of_several_frames_are_read_up_to_the_first_byte_that_was_changed_and_never_wrongly() {
    let directory = shard_directory();
    let sound = sound_segment(&[10, 2 * FRAME_BYTES + 9, FRAME_BYTES, FRAME_BYTES + 1], Form::Framed, LARGE_FILE_BYTES);
    assert_eq!(sound.1.len(), 4);
    bolero::check!().with_type::<Vec<(u32, u8)>>().for_each(|changes| {
        let changes: Vec<_> = changes.iter().map(|(at, byte)| (*at as usize, *byte)).collect();
        read_changed(directory.path(), Form::Framed, &sound, &changes, sound.0.len());
    });
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
    let look = Look::open(directory, "s1", keys);
    assert_eq!(look.is_err(), matches!(scanned.tail, Tail::Damaged { .. }));
    if let Ok(Some(look)) = look {
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
    let bytes = |(_, offset, length): &(usize, u64, usize)| (*offset..offset + *length as u64).map(|at| at as u8);
    let expected: Vec<u8> = places.iter().flat_map(bytes).collect();
    while reader.offset() < limit {
        let from = reader.offset();
        let Ok(chunk) = reader.read(limit, limit.div_ceil(10) as usize) else {
            assert!(from >= end, "what is sound cannot be read at {from}");
            return;
        };
        assert!(!chunk.is_empty());
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
    for form in Form::ALL {
        let (mut file, places) = sound_segment(&[100, 100, 100], form, FILE_BYTES);
        file[places[2].0 + RECORD_HEADER_BYTES] ^= 1;
        std::fs::write(segment_path(directory.path()), &file).expect("written");
        let mut segment = Segment::open(&segment_path(directory.path()), false).expect("readable").expect("a header");
        segment.unlock(&keys()).expect("unlocked");
        let mut reader = FileReader::new(Arc::new(Segments::new(vec![Arc::new(segment)])), 0).expect("a reader");
        assert_eq!(reader.read(300, 1000).expect("two records").len(), 200);
        let error = reader.read(300, 1000).expect_err("damaged").to_string();
        assert!(error.contains(&format!("at byte {}", places[2].0)), "{error}");
    }
}
