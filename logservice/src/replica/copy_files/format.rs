//! The bytes of a copy's segments: version 4, and version 5, which is encrypted. All integers are little-endian; checksums are CRC32C.
//!
//! As in the log of a single service (`store/file_store/format.rs`), a segment is a file of a fixed length: a header block of 4096 bytes,
//! then records, each beginning at a multiple of 8. A record is one entry. The file's name is
//! `<sequence, 6 digits>-<index of the first entry, 20 digits>.log`. The header block:
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 8 | `VKDURLOG` |
//! | 8 | 4 | version of this format |
//! | 12 | 4 | salt, drawn at random for each segment |
//! | 16 | 8 | sequence: each segment of a copy has a higher one than those that were made before |
//! | 24 | 8 | length of the file in bytes |
//! | 32 | 8 | index of the entry before the first one |
//! | 40 | 8 | its term |
//! | 48 | 8 | the end of the log after it |
//! | 56 | 4 | the running checksum after it (`copy.rs`) |
//! | 60 | 4 | 1 if the first entry restarts the log, else 0 |
//! | 64 | 8 | position of the first byte of log in the segment: where the first entry restarts it, else the end before it |
//! | 72 | 64 | name of the group, padded with zeros |
//! | 136 | 4 | checksum of bytes 0 to 135 |
//! | 140 | 3956 | not looked at; in version 5 first the segment's data key (128 bytes, `encryption/envelope.rs`), wrapped over bytes 0 to 135 |
//!
//! A record:
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 4 | 0x52544E45 XOR the segment's salt |
//! | 4 | 4 | length of the entry's data, 0 to 32 MiB |
//! | 8 | 8 | index |
//! | 16 | 8 | term |
//! | 24 | 8 | the end of the log after it |
//! | 32 | 1 | type of the entry: 0 normal, 1 and 2 a change of members |
//! | 33 | 1 | 1 if the data is encrypted, as all is in version 5, else 0 |
//! | 34 | 2 | zeros |
//! | 36 | 4 | how many of the records right before it were not synced yet when it was written |
//! | 40 | 4 | checksum of the data as it is stored |
//! | 44 | 4 | the running checksum after it: of what the group sees, so equal on all services |
//! | 48 | 12 | the nonce, drawn at random; zeros if it is not encrypted |
//! | 60 | 4 | checksum of bytes 0 to 59, started from the salt instead of 0 |
//! | 64 | | the data, encrypted with its tag, then up to 7 bytes, not looked at, to the next multiple of 8 |
//!
//! Why nothing else passes for a record of a segment is told in `store/file_store/format.rs`.

use raft::eraftpb::{Entry, EntryType};

use crate::encryption::{Envelope, Nonce, ENVELOPE_BYTES, NONCE_BYTES, TAG_BYTES};
use crate::replica::copy::Position;
use crate::replica::entry::Content;

/// Bytes at the start of a segment that hold no records.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of a record before its data.
pub const RECORD_HEADER_BYTES: usize = 64;
/// The most data of an entry.
pub const MAX_ENTRY_BYTES: usize = 32 << 20;
/// The version of a segment that is not encrypted.
pub const FORMAT_VERSION: u32 = 4;
/// The version of one that is.
pub const ENCRYPTED_FORMAT_VERSION: u32 = 5;

const SEGMENT_MAGIC: [u8; 8] = *b"VKDURLOG";
const RECORD_MAGIC: u32 = 0x5254_4E45;
const CHECKSUM_AT: usize = 136;
const SEGMENT_FIELDS_BYTES: usize = CHECKSUM_AT + 4;
const NAME_BYTES: usize = durability_protocol::MAX_NAME_BYTES;
const RECORD_CHECKSUM_AT: usize = RECORD_HEADER_BYTES - 4;
/// What the tag of encrypted data takes in besides it: length, index, term, end and type.
const RECORD_CONTEXT: std::ops::Range<usize> = 4..33;

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The group it belongs to.
    pub group: String,
    /// Grows from each segment of a copy to the one made next.
    pub sequence: u64,
    /// Length of the file, which never changes.
    pub file_bytes: u64,
    /// What lies before its first entry.
    pub before: Position,
    /// Where the first entry restarts the log, if it does.
    pub restart_at: Option<u64>,
    /// Drawn at random; changes the magic number of its records and is where their header checksums start.
    pub salt: u32,
    /// The key of its data, wrapped; none if that is not encrypted.
    pub envelope: Option<Envelope>,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the entry's data, at most [`MAX_ENTRY_BYTES`].
    pub data_bytes: u32,
    /// The copy's position after the entry.
    pub after: Position,
    /// What the entry is to the consensus crate.
    pub entry_type: EntryType,
    /// How many of the records right before it were not synced yet when it was written.
    pub unsynced: u32,
    /// CRC32C of the data as it is stored: with its tag, if it is encrypted.
    pub data_crc32c: u32,
    /// With what the data is encrypted besides the key; none if it is not.
    pub nonce: Option<Nonce>,
}

/// The end of the log (exclusive) after `entry` when it was `before`. An entry that cannot be read changes nothing: the group stops at it.
pub fn end_after(before: u64, entry: &Entry) -> u64 {
    match Content::decode(entry) {
        Ok(Content::Append(append)) => append.end(),
        Ok(Content::State(state)) => state.restart_at.unwrap_or(before),
        Ok(Content::Nothing | Content::Members(_)) | Err(_) => before,
    }
}

/// Where `entry` restarts the log, if it does.
pub fn restart_of(entry: &Entry) -> Option<u64> {
    match Content::decode(entry) {
        Ok(Content::State(state)) => state.restart_at,
        _ => None,
    }
}

/// Bytes that a record takes in the file with that much data.
pub fn record_bytes(data_bytes: usize, is_encrypted: bool) -> u64 {
    let stored = data_bytes + if is_encrypted { TAG_BYTES } else { 0 };
    (RECORD_HEADER_BYTES + stored).next_multiple_of(8) as u64
}

impl SegmentHeader {
    /// The header block's first bytes; the rest of [`SEGMENT_HEADER_BYTES`] is not looked at.
    pub fn encode(&self) -> Vec<u8> {
        let version = if self.envelope.is_some() { ENCRYPTED_FORMAT_VERSION } else { FORMAT_VERSION };
        let mut out = self.fields(version);
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend(self.envelope.iter().flat_map(Envelope::encode));
        out
    }

    /// What its data key is wrapped over.
    pub fn context(&self) -> Vec<u8> {
        self.fields(ENCRYPTED_FORMAT_VERSION)
    }

    fn fields(&self, version: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_FIELDS_BYTES + ENVELOPE_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&self.before.index.to_le_bytes());
        out.extend_from_slice(&self.before.term.to_le_bytes());
        out.extend_from_slice(&self.before.end.to_le_bytes());
        out.extend_from_slice(&self.before.checksum.to_le_bytes());
        out.extend_from_slice(&u32::from(self.restart_at.is_some()).to_le_bytes());
        out.extend_from_slice(&self.first_offset().to_le_bytes());
        let named = self.group.len().min(NAME_BYTES);
        out.extend_from_slice(&self.group.as_bytes()[..named]);
        out.resize(CHECKSUM_AT, 0);
        out
    }

    /// Reads a header block, or says why it is none.
    pub fn decode(block: &[u8]) -> Result<Self, String> {
        let fields = block.get(..SEGMENT_FIELDS_BYTES).ok_or("the file is too short for a segment")?;
        if fields[..8] != SEGMENT_MAGIC {
            return Err("not a log segment".to_owned());
        }
        let is_sound = number_32(fields, CHECKSUM_AT) == crc32c::crc32c(&fields[..CHECKSUM_AT]);
        let version = number_32(fields, 8);
        if !(FORMAT_VERSION..=ENCRYPTED_FORMAT_VERSION).contains(&version) {
            return Err(format!(
                "segment format {version}, and copies are of {FORMAT_VERSION} and {ENCRYPTED_FORMAT_VERSION}: its header is damaged, or \
                 another version of logservice wrote it"
            ));
        }
        if !is_sound {
            return Err("the segment header does not match its checksum".to_owned());
        }
        let name = &fields[72..72 + NAME_BYTES];
        let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES)];
        Ok(SegmentHeader {
            group: String::from_utf8(name.to_vec()).map_err(|_| "the group's name is not text".to_owned())?,
            sequence: number_64(fields, 16),
            file_bytes: number_64(fields, 24),
            before: Position {
                index: number_64(fields, 32),
                term: number_64(fields, 40),
                end: number_64(fields, 48),
                checksum: number_32(fields, 56),
            },
            restart_at: (number_32(fields, 60) != 0).then_some(number_64(fields, 64)),
            salt: number_32(fields, 12),
            envelope: match version {
                ENCRYPTED_FORMAT_VERSION => Some(Envelope::decode(&block[SEGMENT_FIELDS_BYTES..])?),
                _ => None,
            },
        })
    }

    /// Index of its first entry.
    pub fn first_index(&self) -> u64 {
        self.before.index.saturating_add(1)
    }

    /// Position of the first byte of log in it.
    pub fn first_offset(&self) -> u64 {
        self.restart_at.unwrap_or(self.before.end)
    }
}

impl RecordHeader {
    /// Bytes of the data as it is stored.
    pub fn stored_bytes(&self) -> usize {
        self.data_bytes as usize + if self.nonce.is_some() { TAG_BYTES } else { 0 }
    }

    /// Bytes that the record takes in the file.
    pub fn file_bytes(&self) -> u64 {
        record_bytes(self.data_bytes as usize, self.nonce.is_some())
    }

    /// What the tag of encrypted data takes in besides it.
    pub fn context(&self) -> [u8; RECORD_CONTEXT.end - RECORD_CONTEXT.start] {
        let mut context = [0; RECORD_CONTEXT.end - RECORD_CONTEXT.start];
        context.copy_from_slice(&self.fields(0)[RECORD_CONTEXT]);
        context
    }

    fn fields(&self, salt: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[..4].copy_from_slice(&record_magic(salt));
        out[4..8].copy_from_slice(&self.data_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.after.index.to_le_bytes());
        out[16..24].copy_from_slice(&self.after.term.to_le_bytes());
        out[24..32].copy_from_slice(&self.after.end.to_le_bytes());
        out[32] = match self.entry_type {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        };
        out[36..40].copy_from_slice(&self.unsynced.to_le_bytes());
        out[40..44].copy_from_slice(&self.data_crc32c.to_le_bytes());
        out[44..48].copy_from_slice(&self.after.checksum.to_le_bytes());
        if let Some(nonce) = &self.nonce {
            out[33] = 1;
            out[48..48 + NONCE_BYTES].copy_from_slice(nonce);
        }
        out
    }

    /// The header as it stands in a segment with that salt.
    pub fn encode(&self, salt: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = self.fields(salt);
        let checksum = crc32c::crc32c_append(salt, &out[..RECORD_CHECKSUM_AT]);
        out[RECORD_CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header; none if these bytes are not a sound record header of a segment with that salt.
    pub fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        let checksum = crc32c::crc32c_append(salt, &bytes[..RECORD_CHECKSUM_AT]);
        if !has_record_magic(bytes, salt) || number_32(bytes, RECORD_CHECKSUM_AT) != checksum {
            return None;
        }
        let entry_type = match bytes[32] {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return None,
        };
        let nonce = match bytes[33] {
            0 => None,
            1 => {
                let mut nonce = Nonce::default();
                nonce.copy_from_slice(&bytes[48..48 + NONCE_BYTES]);
                Some(nonce)
            }
            _ => return None,
        };
        let header = RecordHeader {
            data_bytes: number_32(bytes, 4),
            after: Position {
                index: number_64(bytes, 8),
                term: number_64(bytes, 16),
                end: number_64(bytes, 24),
                checksum: number_32(bytes, 44),
            },
            entry_type,
            unsynced: number_32(bytes, 36),
            data_crc32c: number_32(bytes, 40),
            nonce,
        };
        (header.data_bytes as usize <= MAX_ENTRY_BYTES).then_some(header)
    }
}

/// Whether a record header of a segment with that salt begins here, be it sound or not.
pub fn has_record_magic(bytes: &[u8], salt: u32) -> bool {
    bytes.starts_with(&record_magic(salt))
}

fn record_magic(salt: u32) -> [u8; 4] {
    (RECORD_MAGIC ^ salt).to_le_bytes()
}

/// The file name of a segment. Names sort as they were made.
pub fn segment_name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:06}-{first_index:020}.log")
}

/// The number at a place that the caller has found to be inside.
fn number_32(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// As [`number_32`].
fn number_64(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(index: u64) -> Position {
        Position { index, term: 3, end: 100, checksum: 7 }
    }

    #[test]
    fn a_segment_header_is_read_as_it_was_written_and_no_flip_passes() {
        let group = "s".repeat(64);
        let (before, restart_at) = (position(9), Some(50));
        let header =
            SegmentHeader { group, sequence: 4, file_bytes: 1 << 21, before, restart_at, salt: 77, envelope: None };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_header_is_read_as_it_was_written_and_no_flip_passes() {
        for (entry_type, nonce) in [
            (EntryType::EntryNormal, None),
            (EntryType::EntryConfChange, Some([9; 12])),
            (EntryType::EntryConfChangeV2, None),
        ] {
            let header =
                RecordHeader { data_bytes: 5, after: position(10), entry_type, unsynced: 6, data_crc32c: 8, nonce };
            let bytes = header.encode(77);
            assert_eq!(RecordHeader::decode(&bytes, 77), Some(header));
            assert_eq!(RecordHeader::decode(&bytes, 78), None);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(RecordHeader::decode(&flipped, 77), None, "bit {bit}");
            }
        }
    }
}
