//! Reads a shard's log without serving it, for `logservice dump` and `logservice restore`. Changes nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::format::{record_bytes, RecordHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::open::{self, Found};
use super::reader::FileReader;
use super::segment::Segment;
use super::segments::Segments;
use crate::store::{FileError, InFile, LogReader, Manifest, OpenError, ReadError};

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

/// A shard's log as it was when it was looked at. If it is served meanwhile, parts of it may go: that is an error then, as what
/// is read is verified.
pub struct Look {
    /// The manifest.
    pub manifest: Manifest,
    /// The end of the log (exclusive).
    pub end: u64,
    segments: Vec<Arc<Segment>>,
}

impl Look {
    /// Verifies the log of the shard in `directory`. `None` if nothing was ever stored there. Blocks on I/O.
    pub fn open(directory: &Path, shard: &str) -> Result<Option<Self>, OpenError> {
        let found = open::verify(directory, shard)?;
        Ok(found.map(|Found { manifest, segments, end, .. }| Look { manifest, end, segments }))
    }

    /// Reads from `offset` on. Blocks on I/O.
    pub fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(FileReader::new(Arc::new(Segments::new(self.segments.clone())), offset)?))
    }

    /// Hands every record to `each`, in order, until that returns false. Blocks on I/O.
    pub fn for_each_record(&self, mut each: impl FnMut(Record) -> bool) -> Result<(), FileError> {
        for segment in &self.segments {
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
                if header.offset >= self.end {
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
}
