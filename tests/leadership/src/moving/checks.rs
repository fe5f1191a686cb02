//! The searches. What is ignored is for patient people: `cargo test -p durability-leadership-model -- --ignored --nocapture`.

use stateright::{Checker, HasDiscoveries, Model};

use super::search::*;
use crate::checks::explore;

/// One migration, at each of whose steps the leaders of both shards may be followed by others.
const MOVE: Bounds = Bounds {
    moves: 1,
    leads: [1, 1],
    writes: 1,
    resends: 0,
    raises: 0,
    failures: 0,
    suspensions: 0,
    handovers: 0,
    config_epochs: [1, 1],
};

/// One migration between leaders that lead on.
const UNDISTURBED: Bounds = Bounds { leads: [0, 0], ..MOVE };
/// The source's leader may be followed by another.
const NEW_SOURCE: Bounds = Bounds { leads: [1, 0], ..MOVE };
/// The target's leader may be.
const NEW_TARGET: Bounds = Bounds { leads: [0, 1], ..MOVE };

/// The leaders lead on, and the lease of one of them may pass and be renewed.
const SUSPENDED: Bounds = Bounds { suspensions: 1, ..UNDISTURBED };
/// The leaders lead on, and a planned failover may begin and be given up.
const HANDED_OVER: Bounds = Bounds { handovers: 1, ..UNDISTURBED };

/// Looks at every state within the bounds.
fn holds(what: &str, bounds: Bounds) {
    explore(what, Moving { bounds, rules: Rules::ALL });
}

/// Without one of the rules the search finds that none of `properties` holds.
fn is_needed(rules: Rules, bounds: Bounds, properties: &[&'static str]) {
    let stop = HasDiscoveries::AllOf(properties.iter().copied().collect());
    let checker = Moving { bounds, rules }.checker().finish_when(stop).spawn_bfs().join();
    for property in properties {
        let steps = checker.assert_any_discovery(property).into_actions().len();
        println!("{property}: violated after {steps} steps, {} states", checker.unique_state_count());
    }
}

#[test]
fn leaders_of_both_shards_are_followed_by_others() {
    holds("another leader each", Bounds { writes: 2, ..MOVE });
    holds("two more at the source", Bounds { leads: [2, 1], ..MOVE });
    holds("two more at the target", Bounds { leads: [1, 2], ..MOVE });
}

#[test]
fn requests_are_sent_again_and_come_late() {
    holds("sent again", Bounds { resends: 1, ..MOVE });
}

#[test]
fn config_epochs_are_raised_meanwhile() {
    holds("raised", Bounds { raises: 1, ..MOVE });
    holds("raised, the source's is greater", Bounds { raises: 1, config_epochs: [3, 1], ..MOVE });
    holds("raised, the target's is greater", Bounds { raises: 1, config_epochs: [1, 3], ..MOVE });
}

#[test]
fn imports_fail() {
    holds("failing", Bounds { failures: 1, ..MOVE });
}

#[test]
fn leases_pass_and_are_renewed() {
    holds("suspended", Bounds { suspensions: 1, ..MOVE });
    holds("suspended twice", Bounds { suspensions: 2, writes: 2, ..UNDISTURBED });
    holds("suspended, sent again, raised", Bounds { resends: 1, raises: 1, ..SUSPENDED });
    holds("suspended, sent again, another source", Bounds { suspensions: 1, resends: 1, ..NEW_SOURCE });
    holds("suspended, sent again, another target", Bounds { suspensions: 1, resends: 1, ..NEW_TARGET });
    holds("there and back, suspended", Bounds { moves: 2, suspensions: 1, ..NEW_TARGET });
}

#[test]
fn planned_failovers_are_given_up() {
    holds("handed over", Bounds { handovers: 1, ..MOVE });
    holds("handed over, suspended", Bounds { handovers: 1, ..SUSPENDED });
    holds("there and back, handed over", Bounds { moves: 2, ..HANDED_OVER });
}

#[test]
fn a_slot_comes_back() {
    holds("there and back", Bounds { moves: 2, ..MOVE });
    holds("there and back, sent again", Bounds { moves: 2, resends: 1, ..NEW_TARGET });
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn deeper_moves() {
    holds("sent again twice", Bounds { resends: 2, ..MOVE });
    holds("sent again, raised", Bounds { resends: 1, raises: 1, ..MOVE });
    holds("there and back, sent again, all leaders", Bounds { moves: 2, resends: 1, ..MOVE });
    holds("there and back, raised, failing", Bounds { moves: 2, raises: 1, failures: 1, ..NEW_TARGET });
}

#[test]
#[ignore = "takes a minute"]
fn deeper_suspensions() {
    holds("suspended twice, all leaders", Bounds { suspensions: 2, ..MOVE });
    holds("suspended, sent again, all leaders", Bounds { suspensions: 1, resends: 1, ..MOVE });
    holds("suspended, raised, all leaders", Bounds { suspensions: 1, raises: 1, ..MOVE });
    holds("suspended, handed over, all leaders", Bounds { suspensions: 1, handovers: 1, ..MOVE });
    holds("there and back, suspended, sent again", Bounds { moves: 2, suspensions: 1, resends: 1, ..NEW_TARGET });
}

#[test]
fn a_claim_needs_a_grant() {
    is_needed(Rules { claims_what_is_granted: false, ..Rules::ALL }, UNDISTURBED, &[ONE_ANSWERS, HAS_ALL]);
}

#[test]
fn a_claim_that_comes_again_takes_nothing() {
    let bounds = Bounds { moves: 2, resends: 1, ..UNDISTURBED };
    is_needed(Rules { claims_once: false, ..Rules::ALL }, bounds, &[NOT_LOST]);
}

#[test]
fn a_deposed_leader_of_the_source_grants_nothing() {
    is_needed(Rules { fences_grants: false, ..Rules::ALL }, NEW_SOURCE, &[ONE_ANSWERS, HAS_ALL]);
}

#[test]
fn a_deposed_leader_changes_nothing() {
    is_needed(Rules { fences_changes: false, ..Rules::ALL }, NEW_TARGET, &[NOT_LOST]);
}

#[test]
fn a_change_that_was_sent_before_another_does_not_come_after_it() {
    let rules = Rules { orders_changes: false, ..Rules::ALL };
    is_needed(rules, Bounds { moves: 2, resends: 1, ..UNDISTURBED }, &[NOT_LOST]);
    is_needed(rules, Bounds { moves: 2, resends: 1, ..NEW_TARGET }, &[ONE_OWNER]);
}

#[test]
fn a_leader_cannot_set_what_was_claimed_from_its_shard() {
    let rules = Rules { keeps_given: false, ..Rules::ALL };
    is_needed(rules, Bounds { raises: 1, ..UNDISTURBED }, &[ONE_OWNER, GREATEST]);
    is_needed(rules, Bounds { raises: 1, ..NEW_SOURCE }, &[ONE_ANSWERS]);
}

#[test]
fn a_job_that_was_aborted_is_granted_no_more() {
    let rules = Rules { remembers_aborted: false, ..Rules::ALL };
    is_needed(rules, UNDISTURBED, &[OWNER_ANSWERS]);
    is_needed(rules, Bounds { resends: 1, ..UNDISTURBED }, &[ONE_ANSWERS, HAS_ALL]);
    is_needed(rules, Bounds { resends: 1, ..NEW_TARGET }, &[NOT_LOST]);
}

#[test]
fn a_new_leader_of_the_source_aborts_what_it_finds_granted() {
    is_needed(Rules { aborts_before_serving: false, ..Rules::ALL }, NEW_SOURCE, &[ONE_ANSWERS, HAS_ALL]);
}

#[test]
fn the_source_answers_nobody_from_when_it_sends_the_grant() {
    is_needed(Rules { refuses_from_sending: false, ..Rules::ALL }, UNDISTURBED, &[OWNER_ANSWERS, HAS_ALL]);
}

#[test]
fn the_source_answers_nobody_until_it_knows_the_decision() {
    is_needed(Rules { refuses_until_decided: false, ..Rules::ALL }, UNDISTURBED, &[ONE_ANSWERS, HAS_ALL]);
}

#[test]
fn the_source_tells_of_the_grant_when_it_is_stored() {
    is_needed(Rules { tells_after_grant: false, ..Rules::ALL }, Bounds { resends: 1, ..UNDISTURBED }, &[NOT_LOST]);
}

#[test]
fn a_decision_about_an_earlier_move_takes_no_slot_away() {
    is_needed(Rules { takes_awaited_answers: false, ..Rules::ALL }, Bounds { resends: 1, ..NEW_TARGET }, &[HAS_ALL]);
}

#[test]
fn the_target_claims_when_its_log_has_everything() {
    is_needed(Rules { logs_before_claim: false, ..Rules::ALL }, UNDISTURBED, &[HAS_ALL]);
}

#[test]
fn the_target_stores_that_it_is_going_to_claim() {
    is_needed(Rules { intends_before_claim: false, ..Rules::ALL }, UNDISTURBED, &[NOT_LOST]);
}

#[test]
fn the_target_keeps_what_it_has_imported_until_it_knows_the_decision() {
    let rules = Rules { keeps_imports: false, ..Rules::ALL };
    is_needed(rules, Bounds { failures: 1, ..UNDISTURBED }, &[HAS_ALL]);
    is_needed(rules, NEW_TARGET, &[HAS_ALL]);
}

#[test]
fn a_new_leader_of_the_target_looks_for_what_was_claimed() {
    is_needed(Rules { settles_intents: false, ..Rules::ALL }, NEW_TARGET, &[NOT_LOST]);
}

#[test]
fn a_new_leader_of_the_target_aborts_what_was_not_claimed() {
    is_needed(Rules { settles_by_abort: false, ..Rules::ALL }, NEW_TARGET, &[NOT_LOST]);
}

#[test]
fn the_write_that_adds_a_slot_ends_its_import() {
    is_needed(Rules { ends_intent_with_slots: false, ..Rules::ALL }, Bounds { moves: 2, ..NEW_TARGET }, &[ONE_OWNER]);
}

#[test]
fn the_target_tells_a_config_epoch_above_the_source_s() {
    let rules = Rules { claims_above_source: false, ..Rules::ALL };
    is_needed(rules, Bounds { config_epochs: [3, 1], ..UNDISTURBED }, &[GREATEST]);
    is_needed(rules, Bounds { raises: 1, ..UNDISTURBED }, &[GREATEST]);
}

#[test]
fn the_target_serves_when_its_slot_and_config_epoch_are_stored() {
    let rules = Rules { stores_before_telling: false, ..Rules::ALL };
    is_needed(rules, UNDISTURBED, &[OWNER_ANSWERS]);
    is_needed(rules, NEW_TARGET, &[GREATEST]);
}

#[test]
fn a_source_that_serves_again_asks_what_became_of_its_grant() {
    let rules = Rules { asks_when_resumed: false, ..Rules::ALL };
    is_needed(rules, SUSPENDED, &[ONE_ANSWERS, OWNER_ANSWERS, HAS_ALL]);
}

#[test]
fn a_target_that_serves_again_asks_what_it_was_asking() {
    is_needed(Rules { remembers_imports: false, ..Rules::ALL }, SUSPENDED, &[NOT_LOST]);
    let bounds = Bounds { suspensions: 1, ..NEW_TARGET };
    is_needed(Rules { remembers_imports: false, ..Rules::ALL }, bounds, &[HAS_ALL]);
}

#[test]
fn a_target_that_serves_again_keeps_what_it_has_imported() {
    is_needed(Rules { keeps_keys_of_imports: false, ..Rules::ALL }, SUSPENDED, &[HAS_ALL]);
}

#[test]
fn a_planned_failover_waits_for_decisions() {
    let rules = Rules { decides_before_handover: false, ..Rules::ALL };
    is_needed(rules, HANDED_OVER, &[ONE_ANSWERS, OWNER_ANSWERS, HAS_ALL, NOT_LOST]);
}
