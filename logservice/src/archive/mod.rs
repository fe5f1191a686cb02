//! The archive of a log: pieces of the log and records of snapshots in the place for snapshots, kept for a time (`--keep`) after the log
//! itself needs them no more, so that a shard can be restored to any moment of that time, also when nothing else is left.
//!
//! Below the place for snapshots, for each log:
//!
//! | object | |
//! |---|---|
//! | `archive/SHARD-ID/log/GENERATION-START-END-FIRST-LAST.log` | a piece: records of the log from one offset to another (exclusive), with the earliest and the latest time of them |
//! | `archive/SHARD-ID/snapshots/GENERATION-OFFSET-TIME-NUMBER.json` | a snapshot that counts; its RDB lies where the service has stored it |
//! | `archive/SHARD-ID/backups/NAME/…json` | the same, under a name, and not removed by age |
//!
//! What is in the archive is never changed. Whoever writes an object a second time writes the same log, as only what is committed is
//! archived, so it does not matter who has written it, or whether two services have.
//!
//! Read `names.rs` first. `piece.rs` has the bytes of a piece, `objects.rs` stores and reads, `reader.rs` reads the log on through pieces,
//! `coverage.rs` tells how far pieces reach, `retention.rs` decides what is not needed any more, and `state.rs` is what a shard knows of its
//! archive. The [archiver](crate::archiver) does the work.

mod coverage;
mod names;
mod objects;
mod piece;
mod reader;
mod retention;
mod state;

pub use coverage::covered_from;
pub use names::{PieceName, SnapshotName};
pub use objects::{logs, Archive, ArchiveError, ArchivedSnapshot, NamedBackup};
pub use piece::{Piece, PieceBuilder, PieceError};
pub use reader::PieceReader;
pub use retention::needed_from;
pub use state::{ArchiveStatus, ArchiveWatch};

use std::time::Duration;

/// How an archive is kept.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions {
    /// How long what is archived is kept.
    pub keep: Duration,
    /// The most bytes of log that are kept on disk only because they are not archived yet.
    pub max_unarchived_bytes: u64,
}
