//! Reads a segment from its first record on and says where and why it ends.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::SEGMENT_HEADER_BYTES;
use super::format::{has_record_magic, record_bytes, RecordHeader, MAX_RECORD_PAYLOAD_BYTES, RECORD_HEADER_BYTES};
use super::segment::Segment;
use crate::store::{FileError, InFile};

const WINDOW_BYTES: usize = 1 << 20;

/// What was found behind the last sound record.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing that was written since the file became this segment, or no room for a record.
    Clean,
    /// A record that was begun and is not sound, and no sound record behind it.
    Torn {
        /// Its length in bytes as far as its header tells.
        bytes: u64,
    },
    /// No sound record although a later record stands behind them.
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

/// Where a segment's sound records end.
#[derive(Debug)]
pub struct Scanned {
    /// End of the log (exclusive) after the last sound record.
    pub end: u64,
    /// Position in the file after it.
    pub position: u64,
    /// The running checksum after it.
    pub running_checksum: u32,
    /// Position in the file where the last sound record starts; the same as `position` when there is none.
    pub last_record: u64,
    /// What stands behind it.
    pub tail: Tail,
}

/// Verifies all records of a segment and notes them in its index.
pub fn scan_segment(segment: &Segment) -> Result<Scanned, FileError> {
    let mut window = Window { file: &segment.file, file_bytes: segment.file_bytes, start: 0, bytes: Vec::new() };
    let salt = segment.header.salt;
    let mut end = segment.header.first_offset;
    let mut position = SEGMENT_HEADER_BYTES;
    let mut last_record = position;
    let mut running_checksum = segment.header.running_checksum;
    let tail = loop {
        let header_bytes = window.get(position, RECORD_HEADER_BYTES).in_file("cannot read", &segment.path)?;
        let header = RecordHeader::decode(header_bytes, salt);
        let follows = |header: &RecordHeader| {
            header.offset == end && header.running_checksum == header.checksum_after(running_checksum)
        };
        let Some(header) = header.filter(follows) else {
            break examine_tail(&mut window, position, (end, running_checksum), salt, header)
                .in_file("cannot read", &segment.path)?;
        };
        let payload = window
            .get(position + RECORD_HEADER_BYTES as u64, header.payload_bytes as usize)
            .in_file("cannot read", &segment.path)?;
        if payload.len() < header.payload_bytes as usize || crc32c::crc32c(payload) != header.payload_crc32c {
            break examine_tail(&mut window, position, (end, running_checksum), salt, Some(header))
                .in_file("cannot read", &segment.path)?;
        }
        segment.note_record(end, position);
        last_record = position;
        end = header.end();
        running_checksum = header.running_checksum;
        position += record_bytes(header.payload_bytes as usize) as u64;
    };
    Ok(Scanned { end, position, running_checksum, last_record, tail })
}

/// Decides what the bytes from `position` on are. `unsound` is the header there, if it is one: a record that does not
/// follow the one before it, or whose payload is not what it should be.
fn examine_tail(
    window: &mut Window<'_>,
    position: u64,
    (end, running_checksum): (u64, u32),
    salt: u32,
    unsound: Option<RecordHeader>,
) -> std::io::Result<Tail> {
    if let Some(header) = unsound.filter(|header| header.offset != end) {
        let reason = format!("a record at offset {} stands where offset {end} continues", header.offset);
        return Ok(Tail::Damaged { reason });
    }
    if unsound.is_some_and(|header| header.running_checksum != header.checksum_after(running_checksum)) {
        // A header whose own checksum holds was written whole.
        let reason = format!("the record of offset {end} does not follow the one before it");
        return Ok(Tail::Damaged { reason });
    }
    let mut at = position;
    let file = window.file;
    while at < window.file_bytes {
        let bytes = window.get(at, WINDOW_BYTES)?;
        for (step, _) in bytes.chunks(8).enumerate().filter(|(_, begin)| has_record_magic(begin, salt)) {
            let candidate = at + step as u64 * 8;
            if candidate == position {
                continue;
            }
            // A header may lie across the edge of what was read.
            let mut header = [0; RECORD_HEADER_BYTES];
            let whole = file.read_exact_at(&mut header, candidate).is_ok();
            if let Some(later) = RecordHeader::decode(&header, salt).filter(|later| whole && later.offset > end) {
                let reason = format!(
                    "the record of offset {end} is not sound, but one of offset {} follows at byte {candidate}",
                    later.offset
                );
                return Ok(Tail::Damaged { reason });
            }
        }
        at += WINDOW_BYTES as u64;
    }
    if !has_record_magic(window.get(position, RECORD_HEADER_BYTES)?, salt) {
        return Ok(Tail::Clean);
    }
    let bytes = unsound.map_or(RECORD_HEADER_BYTES, |header| record_bytes(header.payload_bytes as usize)) as u64;
    Ok(Tail::Torn { bytes: bytes.min(window.file_bytes - position) })
}

/// The part of a file that was read last, so that small records do not cost a system call each.
struct Window<'a> {
    file: &'a File,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Up to `wanted` bytes at `position`; fewer only at the end of the file.
    fn get(&mut self, position: u64, wanted: usize) -> std::io::Result<&[u8]> {
        debug_assert!(wanted <= MAX_RECORD_PAYLOAD_BYTES);
        let wanted = wanted.min(self.file_bytes.saturating_sub(position) as usize);
        let held = position.checked_sub(self.start).filter(|&skip| skip + wanted as u64 <= self.bytes.len() as u64);
        let skip = match held {
            Some(skip) => skip as usize,
            None => {
                let bytes = wanted.max(WINDOW_BYTES).min(self.file_bytes.saturating_sub(position) as usize);
                self.bytes.resize(bytes, 0);
                self.start = position;
                if let Err(error) = self.file.read_exact_at(&mut self.bytes, position) {
                    self.bytes.clear();
                    return Err(error);
                }
                0
            }
        };
        Ok(&self.bytes[skip..skip + wanted])
    }
}
