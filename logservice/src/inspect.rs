//! `logservice check` and `logservice dump`: what a directory holds, without serving it. Nothing is changed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use durability_protocol::is_valid_name;

use crate::cutter::{CommandCutter, NoCommand};
use crate::encryption::KeyRing;
use crate::snapshots::SnapshotStore;
use crate::store::file_store::check;
use crate::store::file_store::look::{Look, Record};
use crate::store::OpenError;

/// Verifies every shard of `directory`, or the one that is named, and its `snapshots`, and writes what it found, a line each.
/// Returns whether all are sound. Without any keys nothing is decrypted.
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
        match check::check(&directory.join("shards").join(name), name, keys) {
            Ok(None) => writeln!(out, "shard {name}: empty")?,
            Ok(Some(found)) => {
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
                is_sound &= damage.is_none() && locked.is_none();
                match (damage, locked) {
                    (None, None) => writeln!(out, "shard {name}: sound: {line}")?,
                    (Some(error), _) => writeln!(out, "shard {name}: DAMAGED: {error}")?,
                    (None, Some(error)) => writeln!(out, "shard {name}: NOT DECRYPTED: {error}")?,
                }
            }
            Err(error @ OpenError::Locked { .. }) => {
                is_sound = false;
                writeln!(out, "shard {name}: NOT DECRYPTED: {error}")?;
            }
            Err(error) => {
                is_sound = false;
                writeln!(out, "shard {name}: DAMAGED: {error}")?;
            }
        }
    }
    let count = names.len();
    writeln!(out, "{count} shards, {}", if is_sound { "all sound" } else { "not all sound" })?;
    Ok(is_sound)
}

/// What of a shard is encrypted with which keys: those have to stay in the key file.
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

/// Writes the commands of a shard's log that begin at offsets in `range`: offset, epoch, time in milliseconds since 1970, and the arguments,
/// quoted.
///
/// # Errors
/// The log is damaged, or a key is missing, or it holds something that is no command, or `out` cannot be written.
pub fn dump(directory: &Path, shard: &str, keys: &KeyRing, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
    let shard_directory = directory.join("shards").join(shard);
    if !is_valid_name(shard) || !shard_directory.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no shard {shard}")));
    }
    let mut commands = Commands::default();
    let mut written = Ok(());
    let Some(look) = Look::open(&shard_directory, shard, keys).map_err(io::Error::other)? else { return Ok(()) };
    look.for_each_record(|record| {
        written = commands.write(&record, range.clone(), out);
        written.is_ok() && commands.offset.is_none_or(|offset| offset < range.end)
    })
    .map_err(io::Error::other)?;
    written
}

/// Cuts records into commands, which may reach over several.
#[derive(Default)]
struct Commands {
    cutter: CommandCutter,
    /// Where the next command begins.
    offset: Option<u64>,
}

impl Commands {
    fn write(&mut self, record: &Record, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
        let offset = self.offset.get_or_insert(record.offset);
        self.cutter.push(&record.payload);
        let wrong = |offset: u64, what: NoCommand| io::Error::other(format!("at offset {offset}: {what}"));
        while let Some((arguments, length)) = self.cutter.next().map_err(|error| wrong(*offset, error))? {
            if range.contains(offset) {
                write!(out, "{offset} e{} {}", record.epoch, record.time_ms)?;
                for argument in arguments {
                    write!(out, " \"{}\"", argument.escape_ascii())?;
                }
                writeln!(out)?;
            }
            *offset += length as u64;
        }
        Ok(())
    }
}
