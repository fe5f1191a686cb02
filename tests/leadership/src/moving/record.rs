//! What the log service of a shard has stored: whether the shard has the slot, and what was decided about moving it. Everything is
//! committed as soon as it is written, and every answer is of what is committed. Beside it is what the log holds of the slot's data.

use super::message::{ConfigEpoch, Job, Message, Process};
use super::search::{Rules, JOBS};

/// What is stored of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// The newest epoch.
    pub epoch: u8,
    /// The number of the last change that its leader asked for.
    sent: u8,
    /// The shard's config epoch.
    pub config_epoch: ConfigEpoch,
    /// Whether the slot is the shard's.
    pub has_slot: bool,
    /// The job that may claim the slot.
    pub grant: Option<Job>,
    /// The jobs that have claimed it, with the config epoch that this shard had then.
    pub given: [Option<ConfigEpoch>; JOBS],
    /// The jobs that never will, of those that the leader of this epoch may still ask to grant.
    aborted: [bool; JOBS],
    /// The job by which this shard is going to claim the slot at the other.
    pub intent: Option<Job>,
    /// How many of the slot's writes the log has.
    pub data: u8,
}

impl Record {
    /// A shard with its first leader.
    pub fn new(has_slot: bool, config_epoch: ConfigEpoch) -> Self {
        Record {
            epoch: 1,
            sent: 0,
            config_epoch,
            has_slot,
            grant: None,
            given: [None; JOBS],
            aborted: [false; JOBS],
            intent: None,
            data: 0,
        }
    }

    /// `LOG.ACQUIRE`: another leader.
    pub fn acquire(&mut self) -> u8 {
        self.epoch += 1;
        self.sent = 0;
        // The leaders before are fenced, and a new one begins new jobs.
        self.aborted = [false; JOBS];
        self.epoch
    }

    /// Whether a job has claimed the slot.
    pub fn has_given(&self, job: Job) -> bool {
        self.given[usize::from(job)].is_some()
    }

    /// Whether there is a job that is not granted any more.
    pub fn has_aborted_any(&self) -> bool {
        self.aborted.contains(&true)
    }

    /// A request arrives. The answer; none if it is refused in a way of which its sender makes nothing.
    pub fn serve(&mut self, request: Message, rules: &Rules) -> Option<Message> {
        match request {
            Message::Set { from, sent, config_epoch, has_slot, ends } => {
                let is_set = self.may_change(from, sent, rules) && self.set(config_epoch, has_slot, ends, rules);
                is_set.then_some(Message::Stored { to: from, config_epoch, has_slot, ends })
            }
            Message::Grant { from, sent, job } => {
                let is_aborted = self.aborted[usize::from(job)] && rules.remembers_aborted;
                let may_grant = self.has_slot && !self.has_given(job) && !is_aborted;
                let fences = Rules { fences_changes: rules.fences_grants, ..*rules };
                if !may_grant || !self.may_change(from, sent, &fences) {
                    return None;
                }
                self.grant = Some(job);
                Some(Message::Granted { to: from, job })
            }
            Message::Import { from, sent, job } => {
                if !self.may_change(from, sent, rules) {
                    return None;
                }
                self.intent = Some(job);
                Some(Message::Intended { to: from, job })
            }
            Message::Drop { from, sent, job } => {
                if !self.may_change(from, sent, rules) {
                    return None;
                }
                self.intent.take_if(|intent| *intent == job);
                Some(Message::Dropped { to: from, job })
            }
            Message::Claim { from, job } => Some(Message::Decided { to: from, job, given: self.claim(job, rules) }),
            Message::Abort { from, source, job } => {
                // Only the source's leader has an epoch to be fenced by. The target's ends what it wanted itself.
                if from.shard == source && from.epoch != self.epoch {
                    return None;
                }
                let is_asked_only = from.shard != source && !rules.settles_by_abort;
                let given = if is_asked_only { self.given[usize::from(job)] } else { self.abort(job) };
                Some(Message::Decided { to: from, job, given })
            }
            _ => None,
        }
    }

    /// Whether the leader `from` may change anything by what it sent as its `sent`th.
    fn may_change(&mut self, from: Process, sent: u8, rules: &Rules) -> bool {
        let is_fenced = from.epoch != self.epoch;
        if is_fenced {
            return !rules.fences_changes;
        }
        let is_late = sent < self.sent;
        self.sent = self.sent.max(sent);
        !is_late || !rules.orders_changes
    }

    fn set(&mut self, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job>, rules: &Rules) -> bool {
        let is_lower = config_epoch < self.config_epoch;
        // What was given away comes back only by an import.
        let takes_back = has_slot && !self.has_slot && ends.is_none();
        if is_lower || takes_back && rules.keeps_given || ends.is_some() && ends != self.intent {
            return false;
        }
        (self.config_epoch, self.has_slot) = (config_epoch, has_slot);
        if ends.is_some() && rules.ends_intent_with_slots {
            self.intent = None;
        }
        true
    }

    fn claim(&mut self, job: Job, rules: &Rules) -> Option<ConfigEpoch> {
        let at = usize::from(job);
        let is_granted = self.grant == Some(job) || self.has_slot && !rules.claims_what_is_granted;
        let is_new = self.given[at].is_none() && is_granted;
        if is_new {
            self.grant = None;
            self.given[at] = Some(self.config_epoch);
        }
        if is_new || self.given[at].is_some() && !rules.claims_once {
            self.has_slot = false;
        }
        self.given[at]
    }

    fn abort(&mut self, job: Job) -> Option<ConfigEpoch> {
        let at = usize::from(job);
        if self.given[at].is_none() {
            self.grant.take_if(|grant| *grant == job);
            self.aborted[at] = true;
        }
        self.given[at]
    }
}
