//! One segment file of a copy, and where in it records stand.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::format::{RecordHeader, SegmentHeader, SEGMENT_HEADER_BYTES};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::{DataKey, KeyError, KeyRing};
use crate::replica::copy::Position;
use crate::store::file_store::spare::UsedFile;

/// File bytes between two entries of a segment's index.
const INDEX_STEP_BYTES: u64 = 256 << 10;

/// A segment.
#[derive(Debug)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: File,
    /// Its header.
    pub header: SegmentHeader,
    /// Tells apart what lies before and after an entry that restarts the log. Of no meaning beyond this process.
    pub line: u64,
    key: Option<DataKey>,
    /// Index of the first entry in it that counts no more, because a later segment has others from there on.
    end_index: AtomicU64,
    /// Places of some records that were found sound, in order.
    places: Mutex<Vec<Place>>,
    is_verified: AtomicBool,
}

/// Where a record stands, or will stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What lies before it.
    pub before: Position,
    /// Position in the file of its header.
    pub at: u64,
}

impl Place {
    /// Index of the entry there.
    pub fn index(&self) -> u64 {
        self.before.index + 1
    }

    /// Where the record stands that follows one with that header, which stands here.
    pub fn after(&self, header: &RecordHeader) -> Self {
        Place { before: header.after, at: self.at + header.file_bytes() }
    }
}

impl Segment {
    /// A new segment, without records, in a file that is open already. `key` is the one in the header's envelope.
    pub fn new(path: PathBuf, file: File, header: SegmentHeader, key: Option<DataKey>, line: u64) -> Self {
        let places = Mutex::new(vec![first_place(&header)]);
        let (end_index, is_verified) = (AtomicU64::new(u64::MAX), AtomicBool::new(true));
        Segment { path, file, header, line, key, end_index, places, is_verified }
    }

    /// Opens a segment, for writing too if `writes`, and reads its header. The inner error says what is wrong with it. Records are not read.
    pub fn open(path: &Path, writes: bool) -> Result<Result<Self, String>, FileError> {
        let file = OpenOptions::new().read(true).write(writes).open(path).in_file("cannot open", path)?;
        let file_bytes = file.metadata().in_file("cannot read the size of", path)?.len();
        if file_bytes < SEGMENT_HEADER_BYTES {
            return Ok(Err("the file is too short for a segment".to_owned()));
        }
        let mut block = [0; SEGMENT_HEADER_BYTES as usize];
        file.read_exact_at(&mut block, 0).in_file("cannot read", path)?;
        Ok(SegmentHeader::decode(&block).and_then(|header| {
            if header.file_bytes != file_bytes {
                return Err(format!("the file has {file_bytes} bytes, and was made with {}", header.file_bytes));
            }
            Ok(Segment { is_verified: AtomicBool::new(false), ..Segment::new(path.to_owned(), file, header, None, 0) })
        }))
    }

    /// Finds the key of its data, if that is encrypted.
    ///
    /// # Errors
    /// It is not among `keys`.
    pub fn unlock(&mut self, keys: &KeyRing) -> Result<(), KeyError> {
        let open = |envelope| keys.open(envelope, &self.header.context());
        self.key = self.header.envelope.as_ref().map(open).transpose()?;
        Ok(())
    }

    /// The key of its data; none if that is not encrypted.
    pub fn key(&self) -> Option<&DataKey> {
        self.key.as_ref()
    }

    /// Reads the header of a record of this segment; none if these bytes are not a sound one. A plain record in an encrypted segment does
    /// not count, or anybody who can write to the disk could add to the log.
    pub fn decode_record(&self, bytes: &[u8]) -> Option<RecordHeader> {
        let header = RecordHeader::decode(bytes, self.header.salt)?;
        (header.nonce.is_some() == self.header.envelope.is_some()).then_some(header)
    }

    /// Index of the first entry that is not this segment's any more. Looked at anew before each record is used.
    pub fn end_index(&self) -> u64 {
        self.end_index.load(Ordering::Acquire)
    }

    /// From `index` on, other segments have the entries.
    pub fn end_at(&self, index: u64) {
        self.end_index.store(index, Ordering::Release);
    }

    /// Whether all records are known to be sound that were in it when it was opened.
    pub fn is_verified(&self) -> bool {
        self.is_verified.load(Ordering::Relaxed)
    }

    /// All records that were in it when it was opened are sound.
    pub fn note_verified(&self) {
        self.is_verified.store(true, Ordering::Relaxed);
    }

    /// Notes where a sound record stands, unless a near one is known. Any thread.
    pub fn note_record(&self, place: Place) {
        let mut places = self.places();
        let next = places.partition_point(|known| known.at <= place.at);
        let is_far_from_last = next.checked_sub(1).is_none_or(|last| place.at >= places[last].at + INDEX_STEP_BYTES);
        let is_far_from_next = places.get(next).is_none_or(|next| next.at >= place.at + INDEX_STEP_BYTES);
        if is_far_from_last && is_far_from_next {
            places.insert(next, place);
        }
    }

    /// A place at or before the entry of `index`, which is not before the first one.
    pub fn place_before(&self, index: u64) -> Place {
        let places = self.places();
        let after = places.partition_point(|place| place.index() <= index);
        places.get(after.saturating_sub(1)).copied().unwrap_or(first_place(&self.header))
    }

    /// A place from which reading leads to the byte of log at `offset`, which is not before the first one.
    pub fn place_before_offset(&self, offset: u64) -> Place {
        // Before the first entry the log may have ended anywhere.
        let places = self.places();
        let after = places.iter().skip(1).take_while(|place| place.before.end <= offset).last();
        after.copied().unwrap_or(first_place(&self.header))
    }

    /// The file, to be used for something else.
    pub fn into_file(self) -> UsedFile {
        let (path, file_bytes, is_encrypted) = (self.path, self.header.file_bytes, self.header.envelope.is_some());
        UsedFile { file: self.file, path, file_bytes, is_encrypted }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Where the first record of a segment stands, or will stand.
pub fn first_place(header: &SegmentHeader) -> Place {
    Place { before: header.before, at: SEGMENT_HEADER_BYTES }
}
