//! `logservice dump`: the commands that a shard's log holds.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use durability_protocol::{Grammar, RespLimits, RespParser};

use super::look;
use crate::encryption::KeyRing;
use crate::store::Record;

/// As much as Valkey itself allows: an argument may have any length that `proto-max-bulk-len` can be set to.
const LIMITS: RespLimits = RespLimits { items: i32::MAX as usize, item_bytes: 1 << 40, frame_bytes: usize::MAX };

/// Writes the commands of a shard's log that begin at offsets in `range`: offset, epoch, time in milliseconds since 1970, and the quoted
/// arguments.
///
/// # Errors
/// The log is damaged or holds something that is no command, a key is missing, or `out` cannot be written.
pub fn dump(directory: &Path, shard: &str, keys: &KeyRing, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
    if look::place_of(directory, shard).is_none() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no shard {shard}")));
    }
    let mut commands = Commands::default();
    let mut written = Ok(());
    let Some(look) = look::open(directory, shard, keys).map_err(io::Error::other)? else { return Ok(()) };
    look.for_each_record(&mut |record| {
        written = commands.write(&record, range.clone(), out);
        written.is_ok() && commands.offset.is_none_or(|offset| offset < range.end)
    })
    .map_err(io::Error::other)?;
    written
}

/// Cuts records into commands. A command may span several records.
struct Commands {
    parser: RespParser,
    /// Bytes of the log from the next command on.
    input: Vec<u8>,
    /// Where the next command begins.
    offset: Option<u64>,
}

impl Default for Commands {
    fn default() -> Self {
        Commands { parser: RespParser::new(Grammar::Commands), input: Vec::new(), offset: None }
    }
}

impl Commands {
    fn write(&mut self, record: &Record, range: Range<u64>, out: &mut impl Write) -> io::Result<()> {
        let offset = self.offset.get_or_insert(record.offset);
        self.input.extend_from_slice(&record.payload);
        let mut taken = 0;
        loop {
            let input = &self.input[taken..];
            let next = self.parser.next(input, &LIMITS);
            let Some(length) = next.map_err(|error| io::Error::other(format!("at offset {offset}: {error}")))? else {
                break;
            };
            if range.contains(offset) {
                write!(out, "{offset} e{} {}", record.epoch, record.time_ms)?;
                for place in self.parser.items() {
                    write!(out, " \"{}\"", input[place.clone()].escape_ascii())?;
                }
                writeln!(out)?;
            }
            *offset += length as u64;
            taken += length;
        }
        self.input.drain(..taken);
        Ok(())
    }
}
