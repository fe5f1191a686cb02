//! `logservice backups`: what services have kept with `--keep`, and named backups.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::archive_point::{archive_of, named};
use super::restore::{make, of_archive, written_time, Made, RestoreError};
use crate::archive::{covered_from, logs, Archive, NamedBackup, PieceName, SnapshotName};
use crate::base::file_error::InFile;
use crate::encryption::KeyRing;
use crate::engine::EngineFlags;
use crate::snapshots::SnapshotStore;

/// What was kept in an object store.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BackupsFlags {
    /// What to do instead of listing
    #[command(subcommand)]
    pub action: Option<BackupsAction>,
    /// Where the service keeps its snapshots, as given to it
    #[arg(long, value_name = "URL", required = true)]
    pub snapshots: Option<String>,
    /// Only this shard
    #[arg(long)]
    pub shard: Option<String>,
}

/// What is done with one named backup.
#[derive(Debug, Clone, Subcommand)]
pub enum BackupsAction {
    /// Copy a named backup to another place, from where it can be restored as well. It stays encrypted as it is
    Export {
        /// Which one
        #[command(flatten)]
        of: Which,
        /// Where to: file:///directory or s3://bucket/prefix
        #[arg(long, value_name = "URL")]
        into: String,
    },
    /// Load a named backup into a valkey-server, and compare that with what was recorded when it was made
    Verify {
        /// Which one
        #[command(flatten)]
        of: Which,
        /// File of the keys with which it is encrypted, as given to the service
        #[arg(long, value_name = "FILE")]
        encrypt_key_file: Option<PathBuf>,
        /// How engines are started
        #[command(flatten)]
        engine: EngineFlags,
    },
}

/// A named backup.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Where it is kept
    #[arg(long, value_name = "URL")]
    pub snapshots: String,
    /// The shard
    #[arg(long)]
    pub shard: String,
    /// Its name
    #[arg(long, value_name = "NAME")]
    pub backup: String,
    /// The log's id, if several logs of that name were kept
    #[arg(long, value_name = "ID")]
    pub log_id: Option<String>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum BackupsError {
    /// What is kept cannot be read.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It is not what was recorded.
    #[error("backup {name} of {log} is not what was recorded when it was made: it has {found}, and had {recorded}")]
    Differs {
        /// The backup.
        name: String,
        /// `SHARD-ID`.
        log: String,
        /// What it holds.
        found: String,
        /// What it held.
        recorded: String,
    },
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// Does what is asked for, and says so to `out`.
///
/// # Errors
/// It was not done; the text says why.
pub async fn run(flags: &BackupsFlags, out: &mut impl Write) -> Result<(), BackupsError> {
    match &flags.action {
        None => list(flags.snapshots.as_deref().unwrap_or_default(), flags.shard.as_deref(), out).await,
        Some(BackupsAction::Export { of, into }) => export(of, into, out).await,
        Some(BackupsAction::Verify { of, encrypt_key_file, engine }) => {
            verify(of, encrypt_key_file.as_deref(), engine, out).await
        }
    }
}

fn open(url: &str, keys: Option<&Path>) -> Result<Arc<SnapshotStore>, RestoreError> {
    let keys = KeyRing::read(keys)?;
    Ok(Arc::new(SnapshotStore::open(Some(url), Path::new("."))?.encrypted_with(keys, None)))
}

async fn list(url: &str, shard: Option<&str>, out: &mut impl Write) -> Result<(), BackupsError> {
    let snapshots = open(url, None)?;
    let mut count = 0;
    for place in logs(&snapshots).await.map_err(RestoreError::from)? {
        let Some((of, id)) = place.rsplit_once('-').filter(|(of, _)| shard.is_none_or(|shard| shard == *of)) else {
            continue;
        };
        let archive = Archive::new(snapshots.clone(), place.clone());
        let kept = archive.snapshots().await.map_err(RestoreError::from)?;
        let pieces = archive.pieces(None).await.map_err(RestoreError::from)?;
        let backups = archive.backups().await.map_err(RestoreError::from)?;
        count += 1;
        writeln!(
            out,
            "shard {of}, log {id}: {} snapshots, {} pieces of log, {} named backups",
            kept.len(),
            pieces.len(),
            backups.len()
        )?;
        for stretch in stretches(&kept, &pieces) {
            writeln!(out, "  any moment from {}", stretch)?;
        }
        for NamedBackup { name, snapshot: SnapshotName { offset, time_ms, .. } } in &backups {
            writeln!(out, "  backup {name}: offset {offset}, made {}", written_time(*time_ms))?;
        }
    }
    writeln!(out, "{count} logs")?;
    Ok(())
}

/// The stretches of time, without a gap in any, to which a shard can be restored.
fn stretches(snapshots: &[SnapshotName], pieces: &[PieceName]) -> Vec<String> {
    let mut told = Vec::new();
    let mut reached = None;
    for SnapshotName { generation, offset, time_ms, number } in snapshots {
        if reached.is_some_and(|(of, end)| of == *generation && *offset <= end) {
            continue;
        }
        let end = covered_from(pieces, *generation, *offset);
        reached = Some((*generation, end));
        let is_within =
            |piece: &&PieceName| piece.generation == *generation && piece.start >= *offset && piece.end <= end;
        let last_ms = pieces.iter().filter(is_within).map(|piece| piece.last_ms).max().unwrap_or(*time_ms);
        let since = match number {
            Some(_) => format!("{} (offset {offset})", written_time(*time_ms)),
            None => format!("the beginning (offset {offset})"),
        };
        told.push(format!("{since} to {} (offset {end})", written_time(last_ms)));
    }
    told
}

async fn export(of: &Which, into: &str, out: &mut impl Write) -> Result<(), BackupsError> {
    let (from, to) = (open(&of.snapshots, None)?, open(into, None)?);
    let archive = archive_of(from.clone(), &of.shard, of.log_id.as_deref()).await?;
    let found = named(&archive, &of.backup).await?;
    let snapshot = found.base;
    let name = snapshot.name();
    if let (Some(record), Some(name)) = (&snapshot.record, name) {
        to.copy_from(&from, record).await.map_err(RestoreError::from)?;
        // Last: what is listed is there.
        let backup = NamedBackup { name: of.backup.clone(), snapshot: name };
        let copy = Archive::new(to, archive.place().to_owned());
        copy.put_backup(&backup, &snapshot).await.map_err(RestoreError::from)?;
        writeln!(out, "backup {} of {}: {} bytes copied to {into}", of.backup, archive.place(), record.bytes)?;
    }
    Ok(())
}

async fn verify(
    of: &Which,
    keys: Option<&Path>,
    engine: &EngineFlags,
    out: &mut impl Write,
) -> Result<(), BackupsError> {
    let archive = archive_of(open(&of.snapshots, keys)?, &of.shard, of.log_id.as_deref()).await?;
    let found = named(&archive, &of.backup).await?;
    let recorded = found.base.record.as_ref().and_then(|record| record.contents.clone());
    let source = of_archive(&archive, found).await?;
    let place = std::env::temp_dir();
    let directory = tempfile::Builder::new().prefix("backups-verify-").tempdir_in(&place);
    let directory = directory.in_file("cannot create a directory in", &place).map_err(RestoreError::from)?;
    let Made { offset, contents, .. } = make(source, engine, &directory.path().join("dump.rdb")).await?;
    let keys_of = |keys: &[(u32, u64)]| keys.iter().map(|(_, keys)| keys).sum::<u64>();
    let held = |digest: &str, keys: &[(u32, u64)]| format!("{} keys of digest {digest}", keys_of(keys));
    let found = held(&contents.digest, &contents.keys);
    let (name, log) = (of.backup.clone(), archive.place().to_owned());
    match recorded {
        Some(recorded) if (&recorded.digest, &recorded.keys) != (&contents.digest, &contents.keys) => {
            let recorded = held(&recorded.digest, &recorded.keys);
            Err(BackupsError::Differs { name, log, found, recorded })
        }
        Some(_) => Ok(writeln!(out, "backup {name} of {log}: sound, {found}, offset {offset}, as when it was made")?),
        None => Ok(writeln!(
            out,
            "backup {name} of {log}: sound, {found}, offset {offset}; what it held is not recorded, as a node has brought it"
        )?),
    }
}
