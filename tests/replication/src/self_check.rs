//! Takes out one rule after the other, and looks for a seed that shows it.

use durability_simulation::runner::SelfCheck;
use logservice::replica::group::{break_rule, Rule};

use crate::rules::DiskRule;
use crate::seed::play;

/// Not `ForgetsFetched`: 20,000 seeds do not show it. Entries are replaced while others are read, and then asked for, too seldom.
const COPY_RULES: [Rule; 22] = [
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
    Rule::CachesUnpersisted,
    Rule::StopsWhenRemoved,
    Rule::SpreadsMembers,
    Rule::TakesOutMembers,
    Rule::TellsMembersOfBase,
    Rule::WaitsForLaterTerm,
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

/// Not `CutWrite`: what is left of a torn record does harm only if the same entry takes the place of the one before it again, which 3,000
/// seeds do not show.
#[cfg(feature = "files")]
const STEPS: [logservice::store::file_store::files::Step; 13] = {
    use logservice::store::file_store::files::Step;
    [
        Step::RecordWrite,
        Step::RecordSync,
        Step::VoteWrite,
        Step::VoteSync,
        Step::SegmentHeaderWrite,
        Step::SegmentHeaderSync,
        Step::SegmentDirectorySync,
        Step::ManifestWrite,
        Step::ManifestSync,
        Step::ManifestDirectorySync,
        Step::OpenDirectorySync,
        Step::LastRecordWrite,
        Step::LastRecordSync,
    ]
};

/// Rules that take more than a thousand seeds, and have nothing to do with files.
#[cfg(feature = "files")]
const NOT_ON_FILES: [Rule; 3] = [Rule::ConfirmsByRound, Rule::StopsWhenRemoved, Rule::SpreadsMembers];

/// Looks for each step on files that is only pretended, and for rules of a copy once more.
#[cfg(feature = "files")]
pub fn run_on_files(check: &mut SelfCheck) {
    use crate::files_seed::play;

    for step in STEPS.into_iter().filter(|step| check.wants(step.name())).collect::<Vec<_>>() {
        check.look(step.name(), |seed, steps| play(seed, steps, Some(step), false));
    }
    for rule in COPY_RULES.into_iter().filter(|rule| !NOT_ON_FILES.contains(rule)) {
        let name = format!("{rule:?}");
        if !check.wants(&name) {
            continue;
        }
        break_rule(Some(rule));
        check.look(&name, |seed, steps| play(seed, steps, None, false));
    }
    break_rule(None);
}

/// Looks for rules of shards and copies that leases rest on, and for steps on files that are only pretended. Not for those that 1,500 seeds do
/// not show, because a request seldom lies in a connection to a service for as long as another one decides: `ConfirmsByRound`, which
/// copies alone show, and `OrdersRenewals`, which one service shows.
#[cfg(feature = "files")]
pub fn run_on_shards(check: &mut SelfCheck) {
    use logservice::shard;
    use logservice::store::file_store::files::Step;

    use crate::shards::seed::play;

    for step in [Step::RecordSync, Step::VoteSync] {
        if check.wants(step.name()) {
            check.look(step.name(), |seed, steps| play(seed, steps, Some(step), false));
        }
    }
    for rule in [Rule::HoldsMessages, Rule::AwaitsDisk, Rule::AppliesBeforeLeading] {
        if check.wants(&format!("{rule:?}")) {
            break_rule(Some(rule));
            check.look(&format!("{rule:?}"), |seed, steps| play(seed, steps, None, false));
        }
    }
    break_rule(None);
    let rules = [
        shard::Rule::CountsAnewAfterRestart,
        shard::Rule::AddsMargin,
        shard::Rule::FencesRenewals,
        shard::Rule::KeepsRenewals,
        shard::Rule::WaitsForLease,
        shard::Rule::ChecksHeld,
        shard::Rule::OrdersSlots,
    ];
    for rule in rules {
        if check.wants(&format!("{rule:?}")) {
            shard::break_rule(Some(rule));
            check.look(&format!("{rule:?} (shard)"), |seed, steps| play(seed, steps, None, false));
        }
    }
    shard::break_rule(None);
}
