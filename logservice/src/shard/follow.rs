//! Where a replica that comes back goes on.

use std::fmt;

use durability_protocol::{EngineVersion, Refusal};

use super::{Pin, Shard};
use crate::store::SnapshotRecord;

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
    /// With a full copy.
    Full {
        /// The replication id under which the stream goes on.
        replid: String,
        /// Where the copy stands.
        offset: u64,
        /// The copy; none is an empty data set.
        snapshot: Option<SnapshotRecord>,
        /// The stream it belongs to.
        stream: u64,
        /// Keeps the log from there on.
        pin: Pin,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Continue { offset, .. } => write!(f, "continues from {offset}"),
            Position::Full { offset, .. } => write!(f, "full copy at {offset}"),
        }
    }
}

impl Position {
    /// What keeps the log from there on.
    pub fn pin(&mut self) -> &mut Pin {
        match self {
            Position::Continue { pin, .. } | Position::Full { pin, .. } => pin,
        }
    }

    /// [`Progress::stream`](super::Progress::stream) when it was found: when that moves, the replica must ask again.
    pub fn stream(&self) -> u64 {
        match self {
            Position::Continue { stream, .. } | Position::Full { stream, .. } => *stream,
        }
    }
}

impl Shard {
    /// Where somebody goes on who has the stream of `replid` up to `held` (exclusive). Refused only when the log has
    /// failed.
    pub fn position_of(&self, replid: &str, held: Option<u64>) -> Result<Position, Refusal> {
        self.check_not_failed()?;
        let progress = self.notifier().progress();
        let accepting = self.accepting();
        let current = accepting.terms.replid().to_owned();
        let stream = progress.stream;
        let (pin, (offset, snapshot)) = self.pins.pin(|| {
            let manifest = self.store.manifest();
            match held {
                Some(offset) if accepting.terms.continues(replid, offset, manifest.base, progress.visible) => {
                    (offset, (offset, None))
                }
                _ => {
                    let newest = manifest.newest_snapshot().cloned();
                    let offset = newest.as_ref().map_or(manifest.base, |snapshot| snapshot.offset);
                    (offset, (offset, Some(newest)))
                }
            }
        });
        Ok(match snapshot {
            None => Position::Continue { replid: current, offset, stream, pin },
            Some(snapshot) => Position::Full { replid: current, offset, snapshot, stream, pin },
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
