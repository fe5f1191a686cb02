//! Verifies the segments that others follow: while the shard is served, or at once when a directory is only inspected.
//!
//! Opening verifies only what it needs, the last segment (`open.rs`). Threads that all shards share, and that give way to everything
//! else, verify the others, oldest first: a starting node and the next snapshot read in that order, and the damage that is found first is
//! the one that `logservice check` names. Nothing waits for it, as a reader verifies what it returns. It only reads: after an
//! interruption the next opening begins again.
//!
//! Segments may be dropped meanwhile. Damage in one that the log does not need any more is logged and does no harm: what stands above
//! it was made of what readers had verified.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::errors::damage_at;
use super::format::SegmentHeader;
use super::scan::{scan_segment, AfterRead, Scanned, Tail};
use super::segment::{Place, Segment};
use super::workers::Job;
use super::{lock, Shared};
use crate::store::OpenError;

/// How long the thread rests after each read, as a multiple of the time that the read took. Without rests, appends would wait for the
/// disk.
const REST_FACTOR: u32 = 4;
/// The longest rest: how long closing a store may have to wait for it.
const REST_AT_MOST: Duration = Duration::from_millis(20);

/// Verifies all records of a segment, and that the log continues in the segment with the header `next`. Blocks on I/O.
///
/// # Errors
/// It is damaged, or cannot be read, or `after_read` ended it.
pub fn verify_followed(segment: &Segment, next: &SegmentHeader, after_read: AfterRead<'_>) -> Result<(), OpenError> {
    let Scanned { end: Place { offset: end, position, running_checksum }, tail, .. } =
        scan_segment(segment, after_read)?;
    let reason = match tail {
        Tail::Damaged { reason } => reason,
        // A crash tears the last record of the log only, and the one before this segment's end was synced.
        Tail::Torn { .. } => format!("the record of offset {end} is not sound"),
        Tail::Clean if end != next.first_offset => {
            format!("its records end at offset {end}, but the next segment begins at {}", next.first_offset)
        }
        Tail::Clean if running_checksum != next.running_checksum => ends_otherwise(end),
        Tail::Clean => {
            segment.note_verified();
            return Ok(());
        }
    };
    Err(damage_at(&segment.path, position, reason).into())
}

/// What is wrong with two segments that meet at offset `end` and do not belong together.
pub fn ends_otherwise(end: u64) -> String {
    format!("the running checksum at offset {end} is not the one with which the next segment begins")
}

/// Whether a thread verifies a store's older segments now. A store that waits for its turn may wait as long as the others take.
#[derive(Default)]
pub(crate) struct Verifying {
    goes_on: Mutex<bool>,
    over: Condvar,
}

impl Verifying {
    /// Waits until it is over. The caller sets `is_closing` first, after which a store that waits for its turn does nothing.
    pub fn wait_until_over(&self) {
        drop(self.over.wait_while(lock(&self.goes_on), |goes_on| *goes_on));
    }

    /// Begins; it is over when the result is dropped. None if the store is being closed.
    pub fn begin(&self, is_closing: &AtomicBool) -> Option<GoesOn<'_>> {
        let mut goes_on = lock(&self.goes_on);
        // Under the lock: either closing sees that it has begun, or it does not begin.
        if is_closing.load(Ordering::Relaxed) {
            return None;
        }
        *goes_on = true;
        Some(GoesOn(self))
    }
}

/// While it is there, somebody is at it.
pub(crate) struct GoesOn<'a>(&'a Verifying);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.goes_on) = false;
        self.0.over.notify_all();
    }
}

/// The older segments of a store, to be verified.
pub(super) struct Verification {
    store: Arc<Shared>,
    shard: String,
}

impl Verification {
    /// The verification of that store.
    pub fn new(store: Arc<Shared>, shard: &str) -> Self {
        Verification { store, shard: shard.to_owned() }
    }
}

impl Job for Verification {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        if let Some(_goes_on) = self.store.verifying.begin(&self.store.is_closing) {
            self.store.verify_older(&self.shard);
        }
        false
    }
}

impl Shared {
    /// Verifies what opening has not, until all of it is verified, damage is found, or the store is closed.
    fn verify_older(&self, shard: &str) {
        let (count, bytes) = self.segments.unverified();
        tracing::info!("shard {shard}: {count} older segments, {bytes} bytes, are verified while it is served");
        let begun = Instant::now();
        let mut pace = Pace::new(&self.is_closing);
        let (mut count, mut bytes, mut offset) = (0, 0, 0);
        while let Some((segment, next)) = self.segments.unverified_from(offset) {
            offset = next.first_offset;
            match verify_followed(&segment, &next, &mut || pace.rest()) {
                Ok(()) => (count, bytes) = (count + 1, bytes + segment.file_bytes),
                Err(_) if self.is_closing.load(Ordering::Relaxed) => return,
                Err(damage) if self.is_needed(&segment, &next, || self.stop_damaged(&damage)) => return,
                Err(damage) => tracing::warn!("shard {shard}: damage in log that is not needed any more: {damage}"),
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        tracing::info!("shard {shard}: {count} older segments, {bytes} bytes, are sound; that took {seconds:.1} s");
    }

    /// Whether the log still needs a segment that the one with the header `next` follows. If so, calls `then` before that can change.
    fn is_needed(&self, segment: &Segment, next: &SegmentHeader, then: impl FnOnce()) -> bool {
        let _replacing = lock(&self.replacing);
        let is_needed = {
            let manifest = lock(&self.manifest);
            segment.header.generation == manifest.generation && next.first_offset > manifest.base
        };
        if is_needed {
            then();
        }
        is_needed
    }

    /// Accepts nothing from here on, and reports the damage.
    fn stop_damaged(&self, damage: &OpenError) {
        self.queue.close();
        self.events.damaged(&damage.to_string());
    }
}

/// Rests after each read for [`REST_FACTOR`] times as long as the read and the verification of the one before it took. So it takes at
/// most a fifth of the disk's time and of a core.
pub(crate) struct Pace<'a> {
    is_closing: &'a AtomicBool,
    since: Instant,
}

impl<'a> Pace<'a> {
    /// Begins now. The scan ends when `is_closing` is set.
    pub fn new(is_closing: &'a AtomicBool) -> Self {
        Pace { is_closing, since: Instant::now() }
    }

    /// Called after each read.
    ///
    /// # Errors
    /// The store is being closed: the scan ends.
    pub fn rest(&mut self) -> io::Result<()> {
        failpoint()?;
        if !self.is_closing.load(Ordering::Relaxed) {
            thread::sleep((self.since.elapsed() * REST_FACTOR).min(REST_AT_MOST));
        }
        self.since = Instant::now();
        match self.is_closing.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// The failpoint `verify`: tests hold the verification here, or make a read fail.
#[cfg(feature = "failpoints")]
fn failpoint() -> io::Result<()> {
    fail::fail_point!("verify", |_| Err(rustix::io::Errno::IO.into()));
    Ok(())
}

#[cfg(not(feature = "failpoints"))]
fn failpoint() -> io::Result<()> {
    Ok(())
}
