//! What a group tells its service.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message};
use raft::StateRole;

use super::fetching::Fetch;
use super::leading::Outcome;
use super::Group;
use crate::replica::copy::{Persist, Position};

/// What a group tells its service, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This service decides over the log in `term`.
    Leads {
        /// The consensus term.
        term: u64,
    },
    /// It does not, or not any more.
    Follows {
        /// The newest term that it knows.
        term: u64,
        /// The member whose service decides; none if that is not known.
        leader: Option<u64>,
    },
    /// The bytes of the log up to `end` (exclusive) are committed, and persisted here.
    Committed {
        /// The end.
        end: u64,
    },
    /// The bytes of the log up to `end` (exclusive) are committed: a quorum has persisted them, and this copy perhaps not yet. Told only
    /// while its service decides, and only if [`Event::Committed`] cannot be told at the same time.
    Acknowledged {
        /// The last entry of them.
        index: u64,
        /// The end.
        end: u64,
    },
    /// The state is another one. With `restart_at` the log begins and ends there.
    StateReplaced {
        /// Its revision.
        revision: u64,
        /// The state.
        state: Bytes,
        /// Where the log begins anew.
        restart_at: Option<u64>,
    },
    /// What came of a proposal of another state.
    Proposed {
        /// Which one.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// Whether this service was certainly the only one that decides over the log, at some moment since that was asked.
    Confirmed {
        /// Which question.
        id: u64,
        /// False if that is not known.
        is_sole: bool,
    },
    /// The copy begins anew after a base that came from another service, or the log begins anew among the entries that lead up to the state
    /// that came with the base. What is said of the log before holds no more.
    Installed {
        /// Where it begins and ends now.
        end: u64,
    },
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Work {
    /// To other members. They may get lost.
    pub messages: Vec<Message>,
    /// For the disk, in order.
    pub persists: Vec<Persist>,
    /// For the service, in order.
    pub events: Vec<Event>,
    /// Old entries that are to be read from the disk, not by who drives the group, and given to [`Group::fetched`]. Those that are to be
    /// applied come first.
    pub fetches: Vec<Fetch>,
    /// This copy is no member any more: the group must stop here, once the rest is done.
    pub is_removed: bool,
}

/// A copy, for a page or a command.
#[derive(Debug, Clone)]
pub struct GroupStatus {
    /// The newest term.
    pub term: u64,
    /// Whether this copy's service decides over the log, or is about to.
    pub is_leader: bool,
    /// The member whose service does; none if that is not known.
    pub leader: Option<u64>,
    /// The last entry that was applied.
    pub applied: Position,
    /// The index up to which entries are committed.
    pub committed: u64,
    /// The last entry.
    pub last: u64,
    /// Where the copy begins.
    pub base: Position,
    /// The members.
    pub members: ConfState,
    /// What the leader knows of each member: its id, the index up to which it is known to have the entries, and whether it was heard in the
    /// last election time-out. Empty if this copy does not lead.
    pub copies: Vec<(u64, u64, bool)>,
    /// Whether this copy leads, and all members have on their disks that they are the members that are wanted.
    pub are_members_settled: bool,
    /// The copy has lost entries that it may have acknowledged in terms up to this one.
    pub lost_in: Option<u64>,
    /// Indexes, ascending, and the running checksums after the entries there.
    pub marks: Vec<(u64, u32)>,
}

impl GroupStatus {
    /// The members to which `own` may hand over, if it leads: voters that were heard a moment ago. With the index up to which each is known to
    /// have the entries.
    pub fn successors(&self, own: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let may_lead = move |&&(member, _, is_heard): &&(u64, u64, bool)| {
            member != own && is_heard && self.members.voters.contains(&member)
        };
        self.copies.iter().filter(may_lead).map(|&(member, matched, _)| (member, matched))
    }
}

impl Group {
    /// What there is to tell of it.
    pub fn status(&self) -> GroupStatus {
        let raft = &self.node.raft;
        let is_leader = raft.state == StateRole::Leader;
        let copies = raft.prs().iter().filter(|_| is_leader);
        GroupStatus {
            term: raft.term,
            is_leader,
            leader: Some(raft.leader_id).filter(|&leader| leader != 0),
            applied: self.machine.position(),
            committed: raft.raft_log.committed,
            last: raft.raft_log.last_index(),
            base: self.node.store().base().position,
            members: raft.prs().conf().to_conf_state(),
            copies: copies
                .map(|(&member, progress)| (member, progress.matched, self.is_heard(member, progress)))
                .collect(),
            are_members_settled: is_leader && self.settled_in == Some(raft.term),
            lost_in: self.lost_in,
            marks: self.marks.list(self.machine.position()),
        }
    }
}
