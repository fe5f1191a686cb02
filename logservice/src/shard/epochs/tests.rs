use std::time::Duration;

use super::*;
use crate::shard::lease::drift_margin_ms;

pub(super) const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(super) const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
pub(super) const C: &str = "cccccccccccccccccccccccccccccccccccccccc";
pub(super) const ZERO: &str = "0000000000000000000000000000000000000000";
pub(super) const LEASE_MS: u64 = 1000;
/// From when on another node may have a lease of that length.
const KEPT_MS: u64 = 1060;

pub(super) fn fresh() -> (Epochs, Instant) {
    let now = Instant::now();
    (Epochs::from_manifest(&Manifest::new("s1", ZERO.to_owned(), "id".to_owned()), now), now)
}

pub(super) fn node<'a>(node_id: &'a str, address: &'a str) -> Node<'a> {
    Node { node_id, address, engine: None, process: None, databases: None }
}

pub(super) fn led_by(node_id: &str, replid: &str, offset: u64) -> (Epochs, Instant) {
    let (mut epochs, now) = fresh();
    epochs.grant(1, node(node_id, "host:1"), LEASE_MS, now);
    assert_eq!(epochs.begin(1, replid, offset, offset), Ok(true));
    (epochs, now)
}

pub(super) fn successor(node_id: &str, address: &str, time_ms: u64) -> Successor {
    Successor { node_id: node_id.to_owned(), address: address.to_owned(), time: Duration::from_millis(time_ms) }
}

pub(super) fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.expect_err("must be refused").code
}

pub(super) fn later(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms)
}

#[test]
fn a_lease_keeps_others_out_until_it_expires() {
    let (epochs, now) = led_by("n1", A, 0);
    let refusal = epochs.check_free("s1", "n2", later(now, 400)).expect_err("leased");
    assert_eq!(refusal.code, Code::Leased);
    assert!(refusal.detail.starts_with("n1 host:1 660 "), "{refusal}");
    // Another process may go by the name of the one that leads.
    for node_id in ["n1", "n2"] {
        assert_eq!(code(epochs.check_free("s1", node_id, later(now, KEPT_MS - 1))), Code::Leased);
        assert_eq!(epochs.check_free("s1", node_id, later(now, KEPT_MS)), Ok(()));
    }
}

#[test]
fn a_lease_that_never_expires_passes_to_the_same_node_alone() {
    let (mut epochs, now) = fresh();
    epochs.grant(1, node("n1", "host:1"), 0, now);
    assert_eq!(epochs.check_free("s1", "n1", now), Ok(()));
    assert_eq!(code(epochs.check_free("s1", "n2", later(now, 1 << 50))), Code::Leased);
}

#[test]
fn a_process_is_not_granted_a_second_time_what_it_holds_for_ever() {
    let (mut epochs, now) = fresh();
    let of = |process| Node { process: Some(process), ..node("n1", "host:1") };
    epochs.grant(1, of("1"), 0, now);
    let refusal = epochs.check_not_led_by("s1", Some("1")).expect_err("it leads");
    assert_eq!(refusal.code, Code::Leased);
    assert!(refusal.detail.starts_with("n1 host:1 -1 leads shard s1 in epoch 1"), "{refusal}");
    for another in [Some("2"), None] {
        assert_eq!(epochs.check_not_led_by("s1", another), Ok(()));
    }
    epochs.release(1).expect("it is the newest");
    assert_eq!(epochs.check_not_led_by("s1", Some("1")), Ok(()));
    // One that expires is waited for.
    epochs.grant(2, of("1"), 1000, now);
    assert_eq!(epochs.check_not_led_by("s1", Some("1")), Ok(()));
}

#[test]
fn what_a_process_asked_for_before_a_later_epoch_of_its_node_is_refused() {
    let (mut epochs, now) = fresh();
    assert_eq!(epochs.check_still_newest(Some(0), now), Ok(()));
    epochs.grant(1, node("n1", "host:1"), 0, now);
    for seen in [Some(1), None] {
        assert_eq!(epochs.check_still_newest(seen, now), Ok(()));
    }
    let refusal = epochs.check_still_newest(Some(0), now).expect_err("a later process leads");
    assert_eq!(refusal.code, Code::Leased);
    assert_eq!(refusal.detail, "n1 host:1 -1 epoch 1 is the newest, and epoch 0 was when this was asked");
    epochs.release(1).expect("it is the newest");
    assert!(epochs.check_still_newest(Some(0), now).expect_err("another has led").detail.starts_with("- - 0 epoch 1 "));
}

#[test]
fn an_epoch_that_is_being_granted_has_no_number_by_which_it_could_be_freed() {
    let (mut epochs, _) = led_by("n1", A, 0);
    epochs.close();
    assert_eq!(epochs.epoch(), 1);
    assert_eq!(code(epochs.clone().release(2)), Code::Fenced);
    assert_eq!(code(epochs.revoke(2, None)), Code::Fenced);
}

#[test]
fn others_wait_longer_than_a_lease_by_what_clocks_may_drift_apart() {
    assert_eq!([1, 100, 1000, 10_000].map(drift_margin_ms), [10, 15, 60, 510]);
    let (mut epochs, now) = fresh();
    for lease_ms in [1, 100, 10_000] {
        epochs.grant(1, node("n1", "host:1"), lease_ms, now);
        let kept_ms = lease_ms + drift_margin_ms(lease_ms);
        assert_eq!(epochs.lease_left(now), LeaseLeft::For(Duration::from_millis(kept_ms)));
        assert_eq!(epochs.lease_ms(), lease_ms);
    }
    epochs.grant(1, node("n1", "host:1"), u64::MAX, now);
    assert_eq!(code(epochs.check_free("s1", "n2", later(now, 1 << 50))), Code::Leased);
}

#[test]
fn what_is_left_is_nothing_only_when_it_is_over() {
    assert_eq!(whole_ms(Duration::ZERO), 0);
    assert_eq!(whole_ms(Duration::from_nanos(1)), 1);
    assert_eq!(whole_ms(Duration::from_millis(7)), 7);
    assert_eq!(whole_ms(Duration::from_micros(7001)), 8);
}

#[test]
fn only_who_holds_the_log_to_its_end_under_its_replication_id_may_lead() {
    let (mut epochs, now) = led_by("n1", A, 100);
    let check = |epochs: &Epochs, end, replid| {
        epochs.check_held(Held { end, replid, seen: None }, 200).map_err(|refusal| refusal.detail)
    };
    assert_eq!(check(&epochs, 199, Some(A)), Err("200 is the end of the log, not 199".to_owned()));
    let other = format!("200 is the end of the log under replication id {A}, not {B}");
    assert_eq!(check(&epochs, 200, Some(B)), Err(other));
    assert_eq!(check(&epochs, 200, None), Ok(()));
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(check(&epochs, 200, Some(A)), Ok(()), "n2 has not begun");
    epochs.seed(2, B, 200, 200).expect("seeded");
    assert!(check(&epochs, 200, Some(A)).is_err(), "the same end, and other data");
    assert_eq!(check(&epochs, 200, Some(B)), Ok(()));
}

#[test]
fn a_released_lease_is_reserved_for_one_node_until_the_time_is_over() {
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.release(1).expect("released");
    epochs.reserve(&successor("n2", "host:2", 500), now);
    for other in ["n1", "n3"] {
        let refusal = epochs.check_free("s1", other, later(now, 100)).expect_err("reserved");
        assert_eq!(refusal.code, Code::Leased);
        assert!(refusal.detail.starts_with("n2 host:2 400 "), "{refusal}");
        assert!(refusal.detail.ends_with("reserved for n2 for 400 ms"), "{refusal}");
        assert_eq!(epochs.check_free("s1", other, later(now, 500)), Ok(()));
    }
    assert_eq!(epochs.check_free("s1", "n2", now), Ok(()));
    assert_eq!((epochs.reserved_for(later(now, 499)), epochs.reserved_for(later(now, 500))), (Some("n2"), None));
    let mut manifest = Manifest::new("s1", ZERO.to_owned(), "id".to_owned());
    epochs.store_in(&mut manifest);
    assert_eq!(Epochs::from_manifest(&manifest, now).reserved_for(now), None, "only in memory");
}

#[test]
fn a_reservation_ends_when_that_node_leads_or_by_another_release() {
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.release(1).expect("released");
    epochs.reserve(&successor("n2", "host:2", 5000), now);
    let mut granted = epochs.clone();
    granted.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(granted.reserved_for(now), None);
    epochs.release(1).expect("released again");
    assert_eq!(epochs.check_free("s1", "n3", now), Ok(()));
}

#[test]
fn leadership_changes_with_who_leads_or_may_and_not_with_renewals() {
    let (mut epochs, now) = fresh();
    let mut last = epochs.leadership(now);
    let mut changes =
        |epochs: &Epochs, at: Instant| std::mem::replace(&mut last, epochs.leadership(at)) != epochs.leadership(at);
    epochs.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert!(changes(&epochs, now), "acquired");
    epochs.begin(1, A, 0, 0).expect("begins");
    assert!(changes(&epochs, now), "begun");
    epochs.renew(1, LEASE_MS, later(now, 500)).expect("renewed");
    epochs.renew(1, LEASE_MS + 1, later(now, 501)).expect("renewed");
    epochs.renew(1, LEASE_MS, later(now, 502)).expect("renewed");
    assert!(!changes(&epochs, later(now, 502 + KEPT_MS - 1)), "renewed");
    assert!(changes(&epochs, later(now, 502 + KEPT_MS)), "expired");
    epochs.renew(1, LEASE_MS, later(now, 2000)).expect("renewed");
    assert!(changes(&epochs, later(now, 2000)), "in force again");
    epochs.grant(2, node("n1", "elsewhere:1"), LEASE_MS, later(now, 2000));
    assert!(changes(&epochs, later(now, 2000)), "another life of the same node");
    let mut closed = epochs.clone();
    closed.close();
    assert!(changes(&closed, later(now, 2000)), "closed");
    assert!(changes(&epochs, later(now, 2000)), "in force again");
    epochs.release(2).expect("released");
    assert!(changes(&epochs, later(now, 2000)), "released");
    epochs.release(2).expect("released");
    assert!(!changes(&epochs, later(now, 2000)), "released twice");
    epochs.reserve(&successor("n2", "host:2", 3000), now);
    assert!(changes(&epochs, later(now, 2999)), "reserved");
    assert!(changes(&epochs, later(now, 3000)), "not any more");
}

#[test]
fn time_is_told_at_which_leadership_changes_by_itself() {
    let (mut epochs, now) = led_by("n1", A, 0);
    assert_eq!(epochs.next_change(now), Some(later(now, KEPT_MS)));
    assert_eq!(epochs.next_change(later(now, KEPT_MS)), None);
    epochs.release(1).expect("released");
    assert_eq!(epochs.next_change(now), None, "nobody holds it");
    epochs.reserve(&successor("n2", "host:2", 500), now);
    assert_eq!(epochs.next_change(now), Some(later(now, 500)));
    epochs.grant(2, node("n2", "host:2"), 0, now);
    assert_eq!(epochs.next_change(now), None, "never expires");
}

#[test]
fn renewing_extends_the_lease_from_then_on_also_when_it_has_expired() {
    let (mut epochs, now) = led_by("n1", A, 0);
    assert_eq!(epochs.renew(1, LEASE_MS, later(now, 900)), Ok(false));
    assert_eq!(epochs.lease_left(later(now, 1000)), LeaseLeft::For(Duration::from_millis(KEPT_MS - 100)));
    assert_eq!(epochs.renew(1, 5000, later(now, 9000)), Ok(true), "another length must be stored");
    assert_eq!(code(epochs.check_free("s1", "n2", later(now, 14_259))), Code::Leased);
    assert_eq!(epochs.check_free("s1", "n2", later(now, 14_260)), Ok(()));
    assert_eq!(code(epochs.renew(2, LEASE_MS, now)), Code::Fenced);
}

#[test]
fn a_changed_copy_takes_over_renewals_of_the_lease_that_it_still_is() {
    let (in_force, now) = led_by("n1", A, 0);
    let renewed = || {
        let mut epochs = in_force.clone();
        assert!(epochs.is_leased_as(1, LEASE_MS) && !epochs.is_leased_as(1, 5000) && !epochs.is_leased_as(0, LEASE_MS));
        epochs.renew(1, LEASE_MS, later(now, 500)).expect("renewed");
        epochs
    };
    let after = |change: &dyn Fn(&mut Epochs)| {
        let mut copy = in_force.clone();
        change(&mut copy);
        copy.keep_changes_since(&renewed(), now);
        copy.lease_left(now)
    };
    let for_ms = |ms| LeaseLeft::For(Duration::from_millis(ms));
    assert_eq!(after(&|copy| copy.seed(1, B, 500, 0).expect("seeded")), for_ms(KEPT_MS + 500));
    assert_eq!(after(&|copy| assert_eq!(copy.renew(1, 5000, now), Ok(true))), for_ms(5260), "was later already");
    assert_eq!(after(&|copy| assert_eq!(copy.renew(1, 1, now), Ok(true))), for_ms(KEPT_MS + 500));
    assert_eq!(after(&|copy| assert_eq!(copy.renew(1, 0, now), Ok(true))), LeaseLeft::Forever);
    assert_eq!(after(&|copy| copy.release(1).expect("released")), LeaseLeft::Nobody);
    assert_eq!(after(&|copy| copy.grant(2, node("n2", "host:2"), 1, now)), for_ms(11), "of another leader");
}

#[test]
fn a_copy_that_makes_an_endless_lease_expire_does_so_beside_renewals() {
    let (mut in_force, now) = led_by("n1", A, 0);
    in_force.renew(1, 0, now).expect("renewed");
    let mut copy = in_force.clone();
    assert_eq!(copy.renew(1, LEASE_MS, now), Ok(true));
    in_force.renew(1, 0, later(now, 500)).expect("renewed");
    copy.keep_changes_since(&in_force, now);
    assert_eq!(copy.lease_left(now), LeaseLeft::For(Duration::from_millis(KEPT_MS)));
}

#[test]
fn epochs_that_were_closed_leave_those_before_as_they_were() {
    let (before, now) = led_by("n1", A, 0);
    let mut closed = before.clone();
    closed.close();
    assert!(!closed.is_leased_as(1, LEASE_MS) && !closed.is_leased_as(2, LEASE_MS));
    let mut next = before.clone();
    next.grant(2, node("n2", "host:2"), 1, now);
    for mut epochs in [before, next] {
        let left = epochs.lease_left(now);
        epochs.keep_changes_since(&closed, now);
        assert_eq!(epochs.lease_left(now), left);
    }
}

#[test]
fn a_lease_begins_and_ceases_to_expire_when_it_is_renewed_so() {
    let (mut epochs, now) = led_by("n1", A, 0);
    assert_eq!(epochs.renew(1, 0, now), Ok(true));
    assert_eq!(epochs.lease_left(now), LeaseLeft::Forever);
    assert_eq!(epochs.renew(1, LEASE_MS, now), Ok(true));
    assert_eq!(epochs.lease_left(now), LeaseLeft::For(Duration::from_millis(KEPT_MS)));
}

#[test]
fn a_lease_that_never_expires_is_freed_by_hand() {
    let (mut epochs, now) = fresh();
    epochs.grant(1, node("n1", "host:1"), 0, now);
    let refusal = epochs.check_free("s1", "n2", later(now, 1 << 40)).expect_err("leased");
    assert!(refusal.detail.starts_with("n1 host:1 -1 ") && refusal.detail.contains("LOG.RELEASE s1 1"), "{refusal}");
    assert_eq!(epochs.lease_left(now), LeaseLeft::Forever);
    assert_eq!(code(epochs.release(0)), Code::Fenced);
    assert_eq!(epochs.release(1), Ok(()));
    assert_eq!(epochs.release(1), Ok(()), "twice is no error");
    assert_eq!(epochs.lease_left(now), LeaseLeft::Nobody);
    assert_eq!(epochs.check_free("s1", "n2", now), Ok(()));
}

#[test]
fn after_a_restart_the_lease_counts_in_full() {
    let (epochs, now) = led_by("n1", A, 0);
    let mut manifest = Manifest::new("s1", ZERO.to_owned(), "id".to_owned());
    epochs.store_in(&mut manifest);
    let restarted = later(now, 5000);
    let epochs = Epochs::from_manifest(&manifest, restarted);
    assert_eq!(code(epochs.check_free("s1", "n2", later(restarted, KEPT_MS - 1))), Code::Leased);
    assert_eq!(epochs.check_free("s1", "n2", later(restarted, KEPT_MS)), Ok(()));
    assert_eq!(epochs.admit(1, 0, 10, 0), Ok(Admission::Write));
}

#[test]
fn a_lease_that_is_revoked_is_its_holders_until_it_resigns_or_the_lease_has_passed() {
    let (mut epochs, now) = led_by("n1", A, 0);
    assert_eq!(code(epochs.clone().revoke(2, None)), Code::Fenced);
    epochs.revoke(1, None).expect("revoked");
    epochs.revoke(1, None).expect("revoked again");
    assert!(epochs.is_revoked(1) && !epochs.is_revoked(2));
    assert_eq!(code(epochs.admit(1, 0, 10, 0)), Code::Fenced);
    assert_eq!(code(epochs.renew(1, LEASE_MS, now)), Code::Fenced);
    assert_eq!(code(epochs.check_not_taken_from("n1")), Code::Fenced);
    assert_eq!(epochs.check_not_taken_from("n2"), Ok(()));
    assert_eq!(code(epochs.check_free("s1", "n2", later(now, KEPT_MS - 1))), Code::Leased, "it may still answer");
    assert_eq!(epochs.check_free("s1", "n2", later(now, KEPT_MS)), Ok(()));
    let mut resigned = epochs.clone();
    resigned.release(1).expect("resigned");
    assert_eq!(resigned.check_free("s1", "n2", now), Ok(()));
    resigned.revoke(1, None).expect("nobody leads");
    assert!(!resigned.is_revoked(1));
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(epochs.check_not_taken_from("n2"), Ok(()));
}

#[test]
fn a_copy_that_takes_the_place_of_epochs_whose_lease_was_revoked_meanwhile_is_revoked_as_well() {
    let (mut in_force, now) = fresh();
    in_force.grant(1, node("n1", "host:1"), LEASE_MS, now);
    let copy = in_force.clone();
    in_force.revoke(1, None).expect("revoked");
    let after = |change: &dyn Fn(&mut Epochs)| {
        let mut copy = copy.clone();
        change(&mut copy);
        copy.keep_changes_since(&in_force, now);
        copy
    };
    let begun = after(&|copy| assert_eq!(copy.begin(1, A, 0, 0), Ok(true)));
    assert!(begun.is_revoked(1));
    assert_eq!(code(begun.admit(1, 0, 10, 0)), Code::Fenced);
    assert!(after(&|copy| copy.seed(1, A, 0, 0).expect("seeded")).is_revoked(1));
    assert!(!after(&|copy| copy.release(1).expect("resigned")).is_revoked(1));
    let granted = after(&|copy| copy.grant(2, node("n2", "host:2"), LEASE_MS, now));
    assert!(!granted.is_revoked(2), "that was of another epoch");
}

#[test]
fn a_lease_that_its_leader_gives_back_to_an_operator_is_left_to_whom_that_one_named() {
    let (mut in_force, now) = led_by("n1", A, 0);
    // The leader's own resignation may be stored already when the operator's word comes.
    let resign = |epochs: &Epochs| {
        let mut resigned = epochs.clone();
        resigned.release(1).expect("resigned");
        resigned
    };
    let mut early = resign(&in_force);
    in_force.revoke(1, Some(&successor("n2", "host:2", 500))).expect("revoked");
    let mut late = resign(&in_force);
    for resigned in [&mut early, &mut late] {
        resigned.keep_changes_since(&in_force, later(now, 100));
        let refusal = resigned.check_free("s1", "n3", later(now, 200)).expect_err("reserved");
        assert!(refusal.detail.starts_with("n2 host:2 400 "), "{refusal}");
        assert_eq!(resigned.check_free("s1", "n2", later(now, 200)), Ok(()));
        assert_eq!(resigned.check_free("s1", "n3", later(now, 600)), Ok(()));
    }
    in_force.revoke(1, None).expect("revoked again");
    late = resign(&in_force);
    late.keep_changes_since(&in_force, now);
    assert_eq!(late.check_free("s1", "n3", now), Ok(()), "for everybody");
}
