//! What the others are told earlier or later than the consensus crate would tell it.

use raft::eraftpb::{Message, MessageType};
use raft::StateRole;

use super::rule_switches::{holds, Rule};
use super::Group;

impl Group {
    /// Has messages leave that need not wait for the disk, though what they were made with does: answers to heartbeats. They tell a term,
    /// which has to be persisted, an index that a quorum has made committed, whatever this disk does, and nothing of this copy's entries. So a
    /// member whose disk hangs is heard, and two of them do not depose a leader that the disks of none of them would let another follow.
    pub(super) fn send_early(&mut self, messages: &mut Vec<Message>) {
        let persisted_term = self.persisted_term;
        let is_early = |message: &Message| {
            let is_answer = message.get_msg_type() == MessageType::MsgHeartbeatResponse;
            is_answer && (message.term <= persisted_term || !holds(Rule::TellsPersistedTerm))
        };
        let (early, late): (Vec<_>, Vec<_>) = std::mem::take(messages).into_iter().partition(is_early);
        self.messages.extend(early);
        *messages = late;
    }

    /// Tells the others what is committed, if nothing was proposed since that would have told it. To tell it at once would cost each of them
    /// a message and an answer for each entry. Those who wait for it follow a log at another service than the one that decides.
    pub(super) fn tell_commit(&mut self) {
        let committed = self.node.raft.raft_log.committed;
        if self.node.raft.state == StateRole::Leader && committed > self.told_commit {
            self.told_commit = committed;
            self.node.ping();
        }
    }

    /// Tells the others at once: a change of the state is committed.
    pub(super) fn tell_commit_now(&mut self) {
        if self.node.raft.state == StateRole::Leader {
            self.node.raft.bcast_append();
        }
    }
}
