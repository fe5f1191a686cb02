//! The searches. Each part of the trouble is explored by itself and with lost, late and reordered messages and processes
//! that stand still, which cost no budget; what is ignored is for patient people:
//! `cargo test -p durability-leadership-model -- --ignored --nocapture`.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::search::*;
use crate::time::LEASE_TICKS;

/// A leader that dies or is cut off, and another node. Two nodes and one epoch each are enough for most mistakes.
pub(crate) const FAILOVER: Bounds = Bounds {
    ticks: 6,
    acquires: 1,
    renewals: 1,
    writes: 2,
    reads: 1,
    duplicates: 0,
    restarts: 0,
    service_restarts: 0,
    is_replicated: false,
    elections: 0,
    has_stale_views: false,
    first_lease: LEASE_TICKS,
    releases: 0,
    revocations: 0,
    is_drifting: true,
};

/// Looks at every state of a model: what must hold does, and the search gets to where it is of use.
pub(crate) fn explore<M>(what: &str, model: M)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Send
        + Sync
        + 'static,
{
    let started = Instant::now();
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{what}: {} states, up to {} steps, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

/// Looks at every state within the bounds: the rules hold, and both nodes come to lead and acknowledge.
pub(crate) fn holds(what: &str, bounds: Bounds) {
    explore(what, Shard { bounds, rules: Rules::ALL });
}

/// Without one of the rules the search finds that `property` does not hold.
pub(crate) fn is_needed(rules: Rules, bounds: Bounds, property: &'static str) {
    let stop = HasDiscoveries::AnyOf([property].into());
    let checker = Shard { bounds, rules }.checker().finish_when(stop).spawn_bfs().join();
    println!("{property}: violated after {} states", checker.unique_state_count());
    checker.assert_any_discovery(property);
}

#[test]
fn a_leader_is_followed_by_another() {
    holds("failover", FAILOVER);
}

#[test]
fn renewals_overtake_each_other() {
    holds("renewals", Bounds { renewals: 2, writes: 1, reads: 0, ..FAILOVER });
}

#[test]
fn nodes_die_and_come_back() {
    holds("restarts", Bounds { ticks: 5, acquires: 2, renewals: 0, reads: 0, restarts: 1, ..FAILOVER });
}

#[test]
fn the_log_service_dies_and_comes_back() {
    holds("service restarts", Bounds { reads: 0, service_restarts: 1, ..FAILOVER });
}

#[test]
fn messages_arrive_twice() {
    holds("duplicates", Bounds { ticks: 5, duplicates: 1, reads: 0, ..FAILOVER });
}

#[test]
fn a_leader_hands_over() {
    holds(
        "handover",
        Bounds { ticks: 5, releases: 1, acquires: 2, renewals: 0, reads: 0, is_drifting: false, ..FAILOVER },
    );
}

#[test]
fn an_operator_takes_the_lease_away() {
    let bounds = Bounds { ticks: 5, revocations: 1, is_drifting: false, ..FAILOVER };
    holds("revocation", bounds);
    holds("revocation and restart", Bounds { service_restarts: 1, reads: 0, ..bounds });
}

#[test]
fn an_operator_has_to_wait_until_the_leader_answers_nobody() {
    let rules = Rules { waits_for_resignation: false, ..Rules::ALL };
    let bounds = Bounds { revocations: 1, ..FAILOVER };
    is_needed(rules, bounds, ONE_ANSWERS);
    is_needed(rules, bounds, READS_FRESH);
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn deeper() {
    holds("three epochs", Bounds { ticks: 9, acquires: 2, renewals: 0, reads: 0, ..FAILOVER });
    holds("renewals, writes of both", Bounds { renewals: 2, reads: 0, ..FAILOVER });
    holds("many renewals", Bounds { ticks: 7, renewals: 2, reads: 0, ..FAILOVER });
    holds("restarts of both", Bounds { acquires: 2, restarts: 1, service_restarts: 1, reads: 0, ..FAILOVER });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn deeper_handover() {
    let bounds = Bounds { ticks: 5, releases: 1, duplicates: 1, acquires: 2, renewals: 0, reads: 0, ..FAILOVER };
    holds("handover, doubled", Bounds { is_drifting: false, ..bounds });
}

#[test]
fn two_nodes_go_by_one_name() {
    let rules = Rules { names_differ: false, ..Rules::ALL };
    Shard { bounds: Bounds { ticks: 5, reads: 0, ..FAILOVER }, rules }
        .checker()
        .threads(2)
        .spawn_bfs()
        .join()
        .assert_properties();
}

#[test]
fn a_name_is_no_proof_that_an_earlier_life_is_over() {
    let rules = Rules { names_differ: false, waits_for_own_name: false, ..Rules::ALL };
    is_needed(rules, FAILOVER, ONE_ANSWERS);
    is_needed(rules, FAILOVER, READS_FRESH);
}

#[test]
fn the_log_service_has_to_wait() {
    is_needed(Rules { waits_for_lease: false, ..Rules::ALL }, FAILOVER, ONE_ANSWERS);
    is_needed(Rules { waits_for_lease: false, ..Rules::ALL }, FAILOVER, READS_FRESH);
}

#[test]
fn the_log_service_has_to_allow_for_drift() {
    let rules = Rules { waits_for_margin: false, ..Rules::ALL };
    is_needed(rules, FAILOVER, ONE_ANSWERS);
    is_needed(rules, FAILOVER, READS_FRESH);
}

#[test]
fn without_drift_no_margin_is_needed() {
    let rules = Rules { waits_for_margin: false, ..Rules::ALL };
    let bounds = Bounds { is_drifting: false, ..FAILOVER };
    Shard { bounds, rules }.checker().threads(2).spawn_bfs().join().assert_properties();
}

#[test]
fn the_log_service_has_to_count_anew_when_it_comes_back() {
    let rules = Rules { counts_anew_after_restart: false, ..Rules::ALL };
    is_needed(rules, Bounds { service_restarts: 1, ..FAILOVER }, ONE_ANSWERS);
}

#[test]
fn the_log_service_has_to_refuse_deposed_leaders() {
    is_needed(Rules { fences_appends: false, ..Rules::ALL }, FAILOVER, IN_LOG);
}

#[test]
fn a_leader_has_to_look_at_its_lease() {
    let rules = Rules { checks_lease: false, ..Rules::ALL };
    is_needed(rules, FAILOVER, ONE_ANSWERS);
    is_needed(rules, FAILOVER, READS_FRESH);
}

#[test]
fn a_lease_has_to_count_from_the_sending() {
    is_needed(Rules { counts_from_sending: false, ..Rules::ALL }, FAILOVER, ONE_ANSWERS);
}

#[test]
fn a_leader_has_to_stand_at_the_end_of_the_log() {
    let rules = Rules { acquires_at_end: false, ..Rules::ALL };
    is_needed(rules, FAILOVER, LEADER_HAS_ALL);
}

#[test]
fn a_node_has_to_pass_over_answers_that_it_does_not_wait_for() {
    let bounds = Bounds { acquires: 2, restarts: 1, renewals: 0, reads: 0, writes: 1, is_drifting: false, ..FAILOVER };
    is_needed(Rules { takes_last_answer: false, ..Rules::ALL }, bounds, LEADER_HAS_SHOWN);
}

#[test]
fn a_deposed_leader_has_to_close_its_clients() {
    let bounds = Bounds { ticks: 1, releases: 2, acquires: 2, renewals: 0, writes: 1, ..FAILOVER };
    is_needed(Rules { closes_clients: false, ..Rules::ALL }, bounds, READS_FRESH);
}

#[test]
fn a_leader_has_to_stop_before_it_hands_over() {
    let bounds = Bounds { releases: 1, ..FAILOVER };
    is_needed(Rules { gives_up_before_release: false, ..Rules::ALL }, bounds, ONE_ANSWERS);
}
