//! Slots that leave this leader's shard: what is done next with each migration. Only one at a time comes to its end, so that at most one grant
//! of a shard is open.
//!
//! The server pauses writes by itself and then asks for the target's last word. From the moment in which the log is asked to store the grant
//! until it is known whose the slots are, no client is answered at all: another leader may serve them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use durability_protocol::SlotRanges;

use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};

/// How long the target may take to claim what it was granted. Clients wait meanwhile.
pub const CLAIM_TIME: Duration = Duration::from_secs(1);
/// The wait before a question that was not answered is asked again.
pub const RETRY_WAIT: Duration = Duration::from_millis(100);

/// A migration whose slots leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportJob {
    /// Its name.
    pub name: String,
    /// What moves.
    pub slots: SlotRanges,
    /// The id in the cluster of the node that gets them.
    pub target_node: String,
    /// The shard that gets them.
    pub target: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The server has paused writes.
    Paused,
    /// The log is asked to store the grant.
    Granting,
    /// The target knows since then.
    Granted(Instant),
    /// The log is asked to abort; or is asked again at that time.
    Aborting(Option<Instant>),
}

#[derive(Debug)]
struct Export {
    client: u64,
    job: ExportJob,
    stage: Stage,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportAction {
    /// Ask the log.
    Ask(SlotStep),
    /// The server goes on with what that client asked for: it tells the target.
    LetFailOver(u64),
    /// The migration has failed, for that reason. Clients are answered again.
    Fail(ExportJob, String),
    /// The target has the slots, which the server may not know yet. Clients are answered again when it does.
    Give(ExportJob),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Exports {
    /// Clients whose migrations are to come to their end, in order.
    waiting: VecDeque<u64>,
    current: Option<Export>,
}

impl Exports {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.current.is_none()
    }

    /// The target has nearly everything: the server is to pause writes when it is that client's turn.
    pub fn ask_to_pause(&mut self, client: u64) {
        if !self.waiting.contains(&client) {
            self.waiting.push_back(client);
        }
    }

    /// Whose turn it is, if nobody is on the way.
    pub fn next_to_pause(&self) -> Option<u64> {
        self.waiting.front().copied().filter(|_| self.current.is_none())
    }

    /// It is not that client's turn any more.
    pub fn withdraw(&mut self, client: u64) {
        self.waiting.retain(|waiting| *waiting != client);
    }

    /// The server has paused writes for that client's migration.
    pub fn paused(&mut self, client: u64, job: ExportJob) {
        self.withdraw(client);
        self.current = Some(Export { client, job, stage: Stage::Paused });
    }

    /// The target has everything and asks for the slots. Returns what to ask the log, if it is that migration's turn; no client is answered
    /// from then on.
    pub fn ask_to_fail_over(&mut self, client: u64) -> Option<SlotStep> {
        let current =
            self.current.as_mut().filter(|current| current.client == client && current.stage == Stage::Paused)?;
        current.stage = Stage::Granting;
        let ExportJob { name, slots, target, .. } = current.job.clone();
        Some(SlotStep::Grant { job: name, slots, target })
    }

    /// The log has answered.
    pub fn answered(
        &mut self,
        step: &SlotStep,
        answer: Result<SlotAnswer, NotDone>,
        now: Instant,
    ) -> Option<ExportAction> {
        let current = self.current.as_mut().filter(|current| current.job.name == step.job())?;
        match (current.stage, step, answer) {
            (Stage::Granting, SlotStep::Grant { .. }, Ok(_)) => {
                current.stage = Stage::Granted(now);
                Some(ExportAction::LetFailOver(current.client))
            }
            // It may be stored, or an earlier copy of it, but the target has not been told.
            (Stage::Granting, SlotStep::Grant { .. }, Err(_)) => self.abort(),
            (Stage::Aborting(None), SlotStep::Abort { .. }, Ok(SlotAnswer::Claimed)) => {
                self.end().map(ExportAction::Give)
            }
            (Stage::Aborting(None), SlotStep::Abort { .. }, Ok(_)) => {
                self.end().map(|job| ExportAction::Fail(job, "the target has not claimed them".to_owned()))
            }
            // The log has never known of such a thing.
            (Stage::Aborting(None), SlotStep::Abort { .. }, Err(NotDone::Refused(why))) => {
                self.end().map(|job| ExportAction::Fail(job, why))
            }
            (Stage::Aborting(None), SlotStep::Abort { .. }, Err(NotDone::Unknown(_))) => {
                current.stage = Stage::Aborting(Some(now + RETRY_WAIT));
                None
            }
            _ => None,
        }
    }

    /// What the log has stored was not told to the target: the server has given the migration up.
    pub fn not_let(&mut self) -> Option<ExportAction> {
        self.abort()
    }

    /// The slots of the migration that is on its way.
    pub fn current_slots(&self) -> Option<&SlotRanges> {
        self.current.as_ref().map(|current| &current.job.slots)
    }

    /// The client of the migration that is on its way, while the server may still give it up without this node's asking.
    pub fn paused_client(&self) -> Option<u64> {
        self.current.as_ref().filter(|current| current.stage == Stage::Paused).map(|current| current.client)
    }

    /// Whether another shard may have the slots.
    pub fn may_be_claimed(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.stage != Stage::Paused)
    }

    /// Looks at what time and the server have brought. `has_slots`: the server believes that all of them are this node's.
    pub fn look(&mut self, now: Instant, has_slots: bool) -> Option<ExportAction> {
        if cfg!(feature = "broken-grant") && self.is_granted() {
            self.end().map(|job| ExportAction::Fail(job, "nobody was asked".to_owned()))
        } else if self.is_due(now, has_slots) {
            self.abort()
        } else {
            None
        }
    }

    fn is_granted(&self) -> bool {
        self.current.as_ref().is_some_and(|current| matches!(current.stage, Stage::Granted(_)))
    }

    /// Whether [`Exports::look`] would find something. The cluster may have told of the claim, or of something else: the log knows.
    pub fn is_due(&self, now: Instant, has_slots: bool) -> bool {
        self.current.as_ref().is_some_and(|current| match current.stage {
            Stage::Paused | Stage::Granting => false,
            Stage::Granted(since) => cfg!(feature = "broken-grant") || !has_slots || now >= since + CLAIM_TIME,
            Stage::Aborting(retry) => retry.is_some_and(|retry| now >= retry),
        })
    }

    /// This node serves nobody for now. What it has granted may be claimed meanwhile: if it goes on to lead in the same epoch, the log is asked
    /// before any client is answered.
    pub fn suspended(&mut self, now: Instant) {
        if let Some(current) = self.current.as_mut().filter(|current| current.stage != Stage::Paused) {
            current.stage = Stage::Aborting(Some(now));
        }
    }

    /// What the server may still give up: clients that wait for their turn, and one for which it has paused writes.
    pub fn end_undecided(&mut self) {
        self.waiting.clear();
        self.current.take_if(|current| current.stage == Stage::Paused);
    }

    /// The migration that is on its way.
    pub fn current_name(&self) -> Option<&str> {
        self.current.as_ref().map(|current| &current.job.name[..])
    }

    fn abort(&mut self) -> Option<ExportAction> {
        let current = self.current.as_mut()?;
        current.stage = Stage::Aborting(None);
        let ExportJob { name, slots, .. } = current.job.clone();
        Some(ExportAction::Ask(SlotStep::Abort { job: name, slots }))
    }

    /// The migration that is on its way is over.
    pub fn end(&mut self) -> Option<ExportJob> {
        self.current.take().map(|current| current.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> ExportJob {
        let slots = "1-3".parse().expect("slots");
        ExportJob { name: "j".to_owned(), slots, target_node: "n".to_owned(), target: "t".to_owned() }
    }

    /// The migration of client 7, granted at the returned time.
    fn granted() -> (Exports, Instant) {
        let (mut exports, now) = (Exports::default(), Instant::now());
        exports.paused(7, job());
        let grant = exports.ask_to_fail_over(7).expect("its turn");
        assert_eq!(exports.answered(&grant, Ok(SlotAnswer::Done), now), Some(ExportAction::LetFailOver(7)));
        (exports, now)
    }

    fn abort() -> SlotStep {
        SlotStep::Abort { job: "j".to_owned(), slots: job().slots }
    }

    #[test]
    fn one_migration_at_a_time_comes_to_its_end() {
        let mut exports = Exports::default();
        exports.ask_to_pause(7);
        exports.ask_to_pause(8);
        exports.ask_to_pause(7);
        assert_eq!(exports.next_to_pause(), Some(7));
        exports.paused(7, job());
        assert_eq!(exports.next_to_pause(), None, "another one is on its way");
        assert_eq!(exports.ask_to_fail_over(8), None, "not its turn");
        assert_eq!(exports.end(), Some(job()));
        assert_eq!(exports.next_to_pause(), Some(8));
        exports.withdraw(8);
        assert!(exports.is_idle());
    }

    #[test]
    fn the_target_is_told_only_when_the_log_has_stored_the_grant() {
        let mut exports = Exports::default();
        exports.paused(7, job());
        assert!(!exports.may_be_claimed());
        let grant = exports.ask_to_fail_over(7).expect("its turn");
        assert_eq!(grant, SlotStep::Grant { job: "j".to_owned(), slots: job().slots, target: "t".to_owned() });
        assert!(exports.may_be_claimed());
        assert_eq!(exports.ask_to_fail_over(7), None, "only once");
    }

    #[test]
    fn a_grant_of_which_nobody_knows_is_aborted_until_the_log_answers() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        exports.paused(7, job());
        let grant = exports.ask_to_fail_over(7).expect("its turn");
        let unknown = || Err(NotDone::Unknown("silence".to_owned()));
        assert_eq!(exports.answered(&grant, unknown(), now), Some(ExportAction::Ask(abort())));
        assert_eq!(exports.answered(&abort(), unknown(), now), None);
        assert!(exports.may_be_claimed() && !exports.is_due(now, false));
        assert!(exports.is_due(now + RETRY_WAIT, true));
        assert_eq!(exports.look(now + RETRY_WAIT, true), Some(ExportAction::Ask(abort())));
        assert!(matches!(exports.answered(&abort(), Ok(SlotAnswer::Aborted), now), Some(ExportAction::Fail(..))));
    }

    #[test]
    fn a_target_that_does_not_claim_in_time_gets_nothing_any_more() {
        let (mut exports, now) = granted();
        assert_eq!(exports.look(now + CLAIM_TIME / 2, true), None);
        assert_eq!(exports.look(now + CLAIM_TIME, true), Some(ExportAction::Ask(abort())));
        assert!(exports.may_be_claimed(), "until the log has answered");
        assert!(matches!(exports.answered(&abort(), Ok(SlotAnswer::Aborted), now), Some(ExportAction::Fail(..))));
    }

    #[test]
    fn slots_that_are_claimed_are_given_even_if_the_cluster_has_not_told() {
        let (mut exports, now) = granted();
        assert_eq!(exports.look(now + CLAIM_TIME, true), Some(ExportAction::Ask(abort())));
        assert_eq!(exports.answered(&abort(), Ok(SlotAnswer::Claimed), now), Some(ExportAction::Give(job())));
        assert!(exports.is_idle());
    }

    #[test]
    fn what_the_cluster_tells_is_asked_of_the_log() {
        let (mut exports, now) = granted();
        assert!(exports.is_due(now, false));
        assert_eq!(exports.look(now, false), Some(ExportAction::Ask(abort())));
        assert!(!exports.is_due(now, false), "it is asked");
        assert_eq!(exports.answered(&abort(), Ok(SlotAnswer::Claimed), now), Some(ExportAction::Give(job())));
        assert_eq!(exports.answered(&abort(), Ok(SlotAnswer::Claimed), now), None, "it is over");
    }

    #[test]
    fn a_leader_that_was_suspended_asks_the_log_before_it_answers() {
        let (mut exports, now) = granted();
        exports.suspended(now);
        assert!(exports.may_be_claimed());
        assert_eq!(exports.answered(&abort(), Ok(SlotAnswer::Aborted), now), None, "an answer of before");
        assert_eq!(exports.look(now, true), Some(ExportAction::Ask(abort())));
        let mut exports = Exports::default();
        exports.paused(7, job());
        exports.suspended(now);
        assert!(!exports.may_be_claimed(), "nothing was granted");
    }

    #[test]
    fn what_may_be_claimed_is_not_given_up() {
        let (mut exports, _) = granted();
        exports.ask_to_pause(8);
        exports.end_undecided();
        assert!(exports.may_be_claimed() && exports.next_to_pause().is_none());
        let mut exports = Exports::default();
        exports.paused(7, job());
        exports.end_undecided();
        assert!(exports.is_idle());
    }

    #[test]
    fn a_log_that_knows_no_such_question_has_granted_nothing() {
        let (mut exports, now) = (Exports::default(), Instant::now());
        exports.paused(7, job());
        let grant = exports.ask_to_fail_over(7).expect("its turn");
        let refused = || Err(NotDone::Refused("usage".to_owned()));
        assert_eq!(exports.answered(&grant, refused(), now), Some(ExportAction::Ask(abort())));
        assert!(matches!(exports.answered(&abort(), refused(), now), Some(ExportAction::Fail(..))));
        assert!(exports.is_idle());
    }
}
