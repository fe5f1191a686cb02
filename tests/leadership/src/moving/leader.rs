//! A leader of a shard, or one that was and does not know it.

use super::message::{other, ConfigEpoch, Job, Message, Process};
use super::record::Record;
use super::search::Rules;

/// A leader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leader {
    /// Who it is.
    pub process: Process,
    /// How many changes it has asked its log service for.
    sent: u8,
    /// The config epoch that it knows to be stored.
    pub config_epoch: ConfigEpoch,
    /// Whether it believes that the slot is its shard's.
    pub has_slot: bool,
    /// Whether it serves.
    pub standing: Standing,
    /// What it is doing.
    pub phase: Phase,
    /// What its server has imported and its log has not.
    pub unlogged: Option<u8>,
}

/// Whether a leader serves, in the epoch that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It does.
    Serves,
    /// Its lease has passed, and may be renewed in the same epoch. It answers nobody and hears nothing.
    Suspended,
    /// A planned failover has begun, and may be given up. It reads nothing meanwhile.
    HandsOver,
}

/// What a leader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It has begun to lead, or to look again, and has read what is stored.
    Found { grant: Option<Job>, intent: Option<Job> },
    /// It aborts a grant of a leader before.
    Voiding(Job),
    /// It asks the source what became of an intent of a leader before.
    Settling(Job),
    /// It stores what the shard has from now on; with the slot that a job has claimed, if it says so.
    Claiming { config_epoch: ConfigEpoch, ends: Option<Job> },
    /// It leads, and moves nothing.
    Idle,
    /// Source: it has paused writes.
    Paused { job: Job, to: Process },
    /// Source: it has sent the grant.
    Granting { job: Job, to: Process },
    /// Source: it has told the target that it has granted.
    Granted(Job),
    /// Source: it asks what became of the grant.
    Deciding(Job),
    /// Target: its server has everything, and its log perhaps not yet.
    Imported { job: Job, from: Process },
    /// Target: its log has everything, and it has told the source so.
    Requested(Job),
    /// Target: it has sent the intent.
    Intending(Job),
    /// Target: it has sent the claim.
    Taking(Job),
    /// Target: it drops the intent.
    Dropping(Job),
}

/// What a leader wants to happen when it is told something.
#[derive(Debug, Default)]
pub struct Deeds {
    /// It sends this.
    pub sends: Vec<Message>,
    /// It tells the cluster that the slot is its shard's, under its config epoch.
    pub tells: bool,
    /// Its server deletes the slot's keys. That comes to nothing if it does not lead any more.
    pub deletes: bool,
    /// It reads what is stored.
    pub reads: bool,
}

impl Deeds {
    fn sends(message: Message) -> Self {
        Deeds { sends: vec![message], ..Deeds::default() }
    }
}

impl Leader {
    /// A leader that nobody led before.
    pub fn first(process: Process, record: &Record) -> Self {
        let mut leader = Leader::new(process, record);
        leader.phase = Phase::Idle;
        leader
    }

    /// A leader that was granted the lease, and has read what is stored.
    pub fn new(process: Process, record: &Record) -> Self {
        let (standing, phase) = (Standing::Serves, Phase::Idle);
        let mut leader = Leader { process, sent: 0, config_epoch: 0, has_slot: false, standing, phase, unlogged: None };
        leader.read(record);
        leader
    }

    /// It reads what is stored.
    pub fn read(&mut self, record: &Record) {
        (self.config_epoch, self.has_slot) = (record.config_epoch, record.has_slot);
        self.phase = Phase::Found { grant: record.grant, intent: record.intent };
    }

    /// Whether it takes part in anything.
    pub fn serves(&self) -> bool {
        self.standing == Standing::Serves
    }

    /// Whether it answers what is asked of the slot, if it leads.
    pub fn answers(&self, rules: &Rules) -> bool {
        self.has_slot
            && self.serves()
            && match self.phase {
                // The server's pause holds writes only.
                Phase::Idle | Phase::Paused { .. } => true,
                Phase::Granting { .. } => !rules.refuses_from_sending,
                _ => false,
            }
    }

    /// Whether it would take a write.
    pub fn takes_writes(&self, rules: &Rules) -> bool {
        self.answers(rules) && !matches!(self.phase, Phase::Paused { .. })
    }

    fn number(&mut self) -> u8 {
        self.sent += 1;
        self.sent
    }

    fn set(&mut self, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job>) -> Message {
        Message::Set { from: self.process, sent: self.number(), config_epoch, has_slot, ends }
    }

    fn claim_slots(&mut self, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job>) -> Message {
        self.phase = Phase::Claiming { config_epoch, ends };
        self.set(config_epoch, has_slot, ends)
    }

    /// It goes on with what it found when it began to lead.
    pub fn go_on(&mut self, rules: &Rules) -> Deeds {
        let Phase::Found { grant, intent } = self.phase else { return Deeds::default() };
        if let Some(job) = grant.filter(|_| rules.aborts_before_serving) {
            self.phase = Phase::Voiding(job);
            return Deeds::sends(self.abort(job, true));
        }
        if let Some(job) = intent.filter(|_| rules.settles_intents) {
            self.phase = Phase::Settling(job);
            // The server deletes what it has of slots that are not its own when it becomes a primary.
            return Deeds { deletes: !rules.keeps_imports, ..Deeds::sends(self.abort(job, false)) };
        }
        let claim = self.claim_slots(self.config_epoch + 1, self.has_slot, None);
        Deeds { deletes: !self.has_slot, ..Deeds::sends(claim) }
    }

    fn abort(&self, job: Job, is_own: bool) -> Message {
        let shard = self.process.shard;
        Message::Abort { from: self.process, source: if is_own { shard } else { other(shard) }, job }
    }

    /// Source: a migration begins and goes as far as the pause.
    pub fn pause(&mut self, job: Job, to: Process, data: u8) -> Message {
        self.phase = Phase::Paused { job, to };
        Message::Ship { to, from: self.process, job, data }
    }

    /// Source: the server's pause ends. False if nothing comes of it.
    pub fn end_pause(&mut self, rules: &Rules) -> bool {
        let serves_again = match self.phase {
            Phase::Paused { .. } => true,
            Phase::Granted(_) => !rules.refuses_until_decided,
            _ => false,
        };
        if serves_again {
            self.phase = Phase::Idle;
        }
        serves_again
    }

    /// Source: it wants to know what became of its grant.
    pub fn decide(&mut self) -> Option<Message> {
        let (Phase::Granting { job, .. } | Phase::Granted(job)) = self.phase else { return None };
        self.phase = Phase::Deciding(job);
        Some(self.abort(job, true))
    }

    /// A leader asks once more for what it was not answered, on another connection.
    pub fn resend(&mut self) -> Option<Message> {
        let from = self.process;
        match self.phase {
            Phase::Granting { job, .. } => Some(Message::Grant { from, sent: self.number(), job }),
            Phase::Intending(job) => Some(Message::Import { from, sent: self.number(), job }),
            Phase::Taking(job) => Some(Message::Claim { from, job }),
            Phase::Deciding(job) | Phase::Voiding(job) => Some(self.abort(job, true)),
            Phase::Settling(job) => Some(self.abort(job, false)),
            Phase::Dropping(job) => Some(Message::Drop { from, sent: self.number(), job }),
            Phase::Claiming { config_epoch, ends } => {
                Some(self.set(config_epoch, ends.is_some() || self.has_slot, ends))
            }
            _ => None,
        }
    }

    /// The bus has its config epoch raised: it stores the next one. None if it does not tell of the slot.
    pub fn raise(&mut self) -> Option<Message> {
        use Phase::{Deciding, Granted, Granting, Idle, Paused};
        let tells = matches!(self.phase, Idle | Paused { .. } | Granting { .. } | Granted(_) | Deciding(_));
        (tells && self.has_slot).then(|| self.set(self.config_epoch + 1, true, None))
    }

    /// Target: what the source has sent is in its log.
    pub fn logged(&mut self) -> Option<Message> {
        self.unlogged = None;
        let Phase::Imported { job, from } = self.phase else { return None };
        self.phase = Phase::Requested(job);
        Some(Message::Ready { to: from, job })
    }

    /// Target: the source is gone, and the server fails the import and deletes what it has of it. False if nothing comes of that.
    pub fn fail(&mut self, rules: &Rules) -> bool {
        match self.phase {
            Phase::Imported { .. } | Phase::Requested(_) => self.phase = Phase::Idle,
            Phase::Taking(_) if !rules.keeps_imports => {}
            _ => return false,
        }
        self.unlogged = None;
        true
    }

    /// It is told something.
    pub fn hear(&mut self, message: Message, rules: &Rules) -> Deeds {
        let from = self.process;
        match (message, self.phase) {
            (Message::Ship { from: source, job, data, .. }, Phase::Idle) if !self.has_slot => {
                self.unlogged = Some(data);
                if rules.logs_before_claim {
                    self.phase = Phase::Imported { job, from: source };
                    return Deeds::default();
                }
                self.phase = Phase::Requested(job);
                Deeds::sends(Message::Ready { to: source, job })
            }
            (Message::Ready { job, .. }, Phase::Paused { job: paused, to }) if job == paused => {
                self.phase = Phase::Granting { job, to };
                let mut deeds = Deeds::sends(Message::Grant { from, sent: self.number(), job });
                if !rules.tells_after_grant {
                    deeds.sends.push(Message::FailoverGranted { to, job });
                }
                deeds
            }
            (Message::Granted { job, .. }, Phase::Granting { job: asked, to }) if job == asked => {
                self.phase = Phase::Granted(job);
                Deeds::sends(Message::FailoverGranted { to, job })
            }
            (Message::FailoverGranted { job, .. }, Phase::Requested(asked)) if job == asked => {
                if !rules.intends_before_claim {
                    self.phase = Phase::Taking(job);
                    return Deeds::sends(Message::Claim { from, job });
                }
                self.phase = Phase::Intending(job);
                Deeds::sends(Message::Import { from, sent: self.number(), job })
            }
            (Message::Intended { job, .. }, Phase::Intending(asked)) if job == asked => {
                self.phase = Phase::Taking(job);
                Deeds::sends(Message::Claim { from, job })
            }
            (Message::Decided { job, given, .. }, _) => self.decided(job, given, rules),
            (Message::Dropped { job, .. }, Phase::Dropping(asked)) if job == asked => {
                self.phase = Phase::Idle;
                Deeds { deletes: true, ..Deeds::default() }
            }
            (Message::Stored { config_epoch, has_slot, ends, .. }, _) => {
                self.stored(config_epoch, has_slot, ends, rules)
            }
            _ => Deeds::default(),
        }
    }

    fn stored(&mut self, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job>, rules: &Rules) -> Deeds {
        let is_news = config_epoch > self.config_epoch;
        if let Phase::Claiming { config_epoch: asked, .. } = self.phase {
            if asked != config_epoch {
                return Deeds::default();
            }
            (self.phase, self.has_slot) = (Phase::Idle, has_slot);
        }
        self.config_epoch = self.config_epoch.max(config_epoch);
        let mut deeds = Deeds { tells: has_slot && is_news, ..Deeds::default() };
        if let Some(job) = ends.filter(|_| is_news && !rules.ends_intent_with_slots) {
            deeds.sends.push(Message::Drop { from: self.process, sent: self.number(), job });
        }
        deeds
    }

    fn decided(&mut self, job: Job, given: Option<ConfigEpoch>, rules: &Rules) -> Deeds {
        match (self.phase, given) {
            (Phase::Voiding(asked), _) if asked == job => Deeds { reads: true, ..Deeds::default() },
            (Phase::Settling(asked) | Phase::Taking(asked), Some(source)) if asked == job => {
                let above = if rules.claims_above_source { self.config_epoch.max(source) } else { self.config_epoch };
                let claim = self.claim_slots(above + 1, true, Some(job));
                if !rules.stores_before_telling {
                    (self.phase, self.has_slot, self.config_epoch) = (Phase::Idle, true, above + 1);
                    return Deeds { tells: true, ..Deeds::sends(claim) };
                }
                Deeds::sends(claim)
            }
            (Phase::Settling(asked) | Phase::Taking(asked), None) if asked == job => {
                self.phase = Phase::Dropping(job);
                Deeds::sends(Message::Drop { from: self.process, sent: self.number(), job })
            }
            (Phase::Deciding(asked), None) if asked == job => {
                self.phase = Phase::Idle;
                Deeds::default()
            }
            (Phase::Deciding(asked), Some(_)) if asked == job => self.lose(),
            (Phase::Idle, Some(_)) if self.has_slot && !rules.takes_awaited_answers => self.lose(),
            _ => Deeds::default(),
        }
    }

    /// Source: the slot is the target's.
    fn lose(&mut self) -> Deeds {
        (self.phase, self.has_slot) = (Phase::Idle, false);
        Deeds { deletes: true, ..Deeds::default() }
    }
}
