//! Does what other services ask for. What takes long goes on beside the answers, which say how far it is.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::request::{Reply, Request};
use super::{lock, Made, NotMade, SnapshotFiles};
use crate::store::SnapshotRecord;

/// What others have asked for and that is not over, or whose result nobody has taken.
const MOST_JOBS: usize = 64;
/// A result that nobody has taken for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What is done for others, by what it is.
#[derive(Default)]
pub(super) struct Jobs(Mutex<BTreeMap<String, Job>>);

enum Job {
    /// So many bytes of it are done.
    Runs(Arc<AtomicU64>),
    Ended(Reply, Instant),
}

impl SnapshotFiles {
    /// Answers the service of that name. Blocks on I/O.
    pub fn answer(&self, from: &str, request: &[u8]) -> Vec<u8> {
        let reply = match serde_json::from_slice(request) {
            Ok(Request::Read { file, from, bytes }) => self.read(&file, from, bytes),
            Ok(Request::Hold(record)) => self.hold(from, *record),
            Ok(Request::Make { shard, least_end }) => self.make(shard, least_end),
            Err(error) => Reply::refused(format!("not a request that this version knows: {error}")),
        };
        reply.encode()
    }

    fn read(&self, file: &str, from: u64, bytes: u64) -> Reply {
        match self.runtime.block_on(self.store.part(file, from, bytes.min(super::fetch::PART_BYTES))) {
            Ok(part) => Reply::Part(part),
            Err(error) => Reply::refused(error.to_string()),
        }
    }

    fn hold(&self, from: &str, record: SnapshotRecord) -> Reply {
        match self.runtime.block_on(self.store.is_here(&record)) {
            Ok(true) => return Reply::Held,
            Ok(false) => {}
            Err(error) => return Reply::refused(error.to_string()),
        }
        let (this, peer) = (self.this.clone(), from.to_owned());
        self.job(format!("hold {}", record.file), move |bytes| async move {
            let Some(this) = this.upgrade() else { return Reply::refused("the service is stopping") };
            // Never closed.
            let _place = this.places_to_hold.acquire().await;
            let note = |come| bytes.store(come, Ordering::Relaxed);
            match this.fetch_from(&record, vec![peer], false, note).await {
                Ok(()) => Reply::Held,
                Err(error) => Reply::refused(error.to_string()),
            }
        })
    }

    fn make(&self, shard: String, least_end: u64) -> Reply {
        let Some(maker) = self.maker.get().and_then(std::sync::Weak::upgrade) else {
            return Reply::refused("the service is starting or stopping");
        };
        self.job(format!("make {shard}"), move |_| async move {
            match maker.make(&shard, least_end).await {
                Ok(Made { record, generation }) => Reply::Made { record: Box::new(record), generation },
                Err(NotMade { reason, is_final }) => Reply::Refused { reason, is_final },
            }
        })
    }

    /// How far the job of that name is; begins it if it is not known. Its result is told once.
    fn job<F: Future<Output = Reply> + Send + 'static>(
        &self,
        name: String,
        begin: impl FnOnce(Arc<AtomicU64>) -> F,
    ) -> Reply {
        let mut jobs = lock(&self.jobs.0);
        jobs.retain(|_, job| !matches!(job, Job::Ended(_, ended) if ended.elapsed() > FORGOTTEN_AFTER));
        match jobs.remove(&name) {
            Some(Job::Ended(reply, _)) => return reply,
            Some(Job::Runs(bytes)) => {
                let come = bytes.load(Ordering::Relaxed);
                jobs.insert(name, Job::Runs(bytes));
                return Reply::Underway(come);
            }
            None if jobs.len() >= MOST_JOBS => return Reply::refused("it has too much else to do: ask again later"),
            None => {}
        }
        let bytes = Arc::new(AtomicU64::new(0));
        jobs.insert(name.clone(), Job::Runs(bytes.clone()));
        drop(jobs);
        let running = self.runtime.spawn(begin(bytes));
        let this = self.this.clone();
        self.runtime.spawn(async move {
            let reply = running.await.unwrap_or_else(|error| Reply::refused(format!("it did not finish: {error}")));
            if let Some(this) = this.upgrade() {
                lock(&this.jobs.0).insert(name, Job::Ended(reply, Instant::now()));
            }
        });
        Reply::Underway(0)
    }
}
