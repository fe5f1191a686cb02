//! Takes out one rule after the other, and looks for a seed that shows it.

use durability_simulation::runner::SelfCheck;
use logservice::replica::group::{break_rule, Rule};

use crate::rules::DiskRule;
use crate::seed::play;

const COPY_RULES: [Rule; 18] = [
    Rule::HoldsMessages,
    Rule::TellsPersistedTerm,
    Rule::StoresVote,
    Rule::AwaitsDisk,
    Rule::AcknowledgesCommitted,
    Rule::AppliesBeforeLeading,
    Rule::ConfirmsByRound,
    Rule::AdmitsAtEnd,
    Rule::AdmitsEpoch,
    Rule::AdmitsNextRevision,
    Rule::AppliesWhatContinues,
    Rule::DoubtsProposals,
    Rule::WaitsForInstall,
    Rule::GivesUpInstalls,
    Rule::TellsStateIndex,
    Rule::KeepsNewerState,
    Rule::ForgetsFetched,
    Rule::CachesUnpersisted,
    Rule::StopsWhenRemoved,
    Rule::TakesOutMembers,
    Rule::TellsMembersOfBase,
];

const DISK_RULES: [DiskRule; 6] = [
    DiskRule::KeepsWhatIsSynced,
    DiskRule::DropsReplacedTail,
    DiskRule::TruncatesNothingElse,
    DiskRule::KeepsVoteAtInstall,
    DiskRule::TrimsBelowCheckpoint,
    DiskRule::HasAnIdOfItsOwn,
];

/// Looks for each rule that is wanted.
pub fn run(check: &mut SelfCheck) {
    for rule in COPY_RULES {
        let name = format!("{rule:?}");
        if !check.wants(&name) {
            continue;
        }
        break_rule(Some(rule));
        check.look(&name, |seed, steps| play(seed, steps, None, false));
    }
    break_rule(None);
    for rule in DISK_RULES {
        let name = format!("{rule:?}");
        if !check.wants(&name) {
            continue;
        }
        check.look(&format!("{name} (disk)"), |seed, steps| play(seed, steps, Some(rule), false));
    }
}
