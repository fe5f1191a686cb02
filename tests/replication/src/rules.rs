//! The rules of disks that the self-check takes out. Those of a copy are its own.

/// A rule that a disk keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskRule {
    /// What was reported as persisted survives a crash.
    KeepsWhatIsSynced,
    /// Entries in the place of others drop all after those.
    DropsReplacedTail,
    /// Only the entries that are replaced are dropped.
    TruncatesNothingElse,
    /// A copy that begins anew keeps its vote.
    KeepsVoteAtInstall,
    /// Nothing above the checkpoint on the medium is trimmed.
    TrimsBelowCheckpoint,
    /// A service that has lost its disk does not come back under its old id.
    HasAnIdOfItsOwn,
}
