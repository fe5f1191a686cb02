//! What the committed entries of a group add up to. The same on every service, as it depends on nothing but them.

use raft::eraftpb::{ConfState, Entry};

use super::rule_switches::{holds, Rule};
use crate::replica::copy::{Checkpoint, Position};
use crate::replica::entry::{BadEntry, Content};

/// What a group is after the entries that were applied.
#[derive(Debug, Clone)]
pub struct Machine {
    checkpoint: Checkpoint,
}

/// What an entry has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// Nothing.
    Nothing,
    /// The log has more bytes.
    Extended,
    /// The log is empty, and begins and ends at another place. The state is newer than that, and stays.
    BegunAnew,
    /// The state is another one.
    StateReplaced {
        /// The log is empty, and begins and ends at another place.
        restarted: bool,
    },
}

/// A committed entry cannot be applied. Its proposer has made sure that it can: this copy, or this program, is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Divergence {
    /// It cannot be read.
    #[error(transparent)]
    Bad(#[from] BadEntry),
    /// It does not continue the log.
    #[error("the entry of index {index} appends at offset {offset} in epoch {epoch}, but the log ends at {end} and epoch {current} writes")]
    NoContinuation {
        /// Which entry.
        index: u64,
        /// Where it appends.
        offset: u64,
        /// Who wrote it.
        epoch: u64,
        /// Where the log ends.
        end: u64,
        /// Who may write.
        current: u64,
    },
    /// It replaces another state than there is.
    #[error(
        "the entry of index {index} replaces the state with revision {revision}, but that is of revision {current}"
    )]
    OtherState {
        /// Which entry.
        index: u64,
        /// The revision that it would make.
        revision: u64,
        /// The revision that there is.
        current: u64,
    },
    /// It changes the members, and cannot.
    #[error("the entry of index {index} cannot change the members: {reason}")]
    Members {
        /// Which entry.
        index: u64,
        /// Why.
        reason: String,
    },
    /// An entry is missing.
    #[error("the entry of index {index} does not follow index {last}")]
    Gap {
        /// Which entry.
        index: u64,
        /// The last that was applied.
        last: u64,
    },
}

impl Machine {
    /// After the prefix of `checkpoint`.
    pub fn new(checkpoint: Checkpoint) -> Self {
        Machine { checkpoint }
    }

    /// Applies the next committed entry. Another set of members is noted by [`Machine::set_members`] besides.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Divergence> {
        let last = self.checkpoint.position;
        if entry.index != last.index + 1 {
            return Err(Divergence::Gap { index: entry.index, last: last.index });
        }
        let (mut end, mut applied) = (last.end, Applied::Nothing);
        match Content::decode(entry)? {
            Content::Nothing | Content::Members(_) => {}
            Content::Append(append) => {
                // While the state is newer than the log's end, its epoch is so too.
                let is_of_epoch = match self.is_state_ahead(entry.index) {
                    true => append.epoch <= self.checkpoint.epoch,
                    false => append.epoch == self.checkpoint.epoch,
                };
                if (append.offset != last.end || !is_of_epoch) && holds(Rule::AppliesWhatContinues) {
                    return Err(Divergence::NoContinuation {
                        index: entry.index,
                        offset: append.offset,
                        epoch: append.epoch,
                        end: last.end,
                        current: self.checkpoint.epoch,
                    });
                }
                (end, applied) = (append.end(), Applied::Extended);
            }
            Content::State(state) => {
                let (revision, current) = (state.revision, self.checkpoint.revision);
                let is_ahead = self.is_state_ahead(entry.index);
                let is_next = if is_ahead { revision <= current } else { revision == current + 1 };
                if !is_next {
                    return Err(Divergence::OtherState { index: entry.index, revision, current });
                }
                end = state.restart_at.unwrap_or(end);
                // A state that is ahead has taken this one in.
                if is_ahead && holds(Rule::KeepsNewerState) {
                    applied = if state.restart_at.is_some() { Applied::BegunAnew } else { Applied::Nothing };
                } else {
                    self.checkpoint.revision = revision;
                    self.checkpoint.epoch = state.epoch;
                    self.checkpoint.state = state.bytes;
                    applied = Applied::StateReplaced { restarted: state.restart_at.is_some() };
                }
            }
        }
        self.checkpoint.position = last.after(entry, end);
        if !self.is_state_ahead(entry.index) {
            self.checkpoint.state_index = entry.index;
        }
        Ok(applied)
    }

    /// Whether the state takes in entries up to one after `index`.
    fn is_state_ahead(&self, index: u64) -> bool {
        index <= self.checkpoint.state_index
    }

    /// Whether the state is that of the log's end.
    pub fn is_whole(&self) -> bool {
        self.checkpoint.position.index >= self.checkpoint.state_index
    }

    /// The members are others from the last entry that was applied on.
    pub fn set_members(&mut self, members: ConfState) {
        self.checkpoint.members.push((self.checkpoint.position.index, members));
    }

    /// Forgets which members there were before those of `index`.
    pub fn forget_members_before(&mut self, index: u64) {
        let members = &mut self.checkpoint.members;
        let after = members.partition_point(|&(from, _)| from <= index);
        members.drain(..after.saturating_sub(1));
    }

    /// The last entry that was applied.
    pub fn position(&self) -> Position {
        self.checkpoint.position
    }

    /// All that it remembers.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
