//! The segments of one log in order.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use super::format::SegmentHeader;
use super::segment::Segment;

/// The segments of the log in order. Read by every replica, changed by the writer when it begins a new one.
#[derive(Debug, Default)]
pub struct Segments(RwLock<Vec<Arc<Segment>>>);

impl Segments {
    /// These segments, in order.
    pub fn new(segments: Vec<Arc<Segment>>) -> Self {
        Segments(RwLock::new(segments))
    }

    /// The segment in which `offset` lies or will lie; none if it lies before the first.
    pub fn holding(&self, offset: u64) -> Option<Arc<Segment>> {
        let segments = self.read();
        let after = segments.partition_point(|segment| segment.header.first_offset <= offset);
        after.checked_sub(1).and_then(|at| segments.get(at).cloned())
    }

    /// The segment that follows.
    pub fn after(&self, segment: &Segment) -> Option<Arc<Segment>> {
        let segments = self.read();
        let at = segments.partition_point(|other| other.header.first_offset <= segment.header.first_offset);
        segments.get(at).cloned()
    }

    /// Adds a segment behind the last.
    pub fn push(&self, segment: Arc<Segment>) {
        self.write().push(segment);
    }

    /// Takes out all segments.
    pub fn take_all(&self) -> Vec<Arc<Segment>> {
        std::mem::take(&mut *self.write())
    }

    /// Takes out the segments that lie wholly below `base`, leaving at least the last.
    pub fn take_below(&self, base: u64) -> Vec<Arc<Segment>> {
        let mut segments = self.write();
        let whole = segments.windows(2).take_while(|pair| pair[1].header.first_offset <= base).count();
        segments.drain(..whole).collect()
    }

    /// The first segment that begins at or after `offset`, is not verified and is not the last, and the header of the one that
    /// follows.
    pub fn unverified_from(&self, offset: u64) -> Option<(Arc<Segment>, SegmentHeader)> {
        let segments = self.read();
        let mut pairs = segments.windows(2);
        let pair = pairs.find(|pair| pair[0].header.first_offset >= offset && !pair[0].is_verified())?;
        Some((pair[0].clone(), pair[1].header.clone()))
    }

    /// How many there are, and the bytes they take.
    pub fn usage(&self) -> (u64, u64) {
        count(self.read().iter())
    }

    /// The ids of the keys with which they are encrypted.
    pub fn key_ids(&self) -> BTreeSet<String> {
        let segments = self.read();
        let envelopes = segments.iter().filter_map(|segment| segment.header.envelope.as_ref());
        envelopes.map(|envelope| envelope.key_id.clone()).collect()
    }

    /// How many of them are not verified, and the bytes those take.
    pub fn unverified(&self) -> (u64, u64) {
        count(self.read().iter().filter(|segment| !segment.is_verified()))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn count<'a>(segments: impl Iterator<Item = &'a Arc<Segment>>) -> (u64, u64) {
    segments.fold((0, 0), |(count, bytes), segment| (count + 1, bytes + segment.file_bytes))
}
