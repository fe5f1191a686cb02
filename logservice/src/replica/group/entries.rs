//! The entries of a copy, as the consensus crate reads them: the newest from memory, older ones when they were read from the disk.
//!
//! A copy that was opened has nothing in memory. What others say to be committed of it is read from its disk before it is applied, by another
//! thread and in parts (`fetching.rs`): it may be much, and all groups of a service are driven by one thread.

use std::cell::RefCell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::fetching::Fetching;
use super::install;
use super::members::is_member;
use super::rule_switches::{holds, Rule};
use crate::replica::copy::{Base, Checkpoint, FoundCopy, Vote};

/// Bytes of entries that stay in memory after they are persisted and applied, for members that are a little behind.
const CACHED_BYTES: usize = 16 << 20;

/// The entries of a copy, and its vote when it was opened.
pub struct Entries {
    found: RaftState,
    base: Base,
    /// What a member gets that needs what lies below the base: the newest state.
    checkpoint: Checkpoint,
    /// The newest entries, without a gap up to the last one.
    cached: VecDeque<Entry>,
    cached_bytes: usize,
    /// Bytes of entries that stay in memory after they are persisted and applied.
    max_cached_bytes: usize,
    /// Index of the first that is cached; one more than the last entry's if none is.
    first_cached: u64,
    /// Up to here they are on the disk.
    persisted: u64,
    /// Older entries that were read for other members, or are to be.
    fetching: RefCell<Fetching>,
    /// Those that were read to be applied here, or are to be.
    applying: RefCell<Fetching>,
    /// The index of the first entry of each term, and the term. Ascending; those below the base but for the newest of them are gone.
    terms: VecDeque<(u64, u64)>,
}

impl Entries {
    /// Those of a copy as it was found.
    pub fn new(found: &FoundCopy) -> Self {
        let commit = found.checkpoint.position.index;
        // A copy that was just made has voted for nobody, not even in the term of its base.
        let term = found.vote.term.max(found.base.position.term);
        let hard_state = HardState { term, vote: found.vote.member, commit, ..HardState::default() };
        let members = found.checkpoint.members.last().map(|(_, members)| members.clone()).unwrap_or_default();
        Entries {
            found: RaftState::new(hard_state, members),
            base: found.base.clone(),
            checkpoint: found.checkpoint.clone(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            max_cached_bytes: CACHED_BYTES,
            first_cached: found.last_index + 1,
            persisted: found.last_index,
            fetching: RefCell::new(Fetching::new(false)),
            applying: RefCell::new(Fetching::new(true)),
            terms: found.terms.iter().copied().collect(),
        }
    }

    /// Adds entries. The first may be in the place of an older one, which is gone then with all after it.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.position.index && first.index <= self.last() + 1, "entries without a gap");
        if first.index <= self.last() {
            self.forget_read();
        }
        while self.cached.back().is_some_and(|last| last.index >= first.index) {
            let dropped = self.cached.pop_back();
            self.cached_bytes -= dropped.map_or(0, |entry| entry.data.len());
        }
        while self.terms.back().is_some_and(|&(index, _)| index >= first.index) {
            self.terms.pop_back();
        }
        self.first_cached = self.first_cached.min(first.index);
        self.persisted = self.persisted.min(first.index - 1);
        for entry in entries {
            let newest = self.terms.back().map_or(self.base.position.term, |&(_, term)| term);
            if entry.term != newest || self.terms.is_empty() {
                self.terms.push_back((entry.index, entry.term));
            }
            self.cached_bytes += entry.data.len();
            self.cached.push_back(entry.clone());
        }
    }

    /// Up to `index` they are on the disk, of `term`. If others are in their place by now, that tells nothing of these.
    pub fn note_persisted(&mut self, index: u64, term: u64) {
        if index > self.persisted && self.term_of(index) == Some(term) {
            self.persisted = index;
        }
    }

    /// Forgets what is on the disk, was applied, and is not of the newest.
    pub fn shrink(&mut self, applied: u64) {
        let keep_from = if holds(Rule::CachesUnpersisted) { self.persisted.min(applied) } else { self.last() };
        while self.cached_bytes > self.max_cached_bytes
            && self.cached.front().is_some_and(|first| first.index <= keep_from)
        {
            let dropped = self.cached.pop_front();
            self.cached_bytes -= dropped.map_or(0, |entry| entry.data.len());
            self.first_cached += 1;
        }
    }

    /// Keeps so many bytes in memory. For tests, which read from the disk before there is much.
    pub fn set_max_cached_bytes(&mut self, bytes: usize) {
        self.max_cached_bytes = bytes;
    }

    /// The state that a member gets that needs what lies below the base.
    pub fn set_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
    }

    /// The copy begins later than before.
    pub fn set_base(&mut self, base: Base) {
        if base.position.index <= self.base.position.index {
            return;
        }
        self.base = base;
        let (index, first) = (self.base.position.index, self.base.position.index + 1);
        while self.cached.front().is_some_and(|entry| entry.index < first) {
            let dropped = self.cached.pop_front();
            self.cached_bytes -= dropped.map_or(0, |entry| entry.data.len());
        }
        self.first_cached = self.first_cached.max(first);
        while self.terms.get(1).is_some_and(|&(next, _)| next <= index) {
            self.terms.pop_front();
        }
    }

    /// Begins anew after a base, without entries.
    pub fn install(&mut self, base: Base, checkpoint: Checkpoint) {
        let index = base.position.index;
        self.forget_read();
        self.cached.clear();
        self.terms.clear();
        (self.cached_bytes, self.first_cached, self.persisted) = (0, index + 1, index);
        (self.base, self.checkpoint) = (base, checkpoint);
    }

    /// What is read for other members.
    pub fn fetching(&mut self) -> &mut Fetching {
        self.fetching.get_mut()
    }

    /// What is read to be applied here.
    pub fn applying(&mut self) -> &mut Fetching {
        self.applying.get_mut()
    }

    fn forget_read(&mut self) {
        self.fetching().forget();
        self.applying().forget();
    }

    /// Where the copy begins.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Whether an entry is in memory.
    pub fn is_cached(&self, index: u64) -> bool {
        self.first_cached <= index && index <= self.last()
    }

    /// The index of the last entry.
    pub fn last(&self) -> u64 {
        self.first_cached + self.cached.len() as u64 - 1
    }

    fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.position.index {
            return Some(self.base.position.term);
        }
        if index < self.base.position.index || index > self.last() {
            return None;
        }
        let after = self.terms.partition_point(|&(first, _)| first <= index);
        Some(self.terms.get(after.checked_sub(1)?)?.1)
    }
}

impl Entries {
    /// Entries that only the disk has, as far as they were read.
    fn older(
        &self,
        low: u64,
        high: u64,
        max_bytes: Option<u64>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if context.can_async() {
            // For another member.
            let max_bytes = max_bytes.unwrap_or(u64::MAX);
            return self.fetching.borrow_mut().get(low, high, max_bytes, Some(context));
        }
        match max_bytes {
            // To be applied. Fewer than are wanted are an answer, and so is none: those that are missing are asked for again.
            Some(max_bytes) => Ok(self.applying.borrow_mut().get(low, high, max_bytes, None).unwrap_or_default()),
            // Who asks for all that are committed and not applied counts the changes of the members among them, and neither asks for votes nor
            // goes on to with one. There may be one among these.
            None => Ok(vec![Entry { entry_type: EntryType::EntryConfChangeV2, index: low, ..Entry::default() }]),
        }
    }
}

impl Storage for Entries {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.found.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.position.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max_size = max_size.into();
        if low < self.first_cached {
            return self.older(low, high.min(self.first_cached), max_size, context);
        }
        let max_bytes = max_size.unwrap_or(u64::MAX);
        let mut bytes = 0;
        let skipped = (low - self.first_cached) as usize;
        let wanted = self.cached.iter().skip(skipped).take((high - low) as usize);
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.data.len() as u64 + 1;
            is_first || bytes <= max_bytes
        };
        Ok(wanted.take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.position.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_of(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.position.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Where this copy begins, with the newest state: no bytes of the log. The members are those of the base, as the entries after it change
    /// them again at the receiver. If the receiver became one after the base, it is a learner from the base on: the crate takes no base of
    /// which the receiver is no member, and the entry that makes it a learner changes nothing then.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        if self.base.position.index < request_index {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        if !holds(Rule::TellsStateIndex) {
            let state_index = self.base.position.index;
            return Ok(install::encode(&self.base, &Checkpoint { state_index, ..self.checkpoint.clone() }));
        }
        let mut base = self.base.clone();
        if !holds(Rule::TellsMembersOfBase) {
            base.members = self.checkpoint.members.last().map(|(_, members)| members.clone()).unwrap_or_default();
        }
        if !is_member(&base.members, to) {
            base.members.learners.push(to);
        }
        Ok(install::encode(&base, &self.checkpoint))
    }
}

/// The vote in a state of the consensus crate.
pub fn vote_of(state: &HardState) -> Vote {
    Vote { term: state.term, member: state.vote }
}

/// The members that were in force after `index`.
pub fn members_at(members: &[(u64, ConfState)], index: u64) -> ConfState {
    let after = members.partition_point(|&(from, _)| from <= index);
    members.get(after.saturating_sub(1)).map(|(_, members)| members.clone()).unwrap_or_default()
}
