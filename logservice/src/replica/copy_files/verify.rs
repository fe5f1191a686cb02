//! Verifies the segments of a copy that others follow, while the copy is used, at the pace and on the threads of the log of a single
//! service (`store/file_store/verify.rs`).

use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use raft::eraftpb::Entry;

use super::disk::Shared;
use super::format::SegmentHeader;
use super::records::{Records, Unsound};
use super::segment::{first_place, Segment};
use crate::base::file_error::InFile;
use crate::store::file_store::errors::damage_at;
use crate::store::file_store::verify::Pace;
use crate::store::file_store::workers::Job;
use crate::store::{Damage, OpenError};

/// Bytes of file after which the thread rests.
const REST_EVERY_BYTES: u64 = 256 << 10;

/// Verifies all records of a segment that count, shows their entries to `each`, and verifies that the copy continues in the segment with the
/// header `next`. `after_read` is called now and then. Blocks on I/O.
///
/// # Errors
/// It is damaged, or cannot be read, or `after_read` ended it.
pub fn verify_followed(
    segment: &Arc<Segment>,
    next: &SegmentHeader,
    each: &mut dyn FnMut(&Entry),
    after_read: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), OpenError> {
    let mut records = Records::new(segment.clone(), first_place(&segment.header));
    let mut rested_at = records.next.at;
    while records.next.before.index < next.before.index {
        let (index, at) = (records.next.index(), records.next.at);
        let damaged = |reason: String| Err(damage_at(&segment.path, at, reason).into());
        match records.next()? {
            Ok(record) => each(&record.entry),
            Err(Unsound::Wrong(reason)) => return damaged(reason),
            Err(Unsound::NoHeader | Unsound::Data) => {
                return damaged(format!("the record of index {index} is not sound"))
            }
        }
        if records.next.at >= rested_at + REST_EVERY_BYTES {
            rested_at = records.next.at;
            after_read().in_file("cannot read", &segment.path)?;
        }
    }
    if records.next.before != next.before {
        let reason =
            format!("it ends with {:?}, but the next segment begins after {:?}", records.next.before, next.before);
        return Err(damage_at(&segment.path, records.next.at, reason).into());
    }
    segment.note_verified();
    Ok(())
}

/// The older segments of a copy, to be verified.
pub struct Verification(pub Arc<Shared>);

impl Job for Verification {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        if let Some(_goes_on) = self.0.verifying.begin(&self.0.is_closing) {
            self.0.verify_older();
        }
        false
    }
}

impl Shared {
    /// Verifies what opening has not, until all of it is verified, damage is found, or the copy is closed.
    fn verify_older(&self) {
        let mut pace = Pace::new(&self.is_closing);
        let mut index = 0;
        while let Some((segment, next)) = self.log.unverified_from(index) {
            index = next.first_index();
            let damage = match verify_followed(&segment, &next, &mut |_| {}, &mut || pace.rest()) {
                Ok(()) => continue,
                Err(_) if self.is_closing.load(Ordering::Relaxed) => return,
                Err(OpenError::Damaged(damage)) => damage,
                Err(error) => Damage { place: segment.path.display().to_string(), reason: error.to_string() },
            };
            if self.stop_damaged(&damage, next.before.index) {
                return;
            }
            tracing::warn!("copy of '{}': damage in entries that are not needed any more: {damage}", self.group);
        }
    }
}
