//! Why a restore makes nothing, and what to do.

use std::path::PathBuf;

use super::restore::RestorePoint;
use crate::archive::ArchiveError;
use crate::base::file_error::FileError;
use crate::encryption::KeyFileError;
use crate::engine::EngineError;
use crate::snapshots::{LocationError, SnapshotError};
use crate::store::{OpenError, ReadError};

/// Why no RDB was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no such shard.
    #[error("there is no shard {0} with anything in it")]
    NoShard(String),
    /// The file exists already.
    #[error("{} exists already; name another --out", .0.display())]
    Exists(PathBuf),
    /// The log ends before the restore point.
    #[error("{asked} is after the end of the log, which is offset {end}")]
    Later {
        /// What was asked for.
        asked: RestorePoint,
        /// The log's end.
        end: u64,
    },
    /// What is kept begins after the restore point.
    #[error(
        "{asked} is before what is kept: shard {shard} goes back to offset {base}{since}; --keep-snapshots keeps more"
    )]
    Earlier {
        /// What was asked for.
        asked: RestorePoint,
        /// The shard.
        shard: String,
        /// The earliest offset that can be restored.
        base: u64,
        /// When that was.
        since: String,
    },
    /// Nothing of the shard was kept.
    #[error(
        "nothing of shard {shard} was kept there: is this the --snapshots of the service, and did it serve with --keep? \
         logservice backups --snapshots URL lists what there is"
    )]
    NoArchive {
        /// The shard.
        shard: String,
    },
    /// Several logs had the name.
    #[error("several logs of shard {shard} were kept: give one of these to --log-id: {ids}")]
    SeveralLogs {
        /// The shard.
        shard: String,
        /// Their ids.
        ids: String,
    },
    /// There is no such backup.
    #[error("{log} has no backup named {name}; logservice backups --snapshots URL lists those that there are")]
    NoBackup {
        /// The name.
        name: String,
        /// `SHARD-ID`.
        log: String,
    },
    /// No snapshot was kept.
    #[error("no snapshot of {log} was kept")]
    EmptyArchive {
        /// `SHARD-ID`.
        log: String,
    },
    /// What was kept begins after the restore point.
    #[error(
        "{asked} is before what was kept: {log} goes back to offset {offset}, {since}; a longer --keep keeps more"
    )]
    BeforeArchive {
        /// What was asked for.
        asked: RestorePoint,
        /// `SHARD-ID`.
        log: String,
        /// The earliest offset that can be restored.
        offset: u64,
        /// When that was.
        since: String,
    },
    /// Log is missing where the restore point is.
    #[error(
        "log from offset {from} to {until} was not kept, so {asked} cannot be restored: nothing between that and {until_time} can. \
         --to {from} is the last moment before, --to {until} the first after"
    )]
    Gap {
        /// What was asked for.
        asked: RestorePoint,
        /// Where it begins.
        from: u64,
        /// Where it ends (exclusive): a snapshot stands there.
        until: u64,
        /// When that was recorded.
        until_time: String,
    },
    /// What was kept cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The times in the log do not tell what was written until then.
    #[error(
        "the log service's clock was set back while this log was written: what begins at offset {later} says that it was written \
         at {later_time}, after {asked}, and what follows says that it was written before. Give an offset instead: --to {without} \
         leaves out both, --to {with} takes both"
    )]
    ClockSetBack {
        /// What was asked for.
        asked: RestorePoint,
        /// The end of what was certainly written until then (exclusive).
        without: u64,
        /// Where the record with the latest time begins.
        later: u64,
        /// That time.
        later_time: String,
        /// The end of the last record whose time is not after the restore point (exclusive).
        with: u64,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The log cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The place for snapshots cannot be used.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The snapshot cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
