//! What is under way. Messages are a set that is delivered from in any order, at any time, or never.

/// Index of a shard, and of its log service.
pub type ShardId = u8;
/// A migration of the slot. It stands for the name of a job, which no two have.
pub type Job = u8;
/// A config epoch.
pub type ConfigEpoch = u8;

/// The shard that is not this one.
pub fn other(shard: ShardId) -> ShardId {
    1 - shard
}

/// A leader: its shard, and the epoch in which it leads or led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Which shard.
    pub shard: ShardId,
    /// In which epoch.
    pub epoch: u8,
}

/// What a leader asks a log service for, what it is answered, and what leaders send each other.
///
/// `sent` grows with each change that a leader asks its own log service for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// `LOG.SLOTS SET` at the shard's own log service. It ends the import of that job, if it says so.
    Set { from: Process, sent: u8, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job> },
    /// `LOG.GRANT` at the shard's own: the slot may be claimed.
    Grant { from: Process, sent: u8, job: Job },
    /// The slot is going to be claimed: an intent, at the shard's own.
    Import { from: Process, sent: u8, job: Job },
    /// It is not going to be claimed any more.
    Drop { from: Process, sent: u8, job: Job },
    /// `LOG.CLAIM` at the log service of the source.
    Claim { from: Process, job: Job },
    /// `LOG.ABORT` at the log service of the source, by a leader of the source or the target.
    Abort { from: Process, source: ShardId, job: Job },
    /// The slots that the shard has now are stored.
    Stored { to: Process, config_epoch: ConfigEpoch, has_slot: bool, ends: Option<Job> },
    /// The grant is stored.
    Granted { to: Process, job: Job },
    /// The intent is stored.
    Intended { to: Process, job: Job },
    /// The intent is gone.
    Dropped { to: Process, job: Job },
    /// What became of the job: with which config epoch of the source the slot was given to the target, or that it never will be.
    Decided { to: Process, job: Job, given: Option<ConfigEpoch> },
    /// The source's leader has paused writes, and the target's server has all that there is.
    Ship { to: Process, from: Process, job: Job, data: u8 },
    /// The target's log has all of it: `REQUEST-FAILOVER`.
    Ready { to: Process, job: Job },
    /// The source tells that it has granted: `FAILOVER-GRANTED`.
    FailoverGranted { to: Process, job: Job },
}

impl Message {
    /// To the log service of which shard it goes, if it goes to one.
    pub fn log_service(&self) -> Option<ShardId> {
        use Message::{Abort, Claim, Drop, Grant, Import, Set};
        match *self {
            Set { from, .. } | Grant { from, .. } | Import { from, .. } | Drop { from, .. } => Some(from.shard),
            Claim { from, .. } => Some(other(from.shard)),
            Abort { source, .. } => Some(source),
            _ => None,
        }
    }

    /// To which leader it goes, if it goes to one.
    pub fn leader(&self) -> Option<Process> {
        use Message::{Decided, Dropped, FailoverGranted, Granted, Intended, Ready, Ship, Stored};
        match *self {
            Stored { to, .. }
            | Granted { to, .. }
            | Intended { to, .. }
            | Dropped { to, .. }
            | Decided { to, .. }
            | Ship { to, .. }
            | Ready { to, .. }
            | FailoverGranted { to, .. } => Some(to),
            _ => None,
        }
    }
}
