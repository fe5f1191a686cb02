//! The contract of [`Store`] and [`StoreFactory`] as test functions that every store passes.
//!
//! A store takes part by a [`Subject`]: its factory, and what tests do to the process and the medium behind it. Inside this crate the macro
//! `conformance_tests!` makes a test of each case; elsewhere [`CASES`] lists them. A case makes subjects of its own, with the
//! bound that it asks for, and panics if the store breaks the contract.
//!
//! | file | what it asks |
//! |---|---|
//! | `appends.rs` | order, contiguity, outcomes |
//! | `reading.rs` | readers at any offset, limits, trimmed log, damage |
//! | `manifests.rs` | revisions, outcomes, starting the log anew |
//! | `space.rs` | bounds, refusals and what follows them |
//! | `lifetimes.rs` | closing, crashes, failures, opening again |
//! | `shards.rs` | several stores of one factory, and removing them |
//! | `harness.rs` | a store whose events are recorded |
//! | `self_check.rs`, `flawed.rs` | each case fails with a store that breaks what it asks for |

mod appends;
#[cfg(test)]
mod flawed;
mod harness;
mod lifetimes;
mod manifests;
mod reading;
#[cfg(test)]
mod self_check;
mod shards;
mod space;

use std::sync::Arc;
use std::time::Duration;

use super::StoreFactory;

/// A factory under test, and the process that uses it.
pub trait Subject {
    /// The factory over the medium, as the process has it.
    fn stores(&self) -> Arc<dyn StoreFactory>;

    /// Carries out what was submitted to the store of `shard` that is open, if it does not do so by itself.
    fn run(&self, _shard: &str) {}

    /// The longest that an outcome takes after [`Subject::run`]. Asked again while it is waited for.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// Kills the process. From now on the factory is that of the next process, which finds what the first one has made durable, and what
    /// else a crash may leave. A store that is still open belongs to the first process.
    fn crash(&mut self);
}

/// A subject whose medium fails on demand.
pub trait Faulty: Subject {
    /// Changes the byte at `offset` of the log of `shard` on the medium. Its store may be open or not.
    fn damage(&self, shard: &str, offset: u64);

    /// Waits until the medium of the store that is open has all that was reported as durable, if another one may have it before.
    fn wait_for_medium(&self, _shard: &str) {}

    /// Makes writes of appends fail in the store of `shard` that is open, and not for want of space; or lets those of a store that is
    /// opened afterwards succeed again.
    fn fail_writes(&self, shard: &str, do_fail: bool);

    /// Makes replacements of the manifest of `shard` fail before they have changed anything, or succeed again.
    fn refuse_manifests(&self, shard: &str, are_refused: bool);

    /// Whether what is damaged is taken from elsewhere before the store is opened: [`Usage::repairs`](crate::store::Usage::repairs) says so.
    fn mends_damage(&self) -> bool {
        false
    }

    /// The id of the key with which logs are encrypted; none if they are not.
    fn key_id(&self) -> Option<&str> {
        None
    }
}

/// A subject whose medium can fail to say whether a manifest was replaced.
pub trait InDoubt: Subject {
    /// Makes replacements of the manifest of `shard` fail without saying what was stored, or succeed again.
    fn doubt_manifests(&self, shard: &str, are_in_doubt: bool);
}

/// Makes a subject with an empty medium that was listed once, on which the log of a shard takes at most so many bytes; none is no bound.
/// A bound is at least [`BOUND_BYTES`].
pub type Make = fn(Option<u64>) -> Box<dyn Faulty>;

/// As [`Make`], without a bound.
pub type MakeInDoubt = fn() -> Box<dyn InDoubt>;

/// The bound that cases ask for.
pub const BOUND_BYTES: u64 = 4 << 20;

pub use manifests::{
    a_replacement_of_unknown_outcome_is_settled_by_another,
    a_replacement_of_unknown_outcome_leaves_one_manifest_or_the_other,
    a_restart_of_unknown_outcome_fails_the_store_and_leaves_one_log_or_the_other,
};

macro_rules! cases {
    (($dollar:tt) $($file:ident { $($case:ident,)* })*) => {
        $(pub use $file::{$($case),*};)*

        /// Every case, with its name. Those of [`InDoubt`] are functions of their own.
        pub const CASES: &[(&str, fn(Make))] = &[$($((stringify!($case), $case)),*),*];

        /// A test of each case, with subjects from a [`Make`].
        #[cfg(test)]
        macro_rules! conformance_tests {
            ($dollar make:expr) => {
                $($(
                    #[test]
                    fn $case() {
                        $crate::store::conformance::$case($dollar make);
                    }
                )*)*
            };
        }
    };
}

cases! {
    ($)
    appends {
        a_new_store_is_empty_and_listed,
        appends_become_durable_in_the_order_in_which_they_were_submitted,
        nothing_is_reported_from_within_submit,
        an_append_that_leaves_a_gap_is_dropped_in_silence,
        appends_of_several_epochs_are_one_log,
        figures_count_what_was_done,
    }
    reading {
        what_was_appended_is_read_from_any_offset_also_after_reopening,
        a_reader_returns_no_more_than_it_may,
        a_reader_goes_on_with_what_is_appended_later,
        several_readers_do_not_disturb_each_other,
        log_below_the_base_can_be_read_until_it_is_dropped,
        trimming_keeps_what_is_above_and_frees_space,
        a_reader_below_what_was_trimmed_gets_true_bytes_or_an_error,
        damaged_bytes_are_never_returned,
    }
    manifests {
        the_manifest_is_replaced_only_by_the_next_revision,
        the_manifest_survives_as_it_was_replaced,
        a_refused_replacement_changes_nothing,
        starting_anew_empties_the_log_and_moves_it,
        starting_anew_with_a_stale_revision_changes_nothing,
        a_log_that_was_started_anew_stays_so_after_a_crash,
        a_reader_of_the_log_before_never_returns_bytes_of_the_next,
    }
    space {
        a_full_log_refuses_and_drops_what_was_submitted_behind,
        a_refused_append_is_accepted_again_once_there_is_space,
        a_full_log_is_read_and_its_manifest_is_replaced,
    }
    lifetimes {
        closing_writes_what_was_submitted,
        a_closed_store_takes_nothing_and_is_still_read,
        a_closed_store_does_not_touch_the_one_that_is_opened_after_it,
        every_durable_byte_survives_a_crash,
        after_a_failed_write_nothing_is_accepted,
        a_store_that_failed_is_opened_again_with_every_durable_byte,
        damage_is_reported_when_the_store_is_opened_or_soon_after,
        keys_are_named_once_the_log_uses_them,
    }
    shards {
        shards_are_listed_and_have_ids_of_their_own,
        shards_do_not_see_each_others_bytes,
        shards_are_opened_by_several_threads_at_once,
        a_removed_store_is_gone_and_its_name_free,
        what_was_removed_is_listed_until_its_end,
        removing_survives_a_crash,
        removing_what_is_not_there_does_no_harm,
        the_manifest_of_a_store_that_is_not_open_can_be_read,
    }
}

#[cfg(test)]
pub(crate) use conformance_tests;
