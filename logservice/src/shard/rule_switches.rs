//! The rules of a shard that a test can take out, one at a time, to show that it notices. Only a build with the feature `broken-rules`
//! can; in any other, [`holds`] is a constant.

use crate::base::rule_switches::rule_switches;

/// A rule that keeps what is acknowledged, or the lease, safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// An append of an epoch that is over is refused.
    FencesAppends,
    /// A renewal of an epoch that is over is refused.
    FencesRenewals,
    /// An append below the end is acknowledged only if the log has the same bytes there.
    ComparesOverlaps,
    /// An append is acknowledged when the store says that it is durable.
    AcknowledgesWhatIsDurable,
    /// An append that was refused for want of space is not acknowledged when other bytes stand in its place.
    CountsRefusals,
    /// A change of leadership is answered when it is stored.
    AnswersWhatIsStored,
    /// A change that is being stored keeps the renewals that were answered meanwhile.
    KeepsRenewals,
    /// No lease is renewed when a restart may find another leader.
    DoubtsUnknownOutcomes,
    /// A renewal that arrives after one that was sent later is refused.
    OrdersRenewals,
    /// A lease that has not passed is granted to nobody else.
    WaitsForLease,
    /// A lease is kept from others for longer than its leader counts it.
    AddsMargin,
    /// After a restart the lease counts anew.
    CountsAnewAfterRestart,
    /// A leader is granted the lease when what the one before had in flight is durable.
    DrainsBeforeGrant,
    /// While the lease is being granted, the leader before can append no more.
    ClosesBeforeGrant,
    /// A leader holds all of the log.
    ChecksHeld,
    /// The lease that an operator takes is free when its leader answers nobody any more.
    WaitsForResignation,
    /// A snapshot of a log that was begun anew meanwhile, or of an older place, does not count.
    RecordsOnlyNewest,
    /// Log that somebody still reads is kept.
    KeepsPinned,
    /// Log is dropped only below the oldest snapshot.
    TrimsBelowSnapshots,
    /// A replica goes on only if what it holds is the log's.
    ChecksHistory,
    /// A snapshot that is recorded is not removed.
    KeepsRecordedSnapshots,
    /// While a log is replaced by a seed, nothing is appended to it.
    PausesForSeed,
    /// Slots of an epoch that is over are refused.
    FencesSlots,
    /// Slots that arrive after some that were sent later are refused.
    OrdersSlots,
    /// A config epoch that is lower than the one that is stored is refused.
    RaisesConfigEpochs,
    /// Slots are claimed only while the epoch leads that has granted them.
    ClaimsInEpoch,
    /// A job that was aborted or is settled is granted and imported no more.
    EndsJobs,
    /// Slots that another shard has claimed are not set any more.
    KeepsGiven,
}

rule_switches!();
