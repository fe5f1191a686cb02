//! What the cluster's own log says: who its services are, and which shards there are.

use std::collections::{BTreeMap, BTreeSet};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use bytes::Bytes;
use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};

use super::identity::MemberRecord;
use crate::replica::copy::{Base, Checkpoint, Install, Position};
use crate::replica::group_name::group_of;
use crate::store::Manifest;

/// The name of the cluster's own group.
pub const CLUSTER_GROUP: &str = "";
/// The revision of a cluster's first state.
const FIRST_REVISION: u64 = 1;
/// Groups begin after an entry that nobody has: the first members are in no entry, so whoever has none gets them with the base.
const FIRST_INDEX: u64 = crate::replica::group::FIRST_INDEX;
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
    /// Services whose place others have, or may be given. They never count again: who lost a disk has forgotten what it had promised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<MemberRecord>,
    /// How many shards were dropped so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drops: u64,
    /// The member that brings shards which it has kept alone, and has not told which: until then none is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<u64>,
    /// The revision of this state in the cluster's own log, as far as it was heard of.
    #[serde(skip)]
    pub revision: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A shard, as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The members that have a copy from the beginning; none of a shard that the one that made it has kept alone before.
    pub members: Vec<u64>,
    /// The one that is to decide over its log first.
    pub made_by: u64,
    /// Its first state, in base64. Its services need the same one.
    pub first_state: String,
    /// How many shards had been dropped when it was made: no shard that had its name before was made after so many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made_after: u64,
}

impl ClusterState {
    /// That of a new cluster.
    pub fn new(cluster: u64, services: Vec<MemberRecord>) -> Self {
        ClusterState {
            cluster,
            services,
            shards: BTreeMap::new(),
            retired: Vec::new(),
            drops: 0,
            awaits: None,
            revision: 0,
        }
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

    /// Where the copy of a service begins that comes later: with nothing. The others give it a base.
    pub fn joining(&self) -> Result<Install, String> {
        Ok(begin_with_nothing(0, 0, 0, self.encode()?))
    }

    /// The members that are to keep all logs.
    pub fn members(&self) -> BTreeSet<u64> {
        self.services.iter().map(|service| service.member).collect()
    }

    /// Whether a service is to keep all logs.
    pub fn has_member(&self, member: u64) -> bool {
        self.services.iter().any(|service| service.member == member)
    }

    /// This state, with the service `new` in the place of `old`.
    pub fn with_replaced(&self, old: u64, new: MemberRecord) -> Self {
        let mut next = self.clone();
        let is_old = |service: &MemberRecord| service.member == old;
        next.retired.extend(self.services.iter().filter(|service| is_old(service)).cloned());
        match next.services.iter_mut().find(|service| is_old(service)) {
            Some(place) => *place = new,
            // It was given up before.
            None => next.services.push(new),
        }
        next.awaits = self.awaits.filter(|&member| member != old);
        next
    }

    /// This state, with `member` as the only service that is left.
    pub fn without_others(&self, member: u64) -> Self {
        let mut next = self.clone();
        let (left, lost) = next.services.drain(..).partition(|service| service.member == member);
        next.services = left;
        next.retired.extend::<Vec<MemberRecord>>(lost);
        next.awaits = self.awaits.filter(|&awaited| awaited == member);
        next
    }

    /// This state, and one shard more, with copies at all services.
    pub fn with_shard(&self, shard: &str, made_by: u64, first_state: &[u8]) -> Self {
        let members = self.services.iter().map(|service| service.member).collect();
        let (first_state, made_after) = (STANDARD.encode(first_state), self.drops);
        let record = ShardRecord { members, made_by, first_state, made_after };
        let mut next = self.clone();
        next.shards.insert(shard.to_owned(), record);
        next
    }
}

impl ShardRecord {
    /// The member that has kept the shard alone and brings it; none if it was made in the cluster.
    pub fn brought_by(&self) -> Option<u64> {
        self.members.is_empty().then_some(self.made_by)
    }

    /// The group of this shard, which is named `shard`. One that had its name before has another group.
    pub fn group(&self, shard: &str) -> String {
        group_of(shard, self.made_after)
    }

    /// The manifest with which it was made.
    ///
    /// # Errors
    /// Its first state is none.
    pub fn manifest(&self) -> Result<Manifest, String> {
        Manifest::parse(&STANDARD.decode(&self.first_state).map_err(|error| error.to_string())?)
    }

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

    /// Where the copy of a service begins that has come later.
    ///
    /// # Errors
    /// As [`ShardRecord::beginning`].
    pub fn joining(&self) -> Result<Install, String> {
        let Checkpoint { position, revision, epoch, state, .. } = self.beginning()?.checkpoint;
        Ok(begin_with_nothing(position.end, revision, epoch, state))
    }
}

/// A copy without members, of a group of which the entries before [`FIRST_INDEX`] are known to nobody: it is not whole until it has got a base.
fn begin_with_nothing(end: u64, revision: u64, epoch: u64, state: Bytes) -> Install {
    let position = Position { index: 0, term: 0, end, checksum: 0 };
    let members = ConfState::default();
    let checkpoint =
        Checkpoint { position, revision, epoch, state, state_index: FIRST_INDEX, members: vec![(0, members.clone())] };
    Install { base: Base { position, members }, checkpoint }
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
    fn a_service_takes_the_place_of_another_which_never_counts_again() {
        let service =
            |member| MemberRecord { member, name: member.to_string(), zone: String::new(), address: String::new() };
        let state = ClusterState::new(9, vec![service(1), service(2), service(3)]);
        let next = state.with_replaced(2, service(4));
        assert_eq!(next.services, [service(1), service(4), service(3)]);
        assert_eq!((next.members(), next.retired.clone()), (BTreeSet::from([1, 3, 4]), vec![service(2)]));
        assert!(next.has_member(4) && !next.has_member(2));
        assert_eq!(ClusterState::parse(&next.encode().expect("written")), Ok(next.clone()));
        let joining = next.joining().expect("it begins").checkpoint;
        assert_eq!((joining.position.index, joining.revision, &joining.members[0].1.voters[..]), (0, 0, &[][..]));
    }

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
        let again = next.without_shard("s1");
        assert!(again.has_dropped("s1") && !next.has_dropped("s1") && !state.has_dropped("s1"));
        let again = again.with_shard("s1", 3, &manifest);
        assert_eq!(again.shards["s1"].group("s1"), "s1#1");
        assert!(again.has_dropped("s1") && !again.has_dropped("s1#1"), "only the one before is dropped");
        assert!(!next.has_dropped("s1#1"), "a state from before it was made tells nothing of it");
        assert!(state.with_shard("s1", 2, b"no manifest").shards["s1"].beginning().is_err());
    }
}
