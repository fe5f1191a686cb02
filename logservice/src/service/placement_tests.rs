//! Where decisions are to be.

use super::*;
use crate::replica::groups::ServiceStatus;

fn copy(member: u64, zone: &str, lag: u64, is_heard: bool) -> CopyStatus {
    let service = ServiceStatus {
        member,
        name: format!("s{member}"),
        zone: zone.to_owned(),
        is_connected: true,
        ..ServiceStatus::default()
    };
    CopyStatus { service, decides: member == 1, votes: true, matched: 1000 - lag, lag, is_heard }
}

fn copies() -> Vec<CopyStatus> {
    vec![copy(1, "z1", 0, true), copy(2, "z2", 0, true), copy(3, "z3", 0, true)]
}

fn facts<'a>(term: u64, leader: Option<(u64, &'a str)>, copies: &'a [CopyStatus]) -> Facts<'a> {
    Facts { own: 1, own_zone: "z1", term, leader, copies }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A placement that has seen this service decide in term 1, and z2 lead in epoch 1, for long enough at the moment that is returned.
fn settled(copies: &[CopyStatus]) -> (Placement, Instant) {
    let (mut placement, start) = (Placement::default(), Instant::now());
    assert!(matches!(placement.look(&facts(1, Some((1, "z2")), copies), start), Verdict::Stays(_)));
    (placement, start + SETTLED_AFTER)
}

fn why(verdict: Verdict) -> String {
    match verdict {
        Verdict::Stays(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_decision_goes_to_the_zone_of_the_leader_once_both_are_settled() {
    let copies = copies();
    let (mut placement, now) = settled(&copies);
    let elsewhere = facts(1, Some((1, "z2")), &copies);
    let young = placement.look(&elsewhere, now - Duration::from_millis(1));
    assert!(why(young).contains("soon service s2 decides"));
    assert_eq!(placement.look(&elsewhere, now), Verdict::Moves(2, "s2".to_owned()));
    for in_place in [Some((1, "z1")), Some((1, "")), None] {
        let mut placement = settled(&copies).0;
        assert_eq!(placement.look(&facts(1, in_place, &copies), now), Verdict::InPlace, "{in_place:?}");
    }
}

#[test]
fn another_leader_or_term_has_to_settle_first() {
    let copies = copies();
    for (term, leader) in [(2, (1, "z2")), (1, (2, "z2")), (1, (2, "z3"))] {
        let (mut placement, now) = settled(&copies);
        let changed = facts(term, Some(leader), &copies);
        assert!(why(placement.look(&changed, now)).contains("has changed within 5 s"));
        assert!(matches!(placement.look(&changed, now + SETTLED_AFTER), Verdict::Moves(..)));
    }
    // Nobody leads for a moment: whoever leads then is another.
    let (mut placement, now) = settled(&copies);
    assert_eq!(placement.look(&facts(1, None, &copies), now), Verdict::InPlace);
    assert!(why(placement.look(&facts(1, Some((1, "z2")), &copies), now)).contains("has changed"));
}

#[test]
fn it_is_handed_over_at_most_once_a_minute_by_whichever_service() {
    let copies = copies();
    let (mut placement, now) = settled(&copies);
    let elsewhere = facts(1, Some((1, "z2")), &copies);
    assert!(matches!(placement.look(&elsewhere, now), Verdict::Moves(..)));
    // It has failed: this service decides in the same term.
    assert!(why(placement.look(&elsewhere, now + seconds(9))).contains("handed over within 10 s"));
    assert!(matches!(placement.look(&elsewhere, now + seconds(10)), Verdict::Moves(..)));
    // It came back by another way.
    let (now, elsewhere) = (now + seconds(10), facts(9, Some((1, "z2")), &copies));
    assert!(why(placement.look(&elsewhere, now + seconds(1))).contains("has changed"));
    let again = placement.look(&elsewhere, now + MOVED_AT_MOST_EVERY - Duration::from_millis(1));
    assert!(why(again).contains("handed over within 60 s"));
    assert!(matches!(placement.look(&elsewhere, now + MOVED_AT_MOST_EVERY), Verdict::Moves(..)));
    let elsewhere = facts(1, Some((1, "z2")), &copies);
    // Another service has told that it did.
    let (mut placement, now) = settled(&copies);
    placement.moved = Some(now - seconds(59));
    assert!(why(placement.look(&elsewhere, now)).contains("handed over"));
    assert!(matches!(placement.look(&elsewhere, now + seconds(1)), Verdict::Moves(..)));
}

#[test]
fn it_stays_while_the_copy_there_is_behind_or_silent_and_says_so() {
    let (placement, now) = settled(&copies());
    let look = |copies: Vec<CopyStatus>| {
        let mut placement = Placement { decides: placement.decides, led: placement.led, ..Placement::default() };
        placement.look(&facts(1, Some((1, "z2")), &copies), now)
    };
    let own = || copy(1, "z1", 0, true);
    assert!(why(look(vec![own(), copy(2, "z2", MOST_LAG + 1, true)])).contains("s2 in zone z2 is 257 entries behind"));
    assert!(why(look(vec![own(), copy(2, "z2", 0, false)])).contains("s2 in zone z2 is not heard"));
    let mut cut_off = copy(2, "z2", 0, true);
    cut_off.service.is_connected = false;
    assert!(why(look(vec![own(), cut_off])).contains("not heard"));
    assert!(why(look(vec![own(), copy(2, "z3", 0, true)])).contains("no log service is in zone z2"));
    // Of two in the zone, the one that is heard.
    let two = vec![own(), copy(2, "z2", 0, false), copy(3, "z2", 5, true)];
    assert_eq!(look(two), Verdict::Moves(3, "s3".to_owned()));
}

#[test]
fn an_operators_choice_stands_until_another_node_leads_and_the_last_one_counts() {
    let copies = copies();
    let (mut placement, now) = settled(&copies);
    let elsewhere = facts(1, Some((1, "z2")), &copies);
    placement.choose(1, 1);
    for later in [0, 1, 600] {
        assert!(why(placement.look(&elsewhere, now + seconds(later))).contains("LOG.CLUSTER MOVE has chosen"));
    }
    // Another service was chosen after this one, and this one decides again: zones count.
    let first = placement.chosen;
    placement.choose(1, 3);
    assert!(placement.chosen > first);
    assert_eq!(placement.look(&elsewhere, now + seconds(601)), Verdict::Moves(2, "s2".to_owned()));
    // A node leads in another epoch.
    let (mut placement, now) = settled(&copies);
    placement.choose(1, 1);
    let another = facts(1, Some((2, "z2")), &copies);
    assert!(why(placement.look(&another, now)).contains("has changed"));
    assert!(matches!(placement.look(&another, now + SETTLED_AFTER), Verdict::Moves(..)));
    // What was chosen in an earlier epoch counts no more, however often that was.
    placement.choose(2, 1);
    assert_eq!(placement.chosen.map(|chosen| (chosen.epoch, chosen.number)), Some((2, 1)));
}
