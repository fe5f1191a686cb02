use proptest::prelude::*;

use super::*;

const PACING: Pacing = Pacing {
    step: Duration::from_millis(150),
    jitter: Duration::from_millis(50),
    heard_within: Duration::from_secs(2),
};

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn me(priority: u32, applied: u64) -> Standing<'static> {
    Standing { node_id: "me", priority, applied, is_connected: true }
}

fn peer(node_id: &str, priority: u32, applied: u64, silent_ms: u64) -> Peer<'_> {
    Peer { node_id, priority, applied, silent_for: Duration::from_millis(silent_ms) }
}

fn free<'a>(end: u64, peers: &'a [Peer<'a>]) -> View<'a> {
    View { answered: at(1000), holder: Holder::Nobody, reserved_for: None, end, peers }
}

fn held(node_id: &str, left_ms: Option<u64>) -> View<'_> {
    View { holder: Holder::Node { node_id, left: left_ms.map(Duration::from_millis) }, ..free(7, &[]) }
}

/// What a node that knows nothing yet decides at 1000 ms, without a random part.
fn decide(node: Standing<'_>, view: View<'_>) -> Decision {
    Election::new().decide(at(1000), &node, &view, &PACING, 0)
}

fn wait(ms: u64) -> Decision {
    Decision::Wait { until: at(ms) }
}

const GO: Decision = Decision::Acquire { expected_end: 7 };

#[test]
fn a_node_alone_leads_at_once_when_nobody_does() {
    assert_eq!(decide(me(1, 7), free(7, &[])), GO);
    assert_eq!(decide(me(1, 7), free(7, &[peer("me", 1, 3, 0)])), GO, "the log service knows it as well");
    let nobody_else = [peer("a", 9, 7, 2000), peer("b", 0, 7, 0)];
    assert_eq!(decide(me(1, 7), free(7, &nobody_else)), GO, "one is gone, the other never leads");
}

#[test]
fn nobody_asks_while_another_leads() {
    assert_eq!(decide(me(1, 7), held("a", Some(400))), wait(1400));
    assert_eq!(decide(me(1, 7), held("a", Some(5000))), wait(2000), "asking keeps it known");
    assert_eq!(decide(me(1, 7), held("a", None)), wait(2000));
    assert_eq!(decide(me(1, 7), held("a", Some(0))), GO);
    let late = Election::new().decide(at(1900), &me(1, 7), &held("a", Some(400)), &PACING, 0);
    assert_eq!(late, wait(1900), "an old answer is no reason to try, but one to ask");
}

#[test]
fn an_own_earlier_life_is_no_reason_to_wait() {
    let better = [peer("a", 9, 7, 0)];
    let earlier_life = View { holder: Holder::EarlierLife, ..free(7, &better) };
    assert_eq!(decide(me(1, 7), earlier_life), GO);
    assert_eq!(decide(me(1, 6), earlier_life), Decision::CatchUp);
}

#[test]
fn a_process_of_the_same_name_is_waited_for_as_any_other() {
    assert_eq!(decide(me(1, 7), held("me", Some(400))), wait(1400));
    assert_eq!(decide(me(1, 7), held("me", Some(0))), GO);
}

#[test]
fn only_a_node_at_the_end_of_the_log_asks() {
    assert_eq!(decide(me(1, 6), free(7, &[])), Decision::CatchUp);
    assert_eq!(decide(me(1, 8), free(7, &[])), Decision::CatchUp, "the answer is old");
    assert_eq!(decide(Standing { is_connected: false, ..me(1, 7) }, free(7, &[])), wait(2000));
}

#[test]
fn priority_zero_never_leads() {
    assert_eq!(decide(me(0, 7), free(7, &[])), Decision::Never);
    assert_eq!(decide(me(0, 7), View { reserved_for: Some("me"), ..free(7, &[]) }), Decision::Never);
}

#[test]
fn a_reserved_lease_is_for_one_node() {
    let better = [peer("a", 9, 7, 0)];
    assert_eq!(decide(me(1, 7), View { reserved_for: Some("me"), ..free(7, &better) }), GO);
    assert_eq!(decide(me(1, 6), View { reserved_for: Some("me"), ..free(7, &better) }), Decision::CatchUp);
    assert_eq!(decide(me(9, 7), View { reserved_for: Some("a"), ..free(7, &[]) }), wait(1150));
}

#[test]
fn better_nodes_go_first() {
    let peers = [peer("a", 2, 3, 0), peer("b", 1, 8, 0), peer("c", 1, 7, 0), peer("z", 1, 7, 0), peer("d", 1, 6, 0)];
    assert_eq!(decide(me(1, 7), free(7, &peers)), wait(1450), "a by priority, b by what it has, c by name");
    assert_eq!(decide(me(3, 7), free(7, &peers)), GO);
    let mut election = Election::new();
    assert_eq!(election.decide(at(1000), &me(1, 7), &free(7, &peers), &PACING, 49_000_000), wait(1499));
    assert_eq!(election.decide(at(1100), &me(1, 7), &free(7, &peers), &PACING, 0), wait(1499), "drawn once");
    assert_eq!(election.decide(at(1200), &me(1, 7), &free(7, &peers[3..]), &PACING, 0), GO, "they are gone");
}

#[test]
fn the_delay_counts_anew_when_somebody_led_in_between() {
    let better = [peer("a", 2, 7, 0)];
    let mut election = Election::new();
    assert_eq!(election.decide(at(1000), &me(1, 7), &free(7, &better), &PACING, 0), wait(1150));
    assert_eq!(election.decide(at(1100), &me(1, 7), &held("a", Some(400)), &PACING, 0), wait(1400));
    assert_eq!(election.decide(at(9000), &me(1, 7), &free(7, &better), &PACING, 0), wait(9150));
    assert_eq!(election.decide(at(9150), &me(1, 7), &free(7, &better), &PACING, 0), GO);
}

#[test]
fn after_a_refusal_the_same_rules_count_from_then_on() {
    let better = [peer("a", 2, 7, 0)];
    let mut election = Election::new();
    election.refused(at(1000), &PACING, 5_000_000);
    assert_eq!(election.decide(at(1000), &me(1, 7), &free(7, &better), &PACING, 0), wait(1165));
    assert_eq!(election.decide(at(1001), &me(1, 7), &free(7, &[]), &PACING, 0), wait(1010), "alone, not in a loop");
    assert_eq!(election.decide(at(1010), &me(1, 7), &free(7, &[]), &PACING, 0), GO);
}

#[test]
fn the_random_part_is_never_more_than_the_whole() {
    for whole in [Duration::ZERO, Duration::from_nanos(1), PACING.jitter, Duration::MAX] {
        assert!(part_of(whole, u64::MAX) <= whole && part_of(whole, 0).is_zero());
    }
}

proptest! {
    /// Nodes that see the same go one step apart, the best one within the random part.
    #[test]
    fn of_nodes_at_the_end_one_goes_first(
        nodes in proptest::collection::btree_map("[a-e]", (1..3u32, 0..2u64), 2..5),
        draws in proptest::collection::vec(any::<u64>(), 5),
    ) {
        let peers: Vec<Peer<'_>> =
            nodes.iter().map(|(node_id, &(priority, behind))| peer(node_id, priority, 7 - behind, 0)).collect();
        let mut starts: Vec<u64> = Vec::new();
        for (own, draw) in peers.iter().zip(draws) {
            let Peer { node_id, priority, applied, .. } = *own;
            let node = Standing { node_id, priority, applied, is_connected: true };
            let mut election = Election::new();
            let mut now = at(1000);
            for _ in 0..20 {
                match election.decide(now, &node, &free(applied, &peers), &PACING, draw) {
                    Decision::Wait { until } => {
                        prop_assert!(until > now && until <= now.plus(PACING.heard_within / 2));
                        now = until;
                    }
                    decision => {
                        prop_assert_eq!(decision, Decision::Acquire { expected_end: applied });
                        break;
                    }
                }
            }
            starts.push(now.since(at(1000)).as_millis() as u64);
        }
        starts.sort_unstable();
        for (rank, start) in (0..).zip(starts) {
            prop_assert!((150 * rank..=150 * rank + 50).contains(&start), "rank {} starts after {} ms", rank, start);
        }
    }

    /// Whatever is seen and in whatever order, nobody asks for a lease that is held, reserved, or not at the log's end.
    #[test]
    fn only_a_free_lease_at_the_end_is_asked_for(
        looks in proptest::collection::vec(
            (0..400u64, 0..3u32, 5..9u64, any::<bool>(), 0..5u8, 0..3u8, any::<u64>()), 1..30),
    ) {
        let mut election = Election::new();
        let mut now = at(1000);
        for (passed, priority, applied, is_connected, holder, reserved, draw) in looks {
            now = now.plus(Duration::from_millis(passed));
            let (holder, is_free) = match holder {
                0 => (Holder::Nobody, true),
                1 => (Holder::Node { node_id: "a", left: Some(Duration::ZERO) }, true),
                2 => (Holder::Node { node_id: "a", left: Some(Duration::from_millis(1)) }, false),
                3 => (Holder::Node { node_id: "a", left: None }, false),
                _ => (Holder::Node { node_id: "me", left: None }, true),
            };
            let is_own = matches!(holder, Holder::Node { node_id: "me", .. });
            let reserved_for = [None, Some("me"), Some("a")][reserved as usize];
            let view = View { answered: now, holder, reserved_for, end: 7, peers: &[] };
            let node = Standing { is_connected, ..me(priority, applied) };
            match election.decide(now, &node, &view, &PACING, draw) {
                Decision::Acquire { expected_end } => {
                    prop_assert!(is_free && is_connected && priority > 0);
                    prop_assert!(is_own || reserved_for != Some("a"));
                    prop_assert!(expected_end == 7 && applied == 7);
                    if draw % 2 == 0 { election.refused(now, &PACING, draw); }
                }
                Decision::Never => prop_assert_eq!(priority, 0),
                Decision::CatchUp => prop_assert!(applied != 7),
                Decision::Wait { until } => prop_assert!(until <= now.plus(PACING.heard_within / 2)),
            }
        }
    }
}
