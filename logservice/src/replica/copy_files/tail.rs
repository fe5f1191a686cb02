//! The end of a copy's last segment: what a crash has torn there, and what only damage explains.
//!
//! Several records are written between two syncs, so a crash may leave any of them, and any parts of them. Each says how many of those
//! before it were not synced yet when it was written. So the first one that is not sound is *torn*, which means that it was never reported as
//! persisted, if each sound record behind it says that it was not synced before. If one says otherwise, it was synced, and this is damage.
//!
//! The last sound records may not have been synced either: their writer may have been killed before the sync, or the sync may have failed,
//! after which the kernel counts the pages as clean. So the last group is written once more before it is reported as persisted.

use std::sync::Arc;

use raft::eraftpb::Entry;

use super::format::{has_record_magic, RecordHeader, RECORD_HEADER_BYTES};
use super::records::{read_at, Records, Unsound};
use super::segment::{first_place, Place, Segment};
use crate::base::file_error::{FileError, InFile};
use crate::store::file_store::errors::damage_at;
use crate::store::file_store::files::Step;
use crate::store::OpenError;

/// What is read at a time behind the last sound record.
const WINDOW_BYTES: u64 = 256 << 10;

/// Where the sound records of a copy's last segment end.
#[derive(Debug)]
pub struct End {
    /// Where the next record goes.
    pub place: Place,
    /// Position in the file of the first record that may not have been synced; that of `place` if all were.
    pub group_at: u64,
    /// Position up to which (exclusive) there are headers of records that a crash has torn.
    pub torn_to: Option<u64>,
}

/// Reads all records of a segment that no other follows, and shows each entry to `each`. Blocks on I/O.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn find_end(segment: &Arc<Segment>, each: &mut dyn FnMut(&Entry)) -> Result<End, OpenError> {
    let first = first_place(&segment.header);
    let mut records = Records::new(segment.clone(), first);
    let mut group_at = first.at;
    loop {
        match records.next()? {
            Ok(record) => {
                if record.header.unsynced == 0 {
                    group_at = record.place.at;
                }
                each(&record.entry);
            }
            Err(unsound) => {
                let place = records.next;
                let torn_to = examine(segment, place, unsound)?;
                return Ok(End { place, group_at: group_at.min(place.at), torn_to });
            }
        }
    }
}

/// What lies from `place` on, where no sound record stands: up to where there are headers of torn records, if there are any.
fn examine(segment: &Segment, place: Place, unsound: Unsound) -> Result<Option<u64>, OpenError> {
    let damaged = |reason: String| Err(damage_at(&segment.path, place.at, reason).into());
    if let Unsound::Wrong(reason) = unsound {
        return damaged(reason);
    }
    let (salt, file_bytes) = (segment.header.salt, segment.header.file_bytes);
    let mut torn_to = None;
    let mut at = place.at;
    while at < file_bytes {
        let bytes = read(segment, at, WINDOW_BYTES.min(file_bytes - at))?;
        for (step, _) in bytes.chunks(8).enumerate().filter(|(_, begin)| has_record_magic(begin, salt)) {
            let candidate = at + step as u64 * 8;
            let header = read(segment, candidate, (RECORD_HEADER_BYTES as u64).min(file_bytes - candidate))?;
            torn_to = Some(candidate + header.len() as u64);
            let Some(later) = RecordHeader::decode(&header, salt).filter(|_| candidate > place.at) else { continue };
            let index = later.after.index;
            if index > place.index() && index.saturating_sub(u64::from(later.unsynced)) > place.index() {
                return damaged(format!(
                    "the record of index {} is not sound, but was synced before that of index {index} was written, which stands at byte \
                     {candidate}",
                    place.index()
                ));
            }
        }
        at += WINDOW_BYTES;
    }
    Ok(torn_to)
}

fn read(segment: &Segment, at: u64, bytes: u64) -> Result<Vec<u8>, FileError> {
    read_at(segment, at, bytes as usize).in_file("cannot read", &segment.path)
}

/// Overwrites the headers of torn records with zeros, so that none is taken for a record later.
pub fn cut(segment: &Segment, end: &End) -> Result<(), FileError> {
    let Some(torn_to) = end.torn_to else { return Ok(()) };
    let (at, bytes) = (end.place.at, torn_to - end.place.at);
    Step::CutWrite.write_all_at(&segment.file, &vec![0; bytes as usize], at).in_file("cannot cut", &segment.path)?;
    Step::CutSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)?;
    tracing::warn!(
        "torn tail cut: {} at byte {at}, {bytes} bytes; the copy ends at index {}",
        segment.path.display(),
        end.place.before.index
    );
    Ok(())
}

/// Writes and syncs the last group of records once more.
pub fn write_again(segment: &Segment, end: &End) -> Result<(), FileError> {
    let records = read(segment, end.group_at, end.place.at - end.group_at)?;
    Step::LastRecordWrite
        .write_all_at(&segment.file, &records, end.group_at)
        .in_file("cannot write to", &segment.path)?;
    Step::LastRecordSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)
}
