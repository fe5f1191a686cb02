//! `logservice restore`: an RDB of a shard as it was, from a snapshot and the log after it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use durability_protocol::is_valid_name;

use crate::config::Restore;
use crate::engine::{inspect_rdb, Engine, EngineError, EngineOptions, Feed, Start};
use crate::snapshots::{LocationError, SnapshotError, SnapshotStore};
use crate::store::file_store::files::sync_directory;
use crate::store::file_store::look::Look;
use crate::store::{FileError, InFile, Manifest, OpenError, ReadError, SnapshotRecord};

/// A moment in the life of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// When everything below that offset (exclusive) was written.
    Offset(u64),
    /// That many milliseconds after 1970.
    TimeMs(u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Moment::Offset).map_err(|_| "the offset is out of range".to_owned());
        }
        let time = humantime::parse_rfc3339_weak(text);
        let time = time.map_err(|error| format!("{error}; give an offset, or a UTC time as 2026-11-21T17:05:00Z"))?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| "the time is before 1970".to_owned())?;
        u64::try_from(since.as_millis()).map(Moment::TimeMs).map_err(|_| "the time is out of range".to_owned())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Offset(offset) => write!(f, "offset {offset}"),
            Moment::TimeMs(time_ms) => f.write_str(&written_time(*time_ms)),
        }
    }
}

/// Why no RDB was made.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is no such shard.
    #[error("there is no shard {0} with anything in it")]
    NoShard(String),
    /// The file is there already.
    #[error("{} exists already; name another --out", .0.display())]
    Exists(PathBuf),
    /// The log ends before it.
    #[error("{asked} is after the end of the log, which is offset {end}")]
    Later {
        /// What was asked for.
        asked: Moment,
        /// The log's end.
        end: u64,
    },
    /// The log begins after it.
    #[error(
        "{asked} is before what is kept: shard {shard} goes back to offset {base}{since}; --keep-snapshots keeps more"
    )]
    Earlier {
        /// What was asked for.
        asked: Moment,
        /// The shard.
        shard: String,
        /// The earliest offset that can be restored.
        base: u64,
        /// When that was.
        since: String,
    },
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

/// What was made.
#[derive(Debug)]
pub struct Restored {
    shard: String,
    asked: Moment,
    offset: u64,
    /// When the last of it was written; none if that is before the log that is kept.
    time_ms: Option<u64>,
    keys: u64,
    out: PathBuf,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Restored { shard, asked, offset, time_ms, keys, out } = self;
        write!(f, "shard {shard} as it was at {asked}: {keys} keys, everything up to offset {offset}")?;
        if let Some(time_ms) = time_ms {
            write!(f, ", written until {}", written_time(*time_ms))?;
        }
        write!(f, ", in {}", out.display())
    }
}

/// Makes the RDB. The directory may be served meanwhile, and is not changed.
///
/// # Errors
/// Nothing that could be restored is there, or something failed; then there is no file.
pub async fn restore(options: &Restore) -> Result<Restored, RestoreError> {
    let Restore { dir, shard, to, out, .. } = options;
    if out.exists() {
        return Err(RestoreError::Exists(out.clone()));
    }
    let no_shard = || RestoreError::NoShard(shard.clone());
    let directory = dir.join("shards").join(shard);
    if !is_valid_name(shard) || !directory.is_dir() {
        return Err(no_shard());
    }
    let look = Look::open(&directory, shard)?.filter(|look| look.end > 0).ok_or_else(no_shard)?;
    let snapshots = SnapshotStore::open(options.snapshots.as_deref(), dir)?;
    let (end, time_ms) = end_at(&look, *to)?;
    let base = base_for(&look.manifest, end, *to, shard)?;

    // A directory of its own: an engine that is killed while it saves leaves a file whose name only it knows.
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = tempfile::Builder::new().prefix("restore-").suffix(".partial").tempdir_in(parent);
    let directory = directory.in_file("cannot create a directory in", parent)?;
    let partial = directory.path().join("dump.rdb");
    let engine_options = EngineOptions {
        program: options.valkey_server.clone(),
        config: options.valkey_conf.clone(),
        is_background: false,
    };
    let absolute = std::path::absolute(&partial).in_file("cannot use", &partial)?;
    let mut engine = Engine::start(&engine_options, &absolute).await?;
    let (offset, snapshot) = match &base {
        Some(record) => (record.offset, Some((snapshots.get(record).await?, record.bytes))),
        None => (look.manifest.base, None),
    };
    let log = if end > offset { Some(look.reader(offset)?) } else { None };
    // A replication id of its own: nobody who starts from this RDB shares the shard's later history.
    let replid = look.manifest.id.repeat(3).chars().take(40).collect();
    let start = Start { replid, offset, snapshot, log, end, engine: look.manifest.engine() };
    let mut feed = Feed::open(start, false).map_err(EngineError::from)?;
    let applied = engine.apply(&mut feed).await?;
    engine.save().await?;
    let contents = engine.contents().await?;
    engine.stop().await;
    inspect_rdb(&engine_options, &partial).await?;
    std::fs::rename(&partial, out).in_file("cannot rename the RDB to", out)?;
    sync_directory(parent)?;
    let keys = contents.keys.iter().map(|(_, keys)| keys).sum();
    Ok(Restored { shard: shard.clone(), asked: *to, offset: applied, time_ms, keys, out: out.clone() })
}

/// The end of the log at a moment, and when the last of it was written.
fn end_at(look: &Look, moment: Moment) -> Result<(u64, Option<u64>), RestoreError> {
    let begins = |record: &&SnapshotRecord| matches!(moment, Moment::TimeMs(time_ms) if record.time_ms <= time_ms);
    // A snapshot holds what was written before it was made, also if no record of that is kept.
    let mut end = look.manifest.snapshots.iter().rev().find(begins).map_or(0, |record| record.offset);
    let mut written = None;
    let mut is_past = false;
    look.for_each_record(|record| {
        let record_end = record.offset + record.payload.len() as u64;
        is_past = match moment {
            Moment::Offset(offset) => record.offset >= offset,
            Moment::TimeMs(time_ms) => record.time_ms > time_ms,
        };
        if !is_past {
            (end, written) = (end.max(record_end), Some(record.time_ms));
        }
        !is_past
    })?;
    match moment {
        Moment::Offset(offset) if offset > look.end => Err(RestoreError::Later { asked: moment, end: look.end }),
        Moment::Offset(offset) => Ok((offset, written)),
        Moment::TimeMs(_) => Ok((end, written)),
    }
}

/// The snapshot to start from; none is an empty data set.
fn base_for(manifest: &Manifest, end: u64, asked: Moment, shard: &str) -> Result<Option<SnapshotRecord>, RestoreError> {
    let newest = manifest.snapshots.iter().rev().find(|record| record.offset <= end);
    let oldest = manifest.snapshots.first();
    // A log that goes back to before its first snapshot began without data.
    let begins_empty = oldest.is_none_or(|record| record.offset > manifest.base);
    if newest.is_some() || begins_empty && end >= manifest.base {
        return Ok(newest.cloned());
    }
    let base = oldest.map_or(manifest.base, |record| record.offset);
    let since = oldest.map_or_else(String::new, |record| format!(" (kept since {})", written_time(record.time_ms)));
    Err(RestoreError::Earlier { asked, shard: shard.to_owned(), base, since })
}

fn written_time(time_ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(time_ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_offset_or_a_time() {
        assert_eq!("12345".parse(), Ok(Moment::Offset(12345)));
        assert_eq!("1970-01-01T00:00:01.250Z".parse(), Ok(Moment::TimeMs(1250)));
        assert_eq!("1970-01-01 00:00:01".parse(), Ok(Moment::TimeMs(1000)));
        for bad in ["yesterday", "99999999999999999999", "-5", "2026-13-01T00:00:00Z"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad:?}");
        }
        assert_eq!(Moment::TimeMs(1250).to_string(), "1970-01-01T00:00:01.250Z");
    }
}
