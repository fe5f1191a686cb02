//! For tests of a copy by itself: one of three, and what the others say.

use raft::eraftpb::{ConfState, Message, MessageType};

use super::Group;
use crate::replica::copy::{Base, Checkpoint, FoundCopy, Position, Vote};

/// The copy of member 1 of three. On its disk are entries of term 2 from index 2 to `last_index`, if that is not below, of which none is
/// applied.
pub fn one_of_three(vote: Vote, last_index: u64) -> Group {
    let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let position = Position { index: 1, term: 1, ..Position::default() };
    let checkpoint = Checkpoint { position, members: vec![(1, members.clone())], ..Checkpoint::default() };
    let terms = (last_index > 1).then_some((2, 2)).into_iter().collect();
    let found = FoundCopy { vote, base: Base { position, members }, checkpoint, last_index, terms, lost_in: None };
    Group::open(1, found).expect("nothing contradicts itself")
}

/// A message to member 1.
pub fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: 1, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}
