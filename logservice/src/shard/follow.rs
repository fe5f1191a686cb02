//! Where a replica that comes back goes on.

use std::fmt;

use durability_protocol::{EngineVersion, Refusal};

use super::{Pin, Shard};

/// Where a replica goes on.
#[derive(Debug)]
pub enum Position {
    /// From its own position (exclusive end of what it has).
    Continue {
        /// The replication id under which the stream goes on.
        replid: String,
        /// Position of the next byte.
        offset: u64,
        /// The stream it belongs to.
        stream: u64,
        /// Keeps the log from there on.
        pin: Pin,
    },
    /// With a full copy: see [`Shard::full_copy`].
    Full,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Continue { offset, .. } => write!(f, "continues from {offset}"),
            Position::Full => f.write_str("asks for a full copy"),
        }
    }
}

impl Shard {
    /// Where somebody goes on who has the stream of `replid` up to `held` (exclusive). Refused only when the log has
    /// failed.
    pub fn position_of(&self, replid: &str, held: Option<u64>) -> Result<Position, Refusal> {
        self.check_not_failed()?;
        let progress = self.notifier().progress();
        self.check_caught_up(self.store.manifest().base, progress.visible)?;
        let accepting = self.accepting();
        let (pin, offset) = self.pins.pin(|| {
            let base = self.store.manifest().base;
            let continues = |offset: &u64| accepting.epochs.continues(replid, *offset, base, progress.visible);
            let offset = held.filter(continues);
            (offset.unwrap_or(progress.visible), offset)
        });
        Ok(match offset {
            Some(offset) => {
                let replid = accepting.epochs.replid().to_owned();
                Position::Continue { replid, offset, stream: progress.stream, pin }
            }
            None => Position::Full,
        })
    }

    /// Whether a server of that version can follow the log. One that does not tell its version is older than all that can
    /// load a snapshot.
    pub fn check_engine(&self, version: Option<EngineVersion>) -> Result<(), Refusal> {
        let Some(writer) = self.store.manifest().engine() else { return Ok(()) };
        match version {
            Some(version) => version.check_reads(writer),
            None => Err(Refusal::old_engine("does not tell its version with REPLCONF version", writer)),
        }
    }
}
