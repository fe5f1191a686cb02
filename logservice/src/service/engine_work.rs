//! Work that takes an engine: snapshots and audits. The service queues it, and the [snapshotter](crate::snapshotter) does it.

use std::sync::Arc;

use durability_protocol::{Code, Refusal};
use tokio::sync::oneshot;

use super::Service;
use crate::audit::Report;
use crate::replica::files::{Made, NotMade};
use crate::shard::Shard;
use crate::store::SnapshotRecord;

/// Requests work that takes an engine.
pub struct EngineRequest {
    /// The shard that it is about.
    pub shard: Arc<Shard>,
    /// The work.
    pub work: EngineWork,
}

/// Work that takes an engine, with where its result goes. A client that has gone has dropped the other end.
pub enum EngineWork {
    /// Make a snapshot.
    Snapshot(oneshot::Sender<Result<SnapshotRecord, Refusal>>),
    /// Make a snapshot for the service that decides over the log, which records it.
    SnapshotForDecider(oneshot::Sender<Result<Made, NotMade>>),
    /// Compare the leader with the log.
    Audit {
        /// About how many keys are picked on each side.
        keys: u64,
        /// Where the report goes.
        reply: oneshot::Sender<Result<Report, Refusal>>,
    },
}

impl Service {
    /// Has a snapshot made, and waits for it.
    ///
    /// # Errors
    /// None was made; the text says why.
    pub async fn make_snapshot(&self, shard: Arc<Shard>) -> Result<SnapshotRecord, Refusal> {
        self.do_with_engine(shard, EngineWork::Snapshot).await
    }

    /// Has about `keys` keys that the leader picks, and as many of the log, compared on both sides, and waits for it.
    ///
    /// # Errors
    /// They could not be compared; the text says why.
    pub async fn audit(&self, shard: Arc<Shard>, keys: u64) -> Result<Report, Refusal> {
        self.do_with_engine(shard, |reply| EngineWork::Audit { keys, reply }).await
    }

    async fn do_with_engine<T>(
        &self,
        shard: Arc<Shard>,
        work: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> EngineWork,
    ) -> Result<T, Refusal> {
        self.queue_engine_work(shard, work).await.ok_or_else(|| Refusal::new(Code::Err, "the service is stopping"))?
    }

    /// Queues work, and waits for its result; none if the service is stopping.
    pub(super) async fn queue_engine_work<T>(
        &self,
        shard: Arc<Shard>,
        work: impl FnOnce(oneshot::Sender<T>) -> EngineWork,
    ) -> Option<T> {
        let (reply, done) = oneshot::channel();
        let request = EngineRequest { shard, work: work(reply) };
        self.options.engine_requests.send(request).await.ok()?;
        done.await.ok()
    }
}
