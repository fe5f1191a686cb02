//! The truth: all entries that were ever committed, and what they add up to. Judged apart from the code that is tested.

use bytes::Bytes;
use logservice::replica::copy::{Install, Position};
use logservice::replica::entry::Content;
use raft::eraftpb::Entry;

use crate::medium::end_after;
use crate::voters::Voters;

/// What a group is after an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Where the log ends.
    pub position: Position,
    /// Revision of the state.
    pub revision: u64,
    /// The epoch whose appends may follow.
    pub epoch: u64,
    /// The state.
    pub state: Bytes,
}

/// The committed entries.
pub struct Truth {
    first: u64,
    entries: Vec<Entry>,
    /// One more than entries: the first is that of the beginning.
    sums: Vec<Sum>,
    /// Who votes, from which index on.
    voters: Vec<(u64, Voters)>,
}

impl Truth {
    /// Before the first entry.
    pub fn new(install: &Install) -> Self {
        let Install { base, checkpoint } = install;
        let sum = Sum {
            position: base.position,
            revision: checkpoint.revision,
            epoch: checkpoint.epoch,
            state: checkpoint.state.clone(),
        };
        let voters = (base.position.index, Voters::of(&base.members));
        Truth { first: base.position.index + 1, entries: Vec::new(), sums: vec![sum], voters: vec![voters] }
    }

    /// The index of the last committed entry.
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// The entry of that index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.first)? as usize)
    }

    /// What the group is after the entry of that index.
    pub fn sum(&self, index: u64) -> Option<&Sum> {
        self.sums.get((index + 1).checked_sub(self.first)? as usize)
    }

    /// Who votes after the entry of that index.
    pub fn voters(&self, index: u64) -> Option<&Voters> {
        self.voters.iter().rev().find(|(from, _)| *from <= index).map(|(_, voters)| voters)
    }

    /// The next entry is committed. What is wrong with it, if anything is.
    pub fn extend(&mut self, entry: &Entry) -> Result<(), String> {
        let Some(before) = self.sums.last() else { return Err("there is no beginning".to_owned()) };
        let content = Content::decode(entry).map_err(|error| error.to_string())?;
        let mut next =
            Sum { position: before.position.after(entry, end_after(&content, before.position)), ..before.clone() };
        match content {
            Content::Nothing => {}
            Content::Members(_) => {
                let Some((_, before)) = self.voters.last() else { return Err("nobody votes".to_owned()) };
                let voters = before.after(entry).map_err(|error| format!("entry {}: {error}", entry.index))?;
                self.voters.push((entry.index, voters));
            }
            Content::Append(append) => {
                if (append.epoch, append.offset) != (before.epoch, before.position.end) {
                    return Err(format!(
                        "entry {} is committed, which appends at {} in epoch {}, and the log ends at {} in epoch {}",
                        entry.index, append.offset, append.epoch, before.position.end, before.epoch
                    ));
                }
            }
            Content::State(state) => {
                if state.revision != before.revision + 1 {
                    let (index, revision) = (entry.index, state.revision);
                    return Err(format!("entry {index} makes revision {revision}, and {} stands", before.revision));
                }
                (next.revision, next.epoch, next.state) = (state.revision, state.epoch, state.bytes);
            }
        }
        self.entries.push(entry.clone());
        self.sums.push(next);
        Ok(())
    }
}
