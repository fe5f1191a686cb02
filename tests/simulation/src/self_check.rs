//! Takes out one rule after the other, and looks for a seed that shows it.

use std::time::Instant;

use logservice::shard::{break_rule, Rule};

use crate::rules::NodeRule;
use crate::seed::{play, Played};

const SHARD_RULES: [Rule; 22] = [
    Rule::FencesAppends,
    Rule::FencesRenewals,
    Rule::ComparesOverlaps,
    Rule::AcknowledgesWhatIsDurable,
    Rule::CountsRefusals,
    Rule::AnswersWhatIsStored,
    Rule::KeepsRenewals,
    Rule::DoubtsUnknownOutcomes,
    Rule::OrdersRenewals,
    Rule::WaitsForLease,
    Rule::AddsMargin,
    Rule::CountsAnewAfterRestart,
    Rule::DrainsBeforeGrant,
    Rule::ClosesBeforeGrant,
    Rule::ChecksHeld,
    Rule::WaitsForResignation,
    Rule::RecordsOnlyNewest,
    Rule::KeepsPinned,
    Rule::TrimsBelowSnapshots,
    Rule::ChecksHistory,
    Rule::KeepsRecordedSnapshots,
    Rule::PausesForSeed,
];

const NODE_RULES: [NodeRule; 4] =
    [NodeRule::CountsFromSending, NodeRule::TakesLastAnswer, NodeRule::GivesUpBeforeResigning, NodeRule::KeepsOrder];

/// Looks for each rule, or for the one that is named `only`, in at most so many seeds. Prints what was found; how many rules were found, and how many were not.
pub fn run(only: Option<&str>, from: u64, most: u64, steps: u64) -> (usize, usize) {
    // What a rule keeps from happening may well be a panic.
    std::panic::set_hook(Box::new(|_| {}));
    println!("| taken out | seeds until it is found | s | what was found |\n|---|---|---|---|");
    let (mut found, mut missed) = (0, 0);
    let mut count = |is_found: bool| *(if is_found { &mut found } else { &mut missed }) += 1;
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    for rule in SHARD_RULES.into_iter().filter(|rule| is_wanted(&format!("{rule:?}"))) {
        break_rule(Some(rule));
        count(find(&format!("{rule:?}"), from, most, |seed| play(seed, steps, None, false)));
    }
    break_rule(None);
    for rule in NODE_RULES.into_iter().filter(|rule| is_wanted(&format!("{rule:?}"))) {
        let whose = if rule == NodeRule::KeepsOrder { "connection" } else { "node" };
        count(find(&format!("{rule:?} ({whose})"), from, most, |seed| play(seed, steps, Some(rule), false)));
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
