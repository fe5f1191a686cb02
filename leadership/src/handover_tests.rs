use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(500);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn peer(node_id: &str, priority: u32, applied: u64, silent_ms: u64) -> Peer<'_> {
    Peer { node_id, priority, applied, silent_for: Duration::from_millis(silent_ms) }
}

fn begin(wanted: Option<&str>, peers: &[Peer<'_>]) -> Result<String, Aborted> {
    Handover::begin(at(0), "me", wanted, TIMEOUT, peers).map(|handover| handover.target().to_owned())
}

fn seen<'a>(now_ms: u64, stream_end: Option<u64>, durable: u64, peers: &'a [Peer<'a>]) -> Observed<'a> {
    Observed { now: at(now_ms), lease_is_valid: true, stream_end, durable, peers }
}

fn to_a() -> Handover {
    Handover::begin(at(0), "me", Some("a"), TIMEOUT, &[peer("a", 1, 0, 0)]).expect("a can lead")
}

#[test]
fn it_goes_step_by_step_and_releases_once() {
    let mut handover = to_a();
    assert_eq!(handover.step(&seen(1, None, 5, &[peer("a", 1, 5, 0)])), Step::PauseWrites);
    assert_eq!(handover.step(&seen(2, Some(9), 5, &[peer("a", 1, 5, 0)])), Step::WaitDurable);
    assert_eq!(handover.step(&seen(3, Some(9), 9, &[peer("a", 1, 5, 0)])), Step::WaitTarget);
    assert_eq!(handover.step(&seen(4, Some(10), 9, &[peer("a", 1, 9, 0)])), Step::WaitDurable, "a ping");
    assert_eq!(handover.step(&seen(5, Some(10), 10, &[peer("a", 1, 10, 0)])), Step::Release { to: "a".to_owned() });
    let over = Observed { lease_is_valid: false, ..seen(9999, Some(10), 10, &[]) };
    assert_eq!(handover.step(&over), Step::Done, "there is no way back");
}

#[test]
fn nothing_is_released_for_a_node_that_was_not_heard_of_a_moment_ago() {
    let mut handover = to_a();
    let silent = [peer("a", 1, 5, 150)];
    assert!(!handover.has_heard(&silent));
    assert_eq!(handover.step(&seen(300, Some(5), 5, &silent)), Step::WaitTarget, "it may have died");
    let heard = [peer("a", 1, 5, 149)];
    assert!(handover.has_heard(&heard));
    assert_eq!(handover.step(&seen(300, Some(5), 5, &heard)), Step::Release { to: "a".to_owned() });
}

#[test]
fn the_best_node_is_chosen_if_none_is_named() {
    let peers =
        [peer("me", 9, 9, 0), peer("a", 1, 9, 0), peer("c", 2, 5, 0), peer("b", 2, 5, 0), peer("d", 3, 9, 2000)];
    assert_eq!(begin(None, &peers).as_deref(), Ok("b"));
    assert_eq!(begin(None, &peers[..2]).as_deref(), Ok("a"));
    assert_eq!(begin(None, &[peer("me", 9, 9, 0), peer("a", 0, 9, 0)]), Err(Aborted::NoCandidate));
}

#[test]
fn a_node_that_cannot_lead_is_refused_at_once() {
    let peers = [peer("zero", 0, 9, 0), peer("gone", 1, 9, 2000)];
    for (wanted, why) in
        [("zero", Aborted::NeverLeads), ("gone", Aborted::Silent), ("who", Aborted::Unknown), ("me", Aborted::Leads)]
    {
        assert_eq!(begin(Some(wanted), &peers), Err(why));
    }
}

#[test]
fn what_goes_wrong_before_the_release_is_taken_back() {
    let fine = [peer("a", 1, 5, 0)];
    let (silent, zero) = ([peer("a", 1, 9, 2000)], [peer("a", 0, 9, 0)]);
    let aborts: [(Observed<'_>, Aborted); 5] = [
        (Observed { lease_is_valid: false, ..seen(1, Some(9), 9, &fine) }, Aborted::LeaseLost),
        (seen(500, Some(9), 9, &fine), Aborted::TimedOut),
        (seen(1, Some(9), 9, &[]), Aborted::Unknown),
        (seen(1, Some(9), 9, &silent), Aborted::Silent),
        (seen(1, Some(9), 9, &zero), Aborted::NeverLeads),
    ];
    for (observed, why) in aborts {
        let mut handover = to_a();
        assert_eq!(handover.step(&observed), Step::Abort(why));
        let recovered = [peer("a", 1, 9, 0)];
        assert_eq!(handover.step(&seen(2, Some(9), 9, &recovered)), Step::Abort(why), "it stays");
    }
}

proptest! {
    /// Whatever is observed, a release goes once to a node that had everything while the lease was valid.
    #[test]
    fn a_release_stands_on_what_was_seen(
        looks in proptest::collection::vec(
            (0..200u64, any::<bool>(), proptest::option::of(7..9u64), 7..9u64, 0..4u32, 7..9u64, 0..2100u64), 1..12),
    ) {
        let mut handover = to_a();
        let (mut now, mut released, mut aborted) = (0, false, None);
        for (passed, breaks, stream_end, durable, priority, applied, silent_ms) in looks {
            now += passed;
            let peers = [peer("a", priority, applied, silent_ms), peer("b", 9, 9, 0)];
            let observed = Observed { lease_is_valid: !breaks, ..seen(now, stream_end, durable, &peers) };
            match handover.step(&observed) {
                Step::Release { to } => {
                    let end = stream_end.expect("writes are paused");
                    prop_assert!(to == "a" && !released && aborted.is_none());
                    prop_assert!(!breaks && now < 500 && durable >= end && applied >= end);
                    prop_assert!(priority > 0 && silent_ms < 2000);
                    released = true;
                }
                Step::Done => prop_assert!(released),
                Step::Abort(why) => {
                    prop_assert!(!released && aborted.is_none_or(|before| before == why));
                    aborted = Some(why);
                }
                _ => prop_assert!(!released && aborted.is_none() && !breaks),
            }
        }
    }
}
