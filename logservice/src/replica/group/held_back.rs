//! A copy that does not ask for votes, and gives its own.
//!
//! A copy that has lost entries or has no space must not lead (`lost.rs`). One that has not read what it has to apply cannot: there may be a
//! change of the members among it, and the consensus crate asks for no votes before that is applied.
//!
//! The crate gives no vote either for an election time-out after it has heard a leader, and counts that time anew whenever its own time to ask
//! has come, also if it does not ask. A copy that never asks would so deny its vote most of the time, and the one that asks might always come
//! when it does: with one of three services dead, nobody would ever be elected. So time stands still for such a copy just before it would
//! ask, when it knows already that there is no leader.

use super::{Group, ELECTION_TICKS};

/// The most ticks that the crate lets a copy wait before it asks for votes.
const MOST_TICKS: usize = 2 * ELECTION_TICKS - 1;

impl Group {
    /// Whether the copy must not ask for votes.
    pub(super) fn must_not_lead(&self) -> bool {
        self.awaits_room || self.has_lost()
    }

    /// Whether time stands still. Asked with each tick, before it passes.
    pub(super) fn is_held_back(&mut self) -> bool {
        let log = &self.node.raft.raft_log;
        let has_to_read = log.applied < log.committed && !log.store.is_cached(log.applied + 1);
        let ticks = self.node.raft.randomized_election_timeout();
        if !self.must_not_lead() && !has_to_read {
            let drawn = self.drawn_ticks.take();
            // Unless it was drawn anew meanwhile.
            if let Some(drawn) = drawn.filter(|_| ticks == MOST_TICKS) {
                self.node.raft.set_randomized_election_timeout(drawn);
            }
            return false;
        }
        if ticks != MOST_TICKS || self.drawn_ticks.is_none() {
            self.drawn_ticks = Some(ticks);
        }
        // The most that it can be set to, so that what is drawn cannot be less than what it takes to know.
        self.node.raft.set_randomized_election_timeout(MOST_TICKS);
        self.node.raft.election_elapsed >= MOST_TICKS - 1
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::super::testing::{message, one_of_three};
    use super::*;
    use crate::replica::copy::Vote;

    /// Whether the copy would vote for member 3 now.
    fn would_vote(group: &mut Group) -> bool {
        let mut asks = message(MessageType::MsgRequestPreVote, 3, 3);
        (asks.index, asks.log_term) = (8, 2);
        group.step(asks);
        let answers = group.work(0).expect("nothing diverges").messages;
        answers.iter().any(|answer| answer.get_msg_type() == MessageType::MsgRequestPreVoteResponse && !answer.reject)
    }

    #[test]
    fn a_copy_that_has_to_read_what_it_applies_gives_its_vote_whenever_it_is_asked_for() {
        let mut group = one_of_three(Vote { term: 2, member: 2 }, 8);
        // Its leader says that all is committed, and is not heard any more.
        let mut leader = message(MessageType::MsgHeartbeat, 2, 2);
        leader.commit = 8;
        group.step(leader);
        assert!(!would_vote(&mut group), "there is a leader");
        (0..2 * ELECTION_TICKS).for_each(|_| group.tick());
        for tick in 0..5 * ELECTION_TICKS {
            assert!(would_vote(&mut group), "tick {tick} since the leader is known to be gone");
            group.tick();
        }
    }
}
