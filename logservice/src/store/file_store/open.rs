//! Opens a shard's directory: verifies what it needs to go on, cuts a torn tail, refuses damage.
//!
//! Three things are verified before a shard is served: the manifest; the header of each segment (it is the one its name says, of this
//! shard and generation, and can follow the one before it); and all records of the last segment, which show where the log ends. The
//! records of the other segments are verified afterwards (`verify.rs`), or at once when a directory is only inspected.
//!
//! The writer never begins a record before the one before it was synced, and acknowledges none before its sync. So a crash can tear one
//! record at most, the last one, which was not acknowledged: cutting it loses nothing. Anything else that is not sound (a bad record
//! with a later one behind it, a bad record in a segment that another follows, a log that ends before a position where a leader began)
//! was durable once and is damage that no crash explains: the shard is not served. A bad record at the very end that *had* been synced
//! cannot be told from a torn one; that would take a second copy. The last sound record may not have been synced either, so it is
//! written again before it is reported as durable.
//!
//! If the last segment holds no sound record, the log ends where its header says. The record before was synced then, as a segment is
//! begun only after that. So nothing has to be written again, and nothing of the segment before has to be read.
//!
//! Files that a crash left over are removed: partial files, the spare segment, segments of an older generation or
//! wholly below the base.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksum_line;
use super::errors::damage_at;
use super::files::{replace_file, ReplaceError, Step};
use super::format::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::scan::{scan_segment, Scanned, Tail};
use super::segment::{parse_segment_name, Place, Segment};
use super::spare::is_spare_name;
use super::verify::verify_followed;
use super::writer::{Active, UNNAMED};
use crate::base::file_error::{FileError, InFile};
use crate::encryption::KeyRing;
use crate::store::{Manifest, OpenError};

/// Name of the manifest in a shard's directory.
pub const MANIFEST: &str = "MANIFEST";

/// What was found in a shard's directory.
pub struct Found {
    /// The manifest.
    pub manifest: Manifest,
    /// The log's segments, in order.
    pub segments: Vec<Arc<Segment>>,
    /// The last of them.
    pub active: Option<Active>,
    /// The end of the log (exclusive).
    pub end: u64,
    /// The running checksum there.
    pub running_checksum: u32,
    /// Bytes of a record behind it that a crash has torn, and that was never acknowledged.
    pub torn_bytes: u64,
}

/// Opens the directory of a shard, creating it if it does not exist. Verifies only the last segment. Blocks on I/O.
pub fn open(directory: &Path, shard: &str, keys: &KeyRing) -> Result<Found, OpenError> {
    let log = directory.join("log");
    Step::OpenCreate.create_directories(&log).in_file("cannot create", &log)?;
    let listed = list_log(&log)?;
    for path in &listed.unnamed {
        Step::OpenRemove.remove_file(path).in_file("cannot remove", path)?;
    }
    let manifest = match read_manifest(directory, shard, listed.segments.is_empty())? {
        Some(manifest) => manifest,
        None => create_manifest(directory, shard)?,
    };
    Step::OpenDirectorySync.sync_directory(directory)?;
    let needed = needed(listed.segments, &manifest)?;
    for path in &needed.left_over {
        Step::OpenRemove.remove_file(path).in_file("cannot remove", path)?;
    }
    Step::OpenDirectorySync.sync_directory(&log)?;
    let mut found = read_log(log, manifest, shard, &needed.current, Access::Serve, Some(keys))?;
    found.leave_out_empty_last(keys)?;
    Ok(found)
}

/// Verifies all of a shard's directory and changes nothing. `None` if nothing was ever stored there. Without keys nothing is decrypted,
/// and readers cannot read what is encrypted. Blocks on I/O.
pub fn verify(directory: &Path, shard: &str, keys: Option<&KeyRing>) -> Result<Option<Found>, OpenError> {
    let log = directory.join("log");
    let listed = match list_log(&log) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Listed::default(),
        listed => listed?,
    };
    let Some(manifest) = read_manifest(directory, shard, listed.segments.is_empty())? else { return Ok(None) };
    let needed = needed(listed.segments, &manifest)?;
    read_log(log, manifest, shard, &needed.current, Access::Look, keys).map(Some)
}

/// Why a log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// All of it is verified, and nothing changed.
    Look,
    /// A torn tail is cut, and segments before the last are verified later.
    Serve,
}

fn read_log(
    log: PathBuf,
    manifest: Manifest,
    shard: &str,
    paths: &[(u64, PathBuf)],
    access: Access,
    keys: Option<&KeyRing>,
) -> Result<Found, OpenError> {
    let (end, segments) = (manifest.base, Vec::new());
    let mut found = Found { end, manifest, segments, active: None, running_checksum: 0, torn_bytes: 0 };
    for (first_offset, path) in paths {
        let mut segment = found.open_segment(path, *first_offset, shard, access)?;
        if let Some(keys) = keys {
            segment.unlock(keys).map_err(|source| OpenError::Locked { place: path.display().to_string(), source })?;
        }
        found.segments.push(Arc::new(segment));
    }
    if access == Access::Look {
        for pair in found.segments.windows(2) {
            verify_followed(&pair[0], &pair[1].header, &mut || Ok(()))?;
        }
    }
    if let Some(last) = found.segments.last().cloned() {
        found.read_last(last, access)?;
    }
    let least_end = found.manifest.least_end();
    if found.end < least_end {
        let (path, position) = match &found.active {
            Some(active) => (active.segment.path.clone(), active.position),
            None => (log, 0),
        };
        let reason = format!("the log ends at offset {}, but it was durable up to {least_end} at least", found.end);
        return Err(damage_at(&path, position, reason).into());
    }
    Ok(found)
}

impl Found {
    /// Leaves out a last segment without records that is not encrypted as new ones are to be: the next one takes its
    /// name, and so its place. The one before it is the last then, and nothing verifies that later.
    fn leave_out_empty_last(&mut self, keys: &KeyRing) -> Result<(), OpenError> {
        let is_for_new = |active: &Active| {
            let envelope = active.segment.header.envelope.as_ref();
            keys.is_for_new(envelope.map(|envelope| envelope.key_id.as_str()))
        };
        if let Some(active) = self.active.take_if(|active| active.is_empty() && !is_for_new(active)) {
            self.segments.pop();
            if let Some(before) = self.segments.last() {
                verify_followed(before, &active.segment.header, &mut || Ok(()))?;
            }
        }
        Ok(())
    }

    /// Opens the segment whose name says that it begins at `first_offset`, and verifies its header.
    fn open_segment(&self, path: &Path, first_offset: u64, shard: &str, access: Access) -> Result<Segment, OpenError> {
        let damaged = |reason| OpenError::Damaged(damage_at(path, 0, reason));
        let segment = Segment::open(path, access == Access::Serve)?.map_err(damaged)?;
        let header = &segment.header;
        if header.shard != shard || header.generation != self.manifest.generation {
            return Err(damaged(format!("it belongs to shard {} generation {}", header.shard, header.generation)));
        }
        if header.first_offset != first_offset {
            return Err(damaged(format!("it begins at offset {}, not where its name says", header.first_offset)));
        }
        match self.segments.last() {
            None if first_offset > self.manifest.base => {
                let base = self.manifest.base;
                Err(damaged(format!("it begins at offset {first_offset}, but the log before it ends at {base}")))
            }
            // The quick way to miss one: the records in between do not fit into the one before.
            Some(before) if first_offset - before.header.first_offset > before.file_bytes - SEGMENT_HEADER_BYTES => {
                let from = before.header.first_offset;
                let reason = format!("it begins at offset {first_offset}, but the segment before it, which begins at");
                Err(damaged(format!("{reason} {from}, has no room for all that lies between")))
            }
            _ => Ok(segment),
        }
    }

    /// Verifies all records of the last segment: they say where the log ends.
    fn read_last(&mut self, segment: Arc<Segment>, access: Access) -> Result<(), OpenError> {
        let Scanned { end, last_record, tail } = scan_segment(&segment, &mut || Ok(()))?;
        let Place { offset, position, running_checksum } = end;
        match tail {
            Tail::Clean => {}
            Tail::Torn { bytes } => {
                self.torn_bytes = bytes;
                if access == Access::Serve {
                    cut(&segment, position, bytes, offset)?;
                }
            }
            Tail::Damaged { reason } => {
                return Err(damage_at(&segment.path, position, reason).into());
            }
        }
        if access == Access::Serve {
            write_again(&segment, last_record, position)?;
        }
        segment.note_verified();
        (self.end, self.running_checksum) = (offset, running_checksum);
        self.active = Some(Active { segment, position, is_key_kept: false });
        Ok(())
    }
}

/// Writes and syncs the last record once more. It may have been read from the page cache: its writer may have been killed before the
/// sync, or the sync may have failed. After a failed sync the kernel counts the pages as clean although they never reached the medium,
/// and another sync alone would do nothing. Every record before it was synced.
fn write_again(segment: &Segment, from: u64, to: u64) -> Result<(), FileError> {
    let mut record = vec![0; (to - from) as usize];
    segment.file.read_exact_at(&mut record, from).in_file("cannot read", &segment.path)?;
    Step::LastRecordWrite.write_all_at(&segment.file, &record, from).in_file("cannot write to", &segment.path)?;
    Step::LastRecordSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)
}

/// Overwrites the header of a torn record with zeros, so that it is not taken for a record later. Its payload may stay: nothing in it
/// can pass for a record (`format.rs`).
fn cut(segment: &Segment, position: u64, bytes: u64, end: u64) -> Result<(), FileError> {
    let header_bytes = bytes.min(RECORD_HEADER_BYTES as u64) as usize;
    let zeros = &[0; RECORD_HEADER_BYTES][..header_bytes];
    Step::CutWrite.write_all_at(&segment.file, zeros, position).in_file("cannot cut", &segment.path)?;
    Step::CutSync.sync_data(&segment.file).in_file("cannot sync", &segment.path)?;
    tracing::warn!(
        "torn tail cut: {} at byte {position}, {bytes} bytes; the log ends at offset {end}",
        segment.path.display(),
    );
    Ok(())
}

/// The files of a log directory.
#[derive(Default)]
struct Listed {
    /// Generation, first offset and path of each segment, in order.
    segments: Vec<(u64, u64, PathBuf)>,
    /// Segments that never got a name of their own.
    unnamed: Vec<PathBuf>,
}

fn list_log(log: &Path) -> Result<Listed, FileError> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(log).in_file("cannot list", log)? {
        let entry = entry.in_file("cannot list", log)?;
        let name = entry.file_name();
        match name.to_str().and_then(parse_segment_name) {
            Some((generation, first_offset)) => listed.segments.push((generation, first_offset, entry.path())),
            None if name.to_str().is_some_and(is_spare_name) || name == UNNAMED => listed.unnamed.push(entry.path()),
            None => tracing::warn!("{} is no file of the log; left alone", entry.path().display()),
        }
    }
    listed.segments.sort();
    Ok(listed)
}

/// The manifest of a shard's directory; `None` if there is none, which is right only if there is no log.
pub fn read_manifest(directory: &Path, shard: &str, log_is_empty: bool) -> Result<Option<Manifest>, OpenError> {
    let path = directory.join(MANIFEST);
    let wrong = |reason: String| OpenError::Manifest { place: path.display().to_string(), reason };
    match fs::read(&path) {
        Ok(bytes) => {
            let manifest = checksum_line::verify(&bytes).and_then(Manifest::parse).map_err(wrong)?;
            if manifest.shard != shard {
                return Err(wrong(format!("it is the manifest of shard {}", manifest.shard)));
            }
            Ok(Some(manifest))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && log_is_empty => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(wrong("it is missing, although there is a log".to_owned()))
        }
        Err(error) => Err(FileError { action: "cannot read", path, source: error }.into()),
    }
}

fn create_manifest(directory: &Path, shard: &str) -> Result<Manifest, OpenError> {
    let mut random = [0; 28];
    getrandom::fill(&mut random).map_err(|error| OpenError::Manifest {
        place: directory.join(MANIFEST).display().to_string(),
        reason: format!("no random number: {error}"),
    })?;
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = Manifest::new(shard, digits(&random[..20]), digits(&random[20..]));
    write_manifest(directory, &manifest).map_err(|error| match error {
        ReplaceError::Unchanged(error) | ReplaceError::Unknown(error) => OpenError::from(error),
    })?;
    if let Some(parent) = directory.parent() {
        Step::OpenDirectorySync.sync_directory(parent)?;
    }
    Ok(manifest)
}

/// Replaces a shard's manifest.
pub fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), ReplaceError> {
    let manifest = Manifest { format: manifest.format_to_write(), ..manifest.clone() };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| {
        let path = directory.join(MANIFEST);
        ReplaceError::Unchanged(FileError { action: "cannot encode", path, source: error.into() })
    })?;
    replace_file(directory, MANIFEST, &checksum_line::add(&text))
}

/// The segments of the log, and the others.
struct Needed {
    /// Those of the log, in order, with the offset in their names.
    current: Vec<(u64, PathBuf)>,
    /// Segments of an older generation, or wholly below the base.
    left_over: Vec<PathBuf>,
}

fn needed(segments: Vec<(u64, u64, PathBuf)>, manifest: &Manifest) -> Result<Needed, OpenError> {
    let (current, others): (Vec<_>, Vec<_>) =
        segments.into_iter().partition(|(generation, _, _)| *generation == manifest.generation);
    if let Some((_, _, path)) = others.iter().find(|(generation, _, _)| *generation > manifest.generation) {
        let reason = format!("newer than generation {} of the manifest", manifest.generation);
        return Err(damage_at(path, 0, reason).into());
    }
    let below = current.windows(2).take_while(|pair| pair[1].1 <= manifest.base).count();
    let mut below_base: Vec<_> = current.into_iter().map(|(_, first_offset, path)| (first_offset, path)).collect();
    let current = below_base.split_off(below);
    let left_over = others.into_iter().map(|(_, _, path)| path).chain(below_base.into_iter().map(|(_, path)| path));
    Ok(Needed { current, left_over: left_over.collect() })
}
