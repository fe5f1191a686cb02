use bytes::Bytes;

use super::*;
use crate::replica::entry::{AppendEntry, StateEntry};

fn start() -> Machine {
    let position = Position { index: 10, term: 1, end: 100, checksum: 0 };
    Machine::new(Checkpoint { position, revision: 4, epoch: 2, state_index: 10, ..Checkpoint::default() })
}

fn entry(index: u64, data: Bytes) -> Entry {
    Entry { index, term: 1, data, ..Entry::default() }
}

fn append(index: u64, epoch: u64, offset: u64, payload: &'static [u8]) -> Entry {
    entry(index, AppendEntry::encode(epoch, offset, 0, &[Bytes::from_static(payload)]))
}

fn state(index: u64, revision: u64, epoch: u64, restart_at: Option<u64>) -> Entry {
    let bytes = Bytes::from(revision.to_string());
    entry(index, StateEntry { revision, epoch, time_ms: 0, restart_at, bytes }.encode())
}

#[test]
fn appends_continue_the_log_in_the_epoch_that_writes() {
    let mut machine = start();
    assert_eq!(machine.apply(&append(11, 2, 100, b"abc")), Ok(Applied::Extended));
    assert_eq!(machine.position().end, 103);
    assert!(
        matches!(machine.apply(&append(12, 2, 104, b"d")), Err(Divergence::NoContinuation { .. })),
        "a gap in the log"
    );
    assert!(
        matches!(machine.apply(&append(12, 1, 103, b"d")), Err(Divergence::NoContinuation { .. })),
        "an older epoch"
    );
    assert!(matches!(machine.apply(&append(13, 2, 103, b"d")), Err(Divergence::Gap { .. })), "a gap of entries");
    assert_eq!(machine.position().index, 11, "what cannot be applied changes nothing");
}

#[test]
fn the_state_is_replaced_one_revision_at_a_time() {
    let mut machine = start();
    assert_eq!(machine.apply(&state(11, 5, 3, None)), Ok(Applied::StateReplaced { restarted: false }));
    assert_eq!((machine.checkpoint().epoch, &machine.checkpoint().state[..]), (3, &b"5"[..]));
    for revision in [5, 7] {
        assert!(matches!(machine.apply(&state(12, revision, 3, None)), Err(Divergence::OtherState { .. })));
    }
    assert_eq!(machine.apply(&state(12, 6, 3, Some(7))), Ok(Applied::StateReplaced { restarted: true }));
    assert_eq!(machine.position().end, 7);
}

#[test]
fn a_state_that_is_newer_than_its_base_is_reached_by_the_entries_after_it() {
    let entries =
        [append(11, 2, 100, b"abc"), state(12, 5, 3, Some(50)), append(13, 3, 50, b"d"), state(14, 6, 4, None)];
    let mut whole = start();
    for entry in &entries {
        whole.apply(entry).expect("it can be applied");
    }
    let mut ahead = start();
    ahead.checkpoint = Checkpoint { position: ahead.position(), ..whole.checkpoint().clone() };
    assert!(!ahead.is_whole());
    let applied = entries.each_ref().map(|entry| ahead.apply(entry));
    let expected = [Applied::Extended, Applied::BegunAnew, Applied::Extended, Applied::Nothing];
    assert_eq!(applied, expected.map(Ok), "the state stays, and the log is begun anew");
    assert!(ahead.is_whole());
    assert_eq!(ahead.checkpoint(), whole.checkpoint());
    for machine in [&mut whole, &mut ahead] {
        assert!(machine.apply(&append(15, 3, 51, b"e")).is_err(), "the epoch is judged again from there on");
        assert_eq!(machine.apply(&append(15, 4, 51, b"e")), Ok(Applied::Extended));
    }
    assert_eq!(ahead.position().checksum, whole.position().checksum);
}

#[test]
fn members_of_an_earlier_index_are_known_until_they_are_forgotten() {
    let members = |id| ConfState { voters: vec![id], ..ConfState::default() };
    let mut machine = start();
    machine.checkpoint.members = vec![(10, members(1))];
    assert_eq!(machine.apply(&append(11, 2, 100, b"abc")), Ok(Applied::Extended));
    machine.set_members(members(2));
    let at = |machine: &Machine, index| super::super::entries::members_at(&machine.checkpoint().members, index).voters;
    assert_eq!((at(&machine, 10), at(&machine, 11), at(&machine, 12)), (vec![1], vec![2], vec![2]));
    machine.forget_members_before(10);
    assert_eq!(at(&machine, 10), vec![1]);
    machine.forget_members_before(11);
    assert_eq!(machine.checkpoint().members.len(), 1);
}
