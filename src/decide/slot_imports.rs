//! Slots that come to this leader's shard: what is done next with each migration.
//!
//! The server tells the source that it has everything only when this shard's log has it. Once the source has granted the slots, the server's
//! migration is ended, so that it deletes nothing any more. Then the log of this shard stores what is intended, that of the source decides,
//! and that of this shard stores what became of it. Only then does the server serve the slots, or delete what it got.

use std::time::Instant;

use durability_protocol::SlotRanges;

use crate::decide::slot_exports::RETRY_WAIT;
use crate::decide::slot_steps::{NotDone, Outcome, SlotAnswer, SlotStep};

/// How many migrations may be on their way.
const MOST: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Keys come.
    Receiving,
    /// The source takes no more writes. The log is to have what came until then: up to that offset (exclusive).
    AwaitsLog(u64),
    /// The source is asked for the slots.
    Requested,
    /// It has granted them.
    Granted,
    Intending,
    Claiming,
    Settling(Outcome),
    Forgetting,
}

/// A migration whose slots come.
#[derive(Debug)]
struct Import {
    /// The source's connection, until the server's migration is ended.
    client: Option<u64>,
    job: String,
    slots: SlotRanges,
    source_node: String,
    /// The source's shard, once it matters.
    source: String,
    stage: Stage,
    /// When to ask the log again; none while it is asked.
    retry: Option<Instant>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportAction {
    /// The server goes on with what that client told: it asks for the slots.
    LetRequest(u64),
    /// End the server's migration of that name, as one that has succeeded, and say which shard that node's is: [`Imports::ended`].
    End {
        /// The migration.
        job: String,
        /// The id of the source's node.
        source_node: String,
    },
    /// Ask the log.
    Ask(SlotStep),
    /// Choose a config epoch above that one and all others: [`Imports::planned`].
    Plan {
        /// The migration.
        job: String,
        /// The source's config epoch.
        above: u64,
    },
    /// Serve these slots, under that config epoch. The log has stored it.
    Take(SlotRanges, u64),
    /// Delete the keys in these slots: they stay another shard's.
    Drop(SlotRanges),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Imports(Vec<Import>);

impl Imports {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    /// A migration begins. Returns whether it may: not if there are too many, or another one of some of its slots is not over.
    pub fn begin(&mut self, client: u64, job: String, slots: SlotRanges, source_node: String) -> bool {
        self.0.retain(|import| import.client != Some(client));
        // What becomes of the one before would be done to the keys of this one.
        let is_apart = |import: &Import| import.job != job && !import.slots.overlaps(&slots);
        let may = self.0.len() < MOST && self.0.iter().all(is_apart);
        if may {
            let (client, source) = (Some(client), String::new());
            self.0.push(Import { client, job, slots, source_node, source, stage: Stage::Receiving, retry: None });
        }
        may
    }

    /// The source takes no more writes to the slots. Returns whether that is a migration of this node's.
    pub fn paused(&mut self, client: u64, stream_end: u64) -> bool {
        let import = self.of(client);
        if let Some(import) = import.filter(|import| import.stage == Stage::Receiving) {
            import.stage = Stage::AwaitsLog(stream_end);
            return true;
        }
        false
    }

    /// The source grants the slots.
    pub fn granted(&mut self, client: u64) {
        if let Some(import) = self.of(client).filter(|import| import.stage == Stage::Requested) {
            import.stage = Stage::Granted;
        }
    }

    /// That connection has ended: the server gives its migration up.
    pub fn disconnected(&mut self, client: u64) {
        self.0.retain(|import| import.client != Some(client));
    }

    fn of(&mut self, client: u64) -> Option<&mut Import> {
        self.0.iter_mut().find(|import| import.client == Some(client))
    }

    fn named(&mut self, job: &str) -> Option<&mut Import> {
        self.0.iter_mut().find(|import| import.job == job)
    }

    /// Whether the record of this shard's slots is about to change.
    pub fn is_settling(&self) -> bool {
        self.0.iter().any(|import| matches!(import.stage, Stage::Settling(_)))
    }

    /// Whether any of the migrations has slots that may be this shard's by now, although the server does not serve them.
    pub fn may_own(&self, slot: u16) -> bool {
        self.0.iter().any(|import| import.slots.contains(slot))
    }

    /// The next thing to do by what time and the log have brought, which holds what lies below `durable`.
    pub fn look(&mut self, now: Instant, durable: Option<u64>) -> Option<ImportAction> {
        let import = self.0.iter_mut().find(|import| import.is_due(now, durable))?;
        import.retry = None;
        match import.stage {
            Stage::AwaitsLog(_) => {
                import.stage = Stage::Requested;
                import.client.map(ImportAction::LetRequest)
            }
            Stage::Granted => {
                // The source's shard may not be known yet.
                import.retry = Some(now + RETRY_WAIT);
                Some(ImportAction::End { job: import.job.clone(), source_node: import.source_node.clone() })
            }
            _ => import.step().map(ImportAction::Ask),
        }
    }

    /// Whether [`Imports::look`] would find something.
    pub fn is_due(&self, now: Instant, durable: Option<u64>) -> bool {
        self.0.iter().any(|import| import.is_due(now, durable))
    }

    /// The server's migration is ended, and the source is that shard. Or the server has given it up before, and deletes what it got.
    pub fn ended(&mut self, job: &str, source: Option<String>) -> Option<ImportAction> {
        let Some(source) = source else {
            self.0.retain(|import| import.job != job);
            return None;
        };
        let import = self.named(job).filter(|import| import.stage == Stage::Granted)?;
        (import.client, import.source, import.stage, import.retry) = (None, source, Stage::Intending, None);
        import.step().map(ImportAction::Ask)
    }

    /// The config epoch cannot be chosen now: claim again, and then choose.
    pub fn put_off(&mut self, job: &str, now: Instant) {
        if let Some(import) = self.named(job).filter(|import| import.stage == Stage::Claiming) {
            import.retry = Some(now + RETRY_WAIT);
        }
    }

    /// That config epoch is to be the one under which the slots are claimed.
    pub fn planned(&mut self, job: &str, config_epoch: u64) -> Option<ImportAction> {
        let import = self.named(job).filter(|import| import.stage == Stage::Claiming)?;
        import.stage = Stage::Settling(Outcome::Taken { config_epoch });
        import.step().map(ImportAction::Ask)
    }

    /// The log has answered.
    pub fn answered(
        &mut self,
        step: &SlotStep,
        answer: Result<SlotAnswer, NotDone>,
        now: Instant,
    ) -> Vec<ImportAction> {
        let Some(import) = self.named(step.job()) else { return Vec::new() };
        if import.step().as_ref() != Some(step) {
            return Vec::new();
        }
        let ask = |import: &mut Import, stage| {
            import.stage = stage;
            import.step().map(ImportAction::Ask)
        };
        let slots = import.slots.clone();
        match (import.stage, answer) {
            (Stage::Intending, Ok(_)) => ask(import, Stage::Claiming).into_iter().collect(),
            (Stage::Claiming, Ok(SlotAnswer::Granted { config_epoch })) => {
                vec![ImportAction::Plan { job: import.job.clone(), above: config_epoch }]
            }
            // An earlier copy of what is refused may be stored, from which the next leader would claim. So the keys stay until it is not.
            (Stage::Intending | Stage::Claiming, Err(NotDone::Refused(_))) => {
                ask(import, Stage::Settling(Outcome::Void)).into_iter().collect()
            }
            (Stage::Settling(Outcome::Taken { config_epoch }), Ok(_)) => {
                let next = ask(import, Stage::Forgetting);
                [ImportAction::Take(slots, config_epoch)].into_iter().chain(next).collect()
            }
            // A greater config epoch is stored by now.
            (Stage::Settling(Outcome::Taken { config_epoch }), Err(NotDone::Refused(_))) => {
                import.stage = Stage::Claiming;
                vec![ImportAction::Plan { job: import.job.clone(), above: config_epoch }]
            }
            (Stage::Settling(Outcome::Void), Ok(_)) => {
                self.0.retain(|import| import.job != step.job());
                vec![ImportAction::Drop(slots)]
            }
            (Stage::Settling(Outcome::Void), Err(NotDone::Refused(_)))
            | (Stage::Forgetting, Ok(_) | Err(NotDone::Refused(_))) => {
                self.0.retain(|import| import.job != step.job());
                Vec::new()
            }
            _ => {
                import.retry = Some(now + RETRY_WAIT);
                Vec::new()
            }
        }
    }

    /// Whether slots may be this shard's by now, or will be, although the server does not serve them. Their keys must stay as they are.
    pub fn are_claiming(&self) -> bool {
        self.0.iter().any(|import| import.client.is_none() && import.stage != Stage::Forgetting)
    }

    /// This node serves nobody for now, or does not heed that answer: what is being asked is asked again, as all of it may be.
    pub fn ask_again(&mut self, now: Instant) {
        for import in self.0.iter_mut().filter(|import| import.client.is_none()) {
            import.retry = Some(now);
        }
    }

    /// What the server may still give up: migrations whose slots the source has not granted, or that are not ended in the server.
    pub fn end_undecided(&mut self) {
        self.0.retain(|import| import.client.is_none());
    }

    /// The epoch is over. What the log knows of is the next leader's.
    pub fn end(&mut self) {
        self.0.clear();
    }
}

impl Import {
    fn is_due(&self, now: Instant, durable: Option<u64>) -> bool {
        match self.stage {
            Stage::AwaitsLog(end) => durable >= Some(end),
            Stage::Granted => self.retry.is_none_or(|retry| now >= retry),
            _ => self.retry.is_some_and(|retry| now >= retry),
        }
    }

    /// What to ask the log.
    fn step(&self) -> Option<SlotStep> {
        let (job, source) = (self.job.clone(), self.source.clone());
        match self.stage {
            Stage::Receiving | Stage::AwaitsLog(_) | Stage::Requested | Stage::Granted => None,
            Stage::Intending => Some(SlotStep::Intend { job, slots: self.slots.clone(), source }),
            Stage::Claiming => Some(SlotStep::Claim { job, source }),
            Stage::Settling(outcome) => Some(SlotStep::Settle { job, outcome }),
            Stage::Forgetting => Some(SlotStep::Forget { job, source }),
        }
    }
}

#[cfg(test)]
#[path = "slot_imports_tests.rs"]
mod tests;
