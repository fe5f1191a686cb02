//! `logservice restore`: an RDB of a shard as it was, from a snapshot and the log after it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::archive_point;
use super::look::{self, LogLook};
pub use super::restore_error::RestoreError;
use super::until_time::UntilTime;
use crate::archive::Archive;
use crate::base::background::Priority;
use crate::base::file_error::{sync_directory, InFile};
use crate::encryption::KeyRing;
use crate::engine::{inspect_rdb, Engine, EngineFlags, OpenImport, Start};
use crate::snapshots::SnapshotStore;
use crate::store::{Contents, Manifest, SnapshotRecord};

/// An RDB of a shard as it was.
#[derive(Debug, Clone, Args)]
pub struct RestoreFlags {
    /// The directory, which may be served meanwhile. Without it, or where it does not go back far enough, what the service has kept with
    /// --keep is restored
    #[arg(required_unless_present = "snapshots")]
    pub dir: Option<PathBuf>,
    /// The shard
    #[arg(long)]
    pub shard: String,
    /// What to restore it to: an offset, or a time such as 2026-11-21T17:05:00Z or 2026-11-21T17:05:00.250Z
    #[arg(long, value_name = "TIME|OFFSET", required_unless_present = "backup")]
    pub to: Option<RestorePoint>,
    /// Restore it to the backup of that name instead, which LOG.BACKUP has made
    #[arg(long, value_name = "NAME", conflicts_with = "to", requires = "snapshots")]
    pub backup: Option<String>,
    /// The log's id, if several logs of that name were kept with --keep: the shard was dropped and made again
    #[arg(long, value_name = "ID", requires = "snapshots")]
    pub log_id: Option<String>,
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

/// What was made.
#[derive(Debug)]
pub struct Restored {
    shard: String,
    asked: RestorePoint,
    offset: u64,
    /// When the last of it was written; `None` if that is before the log that is kept.
    time_ms: Option<u64>,
    keys: u64,
    /// The imports of slots that are open there.
    imports: Vec<OpenImport>,
    out: PathBuf,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Restored { shard, asked, offset, time_ms, keys, imports, out } = self;
        write!(f, "shard {shard} as it was at {asked}: {keys} keys, everything up to offset {offset}")?;
        if let Some(time_ms) = time_ms {
            write!(f, ", written until {}", written_time(*time_ms))?;
        }
        write!(f, ", in {}", out.display())?;
        let Some(first) = imports.iter().map(|import| import.since).min() else { return Ok(()) };
        write!(f, "\nIt holds a part of keys that were being imported from another shard, whose they still are:")?;
        for import in imports {
            write!(f, "\n- {import}")?;
        }
        write!(f, "\nA node of a cluster that leads with other slots deletes them. --to {first} leaves them out, with all that was written since")
    }
}

/// What is restored.
pub(super) struct Source {
    /// What an engine starts from, and what it applies.
    pub start: Start,
    /// How many databases it needs, if that is known.
    pub databases: Option<u32>,
    /// When the last of it was written, if that is known.
    pub time_ms: Option<u64>,
}

/// Makes the RDB. The directory may be served meanwhile, and does not change.
///
/// # Errors
/// There is nothing that could be restored, or something failed; then there is no file.
pub async fn restore(flags: &RestoreFlags) -> Result<Restored, RestoreError> {
    let out = &flags.out;
    if out.exists() {
        return Err(RestoreError::Exists(out.clone()));
    }
    let (source, asked) = source(flags).await?;
    let time_ms = source.time_ms;
    // A directory of its own, as an engine that is killed while it saves leaves a file whose name only it knows.
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = tempfile::Builder::new().prefix("restore-").suffix(".partial").tempdir_in(parent);
    let directory = directory.in_file("cannot create a directory in", parent)?;
    let partial = directory.path().join("dump.rdb");
    let Made { offset, contents, imports } = make(source, &flags.engine, &partial).await?;
    std::fs::rename(&partial, out).in_file("cannot rename the RDB to", out)?;
    sync_directory(parent)?;
    let keys = contents.keys.iter().map(|(_, keys)| keys).sum();
    Ok(Restored { shard: flags.shard.clone(), asked, offset, time_ms, keys, imports, out: out.clone() })
}

/// What an engine has saved.
pub(super) struct Made {
    /// The end of what was applied.
    pub offset: u64,
    /// What it holds.
    pub contents: Contents,
    /// The imports of slots that are open there.
    pub imports: Vec<OpenImport>,
}

/// Has an engine load and apply what is restored, save it to `partial`, and verify that.
pub(super) async fn make(source: Source, flags: &EngineFlags, partial: &Path) -> Result<Made, RestoreError> {
    let engine_options = flags.options(Priority::Normal);
    let absolute = std::path::absolute(partial).in_file("cannot use", partial)?;
    let mut engine = Engine::start(&engine_options, &absolute, source.databases).await?;
    let mut feed = engine.open_feed(source.start)?;
    let offset = engine.apply(&mut feed).await?;
    let imports = feed.open_imports(offset);
    engine.save().await?;
    let contents = engine.contents().await?;
    engine.stop().await;
    inspect_rdb(&engine_options, partial).await?;
    Ok(Made { offset, contents, imports })
}

/// What is restored, and what was asked for: from the directory if that goes back far enough, otherwise from what was kept beside it.
async fn source(flags: &RestoreFlags) -> Result<(Source, RestorePoint), RestoreError> {
    let RestoreFlags { shard, snapshots: url, .. } = flags;
    let keys = KeyRing::read(flags.encrypt_key_file.as_deref())?;
    let directory = flags.dir.as_deref().unwrap_or(Path::new("."));
    let snapshots = SnapshotStore::open(url.as_deref(), directory)?.encrypted_with(keys.clone(), None);
    let snapshots = Arc::new(snapshots);
    let no_shard = || RestoreError::NoShard(shard.clone());
    let (mut log_id, mut earlier) = (flags.log_id.clone(), None);
    if let (Some(asked), Some(dir)) = (flags.to, &flags.dir) {
        let look = look::open(dir, shard, &keys)?.filter(|look| look.end() > 0);
        match look {
            None if url.is_none() => return Err(no_shard()),
            Some(look) if log_id.as_ref().is_none_or(|log_id| *log_id == look.manifest().id) => {
                match of_directory(&*look, asked, shard, &snapshots).await {
                    Err(error @ RestoreError::Earlier { .. }) if url.is_some() => {
                        (log_id, earlier) = (Some(look.manifest().id.clone()), Some(error));
                    }
                    found => return found.map(|source| (source, asked)),
                }
            }
            _ => {}
        }
    }
    let archive = archive_point::archive_of(snapshots.clone(), shard, log_id.as_deref()).await;
    let archive = match (archive, earlier) {
        // Where nothing was kept by time, the directory is all there is.
        (Err(RestoreError::NoArchive { .. }), Some(earlier)) => return Err(earlier),
        (archive, _) => archive?,
    };
    let found = match (&flags.backup, flags.to) {
        (Some(name), _) => archive_point::named(&archive, name).await?,
        (None, Some(asked)) => archive_point::find(&archive, asked).await?,
        (None, None) => return Err(no_shard()),
    };
    let asked = flags.to.unwrap_or(RestorePoint::Offset(found.end));
    Ok((of_archive(&archive, found).await?, asked))
}

/// What an archive holds of a shard.
pub(super) async fn of_archive(archive: &Archive, found: archive_point::Found) -> Result<Source, RestoreError> {
    let snapshot = match &found.base.record {
        Some(record) => Some((archive.snapshot_store().get(record).await?, record.bytes)),
        None => None,
    };
    let start = Start { snapshot, ..found.start(archive) };
    Ok(Source { start, databases: found.base.databases, time_ms: found.time_ms })
}

async fn of_directory(
    look: &dyn LogLook,
    asked: RestorePoint,
    shard: &str,
    snapshots: &SnapshotStore,
) -> Result<Source, RestoreError> {
    let manifest = look.manifest();
    let (end, time_ms) = end_at(look, asked)?;
    let base = base_for(manifest, end, asked, shard)?;
    let (offset, snapshot) = match &base {
        Some(record) => (record.offset, Some((snapshots.get(record).await?, record.bytes))),
        None => (manifest.base, None),
    };
    let log = if end > offset { Some(look.reader(offset)?) } else { None };
    let (replid, engine) = (archive_point::replid(&manifest.id), manifest.engine());
    let start = Start { replid, offset, snapshot, log, end, engine, epochs: manifest.epoch_starts() };
    Ok(Source { start, databases: manifest.databases(), time_ms })
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

/// A time as people write it.
pub(super) fn written_time(time_ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(time_ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

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
