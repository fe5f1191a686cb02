//! Reads a segment from its first record on and says where and why it ends.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::form::Form;
use super::format::{has_record_magic, RecordHeader, MAX_RECORD_PAYLOAD_BYTES, RECORD_HEADER_BYTES};
use super::segment::{first_place, Place, Segment};
use crate::base::file_error::{FileError, InFile};

/// What is read at a time, unless a record is longer.
const WINDOW_BYTES: usize = 256 << 10;

/// Called after each read; an error ends the scan.
pub type AfterRead<'a> = &'a mut dyn FnMut() -> io::Result<()>;

/// What was found behind the last sound record.
#[derive(Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing was written there since the file became this segment, or there is no room for a record.
    Clean,
    /// A record was begun and is not sound, and no sound record is behind it.
    Torn {
        /// Its length in bytes as far as its header tells.
        bytes: u64,
    },
    /// No sound record, although a later record stands behind it.
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

/// Where a segment's sound records end.
#[derive(Debug)]
pub struct Scanned {
    /// Where a record would stand that follows the last sound one. Its offset is the end of the log (exclusive).
    pub end: Place,
    /// Position in the file where the last sound record starts; that of `end` when there is none.
    pub last_record: u64,
    /// What stands behind it.
    pub tail: Tail,
}

/// Verifies all records of a segment and notes them in its index. If the segment was unlocked, records are decrypted as well. Blocks on
/// I/O.
///
/// # Errors
/// It could not be read, and the text says where; or `after_read` ended the scan.
pub fn scan_segment(segment: &Segment, after_read: AfterRead<'_>) -> Result<Scanned, FileError> {
    scan(segment, after_read).in_file("cannot read", &segment.path)
}

fn scan(segment: &Segment, after_read: AfterRead<'_>) -> io::Result<Scanned> {
    let (file, file_bytes) = (&segment.file, segment.file_bytes);
    let mut window = Window { file, file_bytes, start: 0, bytes: Vec::new(), after_read };
    let salt = segment.header.salt;
    let mut end = first_place(&segment.header);
    let mut last_record = end.position;
    let mut copy = Vec::new();
    let tail = loop {
        let header = segment.decode_record(window.get(end.position, RECORD_HEADER_BYTES)?);
        let follows = |header: &RecordHeader| {
            header.offset == end.offset && header.running_checksum == header.checksum_after(end.running_checksum)
        };
        let Some(header) = header.filter(follows) else {
            break examine_tail(&mut window, end, salt, header)?;
        };
        let stored = window.get(end.position + RECORD_HEADER_BYTES as u64, header.stored_bytes())?;
        if stored.len() < header.stored_bytes() || crc32c::crc32c(stored) != header.payload_crc32c {
            break examine_tail(&mut window, end, salt, Some(header))?;
        }
        if segment.key().is_some() {
            copy.clear();
            copy.extend_from_slice(stored);
            // It was written whole, so no crash explains this.
            if let Err(reason) = segment.open_payload(&header, &mut copy) {
                break Tail::Damaged { reason };
            }
        }
        segment.note_record(end);
        last_record = end.position;
        end = end.after(&header);
    };
    Ok(Scanned { end, last_record, tail })
}

/// Decides what the bytes from `place` on are. `unsound` is the header there, if it is one: a record that does not
/// follow the one before it, or whose payload is not what it should be.
fn examine_tail(window: &mut Window<'_>, place: Place, salt: u32, unsound: Option<RecordHeader>) -> io::Result<Tail> {
    let Place { offset: end, position, running_checksum } = place;
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
    let bytes = unsound.map_or(RECORD_HEADER_BYTES, |header| header.file_bytes()) as u64;
    Ok(Tail::Torn { bytes: bytes.min(window.file_bytes - position) })
}

/// The part of a file that was read last, so that small records do not cost a system call each.
struct Window<'a> {
    file: &'a File,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
    after_read: AfterRead<'a>,
}

impl Window<'_> {
    /// Up to `wanted` bytes at `position`; fewer only at the end of the file.
    fn get(&mut self, position: u64, wanted: usize) -> io::Result<&[u8]> {
        debug_assert!(wanted <= Form::Framed.stored_bytes(MAX_RECORD_PAYLOAD_BYTES));
        let wanted = wanted.min(self.file_bytes.saturating_sub(position) as usize);
        let held = position.checked_sub(self.start).filter(|&skip| skip + wanted as u64 <= self.bytes.len() as u64);
        let skip = match held {
            Some(skip) => skip as usize,
            None => {
                let bytes = wanted.max(WINDOW_BYTES).min(self.file_bytes.saturating_sub(position) as usize);
                self.bytes.resize(bytes, 0);
                self.start = position;
                let read = self.file.read_exact_at(&mut self.bytes, position).and_then(|()| (self.after_read)());
                if let Err(error) = read {
                    self.bytes.clear();
                    return Err(io::Error::new(error.kind(), format!("at byte {position}: {error}")));
                }
                0
            }
        };
        Ok(&self.bytes[skip..skip + wanted])
    }
}
