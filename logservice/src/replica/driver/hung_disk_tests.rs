//! Disks that do not answer, and entries that only a disk has.

use std::time::{Duration, Instant};

use super::testing::{Three, GROUP, LONG_ENOUGH};
use super::tests::{append_at, confirm};
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
