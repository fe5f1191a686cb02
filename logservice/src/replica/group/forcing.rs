//! Makes a copy go on without the others: `LOG.CLUSTER FORCE`, when two of three disks are lost.
//!
//! All entries of the copy count as committed: more of what was acknowledged is nowhere. Then come entries that end a change of the members,
//! if one is under way, and take all other members out. So whoever gets the log from here learns of the change from its entries, as of any
//! other.

use std::sync::Arc;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType};
use raft::{Config, RawNode};

use super::entries::Entries;
use super::machine::{Divergence, Machine};
use super::members::{change_of, is_member};
use crate::replica::copy::{CopyDisk, FoundCopy, Persist, Vote};
use crate::store::ReadError;

/// Bytes of entries that are read at a time.
const READ_BYTES: u64 = 16 << 20;

/// Why a copy cannot go on alone.
#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    /// An entry cannot be applied.
    #[error(transparent)]
    Divergence(#[from] Divergence),
    /// An entry cannot be read.
    #[error("an entry cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The consensus crate refuses.
    #[error("{0}")]
    Consensus(#[from] raft::Error),
    /// It never had the whole log.
    #[error("this copy never had the whole log: its service was still getting it")]
    NotWhole,
}

/// What makes the copy that was found on `disk` that of the only member: nothing of it is on the disk yet. Blocks on I/O.
///
/// # Errors
/// It cannot go on alone.
pub fn only_member(member: u64, disk: Arc<dyn CopyDisk>, found: &FoundCopy) -> Result<Persist, ForceError> {
    // Entries that it may have acknowledged are missing among those that it has.
    if found.lost_in.is_some_and(|lost_in| lost_in >= found.checkpoint.position.term) {
        return Err(ForceError::NotWhole);
    }
    let mut forced = Forced::new(member, found)?;
    let mut next = found.checkpoint.position.index + 1;
    while next <= found.last_index {
        for entry in disk.entries(next, found.last_index + 1, READ_BYTES)? {
            forced.apply(&entry)?;
            next = entry.index + 1;
        }
    }
    let members = forced.members();
    if !members.voters.contains(&member) || !forced.machine.is_whole() {
        return Err(ForceError::NotWhole);
    }
    if !members.voters_outgoing.is_empty() {
        forced.propose(ConfChangeV2::default())?;
    }
    let members = forced.members();
    let others = members.voters.iter().chain(&members.learners).filter(|other| **other != member);
    let others: Vec<_> = others.map(|&other| (other, ConfChangeType::RemoveNode)).collect();
    if !others.is_empty() {
        let mut change = change_of(others);
        change.set_transition(ConfChangeTransition::Explicit);
        forced.propose(change)?;
        forced.propose(ConfChangeV2::default())?;
    }
    let vote = Some(Vote { term: forced.term, member });
    let checkpoint = Some(forced.machine.checkpoint().clone());
    Ok(Persist { number: 1, install: None, vote, entries: forced.entries, checkpoint })
}

/// Whether a copy is that of the only member.
pub fn is_only_member(member: u64, found: &FoundCopy) -> bool {
    let members = found.checkpoint.members.last();
    members.is_some_and(|(_, members)| members.voters == [member] && members.voters_outgoing.is_empty())
}

struct Forced {
    /// Later than all that this copy knows of.
    term: u64,
    node: RawNode<Entries>,
    machine: Machine,
    entries: Vec<Entry>,
}

impl Forced {
    fn new(member: u64, found: &FoundCopy) -> Result<Self, raft::Error> {
        let applied = found.checkpoint.position.index;
        let config = Config { id: member, applied, ..Config::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, Entries::new(found), &logger)?;
        let newest = found.terms.last().map_or(found.base.position.term, |&(_, term)| term);
        let machine = Machine::new(found.checkpoint.clone());
        Ok(Forced { term: found.vote.term.max(newest) + 1, node, machine, entries: Vec::new() })
    }

    fn members(&self) -> ConfState {
        self.node.raft.prs().conf().to_conf_state()
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ForceError> {
        self.machine.apply(entry)?;
        if entry.get_entry_type() != EntryType::EntryNormal {
            let index = entry.index;
            let failed = |reason: String| Divergence::Members { index, reason };
            let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|error| failed(error.to_string()))?;
            let members = self.node.apply_conf_change(&change).map_err(|error| failed(error.to_string()))?;
            self.machine.set_members(members);
        }
        Ok(())
    }

    fn propose(&mut self, change: ConfChangeV2) -> Result<(), ForceError> {
        let index = self.machine.position().index + 1;
        let data = change.write_to_bytes().map_err(|error| Divergence::Members { index, reason: error.to_string() })?;
        let entry_type = EntryType::EntryConfChangeV2;
        let entry = Entry { entry_type, term: self.term, index, data: data.into(), ..Entry::default() };
        self.apply(&entry)?;
        self.entries.push(entry);
        debug_assert!(is_member(&self.members(), self.node.raft.id), "it takes others out");
        Ok(())
    }
}
