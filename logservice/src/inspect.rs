//! `logservice check` and `logservice dump`: what a directory holds, without serving it. Nothing is changed.

use std::io::{self, Write};
use std::path::Path;

use durability_protocol::is_valid_name;

use crate::cutter::{CommandCutter, NoCommand};
use crate::snapshots::SnapshotStore;
use crate::store::file_store::check;
use crate::store::file_store::look::{Look, Record};

/// Verifies every shard of `directory`, or the one that is named, and its `snapshots`, and writes what it found, a line each.
/// Returns whether all are sound.
///
/// # Errors
/// The directory cannot be listed, or `out` cannot be written.
pub async fn check(
    directory: &Path,
    snapshots: &SnapshotStore,
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
        match check::check(&directory.join("shards").join(name), name) {
            Ok(None) => writeln!(out, "shard {name}: empty")?,
            Ok(Some(found)) => {
                let check::Sound { manifest, end, segments, running_checksum, torn_bytes } = found;
                let (base, epoch) = (manifest.base, manifest.epochs.last().map_or(0, |term| term.epoch));
                let mut line = format!("offsets {base} to {end} in {segments} segments, epoch {epoch}, ");
                line += &format!("running checksum {running_checksum:08x}");
                let mut damage = None;
                for record in &manifest.snapshots {
                    line += &format!("; snapshot at offset {}, {} bytes", record.offset, record.bytes);
                    damage = damage.or(snapshots.verify(record).await.err());
                }
                if torn_bytes > 0 {
                    line += &format!("; {torn_bytes} bytes of a torn record, never acknowledged, behind the end");
                }
                match damage {
                    None => writeln!(out, "shard {name}: sound: {line}")?,
                    Some(error) => {
                        is_sound = false;
                        writeln!(out, "shard {name}: DAMAGED: {error}")?;
                    }
                }
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

/// Writes the commands of a shard's log that begin at offsets from `from` on and below `to` (exclusive): offset, epoch, time in
/// milliseconds since 1970, and the arguments, quoted.
///
/// # Errors
/// The log is damaged, or holds something that is no command, or `out` cannot be written.
pub fn dump(directory: &Path, shard: &str, from: u64, to: u64, out: &mut impl Write) -> io::Result<()> {
    let shard_directory = directory.join("shards").join(shard);
    if !is_valid_name(shard) || !shard_directory.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no shard {shard}")));
    }
    let mut commands = Commands::default();
    let mut written = Ok(());
    let Some(look) = Look::open(&shard_directory, shard).map_err(io::Error::other)? else { return Ok(()) };
    look.for_each_record(|record| {
        written = commands.write(&record, from..to, out);
        written.is_ok() && commands.offset.is_none_or(|offset| offset < to)
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
    fn write(&mut self, record: &Record, range: std::ops::Range<u64>, out: &mut impl Write) -> io::Result<()> {
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
