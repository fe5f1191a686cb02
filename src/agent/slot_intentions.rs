//! A node on its way to lead finds that an earlier leader was about to claim slots from another shard: it claims them, or learns that they
//! stay there. Its log holds their keys. Agent's thread.

use std::sync::Arc;

use valkey_module::logging::{log_notice, log_warning};

use crate::agent::interrupt::Interrupt;
use crate::decide::cluster_claim::{Intention, Stored};
use crate::decide::slot_steps::{NotDone, Outcome, SlotAnswer, SlotStep};
use crate::exchange::Shared;
use crate::lead::slot_worker::TwoLogs;

/// Learns what became of all that is intended, and has the log store it. The keys are deleted, or served, by what is stored.
///
/// # Errors
/// The log of another shard cannot say what became of it. Until it can, this node must not lead: the server would delete the keys.
pub fn settle(shared: &Arc<Shared>, epoch: u64, stored: &Stored) -> Result<(), Interrupt> {
    let mut logs = TwoLogs::new(Arc::clone(shared));
    let mut greatest = stored.config_epoch;
    for Intention { job, slots, source } in &stored.intentions {
        let claim = SlotStep::Claim { job: job.clone(), source: source.clone() };
        let outcome = match logs.ask(epoch, &claim) {
            // The server chooses a still greater one as it takes over.
            Ok(SlotAnswer::Granted { config_epoch }) => {
                log_notice(format!("durability: slots {slots} came from shard {source} (migration {job})"));
                greatest = greatest.max(config_epoch) + 1;
                Outcome::Taken { config_epoch: greatest }
            }
            Err(NotDone::Refused(why)) => {
                log_warning(format!("durability: slots {slots} stay with shard {source} (migration {job}): {why}"));
                Outcome::Void
            }
            Ok(_) => {
                return Err(Interrupt::Failed(format!(
                    "the log of shard {source} does not say whose slots {slots} are"
                )))
            }
            Err(NotDone::Unknown(why)) => {
                return Err(Interrupt::Failed(format!(
                    "whether slots {slots} came from shard {source} is not known: {why}"
                )))
            }
        };
        let settle = SlotStep::Settle { job: job.clone(), outcome };
        if let Err(NotDone::Refused(why) | NotDone::Unknown(why)) = logs.ask(epoch, &settle) {
            return Err(Interrupt::Failed(format!("what became of slots {slots} is not stored: {why}")));
        }
        // The source's log keeps to whom it gave slots until it is told that this one has stored it.
        let forget = SlotStep::Forget { job: job.clone(), source: source.clone() };
        if outcome != Outcome::Void && logs.ask(epoch, &forget).is_err() {
            log_notice(format!("durability: the log of shard {source} goes on to remember migration {job}"));
        }
    }
    Ok(())
}
