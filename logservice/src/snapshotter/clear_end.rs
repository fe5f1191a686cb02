//! Where a snapshot may stand: not inside an import of slots, as it would hold a part of keys that are another shard's still, and whoever
//! starts from it would not know of the import. So it stands before the first import that is open at the end of the log. The import itself
//! stays in the log behind it.

use durability_protocol::Logged;

use super::MakeError;
use crate::base::background::{self, Priority};
use crate::engine::{EngineError, FeedError, OpenImport, SlotStream};
use crate::shard::Shard;
use crate::store::{LogReader, Manifest, MediumError, ReadError};

/// The most that is read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Looks for imports in the log. That of a shard that is in no cluster is not read for it.
pub struct ClearEnd {
    priority: Priority,
    /// Up to where it has looked.
    end: u64,
    log: Option<Log>,
}

struct Log {
    reader: Box<dyn LogReader>,
    stream: SlotStream,
}

impl ClearEnd {
    /// Looks from `offset` on, where no import is open. `manifest` is the shard's.
    ///
    /// # Errors
    /// The log is not readable there.
    pub fn new(shard: &Shard, manifest: &Manifest, offset: u64, priority: Priority) -> Result<Self, MakeError> {
        let is_in_cluster = manifest.cluster.is_some();
        let stream = || SlotStream::new(offset, manifest.epoch_starts());
        let log = match is_in_cluster {
            true => Some(Log { reader: shard.store().reader(offset)?, stream: stream() }),
            false => None,
        };
        Ok(ClearEnd { priority, end: offset, log })
    }

    /// The last offset up to `end` at which no import is open. `end` is durable, and not before the one that was asked last.
    ///
    /// # Errors
    /// The log cannot be read, or holds something that is no command.
    pub async fn before(&mut self, end: u64) -> Result<u64, MakeError> {
        self.end = end;
        let Some(log) = self.log.take() else { return Ok(end) };
        let looked = background::run(self.priority, move || log.look(end)).await;
        let log = looked.map_err(|error| ReadError::from(MediumError::new(error)))??;
        let clear = log.stream.imports().clear_until(end);
        self.log = Some(log);
        Ok(clear)
    }

    /// The first of the imports that are open at the end up to which it has looked.
    pub fn first_open(&self) -> Option<OpenImport> {
        let log = self.log.as_ref()?;
        log.stream.imports().open_at(self.end).min_by_key(|import| import.since).cloned()
    }
}

impl Log {
    fn look(mut self, end: u64) -> Result<Self, MakeError> {
        while self.reader.offset() < end {
            let chunk = self.reader.read(end, CHUNK_BYTES)?;
            // What an engine does not know is its matter.
            let passed = self.stream.pass(&chunk, |_| Some(Logged::Yes));
            passed.map_err(|error| MakeError::Engine(EngineError::from(FeedError::from(error))))?;
        }
        Ok(self)
    }
}
