//! A wrapped data key, as stored in the file that it encrypts. All integers are little-endian.
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 64 | id of the master key, padded with zeros |
//! | 64 | 12 | nonce |
//! | 76 | 32 | the data key, encrypted |
//! | 108 | 16 | tag, also over the context: what the file records about itself |
//! | 124 | 4 | CRC32C of bytes 0 to 123 |

use super::data_key::{draw_nonce, DataKey, Nonce, KEY_BYTES, NONCE_BYTES, TAG_BYTES};

/// Bytes of an envelope.
pub const ENVELOPE_BYTES: usize = 128;

/// Longest id of a master key in bytes.
const ID_BYTES: usize = durability_protocol::MAX_NAME_BYTES;
const CHECKSUM_AT: usize = ENVELOPE_BYTES - 4;

/// A data key, wrapped by a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The id of the master key.
    pub key_id: String,
    nonce: Nonce,
    wrapped: [u8; KEY_BYTES + TAG_BYTES],
}

impl Envelope {
    /// Draws a data key and wraps it. Opening it needs the same `context`.
    pub(super) fn draw(key_id: &str, master: &DataKey, context: &[u8]) -> std::io::Result<(DataKey, Self)> {
        let (key, bytes) = DataKey::draw()?;
        let nonce = draw_nonce()?;
        // Encrypted in place, so that no other copy of the key is made.
        let mut sealed = Vec::with_capacity(KEY_BYTES + TAG_BYTES);
        sealed.extend_from_slice(&bytes[..]);
        master.seal(nonce, context, &mut sealed)?;
        let mut wrapped = [0; KEY_BYTES + TAG_BYTES];
        wrapped.copy_from_slice(&sealed);
        Ok((key, Envelope { key_id: key_id.to_owned(), nonce, wrapped }))
    }

    /// The data key; `None` if it was wrapped by another key than `master`, or with another context.
    pub(super) fn open(&self, master: &DataKey, context: &[u8]) -> Option<DataKey> {
        let mut bytes = zeroize::Zeroizing::new(self.wrapped);
        let opened = master.open(self.nonce, context, &mut bytes[..])?;
        Some(DataKey::new((&*opened).try_into().ok()?))
    }

    /// The bytes that are stored.
    pub fn encode(&self) -> [u8; ENVELOPE_BYTES] {
        let mut out = [0; ENVELOPE_BYTES];
        let id = &self.key_id.as_bytes()[..self.key_id.len().min(ID_BYTES)];
        out[..id.len()].copy_from_slice(id);
        out[ID_BYTES..ID_BYTES + NONCE_BYTES].copy_from_slice(&self.nonce);
        out[ID_BYTES + NONCE_BYTES..CHECKSUM_AT].copy_from_slice(&self.wrapped);
        let checksum = crc32c::crc32c(&out[..CHECKSUM_AT]);
        out[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// Why they are no envelope.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes: &[u8; ENVELOPE_BYTES] =
            bytes.first_chunk().ok_or_else(|| "the file is too short for its key".to_owned())?;
        if bytes[CHECKSUM_AT..] != crc32c::crc32c(&bytes[..CHECKSUM_AT]).to_le_bytes() {
            return Err("its wrapped key does not match its checksum".to_owned());
        }
        let (id, rest) = bytes[..CHECKSUM_AT].split_at(ID_BYTES);
        let length = id.iter().position(|&byte| byte == 0).unwrap_or(ID_BYTES);
        let key_id = std::str::from_utf8(&id[..length]).ok().filter(|id| durability_protocol::is_valid_name(id));
        let key_id = key_id.filter(|_| id[length..].iter().all(|&byte| byte == 0));
        let key_id = key_id.ok_or_else(|| "the id of its key is no name".to_owned())?.to_owned();
        let (mut nonce, mut wrapped) = ([0; NONCE_BYTES], [0; KEY_BYTES + TAG_BYTES]);
        nonce.copy_from_slice(&rest[..NONCE_BYTES]);
        wrapped.copy_from_slice(&rest[NONCE_BYTES..]);
        Ok(Envelope { key_id, nonce, wrapped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_survives_encoding_and_every_flipped_bit_is_detected() {
        let master = DataKey::new(&[1; KEY_BYTES]);
        let (_, envelope) = Envelope::draw("2026-11", &master, b"context").expect("drawn");
        let bytes = envelope.encode();
        assert_eq!(Envelope::decode(&bytes), Ok(envelope.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(Envelope::decode(&bytes[1..]).is_err());
        assert!(envelope.open(&master, b"context").is_some());
        assert!(envelope.open(&master, b"others").is_none());
        assert!(envelope.open(&DataKey::new(&[2; KEY_BYTES]), b"context").is_none());
    }

    #[test]
    fn data_keys_and_nonces_are_drawn_anew() {
        let master = DataKey::new(&[1; KEY_BYTES]);
        let draw = || Envelope::draw("k", &master, b"").expect("drawn").1;
        let (one, other) = (draw(), draw());
        assert!(one.nonce != other.nonce && one.wrapped != other.wrapped);
    }

    #[test]
    fn any_bytes_are_an_envelope_that_survives_encoding_or_none() {
        bolero::check!().with_type::<(Vec<u8>, bool)>().for_each(|(bytes, is_mended)| {
            let mut bytes = bytes.clone();
            if *is_mended && bytes.len() >= ENVELOPE_BYTES {
                let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
                bytes[CHECKSUM_AT..ENVELOPE_BYTES].copy_from_slice(&checksum.to_le_bytes());
            }
            allocation::within(4096, || {
                if let Ok(envelope) = Envelope::decode(&bytes) {
                    assert_eq!(envelope.encode()[..], bytes[..ENVELOPE_BYTES]);
                }
            });
        });
    }
}
