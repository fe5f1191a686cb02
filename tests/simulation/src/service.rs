//! One life of the log service: the real shard, and the commands that it is busy with.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use durability_protocol::{Code, Refusal};
use logservice::shard::{Heard, Held, Node, Renewal, Role, Shard, Status, Submitted, Switches, Ticket};
use logservice::snapshots::SnapshotStore;
use logservice::store::{Blocks, ClusterSlots, Manifest, Opened, SnapshotRecord};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::ObjectStoreExt;

use crate::disk::Disk;
use crate::environment::{pause, Clock, Ready, SimulatedEnvironment};
use crate::message::{Answer, Caller, NodeIndex, Request, View};
use crate::rules::NodeRule;
use crate::store::SimulatedStore;

/// The shard's name.
pub const SHARD: &str = "s";
/// The nodes' names.
pub const NAMES: [&str; 4] = ["n0", "n1", "n2", "n3"];
/// Where the nodes are reached.
pub const ADDRESSES: [&str; 4] = ["h:0", "h:1", "h:2", "h:3"];
/// For how long a lease is left to a successor.
const RESERVE: Duration = Duration::from_millis(300);
/// Length of the blocks that have checksums of their own.
const BLOCK_BYTES: u64 = 1 << 20;

type Running = Pin<Box<dyn Future<Output = Result<Answer, Refusal>>>>;

/// A command that is being carried out.
struct Task {
    /// The number of the connection on which it came.
    connection: u64,
    caller: Caller,
    request: Request,
    running: Running,
    ready: Arc<Ready>,
    /// An append that was accepted or refused, and waits to be answered.
    is_submitted: Rc<Cell<bool>>,
}

/// One life of the service.
pub struct Service {
    /// Its number.
    pub life: u32,
    keeps_order: bool,
    /// The shard.
    pub shard: Arc<Shard>,
    /// What it runs in.
    pub environment: Arc<SimulatedEnvironment>,
    /// Where its bytes are, if that is for the simulation to say.
    pub store: Option<Arc<SimulatedStore>>,
    snapshots: Arc<SnapshotStore>,
    objects: Arc<InMemory>,
    disk: Disk,
    /// In the order in which they were taken in.
    tasks: Vec<Task>,
}

/// A command that was answered.
pub struct Answered {
    /// The number of the connection on which it came.
    pub connection: u64,
    /// Who asked.
    pub caller: Caller,
    /// What.
    pub request: Request,
    /// What it is told.
    pub answer: Result<Answer, Refusal>,
}

impl Service {
    /// Starts on what is on the disk. `broken` is a rule that nobody keeps.
    pub fn start(life: u32, clock: &Clock, disk: &Disk, objects: &Arc<InMemory>, broken: Option<NodeRule>) -> Self {
        let environment = Arc::new(SimulatedEnvironment::new(clock.clone()));
        let snapshots = Arc::new(SnapshotStore::over(objects.clone(), "/nonexistent".into()));
        let mut opened = None;
        let shard = Shard::open_in(environment.clone(), SHARD, snapshots.clone(), Switches::new(16), |events| {
            let (store, end) = SimulatedStore::open(disk, SHARD, events)?;
            opened = Some(store.clone());
            Ok(Opened { store, end })
        });
        let (Ok(shard), store @ Some(_)) = (shard, opened) else { unreachable!("a simulated store opens") };
        let keeps_order = broken != Some(NodeRule::KeepsOrder);
        Service { store, keeps_order, ..Service::over(life, shard, environment, snapshots, objects, disk) }
    }

    /// A life with a shard that was opened over another store. `disk` has the truth about snapshots.
    pub fn over(
        life: u32,
        shard: Shard,
        environment: Arc<SimulatedEnvironment>,
        snapshots: Arc<SnapshotStore>,
        objects: &Arc<InMemory>,
        disk: &Disk,
    ) -> Self {
        let (shard, objects, disk, tasks) = (Arc::new(shard), objects.clone(), disk.clone(), Vec::new());
        Service { life, keeps_order: true, shard, environment, store: None, snapshots, objects, disk, tasks }
    }

    /// Whether the next command of a connection is taken in: those before it are answered, or are appends that were submitted as it is to be.
    pub fn may_take_in(&self, connection: u64, request: &Request) -> bool {
        let mut before = self.tasks.iter().filter(|task| task.connection == connection);
        match request {
            Request::Append { .. } => before.all(|task| task.is_submitted.get()),
            _ => before.next().is_none(),
        }
    }

    /// Takes in a command.
    pub fn take_in(&mut self, connection: u64, caller: Caller, request: Request, random: u32) {
        let is_submitted = Rc::new(Cell::new(false));
        let running = self.run(caller, request.clone(), random, &is_submitted);
        self.tasks.push(Task { connection, caller, request, running, ready: Ready::new(), is_submitted });
    }

    /// How many commands are being carried out.
    pub fn busy_with(&self) -> usize {
        self.tasks.len()
    }

    /// The places of the commands that can go on.
    pub fn ready_tasks(&self) -> Vec<usize> {
        (0..self.tasks.len()).filter(|&at| self.tasks[at].ready.is_set() && self.may_go_on(at)).collect()
    }

    /// An append that was submitted is answered when those before it on its connection are.
    fn may_go_on(&self, at: usize) -> bool {
        let (before, task) = (&self.tasks[..at], &self.tasks[at]);
        let is_first = || before.iter().all(|before| before.connection != task.connection);
        !self.keeps_order || !task.is_submitted.get() || is_first()
    }

    /// Lets the command at that place go on. What it is answered, if it is over.
    pub fn go_on(&mut self, at: usize) -> Option<Answered> {
        let task = &mut self.tasks[at];
        task.ready.clear();
        let waker = Waker::from(task.ready.clone());
        let Poll::Ready(answer) = task.running.as_mut().poll(&mut Context::from_waker(&waker)) else { return None };
        let Task { connection, caller, request, .. } = self.tasks.remove(at);
        Some(Answered { connection, caller, request, answer })
    }

    fn run(&self, caller: Caller, request: Request, random: u32, is_submitted: &Rc<Cell<bool>>) -> Running {
        let shard = self.shard.clone();
        match request {
            Request::Poll { leads, priority, applied, seen, wait_ms } => {
                let Caller::Node { index, .. } = caller else { unreachable!("only nodes poll") };
                let role = if leads { Role::Leader } else { Role::Follower };
                Box::pin(async move {
                    let (node_id, address, wait) = (NAMES[index], ADDRESSES[index], Duration::from_millis(wait_ms));
                    let (zone, figures, settings) = ("", None, None);
                    let heard = Heard { node_id, address, role, priority, applied, wait, zone, figures, settings };
                    let mut poll = shard.poll(heard, seen)?;
                    poll.due().await;
                    Ok(Answer::View(view(&shard.status(), index)))
                })
            }
            Request::Acquire { expected_end, lease_ms, replid, seen, .. } => {
                let Caller::Node { index, life } = caller else { unreachable!("only nodes acquire") };
                Box::pin(async move {
                    let process = process(index, life);
                    let (node_id, address, process) = (NAMES[index], ADDRESSES[index], Some(process.as_str()));
                    let node = Node { node_id, address, engine: None, process, databases: None };
                    let replid = Some(replid.as_str()).filter(|id| !id.is_empty());
                    let held = Held { end: expected_end, replid, seen: Some(seen) };
                    let (epoch, end) = shard.acquire(node, held, lease_ms).await?;
                    Ok(Answer::Acquired { epoch, end })
                })
            }
            Request::Renew { epoch, lease_ms, sent } => Box::pin(async move {
                shard.renew(Renewal { epoch, lease_ms, sent: Some(sent.0) }).await.map(|()| Answer::Done)
            }),
            Request::Begin { epoch, replid, offset } => {
                Box::pin(async move { shard.begin(epoch, &replid, offset).await.map(|()| Answer::Done) })
            }
            Request::Append { epoch, offset, payload } => {
                Box::pin(append(shard, epoch, offset, payload, is_submitted.clone()))
            }
            Request::GetSlots { epoch, .. } => {
                Box::pin(async move { shard.cluster_slots(epoch).await.map(Answer::Slots) })
            }
            Request::SetSlots { epoch, config_epoch, slots, sent } => {
                let (cluster_node_id, sent) = (String::new(), Some(sent.0));
                let next =
                    ClusterSlots { config_epoch, slots, cluster_node_id, epoch, sent, ..ClusterSlots::default() };
                Box::pin(async move { shard.set_cluster_slots(next).await.map(|()| Answer::Done) })
            }
            Request::Resign { epoch, to } => {
                Box::pin(async move { shard.resign(epoch, successor(to)).await.map(|()| Answer::Done) })
            }
            Request::Release { epoch, to, force } => Box::pin(async move {
                match force {
                    true => shard.force_release(epoch, successor(to)).await,
                    false => shard.release(epoch, successor(to), std::future::pending()).await,
                }
                .map(|()| Answer::Done)
            }),
            Request::Seed { epoch, replid, offset, content } => {
                let keeper = self.keeper();
                Box::pin(async move {
                    shard.check_seed(epoch, &replid, offset)?;
                    let manifest = shard.store().manifest();
                    let record = keeper.put(&manifest, offset, &replid, content, random).await;
                    let _held = keeper.snapshots.hold(&record.file);
                    pause().await;
                    shard.install_stored_seed(epoch, &replid, record).await?;
                    shard.remove_all_other_snapshots().await;
                    Ok(Answer::Done)
                })
            }
            Request::Snapshot { keep } => {
                let keeper = self.keeper();
                Box::pin(async move { snapshot(shard, keeper, keep, random).await })
            }
        }
    }

    fn keeper(&self) -> Keeper {
        Keeper { snapshots: self.snapshots.clone(), objects: self.objects.clone(), disk: self.disk.clone() }
    }
}

/// Who stores snapshots.
struct Keeper {
    snapshots: Arc<SnapshotStore>,
    objects: Arc<InMemory>,
    disk: Disk,
}

impl Keeper {
    /// Stores a snapshot, durably, as a draft is stored. The caller keeps it from being removed.
    async fn put(&self, of: &Manifest, offset: u64, replid: &str, content: Bytes, random: u32) -> SnapshotRecord {
        let file = format!("{}-{}/{offset:020}-{random:08x}.rdb", of.shard, of.id);
        let _held = self.snapshots.hold(&file);
        self.disk.lock().stored.insert(file.clone(), content.clone());
        let crc32c = crc32c::crc32c(&content);
        let sums = if content.is_empty() { Vec::new() } else { vec![crc32c] };
        let bytes = content.len() as u64;
        if let Err(error) = self.objects.put(&Path::from(file.as_str()), content.into()).await {
            unreachable!("memory takes everything: {error}");
        }
        SnapshotRecord {
            offset,
            file,
            bytes,
            crc32c,
            blocks: Some(Blocks { bytes: BLOCK_BYTES, crc32c: sums }),
            replid: replid.to_owned(),
            engine: None,
            time_ms: 0,
            contents: None,
            encrypt_key: None,
        }
    }
}

/// As `snapshotter/make.rs` goes about it: made of the newest one and the log after it, stored, then recorded.
async fn snapshot(shard: Arc<Shard>, keeper: Keeper, keep: usize, random: u32) -> Result<Answer, Refusal> {
    let made_of = shard.store().manifest();
    let end = shard.notifier().progress().visible;
    let nothing_new = || Refusal::new(Code::Err, "nothing is new since the last snapshot");
    let copy = full_copy(&shard).ok_or_else(nothing_new)?;
    let (mut content, mut pin) = (copy.content, copy.pin);
    if end <= copy.offset {
        return Err(nothing_new());
    }
    while (content.len() as u64) < end {
        pause().await;
        let unreadable = |error: logservice::store::ReadError| Refusal::new(Code::Err, error.to_string());
        if shard.notifier().progress().stream != copy.stream {
            return Err(Refusal::new(Code::Err, "the stream goes on otherwise"));
        }
        let mut reader = shard.store().reader(content.len() as u64).map_err(|error| {
            if shard.store().manifest().generation == made_of.generation {
                keeper.disk.lock().violation(format!("log that is pinned cannot be read: {error}"));
            }
            unreadable(error)
        })?;
        content.extend_from_slice(&reader.read(end, 64).map_err(unreadable)?);
        pin.advance(content.len() as u64);
    }
    pause().await;
    let record = keeper.put(&made_of, end, &copy.replid, content.into(), random).await;
    let held = keeper.snapshots.hold(&record.file);
    drop(pin);
    pause().await;
    shard.keep_stored(&made_of, record, held, keep).await.map(|_| Answer::Done)
}

/// What a full copy holds.
pub struct Copied {
    /// All bytes up to `offset`.
    pub content: Vec<u8>,
    /// Where it stands.
    pub offset: u64,
    /// The replication id under which the stream goes on.
    pub replid: String,
    /// The stream it belongs to.
    pub stream: u64,
    /// Keeps the log from there on.
    pub pin: logservice::shard::Pin,
}

/// A full copy, read to its end in one step.
pub fn full_copy(shard: &Shard) -> Option<Copied> {
    thread_local! {
        /// Objects are read by tasks of their own, which need a runtime. Memory answers at once, so it has no threads and no time.
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().unwrap_or_else(|error| panic!("no runtime: {error}"));
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let copy = shard.full_copy().await.ok()?;
            let mut content = Vec::new();
            if let Some((_, mut reader)) = copy.snapshot {
                while let Some(part) = reader.next().await.ok()? {
                    content.extend_from_slice(&part);
                }
            }
            let (offset, replid, stream, pin) = (copy.offset, copy.replid, copy.stream, copy.pin);
            Some(Copied { content, offset, replid, stream, pin })
        })
    })
}

async fn append(
    shard: Arc<Shard>,
    epoch: u64,
    offset: u64,
    payload: Bytes,
    is_submitted: Rc<Cell<bool>>,
) -> Result<Answer, Refusal> {
    let mut progress = shard.notifier().subscribe();
    let submitted = submit(&shard, epoch, offset, payload).await;
    is_submitted.set(true);
    // Also a refusal is answered after the appends before it.
    pause().await;
    let ticket = submitted?;
    loop {
        let outcome = ticket.outcome(&progress.borrow_and_update());
        if let Some(outcome) = outcome {
            return outcome.map(Answer::Appended);
        }
        if progress.changed().await.is_err() {
            return Err(Refusal::new(Code::Err, "the shard is gone"));
        }
    }
}

async fn submit(shard: &Shard, epoch: u64, offset: u64, payload: Bytes) -> Result<Ticket, Refusal> {
    match shard.append(epoch, offset, payload)? {
        Submitted::Accepted(ticket) => Ok(ticket),
        Submitted::Overlaps(overlap) => shard.append_overlapping(overlap).await,
    }
}

/// Which process of a node it is.
pub fn process(index: NodeIndex, life: u32) -> String {
    format!("{index}.{life}")
}

fn successor(to: Option<NodeIndex>) -> Option<(&'static str, Duration)> {
    to.map(|index| (NAMES[index], RESERVE))
}

fn view(status: &Status, index: NodeIndex) -> View {
    let others = status.nodes.iter().filter(|node| node.id != NAMES[index]);
    View {
        version: status.version,
        epoch: status.epoch,
        leader: status.leader.clone(),
        lease_remaining_ms: status.lease_remaining_ms,
        reserved_for: status.reserved_for.clone(),
        end: status.end,
        peers: others.map(|node| (node.id.clone(), node.priority, node.applied, node.contact_ms)).collect(),
    }
}
