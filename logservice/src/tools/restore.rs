//! `logservice restore`: an RDB of a shard as it was, from a snapshot and the log after it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::look::{self, LogLook};
use crate::base::background::Priority;
use crate::base::file_error::{sync_directory, FileError, InFile};
use crate::encryption::{KeyFileError, KeyRing};
use crate::engine::{inspect_rdb, Engine, EngineError, EngineFlags, Start};
use crate::snapshots::{LocationError, SnapshotError, SnapshotStore};
use crate::store::{Manifest, OpenError, ReadError, SnapshotRecord};

/// An RDB of a shard as it was.
#[derive(Debug, Clone, Args)]
pub struct RestoreFlags {
    /// The directory, which may be served meanwhile
    pub dir: PathBuf,
    /// The shard
    #[arg(long)]
    pub shard: String,
    /// What to restore it to: an offset, or a time such as 2026-11-21T17:05:00Z or 2026-11-21T17:05:00.250Z
    #[arg(long, value_name = "TIME|OFFSET")]
    pub to: RestorePoint,
    /// The file to write, which must not exist
    #[arg(long)]
    pub out: PathBuf,
    /// Where snapshots are kept, as given to the service; in the directory by default
    #[arg(long, value_name = "URL")]
    pub snapshots: Option<String>,
    /// File of the keys with which it is encrypted, as given to the service. The RDB is not encrypted
    #[arg(long, value_name = "FILE")]
    pub encrypt_key_file: Option<PathBuf>,
    /// How engines are started
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// What a shard is restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePoint {
    /// Everything below that offset (exclusive).
    Offset(u64),
    /// Everything that was written until then, in milliseconds since 1970.
    TimeMs(u64),
}

impl FromStr for RestorePoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(RestorePoint::Offset).map_err(|_| "the offset is out of range".to_owned());
        }
        let time = humantime::parse_rfc3339_weak(text);
        let time = time.map_err(|error| format!("{error}; give an offset, or a UTC time as 2026-11-21T17:05:00Z"))?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| "the time is before 1970".to_owned())?;
        u64::try_from(since.as_millis()).map(RestorePoint::TimeMs).map_err(|_| "the time is out of range".to_owned())
    }
}

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestorePoint::Offset(offset) => write!(f, "offset {offset}"),
            RestorePoint::TimeMs(time_ms) => f.write_str(&written_time(*time_ms)),
        }
    }
}

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

/// What was made.
#[derive(Debug)]
pub struct Restored {
    shard: String,
    asked: RestorePoint,
    offset: u64,
    /// When the last of it was written; `None` if that is before the log that is kept.
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

/// Makes the RDB. The directory may be served meanwhile, and does not change.
///
/// # Errors
/// There is nothing that could be restored, or something failed; then there is no file.
pub async fn restore(flags: &RestoreFlags) -> Result<Restored, RestoreError> {
    let RestoreFlags { dir, shard, to, out, .. } = flags;
    if out.exists() {
        return Err(RestoreError::Exists(out.clone()));
    }
    let no_shard = || RestoreError::NoShard(shard.clone());
    let keys = KeyRing::read(flags.encrypt_key_file.as_deref())?;
    let look = look::open(dir, shard, &keys)?.filter(|look| look.end() > 0).ok_or_else(no_shard)?;
    let manifest = look.manifest();
    let snapshots = SnapshotStore::open(flags.snapshots.as_deref(), dir)?.encrypted_with(keys, None);
    let (end, time_ms) = end_at(&*look, *to)?;
    let base = base_for(manifest, end, *to, shard)?;

    // A directory of its own, as an engine that is killed while it saves leaves a file whose name only it knows.
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = tempfile::Builder::new().prefix("restore-").suffix(".partial").tempdir_in(parent);
    let directory = directory.in_file("cannot create a directory in", parent)?;
    let partial = directory.path().join("dump.rdb");
    let engine_options = flags.engine.options(Priority::Normal);
    let absolute = std::path::absolute(&partial).in_file("cannot use", &partial)?;
    let mut engine = Engine::start(&engine_options, &absolute, manifest.databases()).await?;
    let (offset, snapshot) = match &base {
        Some(record) => (record.offset, Some((snapshots.get(record).await?, record.bytes))),
        None => (manifest.base, None),
    };
    let log = if end > offset { Some(look.reader(offset)?) } else { None };
    // A replication id of its own, as a server that starts from this RDB does not share the shard's later history.
    let replid = manifest.id.repeat(3).chars().take(40).collect();
    let start = Start { replid, offset, snapshot, log, end, engine: manifest.engine() };
    let mut feed = engine.open_feed(start)?;
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

/// The end of the log at `point`, and when the last of it was written.
fn end_at(look: &dyn LogLook, point: RestorePoint) -> Result<(u64, Option<u64>), RestoreError> {
    match point {
        RestorePoint::Offset(offset) if offset > look.end() => {
            Err(RestoreError::Later { asked: point, end: look.end() })
        }
        RestorePoint::Offset(offset) => {
            let mut written = None;
            look.for_each_record(&mut |record| {
                let is_before = record.offset < offset;
                written = is_before.then_some(record.time_ms).or(written);
                is_before
            })?;
            Ok((offset, written))
        }
        RestorePoint::TimeMs(time_ms) => {
            let mut until = UntilTime::new(time_ms);
            // A snapshot holds what was written before it was made, even if no record of that is kept.
            let manifest = look.manifest();
            for snapshot in manifest.snapshots.iter().filter(|snapshot| snapshot.offset <= manifest.base) {
                until.skip_to(snapshot.offset, snapshot.time_ms);
            }
            look.for_each_record(&mut |record| {
                until.add(record.offset, record.offset + record.payload.len() as u64, record.time_ms);
                true
            })?;
            until.end(point)
        }
    }
}

/// Finds what was written until a time. Each record has the time of the service's clock. If that was set back, records with earlier times
/// follow records with later ones.
struct UntilTime {
    time_ms: u64,
    /// The end of the records before the first one that is later than the time.
    end: u64,
    /// When the last of these was written.
    written: Option<u64>,
    /// The latest record since `end`, if it is later than the time: where it begins, and when it was written.
    later: Option<(u64, u64)>,
    /// The last record that is within the time and follows a later one: its end, when it was written, and the latest record before it.
    again: Option<(u64, u64, (u64, u64))>,
}

impl UntilTime {
    /// Time services set clocks back by so much on their own.
    const CLOCK_STEP_MS: u64 = 1000;

    fn new(time_ms: u64) -> Self {
        UntilTime { time_ms, end: 0, written: None, later: None, again: None }
    }

    /// Everything below `offset` was written before `time_ms`, and no record of it is kept.
    fn skip_to(&mut self, offset: u64, time_ms: u64) {
        if time_ms <= self.time_ms {
            self.end = self.end.max(offset);
        }
    }

    /// The next record, from `offset` to `end` (exclusive).
    fn add(&mut self, offset: u64, end: u64, time_ms: u64) {
        if time_ms > self.time_ms {
            if self.later.is_none_or(|(_, latest_ms)| latest_ms < time_ms) {
                self.later = Some((offset, time_ms));
            }
        } else if let Some(later) = self.later {
            self.again = Some((end, time_ms, later));
        } else if end > self.end {
            (self.end, self.written) = (end, Some(time_ms));
        }
    }

    fn end(self, asked: RestorePoint) -> Result<(u64, Option<u64>), RestoreError> {
        let UntilTime { time_ms, end, written, again, .. } = self;
        match again {
            None => Ok((end, written)),
            Some((later_end, written, (_, latest_ms))) if latest_ms <= time_ms + Self::CLOCK_STEP_MS => {
                Ok((later_end, Some(written)))
            }
            Some((later_end, _, (later, latest_ms))) => {
                let later_time = written_time(latest_ms);
                Err(RestoreError::ClockSetBack { asked, without: end, later, later_time, with: later_end })
            }
        }
    }
}

/// The snapshot to start from; none is an empty data set.
fn base_for(
    manifest: &Manifest,
    end: u64,
    asked: RestorePoint,
    shard: &str,
) -> Result<Option<SnapshotRecord>, RestoreError> {
    let newest = manifest.snapshots.iter().rev().find(|record| record.offset <= end);
    let oldest = manifest.snapshots.first();
    if newest.is_some() || manifest.begins_empty() && end >= manifest.base {
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

    fn until(time_ms: u64, times: &[u64]) -> Result<(u64, Option<u64>), RestoreError> {
        let mut until = UntilTime::new(time_ms);
        for (number, time_ms) in times.iter().enumerate() {
            until.add(10 * number as u64, 10 * number as u64 + 10, *time_ms);
        }
        until.end(RestorePoint::TimeMs(time_ms))
    }

    #[test]
    fn a_restore_to_a_time_ends_before_the_first_later_record() {
        assert_eq!(until(300, &[100, 200, 300, 301, 400]).unwrap(), (30, Some(300)));
        assert_eq!(until(99, &[100, 200]).unwrap(), (0, None));
        assert_eq!(until(500, &[100, 200]).unwrap(), (20, Some(200)));
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_hides_nothing() {
        assert_eq!(until(5000, &[4000, 5900, 5000, 6500]).unwrap(), (30, Some(5000)));
    }

    #[test]
    fn a_clock_that_once_stood_in_the_future_is_told_with_both_offsets() {
        let text = until(5000, &[4000, 900_000, 900_500, 4500, 6000]).unwrap_err().to_string();
        assert!(text.contains("offset 20 says that it was written at 1970-01-01T00:15:00.500Z"), "{text}");
        assert!(text.contains("--to 10 leaves out both, --to 40 takes both"), "{text}");
        // Before and after that time there is no doubt.
        assert_eq!(until(950_000, &[4000, 900_000, 4500, 6000]).unwrap(), (40, Some(6000)));
        assert_eq!(until(3000, &[2000, 900_000, 4500, 6000]).unwrap(), (10, Some(2000)));
    }

    #[test]
    fn a_snapshot_holds_what_was_written_before_the_log_that_is_kept() {
        let mut until = UntilTime::new(300);
        until.skip_to(100, 250);
        assert_eq!(until.end(RestorePoint::TimeMs(300)).unwrap(), (100, None));
    }

    #[test]
    fn a_restore_point_is_an_offset_or_a_time() {
        assert_eq!("12345".parse(), Ok(RestorePoint::Offset(12345)));
        assert_eq!("1970-01-01T00:00:01.250Z".parse(), Ok(RestorePoint::TimeMs(1250)));
        assert_eq!("1970-01-01 00:00:01".parse(), Ok(RestorePoint::TimeMs(1000)));
        for bad in ["yesterday", "99999999999999999999", "-5", "2026-13-01T00:00:00Z"] {
            assert!(bad.parse::<RestorePoint>().is_err(), "{bad:?}");
        }
        assert_eq!(RestorePoint::TimeMs(1250).to_string(), "1970-01-01T00:00:01.250Z");
    }
}
