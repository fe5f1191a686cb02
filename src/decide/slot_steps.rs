//! What a leader asks of the log while slots move from one shard of a cluster to another, and what the log answers. Each shard's log keeps a
//! record of its slots; that of the source decides. See docs/design/slot-migration.md.

use durability_protocol::SlotRanges;

/// One question. `job` is the name of the migration, 40 hexadecimal digits that the source's server has drawn at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotStep {
    /// By the source's leader: that shard may claim these slots from now on.
    Grant {
        /// The migration.
        job: String,
        /// What moves.
        slots: SlotRanges,
        /// The shard that may claim them.
        target: String,
    },
    /// By the source's leader: unless they are claimed by now, they never will be.
    Abort {
        /// The migration.
        job: String,
        /// What was granted.
        slots: SlotRanges,
    },
    /// By the target's leader, whose log holds all keys in these slots: it is about to claim them.
    Intend {
        /// The migration.
        job: String,
        /// What moves.
        slots: SlotRanges,
        /// The shard that has them.
        source: String,
    },
    /// By the target's leader: they are the target's from now on.
    Claim {
        /// The migration.
        job: String,
        /// The shard that has granted them.
        source: String,
    },
    /// By the target's leader: that became of what it intended.
    Settle {
        /// The migration.
        job: String,
        /// What became of it.
        outcome: Outcome,
    },
    /// By the target's leader: its log knows that they are its own, so that the source's need not keep to whom it gave them.
    Forget {
        /// The migration.
        job: String,
        /// The shard that had them.
        source: String,
    },
}

impl SlotStep {
    /// The migration that it belongs to.
    pub fn job(&self) -> &str {
        match self {
            SlotStep::Grant { job, .. }
            | SlotStep::Abort { job, .. }
            | SlotStep::Intend { job, .. }
            | SlotStep::Claim { job, .. }
            | SlotStep::Settle { job, .. }
            | SlotStep::Forget { job, .. } => job,
        }
    }

    /// Whether the source's leader asks it, not the target's.
    pub fn is_the_sources(&self) -> bool {
        matches!(self, SlotStep::Grant { .. } | SlotStep::Abort { .. })
    }
}

/// What became of the target's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The slots are the target's, which will claim them from the cluster under that config epoch.
    Taken {
        /// Greater than every one that the source may have.
        config_epoch: u64,
    },
    /// They stay the source's.
    Void,
}

/// What the log answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotAnswer {
    /// It is stored.
    Done,
    /// To [`SlotStep::Abort`]: nobody has claimed the slots, and nobody will.
    Aborted,
    /// To [`SlotStep::Abort`]: the target has claimed them.
    Claimed,
    /// To [`SlotStep::Claim`]: they are the target's. The source's config epoch is that, as far as its log knows.
    Granted {
        /// The source's.
        config_epoch: u64,
    },
}

/// Why a step is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// It is refused, and was not done.
    Refused(String),
    /// Whether it was done is not known.
    Unknown(String),
}
