//! The bytes of a piece. All integers are little-endian.
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 8 | `VKDURARC` |
//! | 8 | 4 | version of this format |
//! | 12 | 4 | 1 if the records are encrypted, as snapshots are, else 0 |
//! | 16 | 8 | length of the records |
//! | 24 | 8 | length of what is stored of them: longer if it is encrypted |
//! | 32 | 4 | CRC32C of what is stored of them |
//! | 36 | 4 | CRC32C of bytes 0 to 35 and of the piece's name |
//! | 40 | | the records: epoch, offset and time (8 bytes each), length (4 bytes), and the bytes of the log |

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::PieceName;
use crate::encryption::frames::{stored_bytes, OpenFrameError, Opener, Sealer};
use crate::encryption::KeyRing;
use crate::store::Record;

const MAGIC: &[u8; 8] = b"VKDURARC";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 28;

/// Why a piece cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PieceError {
    /// It is not what was stored.
    #[error("{0}")]
    Damaged(&'static str),
    /// It was written by a newer build.
    #[error("it was written by a newer version: upgrade logservice")]
    Newer,
    /// It cannot be decrypted.
    #[error(transparent)]
    Locked(#[from] OpenFrameError),
}

/// A piece that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its records, without a gap from its start to its end.
    pub records: Vec<Record>,
}

/// Collects records for a piece.
#[derive(Debug)]
pub struct PieceBuilder {
    generation: u64,
    start: u64,
    end: u64,
    first_ms: u64,
    last_ms: u64,
    records: Vec<u8>,
}

impl PieceBuilder {
    /// A piece that begins at `start`.
    pub fn new(generation: u64, start: u64) -> Self {
        PieceBuilder { generation, start, end: start, first_ms: u64::MAX, last_ms: 0, records: Vec::new() }
    }

    /// Adds the record that follows.
    pub fn add(&mut self, record: &Record) {
        debug_assert_eq!(record.offset, self.end);
        self.end += record.payload.len() as u64;
        self.first_ms = self.first_ms.min(record.time_ms);
        self.last_ms = self.last_ms.max(record.time_ms);
        for number in [record.epoch, record.offset, record.time_ms] {
            self.records.extend_from_slice(&number.to_le_bytes());
        }
        self.records.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
        self.records.extend_from_slice(&record.payload);
    }

    /// Its length so far.
    pub fn bytes(&self) -> u64 {
        self.records.len() as u64
    }

    /// The earliest time of its records, in milliseconds since 1970; none if there are none.
    pub fn first_ms(&self) -> Option<u64> {
        (self.end > self.start).then_some(self.first_ms)
    }

    /// Its name; none if it has no records.
    pub fn name(&self) -> Option<PieceName> {
        let PieceBuilder { generation, start, end, first_ms, last_ms, .. } = *self;
        (end > start).then_some(PieceName { generation, start, end, first_ms, last_ms })
    }

    /// Its bytes, encrypted if there is a key for that. `place` is that of its log.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn finish(self, name: &PieceName, place: &str, keys: &KeyRing) -> std::io::Result<Bytes> {
        let context = context(name, place);
        let bytes = self.records.len() as u64;
        let mut out = vec![0; HEADER_BYTES];
        let sealed = Sealer::begin(keys, &context)?;
        let is_encrypted = sealed.is_some();
        match sealed {
            None => out.extend_from_slice(&self.records),
            Some((mut sealer, header)) => {
                out.reserve(stored_bytes(bytes) as usize);
                out.extend_from_slice(&header);
                sealer.push(&self.records, &mut out)?;
                sealer.finish(&mut out)?;
            }
        }
        let stored = &out[HEADER_BYTES..];
        let (stored_bytes, crc) = (stored.len() as u64, crc32c::crc32c(stored));
        let fields = [
            &MAGIC[..],
            &VERSION.to_le_bytes(),
            &u32::from(is_encrypted).to_le_bytes(),
            &bytes.to_le_bytes(),
            &stored_bytes.to_le_bytes(),
            &crc.to_le_bytes(),
        ]
        .concat();
        let header_crc = crc32c::crc32c_append(crc32c::crc32c(&fields), context.as_bytes());
        out[..36].copy_from_slice(&fields);
        out[36..HEADER_BYTES].copy_from_slice(&header_crc.to_le_bytes());
        Ok(out.into())
    }
}

impl Piece {
    /// Reads the piece of that name. `place` is that of its log.
    ///
    /// # Errors
    /// It is not what was stored under that name, or a key is missing.
    pub fn decode(name: &PieceName, place: &str, keys: &Arc<KeyRing>, mut bytes: Bytes) -> Result<Self, PieceError> {
        let context = context(name, place);
        let (is_encrypted, plain_bytes) = Self::verify(&context, &bytes)?;
        bytes.advance(HEADER_BYTES);
        let records = match is_encrypted {
            false => bytes,
            true => {
                let mut opener = Opener::new(keys.clone(), &context, plain_bytes);
                let opened = opener.push(&bytes)?;
                if !opener.is_done() {
                    return Err(PieceError::Damaged("it is not as long as it says"));
                }
                opened
            }
        };
        if records.len() as u64 != plain_bytes {
            return Err(PieceError::Damaged("it is not as long as it says"));
        }
        let records = split(records, name)?;
        Ok(Piece { records })
    }

    /// Verifies checksums, for which no key is needed. Answers whether it is encrypted, and the length of its records.
    fn verify(context: &str, bytes: &Bytes) -> Result<(bool, u64), PieceError> {
        if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC[..] {
            return Err(PieceError::Damaged("it does not begin as a piece of a log does"));
        }
        let (header, stored) = bytes.split_at(HEADER_BYTES);
        let mut fields = &header[8..];
        let (version, flags) = (fields.get_u32_le(), fields.get_u32_le());
        let (plain_bytes, stored_bytes) = (fields.get_u64_le(), fields.get_u64_le());
        let (crc, header_crc) = (fields.get_u32_le(), fields.get_u32_le());
        if crc32c::crc32c_append(crc32c::crc32c(&header[..36]), context.as_bytes()) != header_crc {
            return Err(PieceError::Damaged("its beginning does not match its checksum, or it is of another place"));
        }
        if version > VERSION || flags > 1 {
            return Err(PieceError::Newer);
        }
        if stored.len() as u64 != stored_bytes {
            return Err(PieceError::Damaged("it is not as long as it says"));
        }
        if crc32c::crc32c(stored) != crc {
            return Err(PieceError::Damaged("it does not match its checksum"));
        }
        Ok((flags == 1, plain_bytes))
    }
}

fn split(mut bytes: Bytes, name: &PieceName) -> Result<Vec<Record>, PieceError> {
    let wrong = PieceError::Damaged("its records are not those that its name says");
    let mut records = Vec::new();
    let mut next = name.start;
    while !bytes.is_empty() {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(wrong);
        }
        let (epoch, offset, time_ms) = (bytes.get_u64_le(), bytes.get_u64_le(), bytes.get_u64_le());
        let length = bytes.get_u32_le() as usize;
        if offset != next || length == 0 || length > bytes.len() {
            return Err(wrong);
        }
        next += length as u64;
        records.push(Record { epoch, offset, time_ms, payload: bytes.split_to(length) });
    }
    if next != name.end {
        return Err(wrong);
    }
    Ok(records)
}

/// What binds a piece to its name and its log.
fn context(name: &PieceName, place: &str) -> String {
    format!("{place}/{}", name.object())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "s1-abc";

    fn records() -> Vec<Record> {
        let record =
            |epoch, offset, time_ms, payload: Vec<u8>| Record { epoch, offset, time_ms, payload: payload.into() };
        vec![record(1, 100, 50, vec![7; 30]), record(2, 130, 40, vec![8; 200_000]), record(2, 200_130, 60, vec![9])]
    }

    fn made(keys: &KeyRing) -> (PieceName, Bytes) {
        let mut builder = PieceBuilder::new(3, 100);
        assert_eq!((builder.name(), builder.first_ms()), (None, None));
        records().iter().for_each(|record| builder.add(record));
        let name = builder.name().expect("records");
        (name.clone(), builder.finish(&name, PLACE, keys).expect("random numbers"))
    }

    fn keys() -> Arc<KeyRing> {
        KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("keys")
    }

    #[test]
    fn a_piece_is_read_as_it_was_written() {
        for keys in [Arc::default(), keys()] {
            let (name, bytes) = made(&keys);
            assert_eq!(name, PieceName { generation: 3, start: 100, end: 200_131, first_ms: 40, last_ms: 60 });
            let piece = Piece::decode(&name, PLACE, &keys, bytes.clone()).expect("sound");
            assert_eq!(piece.records, records());
            if keys.has_keys() {
                assert!(!bytes.windows(16).any(|part| part == [8; 16]));
                let error = Piece::decode(&name, PLACE, &Arc::default(), bytes).expect_err("no key");
                assert!(error.to_string().contains("k1"), "{error}");
            }
        }
    }

    #[test]
    fn no_byte_of_a_piece_can_be_changed_left_out_or_put_elsewhere() {
        let none = Arc::default();
        let (name, bytes) = made(&none);
        for at in (0..bytes.len()).filter(|at| *at < 200 || at % 5003 == 0 || *at + 40 > bytes.len()) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert!(Piece::decode(&name, PLACE, &none, changed.into()).is_err(), "byte {at}");
        }
        for length in [0, 7, 39, 40, 100, bytes.len() - 1] {
            assert!(Piece::decode(&name, PLACE, &none, bytes.slice(..length)).is_err(), "{length} bytes");
        }
        let elsewhere = PieceName { start: 101, ..name.clone() };
        assert!(Piece::decode(&elsewhere, PLACE, &none, bytes.clone()).is_err());
        assert!(Piece::decode(&name, "s1-abd", &none, bytes).is_err());
    }
}
