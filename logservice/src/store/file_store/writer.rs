//! Writes records: one at a time, each synced before the next begins, so that at most one can be torn by a crash.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::Step;
use super::form::Form;
use super::format::{record_bytes, RecordHeader, SegmentHeader, SEGMENT_HEADER_BYTES};
use super::quota::{self, OverQuota};
use super::record_writer;
use super::segment::{create_allocated, segment_name, Place, Segment};
use super::segments::Segments;
use super::spare::{Spare, SpareFile};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::KeyRing;
use crate::store::Append;

/// Temporary name of a segment for which no spare was ready.
pub const UNNAMED: &str = "unnamed";

/// Why a batch was not written.
#[derive(Debug)]
pub enum WriteError {
    /// There was no room for a new segment. Nothing reached the log; the same batch can be written later.
    NoSpace(FileError),
    /// The log has reached its bound. Nothing reached the log; the same batch can be written later.
    Quota(OverQuota),
    /// It is not known what reached the medium.
    Failed(FileError),
}

/// Writes the log of one shard.
pub struct Writer {
    /// The directory of the segments.
    pub directory: PathBuf,
    /// The shard's name, for the headers of segments.
    pub shard: String,
    /// The generation of the log.
    pub generation: u64,
    /// Length of new segments.
    pub segment_bytes: u64,
    /// The end of the log (exclusive).
    pub end: u64,
    /// The running checksum there.
    pub running_checksum: u32,
    /// The segment that is written; none before the first append of a log.
    pub active: Option<Active>,
    /// All segments, for readers.
    pub segments: Arc<Segments>,
    /// The next segment.
    pub spare: Arc<Spare>,
    /// The most that the segments take.
    pub max_log_bytes: Option<u64>,
    /// The keys that encrypt new segments.
    pub keys: Arc<KeyRing>,
}

/// The segment that is written.
pub struct Active {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where in the file the next record goes.
    pub position: u64,
    /// Whether it was logged that the segment keeps a key that is not for new segments any more.
    pub is_key_kept: bool,
}

impl Writer {
    /// Writes and syncs `batch`, appends of one epoch that continue the log, as one record.
    pub fn write(&mut self, batch: &[Append]) -> Result<(), WriteError> {
        let Some(epoch) = batch.first().map(|append| append.epoch) else { return Ok(()) };
        let payload_bytes: usize = batch.iter().map(|append| append.payload.len()).sum();
        if !self.active.as_ref().is_some_and(|active| active.takes(payload_bytes, &self.keys)) {
            match self.begin_segment() {
                Err(WriteError::NoSpace(_) | WriteError::Quota(_)) if self.keeps_key(payload_bytes) => {}
                begun => begun?,
            }
        }
        let Some(active) = &mut self.active else { return Ok(()) };
        let header = RecordHeader::following(self.running_checksum, payload_bytes as u32, epoch, self.end, now_ms(), 0);
        let segment = &active.segment;
        let header = record_writer::write(segment, active.position, batch, header, self.running_checksum)
            .map_err(WriteError::Failed)?;
        let whole = header.file_bytes() as u64;
        let (offset, position, running_checksum) = (self.end, active.position, self.running_checksum);
        segment.note_record(Place { offset, position, running_checksum });
        active.position += whole;
        self.end = header.end();
        self.running_checksum = header.running_checksum;
        if active.position > segment.file_bytes / 4 {
            self.spare.prepare(false);
        }
        Ok(())
    }

    /// Whether a record goes into the last segment because there is no space for one with another key: that segment has room, is
    /// encrypted, and its key is still known. The next record tries again to begin a segment.
    fn keeps_key(&mut self, payload_bytes: usize) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Some(envelope) = active.segment.header.envelope.as_ref() else { return false };
        let keeps = active.has_room(payload_bytes) && self.keys.has(&envelope.key_id);
        if keeps && !std::mem::replace(&mut active.is_key_kept, true) {
            tracing::warn!(
                "shard {}: there is no space for a segment with another key, so the last one goes on with key '{}' until there is, or until \
                 it is full",
                self.shard,
                envelope.key_id
            );
        }
        keeps
    }

    fn begin_segment(&mut self) -> Result<(), WriteError> {
        let usage = self.segments.usage();
        quota::check(self.max_log_bytes, usage, self.segment_bytes, &self.shard).map_err(WriteError::Quota)?;
        let first_of_log = self.active.is_none();
        let path = self.directory.join(segment_name(self.generation, self.end));
        let header = SegmentHeader {
            shard: self.shard.clone(),
            generation: self.generation,
            first_offset: self.end,
            file_bytes: self.segment_bytes,
            running_checksum: self.running_checksum,
            salt: random_salt().in_file("cannot draw a random number for", &path).map_err(WriteError::Failed)?,
            form: Form::Framed,
            envelope: None,
        };
        let drawn = self.keys.draw(&header.context()).in_file("cannot draw a key for", &path);
        let (key, envelope) = drawn.map_err(WriteError::Failed)?.unzip();
        let form = if key.is_some() { Form::Framed } else { Form::Plain };
        let header = SegmentHeader { form, envelope, ..header };
        let (file, unnamed) = match self.spare.take(first_of_log, header.envelope.is_some()) {
            Some(SpareFile { file, path, .. }) => (file, path),
            None => {
                // Not the spare's own name: that one may be in the making.
                let unnamed = self.directory.join(UNNAMED);
                (create_allocated(&unnamed, self.segment_bytes).map_err(no_space_or_failed)?, unnamed)
            }
        };
        let named = Step::SegmentHeaderWrite
            .write_all_at(&file, &header.encode(), 0)
            .and_then(|()| Step::SegmentHeaderSync.sync_all(&file))
            .in_file("cannot write the header of", &unnamed)
            .and_then(|()| Step::SegmentRename.rename(&unnamed, &path).in_file("cannot rename a segment to", &path));
        if let Err(error) = named {
            let _ = Step::UnnamedRemove.remove_file(&unnamed);
            return Err(no_space_or_failed(error));
        }
        Step::SegmentDirectorySync.sync_directory(&self.directory).map_err(WriteError::Failed)?;
        let segment = Arc::new(Segment::new(path, file, header, key));
        self.segments.push(segment.clone());
        self.active = Some(Active { segment, position: SEGMENT_HEADER_BYTES, is_key_kept: false });
        Ok(())
    }
}

impl Active {
    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.position == SEGMENT_HEADER_BYTES
    }

    /// Whether the next record may go here: there is room for it, and it is to be encrypted as those before it are. A first record has to
    /// go here: another segment would have the same name.
    fn takes(&self, payload_bytes: usize, keys: &KeyRing) -> bool {
        let envelope = self.segment.header.envelope.as_ref();
        let is_for_new = || keys.is_for_new(envelope.map(|envelope| envelope.key_id.as_str()));
        self.has_room(payload_bytes) && (self.is_empty() || is_for_new())
    }

    fn has_room(&self, payload_bytes: usize) -> bool {
        let whole = record_bytes(self.segment.header.form.stored_bytes(payload_bytes)) as u64;
        self.position + whole <= self.segment.file_bytes
    }
}

fn no_space_or_failed(error: FileError) -> WriteError {
    if error.is_no_space() {
        WriteError::NoSpace(error)
    } else {
        WriteError::Failed(error)
    }
}

fn random_salt() -> std::io::Result<u32> {
    Ok(getrandom::u32()?)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
