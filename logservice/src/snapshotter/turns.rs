//! Whose turn it is. So many attempts run at a time, each of another shard; one that takes longer than its data explains gives way
//! when others wait.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use durability_protocol::{Code, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinHandle, JoinSet};

use super::{make, most_overdue, refusal, Attempts, MakeError, Request, SnapshotterOptions, Work, LOOK_INTERVAL};
use crate::audit::{self, AuditError, Report};
use crate::service::Service;
use crate::shard::Shard;
use crate::store::SnapshotRecord;

/// Audits of one shard that may wait.
const MAX_WAITING_AUDITS: usize = 8;

/// Makes snapshots when they are due or asked for, until `shutdown`.
pub async fn run(
    service: Arc<Service>,
    options: SnapshotterOptions,
    mut requests: mpsc::Receiver<Request>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut turns = Turns {
        service,
        options: Arc::new(options),
        waiting: VecDeque::new(),
        running: JoinSet::new(),
        places: Vec::new(),
        attempts: BTreeMap::new(),
        was_asked: false,
        dropping: BTreeMap::new(),
    };
    let work = async {
        loop {
            turns.begin();
            turns.drop_log_of_full_shards();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => turns.add(request),
                    None => return,
                },
                Some(ended) = turns.running.join_next_with_id() => match ended {
                    Ok((id, ended)) => turns.end(id, Some(ended)),
                    Err(error) => {
                        tracing::error!("an attempt at a snapshot or an audit did not finish: {error}");
                        turns.end(error.id(), None);
                    }
                },
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = shutdown.wait_for(|stopping| *stopping) => {}
    }
}

/// Who has a turn, and who waits for one.
struct Turns {
    service: Arc<Service>,
    options: Arc<SnapshotterOptions>,
    waiting: VecDeque<Waiting>,
    running: JoinSet<Ended>,
    places: Vec<Place>,
    /// By the ids of the logs.
    attempts: BTreeMap<String, Attempts>,
    /// Whether the last one was asked for.
    was_asked: bool,
    /// What drops log of shards that take as much as they may, by the ids of the logs.
    dropping: BTreeMap<String, JoinHandle<()>>,
}

/// What was asked for and is not begun.
struct Waiting {
    shard: Arc<Shard>,
    work: Asked,
}

enum Asked {
    /// Nobody who asks for a snapshot that is not begun gets another one than who asked before.
    Snapshot(Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>),
    Audit {
        keys: u64,
        reply: oneshot::Sender<Result<Report, Refusal>>,
    },
}

/// An attempt that runs.
struct Place {
    id: Id,
    log_id: String,
    /// When it gives way if others wait.
    overdue_at: Instant,
    /// Tells it to; none if it was told.
    give_way: Option<oneshot::Sender<()>>,
}

/// What became of an attempt at a snapshot, and by how many bytes the log grew meanwhile; none if it failed. Nothing if it says nothing of
/// the next one.
struct Ended {
    log_id: String,
    due: Option<Option<u64>>,
}

impl Turns {
    fn add(&mut self, Request { shard, work }: Request) {
        let is_same = |waiting: &&mut Waiting| Arc::ptr_eq(&waiting.shard, &shard);
        let mut of_shard = self.waiting.iter_mut().filter(is_same);
        match work {
            Work::Snapshot(reply) => {
                let asked = of_shard.find_map(|waiting| match &mut waiting.work {
                    Asked::Snapshot(replies) => Some(replies),
                    Asked::Audit { .. } => None,
                });
                match asked {
                    Some(replies) => replies.push(reply),
                    None => self.waiting.push_back(Waiting { shard, work: Asked::Snapshot(vec![reply]) }),
                }
            }
            Work::Audit { keys, reply } => {
                let audits = of_shard.filter(|waiting| matches!(waiting.work, Asked::Audit { .. })).count();
                if audits < MAX_WAITING_AUDITS {
                    self.waiting.push_back(Waiting { shard, work: Asked::Audit { keys, reply } });
                } else {
                    let text = format!("no audit: {audits} of this shard wait for their turn already");
                    let _ = reply.send(Err(Refusal::new(Code::Err, text)));
                }
            }
        }
    }

    /// Begins what there is a place for. If there is none, and somebody waits for one, the attempt that is overdue the longest gives way.
    fn begin(&mut self) {
        // Who asked and is gone waits no more.
        self.waiting.retain_mut(|waiting| match &mut waiting.work {
            Asked::Snapshot(replies) => {
                replies.retain(|reply| !reply.is_closed());
                !replies.is_empty()
            }
            Asked::Audit { reply, .. } => !reply.is_closed(),
        });
        loop {
            let asked = self.waiting.iter().position(|waiting| !self.is_busy(&waiting.shard));
            let due = most_overdue(&self.service, &self.options, &self.attempts, |shard| self.is_busy(shard));
            if asked.is_none() && due.is_none() {
                return;
            }
            if self.places.len() >= self.options.max_engines.max(1) {
                return self.ask_to_give_way();
            }
            // Who asks again and again does not keep others from getting theirs.
            match (asked, due) {
                (Some(at), None) => self.begin_asked(at),
                (Some(at), Some(_)) if !self.was_asked => self.begin_asked(at),
                (_, Some(shard)) => {
                    self.was_asked = false;
                    self.spawn(&shard.clone(), |options, gave_way| snapshot(shard, options, gave_way, None));
                }
                (None, None) => return,
            }
        }
    }

    fn begin_asked(&mut self, at: usize) {
        self.was_asked = true;
        let Some(Waiting { shard, work }) = self.waiting.remove(at) else { return };
        match work {
            Asked::Snapshot(replies) => {
                self.spawn(&shard.clone(), |options, gave_way| snapshot(shard, options, gave_way, Some(replies)));
            }
            Asked::Audit { keys, reply } => {
                self.spawn(&shard.clone(), |options, gave_way| audit(shard, options, gave_way, keys, reply));
            }
        }
    }

    fn spawn<F: Future<Output = Ended> + Send + 'static>(
        &mut self,
        shard: &Shard,
        attempt: impl FnOnce(Arc<SnapshotterOptions>, oneshot::Receiver<()>) -> F,
    ) {
        let (give_way, gave_way) = oneshot::channel();
        let overdue_at = Instant::now() + self.options.engine.bounds.time_for(bytes_to_go_through(shard));
        let id = self.running.spawn(attempt(self.options.clone(), gave_way)).id();
        self.places.push(Place { id, log_id: shard.log_id(), overdue_at, give_way: Some(give_way) });
    }

    fn ask_to_give_way(&mut self) {
        let now = Instant::now();
        if self.places.iter().any(|place| place.give_way.is_none()) {
            // It does.
            return;
        }
        let overdue = self.places.iter_mut().filter(|place| place.overdue_at <= now);
        if let Some(give_way) = overdue.min_by_key(|place| place.overdue_at).and_then(|place| place.give_way.take()) {
            // It may have ended by itself.
            let _ = give_way.send(());
        }
    }

    /// The attempt `id` is over; `ended` is none if it panicked.
    fn end(&mut self, id: Id, ended: Option<Ended>) {
        self.places.retain(|place| place.id != id);
        if let Some(Ended { log_id, due: Some(grown_bytes) }) = ended {
            let before = self.attempts.get(&log_id).copied();
            let open: Vec<_> = self.service.open_shards().iter().map(|shard| shard.log_id()).collect();
            self.attempts.retain(|log_id, _| open.contains(log_id));
            self.attempts.insert(log_id, Attempts::after(before, grown_bytes));
        }
    }

    /// A shard that takes as much as it may, and of which nothing can be applied that is not in its newest snapshot, goes on once log is
    /// dropped that somebody still read when that snapshot was made, or that only older snapshots need.
    fn drop_log_of_full_shards(&mut self) {
        self.dropping.retain(|_, task| !task.is_finished());
        for shard in self.service.open_shards() {
            if shard.is_over_quota() && !self.is_busy(&shard) {
                let task = self.dropping.entry(shard.log_id());
                task.or_insert_with(|| tokio::spawn(async move { shard.drop_log_over_quota().await }));
            }
        }
    }

    fn is_busy(&self, shard: &Shard) -> bool {
        let log_id = shard.log_id();
        self.places.iter().any(|place| place.log_id == log_id)
    }
}

/// What an engine is fed of a shard: the newest snapshot, and the log after it.
fn bytes_to_go_through(shard: &Shard) -> u64 {
    let manifest = shard.store().manifest();
    let (offset, bytes) = manifest.newest_snapshot().map_or((manifest.base, 0), |newest| (newest.offset, newest.bytes));
    bytes.saturating_add(shard.notifier().progress().visible.saturating_sub(offset))
}

/// Makes a snapshot, for those who asked if somebody did.
async fn snapshot(
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    gave_way: oneshot::Receiver<()>,
    replies: Option<Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>>,
) -> Ended {
    shard.note_snapshotting(true, None);
    let (began, end) = (Instant::now(), shard.notifier().progress().visible);
    let newest = shard.store().manifest().newest_snapshot().map(|newest| newest.offset);
    let made = tokio::select! {
        made = make::make(&shard, &options) => made,
        refusal = shard.notifier().dropped() => Err(refusal.into()),
        () = told(gave_way) => Err(MakeError::GaveWay { after: began.elapsed() }),
    };
    shard.note_snapshotting(false, Some(made.as_ref().err().map(ToString::to_string)));
    let log_id = shard.log_id();
    let grown_bytes = made.is_ok().then(|| shard.notifier().progress().visible.saturating_sub(end));
    // A snapshot that was asked for counts as one that nobody asked for, if it is a new one. Failures of those who ask put off nothing.
    let is_new = made.as_ref().is_ok_and(|record| Some(record.offset) != newest);
    let due = (replies.is_none() || is_new).then_some(grown_bytes);
    let made = made.map_err(refusal);
    for reply in replies.into_iter().flatten() {
        // Who asked may be gone.
        let _ = reply.send(made.clone());
    }
    Ended { log_id, due }
}

async fn audit(
    shard: Arc<Shard>,
    options: Arc<SnapshotterOptions>,
    gave_way: oneshot::Receiver<()>,
    keys: u64,
    mut reply: oneshot::Sender<Result<Report, Refusal>>,
) -> Ended {
    let began = Instant::now();
    let given_up = async {
        tokio::select! {
            () = reply.closed() => AuditError::Abandoned,
            () = told(gave_way) => AuditError::GaveWay { after: began.elapsed() },
            refusal = shard.notifier().dropped() => refusal.into(),
        }
    };
    let done = audit::run(&shard, &options.engine, keys, given_up).await;
    // Who asked may be gone.
    let _ = reply.send(done.map_err(|error| Refusal::new(Code::Err, format!("no audit: {error}"))));
    Ended { log_id: shard.log_id(), due: None }
}

/// Waits until it is told to give way.
async fn told(gave_way: oneshot::Receiver<()>) {
    if gave_way.await.is_err() {
        // Nobody can tell it any more.
        std::future::pending::<()>().await;
    }
}
