//! The suite finds what it is there to find: each case fails with a store that breaks what the case asks for.

use std::collections::BTreeSet;
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::flawed::{Flaw, Flawed};
use super::{Make, MakeInDoubt, CASES};

/// Each flaw, and the case that finds it.
const FOUND_BY: &[(Flaw, &str)] = &[
    (Flaw::ListsNothing, "a_new_store_is_empty_and_listed"),
    (Flaw::ReportsHalfAnAppend, "appends_become_durable_in_the_order_in_which_they_were_submitted"),
    (Flaw::ReportsWithinSubmit, "nothing_is_reported_from_within_submit"),
    (Flaw::ClosesGaps, "an_append_that_leaves_a_gap_is_dropped_in_silence"),
    (Flaw::DropsOlderEpochs, "appends_of_several_epochs_are_one_log"),
    (Flaw::CountsNothing, "figures_count_what_was_done"),
    (Flaw::ReadsFromFurtherBack, "what_was_appended_is_read_from_any_offset_also_after_reopening"),
    (Flaw::OpensTooShort, "what_was_appended_is_read_from_any_offset_also_after_reopening"),
    (Flaw::ReadsBeyondTheLimit, "a_reader_returns_no_more_than_it_may"),
    (Flaw::ReadsNothingNew, "a_reader_goes_on_with_what_is_appended_later"),
    (Flaw::ReadersShareAPlace, "several_readers_do_not_disturb_each_other"),
    (Flaw::DropsBelowTheBaseAtOnce, "log_below_the_base_can_be_read_until_it_is_dropped"),
    (Flaw::TrimsNothing, "trimming_keeps_what_is_above_and_frees_space"),
    (Flaw::TrimsAll, "trimming_keeps_what_is_above_and_frees_space"),
    (Flaw::ReadersSkipWhatWasTrimmed, "a_reader_below_what_was_trimmed_gets_true_bytes_or_an_error"),
    (Flaw::ReturnsDamagedBytes, "damaged_bytes_are_never_returned"),
    (Flaw::TakesAnyRevision, "the_manifest_is_replaced_only_by_the_next_revision"),
    (Flaw::ForgetsSnapshots, "the_manifest_survives_as_it_was_replaced"),
    (Flaw::ForgetsSlots, "the_manifest_survives_as_it_was_replaced"),
    (Flaw::ShowsARefusedManifest, "a_refused_replacement_changes_nothing"),
    (Flaw::RestartKeepsTheLog, "starting_anew_empties_the_log_and_moves_it"),
    (Flaw::RestartTakesAnyRevision, "starting_anew_with_a_stale_revision_changes_nothing"),
    (Flaw::OpensEmptyLogsAtZero, "a_log_that_was_started_anew_stays_so_after_a_crash"),
    (Flaw::ReadersGoOnAfterARestart, "a_reader_of_the_log_before_never_returns_bytes_of_the_next"),
    (Flaw::RefusesTwice, "a_full_log_refuses_and_drops_what_was_submitted_behind"),
    (Flaw::StaysFull, "a_refused_append_is_accepted_again_once_there_is_space"),
    (Flaw::FullRefusesManifests, "a_full_log_is_read_and_its_manifest_is_replaced"),
    (Flaw::CloseDropsTheQueue, "closing_writes_what_was_submitted"),
    (Flaw::CloseLeavesItOpen, "a_closed_store_takes_nothing_and_is_still_read"),
    (Flaw::ReplacesByName, "a_closed_store_does_not_touch_the_one_that_is_opened_after_it"),
    (Flaw::OpensTooShort, "every_durable_byte_survives_a_crash"),
    (Flaw::TakesAppendsAfterAFailure, "after_a_failed_write_nothing_is_accepted"),
    (Flaw::OpensTooShort, "a_store_that_failed_is_opened_again_with_every_durable_byte"),
    (Flaw::HidesDamage, "damage_is_reported_when_the_store_is_opened_or_soon_after"),
    (Flaw::NamesNoKeys, "keys_are_named_once_the_log_uses_them"),
    (Flaw::GivesAllTheSameId, "shards_are_listed_and_have_ids_of_their_own"),
    (Flaw::HasOneLogForAll, "shards_do_not_see_each_others_bytes"),
    (Flaw::HasOneLogForAll, "shards_are_opened_by_several_threads_at_once"),
    (Flaw::RemovesNothing, "a_removed_store_is_gone_and_its_name_free"),
    (Flaw::DoesNotListTheRemoved, "what_was_removed_is_listed_until_its_end"),
    (Flaw::RemovesNothing, "removing_survives_a_crash"),
    (Flaw::RefusesToRemoveTheMissing, "removing_what_is_not_there_does_no_harm"),
    (Flaw::ReadsNoManifest, "the_manifest_of_a_store_that_is_not_open_can_be_read"),
];

type CaseInDoubt = fn(MakeInDoubt);

/// The same for the cases of [`InDoubt`].
const FOUND_IN_DOUBT: &[(Flaw, MakeInDoubt, CaseInDoubt)] = &[
    (
        Flaw::ShowsAManifestInDoubt,
        || Box::new(Flawed::new(Flaw::ShowsAManifestInDoubt, None)),
        super::a_replacement_of_unknown_outcome_is_settled_by_another,
    ),
    (
        Flaw::OpensTooShort,
        || Box::new(Flawed::new(Flaw::OpensTooShort, None)),
        super::a_replacement_of_unknown_outcome_leaves_one_manifest_or_the_other,
    ),
    (
        Flaw::HidesThatARestartFailed,
        || Box::new(Flawed::new(Flaw::HidesThatARestartFailed, None)),
        super::a_restart_of_unknown_outcome_fails_the_store_and_leaves_one_log_or_the_other,
    ),
];

#[test]
fn each_case_fails_with_a_store_that_breaks_it() {
    for (flaw, name) in FOUND_BY {
        let (_, case) = CASES.iter().find(|(case, _)| case == name).expect("there is such a case");
        assert!(fails(*case, *flaw), "{name} does not find {flaw:?}");
    }
    let found: BTreeSet<_> = FOUND_BY.iter().map(|(_, name)| *name).collect();
    let unbroken: Vec<_> = CASES.iter().filter(|(name, _)| !found.contains(name)).collect();
    assert!(unbroken.is_empty(), "nothing shows that these can fail: {unbroken:?}");
    for (flaw, make, case) in FOUND_IN_DOUBT {
        assert!(catch_unwind(AssertUnwindSafe(|| case(*make))).is_err(), "{flaw:?} is not found");
    }
}

/// Else it could be the wrapper that they fail with.
#[test]
fn each_case_passes_with_the_same_store_unbroken() {
    for (name, case) in CASES {
        assert!(!fails(*case, Flaw::None), "{name}");
    }
}

thread_local! {
    static FLAW: std::cell::Cell<Flaw> = const { std::cell::Cell::new(Flaw::None) };
}

fn fails(case: fn(Make), flaw: Flaw) -> bool {
    FLAW.set(flaw);
    catch_unwind(|| case(|bound| Box::new(Flawed::new(FLAW.get(), bound)))).is_err()
}
