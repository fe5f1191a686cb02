//! Three drivers in one process, over a network and disks in memory.

use std::sync::mpsc::{channel, Receiver};
use std::time::Instant;

use bytes::Bytes;
use raft::eraftpb::MessageType;

use super::testing::{Three, GROUP, LONG_ENOUGH};
use super::*;
use crate::replica::group::{Event, Outcome};
use crate::replica::handle::{GroupEvents, GroupHandle, Replacement, View};
use crate::store::{Append, SubmitError};

/// Appends `bytes` bytes at the end that `leader` has, and returns the end with them.
pub(super) fn append_at(group: &DrivenGroup, offset: u64, bytes: usize) -> Result<u64, SubmitError> {
    let term = group.view().leads_in.expect("it leads");
    let payload = Bytes::from(vec![b'0' + (offset % 10) as u8; bytes]);
    group.append(term, Append { epoch: 0, offset, payload })?;
    Ok(offset + bytes as u64)
}

/// Appends to a group once a service decides over it, and again if another one does before the bytes are committed, as they may be gone
/// then: a service that stands still for seconds, on a machine that prints a panic, is no longer the one that decides. Returns the end.
pub(super) fn append_for_good(three: &Three, name: &str) -> u64 {
    let since = Instant::now();
    loop {
        let group = three.group(three.leader(name, &[0, 1, 2]), name);
        let View { leads_in: Some(term), end, .. } = group.view() else { continue };
        let payload = Bytes::from_static(b"for good");
        let wanted = end + payload.len() as u64;
        group.append(term, Append { epoch: 0, offset: end, payload }).expect("taken");
        while group.view().leads_in == Some(term) && group.view().end != wanted {
            assert!(since.elapsed() < LONG_ENOUGH, "who decides does so for long enough");
            std::thread::sleep(Duration::from_millis(2));
        }
        if group.view().end == wanted {
            return wanted;
        }
    }
}

pub(super) fn confirm(group: &DrivenGroup, term: u64) -> Receiver<bool> {
    let (sender, answer) = channel();
    group.confirm(term, Box::new(move |is_sole| sender.send(is_sole).expect("the test waits")));
    answer
}

fn read_all(group: &DrivenGroup, from: u64) -> Vec<u8> {
    let (end, mut reader) = (group.view().end, group.reader(from).expect("a reader"));
    let mut read = Vec::new();
    while reader.offset() < end {
        read.extend_from_slice(&reader.read(end, usize::MAX).expect("bytes"));
    }
    read
}

#[test]
fn what_is_appended_at_one_service_is_in_every_copy() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(leader, GROUP);
    let mut end = 0;
    for _ in 0..100 {
        end = append_at(&group, end, 1000).expect("taken");
    }
    three.heard(leader, GROUP).wait_until("all is committed", |view| view.end == end);
    for node in 0..3 {
        three.heard(node, GROUP).wait_until("all is committed", |view| view.end == end);
        assert_eq!(read_all(&three.group(node, GROUP), 0), read_all(&group, 0));
    }
    let status = group.status().expect("it is driven");
    assert!(status.is_leader && status.copies.len() == 3);
    let term = group.view().leads_in.expect("it leads");
    assert!(confirm(&group, term).recv_timeout(LONG_ENOUGH).expect("an answer"));
    assert!(!confirm(&group, term + 1).recv_timeout(LONG_ENOUGH).expect("an answer"), "another term");
}

#[test]
fn appends_alone_write_no_votes() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let (group, mut end) = (three.group(leader, GROUP), 0);
    let votes = |three: &Three| [0, 1, 2].map(|node| three.disk(node).votes());
    let mut append = |three: &Three| {
        end = append_at(&group, end, 10).expect("taken");
        three.heard(leader, GROUP).wait_until("it is committed", |view| view.end == end);
        end
    };
    let first = append(&three);
    (0..3).for_each(|node| three.heard(node, GROUP).wait_until("it is everywhere", |view| view.end == first));
    let before = votes(&three);
    // Each tells the followers that the one before is committed.
    let end = (0..20).map(|_| append(&three)).last();
    (0..3).for_each(|node| three.heard(node, GROUP).wait_until("all is everywhere", |view| Some(view.end) == end));
    assert_eq!(votes(&three), before);
}

#[test]
fn a_state_is_replaced_once() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(leader, GROUP);
    let term = group.view().leads_in.expect("it leads");
    let (sender, outcomes) = channel();
    for (term, revision) in [(term, 2), (term, 2), (term + 1, 3)] {
        let sender = sender.clone();
        let state = Bytes::from_static(b"next");
        let replacement = Replacement { revision, epoch: 0, restart_at: Some(500), state };
        group.replace_state(term, replacement, Box::new(move |outcome| sender.send(outcome).expect("the test waits")));
    }
    let mut found: Vec<Outcome> = (0..3).map(|_| outcomes.recv_timeout(LONG_ENOUGH).expect("an outcome")).collect();
    found.sort_by_key(|outcome| format!("{outcome:?}"));
    assert_eq!(found, [Outcome::Conflict { found: 2 }, Outcome::Done, Outcome::NotLeader]);
    for node in 0..3 {
        let heard = three.heard(node, GROUP);
        heard.wait_until("the state is there", |view| view.revision == 2 && view.end == 500 && view.state == "next");
    }
}

#[test]
fn a_service_that_dies_takes_nothing_that_was_acknowledged_with_it() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let first = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(first, GROUP);
    let mut end = 0;
    for _ in 0..50 {
        end = append_at(&group, end, 700).expect("taken");
    }
    three.heard(first, GROUP).wait_until("all is acknowledged", |view| view.end == end);
    let before = read_all(&group, 0);
    let killed = Instant::now();
    three.kill(first);
    let others = [(first + 1) % 3, (first + 2) % 3];
    let second = three.leader(GROUP, &others);
    println!("another service decides after {} ms", killed.elapsed().as_millis());
    let group = three.group(second, GROUP);
    assert_eq!(group.view().end, end, "all that was acknowledged is there when it decides");
    assert_eq!(read_all(&group, 0), before);
    let end = append_at(&group, end, 10).expect("taken");
    three.heard(second, GROUP).wait_until("two of three suffice", |view| view.end == end);
    three.start(first);
    three.open(first, GROUP);
    three.heard(first, GROUP).wait_until("it catches up", |view| view.end == end && view.leader.is_some());
    assert_eq!(three.disk(first).entries_of(GROUP), three.disk(second).entries_of(GROUP));
}

#[test]
fn a_service_that_was_cut_off_confirms_and_acknowledges_nothing() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let first = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(first, GROUP);
    let term = group.view().leads_in.expect("it leads");
    three.net().cut_off(first, true);
    let answer = confirm(&group, term);
    append_at(&group, 0, 10).expect("taken, as it does not know");
    let second = three.leader(GROUP, &[(first + 1) % 3, (first + 2) % 3]);
    assert!(!answer.recv_timeout(LONG_ENOUGH).expect("an answer"));
    let end = append_at(&three.group(second, GROUP), 0, 25).expect("taken");
    three.heard(second, GROUP).wait_until("it goes on without it", |view| view.end == end);
    assert_eq!(group.view().end, 0);
    three.net().cut_off(first, false);
    three.heard(first, GROUP).wait_until("its own append is gone", |view| view.end == end && view.leads_in.is_none());
    assert_eq!(read_all(&group, 0), read_all(&three.group(second, GROUP), 0));
}

#[test]
fn a_follower_whose_disk_hangs_stops_nobody_and_catches_up() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let hung = (leader + 1) % 3;
    three.disk(hung).freeze();
    let group = three.group(leader, GROUP);
    let mut end = 0;
    for _ in 0..20 {
        end = append_at(&group, end, 100).expect("taken");
    }
    three.heard(leader, GROUP).wait_until("two of three suffice", |view| view.end == end);
    assert!(three.group(hung, GROUP).view().end < end);
    three.disk(hung).thaw();
    three.heard(hung, GROUP).wait_until("it catches up", |view| view.end == end);
}

#[test]
fn a_service_whose_disk_hangs_hands_the_decision_over() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let first = three.leader(GROUP, &[0, 1, 2]);
    three.disk(first).freeze();
    append_at(&three.group(first, GROUP), 0, 100).expect("taken");
    let second = three.leader(GROUP, &[(first + 1) % 3, (first + 2) % 3]);
    assert_eq!(three.group(second, GROUP).view().end, 100, "it was on two disks");
    assert_eq!(three.group(first, GROUP).view().leads_in, None);
}

#[test]
fn a_group_whose_disk_fails_stops_alone_and_another_service_decides() {
    let mut three = Three::new();
    three.open_all(GROUP);
    three.open_all("other");
    let first = three.leader(GROUP, &[0, 1, 2]);
    three.disk(first).fail_next(GROUP, "no space");
    append_at(&three.group(first, GROUP), 0, 100).expect("taken");
    assert_eq!(three.heard(first, GROUP).wait_until_stopped(), "no space");
    let group = three.group(first, GROUP);
    assert_eq!(group.view().failed.as_deref(), Some("no space"));
    assert!(group.status().is_none());
    let append = Append { epoch: 0, offset: 0, payload: Bytes::from_static(b"x") };
    assert!(matches!(group.append(1, append), Err(SubmitError::Closed)));
    let second = three.leader(GROUP, &[(first + 1) % 3, (first + 2) % 3]);
    assert_eq!(three.group(second, GROUP).view().end, 100, "it was on two disks");
    assert!(three.group(first, "other").status().is_some());
}

#[test]
fn a_group_that_panics_stops_alone() {
    let mut three = Three::new();
    three.open_all(GROUP);
    three.open_all("other");
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let victim = (leader + 1) % 3;
    let term = three.group(leader, GROUP).status().expect("it is driven").term;
    let (from, to) = (three.member(leader), three.member(victim));
    // Says that entries are committed which nobody has.
    let mut lie = Message { from, to, term, commit: 1 << 40, ..Message::default() };
    lie.set_msg_type(MessageType::MsgHeartbeat);
    three.driver(victim).message(from, GROUP, lie);
    let reason = three.heard(victim, GROUP).wait_until_stopped();
    assert!(reason.contains("consensus"), "{reason}");
    let end = append_for_good(&three, "other");
    three.heard(victim, "other").wait_until("the other group goes on there", |view| view.end == end);
}

/// Panics when the group that it listens to is over.
struct PanicsAtTheEnd;

impl GroupEvents for PanicsAtTheEnd {
    fn happened(&self, _event: &Event, _view: &View) {}

    fn stopped(&self, _reason: &str) {
        panic!("a listener that panics");
    }
}

#[test]
fn whoever_panics_when_a_group_is_closed_ends_nothing_else() {
    let mut three = Three::new();
    three.open_all(GROUP);
    three.open_all("other");
    let first = three.leader("other", &[0, 1, 2]);
    let (victim, group) = ((first + 1) % 3, three.group((first + 1) % 3, GROUP));
    group.listen(Arc::new(PanicsAtTheEnd));
    three.driver(victim).close(&group);
    assert!(group.is_stopped());
    // Time passes there: it notices that nobody leads, and the two elect one.
    three.kill(first);
    let second = three.leader("other", &[victim, (victim + 1) % 3]);
    let end = append_at(&three.group(second, "other"), 0, 100).expect("taken");
    three.heard(victim, "other").wait_until("the other group goes on there", |view| view.end == end);
}

#[test]
fn appends_that_wait_are_bounded() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(leader, GROUP);
    (0..3).filter(|&node| node != leader).for_each(|node| three.disk(node).freeze());
    let mib = 1 << 20;
    let end = append_at(&group, 0, 100 * mib).expect("taken");
    let refused = append_at(&group, end, 40 * mib);
    assert!(matches!(refused, Err(SubmitError::Busy { waiting_bytes }) if waiting_bytes >= 100 * mib), "{refused:?}");
    (0..3).for_each(|node| three.disk(node).thaw());
    // Without the others' answers it decides no more after a while, and then nothing waits either.
    let since = Instant::now();
    let is_taken = || {
        let group = three.group(three.leader(GROUP, &[0, 1, 2]), GROUP);
        let (view, payload) = (group.view(), Bytes::from(vec![b'x'; 40 * mib]));
        view.leads_in.is_some_and(|term| group.append(term, Append { epoch: 0, offset: view.end, payload }).is_ok())
    };
    while !is_taken() {
        assert!(since.elapsed() < LONG_ENOUGH, "there is room again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_copy_that_lacks_entries_that_are_gone_gets_the_base_and_the_state() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let away = (leader + 1) % 3;
    three.kill(away);
    let group = three.group(leader, GROUP);
    let end = append_at(&group, 0, 1000).expect("taken");
    let term = group.view().leads_in.expect("it leads");
    let (sender, outcome) = channel();
    let replacement = Replacement { revision: 2, epoch: 0, restart_at: None, state: Bytes::from_static(b"trimmed") };
    group.replace_state(term, replacement, Box::new(move |outcome| sender.send(outcome).expect("the test waits")));
    assert_eq!(outcome.recv_timeout(LONG_ENOUGH), Ok(Outcome::Done));
    for node in (0..3).filter(|&node| node != away) {
        three.heard(node, GROUP).wait_until("the state is there", |view| view.revision == 2);
        three.trim(node, end, 2);
    }
    assert!(group.reader(0).is_err());
    let end = append_at(&group, end, 10).expect("taken");
    three.start(away);
    three.open(away, GROUP);
    three.heard(away, GROUP).wait_until("it is whole", |view| view.end == end && view.is_whole && view.revision == 2);
    assert_eq!(read_all(&three.group(away, GROUP), 1000), read_all(&group, 1000));
}

#[test]
fn a_copy_that_passes_over_a_restart_of_the_log_tells_where_the_log_ends() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let away = (leader + 1) % 3;
    three.kill(away);
    let group = three.group(leader, GROUP);
    let term = group.view().leads_in.expect("it leads");
    let replace = |revision, restart_at| {
        let (sender, outcome) = channel();
        let replacement = Replacement { revision, epoch: 0, restart_at, state: Bytes::from_static(b"next") };
        group.replace_state(term, replacement, Box::new(move |outcome| sender.send(outcome).expect("the test waits")));
        assert_eq!(outcome.recv_timeout(LONG_ENOUGH), Ok(Outcome::Done));
    };
    append_at(&group, 0, 100).expect("taken");
    replace(2, None);
    append_at(&group, 100, 100).expect("taken");
    replace(3, Some(50));
    for node in (0..3).filter(|&node| node != away) {
        three.heard(node, GROUP).wait_until("the log is restarted", |view| view.end == 50);
        three.trim(node, 100, 2);
    }
    three.start(away);
    three.open(away, GROUP);
    three.heard(away, GROUP).wait_until("it has the state", |view| view.is_whole && view.revision == 3);
    assert_eq!(three.group(away, GROUP).view().end, 50);
}

#[test]
fn decisions_are_handed_over_on_request() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let first = three.leader(GROUP, &[0, 1, 2]);
    let second = (first + 1) % 3;
    let asked = Instant::now();
    three.group(first, GROUP).transfer_to(three.member(second));
    three.heard(second, GROUP).wait_until("it decides", |view| view.leads_in.is_some());
    println!("handed over within {} ms", asked.elapsed().as_millis());
}

#[test]
fn messages_that_members_do_not_send_each_other_are_dropped() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let (to, from) = (three.member(leader), three.member((leader + 1) % 3));
    let mut proposal = Message { from, to, ..Message::default() };
    proposal.set_msg_type(MessageType::MsgPropose);
    proposal.set_entries(vec![Default::default()].into());
    let last = three.group(leader, GROUP).status().expect("it is driven").last;
    three.driver(leader).message(from, GROUP, proposal);
    assert_eq!(three.group(leader, GROUP).status().expect("it is driven").last, last);
}

#[test]
fn two_hundred_idle_groups_take_little() {
    let mut three = Three::new();
    let names: Vec<String> = (0..200).map(|number| format!("g{number}")).collect();
    names.iter().for_each(|name| three.open_all(name));
    names.iter().for_each(|name| assert!(three.leader(name, &[0, 1, 2]) < 3));
    let (cpu, since) = (three.cpu_of_drivers(), Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let share = (three.cpu_of_drivers() - cpu).as_secs_f64() / since.elapsed().as_secs_f64() / 3.0;
    println!("each of three services takes {:.2} % of a core for 200 idle groups", share * 100.0);
    assert!(share < 0.5, "{share} of a core");
}
