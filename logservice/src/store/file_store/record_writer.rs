//! Writes one record and syncs it.
//!
//! A payload that is encrypted in several frames is never in one piece: a frame is copied, encrypted, added to the checksum and written
//! while it is in the processor's own cache, and the disk begins with it at once. The header has the checksum of all of it, so it is written
//! last. Every other record is one write.
//!
//! # What a crash leaves
//!
//! The record before is synced when this one is begun. Between that and the sync of this one, any sectors of it may reach the medium, in
//! any order, whichever was written first. So recovery (`open.rs`) relies on no order, for records of one write and of several alike:
//!
//! - The header is not whole, or not there. Then this place has what was there before, or a mixture: zeros; what the file held when it
//!   was a segment before, under another salt; a part of the payload of a torn record that was cut. None of it passes for a header
//!   (`format.rs`). The header of a record that stood right here and was torn is gone: opening has overwritten it with zeros and synced
//!   that, before anything else was written. So the log ends here, and the next record overwrites what was written of this one.
//! - The header is whole, and the payload is not. Its checksum tells. The record is torn, and is cut.
//! - All of it is there. It is the log's last record. Whoever opens the log writes it again in one piece and syncs that before it counts
//!   as durable: the same bytes, so a crash meanwhile leaves the record as it is or torn, and torn only if it never was synced.
//!
//! If only the process ends, the kernel keeps what was written. Of a record of several writes the header is missing then, and of any other
//! it may stand before a part of the payload: the first and the second case.
//!
//! An error leaves the same. The writer is not used after one, and the log is opened anew.

use std::cell::RefCell;
use std::io::IoSlice;
use std::os::fd::AsRawFd;

use super::files::Step;
use super::form::Form;
use super::format::{RecordHeader, RECORD_HEADER_BYTES};
use super::segment::Segment;
use crate::base::file_error::{FileError, InFile};
use crate::encryption::{draw_nonce, TAG_BYTES};
use crate::store::Append;

/// What the kernel holds of a file in one piece. If it does not hold one, it has to read it before a part of it is written.
const PAGE_BYTES: u64 = 4096;

thread_local! {
    /// Where frames are encrypted. Each thread has one, not each shard: threads are few, and end when they have nothing to do.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes and syncs a batch as a record that follows one with the running checksum `previous`. Returns its header: `header` with how its
/// payload is stored and with the checksums. Blocks on I/O.
///
/// # Errors
/// A write or the sync failed. It is not known what of the record is on the medium.
pub fn write(
    segment: &Segment,
    position: u64,
    batch: &[Append],
    mut header: RecordHeader,
    previous: u32,
) -> Result<RecordHeader, FileError> {
    header.form = segment.header.form;
    match header.form {
        Form::Plain => write_plain(segment, position, batch, &mut header, previous)?,
        Form::Whole | Form::Framed => {
            let nonce = draw_nonce().in_file("cannot encrypt what is to be written to", &segment.path)?;
            header.nonce = Some(nonce);
            SEALED.with_borrow_mut(|sealed| write_sealed(segment, position, batch, &mut header, previous, sealed))?;
        }
    }
    Step::RecordSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)?;
    Ok(header)
}

fn write_plain(
    segment: &Segment,
    position: u64,
    batch: &[Append],
    header: &mut RecordHeader,
    previous: u32,
) -> Result<(), FileError> {
    header.payload_crc32c = batch.iter().fold(0, |checksum, append| crc32c::crc32c_append(checksum, &append.payload));
    header.running_checksum = header.checksum_after(previous);
    let header_bytes = header.encode(segment.header.salt);
    let mut parts = Vec::with_capacity(batch.len() + 1);
    parts.push(IoSlice::new(&header_bytes));
    parts.extend(batch.iter().map(|append| IoSlice::new(&append.payload)));
    write_parts(segment, position, &mut parts)
}

/// As [`write_plain`], encrypted in `sealed`.
fn write_sealed(
    segment: &Segment,
    position: u64,
    batch: &[Append],
    header: &mut RecordHeader,
    previous: u32,
    sealed: &mut Vec<u8>,
) -> Result<(), FileError> {
    let frame_bytes = header.form.frame_bytes();
    let frames = (header.payload_bytes as usize).div_ceil(frame_bytes) as u32;
    let mut payload = Payload { appends: batch, taken: 0 };
    let mut tags = Vec::with_capacity(frames as usize * TAG_BYTES);
    // Where in the file that goes which is in `sealed`.
    let mut at = position + RECORD_HEADER_BYTES as u64;
    sealed.clear();
    for number in 0..frames {
        let frame = sealed.len();
        payload.take(frame_bytes, sealed);
        let tag = segment.seal_frame(header, number, &mut sealed[frame..]);
        tags.extend(tag.in_file("cannot encrypt what is to be written to", &segment.path)?);
        let is_last = number + 1 == frames;
        if is_last {
            sealed.extend_from_slice(&tags);
        }
        header.payload_crc32c = crc32c::crc32c_append(header.payload_crc32c, &sealed[frame..]);
        if !is_last {
            // The rest of the last page goes with the next frame: the page is written whole, and once.
            let rest = (at + sealed.len() as u64) % PAGE_BYTES;
            let whole = sealed.len() - rest as usize;
            write_parts(segment, at, &mut [IoSlice::new(&sealed[..whole])])?;
            sealed.drain(..whole);
            begin_sync(segment, at, at + whole as u64);
            at += whole as u64;
        }
    }
    header.running_checksum = header.checksum_after(previous);
    let header_bytes = header.encode(segment.header.salt);
    if frames > 1 {
        write_parts(segment, at, &mut [IoSlice::new(sealed)])?;
        sealed.clear();
    }
    write_parts(segment, position, &mut [IoSlice::new(&header_bytes), IoSlice::new(sealed)])
}

/// Has the disk begin with what was written from `from` to `to` (exclusive), while the next frame is encrypted. Without it, the disk would
/// have nothing to do until the sync. The first page is left out unless all of it was written: the header is still to come.
fn begin_sync(segment: &Segment, from: u64, to: u64) {
    let from = from.next_multiple_of(PAGE_BYTES);
    if from >= to {
        return;
    }
    let descriptor = segment.file.as_raw_fd();
    // SAFETY: the file is open for as long as the segment is borrowed, and the call touches no memory of this process.
    //
    // A failure is not lost: the call does not wait, so it takes no error from the file that the sync would tell. Nothing relies on it.
    unsafe { libc::sync_file_range(descriptor, from as i64, (to - from) as i64, libc::SYNC_FILE_RANGE_WRITE) };
}

fn write_parts(segment: &Segment, position: u64, parts: &mut [IoSlice<'_>]) -> Result<(), FileError> {
    let written = Step::RecordWrite.write_all_vectored_at(&segment.file, parts, position);
    written.in_file("cannot write to", &segment.path)
}

/// What is still to be written of a record's payload.
struct Payload<'a> {
    appends: &'a [Append],
    /// Bytes of the first of them that were taken already.
    taken: usize,
}

impl Payload<'_> {
    /// Adds the next `bytes` to `out`, or all if there are fewer.
    fn take(&mut self, mut bytes: usize, out: &mut Vec<u8>) {
        while let Some((append, others)) = self.appends.split_first().filter(|_| bytes > 0) {
            let rest = &append.payload[self.taken..];
            let part = &rest[..rest.len().min(bytes)];
            out.extend_from_slice(part);
            bytes -= part.len();
            self.taken += part.len();
            if self.taken == append.payload.len() {
                (self.appends, self.taken) = (others, 0);
            }
        }
    }
}

#[cfg(all(test, feature = "failpoints"))]
#[path = "record_writer_tests.rs"]
mod tests;
