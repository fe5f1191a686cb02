//! Who votes after each committed change of the members. Judged apart from the code that is tested, and from the consensus crate.

use std::collections::BTreeSet;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry};

/// The voters, and during a joint change those of before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    now: BTreeSet<u64>,
    before: BTreeSet<u64>,
}

impl Voters {
    /// Those in what a copy says of its members.
    pub fn of(members: &ConfState) -> Self {
        Voters {
            now: members.voters.iter().copied().collect(),
            before: members.voters_outgoing.iter().copied().collect(),
        }
    }

    /// After a committed entry that changes them.
    pub fn after(&self, entry: &Entry) -> Result<Self, String> {
        let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(|error| error.to_string())?;
        let mut next = self.clone();
        let is_simple = change.changes.len() == 1 && change.get_transition() == ConfChangeTransition::Auto;
        match (change.changes.is_empty(), self.before.is_empty()) {
            (true, false) => next.before.clear(),
            (true, true) => return Err("a joint change ends that never began".to_owned()),
            (false, false) => return Err("members are changed while they are being changed".to_owned()),
            (false, true) if !is_simple => next.before = self.now.clone(),
            (false, true) => {}
        }
        for one in change.changes.iter() {
            match one.get_change_type() {
                ConfChangeType::AddNode => next.now.insert(one.node_id),
                ConfChangeType::AddLearnerNode | ConfChangeType::RemoveNode => next.now.remove(&one.node_id),
            };
        }
        Ok(next)
    }
}
