//! Frames: the length of the body (4), CRC32C of length, kind and body (4), kind (1), body.

use bytes::{Buf, Bytes, BytesMut};

use super::fields::{Fields, Pieces};
use super::Malformed;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 9;
/// The longest body. A message has about 1 MiB of entries, or one longer entry, which is a single append (1 MiB) or a state; frames are
/// closed at 256 KiB. This leaves room for the state of a cluster with very many shards.
pub const MOST_FRAME_BYTES: usize = 16 << 20;
/// How much is read at a time while no longer frame is on its way.
pub const READ_BYTES: usize = 64 << 10;
/// A frame of up to so many bytes gets its memory at once. A longer one gets it as it comes.
const AT_ONCE_BYTES: usize = 2 << 20;

/// What is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who connects begins the greeting.
    Begin = 1,
    /// Who accepts answers.
    Challenge = 2,
    /// Who connects says who it is, and proves it.
    Introduction = 3,
    /// Who accepts does so.
    Welcome = 4,
    /// One of both ends the connection: a text says why.
    Refused = 5,
    /// Messages of groups.
    Messages = 6,
    /// Nothing; says that the other end is there.
    Ping = 7,
    /// A request.
    Request = 8,
    /// The answer to a request.
    Reply = 9,
    /// Who connects is another one than it said: its cluster is known now.
    Hello = 10,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Begin,
        Kind::Challenge,
        Kind::Introduction,
        Kind::Welcome,
        Kind::Refused,
        Kind::Messages,
        Kind::Ping,
        Kind::Request,
        Kind::Reply,
        Kind::Hello,
    ];
}

/// What stands before a body.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    kind: u8,
    body_bytes: u32,
    checksum: u32,
}

impl Header {
    /// The header of a body.
    pub fn of<'a>(kind: Kind, pieces: impl Iterator<Item = &'a Bytes> + Clone) -> Self {
        // Whoever makes a frame keeps to the bound.
        let body_bytes = pieces.clone().map(Bytes::len).sum::<usize>() as u32;
        let begun = Self::checksum_of_beginning(kind as u8, body_bytes);
        let checksum = pieces.fold(begun, |checksum, piece| crc32c::crc32c_append(checksum, piece));
        Header { kind: kind as u8, body_bytes, checksum }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[8] = self.kind;
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Self {
        let (body_bytes, checksum, kind) = (bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u8());
        Header { kind, body_bytes, checksum }
    }

    fn checksum_of_beginning(kind: u8, body_bytes: u32) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&body_bytes.to_le_bytes()), &[kind])
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    /// What is in it.
    pub kind: Kind,
    /// That.
    pub body: Fields,
}

impl Frame {
    /// The bytes of a short frame.
    pub fn encode(kind: Kind, body: Pieces) -> Vec<u8> {
        let pieces = body.finish();
        let mut bytes = Header::of(kind, pieces.iter()).encode().to_vec();
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        bytes
    }
}

/// Cuts what comes into frames.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    most_bytes: usize,
}

impl FrameBuffer {
    /// For frames with bodies of at most so many bytes.
    pub fn new(most_bytes: usize) -> Self {
        FrameBuffer { bytes: BytesMut::new(), most_bytes }
    }

    /// From now on bodies may have so many bytes.
    pub fn set_most_bytes(&mut self, most_bytes: usize) {
        self.most_bytes = most_bytes;
    }

    /// Where to put what comes next. There is room in it.
    pub fn room(&mut self) -> &mut BytesMut {
        let missing = match self.header() {
            Some(header) => (HEADER_BYTES + header.body_bytes as usize).saturating_sub(self.bytes.len()),
            None => 0,
        };
        // A frame takes no more memory than twice what has come of it, unless it is of usual length.
        let wanted = missing.min(AT_ONCE_BYTES.min(self.most_bytes).max(self.bytes.len()));
        let usual = READ_BYTES.min(self.most_bytes + HEADER_BYTES);
        // A rest that is small would be read in many small steps.
        if self.bytes.capacity() - self.bytes.len() < wanted.max(usual / 16) {
            self.bytes.reserve(wanted.max(usual));
        }
        &mut self.bytes
    }

    /// The next frame, if it has come as a whole.
    ///
    /// # Errors
    /// What came is no frame, or too long a one. Nothing more can be read then.
    pub fn take_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(header) = self.header() else { return Ok(None) };
        let body_bytes = header.body_bytes as usize;
        if body_bytes > self.most_bytes {
            return Err(Malformed("a frame is too long, or this is no frame"));
        }
        let Some(kind) = Kind::ALL.into_iter().find(|kind| *kind as u8 == header.kind) else {
            return Err(Malformed("a frame is of no known kind"));
        };
        if self.bytes.len() < HEADER_BYTES + body_bytes {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        let kept = self.bytes.capacity().max(READ_BYTES);
        let body = self.bytes.split_to(body_bytes).freeze();
        let begun = Header::checksum_of_beginning(header.kind, header.body_bytes);
        if crc32c::crc32c_append(begun, &body) != header.checksum {
            return Err(Malformed("a frame does not have its checksum"));
        }
        Ok(Some(Frame { kind, body: Fields::new(body, kept) }))
    }

    fn header(&self) -> Option<Header> {
        (self.bytes.len() >= HEADER_BYTES).then(|| Header::decode(&self.bytes[..HEADER_BYTES]))
    }
}
