//! Old entries that are read from the disk by another thread, and handed to the consensus crate when they are there: those for members that
//! are behind, and those that a copy which was opened has to apply. Whoever drives groups waits for no disk.

use std::collections::VecDeque;

use raft::eraftpb::Entry;
use raft::{Error, GetEntriesContext, StorageError};

use super::rule_switches::{holds, Rule};
use super::Group;
use crate::store::ReadError;

/// Bytes of entries that are read at a time: as many as some messages take.
const FETCH_BYTES: u64 = 4 << 20;
/// How many reads are under way, and the results of how many are kept: one for each other member, and as many for those that come.
const MOST_FETCHES: usize = 4;

/// Entries that are to be read: see [`super::Work::fetches`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// Index of the first.
    pub low: u64,
    /// Index after the last (exclusive). All of them are persisted.
    pub high: u64,
    /// Bytes of data after which no more need be read.
    pub max_bytes: u64,
    /// They are committed, and to be applied here. If not, another member lacks them.
    pub is_to_apply: bool,
    /// Tells apart what is read before and after entries were replaced.
    generation: u64,
}

/// What is being read for one purpose, and what was.
#[derive(Debug)]
pub struct Fetching {
    is_to_apply: bool,
    generation: u64,
    /// Not handed out yet.
    wanted: Vec<Fetch>,
    /// Under way or wanted, and who asked.
    asked: Vec<(Fetch, Vec<GetEntriesContext>)>,
    /// Entries without a gap each, the newest result last.
    fetched: VecDeque<Vec<Entry>>,
    /// An entry that was asked for and is not on the disk any more.
    trimmed: Option<u64>,
}

impl Fetching {
    /// Nothing was read yet.
    pub fn new(is_to_apply: bool) -> Self {
        Fetching {
            is_to_apply,
            generation: 0,
            wanted: Vec::new(),
            asked: Vec::new(),
            fetched: VecDeque::new(),
            trimmed: None,
        }
    }

    /// The entries from `low` on, if they were read. If not, they will be: then `LogTemporarilyUnavailable`, and `context` is told.
    pub fn get(
        &mut self,
        low: u64,
        high: u64,
        max_bytes: u64,
        context: Option<GetEntriesContext>,
    ) -> raft::Result<Vec<Entry>> {
        let unavailable = Err(Error::Store(StorageError::LogTemporarilyUnavailable));
        if self.trimmed.take_if(|trimmed| *trimmed == low).is_some() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if let Some(entries) = self.find(low, high, max_bytes) {
            return Ok(entries);
        }
        if let Some((_, waiting)) = self.asked.iter_mut().find(|(fetch, _)| fetch.low == low) {
            waiting.extend(context);
        } else if self.asked.len() < MOST_FETCHES {
            let (max_bytes, is_to_apply, generation) = (max_bytes.max(FETCH_BYTES), self.is_to_apply, self.generation);
            let fetch = Fetch { low, high, max_bytes, is_to_apply, generation };
            self.wanted.push(fetch);
            self.asked.push((fetch, context.into_iter().collect()));
        }
        unavailable
    }

    /// Entries that were read. A result of which the last one is handed out is kept no longer.
    fn find(&mut self, low: u64, high: u64, max_bytes: u64) -> Option<Vec<Entry>> {
        let holds_low = |entries: &Vec<Entry>| {
            let (first, last) = (entries.first(), entries.last());
            first.is_some_and(|first| first.index <= low) && last.is_some_and(|last| last.index >= low)
        };
        let at = self.fetched.iter().position(holds_low)?;
        let entries = &self.fetched[at];
        let skipped = (low - entries.first()?.index) as usize;
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.data.len() as u64 + 1;
            entry.index < high && (is_first || bytes <= max_bytes)
        };
        let found: Vec<_> = entries.iter().skip(skipped).take_while(fits).cloned().collect();
        if found.last().map(|entry| entry.index) == entries.last().map(|entry| entry.index) {
            self.fetched.remove(at);
        }
        Some(found)
    }

    /// What is to be read next.
    pub fn take_wanted(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.wanted)
    }

    /// Entries are others now than what was read, or is being read.
    pub fn forget(&mut self) {
        if holds(Rule::ForgetsFetched) {
            self.generation += 1;
            self.fetched.clear();
            self.trimmed = None;
        }
    }

    /// Takes what was read. Returns who asked for it.
    fn take(&mut self, fetch: Fetch, read: Result<Vec<Entry>, ReadError>) -> Vec<GetEntriesContext> {
        if fetch.generation == self.generation {
            match read {
                Ok(entries) => {
                    if self.fetched.len() == MOST_FETCHES {
                        self.fetched.pop_front();
                    }
                    self.fetched.push_back(entries);
                }
                Err(ReadError::Trimmed { .. }) => self.trimmed = Some(fetch.low),
                Err(_) => {}
            }
        }
        let at = self.asked.iter().position(|(asked, _)| *asked == fetch);
        at.map(|at| self.asked.remove(at).1).unwrap_or_default()
    }
}

impl Group {
    /// What was to be fetched was read. Another error than that it was trimmed is for the caller to act on, and any error of what is to be
    /// applied: nothing comes of it, and it is asked for again.
    pub fn fetched(&mut self, fetch: Fetch, read: Result<Vec<Entry>, ReadError>) {
        let is_there = matches!(read, Ok(_) | Err(ReadError::Trimmed { .. }));
        let store = self.node.mut_store();
        let fetching = if fetch.is_to_apply { store.applying() } else { store.fetching() };
        let waiting = fetching.take(fetch, read);
        if self.installing.is_none() && is_there {
            waiting.into_iter().for_each(|context| self.node.on_entries_fetched(context));
        }
    }
}
