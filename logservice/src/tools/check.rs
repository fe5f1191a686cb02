//! `logservice check`: verifies everything that a directory holds.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::look;
use crate::encryption::KeyRing;
use crate::replica::copy_files::look::CopyLook;
use crate::replica::copy_files::UNNAMED_GROUP;
use crate::replica::group_name::shard_of;
use crate::snapshots::SnapshotStore;
use crate::store::file_store::check;
use crate::store::{Manifest, OpenError, SnapshotRecord};

/// Verifies every shard of `directory`, or only the one that is named, with its `snapshots`, and writes one line about each.
/// Returns whether all are sound. Without keys nothing is decrypted.
///
/// # Errors
/// The directory cannot be listed, or `out` cannot be written.
pub async fn check(
    directory: &Path,
    snapshots: &SnapshotStore,
    keys: &KeyRing,
    only: Option<&str>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let is_there = |place: &str| directory.join(place).is_dir();
    if !is_there(look::ALONE) && !is_there(look::COPIES) {
        // Says why.
        std::fs::read_dir(directory.join(look::ALONE))?;
    }
    let (mut alone, others_alone) = look::list(directory, look::ALONE)?;
    let (mut copies, others_of_copies) = look::list(directory, look::COPIES)?;
    let of = |place: &'static str| move |name: String| format!("{place}/{name}");
    let mut others: Vec<String> = others_alone.into_iter().map(of(look::ALONE)).collect();
    others.extend(others_of_copies.into_iter().map(of(look::COPIES)));
    if let Some(only) = only {
        alone.retain(|name| name == only);
        copies.retain(|name| name == only || shard_of(name) == only);
        others.clear();
    }
    if let Some(only) = only.filter(|_| alone.is_empty() && copies.is_empty()) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no shard {only}")));
    }
    let mut is_sound = true;
    for name in &alone {
        let verdict = check_shard(&directory.join(look::ALONE).join(name), name, snapshots, keys).await;
        is_sound &= verdict.is_ok();
        let (Ok(text) | Err(text)) = verdict;
        writeln!(out, "shard {name}: {text}")?;
    }
    for name in &copies {
        let verdict = check_copy(&directory.join(look::COPIES).join(name), name, snapshots, keys).await;
        is_sound &= verdict.is_ok();
        let (Ok(text) | Err(text)) = verdict;
        let of = match shard_of(name) {
            UNNAMED_GROUP => "copy of the cluster's own log".to_owned(),
            shard if shard == name => format!("copy of shard {shard}"),
            // Of a shard that had its name before, there may be a copy as well.
            shard => format!("copy of shard {shard} in {}/{name}", look::COPIES),
        };
        writeln!(out, "{of}: {text}")?;
    }
    for other in &others {
        writeln!(out, "{other}: passed over, as no log is named so")?;
    }
    let shards = alone.len() + copies.iter().filter(|name| *name != UNNAMED_GROUP).count();
    writeln!(out, "{shards} shards, {}", if is_sound { "all sound" } else { "not all sound" })?;
    Ok(is_sound)
}

/// Verifies one copy. Returns what to report of it.
///
/// # Errors
/// It is not sound; the error is what to report.
async fn check_copy(directory: &Path, name: &str, snapshots: &SnapshotStore, keys: &KeyRing) -> Result<String, String> {
    let group = if name == UNNAMED_GROUP { "" } else { name };
    let look = CopyLook::open(directory, group, keys.has_keys().then_some(keys)).map_err(|error| told(&error))?;
    let (last, committed) = (look.last, look.committed);
    let mut line = format!(
        "index {} of term {} in {} segments, at least index {} is committed, term {} is promised, running checksum {:08x}",
        last.index, last.term, look.segments, committed.index, look.vote.term, last.checksum
    );
    let mut held = Held { key_ids: look.key_ids.clone(), plain_segments: look.plain_segments, snapshots: Vec::new() };
    let mut verdict = Ok(());
    if look.state_index > last.index {
        line += &format!("; entries up to index {} were still to come from other services", look.state_index);
    } else if name != UNNAMED_GROUP {
        let manifest = Manifest::parse(&look.state).map_err(|reason| format!("DAMAGED: its state: {reason}"))?;
        let (base, epoch) = (manifest.base, manifest.epochs.last().map_or(0, |term| term.epoch));
        line = format!("offsets {base} to {}, epoch {epoch}, {line}", last.end);
        verdict = check_snapshots(&manifest, snapshots, &mut line).await;
        held.snapshots = manifest.snapshots;
    }
    line += &held.encryption(keys);
    if look.is_torn {
        line += "; torn entries, never acknowledged, behind the end";
    }
    verdict.map(|()| format!("sound: {line}"))
}

fn told(error: &OpenError) -> String {
    match error {
        OpenError::Locked { .. } => format!("NOT DECRYPTED: {error}"),
        error => format!("DAMAGED: {error}"),
    }
}

/// Verifies one shard. Returns what to report of it.
///
/// # Errors
/// It is not sound; the error is what to report.
async fn check_shard(
    directory: &Path,
    name: &str,
    snapshots: &SnapshotStore,
    keys: &KeyRing,
) -> Result<String, String> {
    let checked = check::check(directory, name, keys).map_err(|error| told(&error));
    let Some(found) = checked? else { return Ok("empty".to_owned()) };
    let check::Sound { manifest, end, segments, running_checksum, torn_bytes, key_ids, plain_segments } = found;
    let (base, epoch) = (manifest.base, manifest.epochs.last().map_or(0, |term| term.epoch));
    let mut line = format!("offsets {base} to {end} in {segments} segments, epoch {epoch}, ");
    line += &format!("running checksum {running_checksum:08x}");
    let verdict = check_snapshots(&manifest, snapshots, &mut line).await;
    line += &Held { key_ids, plain_segments, snapshots: manifest.snapshots }.encryption(keys);
    if torn_bytes > 0 {
        line += &format!("; {torn_bytes} bytes of a torn record, never acknowledged, behind the end");
    }
    verdict.map(|()| format!("sound: {line}"))
}

/// Verifies the snapshots of a shard, and adds them to `line`.
///
/// # Errors
/// One is not sound, or cannot be decrypted; the error is what to report.
async fn check_snapshots(manifest: &Manifest, snapshots: &SnapshotStore, line: &mut String) -> Result<(), String> {
    let (mut damage, mut locked) = (None, None);
    for record in &manifest.snapshots {
        *line += &format!("; snapshot at offset {}, {} bytes", record.offset, record.bytes);
        match snapshots.verify(record).await {
            Ok(()) => {}
            Err(error) if error.is_locked() => locked = locked.or(Some(error)),
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    match (damage, locked) {
        (None, None) => Ok(()),
        (Some(error), _) => Err(format!("DAMAGED: {error}")),
        (None, Some(error)) => Err(format!("NOT DECRYPTED: {error}")),
    }
}

/// What of a shard may be encrypted.
struct Held {
    key_ids: BTreeSet<String>,
    plain_segments: usize,
    snapshots: Vec<SnapshotRecord>,
}

impl Held {
    /// Which keys it is encrypted with, as they have to stay in the key file.
    fn encryption(&self, keys: &KeyRing) -> String {
        let of_snapshots = self.snapshots.iter().filter_map(|record| record.encrypt_key.as_deref());
        let ids: BTreeSet<&str> = self.key_ids.iter().map(String::as_str).chain(of_snapshots).collect();
        if ids.is_empty() {
            return String::new();
        }
        let mut line = format!("; encrypted with {}", Vec::from_iter(ids).join(", "));
        let plain_snapshots = self.snapshots.iter().filter(|record| record.encrypt_key.is_none()).count();
        if self.plain_segments + plain_snapshots > 0 {
            line += &format!(", but {} segments and {plain_snapshots} snapshots are not", self.plain_segments);
        }
        if !keys.has_keys() {
            line += " (checksums verified, nothing decrypted: no --encrypt-key-file)";
        }
        line
    }
}
