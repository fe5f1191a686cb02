//! How the payloads of a segment's records are stored: as they are, or encrypted in frames.

use super::format::MAX_RECORD_PAYLOAD_BYTES;
use crate::encryption::{Nonce, NONCE_BYTES, TAG_BYTES};

/// Bytes of payload in each frame but a record's last. So few that a frame is still in the processor's own cache when it is written; so
/// many that the system calls do not count (*measured* for 4 MiB: 2.9 ms of a core in one piece, 2.1 ms in frames of 256 KiB or 512 KiB,
/// 2.4 ms in frames of 64 KiB; the same without encryption takes 2.0 ms).
pub const FRAME_BYTES: usize = 256 << 10;

/// How payloads are stored; the same for all records of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Plain,
    /// Encrypted, each as one frame, whose number no tag takes in. Segments of this form are read and go on, and no new ones are begun.
    Whole,
    /// Encrypted, each in frames of [`FRAME_BYTES`].
    Framed,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Plain, Form::Whole, Form::Framed];

    /// The version of a segment of this form.
    pub fn version(self) -> u32 {
        match self {
            Form::Plain => 2,
            Form::Whole => 3,
            // 4 and 5 are those of copies that several services keep (`replica/copy_files/format.rs`).
            Form::Framed => 6,
        }
    }

    /// The form of a segment of that version.
    pub fn of_version(version: u32) -> Option<Self> {
        Form::ALL.into_iter().find(|form| form.version() == version)
    }

    /// Whether payloads are encrypted.
    pub fn is_encrypted(self) -> bool {
        self != Form::Plain
    }

    /// The most bytes of payload in a frame; a payload that is not encrypted has none.
    pub fn frame_bytes(self) -> usize {
        match self {
            Form::Plain | Form::Whole => MAX_RECORD_PAYLOAD_BYTES,
            Form::Framed => FRAME_BYTES,
        }
    }

    /// Bytes of a payload as it is stored: behind it stand the tags of its frames.
    pub fn stored_bytes(self, payload_bytes: usize) -> usize {
        let frames = if self.is_encrypted() { payload_bytes.div_ceil(self.frame_bytes()) } else { 0 };
        payload_bytes + frames * TAG_BYTES
    }
}

/// The nonce of a frame: that of its record, with the frame's number (from 0 on) XORed into its last four bytes.
pub fn frame_nonce(record: Nonce, number: u32) -> Nonce {
    let mut nonce = record;
    nonce.iter_mut().skip(NONCE_BYTES - 4).zip(number.to_le_bytes()).for_each(|(byte, number)| *byte ^= number);
    nonce
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
