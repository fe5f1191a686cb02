//! Decides which attempt is next. A bounded number run at a time, each of another shard. One that takes longer than its data explains is
//! ended if others wait. What another service makes takes no place here.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinHandle, JoinSet};

use super::attempts::{audit, snapshot, snapshot_elsewhere, snapshot_for_decider, Reason};
use super::{most_overdue, Attempts, SnapshotterOptions, LOOK_INTERVAL};
use crate::audit::Report;
use crate::base::background::Priority;
use crate::replica::files::{Made, NotMade};
use crate::service::engine_work::{EngineRequest, EngineWork};
use crate::service::Service;
use crate::shard::Shard;
use crate::store::SnapshotRecord;

/// Most audits of one shard that may wait.
const MAX_WAITING_AUDITS: usize = 8;
/// Most snapshots that other services make for this one at a time.
const MAX_ELSEWHERE: usize = 16;
/// How long a service makes the snapshots of a shard itself after no other one could.
const HERE_FOR: Duration = Duration::from_secs(60);
/// How long all attempts hurry after one got too little of a core.
const HURRY_FOR: Duration = Duration::from_secs(3600);

/// Makes snapshots when they are due or requested, and runs audits, until `shutdown`.
pub async fn run(
    service: Arc<Service>,
    options: SnapshotterOptions,
    mut requests: mpsc::Receiver<EngineRequest>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut turns = Turns {
        service,
        hurried: Arc::new(options.with_priority(Priority::Low)),
        options: Arc::new(options),
        hurries_until: None,
        waiting: VecDeque::new(),
        running: JoinSet::new(),
        places: Vec::new(),
        attempts: BTreeMap::new(),
        was_asked: false,
        here_until: BTreeMap::new(),
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

/// The attempts that run, and those that wait.
struct Turns {
    service: Arc<Service>,
    /// For attempts that nobody waits for.
    options: Arc<SnapshotterOptions>,
    /// For those that have to end on a machine that always has something else to do.
    hurried: Arc<SnapshotterOptions>,
    /// The machine was found to be like that: until then all attempts are of the second kind.
    hurries_until: Option<Instant>,
    waiting: VecDeque<Waiting>,
    running: JoinSet<Ended>,
    places: Vec<Place>,
    /// By log id.
    attempts: BTreeMap<String, Attempts>,
    /// Whether the last attempt was requested.
    was_asked: bool,
    /// Until when snapshots are made here that another service could make, by log id.
    here_until: BTreeMap<String, Instant>,
    /// Tasks that drop log of shards that take as much as they may, by log id.
    dropping: BTreeMap<String, JoinHandle<()>>,
}

/// A request that is not begun.
pub(super) struct Waiting {
    pub shard: Arc<Shard>,
    pub work: Asked,
}

pub(super) enum Asked {
    /// All who request a snapshot before it is begun get the same one.
    Snapshot(Vec<oneshot::Sender<Result<SnapshotRecord, Refusal>>>),
    SnapshotForDecider(oneshot::Sender<Result<Made, NotMade>>),
    Audit {
        keys: u64,
        reply: oneshot::Sender<Result<Report, Refusal>>,
    },
}

/// An attempt that runs.
struct Place {
    id: Id,
    log_id: String,
    /// When it takes longer than its data explains.
    overdue_at: Instant,
    /// It gets next to nothing of a core that others want.
    is_idle: bool,
    /// Ends it; `None` if that was requested.
    end: Option<oneshot::Sender<Reason>>,
    /// Another service does the work.
    is_elsewhere: bool,
}

/// The end of an attempt. `due` is `None` if it does not affect when the next snapshot is due; otherwise it holds the bytes by which the log
/// grew meanwhile, or `None` if the attempt failed.
pub(super) struct Ended {
    pub log_id: String,
    pub due: Option<Option<u64>>,
    /// No other service could do it: it is done here next, for those who requested it, if any did.
    pub is_left: Option<Waiting>,
}

impl Turns {
    fn add(&mut self, EngineRequest { shard, work }: EngineRequest) {
        let is_same = |waiting: &&mut Waiting| Arc::ptr_eq(&waiting.shard, &shard);
        let mut of_shard = self.waiting.iter_mut().filter(is_same);
        match work {
            EngineWork::Snapshot(reply) => {
                let asked = of_shard.find_map(|waiting| match &mut waiting.work {
                    Asked::Snapshot(replies) => Some(replies),
                    Asked::SnapshotForDecider(_) | Asked::Audit { .. } => None,
                });
                match asked {
                    Some(replies) => replies.push(reply),
                    None => self.waiting.push_back(Waiting { shard, work: Asked::Snapshot(vec![reply]) }),
                }
            }
            EngineWork::SnapshotForDecider(reply) => {
                self.waiting.push_back(Waiting { shard, work: Asked::SnapshotForDecider(reply) });
            }
            EngineWork::Audit { keys, reply } => {
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

    /// Begins attempts while there are places. If one waits without a place, ends the attempt that is overdue the longest.
    fn begin(&mut self) {
        // Forget requests whose clients have gone.
        self.waiting.retain_mut(|waiting| match &mut waiting.work {
            Asked::Snapshot(replies) => {
                replies.retain(|reply| !reply.is_closed());
                !replies.is_empty()
            }
            Asked::SnapshotForDecider(reply) => !reply.is_closed(),
            Asked::Audit { reply, .. } => !reply.is_closed(),
        });
        self.begin_elsewhere();
        self.end_starving();
        loop {
            let asked = self.waiting.iter().position(|waiting| !self.is_busy(&waiting.shard));
            let due = most_overdue(&self.service, &self.options, &self.attempts, |shard| self.is_busy(shard));
            if asked.is_none() && due.is_none() {
                return;
            }
            if self.places.iter().filter(|place| !place.is_elsewhere).count() >= self.options.max_engines.max(1) {
                return self.ask_to_give_way();
            }
            // Requests and due snapshots alternate, so that repeated requests do not keep out other shards.
            match (asked, due) {
                (Some(at), None) => self.begin_asked(at),
                (Some(at), Some(_)) if !self.was_asked => self.begin_asked(at),
                (_, Some(shard)) => {
                    self.was_asked = false;
                    self.spawn(&shard.clone(), false, |options, early| snapshot(shard, options, early, None));
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
                self.spawn(&shard.clone(), true, |options, early| snapshot(shard, options, early, Some(replies)));
            }
            Asked::SnapshotForDecider(reply) => {
                self.spawn(&shard.clone(), true, |options, early| snapshot_for_decider(shard, options, early, reply));
            }
            Asked::Audit { keys, reply } => {
                self.spawn(&shard.clone(), true, |options, early| audit(shard, options, early, keys, reply));
            }
        }
    }

    /// Begins an attempt, for which somebody waits or not.
    fn spawn<F: Future<Output = Ended> + Send + 'static>(
        &mut self,
        shard: &Shard,
        is_asked: bool,
        attempt: impl FnOnce(Arc<SnapshotterOptions>, oneshot::Receiver<Reason>) -> F,
    ) {
        let (end, ended_early) = oneshot::channel();
        let now = Instant::now();
        let overdue_at = now + self.options.engine.bounds.time_for(bytes_to_go_through(shard));
        let hurries = is_asked || self.hurries_until.is_some_and(|until| now < until);
        let options = if hurries { &self.hurried } else { &self.options }.clone();
        let id = self.running.spawn(attempt(options, ended_early)).id();
        let (log_id, end) = (shard.log_id(), Some(end));
        self.places.push(Place { id, log_id, overdue_at, is_idle: !hurries, end, is_elsewhere: false });
    }

    /// Ends attempts that were left too little of a core by other work on the machine. They are due again at once, and hurry then.
    fn end_starving(&mut self) {
        let now = Instant::now();
        for place in self.places.iter_mut().filter(|place| place.is_idle && place.overdue_at <= now) {
            if let Some(end) = place.end.take() {
                self.hurries_until = Some(now + HURRY_FOR);
                // It may have ended by itself.
                let _ = end.send(Reason::Starves);
            }
        }
    }

    /// Has other services make what they can make.
    fn begin_elsewhere(&mut self) {
        let now = Instant::now();
        self.here_until.retain(|_, until| *until > now);
        while self.places.iter().filter(|place| place.is_elsewhere).count() < MAX_ELSEWHERE {
            let may_be = |shard: &Shard| self.may_be_elsewhere(shard) && !self.is_busy(shard);
            let is_next = |waiting: &Waiting| matches!(waiting.work, Asked::Snapshot(_)) && may_be(&waiting.shard);
            let (shard, replies) = if let Some(at) = self.waiting.iter().position(is_next) {
                match self.waiting.remove(at) {
                    Some(Waiting { shard, work: Asked::Snapshot(replies) }) => (shard, Some(replies)),
                    _ => return,
                }
            } else {
                match most_overdue(&self.service, &self.options, &self.attempts, |shard| !may_be(shard)) {
                    Some(shard) => (shard, None),
                    None => return,
                }
            };
            let (log_id, overdue_at) = (shard.log_id(), Instant::now());
            let attempt = snapshot_elsewhere(self.service.clone(), shard, self.options.clone(), replies);
            let id = self.running.spawn(attempt).id();
            self.places.push(Place { id, log_id, overdue_at, is_idle: false, end: None, is_elsewhere: true });
        }
    }

    fn may_be_elsewhere(&self, shard: &Shard) -> bool {
        let has_others = self.service.files().is_some() && shard.is_replicated();
        has_others && shard.decides() && !self.here_until.contains_key(&shard.log_id())
    }

    fn ask_to_give_way(&mut self) {
        let now = Instant::now();
        if self.places.iter().any(|place| !place.is_elsewhere && place.end.is_none()) {
            // One is ending already.
            return;
        }
        let overdue = self.places.iter_mut().filter(|place| !place.is_elsewhere && place.overdue_at <= now);
        if let Some(end) = overdue.min_by_key(|place| place.overdue_at).and_then(|place| place.end.take()) {
            // It may have ended by itself.
            let _ = end.send(Reason::OthersWait);
        }
    }

    /// Records that the attempt `id` is over; `ended` is `None` if it panicked.
    fn end(&mut self, id: Id, ended: Option<Ended>) {
        self.places.retain(|place| place.id != id);
        let Some(Ended { log_id, due, is_left }) = ended else { return };
        if let Some(left) = is_left {
            self.here_until.insert(log_id.clone(), Instant::now() + HERE_FOR);
            if !matches!(&left.work, Asked::Snapshot(replies) if replies.is_empty()) {
                self.waiting.push_front(left);
            }
        }
        if let Some(grown_bytes) = due {
            let before = self.attempts.get(&log_id).copied();
            let open: Vec<_> = self.service.open_shards().iter().map(|shard| shard.log_id()).collect();
            self.attempts.retain(|log_id, _| open.contains(log_id));
            self.attempts.insert(log_id, Attempts::after(before, grown_bytes));
        }
    }

    /// Drops log of shards that take as much as they may. If the newest snapshot holds all that can be applied, a new one would not help:
    /// such a shard accepts appends again once log is dropped that was still being read when the snapshot was made, or that only older
    /// snapshots need.
    fn drop_log_of_full_shards(&mut self) {
        self.dropping.retain(|_, task| !task.is_finished());
        for shard in self.service.open_shards() {
            if shard.decides() && shard.is_over_quota() && !self.is_busy(&shard) {
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

/// How many bytes of a shard an engine is fed: the newest snapshot and the log after it.
pub(super) fn bytes_to_go_through(shard: &Shard) -> u64 {
    let manifest = shard.store().manifest();
    let (offset, bytes) = manifest.newest_snapshot().map_or((manifest.base, 0), |newest| (newest.offset, newest.bytes));
    bytes.saturating_add(shard.notifier().progress().visible.saturating_sub(offset))
}
