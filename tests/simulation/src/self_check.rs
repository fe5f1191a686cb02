//! Takes out one rule after the other, and looks for a seed that shows it.

use logservice::shard::{break_rule, Rule};

use crate::rules::NodeRule;
use crate::runner::SelfCheck;
use crate::seed::play;

const SHARD_RULES: [Rule; 25] = [
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
    Rule::FencesSlots,
    Rule::OrdersSlots,
    Rule::RaisesConfigEpochs,
];

const NODE_RULES: [NodeRule; 4] =
    [NodeRule::CountsFromSending, NodeRule::TakesLastAnswer, NodeRule::GivesUpBeforeResigning, NodeRule::KeepsOrder];

/// Looks for each rule that is wanted.
pub fn run(check: &mut SelfCheck) {
    for rule in SHARD_RULES {
        let name = format!("{rule:?}");
        if !check.wants(&name) {
            continue;
        }
        break_rule(Some(rule));
        check.look(&name, |seed, steps| play(seed, steps, None, false));
    }
    break_rule(None);
    for rule in NODE_RULES {
        let name = format!("{rule:?}");
        if !check.wants(&name) {
            continue;
        }
        let whose = if rule == NodeRule::KeepsOrder { "connection" } else { "node" };
        check.look(&format!("{name} ({whose})"), |seed, steps| play(seed, steps, Some(rule), false));
    }
}
