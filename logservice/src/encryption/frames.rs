//! The stored form of an encrypted snapshot: a header, then frames that are encrypted one by one, so that a snapshot is written and read as
//! a stream. All integers are little-endian.
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 8 | `VKDURRDB` |
//! | 8 | 4 | version of this format |
//! | 12 | 4 | bytes of the RDB in each frame except the last: 65536 |
//! | 16 | 128 | the data key ([`Envelope`]), wrapped over bytes 0 to 15 and the snapshot's name |
//! | 144 | | frames: that many bytes, encrypted, and a tag of 16 bytes |
//!
//! A frame's nonce is its number (8 bytes), then 1 for the last and 0 for all others, then zeros. So a missing, repeated, swapped or foreign
//! frame is detected, and so is a file that was cut off. There is a last frame even if the RDB is empty.
//!
//! The manifest holds the length, and checksums of the stored bytes.

use bytes::{Buf, Bytes, BytesMut};

use super::{DataKey, Envelope, KeyError, KeyRing, Nonce, ENVELOPE_BYTES, NONCE_BYTES, TAG_BYTES};

/// Bytes of the RDB in a frame.
const FRAME_BYTES: usize = 64 << 10;
/// The version of this format.
const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"VKDURRDB";
const FIELDS_BYTES: usize = 16;
const HEADER_BYTES: usize = FIELDS_BYTES + ENVELOPE_BYTES;

/// Why a snapshot cannot be decrypted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFrameError {
    /// Its first bytes are not those of an encrypted snapshot.
    #[error("{0}")]
    Header(String),
    /// A key is missing.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It was changed, together with its checksums.
    #[error(
        "it matches its checksums, but was not encrypted so: somebody has changed it, from byte {from} of the RDB on"
    )]
    Changed {
        /// Position in the RDB.
        from: u64,
    },
}

/// Length of a stored snapshot whose RDB has that many bytes.
pub fn stored_bytes(bytes: u64) -> u64 {
    let tags = frames(bytes).saturating_mul(TAG_BYTES as u64);
    bytes.saturating_add(tags).saturating_add(HEADER_BYTES as u64)
}

fn frames(bytes: u64) -> u64 {
    bytes.div_ceil(FRAME_BYTES as u64).max(1)
}

fn nonce(number: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    nonce[8] = u8::from(is_last);
    nonce
}

fn fields() -> [u8; FIELDS_BYTES] {
    let mut out = [0; FIELDS_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..].copy_from_slice(&(FRAME_BYTES as u32).to_le_bytes());
    out
}

fn context(name: &str) -> Vec<u8> {
    [&fields()[..], name.as_bytes()].concat()
}

/// Encrypts one snapshot, from its beginning to its end.
#[derive(Debug)]
pub struct Sealer {
    key: DataKey,
    key_id: String,
    /// Bytes that are not encrypted yet, as they may turn out to be the last frame.
    frame: Vec<u8>,
    number: u64,
    is_finished: bool,
}

impl Sealer {
    /// Begins a snapshot of that name. Returns its header as well, which is stored first. `None` if there is no key for new files.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn begin(keys: &KeyRing, name: &str) -> std::io::Result<Option<(Self, Vec<u8>)>> {
        let Some((key, envelope)) = keys.draw(&context(name))? else { return Ok(None) };
        let header = [&fields()[..], &envelope.encode()].concat();
        let frame = Vec::with_capacity(FRAME_BYTES + TAG_BYTES);
        Ok(Some((Sealer { key, key_id: envelope.key_id, frame, number: 0, is_finished: false }, header)))
    }

    /// The id of the master key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Whether [`Sealer::finish`] was called, after which nothing can be added.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Takes more of the RDB, and adds to `out` the bytes to store.
    ///
    /// # Errors
    /// It was finished before.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
        if self.is_finished {
            return Err(std::io::Error::other("the snapshot has its last byte already"));
        }
        while !bytes.is_empty() {
            if self.frame.len() == FRAME_BYTES {
                self.seal(false, out)?;
            }
            let room = (FRAME_BYTES - self.frame.len()).min(bytes.len());
            let (head, tail) = bytes.split_at(room);
            self.frame.extend_from_slice(head);
            bytes = tail;
        }
        Ok(())
    }

    /// Adds the last frame to `out`. Does nothing if it is called again.
    ///
    /// # Errors
    /// None for frames of this length.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.seal(true, out)?;
        }
        Ok(())
    }

    fn seal(&mut self, is_last: bool, out: &mut Vec<u8>) -> std::io::Result<()> {
        self.key.seal(nonce(self.number, is_last), b"", &mut self.frame)?;
        out.extend_from_slice(&self.frame);
        self.frame.clear();
        self.number += 1;
        Ok(())
    }
}

/// Decrypts one snapshot, from its beginning to its end.
#[derive(Debug)]
pub struct Opener {
    state: State,
    /// Length of the RDB.
    bytes: u64,
    /// Stored bytes that are not decrypted yet.
    stored: BytesMut,
    /// Number of the next frame.
    number: u64,
}

#[derive(Debug)]
enum State {
    /// The header has not arrived.
    Locked {
        keys: std::sync::Arc<KeyRing>,
        name: String,
    },
    Open(Box<DataKey>),
}

impl Opener {
    /// Begins a snapshot of that name, whose RDB has that many bytes.
    pub fn new(keys: std::sync::Arc<KeyRing>, name: &str, bytes: u64) -> Self {
        let state = State::Locked { keys, name: name.to_owned() };
        Opener { state, bytes, stored: BytesMut::new(), number: 0 }
    }

    /// Takes the next stored bytes, and returns what can be decrypted, which may be nothing yet.
    ///
    /// # Errors
    /// It cannot be decrypted.
    pub fn push(&mut self, stored: &[u8]) -> Result<Bytes, OpenFrameError> {
        self.stored.extend_from_slice(stored);
        if let State::Locked { keys, name } = &self.state {
            if self.stored.len() < HEADER_BYTES {
                return Ok(Bytes::new());
            }
            let key = open_header(&self.stored[..HEADER_BYTES], keys, name)?;
            self.state = State::Open(Box::new(key));
            self.stored.advance(HEADER_BYTES);
        }
        let State::Open(key) = &self.state else { return Ok(Bytes::new()) };
        let frames = frames(self.bytes);
        let mut out = BytesMut::with_capacity(self.stored.len());
        while self.number < frames {
            let from = self.number * FRAME_BYTES as u64;
            let wanted = (self.bytes - from).min(FRAME_BYTES as u64) as usize + TAG_BYTES;
            if self.stored.len() < wanted {
                break;
            }
            let nonce = nonce(self.number, self.number + 1 == frames);
            let opened = key.open(nonce, b"", &mut self.stored[..wanted]);
            out.extend_from_slice(opened.ok_or(OpenFrameError::Changed { from })?);
            self.stored.advance(wanted);
            self.number += 1;
        }
        Ok(out.freeze())
    }

    /// Whether all of it was decrypted, and nothing followed.
    pub fn is_done(&self) -> bool {
        self.number == frames(self.bytes) && self.stored.is_empty()
    }
}

fn open_header(header: &[u8], keys: &KeyRing, name: &str) -> Result<DataKey, OpenFrameError> {
    let (found, envelope) = header.split_at(FIELDS_BYTES);
    if found[..8] != MAGIC {
        return Err(OpenFrameError::Header("it is not an encrypted snapshot, and should be one".to_owned()));
    }
    if found != fields() {
        return Err(OpenFrameError::Header("it was encrypted by a newer version: upgrade logservice".to_owned()));
    }
    let envelope = Envelope::decode(envelope).map_err(OpenFrameError::Header)?;
    Ok(keys.open(&envelope, &context(name))?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn ring() -> Arc<KeyRing> {
        KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("parses")
    }

    fn rdb(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 % 251) as u8).collect()
    }

    /// As it is stored, when the RDB comes in steps of that many bytes.
    fn sealed(keys: &KeyRing, name: &str, rdb: &[u8], step: usize) -> Vec<u8> {
        let (mut sealer, mut out) = Sealer::begin(keys, name).expect("drawn").expect("encrypts");
        rdb.chunks(step).for_each(|part| sealer.push(part, &mut out).expect("sealed"));
        sealer.finish(&mut out).expect("finished");
        sealer.finish(&mut out).expect("finished");
        assert!(sealer.push(b"more", &mut out).is_err());
        out
    }

    fn opened(keys: &Arc<KeyRing>, name: &str, stored: &[u8], bytes: u64, step: usize) -> Result<Vec<u8>, String> {
        let mut opener = Opener::new(keys.clone(), name, bytes);
        let mut out = Vec::new();
        for part in stored.chunks(step) {
            out.extend_from_slice(&opener.push(part).map_err(|error| error.to_string())?);
        }
        if opener.is_done() {
            Ok(out)
        } else {
            Err("cut off".to_owned())
        }
    }

    #[test]
    fn an_rdb_of_any_length_is_what_it_was() {
        let keys = ring();
        for bytes in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 3 * FRAME_BYTES + 77] {
            let rdb = rdb(bytes);
            for step in [999, FRAME_BYTES, 200_000] {
                let stored = sealed(&keys, "a/1.rdb", &rdb, step);
                assert_eq!(stored.len() as u64, stored_bytes(bytes as u64));
                assert!(opened(&keys, "a/1.rdb", &stored, bytes as u64, step) == Ok(rdb.clone()), "{bytes} in {step}");
                let is_plain = bytes > 64 && stored.windows(32).any(|part| part == &rdb[..32]);
                assert!(!is_plain, "{bytes} bytes can be read");
            }
        }
    }

    #[test]
    fn changed_bytes_are_never_passed_on() {
        let keys = ring();
        let rdb = rdb(3 * FRAME_BYTES + 5);
        let (length, frame) = (rdb.len() as u64, FRAME_BYTES + TAG_BYTES);
        let stored = sealed(&keys, "a/1.rdb", &rdb, 70_000);
        let open = |stored: &[u8], length| opened(&keys, "a/1.rdb", stored, length, 50_000);
        assert!(open(&stored, length).is_ok());
        for at in (0..stored.len()).step_by(997).chain(0..HEADER_BYTES) {
            let mut changed = stored.clone();
            changed[at] ^= 1;
            assert!(open(&changed, length).is_err(), "byte {at}");
        }
        let mut swapped = stored.clone();
        swapped[HEADER_BYTES..HEADER_BYTES + 2 * frame].rotate_left(frame);
        assert!(open(&swapped, length).expect_err("swapped").contains("somebody has changed it"));
        // As the manifest may be changed as well.
        assert!(open(&stored[..HEADER_BYTES + frame], FRAME_BYTES as u64).is_err(), "cut off after a frame");
        assert!(open(&stored[..stored.len() - 1], length).is_err());
        assert!(opened(&keys, "b/1.rdb", &stored, length, 50_000).is_err(), "another shard's");
        let other = KeyRing::of_text(&format!("k2 01{}\n", "23".repeat(31))).expect("parses");
        assert!(opened(&other, "a/1.rdb", &stored, length, 50_000).expect_err("no key").contains("'k1'"));
    }

    #[test]
    fn any_bytes_are_a_snapshot_or_none() {
        let keys = ring();
        let (length, name) = (FRAME_BYTES + 9, "a/1.rdb");
        let rdb = rdb(length);
        let sound = sealed(&keys, name, &rdb, length);
        bolero::check!().with_type::<(bool, Vec<(u32, u8)>, Vec<u8>, u64)>().for_each(
            |(is_any, changes, bytes, step)| {
                let mut stored = if *is_any { bytes.clone() } else { sound.clone() };
                let total = stored.len();
                for (at, byte) in changes.iter().filter(|_| total > 0) {
                    stored[*at as usize % total] = *byte;
                }
                let step = (*step as usize % 100_000).max(1000);
                allocation::within(8 * stored.len() + 65_536, || {
                    if let Ok(opened) = opened(&keys, name, &stored, length as u64, step) {
                        assert!(opened == rdb && stored == sound);
                    }
                    // Whatever length a manifest says.
                    let _ = opened(&keys, name, &stored, u64::MAX - step as u64, step);
                });
            },
        );
    }
}
