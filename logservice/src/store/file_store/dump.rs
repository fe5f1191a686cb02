//! Reads a shard's records as they stand in its files, for `logservice dump`. Changes nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::format::{record_bytes, RecordHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::open::{self, Found};
use super::segment::Segment;
use crate::store::{FileError, InFile, OpenError};

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The epoch of the leader that wrote it.
    pub epoch: u64,
    /// Position of its first byte of log.
    pub offset: u64,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
    /// The bytes.
    pub payload: Bytes,
}

/// Verifies the log of the shard in `directory`, then hands every record to `each`, in order, until that returns false.
/// Another process may serve the log meanwhile: what it overwrites is an error, never a wrong record.
pub fn for_each_record(directory: &Path, shard: &str, mut each: impl FnMut(Record) -> bool) -> Result<(), OpenError> {
    let Some(Found { segments, end, .. }) = open::verify(directory, shard)? else { return Ok(()) };
    let mut next = segments.first().map_or(end, |segment| segment.header.first_offset);
    for segment in segments {
        let mut position = SEGMENT_HEADER_BYTES;
        // Behind what was verified another process may be writing.
        while next < end {
            let Some((header, payload)) = read_record(&segment, position)? else { break };
            if header.offset != next {
                break;
            }
            let RecordHeader { epoch, offset, time_ms, .. } = header;
            if !each(Record { epoch, offset, time_ms, payload }) {
                return Ok(());
            }
            next = header.end();
            position += record_bytes(header.payload_bytes as usize) as u64;
        }
    }
    if next < end {
        let reason = format!("from offset {next} on it has changed since it was verified: another process trims it");
        return Err(OpenError::Damaged { path: directory.join("log"), position: 0, reason });
    }
    Ok(())
}

/// The record at `position` of the file, if there is a sound one.
fn read_record(segment: &Segment, position: u64) -> Result<Option<(RecordHeader, Bytes)>, FileError> {
    let read = |position: u64, wanted: usize| -> Result<BytesMut, FileError> {
        let mut buffer = BytesMut::zeroed(wanted.min(segment.file_bytes.saturating_sub(position) as usize));
        segment.file.read_exact_at(&mut buffer, position).in_file("cannot read", &segment.path)?;
        Ok(buffer)
    };
    let header = read(position, RECORD_HEADER_BYTES)?;
    let Some(header) = RecordHeader::decode(&header, segment.header.salt) else { return Ok(None) };
    let payload = read(position + RECORD_HEADER_BYTES as u64, header.payload_bytes as usize)?.freeze();
    let is_sound = payload.len() == header.payload_bytes as usize && crc32c::crc32c(&payload) == header.payload_crc32c;
    Ok(is_sound.then_some((header, payload)))
}
