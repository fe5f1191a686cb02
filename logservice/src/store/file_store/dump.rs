//! Reads a shard's records as they stand in its files, for `logservice dump`. Changes nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::format::{record_bytes, RecordHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::open::{self, Found};
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
pub fn for_each_record(directory: &Path, shard: &str, mut each: impl FnMut(Record) -> bool) -> Result<(), OpenError> {
    let Some(Found { segments, end, .. }) = open::verify(directory, shard)? else { return Ok(()) };
    for segment in segments {
        let read = |position: u64, wanted: usize| -> Result<BytesMut, FileError> {
            let mut buffer = BytesMut::zeroed(wanted);
            segment.file.read_exact_at(&mut buffer, position).in_file("cannot read", &segment.path)?;
            Ok(buffer)
        };
        let mut position = SEGMENT_HEADER_BYTES;
        while position + RECORD_HEADER_BYTES as u64 <= segment.file_bytes {
            let header = read(position, RECORD_HEADER_BYTES)?;
            let Some(header) = RecordHeader::decode(&header, segment.header.salt) else { break };
            // Behind what was verified another process may be writing.
            if header.offset >= end {
                return Ok(());
            }
            let payload = read(position + RECORD_HEADER_BYTES as u64, header.payload_bytes as usize)?.freeze();
            let RecordHeader { epoch, offset, time_ms, .. } = header;
            if !each(Record { epoch, offset, time_ms, payload }) {
                return Ok(());
            }
            position += record_bytes(header.payload_bytes as usize) as u64;
        }
    }
    Ok(())
}
