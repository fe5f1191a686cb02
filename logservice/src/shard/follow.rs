//! Where a replica that comes back goes on.

use std::fmt;

use durability_protocol::Refusal;

use super::Shard;
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
        let manifest = self.store.manifest();
        let accepting = self.accepting();
        let current = accepting.terms.replid().to_owned();
        let stream = progress.stream;
        if let Some(offset) = held {
            if accepting.terms.continues(replid, offset, manifest.base, progress.visible) {
                return Ok(Position::Continue { replid: current, offset, stream });
            }
        }
        let offset = manifest.snapshot.as_ref().map_or(manifest.base, |snapshot| snapshot.offset);
        Ok(Position::Full { replid: current, offset, snapshot: manifest.snapshot, stream })
    }
}
