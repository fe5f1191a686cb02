use std::time::Duration;

use super::super::lease::drift_margin_ms;
use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "cccccccccccccccccccccccccccccccccccccccc";
const ZERO: &str = "0000000000000000000000000000000000000000";
const LEASE_MS: u64 = 1000;
/// From when on another node may have a lease of that length.
const KEPT_MS: u64 = 1060;

fn fresh() -> (Terms, Instant) {
    let now = Instant::now();
    (Terms::from_manifest(&Manifest::new("s1", ZERO.to_owned(), "id".to_owned()), now), now)
}

fn node<'a>(node_id: &'a str, address: &'a str) -> Node<'a> {
    Node { node_id, address, engine: None, process: None, databases: None }
}

fn led_by(node_id: &str, replid: &str, offset: u64) -> (Terms, Instant) {
    let (mut terms, now) = fresh();
    terms.grant(1, node(node_id, "host:1"), LEASE_MS, now);
    assert_eq!(terms.begin(1, replid, offset, offset), Ok(true));
    (terms, now)
}

fn successor(node_id: &str, address: &str, time_ms: u64) -> Successor {
    Successor { node_id: node_id.to_owned(), address: address.to_owned(), time: Duration::from_millis(time_ms) }
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.expect_err("must be refused").code
}

fn later(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms)
}

#[test]
fn a_lease_keeps_others_out_until_it_expires() {
    let (terms, now) = led_by("n1", A, 0);
    let refusal = terms.check_free("s1", "n2", later(now, 400)).expect_err("leased");
    assert_eq!(refusal.code, Code::Leased);
    assert!(refusal.detail.starts_with("n1 host:1 660 "), "{refusal}");
    // Another process may go by the name of the one that leads.
    for node_id in ["n1", "n2"] {
        assert_eq!(code(terms.check_free("s1", node_id, later(now, KEPT_MS - 1))), Code::Leased);
        assert_eq!(terms.check_free("s1", node_id, later(now, KEPT_MS)), Ok(()));
    }
}

#[test]
fn a_lease_that_never_expires_passes_to_the_same_node_alone() {
    let (mut terms, now) = fresh();
    terms.grant(1, node("n1", "host:1"), 0, now);
    assert_eq!(terms.check_free("s1", "n1", now), Ok(()));
    assert_eq!(code(terms.check_free("s1", "n2", later(now, 1 << 50))), Code::Leased);
}

#[test]
fn others_wait_longer_than_a_lease_by_what_clocks_may_drift_apart() {
    assert_eq!([1, 100, 1000, 10_000].map(drift_margin_ms), [10, 15, 60, 510]);
    let (mut terms, now) = fresh();
    for lease_ms in [1, 100, 10_000] {
        terms.grant(1, node("n1", "host:1"), lease_ms, now);
        let kept_ms = lease_ms + drift_margin_ms(lease_ms);
        assert_eq!(terms.lease_left(now), LeaseLeft::For(Duration::from_millis(kept_ms)));
        assert_eq!(terms.lease_ms(), lease_ms);
    }
    terms.grant(1, node("n1", "host:1"), u64::MAX, now);
    assert_eq!(code(terms.check_free("s1", "n2", later(now, 1 << 50))), Code::Leased);
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
    let (mut terms, now) = led_by("n1", A, 100);
    let check =
        |terms: &Terms, end, replid| terms.check_held(Held { end, replid }, 200).map_err(|refusal| refusal.detail);
    assert_eq!(check(&terms, 199, Some(A)), Err("200 is the end of the log, not 199".to_owned()));
    let other = format!("200 is the end of the log under replication id {A}, not {B}");
    assert_eq!(check(&terms, 200, Some(B)), Err(other));
    assert_eq!(check(&terms, 200, None), Ok(()));
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(check(&terms, 200, Some(A)), Ok(()), "n2 has not begun");
    terms.seed(2, B, 200, 200).expect("seeded");
    assert!(check(&terms, 200, Some(A)).is_err(), "the same end, and other data");
    assert_eq!(check(&terms, 200, Some(B)), Ok(()));
}

#[test]
fn a_released_lease_is_reserved_for_one_node_until_the_time_is_over() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.release(1).expect("released");
    terms.reserve(&successor("n2", "host:2", 500), now);
    for other in ["n1", "n3"] {
        let refusal = terms.check_free("s1", other, later(now, 100)).expect_err("reserved");
        assert_eq!(refusal.code, Code::Leased);
        assert!(refusal.detail.starts_with("n2 host:2 400 "), "{refusal}");
        assert!(refusal.detail.ends_with("reserved for n2 for 400 ms"), "{refusal}");
        assert_eq!(terms.check_free("s1", other, later(now, 500)), Ok(()));
    }
    assert_eq!(terms.check_free("s1", "n2", now), Ok(()));
    assert_eq!((terms.reserved_for(later(now, 499)), terms.reserved_for(later(now, 500))), (Some("n2"), None));
    let mut manifest = Manifest::new("s1", ZERO.to_owned(), "id".to_owned());
    terms.store_in(&mut manifest);
    assert_eq!(Terms::from_manifest(&manifest, now).reserved_for(now), None, "only in memory");
}

#[test]
fn a_reservation_ends_when_that_node_leads_or_by_another_release() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.release(1).expect("released");
    terms.reserve(&successor("n2", "host:2", 5000), now);
    let mut granted = terms.clone();
    granted.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(granted.reserved_for(now), None);
    terms.release(1).expect("released again");
    assert_eq!(terms.check_free("s1", "n3", now), Ok(()));
}

#[test]
fn leadership_changes_with_who_leads_or_may_and_not_with_renewals() {
    let (mut terms, now) = fresh();
    let mut last = terms.leadership(now);
    let mut changes =
        |terms: &Terms, at: Instant| std::mem::replace(&mut last, terms.leadership(at)) != terms.leadership(at);
    terms.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert!(changes(&terms, now), "acquired");
    terms.begin(1, A, 0, 0).expect("begins");
    assert!(changes(&terms, now), "begun");
    terms.renew(1, LEASE_MS, later(now, 500)).expect("renewed");
    terms.renew(1, LEASE_MS + 1, later(now, 501)).expect("renewed");
    terms.renew(1, LEASE_MS, later(now, 502)).expect("renewed");
    assert!(!changes(&terms, later(now, 502 + KEPT_MS - 1)), "renewed");
    assert!(changes(&terms, later(now, 502 + KEPT_MS)), "expired");
    terms.renew(1, LEASE_MS, later(now, 2000)).expect("renewed");
    assert!(changes(&terms, later(now, 2000)), "in force again");
    terms.grant(2, node("n1", "elsewhere:1"), LEASE_MS, later(now, 2000));
    assert!(changes(&terms, later(now, 2000)), "another life of the same node");
    let mut closed = terms.clone();
    closed.close();
    assert!(changes(&closed, later(now, 2000)), "closed");
    terms.release(2).expect("released");
    assert!(changes(&terms, later(now, 2000)), "released");
    terms.release(2).expect("released");
    assert!(!changes(&terms, later(now, 2000)), "released twice");
    terms.reserve(&successor("n2", "host:2", 3000), now);
    assert!(changes(&terms, later(now, 2999)), "reserved");
    assert!(changes(&terms, later(now, 3000)), "not any more");
}

#[test]
fn time_is_told_at_which_leadership_changes_by_itself() {
    let (mut terms, now) = led_by("n1", A, 0);
    assert_eq!(terms.next_change(now), Some(later(now, KEPT_MS)));
    assert_eq!(terms.next_change(later(now, KEPT_MS)), None);
    terms.release(1).expect("released");
    assert_eq!(terms.next_change(now), None, "nobody holds it");
    terms.reserve(&successor("n2", "host:2", 500), now);
    assert_eq!(terms.next_change(now), Some(later(now, 500)));
    terms.grant(2, node("n2", "host:2"), 0, now);
    assert_eq!(terms.next_change(now), None, "never expires");
}

#[test]
fn renewing_extends_the_lease_from_then_on_also_when_it_has_expired() {
    let (mut terms, now) = led_by("n1", A, 0);
    assert_eq!(terms.renew(1, LEASE_MS, later(now, 900)), Ok(false));
    assert_eq!(terms.lease_left(later(now, 1000)), LeaseLeft::For(Duration::from_millis(KEPT_MS - 100)));
    assert_eq!(terms.renew(1, 5000, later(now, 9000)), Ok(true), "another length must be stored");
    assert_eq!(code(terms.check_free("s1", "n2", later(now, 14_259))), Code::Leased);
    assert_eq!(terms.check_free("s1", "n2", later(now, 14_260)), Ok(()));
    assert_eq!(code(terms.renew(2, LEASE_MS, now)), Code::Fenced);
}

#[test]
fn a_changed_copy_takes_over_renewals_of_the_lease_that_it_still_is() {
    let (in_force, now) = led_by("n1", A, 0);
    let renewed = || {
        let mut terms = in_force.clone();
        assert!(terms.is_leased_as(1, LEASE_MS) && !terms.is_leased_as(1, 5000) && !terms.is_leased_as(0, LEASE_MS));
        terms.renew(1, LEASE_MS, later(now, 500)).expect("renewed");
        terms
    };
    let after = |change: &dyn Fn(&mut Terms)| {
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
fn terms_that_were_closed_leave_those_before_as_they_were() {
    let (before, now) = led_by("n1", A, 0);
    let mut closed = before.clone();
    closed.close();
    assert!(!closed.is_leased_as(1, LEASE_MS) && !closed.is_leased_as(2, LEASE_MS));
    let mut next = before.clone();
    next.grant(2, node("n2", "host:2"), 1, now);
    for mut terms in [before, next] {
        let left = terms.lease_left(now);
        terms.keep_changes_since(&closed, now);
        assert_eq!(terms.lease_left(now), left);
    }
}

#[test]
fn a_lease_begins_and_ceases_to_expire_when_it_is_renewed_so() {
    let (mut terms, now) = led_by("n1", A, 0);
    assert_eq!(terms.renew(1, 0, now), Ok(true));
    assert_eq!(terms.lease_left(now), LeaseLeft::Forever);
    assert_eq!(terms.renew(1, LEASE_MS, now), Ok(true));
    assert_eq!(terms.lease_left(now), LeaseLeft::For(Duration::from_millis(KEPT_MS)));
}

#[test]
fn a_lease_that_never_expires_is_freed_by_hand() {
    let (mut terms, now) = fresh();
    terms.grant(1, node("n1", "host:1"), 0, now);
    let refusal = terms.check_free("s1", "n2", later(now, 1 << 40)).expect_err("leased");
    assert!(refusal.detail.starts_with("n1 host:1 -1 ") && refusal.detail.contains("LOG.RELEASE s1 1"), "{refusal}");
    assert_eq!(terms.lease_left(now), LeaseLeft::Forever);
    assert_eq!(code(terms.release(0)), Code::Fenced);
    assert_eq!(terms.release(1), Ok(()));
    assert_eq!(terms.release(1), Ok(()), "twice is no error");
    assert_eq!(terms.lease_left(now), LeaseLeft::Nobody);
    assert_eq!(terms.check_free("s1", "n2", now), Ok(()));
}

#[test]
fn after_a_restart_the_lease_counts_in_full() {
    let (terms, now) = led_by("n1", A, 0);
    let mut manifest = Manifest::new("s1", ZERO.to_owned(), "id".to_owned());
    terms.store_in(&mut manifest);
    let restarted = later(now, 5000);
    let terms = Terms::from_manifest(&manifest, restarted);
    assert_eq!(code(terms.check_free("s1", "n2", later(restarted, KEPT_MS - 1))), Code::Leased);
    assert_eq!(terms.check_free("s1", "n2", later(restarted, KEPT_MS)), Ok(()));
    assert_eq!(terms.admit(1, 0, 10, 0), Ok(Admission::Write));
}

#[test]
fn only_the_current_epoch_appends_and_only_after_it_began() {
    let (mut terms, now) = fresh();
    assert_eq!(code(terms.admit(0, 0, 10, 0)), Code::Fenced);
    terms.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert_eq!(code(terms.admit(1, 0, 10, 0)), Code::Err);
    assert_eq!(terms.begin(1, A, 0, 0), Ok(true));
    assert_eq!(terms.admit(1, 0, 10, 0), Ok(Admission::Write));
    assert_eq!(code(terms.admit(2, 0, 10, 0)), Code::Fenced);
    let mut closed = terms.clone();
    closed.close();
    assert_eq!(code(closed.admit(1, 0, 10, 0)), Code::Fenced);
    assert_eq!(code(closed.admit(2, 0, 10, 0)), Code::Fenced);
    terms.release(1).expect("released");
    assert_eq!(code(terms.admit(1, 0, 10, 0)), Code::Fenced);
}

#[test]
fn an_append_is_new_sent_before_overlapping_or_a_gap() {
    let (terms, _) = led_by("n1", A, 100);
    let end = 200;
    assert_eq!(terms.admit(1, 200, 50, end), Ok(Admission::Write));
    assert_eq!(terms.admit(1, 150, 50, end), Ok(Admission::Overlap { bytes: 50 }));
    assert_eq!(terms.admit(1, 100, 1, end), Ok(Admission::Overlap { bytes: 1 }));
    assert_eq!(terms.admit(1, 200, 0, end), Ok(Admission::Overlap { bytes: 0 }));
    assert_eq!(terms.admit(1, 180, 50, end), Ok(Admission::Overlap { bytes: 20 }));
    for (offset, bytes) in [(201, 10), (99, 10), (99, 1000), (0, 0)] {
        let refusal = terms.admit(1, offset, bytes, end).expect_err("gap");
        assert_eq!(refusal.code, Code::Gap);
        assert!(refusal.detail.starts_with("200 "), "{refusal}");
    }
    assert_eq!(code(terms.admit(1, u64::MAX, 10, end)), Code::Err);
}

#[test]
fn a_leader_begins_once_at_the_end_of_the_log() {
    let (mut terms, now) = fresh();
    assert_eq!(code(terms.begin(0, A, 0, 0)), Code::Fenced);
    terms.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert_eq!(code(terms.begin(1, "short", 50, 50)), Code::Err);
    assert_eq!(code(terms.begin(1, A, 49, 50)), Code::Gap);
    assert_eq!(terms.begin(1, A, 50, 50), Ok(true));
    assert_eq!(terms.begin(1, A, 50, 70), Ok(false), "sent again after it wrote");
    assert_eq!(code(terms.begin(1, B, 50, 50)), Code::Err);
    assert_eq!(terms.replid(), A);
}

#[test]
fn a_replica_continues_only_from_what_is_in_the_log() {
    // Epoch 0 up to 0, then A up to 100, then B up to 250.
    let (mut terms, now) = led_by("n1", A, 0);
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert!(terms.continues(A, 100, 0, 100), "nobody has begun after A yet");
    terms.begin(2, B, 100, 100).expect("begins");
    let continues = |replid, position| terms.continues(replid, position, 20, 250);
    assert!(continues(A, 20) && continues(A, 100));
    assert!(!continues(A, 101), "A wrote more than the log took: those bytes are not in it");
    assert!(!continues(A, 19) && !continues(B, 19), "below the base");
    assert!(continues(B, 250) && continues(B, 100));
    assert!(continues(B, 50), "it learnt the new id while it was still behind");
    assert!(!continues(B, 251));
    assert!(!continues(ZERO, 20), "beyond the end of epoch 0");
    assert!(terms.continues(ZERO, 0, 0, 250));
    assert!(!continues("?", 100));
}

#[test]
fn a_leader_that_comes_back_under_its_old_id_does_not_end_its_own_history() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.grant(2, node("n1", "host:1"), LEASE_MS, now);
    terms.begin(2, A, 100, 100).expect("begins");
    assert!(terms.continues(A, 150, 0, 200));
}

#[test]
fn a_seed_ends_every_history_before_it() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(code(terms.clone().seed(1, B, 500, 100)), Code::Fenced);
    assert_eq!(code(terms.clone().seed(2, B, 99, 100)), Code::Gap);
    terms.seed(2, B, 100, 100).expect("seeded");
    assert!(!terms.continues(A, 100, 100, 300), "the same position, but not the same data");
    assert!(terms.continues(B, 100, 100, 300));
    assert_eq!(terms.begin(2, B, 100, 100), Ok(false), "a seed counts as having begun");
    assert_eq!(terms.admit(2, 100, 10, 100), Ok(Admission::Write));
    assert_eq!(code(terms.admit(2, 90, 5, 100)), Code::Gap, "n2 had not written before");
}

#[test]
fn appends_below_a_seed_of_a_leader_that_wrote_them_were_sent_before() {
    let (mut terms, _) = led_by("n1", A, 0);
    terms.seed(1, B, 500, 100).expect("seeded");
    assert_eq!(terms.admit(1, 90, 20, 500), Ok(Admission::Overlap { bytes: 20 }));
}

#[test]
fn the_history_is_bounded_and_forgets_terms_that_never_began() {
    let (mut terms, now) = fresh();
    for epoch in 1..=1000 {
        terms.grant(epoch, node("n1", "host:1"), LEASE_MS, now);
        if epoch % 2 == 0 {
            terms.begin(epoch, A, epoch, epoch).expect("begins");
        }
    }
    assert_eq!(terms.epoch(), 1000);
    assert_eq!(terms.history.len(), MAX_TERMS);
    assert!(terms.history.iter().all(|term| term.replid.is_some()));
}

fn known(log: &str, epoch: u64, replid: &str, durable: u64) -> Known {
    Known { log: log.to_owned(), epoch, replid: replid.to_owned(), durable }
}

#[test]
fn a_log_that_is_another_or_has_gone_back_is_refused() {
    // Epoch 0 up to 0, then A up to 100, then B up to 250.
    let (mut terms, now) = led_by("n1", A, 0);
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    terms.begin(2, B, 100, 100).expect("begins");
    let check = |known: Known| terms.check_known(&known, "mine", 250);
    for sound in [
        Known::new("mine"),
        known("mine", 1, A, 60),
        known("mine", 1, A, 100),
        known("mine", 2, B, 250),
        known("mine", 1, B, 250),
    ] {
        assert_eq!(check(sound.clone()), Ok(()), "{sound}");
    }
    let other = check(known("theirs", 1, A, 0)).expect_err("another log");
    assert_eq!(other.code, Code::OtherLog);
    assert!(other.detail.starts_with("mine "), "{other}");
    let gone_back = [
        known("mine", 2, B, 251),   // it is shorter
        known("mine", 3, B, 250),   // a later leader wrote in it
        known("mine", 1, A, 101),   // it went on from below what A had made durable
        known("mine", 2, C, 200),   // another leader led in epoch 2
        known("mine", 0, ZERO, 10), // before anybody led
    ];
    for wrong in gone_back {
        let refusal = check(wrong.clone()).expect_err("it has gone back");
        assert!(!refusal.detail.contains("  "), "{refusal}");
        assert_eq!(refusal.code, Code::Gap, "{wrong}");
        assert!(refusal.detail.starts_with("250 "), "{refusal}");
    }
}

#[test]
fn an_epoch_that_is_being_granted_says_nothing_of_what_was_known() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.close();
    assert_eq!(terms.check_known(&known("mine", 1, A, 50), "mine", 50), Ok(()));
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(terms.check_known(&known("mine", 1, A, 50), "mine", 50), Ok(()));
}

#[test]
fn a_seed_takes_the_place_of_what_was_known_before_it() {
    let (mut terms, now) = led_by("n1", A, 0);
    terms.clone().seed(1, B, 500, 100).expect("seeded in the same epoch");
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    terms.seed(2, B, 500, 100).expect("seeded");
    for before in [known("mine", 1, A, 100), known("mine", 2, A, 100), Known::new("mine")] {
        assert_eq!(terms.check_known(&before, "mine", 500), Ok(()), "{before}");
    }
    terms.grant(3, node("n1", "host:1"), LEASE_MS, now);
    terms.begin(3, A, 600, 600).expect("begins");
    assert_eq!(
        code(terms.check_known(&known("mine", 3, C, 100), "mine", 700)),
        Code::Gap,
        "that is newer than the seed"
    );
}

#[test]
fn a_lease_that_is_revoked_is_its_holders_until_it_resigns_or_the_lease_has_passed() {
    let (mut terms, now) = led_by("n1", A, 0);
    assert_eq!(code(terms.clone().revoke(2, None)), Code::Fenced);
    terms.revoke(1, None).expect("revoked");
    terms.revoke(1, None).expect("revoked again");
    assert!(terms.is_revoked(1) && !terms.is_revoked(2));
    assert_eq!(code(terms.admit(1, 0, 10, 0)), Code::Fenced);
    assert_eq!(code(terms.renew(1, LEASE_MS, now)), Code::Fenced);
    assert_eq!(code(terms.check_not_taken_from("n1")), Code::Fenced);
    assert_eq!(terms.check_not_taken_from("n2"), Ok(()));
    assert_eq!(code(terms.check_free("s1", "n2", later(now, KEPT_MS - 1))), Code::Leased, "it may still answer");
    assert_eq!(terms.check_free("s1", "n2", later(now, KEPT_MS)), Ok(()));
    let mut resigned = terms.clone();
    resigned.release(1).expect("resigned");
    assert_eq!(resigned.check_free("s1", "n2", now), Ok(()));
    resigned.revoke(1, None).expect("nobody leads");
    assert!(!resigned.is_revoked(1));
    terms.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(terms.check_not_taken_from("n2"), Ok(()));
}

#[test]
fn a_copy_that_takes_the_place_of_terms_whose_lease_was_revoked_meanwhile_is_revoked_as_well() {
    let (mut in_force, now) = fresh();
    in_force.grant(1, node("n1", "host:1"), LEASE_MS, now);
    let copy = in_force.clone();
    in_force.revoke(1, None).expect("revoked");
    let after = |change: &dyn Fn(&mut Terms)| {
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
    let resign = |terms: &Terms| {
        let mut resigned = terms.clone();
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
