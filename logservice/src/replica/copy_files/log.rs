//! The segments of a copy in order.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::format::SegmentHeader;
use super::segment::Segment;
use crate::replica::copy::Position;

/// The segments of a copy in order. Each begins where the one before it ends to count.
#[derive(Debug)]
pub struct Log(RwLock<Listed>);

#[derive(Debug)]
struct Listed {
    /// What is not there as entries.
    base: Position,
    /// The line of what lies before the first segment.
    base_line: u64,
    segments: Vec<Arc<Segment>>,
    last_line: u64,
}

impl Log {
    /// A copy without entries that begins after `base`.
    pub fn new(base: Position) -> Self {
        Log(RwLock::new(Listed { base, base_line: 0, segments: Vec::new(), last_line: 0 }))
    }

    /// The line of a segment that is to follow the entry before `header`'s first.
    pub fn line_for(&self, header: &SegmentHeader) -> u64 {
        let listed = self.read();
        match header.restart_at {
            Some(_) => listed.last_line + 1,
            None => listed.line_of(header.before.index),
        }
    }

    /// Adds a segment. It takes the place of all entries from its first index on: segments that hold nothing else are returned.
    pub fn push(&self, segment: Arc<Segment>) -> Vec<Arc<Segment>> {
        let mut listed = self.write();
        let first = segment.header.first_index();
        let kept = listed.segments.partition_point(|before| before.header.first_index() < first);
        let superseded = listed.segments.split_off(kept);
        superseded.iter().chain(listed.segments.last()).for_each(|before| before.end_at(first));
        listed.last_line = listed.last_line.max(segment.line);
        listed.segments.push(segment);
        superseded
    }

    /// Begins anew after `base`, without entries. Returns the segments that there were.
    pub fn install(&self, base: Position) -> Vec<Arc<Segment>> {
        let mut listed = self.write();
        listed.last_line += 1;
        (listed.base, listed.base_line) = (base, listed.last_line);
        std::mem::take(&mut listed.segments)
    }

    /// How many of the first segments can go: the last one stays, and `may_go` is asked of each with the header of the one that follows.
    /// Returns what lies before the first that stays, if any can go.
    pub fn droppable(&self, may_go: impl Fn(&Segment, &SegmentHeader) -> bool) -> Option<(usize, Position)> {
        let listed = self.read();
        let count = listed.segments.windows(2).take_while(|pair| may_go(&pair[0], &pair[1].header)).count();
        let first = listed.segments.get(count).filter(|_| count > 0)?;
        Some((count, first.header.before))
    }

    /// Drops the segments before the entry that follows `base`, which begins a segment. Returns them.
    pub fn drop_before(&self, base: Position) -> Vec<Arc<Segment>> {
        let mut listed = self.write();
        let count = listed.segments.partition_point(|segment| segment.header.first_index() <= base.index);
        let dropped: Vec<_> = listed.segments.drain(..count).collect();
        if let Some(last) = dropped.last() {
            (listed.base, listed.base_line) = (base, last.line);
        }
        dropped
    }

    /// What is not there as entries.
    pub fn base(&self) -> Position {
        self.read().base
    }

    /// The first segment.
    pub fn first(&self) -> Option<Arc<Segment>> {
        self.read().segments.first().cloned()
    }

    /// The segment that holds the entry of `index`, or what is not there as entries if that is the last of it. Both as they are at one
    /// moment: log is dropped meanwhile.
    pub fn before(&self, index: u64) -> Result<Arc<Segment>, Position> {
        let listed = self.read();
        match listed.holding(index).filter(|_| index > listed.base.index) {
            Some(segment) => Ok(segment.clone()),
            None => Err(listed.base),
        }
    }

    /// The segment that holds the entry of `index`, or will hold it; none if that lies before the first.
    pub fn holding(&self, index: u64) -> Option<Arc<Segment>> {
        self.read().holding(index).cloned()
    }

    /// The segment that holds the byte of log at `offset`, or will hold it, as the log is after the entry of `index`.
    pub fn holding_offset(&self, offset: u64, index: u64) -> Option<Arc<Segment>> {
        let listed = self.read();
        let line = listed.line_of(index);
        let of_line = listed.segments.iter().filter(|segment| segment.line == line);
        of_line.take_while(|segment| segment.header.first_offset() <= offset).last().cloned()
    }

    /// The first segment of the log as it is after the entry of `index`; none if there is no entry.
    pub fn first_of_line(&self, index: u64) -> Option<Arc<Segment>> {
        let listed = self.read();
        let line = listed.line_of(index);
        listed.segments.iter().find(|segment| segment.line == line).cloned()
    }

    /// The line of the log as it is after the entry of `index`.
    pub fn line_of(&self, index: u64) -> u64 {
        self.read().line_of(index)
    }

    /// The segment that follows at `index`, the first entry that is not in `segment`.
    pub fn after(&self, segment: &Segment, index: u64) -> Option<Arc<Segment>> {
        let listed = self.read();
        let next = listed.segments.iter().find(|next| next.header.sequence > segment.header.sequence)?;
        (next.header.first_index() == index).then(|| next.clone())
    }

    /// The first segment that begins at or after `index`, is not verified and is not the last, and the header of the one that follows.
    pub fn unverified_from(&self, index: u64) -> Option<(Arc<Segment>, SegmentHeader)> {
        let listed = self.read();
        let mut pairs = listed.segments.windows(2);
        let pair = pairs.find(|pair| pair[0].header.first_index() >= index && !pair[0].is_verified())?;
        Some((pair[0].clone(), pair[1].header.clone()))
    }

    /// How many segments there are, and the bytes they take.
    pub fn usage(&self) -> (u64, u64) {
        count(self.read().segments.iter())
    }

    /// How many of them are not verified, and the bytes those take.
    pub fn unverified(&self) -> (u64, u64) {
        count(self.read().segments.iter().filter(|segment| !segment.is_verified()))
    }

    /// How many of them are not encrypted.
    pub fn plain_segments(&self) -> usize {
        self.read().segments.iter().filter(|segment| segment.header.envelope.is_none()).count()
    }

    /// The ids of the keys with which they are encrypted.
    pub fn key_ids(&self) -> BTreeSet<String> {
        let listed = self.read();
        let envelopes = listed.segments.iter().filter_map(|segment| segment.header.envelope.as_ref());
        envelopes.map(|envelope| envelope.key_id.clone()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Listed> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Listed> {
        self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Listed {
    fn holding(&self, index: u64) -> Option<&Arc<Segment>> {
        let after = self.segments.partition_point(|segment| segment.header.first_index() <= index);
        self.segments.get(after.checked_sub(1)?)
    }

    fn line_of(&self, index: u64) -> u64 {
        self.holding(index).map_or(self.base_line, |segment| segment.line)
    }
}

fn count<'a>(segments: impl Iterator<Item = &'a Arc<Segment>>) -> (u64, u64) {
    segments.fold((0, 0), |(count, bytes), segment| (count + 1, bytes + segment.header.file_bytes))
}
