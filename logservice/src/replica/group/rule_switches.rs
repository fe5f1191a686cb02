//! The rules of a copy that a test can take out, one at a time, to show that it notices. Only a build with the feature `broken-rules` can;
//! in any other, [`holds`] is a constant.

use crate::base::rule_switches::rule_switches;

/// A rule that keeps the copies equal, or what was acknowledged safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A message leaves when what it tells is persisted.
    HoldsMessages,
    /// An answer that need not wait for the disk leaves when the term that it tells is persisted.
    TellsPersistedTerm,
    /// A vote is stored.
    StoresVote,
    /// What is handed to the disk counts when the disk has said that it is persisted.
    AwaitsDisk,
    /// An append is acknowledged when it is committed.
    AcknowledgesCommitted,
    /// A copy leads when it has applied an entry of its own term.
    AppliesBeforeLeading,
    /// A question is answered when a quorum has confirmed that this copy leads.
    ConfirmsByRound,
    /// An append that is not at the log's end is not taken.
    AdmitsAtEnd,
    /// An append of an epoch that is over is not taken.
    AdmitsEpoch,
    /// A state that does not follow the one that stands is not taken.
    AdmitsNextRevision,
    /// Neither an append at another place nor one of another epoch is taken, and a copy that is asked to apply one stops.
    AppliesWhatContinues,
    /// Of a change that is proposed, a leader that leads no more does not know what comes.
    DoubtsProposals,
    /// Nothing happens to a copy while a base is being installed.
    WaitsForInstall,
    /// A base that was sent and is not answered is sent again.
    GivesUpInstalls,
    /// A state that comes with a base says which entries it takes in.
    TellsStateIndex,
    /// Entries that lead up to a newer state do not replace it.
    KeepsNewerState,
    /// What was read for another member counts no more when entries are replaced.
    ForgetsFetched,
    /// A copy that has lost what it acknowledged votes again when it has entries of a later term.
    WaitsForLaterTerm,
    /// Entries stay in memory until the disk has them.
    CachesUnpersisted,
    /// A copy that has applied its own removal stops.
    StopsWhenRemoved,
    /// A change of the members is done when each has it on its disk.
    SpreadsMembers,
    /// Who is no member any more is taken out of the quorums.
    TakesOutMembers,
    /// A base comes with the members that there were after it, and with its receiver.
    TellsMembersOfBase,
}

rule_switches!();
