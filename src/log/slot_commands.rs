//! `LOG.SLOTS`: what a shard is in its cluster, and slots that move from one shard to another.

use durability_leadership::Moment;
use durability_protocol::{Code, SLOTS};

use crate::decide::cluster_claim::{Claim, Intention, Stored};
use crate::decide::slot_steps::{NotDone, Outcome, SlotAnswer, SlotStep};
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::reply::{fields, text};
use crate::settings;

impl LogConnection {
    /// What the shard is in its cluster, as the leader of an epoch stored it last. `epoch` is this node's.
    ///
    /// # Errors
    /// [`Code::Fenced`] if `epoch` is over.
    pub fn claim(&mut self, epoch: u64) -> Result<Stored, LogError> {
        let reply = self.ask(&[SLOTS, &settings::SHARD.value(), "GET", &epoch.to_string()])?;
        let mut stored = Stored::default();
        for (name, value) in fields("LOG.SLOTS", &reply).map_err(|detail| self.protocol(detail))? {
            let wrong = || self.protocol(format!("LOG.SLOTS says that the shard's {name} is '{value}'"));
            match name.as_str() {
                "config_epoch" => stored.config_epoch = value.parse().map_err(|_| wrong())?,
                "slots" => stored.slots = value.parse().map_err(|_| wrong())?,
                "imports" => stored.intentions = intentions(&value).ok_or_else(wrong)?,
                _ => {}
            }
        }
        Ok(stored)
    }

    /// Stores what the shard is in its cluster. When this returns, the next leader learns it. `sent` is now.
    ///
    /// # Errors
    /// As [`LogConnection::claim`]. It may be stored all the same.
    pub fn store_claim(&mut self, epoch: u64, claim: &Claim, sent: Moment) -> Result<(), LogError> {
        let [epoch, config_epoch, sent] = [epoch, claim.config_epoch, sent.0].map(|number| number.to_string());
        let (shard, slots) = (settings::SHARD.value(), claim.slots.to_string());
        self.ask(&[SLOTS, &shard, "SET", &epoch, &config_epoch, &slots, &claim.node_id, &sent]).map(drop)
    }

    /// Asks a step of a migration, as the leader of `epoch`. [`SlotStep::Claim`] and [`SlotStep::Forget`] are for the service that decides over
    /// the source's log, the others for that of this node's own.
    ///
    /// # Errors
    /// The log cannot be reached, or refuses. Unless it refuses, the step may be done.
    pub fn slot_step(&mut self, epoch: u64, step: &SlotStep) -> Result<SlotAnswer, LogError> {
        let (shard, epoch) = (settings::SHARD.value(), epoch.to_string());
        let ask = |connection: &mut Self, words: &[&str]| {
            let command: Vec<&str> = [SLOTS, &shard].into_iter().chain(words.iter().copied()).collect();
            connection.ask(&command)
        };
        match step {
            SlotStep::Grant { job, slots, target } => {
                ask(self, &["GRANT", &epoch, job, &slots.to_string(), target]).map(|_| SlotAnswer::Done)
            }
            SlotStep::Abort { job, slots } => {
                let reply = ask(self, &["ABORT", &epoch, job, &slots.to_string()])?;
                match text(&reply).as_str() {
                    "aborted" => Ok(SlotAnswer::Aborted),
                    "claimed" => Ok(SlotAnswer::Claimed),
                    other => Err(self.protocol(format!("LOG.SLOTS ABORT answers '{other}'"))),
                }
            }
            SlotStep::Intend { job, slots, source } => {
                ask(self, &["IMPORT", &epoch, job, &slots.to_string(), source]).map(|_| SlotAnswer::Done)
            }
            SlotStep::Claim { job, source } => {
                let reply = ask(self, &["CLAIM", source, job])?;
                let config_epoch = fields("LOG.SLOTS CLAIM", &reply)
                    .map_err(|detail| self.protocol(detail))?
                    .find_map(|(name, value)| (name == "config_epoch").then(|| value.parse().ok())?);
                config_epoch
                    .map(|config_epoch| SlotAnswer::Granted { config_epoch })
                    .ok_or_else(|| self.protocol("LOG.SLOTS CLAIM tells no config epoch"))
            }
            SlotStep::Settle { job, outcome: Outcome::Taken { config_epoch } } => {
                ask(self, &["SETTLE", &epoch, &config_epoch.to_string(), job, "taken"]).map(|_| SlotAnswer::Done)
            }
            SlotStep::Settle { job, outcome: Outcome::Void } => {
                ask(self, &["SETTLE", &epoch, "0", job, "void"]).map(|_| SlotAnswer::Done)
            }
            SlotStep::Forget { job, source } => ask(self, &["FORGET", source, job]).map(|_| SlotAnswer::Done),
        }
    }
}

/// Reads `job slots source;job slots source`.
fn intentions(text: &str) -> Option<Vec<Intention>> {
    let intention = |words: &str| match words.split(' ').collect::<Vec<_>>()[..] {
        [job, slots, source] => {
            Some(Intention { job: job.to_owned(), slots: slots.parse().ok()?, source: source.to_owned() })
        }
        _ => None,
    };
    text.split(';').filter(|words| !words.is_empty()).map(intention).collect()
}

/// What an error says of the step that was asked.
pub fn not_done(step: &SlotStep, error: &LogError) -> NotDone {
    if is_final(step, error.code()) {
        NotDone::Refused(error.to_string())
    } else {
        NotDone::Unknown(error.to_string())
    }
}

/// Whether a step that is refused with that code was not done, and will not be.
fn is_final(step: &SlotStep, code: Option<Code>) -> bool {
    match (step, code) {
        // Any other word is of a service that cannot say what its log holds.
        (SlotStep::Claim { .. }, code) => code == Some(Code::NoGrant),
        // They may be claimed. Clients of this leader get no answer until its epoch ends, which it soon does.
        (SlotStep::Abort { .. }, Some(Code::Fenced)) => false,
        (_, Some(Code::Fenced | Code::Err | Code::NoGrant | Code::NoPerm)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_whose_epoch_is_over_does_not_know_whether_its_slots_were_claimed() {
        let grant =
            SlotStep::Grant { job: "j".to_owned(), slots: "0-5".parse().expect("slots"), target: "t".to_owned() };
        let abort = SlotStep::Abort { job: "j".to_owned(), slots: "0-5".parse().expect("slots") };
        assert!(is_final(&grant, Some(Code::Fenced)));
        assert!(!is_final(&abort, Some(Code::Fenced)));
        assert!(is_final(&abort, Some(Code::Err)), "a log that knows no such question has granted nothing");
        assert!(!is_final(&abort, None), "no answer");
    }

    #[test]
    fn what_an_earlier_leader_was_about_to_claim_is_read() {
        assert_eq!(intentions(""), Some(Vec::new()));
        let read = intentions("j1 0-5,7 s0;j2 9 s1").expect("read");
        let parts =
            |intention: &Intention| (intention.job.clone(), intention.slots.to_string(), intention.source.clone());
        let text = |words: [&str; 3]| (words[0].to_owned(), words[1].to_owned(), words[2].to_owned());
        assert_eq!(read.iter().map(parts).collect::<Vec<_>>(), [text(["j1", "0-5,7", "s0"]), text(["j2", "9", "s1"])]);
        for wrong in ["j1", "j1 x s0", "j1 1 s0 more"] {
            assert_eq!(intentions(wrong), None, "{wrong}");
        }
    }
}
