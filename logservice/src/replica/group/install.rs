//! What a member gets that lacks entries which are gone everywhere: a base and the newest state, as the consensus crate's snapshot. It
//! holds no bytes of the log.
//!
//! The state may be newer than the base. The entries after the base lead up to it; those of them that replace the state are passed over
//! then (`machine.rs`), as their revisions are not newer.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Snapshot};
use raft::{ProgressState, SnapshotStatus, StateRole};

use super::rule_switches::{holds, Rule};
use super::Group;
use crate::replica::copy::{Base, Checkpoint, Install, Position};

/// Ticks after which a base that was sent to a member counts as lost.
const INSTALL_TICKS: u32 = 100;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 8 + 4 + 8 + 8 + 8;

/// The snapshot that says this.
pub fn encode(base: &Base, checkpoint: &Checkpoint) -> Snapshot {
    let mut data = BytesMut::with_capacity(FIXED_BYTES + checkpoint.state.len());
    data.put_u8(VERSION);
    data.put_u64_le(base.position.end);
    data.put_u32_le(base.position.checksum);
    data.put_u64_le(checkpoint.revision);
    data.put_u64_le(checkpoint.epoch);
    data.put_u64_le(checkpoint.state_index);
    data.put_slice(&checkpoint.state);
    let mut snapshot = Snapshot { data: data.freeze(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = base.position.index;
    metadata.term = base.position.term;
    metadata.set_conf_state(base.members.clone());
    snapshot
}

/// What a snapshot says.
///
/// # Errors
/// No version of this code encodes that.
pub fn decode(snapshot: &Snapshot) -> Result<Install, &'static str> {
    let mut data: Bytes = snapshot.data.clone();
    if data.len() < FIXED_BYTES || data.get_u8() != VERSION {
        return Err("the base of a copy cannot be read: upgrade logservice");
    }
    let metadata = snapshot.get_metadata();
    let (end, checksum) = (data.get_u64_le(), data.get_u32_le());
    let position = Position { index: metadata.index, term: metadata.term, end, checksum };
    let members: ConfState = metadata.get_conf_state().clone();
    let (revision, epoch, state_index) = (data.get_u64_le(), data.get_u64_le(), data.get_u64_le());
    let checkpoint = Checkpoint {
        position,
        revision,
        epoch,
        state: data,
        state_index,
        members: vec![(position.index, members.clone())],
    };
    Ok(Install { base: Base { position, members }, checkpoint })
}

impl Group {
    /// A base that a member was sent may be lost, and nothing else would tell the consensus crate.
    pub(super) fn give_up_installs(&mut self) {
        if self.node.raft.state != StateRole::Leader || !holds(Rule::GivesUpInstalls) {
            return self.install_ticks.clear();
        }
        let in_flight = self.node.raft.prs().iter().filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let in_flight: Vec<u64> = in_flight.map(|(&member, _)| member).collect();
        self.install_ticks.retain(|(member, _)| in_flight.contains(member));
        for member in in_flight {
            match self.install_ticks.iter_mut().find(|(waiting, _)| *waiting == member) {
                None => self.install_ticks.push((member, 0)),
                Some((_, ticks)) if *ticks < INSTALL_TICKS => *ticks += 1,
                Some((_, ticks)) => {
                    *ticks = 0;
                    self.node.report_snapshot(member, SnapshotStatus::Failure);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_survives_the_wire() {
        let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        let position = Position { index: 9, term: 2, end: 100, checksum: 7 };
        let checkpoint = Checkpoint {
            position,
            revision: 4,
            epoch: 3,
            state: Bytes::from_static(b"{}"),
            state_index: 12,
            members: vec![(9, members.clone())],
        };
        let base = Base { position, members };
        let snapshot = encode(&base, &checkpoint);
        assert_eq!(decode(&snapshot), Ok(Install { base, checkpoint }));
        let cut = Snapshot { data: snapshot.data.slice(..FIXED_BYTES - 1), ..snapshot };
        assert!(decode(&cut).is_err());
    }
}
