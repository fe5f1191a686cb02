//! `logservice check`: verifies everything that a directory holds.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use durability_protocol::is_valid_name;

use crate::encryption::KeyRing;
use crate::snapshots::SnapshotStore;
use crate::store::file_store::check;
use crate::store::OpenError;

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
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory.join("shards"))? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| is_valid_name(name)));
    }
    names.sort();
    if let Some(only) = only {
        names.retain(|name| name == only);
        if names.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no shard {only}")));
        }
    }
    let mut is_sound = true;
    for name in &names {
        let verdict = check_shard(&directory.join("shards").join(name), name, snapshots, keys).await;
        is_sound &= verdict.is_ok();
        let (Ok(text) | Err(text)) = verdict;
        writeln!(out, "shard {name}: {text}")?;
    }
    let count = names.len();
    writeln!(out, "{count} shards, {}", if is_sound { "all sound" } else { "not all sound" })?;
    Ok(is_sound)
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
    let checked = check::check(directory, name, keys).map_err(|error| match error {
        OpenError::Locked { .. } => format!("NOT DECRYPTED: {error}"),
        error => format!("DAMAGED: {error}"),
    });
    let Some(found) = checked? else { return Ok("empty".to_owned()) };
    let encryption = encryption(&found, keys);
    let check::Sound { manifest, end, segments, running_checksum, torn_bytes, .. } = found;
    let (base, epoch) = (manifest.base, manifest.epochs.last().map_or(0, |term| term.epoch));
    let mut line = format!("offsets {base} to {end} in {segments} segments, epoch {epoch}, ");
    line += &format!("running checksum {running_checksum:08x}");
    let (mut damage, mut locked) = (None, None);
    for record in &manifest.snapshots {
        line += &format!("; snapshot at offset {}, {} bytes", record.offset, record.bytes);
        match snapshots.verify(record).await {
            Ok(()) => {}
            Err(error) if error.is_locked() => locked = locked.or(Some(error)),
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    line += &encryption;
    if torn_bytes > 0 {
        line += &format!("; {torn_bytes} bytes of a torn record, never acknowledged, behind the end");
    }
    match (damage, locked) {
        (None, None) => Ok(format!("sound: {line}")),
        (Some(error), _) => Err(format!("DAMAGED: {error}")),
        (None, Some(error)) => Err(format!("NOT DECRYPTED: {error}")),
    }
}

/// Which keys a shard is encrypted with, as they have to stay in the key file.
fn encryption(found: &check::Sound, keys: &KeyRing) -> String {
    let snapshots = &found.manifest.snapshots;
    let of_snapshots = snapshots.iter().filter_map(|record| record.encrypt_key.as_deref());
    let ids: BTreeSet<&str> = found.key_ids.iter().map(String::as_str).chain(of_snapshots).collect();
    if ids.is_empty() {
        return String::new();
    }
    let mut line = format!("; encrypted with {}", Vec::from_iter(ids).join(", "));
    let plain_snapshots = snapshots.iter().filter(|record| record.encrypt_key.is_none()).count();
    if found.plain_segments + plain_snapshots > 0 {
        line += &format!(", but {} segments and {plain_snapshots} snapshots are not", found.plain_segments);
    }
    if !keys.has_keys() {
        line += " (checksums verified, nothing decrypted: no --encrypt-key-file)";
    }
    line
}
