//! Takes out one rule after the other, and looks for a seed that shows it.

use std::time::Instant;

use logservice::replica::group::{break_rule, Rule};

use crate::rules::DiskRule;
use crate::seed::{play, Played};

const COPY_RULES: [Rule; 15] = [
    Rule::HoldsMessages,
    Rule::StoresVote,
    Rule::AwaitsDisk,
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
];

const DISK_RULES: [DiskRule; 5] = [
    DiskRule::KeepsWhatIsSynced,
    DiskRule::DropsReplacedTail,
    DiskRule::TruncatesNothingElse,
    DiskRule::KeepsVoteAtInstall,
    DiskRule::TrimsBelowCheckpoint,
];

/// Looks for each rule, or for the one that is named `only`, in at most so many seeds. Prints what was found; how many rules were found, and
/// how many were not.
pub fn run(only: Option<&str>, from: u64, most: u64, steps: u64) -> (usize, usize) {
    // What a rule keeps from happening may well be a panic.
    std::panic::set_hook(Box::new(|_| {}));
    println!("| taken out | seeds until it is found | s | what was found |\n|---|---|---|---|");
    let (mut found, mut missed) = (0, 0);
    let mut count = |is_found: bool| *(if is_found { &mut found } else { &mut missed }) += 1;
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    for rule in COPY_RULES.into_iter().filter(|rule| is_wanted(&format!("{rule:?}"))) {
        break_rule(Some(rule));
        count(find(&format!("{rule:?}"), from, most, |seed| play(seed, steps, None, false)));
    }
    break_rule(None);
    for rule in DISK_RULES.into_iter().filter(|rule| is_wanted(&format!("{rule:?}"))) {
        count(find(&format!("{rule:?} (disk)"), from, most, |seed| play(seed, steps, Some(rule), false)));
    }
    drop(std::panic::take_hook());
    (found, missed)
}

fn find(name: &str, from: u64, most: u64, play: impl Fn(u64) -> Played) -> bool {
    let began = Instant::now();
    let found = (from..from + most).find_map(|seed| Some((seed, play(seed).violation?)));
    let seconds = began.elapsed().as_secs_f64();
    match &found {
        Some((seed, violation)) => println!("| {name} | {} | {seconds:.1} | {violation} |", seed - from + 1),
        None => println!("| {name} | NOT FOUND in {most} | {seconds:.1} | |"),
    }
    found.is_some()
}
