//! What is on the medium of one copy.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry};

use crate::replica::copy::{Base, Checkpoint, FoundCopy, Install, Persist, Position, Vote};
use crate::replica::entry::Content;
use crate::store::{Damage, ReadError};

/// What is on the medium of one copy.
pub(super) struct Kept {
    vote: Vote,
    base: Base,
    checkpoint: Checkpoint,
    entries: VecDeque<Entry>,
    lost_in: Option<u64>,
    /// A write has failed: nothing is written until the machine starts again.
    pub(super) has_failed: bool,
}

impl Kept {
    pub(super) fn new(install: Install) -> Self {
        let Install { base, checkpoint } = install;
        Kept { vote: Vote::default(), base, checkpoint, entries: VecDeque::new(), lost_in: None, has_failed: false }
    }

    /// Begins anew, with the vote that there is.
    pub(super) fn begun_anew(&self, install: Install) -> Self {
        Kept { vote: self.vote, lost_in: Some(self.vote.term.max(install.base.position.term)), ..Kept::new(install) }
    }

    pub(super) fn persist(&mut self, persist: Persist) {
        if let Some(Install { base, checkpoint }) = persist.install {
            (self.base, self.checkpoint) = (base, checkpoint);
            self.entries.clear();
            self.forget_lost();
        }
        self.vote = persist.vote.unwrap_or(self.vote);
        if let Some(first) = persist.entries.first() {
            assert!(first.index > self.base.position.index && first.index <= self.last() + 1, "entries without a gap");
            assert!(first.index > self.checkpoint.position.index, "a committed entry is not replaced");
            self.entries.truncate((first.index - self.base.position.index - 1) as usize);
        }
        self.entries.extend(persist.entries);
        if let Some(checkpoint) = persist.checkpoint.filter(|next| next.position.index <= self.last()) {
            self.checkpoint = checkpoint;
            self.forget_lost();
        }
    }

    fn forget_lost(&mut self) {
        self.lost_in = self.lost_in.filter(|lost_in| *lost_in >= self.checkpoint.position.term);
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    fn last(&self) -> u64 {
        self.base.position.index + self.entries.len() as u64
    }

    pub(super) fn found(&self) -> FoundCopy {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|&(_, term)| term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        FoundCopy {
            vote: self.vote,
            base: self.base.clone(),
            checkpoint: self.checkpoint.clone(),
            last_index: self.last(),
            terms,
            lost_in: self.lost_in,
        }
    }

    pub(super) fn read_entries(&self, low: u64, high: u64, max_bytes: u64) -> Vec<Entry> {
        let mut bytes = 0;
        let skipped = low.saturating_sub(self.base.position.index + 1) as usize;
        let wanted = self.entries.iter().skip(skipped).take(high.saturating_sub(low) as usize);
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.data.len() as u64 + 1;
            is_first || bytes <= max_bytes
        };
        wanted.take_while(fits).cloned().collect()
    }

    /// Bytes of the log from `offset` on: at least one, at most `max_bytes`.
    pub(super) fn read_log(&self, offset: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        for entry in self.entries.iter().rev() {
            match content(entry)? {
                Content::Append(append) if append.offset <= offset && offset < append.end() => {
                    let skipped = (offset - append.offset) as usize;
                    let end = append.payload.len().min(skipped.saturating_add(max_bytes));
                    return Ok(append.payload.slice(skipped..end));
                }
                Content::State(state) if state.restart_at.is_some() => break,
                _ => {}
            }
        }
        Err(ReadError::Trimmed { offset })
    }

    pub(super) fn trim(&mut self, offset: u64, upto: u64, members_at: &dyn Fn(u64) -> ConfState) -> Base {
        let upto = upto.min(self.checkpoint.position.index);
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= upto) {
            let position = self.base.position;
            let end = match Content::decode(entry) {
                Ok(Content::Append(append)) => append.end(),
                Ok(Content::State(state)) => state.restart_at.unwrap_or(position.end),
                _ => position.end,
            };
            if end > offset {
                break;
            }
            let position: Position = position.after(entry, end);
            self.base = Base { position, members: members_at(position.index) };
            self.entries.pop_front();
        }
        self.base.clone()
    }
}

fn content(entry: &Entry) -> Result<Content, ReadError> {
    Content::decode(entry)
        .map_err(|error| ReadError::Damaged(Damage { place: "memory".to_owned(), reason: error.to_string() }))
}
