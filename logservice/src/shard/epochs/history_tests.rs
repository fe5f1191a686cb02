use durability_protocol::Known;

use super::tests::*;
use super::*;

#[test]
fn only_the_current_epoch_appends_and_only_after_it_began() {
    let (mut epochs, now) = fresh();
    assert_eq!(code(epochs.admit(0, 0, 10, 0)), Code::Fenced);
    epochs.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert_eq!(code(epochs.admit(1, 0, 10, 0)), Code::Err);
    assert_eq!(epochs.begin(1, A, 0, 0), Ok(true));
    assert_eq!(epochs.admit(1, 0, 10, 0), Ok(Admission::Write));
    assert_eq!(code(epochs.admit(2, 0, 10, 0)), Code::Fenced);
    let mut closed = epochs.clone();
    closed.close();
    assert_eq!(code(closed.admit(1, 0, 10, 0)), Code::Fenced);
    assert_eq!(code(closed.admit(2, 0, 10, 0)), Code::Fenced);
    epochs.release(1).expect("released");
    assert_eq!(code(epochs.admit(1, 0, 10, 0)), Code::Fenced);
}

#[test]
fn an_append_is_new_sent_before_overlapping_or_a_gap() {
    let (epochs, _) = led_by("n1", A, 100);
    let end = 200;
    assert_eq!(epochs.admit(1, 200, 50, end), Ok(Admission::Write));
    assert_eq!(epochs.admit(1, 150, 50, end), Ok(Admission::Overlap { bytes: 50 }));
    assert_eq!(epochs.admit(1, 100, 1, end), Ok(Admission::Overlap { bytes: 1 }));
    assert_eq!(epochs.admit(1, 200, 0, end), Ok(Admission::Overlap { bytes: 0 }));
    assert_eq!(epochs.admit(1, 180, 50, end), Ok(Admission::Overlap { bytes: 20 }));
    for (offset, bytes) in [(201, 10), (99, 10), (99, 1000), (0, 0)] {
        let refusal = epochs.admit(1, offset, bytes, end).expect_err("gap");
        assert_eq!(refusal.code, Code::Gap);
        assert!(refusal.detail.starts_with("200 "), "{refusal}");
    }
    assert_eq!(code(epochs.admit(1, u64::MAX, 10, end)), Code::Err);
}

#[test]
fn a_leader_begins_once_at_the_end_of_the_log() {
    let (mut epochs, now) = fresh();
    assert_eq!(code(epochs.begin(0, A, 0, 0)), Code::Fenced);
    epochs.grant(1, node("n1", "host:1"), LEASE_MS, now);
    assert_eq!(code(epochs.begin(1, "short", 50, 50)), Code::Err);
    assert_eq!(code(epochs.begin(1, A, 49, 50)), Code::Gap);
    assert_eq!(epochs.begin(1, A, 50, 50), Ok(true));
    assert_eq!(epochs.begin(1, A, 50, 70), Ok(false), "sent again after it wrote");
    assert_eq!(code(epochs.begin(1, B, 50, 50)), Code::Err);
    assert_eq!(epochs.replid(), A);
}

#[test]
fn a_replica_continues_only_from_what_is_in_the_log() {
    // Epoch 0 up to 0, then A up to 100, then B up to 250.
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert!(epochs.continues(A, 100, 0, 100), "nobody has begun after A yet");
    epochs.begin(2, B, 100, 100).expect("begins");
    let continues = |replid, position| epochs.continues(replid, position, 20, 250);
    assert!(continues(A, 20) && continues(A, 100));
    assert!(!continues(A, 101), "A wrote more than the log took: those bytes are not in it");
    assert!(!continues(A, 19) && !continues(B, 19), "below the base");
    assert!(continues(B, 250) && continues(B, 100));
    assert!(continues(B, 50), "it learnt the new id while it was still behind");
    assert!(!continues(B, 251));
    assert!(!continues(ZERO, 20), "beyond the end of epoch 0");
    assert!(epochs.continues(ZERO, 0, 0, 250));
    assert!(!continues("?", 100));
}

#[test]
fn a_leader_that_comes_back_under_its_old_id_does_not_end_its_own_history() {
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.grant(2, node("n1", "host:1"), LEASE_MS, now);
    epochs.begin(2, A, 100, 100).expect("begins");
    assert!(epochs.continues(A, 150, 0, 200));
}

#[test]
fn a_seed_ends_every_history_before_it() {
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(code(epochs.clone().seed(1, B, 500, 100)), Code::Fenced);
    assert_eq!(code(epochs.clone().seed(2, B, 99, 100)), Code::Gap);
    epochs.seed(2, B, 100, 100).expect("seeded");
    assert!(!epochs.continues(A, 100, 100, 300), "the same position, but not the same data");
    assert!(epochs.continues(B, 100, 100, 300));
    assert_eq!(epochs.begin(2, B, 100, 100), Ok(false), "a seed counts as having begun");
    assert_eq!(epochs.admit(2, 100, 10, 100), Ok(Admission::Write));
    assert_eq!(code(epochs.admit(2, 90, 5, 100)), Code::Gap, "n2 had not written before");
}

#[test]
fn appends_below_a_seed_of_a_leader_that_wrote_them_were_sent_before() {
    let (mut epochs, _) = led_by("n1", A, 0);
    epochs.seed(1, B, 500, 100).expect("seeded");
    assert_eq!(epochs.admit(1, 90, 20, 500), Ok(Admission::Overlap { bytes: 20 }));
}

#[test]
fn the_history_is_bounded_and_forgets_epochs_that_never_began() {
    let (mut epochs, now) = fresh();
    for epoch in 1..=1000 {
        epochs.grant(epoch, node("n1", "host:1"), LEASE_MS, now);
        if epoch % 2 == 0 {
            epochs.begin(epoch, A, epoch, epoch).expect("begins");
        }
    }
    assert_eq!(epochs.epoch(), 1000);
    assert_eq!(epochs.history.len(), MAX_EPOCHS);
    assert!(epochs.history.iter().all(|entry| entry.replid.is_some()));
}

fn known(log: &str, epoch: u64, replid: &str, durable: u64) -> Known {
    Known { log: log.to_owned(), epoch, replid: replid.to_owned(), durable }
}

#[test]
fn a_log_that_is_another_or_has_gone_back_is_refused() {
    // Epoch 0 up to 0, then A up to 100, then B up to 250.
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    epochs.begin(2, B, 100, 100).expect("begins");
    let check = |known: Known| epochs.check_known(&known, "mine", 250);
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
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.close();
    assert_eq!(epochs.check_known(&known("mine", 1, A, 50), "mine", 50), Ok(()));
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    assert_eq!(epochs.check_known(&known("mine", 1, A, 50), "mine", 50), Ok(()));
}

#[test]
fn a_seed_takes_the_place_of_what_was_known_before_it() {
    let (mut epochs, now) = led_by("n1", A, 0);
    epochs.clone().seed(1, B, 500, 100).expect("seeded in the same epoch");
    epochs.grant(2, node("n2", "host:2"), LEASE_MS, now);
    epochs.seed(2, B, 500, 100).expect("seeded");
    for before in [known("mine", 1, A, 100), known("mine", 2, A, 100), Known::new("mine")] {
        assert_eq!(epochs.check_known(&before, "mine", 500), Ok(()), "{before}");
    }
    epochs.grant(3, node("n1", "host:1"), LEASE_MS, now);
    epochs.begin(3, A, 600, 600).expect("begins");
    assert_eq!(
        code(epochs.check_known(&known("mine", 3, C, 100), "mine", 700)),
        Code::Gap,
        "that is newer than the seed"
    );
}
