//! Reads a shard's log without serving it, for `logservice dump` and `logservice restore`. Changes nothing.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::errors::damage_at;
use super::format::{RecordHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::open::{self, Found};
use super::reader::FileReader;
use super::segment::Segment;
use super::segments::Segments;
use crate::base::file_error::{FileError, InFile};
use crate::encryption::KeyRing;
use crate::store::{LogReader, Manifest, OpenError, ReadError, Record};

/// A shard's log as it was when it was opened. If it is served meanwhile, parts of it may be dropped or overwritten: reading those is an
/// error, as what is read is verified.
pub struct Look {
    /// The manifest.
    pub manifest: Manifest,
    /// The end of the log (exclusive).
    pub end: u64,
    segments: Vec<Arc<Segment>>,
}

impl Look {
    /// Verifies the log of the shard in `directory`, which is plain or encrypted with some of `keys`. `None` if nothing was ever stored
    /// there. Blocks on I/O.
    pub fn open(directory: &Path, shard: &str, keys: &KeyRing) -> Result<Option<Self>, OpenError> {
        let found = open::verify(directory, shard, Some(keys))?;
        Ok(found.map(|Found { manifest, segments, end, .. }| Look { manifest, end, segments }))
    }

    /// Reads from `offset` on. Blocks on I/O.
    pub fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        Ok(Box::new(FileReader::new(Arc::new(Segments::new(self.segments.clone())), offset)?))
    }

    /// Hands every record to `each`, in order, until that returns false. Another process may serve the log meanwhile: a record that it
    /// overwrites is an error, never a wrong record. Blocks on I/O.
    pub fn for_each_record(&self, mut each: impl FnMut(Record) -> bool) -> Result<(), OpenError> {
        let mut next = self.segments.first().map_or(self.end, |segment| segment.header.first_offset);
        for segment in &self.segments {
            let mut position = SEGMENT_HEADER_BYTES;
            // Another process may be writing behind what was verified.
            while next < self.end {
                let Some((header, payload)) = read_record(segment, position)? else { break };
                if header.offset != next {
                    break;
                }
                let RecordHeader { epoch, offset, time_ms, .. } = header;
                if !each(Record { epoch, offset, time_ms, payload }) {
                    return Ok(());
                }
                next = header.end();
                position += header.file_bytes() as u64;
            }
        }
        match self.segments.last().filter(|_| next < self.end) {
            None => Ok(()),
            Some(last) => {
                let path = last.path.parent().unwrap_or(&last.path).to_owned();
                let reason =
                    format!("from offset {next} on it has changed since it was verified: another process trims it");
                Err(damage_at(&path, 0, reason).into())
            }
        }
    }
}

/// The record at `position` of the file, if there is a sound one.
fn read_record(segment: &Segment, position: u64) -> Result<Option<(RecordHeader, Bytes)>, OpenError> {
    let read = |position: u64, wanted: usize| -> Result<BytesMut, FileError> {
        let mut buffer = BytesMut::zeroed(wanted.min(segment.file_bytes.saturating_sub(position) as usize));
        segment.file.read_exact_at(&mut buffer, position).in_file("cannot read", &segment.path)?;
        Ok(buffer)
    };
    let header = read(position, RECORD_HEADER_BYTES)?;
    let Some(header) = segment.decode_record(&header) else { return Ok(None) };
    let mut stored = read(position + RECORD_HEADER_BYTES as u64, header.stored_bytes())?;
    if stored.len() != header.stored_bytes() || crc32c::crc32c(&stored) != header.payload_crc32c {
        return Ok(None);
    }
    segment.open_payload(&header, &mut stored).map_err(|reason| damage_at(&segment.path, position, reason))?;
    stored.truncate(header.payload_bytes as usize);
    Ok(Some((header, stored.freeze())))
}
