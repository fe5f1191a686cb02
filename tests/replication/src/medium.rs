//! What is on the medium of a disk: what a crash leaves.

use std::collections::VecDeque;

use logservice::replica::copy::{Base, Checkpoint, FoundCopy, Install, Persist, Position, Vote};
use logservice::replica::entry::{BadEntry, Content};
use raft::eraftpb::{ConfState, Entry};

use crate::rules::DiskRule;

/// A copy as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Medium {
    /// The vote.
    pub vote: Vote,
    /// Where the entries begin.
    pub base: Base,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The entries after the base, without a gap.
    entries: VecDeque<Entry>,
    /// The copy has lost what it may have acknowledged in terms up to this one.
    pub lost_in: Option<u64>,
}

/// A part of what is handed over. A crash leaves any number of them.
#[derive(Debug)]
pub enum Part {
    /// The copy begins anew.
    Install(Install),
    /// Another vote.
    Vote(Vote),
    /// An entry.
    Entry(Entry),
    /// Another checkpoint.
    Checkpoint(Checkpoint),
}

/// The parts of `persist`, in order.
pub fn parts_of(persist: Persist) -> Vec<Part> {
    let Persist { number: _, install, vote, entries, checkpoint } = persist;
    let first = install.map(Part::Install).into_iter().chain(vote.map(Part::Vote));
    first.chain(entries.into_iter().map(Part::Entry)).chain(checkpoint.map(Part::Checkpoint)).collect()
}

impl Medium {
    /// A copy that was just made.
    pub fn new(install: &Install) -> Self {
        let Install { base, checkpoint } = install.clone();
        Medium { base, checkpoint, ..Medium::default() }
    }

    /// A copy as it was found, with its entries.
    #[cfg(feature = "files")]
    pub fn of(found: FoundCopy, entries: Vec<Entry>) -> Self {
        let FoundCopy { vote, base, checkpoint, lost_in, .. } = found;
        Medium { vote, base, checkpoint, entries: entries.into(), lost_in }
    }

    /// The entries up to those of `base` are gone.
    #[cfg(feature = "files")]
    pub fn drop_to(&mut self, base: Base) {
        self.entries.drain(..(base.position.index - self.base.position.index) as usize);
        self.base = base;
    }

    /// The copy is damaged, and begins anew with the vote that it has.
    pub fn begin_anew(&mut self, install: &Install) {
        let lost_in = Some(self.vote.term.max(install.base.position.term));
        *self = Medium { vote: self.vote, lost_in, ..Medium::new(install) };
    }

    /// Index of the last entry, that of the base if there are none.
    pub fn last(&self) -> u64 {
        self.base.position.index + self.entries.len() as u64
    }

    /// The entry of that index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.base.position.index + 1)? as usize)
    }

    /// Whether the prefix up to `index` is here, of which the last entry has `term`.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.base.position.index || self.entry(index).is_some_and(|entry| entry.term == term)
    }

    /// Stores a part. `broken` is a rule that this disk does not keep. What is wrong with it, if anything is.
    pub fn write(&mut self, part: Part, broken: Option<DiskRule>) -> Result<(), String> {
        match part {
            Part::Install(Install { base, checkpoint }) => {
                self.entries.clear();
                (self.base, self.checkpoint) = (base, checkpoint);
                if broken == Some(DiskRule::KeepsVoteAtInstall) {
                    self.vote = Vote::default();
                }
            }
            Part::Vote(vote) if vote.term < self.vote.term => {
                return Err(format!("the vote goes back from {:?} to {vote:?}", self.vote));
            }
            Part::Vote(vote) => self.vote = vote,
            Part::Entry(entry) => return self.put(entry, broken),
            Part::Checkpoint(checkpoint) => self.checkpoint = checkpoint,
        }
        Ok(())
    }

    fn put(&mut self, entry: Entry, broken: Option<DiskRule>) -> Result<(), String> {
        let (index, last) = (entry.index, self.last());
        let Some(at) = index.checked_sub(self.base.position.index + 1).filter(|_| index <= last + 1) else {
            return Err(format!(
                "entry {index} is stored, and there are those from {} to {last}",
                self.base.position.index
            ));
        };
        let mut at = at as usize;
        if broken == Some(DiskRule::DropsReplacedTail) && at < self.entries.len() {
            self.entries[at] = entry;
            return Ok(());
        }
        if broken == Some(DiskRule::TruncatesNothingElse) && at < self.entries.len() {
            at = at.saturating_sub(1);
        }
        self.entries.truncate(at);
        self.entries.push_back(entry);
        Ok(())
    }

    /// Loses the last entry.
    pub fn lose_last(&mut self) {
        self.entries.pop_back();
    }

    /// Drops the entries of which all bytes lie below `offset`, or that lie before the log's last beginning, up to `upto`.
    pub fn trim(&mut self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Result<(), BadEntry> {
        let (mut position, mut keep_from) = (self.base.position, self.base.position);
        for entry in self.entries.iter().take_while(|entry| entry.index <= upto) {
            let content = Content::decode(entry)?;
            position = position.after(entry, end_after(&content, position));
            let is_beginning = matches!(&content, Content::State(state) if state.restart_at.is_some());
            if is_beginning || (position.end <= offset && keep_from.index + 1 == entry.index) {
                keep_from = position;
            }
        }
        self.entries.drain(..(keep_from.index - self.base.position.index) as usize);
        self.base = Base { position: keep_from, members: members_at(keep_from.index) };
        Ok(())
    }

    /// What is found when it is opened.
    pub fn found(&self) -> FoundCopy {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|&(_, term)| term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        let Medium { vote, base, checkpoint, lost_in, .. } = self.clone();
        FoundCopy { vote, base, checkpoint, last_index: self.last(), terms, lost_in }
    }
}

/// The end of the log after an entry that follows `before`.
pub fn end_after(content: &Content, before: Position) -> u64 {
    match content {
        Content::Nothing | Content::Members(_) => before.end,
        Content::Append(append) => append.end(),
        Content::State(state) => state.restart_at.unwrap_or(before.end),
    }
}
