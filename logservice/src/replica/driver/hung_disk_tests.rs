//! Disks that do not answer, and entries that only a disk has.

use std::time::{Duration, Instant};

use super::testing::{Three, GROUP, LONG_ENOUGH};
use super::tests::{append_at, append_for_good, confirm};
use super::*;
use crate::replica::group::ELECTION_TICKS;
use crate::replica::handle::GroupHandle;

/// Longer than any member waits for a leader, and than a leader goes on that is not heard.
fn two_elections() -> Duration {
    TICK * (2 * 2 * ELECTION_TICKS as u32)
}

#[test]
fn two_followers_whose_disks_hang_do_not_depose_the_leader() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let group = three.group(leader, GROUP);
    let term = group.view().leads_in.expect("it leads");
    others.iter().for_each(|&node| three.disk(node).freeze());
    let end = append_at(&group, 0, 100).expect("taken");
    let since = Instant::now();
    while since.elapsed() < two_elections() {
        // Each answer takes a round to a quorum, so one of the two has answered.
        assert!(confirm(&group, term).recv_timeout(LONG_ENOUGH).expect("an answer"), "it leads on");
    }
    let view = group.view();
    assert_eq!((view.leads_in, view.end, view.acknowledged), (Some(term), 0, 0), "nothing is acknowledged");
    three.disk(others[0]).thaw();
    three.heard(leader, GROUP).wait_until("two of three suffice", |view| view.end == end);
    assert_eq!(group.view().leads_in, Some(term));
}

#[test]
fn what_two_others_have_is_acknowledged_before_the_disk_of_who_decides_answers() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let group = three.group(leader, GROUP);
    three.disk(leader).freeze();
    let end = append_at(&group, 0, 100).expect("taken");
    three.heard(leader, GROUP).wait_until("the others have it", |view| view.acknowledged == end);
    let on_disks = |node: usize| three.disk(node).entries_of(GROUP).len();
    let before = on_disks(leader);
    assert!((0..3).filter(|&node| on_disks(node) > before).count() == 2, "on the disks of the two others");
    assert_eq!(group.view().end, 0, "it cannot be read here");
    three.disk(leader).thaw();
    three.heard(leader, GROUP).wait_until("it can be read", |view| view.end == end);
}

#[test]
fn old_entries_for_a_member_that_is_behind_are_read_while_others_are_served() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let (behind, group) = ((leader + 1) % 3, three.group(leader, GROUP));
    three.net().cut_off(behind, true);
    let mut end = 0;
    // More than stays in memory.
    for _ in 0..24 {
        end = append_at(&group, end, 1 << 20).expect("taken");
    }
    three.heard(leader, GROUP).wait_until("all is committed", |view| view.end == end);
    three.net().cut_off(behind, false);
    three.heard(behind, GROUP).wait_until("it catches up", |view| view.end == end);
    let entries = |node: usize| three.disk(node).entries_of(GROUP);
    assert_eq!(entries(behind), entries(leader));
}

/// A group with entries that a service has on its disk, and has not applied since it was started again. Its reads wait. Returns the service
/// that decides, that one, and the end of the log.
fn with_much_to_apply() -> (Three, usize, usize, u64) {
    let mut three = Three::new();
    three.open_all(GROUP);
    three.open_all("other");
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let (behind, group) = ((leader + 1) % 3, three.group(leader, GROUP));
    let mut end = 0;
    for _ in 0..6 {
        end = append_at(&group, end, 1 << 20).expect("taken");
    }
    (0..3).for_each(|node| three.heard(node, GROUP).wait_until("all is committed", |view| view.end == end));
    three.kill(behind);
    three.disk(behind).hold_reads(GROUP);
    three.start(behind);
    three.open(behind, GROUP);
    three.open(behind, "other");
    (three, leader, behind, end)
}

#[test]
fn what_is_to_be_applied_is_read_while_other_groups_are_served() {
    let (three, _, behind, end) = with_much_to_apply();
    three.heard(behind, GROUP).wait_until("it hears who decides", |view| view.leader.is_some());
    let other_end = append_for_good(&three, "other");
    three.heard(behind, "other").wait_until("the other group goes on there", |view| view.end == other_end);
    assert_eq!(three.group(behind, GROUP).view().end, 0, "nothing of it was read");
    three.disk(behind).release_reads();
    three.heard(behind, GROUP).wait_until("it has applied all", |view| view.end == end);
}

#[test]
fn a_copy_that_has_not_read_what_it_has_to_apply_leaves_the_decision_to_others() {
    let (mut three, leader, behind, end) = with_much_to_apply();
    let group = three.group(behind, GROUP);
    let knows = |status: Option<crate::replica::group::GroupStatus>| {
        status.is_some_and(|status| status.committed > status.applied.index)
    };
    let since = Instant::now();
    while !knows(group.status()) {
        assert!(since.elapsed() < LONG_ENOUGH, "it hears what is committed");
        std::thread::sleep(Duration::from_millis(2));
    }
    group.campaign();
    assert!(group.status().expect("it is driven").leader.is_some(), "there may be a change of the members among it");
    // The one that decides is gone, and the third one has all that there is.
    let third = 3 - leader - behind;
    three.kill(leader);
    let next = three.leader(GROUP, &[third]);
    let end = append_at(&three.group(next, GROUP), end, 10).expect("taken");
    three.disk(behind).release_reads();
    three.heard(behind, GROUP).wait_until("it has applied all", |view| view.end == end);
}

#[test]
fn who_is_elected_and_cannot_read_what_it_has_to_apply_hands_over() {
    let mut three = Three::new();
    three.open_all(GROUP);
    let leader = three.leader(GROUP, &[0, 1, 2]);
    let end = append_at(&three.group(leader, GROUP), 0, 1 << 20).expect("taken");
    (0..3).for_each(|node| three.heard(node, GROUP).wait_until("it is committed", |view| view.end == end));
    (0..3).for_each(|node| three.kill(node));
    three.disk(0).hold_reads(GROUP);
    three.start(0);
    three.open(0, GROUP);
    three.start(2);
    three.open(2, GROUP);
    let (group, since) = (three.group(0, GROUP), Instant::now());
    // Long before the other one does.
    while !group.status().expect("it is driven").is_leader {
        assert!(since.elapsed() < LONG_ENOUGH, "it is elected");
        group.campaign();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(three.leader(GROUP, &[2]), 2);
    assert_eq!(three.group(2, GROUP).view().end, end);
    assert_eq!(group.view().end, 0, "nothing of it was read");
    three.disk(0).release_reads();
    three.heard(0, GROUP).wait_until("it has applied all", |view| view.end == end);
}
