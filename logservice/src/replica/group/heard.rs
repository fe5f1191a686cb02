//! Which members the leader has heard a moment ago.
//!
//! The consensus crate forgets who was heard with each election time-out, when it looks whether a majority was. Until the answer to the next
//! heartbeat comes, everybody would seem to be away: nobody could be handed the decision to, and operators would be alarmed for nothing.

use raft::{Progress, StateRole};

use super::{Group, HEARTBEAT_TICKS};

/// Ticks after which a member that has not answered since the crate forgot is away: two heartbeats.
const SILENT_TICKS: u32 = 2 * HEARTBEAT_TICKS as u32;

impl Group {
    /// Called with each tick.
    pub(super) fn note_heard(&mut self) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return self.silent_ticks.clear();
        }
        let members = raft.prs().conf().to_conf_state();
        self.silent_ticks.retain(|member, _| super::is_member(&members, *member));
        for (&member, progress) in raft.prs().iter() {
            // Who was never heard is away.
            let ticks = self.silent_ticks.entry(member).or_insert(SILENT_TICKS);
            *ticks = if progress.recent_active { 0 } else { ticks.saturating_add(1) };
        }
    }

    /// Whether a member was heard in the last election time-out, or a little before. This one always was.
    pub(super) fn is_heard(&self, member: u64, progress: &Progress) -> bool {
        let was_heard = |member: u64| self.silent_ticks.get(&member).is_some_and(|ticks| *ticks < SILENT_TICKS);
        member == self.member || progress.recent_active || was_heard(member)
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::super::testing::{message, one_of_three};
    use super::super::ELECTION_TICKS;
    use super::*;
    use crate::replica::copy::Vote;

    fn answer(group: &mut Group, kind: MessageType, term: u64) {
        group.step(message(kind, 2, term));
    }

    /// Does what is to be done, on a disk that does all at once.
    fn work(group: &mut Group) {
        loop {
            let persists = group.work(0).expect("nothing diverges").persists;
            let Some(last) = persists.iter().map(|persist| persist.number).max() else { return };
            group.persisted(last);
        }
    }

    /// Member 1 of three, which leads. Member 2 has voted for it, member 3 was never heard.
    fn leading() -> Group {
        let mut group = one_of_three(Vote { term: 1, member: 0 }, 1);
        group.campaign();
        work(&mut group);
        answer(&mut group, MessageType::MsgRequestPreVoteResponse, 2);
        work(&mut group);
        answer(&mut group, MessageType::MsgRequestVoteResponse, 2);
        work(&mut group);
        assert!(group.status().is_leader);
        group
    }

    #[test]
    fn who_answers_each_heartbeat_is_never_away_and_who_answers_none_is() {
        let mut group = leading();
        answer(&mut group, MessageType::MsgHeartbeatResponse, 2);
        let heard = |group: &Group| group.status().copies.iter().map(|&(_, _, is_heard)| is_heard).collect::<Vec<_>>();
        let order: Vec<u64> = group.status().copies.iter().map(|&(member, _, _)| member).collect();
        let expected: Vec<bool> = order.iter().map(|member| *member != 3).collect();
        for tick in 0..3 * ELECTION_TICKS {
            group.tick();
            work(&mut group);
            // Before it has answered.
            assert_eq!(heard(&group), expected, "tick {tick}");
            answer(&mut group, MessageType::MsgHeartbeatResponse, 2);
        }
    }
}
