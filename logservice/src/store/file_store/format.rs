//! The bytes on disk: version 2, and versions 3 and 6, which are encrypted. All integers are little-endian; checksums are CRC32C
//! (Castagnoli). Version 3 is read and goes on until its segment is full, but no new segments have it. Versions 4 and 5 are those of copies
//! that several services keep (`replica/copy_files/format.rs`).
//!
//! A segment is a file `<generation, 6 digits>-<first offset, 20 digits>.log` of a fixed length: a header block of 4096 bytes,
//! then records, each beginning at a multiple of 8. The header block:
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 8 | `VKDURLOG` |
//! | 8 | 4 | version of this format |
//! | 12 | 4 | salt, drawn at random for each segment |
//! | 16 | 8 | generation of the log |
//! | 24 | 8 | position in the log of the first byte of the first record |
//! | 32 | 8 | length of the file in bytes |
//! | 40 | 4 | running checksum before the first record; 0 at the beginning of a generation |
//! | 44 | 64 | name of the shard, padded with zeros |
//! | 108 | 16 | zeros |
//! | 124 | 4 | checksum of bytes 0 to 123 |
//! | 128 | 3968 | not looked at; if it is encrypted first the segment's data key (128 bytes, `encryption/envelope.rs`), wrapped over bytes 0 to 31 and 40 to 107 |
//!
//! A record:
//!
//! | byte | bytes | |
//! |---|---|---|
//! | 0 | 4 | 0x44434552 XOR the segment's salt |
//! | 4 | 4 | length of the payload, 1 to 4 MiB |
//! | 8 | 8 | epoch of the leader that wrote it |
//! | 16 | 8 | position in the log of its first byte: the end of the record before it |
//! | 24 | 8 | when it was written, milliseconds since 1970 |
//! | 32 | 4 | checksum of the payload |
//! | 36 | 4 | running checksum: of the one before it (4 bytes), then bytes 4 to 35, then 4 zeros |
//! | 40 | 1 | 0 if the payload is not encrypted, as none is in version 2; 1 if it is, as all are in version 3; 2 if it is in frames, as all are in version 6 |
//! | 41 | 12 | the nonce, drawn at random; zeros if it is not encrypted |
//! | 53 | 7 | zeros |
//! | 60 | 4 | checksum of bytes 0 to 59, started from the salt instead of 0 |
//! | 64 | | the payload, then up to 7 bytes, not looked at, to the next multiple of 8 |
//!
//! An encrypted payload is as long as it would be otherwise, and is followed by a tag of 16 bytes, which also takes in bytes 4 to 31 of the
//! record's header. In version 6 it is encrypted in frames of 256 KiB, of which the last may be shorter, and followed by their tags. A
//! frame's nonce is the record's with the frame's number (4 bytes, from 0 on) XORed into its last bytes. Its tag takes in the number too,
//! behind bytes 4 to 31 of the header. So a frame has one place in one record, and a record as many frames as its length says. The
//! payload's checksum is of what is stored: of all of it with the tags. So nobody needs a key to tell what is whole.
//!
//! The log ends where no record follows. What lies behind it may be anything: zeros, or what the file held when it was a
//! segment before (`spare.rs`). Because of the salt neither that, nor bytes inside a payload, passes for a record of this
//! segment. If the four bytes there are this segment's magic number, a record was begun and not finished. If they are not, one may have
//! been begun all the same: the order in which a record's parts are written means nothing (`record_writer.rs`).
//!
//! The running checksum takes in every record since the generation began, so a record that is missing, repeated or swapped is found
//! although each one is sound by itself, and each segment begins with the one at the end of the segment before it.

use super::form::Form;
use crate::encryption::{Envelope, Nonce, ENVELOPE_BYTES, NONCE_BYTES};

/// Bytes at the start of a segment that hold no records. A whole page, so that writing records never touches it.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Largest payload of one record: how much is grouped under one sync.
pub const MAX_RECORD_PAYLOAD_BYTES: usize = 4 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"VKDURLOG";
const RECORD_MAGIC: u32 = 0x4443_4552;
const SEGMENT_FIELDS_BYTES: usize = 128;
/// Where a record says whether its payload is encrypted; behind it stands the nonce.
const SEALED_AT: usize = 40;
const NAME_BYTES: usize = durability_protocol::MAX_NAME_BYTES;

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard it belongs to.
    pub shard: String,
    /// The generation of the log it belongs to.
    pub generation: u64,
    /// Position of its first byte of log.
    pub first_offset: u64,
    /// Length of the file, which never changes: a file of another length is damaged.
    pub file_bytes: u64,
    /// The running checksum before its first record.
    pub running_checksum: u32,
    /// Drawn at random; changes the magic number of its records and is where their header checksums start.
    pub salt: u32,
    /// How its payloads are stored.
    pub form: Form,
    /// The key of its payloads, wrapped; none if they are not encrypted.
    pub envelope: Option<Envelope>,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of payload, from 1 to [`MAX_RECORD_PAYLOAD_BYTES`].
    pub payload_bytes: u32,
    /// The epoch of the leader that wrote it.
    pub epoch: u64,
    /// Position of its first byte of log.
    pub offset: u64,
    /// When it was written, in milliseconds since 1970. For people; nothing depends on it.
    pub time_ms: u64,
    /// CRC32C of the payload as it is stored: with its tag, if it is encrypted.
    pub payload_crc32c: u32,
    /// The running checksum after this record.
    pub running_checksum: u32,
    /// How the payload is stored.
    pub form: Form,
    /// With what the payload is encrypted besides the key; none if it is not.
    pub nonce: Option<Nonce>,
}

/// Bytes that a record takes in the file with that much payload, as it is stored.
pub fn record_bytes(stored_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + stored_bytes).next_multiple_of(8)
}

impl SegmentHeader {
    /// The header block's first bytes; the rest of [`SEGMENT_HEADER_BYTES`] is not looked at.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.fields();
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend(self.envelope.iter().flat_map(Envelope::encode));
        out
    }

    /// What its data key is wrapped over: of which log it is, and where in it. All but its length.
    pub fn context(&self) -> Vec<u8> {
        let fields = self.fields();
        [&fields[..32], &fields[40..44 + NAME_BYTES]].concat()
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_FIELDS_BYTES + ENVELOPE_BYTES);
        out.extend_from_slice(&SEGMENT_MAGIC);
        out.extend_from_slice(&self.form.version().to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.first_offset.to_le_bytes());
        out.extend_from_slice(&self.file_bytes.to_le_bytes());
        out.extend_from_slice(&self.running_checksum.to_le_bytes());
        let mut name = [0; NAME_BYTES];
        let named = self.shard.len().min(NAME_BYTES);
        name[..named].copy_from_slice(&self.shard.as_bytes()[..named]);
        out.extend_from_slice(&name);
        out.resize(SEGMENT_FIELDS_BYTES - 4, 0);
        out
    }

    /// Reads a header block, or says why it is none.
    pub fn decode(block: &[u8]) -> Result<Self, String> {
        let fields = block.get(..SEGMENT_FIELDS_BYTES).ok_or("the file is too short for a segment")?;
        if fields[..8] != SEGMENT_MAGIC {
            return Err("not a log segment".to_owned());
        }
        let mut fields_after_magic = Fields(&fields[8..]);
        let version = fields_after_magic.u32();
        let checksum = Fields(&fields[SEGMENT_FIELDS_BYTES - 4..]).u32();
        let is_sound = checksum == crc32c::crc32c(&fields[..SEGMENT_FIELDS_BYTES - 4]);
        let Some(form) = Form::of_version(version) else {
            let doubt = if is_sound { "" } else { ", or its header is damaged" };
            return Err(foreign(version, doubt));
        };
        if !is_sound {
            return Err("the segment header does not match its checksum".to_owned());
        }
        let salt = fields_after_magic.u32();
        let generation = fields_after_magic.u64();
        let first_offset = fields_after_magic.u64();
        let file_bytes = fields_after_magic.u64();
        let running_checksum = fields_after_magic.u32();
        let name = &fields_after_magic.0[..NAME_BYTES];
        let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES)];
        let shard = String::from_utf8(name.to_vec()).map_err(|_| "the shard name is not text".to_owned())?;
        let envelope = form.is_encrypted().then(|| Envelope::decode(&block[SEGMENT_FIELDS_BYTES..])).transpose()?;
        Ok(SegmentHeader { shard, generation, first_offset, file_bytes, running_checksum, salt, form, envelope })
    }
}

impl RecordHeader {
    /// The header of a record, not encrypted, that follows one with running checksum `previous`.
    pub fn following(
        previous: u32,
        payload_bytes: u32,
        epoch: u64,
        offset: u64,
        time_ms: u64,
        payload_crc32c: u32,
    ) -> Self {
        let (running_checksum, form, nonce) = (0, Form::Plain, None);
        let mut header =
            RecordHeader { payload_bytes, epoch, offset, time_ms, payload_crc32c, running_checksum, form, nonce };
        header.running_checksum = header.checksum_after(previous);
        header
    }

    /// The running checksum after this record when it was `previous` before.
    pub fn checksum_after(&self, previous: u32) -> u32 {
        let mut fields = [0; 40];
        fields[..4].copy_from_slice(&previous.to_le_bytes());
        self.put_fields(&mut fields[4..]);
        crc32c::crc32c(&fields)
    }

    /// What the tag of a frame takes in besides the frame itself: what is known of the record before its payload is stored and, if payloads
    /// are framed, the frame's number. The number in the nonce alone would not do. With another nonce in the header, which is in no tag,
    /// frames could be put into another order.
    pub fn context(&self, frame: u32) -> Vec<u8> {
        let mut context = vec![0; 32];
        self.put_fields(&mut context);
        context.truncate(28);
        if self.form == Form::Framed {
            context.extend_from_slice(&frame.to_le_bytes());
        }
        context
    }

    /// Bytes of the payload as it is stored.
    pub fn stored_bytes(&self) -> usize {
        self.form.stored_bytes(self.payload_bytes as usize)
    }

    /// Bytes that the record takes in the file.
    pub fn file_bytes(&self) -> usize {
        record_bytes(self.stored_bytes())
    }

    fn put_fields(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[4..12].copy_from_slice(&self.epoch.to_le_bytes());
        out[12..20].copy_from_slice(&self.offset.to_le_bytes());
        out[20..28].copy_from_slice(&self.time_ms.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_crc32c.to_le_bytes());
    }

    /// The header as it stands in a segment with that salt.
    pub fn encode(&self, salt: u32) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[..4].copy_from_slice(&record_magic(salt));
        self.put_fields(&mut out[4..]);
        out[36..40].copy_from_slice(&self.running_checksum.to_le_bytes());
        out[SEALED_AT] = match self.form {
            Form::Plain => 0,
            Form::Whole => 1,
            Form::Framed => 2,
        };
        if let Some(nonce) = &self.nonce {
            out[SEALED_AT + 1..SEALED_AT + 1 + NONCE_BYTES].copy_from_slice(nonce);
        }
        let checksum = crc32c::crc32c_append(salt, &out[..RECORD_HEADER_BYTES - 4]);
        out[RECORD_HEADER_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header; none if these bytes are not a sound record header of a segment with that salt.
    pub fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if !has_record_magic(bytes, salt) {
            return None;
        }
        let mut fields = Fields(&bytes[4..]);
        let checksum = crc32c::crc32c_append(salt, &bytes[..RECORD_HEADER_BYTES - 4]);
        if Fields(&bytes[RECORD_HEADER_BYTES - 4..]).u32() != checksum {
            return None;
        }
        let mut header = RecordHeader {
            payload_bytes: fields.u32(),
            epoch: fields.u64(),
            offset: fields.u64(),
            time_ms: fields.u64(),
            payload_crc32c: fields.u32(),
            running_checksum: fields.u32(),
            form: Form::Plain,
            nonce: None,
        };
        header.form = match fields.take() {
            [0] => Form::Plain,
            [1] => Form::Whole,
            [2] => Form::Framed,
            _ => return None,
        };
        header.nonce = header.form.is_encrypted().then(|| fields.take());
        (1..=MAX_RECORD_PAYLOAD_BYTES).contains(&(header.payload_bytes as usize)).then_some(header)
    }

    /// Position after the record's last byte of log.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.payload_bytes))
    }
}

/// Why a segment of that version is not read.
fn foreign(version: u32, doubt: &str) -> String {
    let whose = match version {
        0 | 1 => "written by a version before the first release",
        4 | 5 => "one of a copy that several services keep, not of the log of a single one",
        _ => "written by a newer version",
    };
    let hint = if version > Form::Framed.version() { ": upgrade logservice" } else { "" };
    let read = Form::ALL.map(|form| form.version().to_string()).join(", ");
    format!("{whose} (segment format {version}, this one reads {read}){doubt}{hint}")
}

/// Whether a record header of a segment with that salt begins here, be it sound or not: cheap enough to ask at every
/// eighth byte of a segment.
pub fn has_record_magic(bytes: &[u8], salt: u32) -> bool {
    bytes.starts_with(&record_magic(salt))
}

fn record_magic(salt: u32) -> [u8; 4] {
    (RECORD_MAGIC ^ salt).to_le_bytes()
}

/// Takes fixed-size integers off a slice that the caller has checked to be long enough.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        let (head, rest) = self.0.split_at(BYTES.min(self.0.len()));
        out[..head.len()].copy_from_slice(head);
        self.0 = rest;
        out
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
