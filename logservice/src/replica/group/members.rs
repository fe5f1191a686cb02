//! Changes of the members. How they are changed is the consensus crate's: a learner is added by a simple change, and what replaces one
//! voter by another is a joint change, which needs a majority of the members before and of those after it. This decides which change is due.
//!
//! Whoever drives the group says who is wanted, again and again, and each call takes one step ([`Group::step_members`]): a new member is
//! a learner first, gets a base and the entries after it, and votes only when it has the log. Who is not wanted leaves with the same change.
//! A step that was lost, because leadership ended, is taken again by the next leader.

use std::collections::BTreeSet;

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
};
use raft::{Progress, ProgressState, StateRole};

use super::machine::Divergence;
use super::rule_switches::{holds, Rule};
use super::Group;

/// The index at which every group begins.
pub const FIRST_INDEX: u64 = 1;
/// Entries that a new member may be behind when it begins to vote. Those that are on their way under load are not fewer.
const BEHIND_ENTRIES: u64 = 64;

/// What came of a step towards the members that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembersStep {
    /// The members are those that are wanted, and each of them has that on its disk.
    Done,
    /// A change is proposed.
    Proposed,
    /// A change is on its way, or a new member has not caught up yet.
    Waits,
    /// This copy leads, and is not wanted: it hands over leadership first.
    HandsOver,
    /// This copy does not lead in that term.
    NotLeader,
}

/// Whether the members are `wanted`, and no change is under way.
pub fn are_members(members: &ConfState, wanted: &BTreeSet<u64>) -> bool {
    members.voters_outgoing.is_empty()
        && members.learners.is_empty()
        && members.voters.len() == wanted.len()
        && members.voters.iter().all(|voter| wanted.contains(voter))
}

/// Whether `member` has any part in the group.
pub fn is_member(members: &ConfState, member: u64) -> bool {
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = members;
    [voters, learners, voters_outgoing, learners_next].into_iter().any(|list| list.contains(&member))
}

impl Group {
    /// Takes the next step towards the `wanted` voters, if this copy leads in `term`. Only for a leader who has found out, since it leads,
    /// that nobody was told later of other members that are wanted: see docs/design/replication.md.
    pub fn step_members(&mut self, term: u64, wanted: &BTreeSet<u64>) -> MembersStep {
        if self.is_standing() || self.node.raft.state != StateRole::Leader || self.leading_in(term).is_none() {
            return MembersStep::NotLeader;
        }
        let raft = &self.node.raft;
        let members = raft.prs().conf().to_conf_state();
        if raft.has_pending_conf() || raft.lead_transferee.is_some() {
            return MembersStep::Waits;
        }
        if !members.voters_outgoing.is_empty() {
            // As a rule the crate does it. Its leader may have fallen before.
            return self.propose_members(ConfChangeV2::default());
        }
        if are_members(&members, wanted) {
            self.settled_in = self.is_known_to_all(&members).then_some(term);
            return if self.settled_in.is_some() { MembersStep::Done } else { MembersStep::Waits };
        }
        let is_new = |member: &&u64| !members.voters.contains(member) && !members.learners.contains(member);
        if let Some(&new) = wanted.iter().find(is_new) {
            return self.propose_members(change_of([(new, ConfChangeType::AddLearnerNode)]));
        }
        let learners = members.learners.iter().filter(|learner| wanted.contains(learner));
        if !learners.clone().all(|&learner| self.has_caught_up(learner)) {
            return MembersStep::Waits;
        }
        if !wanted.contains(&self.member) {
            return self.leave_leadership(wanted);
        }
        let voters = learners.map(|&learner| (learner, ConfChangeType::AddNode));
        let others = members.voters.iter().chain(&members.learners).filter(|member| !wanted.contains(member));
        let others = others.map(|&member| (member, ConfChangeType::RemoveNode));
        self.propose_members(change_of(voters.chain(others)))
    }

    /// Whether each of the `members` has on its disk that they are the members. One that has not needs a majority of those of before to be
    /// elected, who may be gone. When all have the change and know that it is committed, an entry is proposed: who has persisted that one
    /// has persisted before what it had applied.
    fn is_known_to_all(&mut self, members: &ConfState) -> bool {
        let since = self.machine.checkpoint().members.last().map_or(0, |&(since, _)| since);
        // The first members were never others.
        if since <= FIRST_INDEX || !holds(Rule::SpreadsMembers) {
            return true;
        }
        let raft = &self.node.raft;
        let of_all = |is_so: &dyn Fn(u64, &Progress) -> bool| {
            members.voters.iter().all(|&voter| raft.prs().get(voter).is_some_and(|progress| is_so(voter, progress)))
        };
        if let Some((_, index)) = self.spread.filter(|&(term, index)| term == raft.term && index > since) {
            return of_all(&|_, progress| progress.matched >= index);
        }
        let knows = |voter, progress: &Progress| voter == self.member || progress.committed_index >= since;
        if of_all(&|voter, progress| progress.matched >= since && knows(voter, progress)) {
            let term = raft.term;
            // If it is not taken, the next call proposes it.
            if self.node.propose(Vec::new(), Vec::new()).is_ok() {
                self.spread = Some((term, self.node.raft.raft_log.last_index()));
            }
        }
        false
    }

    fn has_caught_up(&self, learner: u64) -> bool {
        let last = self.node.raft.raft_log.last_index();
        let progress = self.node.raft.prs().get(learner);
        // A short log is soon followed by who has nothing of it: it has to have got its base, and entries. One that has the last entry has all,
        // also if nothing was sent since that would show that it follows.
        let follows = |progress: &Progress| progress.state == ProgressState::Replicate || progress.matched >= last;
        progress.is_some_and(|progress| {
            progress.recent_active && follows(progress) && progress.matched + BEHIND_ENTRIES >= last
        })
    }

    /// A leader that applies its own removal ends the group's work until another is elected, so it hands over before.
    fn leave_leadership(&mut self, wanted: &BTreeSet<u64>) -> MembersStep {
        let raft = &self.node.raft;
        let voters = raft.prs().iter().filter(|&(member, progress)| {
            wanted.contains(member) && progress.recent_active && raft.prs().conf().voters().contains(*member)
        });
        let best = voters.max_by_key(|(_, progress)| progress.matched).map(|(&member, _)| member);
        let Some(best) = best else { return MembersStep::Waits };
        self.transfer_to(best);
        MembersStep::HandsOver
    }

    fn propose_members(&mut self, change: ConfChangeV2) -> MembersStep {
        // Encoding what was just made does not fail.
        let Ok(data) = change.write_to_bytes() else { return MembersStep::Waits };
        let entry = Entry { entry_type: EntryType::EntryConfChangeV2, data: data.into(), ..Entry::default() };
        let mut message = Message { from: self.member, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        match self.node.raft.step(message) {
            Ok(()) => MembersStep::Proposed,
            Err(_) => MembersStep::NotLeader,
        }
    }

    /// Applies a change of the members, which is in force from here on.
    pub(super) fn change_members(&mut self, entry: &Entry) -> Result<(), Divergence> {
        let index = entry.index;
        let failed = |reason: String| Divergence::Members { index, reason };
        let mut change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|error| failed(error.to_string()))?;
        if !holds(Rule::TakesOutMembers) {
            change.mut_changes().iter_mut().for_each(|one| {
                if one.get_change_type() == ConfChangeType::RemoveNode {
                    one.set_change_type(ConfChangeType::AddNode);
                }
            });
        }
        let members = self.node.apply_conf_change(&change).map_err(|error| failed(error.to_string()))?;
        // A new member does not find itself among those of before it came.
        self.is_removed |= !is_member(&members, self.member)
            && is_member(&self.members_before(index), self.member)
            && holds(Rule::StopsWhenRemoved);
        self.machine.set_members(members);
        self.node.mut_store().set_checkpoint(self.machine.checkpoint().clone());
        self.settled_in = None;
        Ok(())
    }

    fn members_before(&self, index: u64) -> ConfState {
        super::members_at(&self.machine.checkpoint().members, index - 1)
    }
}

pub(super) fn change_of(changes: impl IntoIterator<Item = (u64, ConfChangeType)>) -> ConfChangeV2 {
    let single = |(node_id, change_type)| ConfChangeSingle { node_id, change_type, ..ConfChangeSingle::default() };
    ConfChangeV2 { changes: changes.into_iter().map(single).collect::<Vec<_>>().into(), ..ConfChangeV2::default() }
}
