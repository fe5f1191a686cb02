//! What the cluster's own log says: who its services are, and which shards there are.

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use bytes::Bytes;
use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};

use super::identity::MemberRecord;
use crate::replica::copy::{Base, Checkpoint, Install, Position};
use crate::store::Manifest;

/// The name of the cluster's own group.
pub const CLUSTER_GROUP: &str = "";
/// The revision of a cluster's first state.
const FIRST_REVISION: u64 = 1;
/// Groups begin after an entry that nobody has: the first members are in no entry, so whoever has none gets them with the base.
const FIRST_INDEX: u64 = 1;
const FIRST_TERM: u64 = 1;

/// What the cluster's own log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster's id.
    pub cluster: u64,
    /// Its services.
    pub services: Vec<MemberRecord>,
    /// Its shards, by their names.
    pub shards: BTreeMap<String, ShardRecord>,
}

/// A shard, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The members that have a copy from the beginning.
    pub members: Vec<u64>,
    /// The one that is to decide over its log first.
    pub made_by: u64,
    /// Its first state, in base64. Its services need the same one.
    pub first_state: String,
}

impl ClusterState {
    /// That of a new cluster.
    pub fn new(cluster: u64, services: Vec<MemberRecord>) -> Self {
        ClusterState { cluster, services, shards: BTreeMap::new() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// No version of this code writes that.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("the cluster's state cannot be read: {error}"))
    }

    /// Writes it.
    pub fn encode(&self) -> Result<Bytes, String> {
        let text = serde_json::to_vec(self);
        text.map(Bytes::from).map_err(|error| format!("the cluster's state cannot be written: {error}"))
    }

    /// Where the cluster's own group begins.
    pub fn beginning(&self) -> Result<Install, String> {
        let members = self.services.iter().map(|service| service.member).collect();
        Ok(begin(members, 0, FIRST_REVISION, 0, self.encode()?))
    }

    /// This state, and one shard more, with copies at all services.
    pub fn with_shard(&self, shard: &str, made_by: u64, first_state: &[u8]) -> Self {
        let members = self.services.iter().map(|service| service.member).collect();
        let record = ShardRecord { members, made_by, first_state: STANDARD.encode(first_state) };
        let mut next = self.clone();
        next.shards.insert(shard.to_owned(), record);
        next
    }
}

impl ShardRecord {
    /// Where the shard's group begins.
    ///
    /// # Errors
    /// Its first state is none.
    pub fn beginning(&self) -> Result<Install, String> {
        let state = STANDARD.decode(&self.first_state).map_err(|error| error.to_string())?;
        let manifest = Manifest::parse(&state)?;
        let epoch = manifest.epochs.last().map_or(0, |term| term.epoch);
        Ok(begin(self.members.clone(), manifest.base, manifest.revision, epoch, Bytes::from(state)))
    }
}

fn begin(voters: Vec<u64>, end: u64, revision: u64, epoch: u64, state: Bytes) -> Install {
    let members = ConfState { voters, ..ConfState::default() };
    let position = Position { index: FIRST_INDEX, term: FIRST_TERM, end, checksum: 0 };
    let checkpoint = Checkpoint {
        position,
        revision,
        epoch,
        state,
        state_index: FIRST_INDEX,
        members: vec![(FIRST_INDEX, members.clone())],
    };
    Install { base: Base { position, members }, checkpoint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_begins_alike_at_all_services() {
        let service =
            |member| MemberRecord { member, name: member.to_string(), zone: String::new(), address: String::new() };
        let state = ClusterState::new(9, vec![service(1), service(2), service(3)]);
        let manifest = serde_json::to_vec(&Manifest::new("s1", "r".repeat(40), "id".to_owned())).expect("json");
        let next = state.with_shard("s1", 2, &manifest);
        let read = ClusterState::parse(&next.encode().expect("written")).expect("read");
        assert_eq!(read, next);
        let beginning = read.shards["s1"].beginning().expect("it begins");
        assert_eq!(beginning.base.members.voters, [1, 2, 3]);
        assert_eq!((beginning.checkpoint.revision, &beginning.checkpoint.state[..]), (0, &manifest[..]));
        assert!(state.with_shard("s1", 2, b"no manifest").shards["s1"].beginning().is_err());
    }
}
