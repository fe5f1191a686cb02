//! Numbers, payloads and texts one after the other. All integers are little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Malformed;

/// Payloads of fewer bytes are copied when they are written: a piece of its own costs more.
const PIECE_BYTES: usize = 4 << 10;
/// A payload is copied when it is read, if it would keep more than so many times its length in memory.
const MOST_KEPT: usize = 8;

/// Bytes to be sent. Long payloads stay where they are: the pieces are sent one after the other.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Bytes>,
    last: BytesMut,
    bytes: usize,
}

impl Pieces {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The pieces, in order.
    pub fn finish(mut self) -> Vec<Bytes> {
        self.cut();
        self.pieces
    }

    pub(super) fn put_u8(&mut self, number: u8) {
        self.last.put_u8(number);
        self.bytes += 1;
    }

    pub(super) fn put_u16(&mut self, number: u16) {
        self.last.put_u16_le(number);
        self.bytes += 2;
    }

    pub(super) fn put_u32(&mut self, number: u32) {
        self.last.put_u32_le(number);
        self.bytes += 4;
    }

    pub(super) fn put_u64(&mut self, number: u64) {
        self.last.put_u64_le(number);
        self.bytes += 8;
    }

    /// Adds bytes as they are.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.last.put_slice(bytes);
        self.bytes += bytes.len();
    }

    /// A length of four bytes, and a payload. Nobody has one of 4 GiB: messages are bounded before they are written.
    pub(super) fn put_payload(&mut self, payload: &Bytes) {
        self.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        if payload.len() < PIECE_BYTES {
            return self.put_slice(payload);
        }
        self.cut();
        self.pieces.push(payload.clone());
        self.bytes += payload.len();
    }

    /// A length of a byte, and a text, which is cut off if it is longer than that.
    pub(super) fn put_text(&mut self, text: &str) {
        let most = boundary_up_to(text, usize::from(u8::MAX));
        self.put_u8(most as u8);
        self.put_slice(&text.as_bytes()[..most]);
    }

    fn cut(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push(self.last.split().freeze());
        }
    }
}

/// The largest length up to `most` at which no character of `text` is cut in two.
fn boundary_up_to(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Bytes that came. Payloads are slices of them, unless that would keep too much in memory for too little.
#[derive(Debug)]
pub struct Fields {
    bytes: Bytes,
    /// How many bytes a slice keeps in memory.
    kept: usize,
}

impl Fields {
    /// The fields in `bytes`, of which each slice keeps `kept` bytes in memory.
    pub fn new(bytes: Bytes, kept: usize) -> Self {
        Fields { bytes, kept }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len()
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Malformed("there is more in it than it should hold"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.need(2)?;
        Ok(self.bytes.get_u16_le())
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.need(4)?;
        Ok(self.bytes.get_u32_le())
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.need(8)?;
        Ok(self.bytes.get_u64_le())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.need(N)?;
        let mut array = [0; N];
        self.bytes.copy_to_slice(&mut array);
        Ok(array)
    }

    /// What [`Pieces::put_payload`] has written.
    pub(super) fn payload(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.need(length)?;
        let payload = self.bytes.split_to(length);
        Ok(match length.saturating_mul(MOST_KEPT) < self.kept {
            true => Bytes::copy_from_slice(&payload),
            false => payload,
        })
    }

    /// What [`Pieces::put_text`] has written.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        Ok(self.text_bytes()?.as_str().to_owned())
    }

    pub(super) fn text_bytes(&mut self) -> Result<Text, Malformed> {
        let length = usize::from(self.u8()?);
        self.need(length)?;
        Text::new(self.bytes.split_to(length))
    }

    /// How many of something follow, of which each takes `least_bytes` at least.
    pub(super) fn count(&mut self, least_bytes: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        match count.checked_mul(least_bytes) {
            Some(bytes) if bytes <= self.left() => Ok(count),
            _ => Err(Malformed("it is cut off")),
        }
    }

    fn need(&self, bytes: usize) -> Result<(), Malformed> {
        match self.bytes.len() >= bytes {
            true => Ok(()),
            false => Err(Malformed("it is cut off")),
        }
    }
}

/// A text that was not copied.
#[derive(Debug, Clone)]
pub struct Text(Bytes);

impl Text {
    fn new(bytes: Bytes) -> Result<Self, Malformed> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Text(bytes)),
            Err(_) => Err(Malformed("a text in it is not UTF-8")),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // It was checked, and is short.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}
