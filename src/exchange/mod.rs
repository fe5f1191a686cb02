//! What the main thread and the agent thread share: figures, and two mailboxes with a bell each.

pub mod last_error;
pub mod lease_clock;
pub mod own_logins;
pub mod passed_over;
pub mod pipe;
pub mod server_facts;
pub mod waker;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use durability_protocol::Known;
use valkey_module::logging::log_warning;

use crate::base::time_limit::EndTime;
use crate::decide::known_log::{Contradiction, Memory};
use crate::exchange::last_error::LastError;
use crate::exchange::own_logins::Origin;
use crate::exchange::passed_over::PassedOver;
use crate::exchange::pipe::Pipe;
use crate::exchange::server_facts::Facts;
use crate::exchange::waker::Bell;
use crate::log::shard_view::View;
use crate::node::audit_reads::Step;
use crate::settings::{self, Mode};

/// The state of the connection to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// Not connected.
    Down,
    /// Connected, or about to be told that it is not.
    Up,
}

/// A replication id and an offset in its stream, or why there is none.
pub type Position = Result<(String, u64), String>;

/// What the agent asks of the main thread.
pub enum Task {
    /// How can this server be reached, and does it hold data?
    Describe(Sender<Facts>),
    /// Become a replica of the log service.
    Follow { address: SocketAddr, user: String, password: String, reply: Sender<Result<(), String>> },
    /// As a replica of the log service, follow it at that address from now on.
    FollowAt(SocketAddr, Sender<Result<(), String>>),
    /// Become a primary. Answers the replication id and offset from which the stream goes on.
    Promote(Sender<Position>),
    /// Keep the replication stream from here on. Answers the position, or `None` if the server is no primary without
    /// replicas that stands at that offset.
    StartStream(u64, Sender<Option<(String, u64)>>),
    /// Which of these modules' types does the server not know?
    UnknownTypes(Vec<String>, Sender<Vec<String>>),
    /// How far has the server come as a replica of the log?
    Progress(Sender<Option<Progress>>),
    /// Does the server, as a replica of the log, have no connection to it, not even one on which it receives a full copy?
    LacksLink(Sender<bool>),
    /// Make the stream at least as long as that.
    Advance(u64, Sender<Result<(), String>>),
    /// Move the stream on by a command without effect. Answers where it ends then.
    MarkStream(Sender<Result<u64, String>>),
    /// Serve the client at the other end of that socket, a connection of the module's own, which logs in with each of these secrets.
    TakeConnection(OwnedFd, Vec<String>, Sender<Result<(), String>>),
    /// A connection of the module's own from there logs in with each of these secrets.
    ExpectLogins(Origin, Vec<String>, Sender<()>),
    /// From now on, write what is meant for the tap that is connected into the pipe. Answers whether that is possible.
    Divert(Arc<Pipe>, Sender<bool>),
    /// How many bytes wait on the connection of that client, which is held for the self-test?
    SelfTestPending(Sender<u64>),
    /// Let go of the connection that is held for the self-test.
    SelfTestRelease(Sender<()>),
    /// The self-test's client has selected the database with that number. Answers whether it is known now where clients
    /// say so.
    LearnDatabase(u32, Sender<bool>),
    /// The server has no database but the first.
    OneDatabase,
    /// Other modules may have commands: find out how their writes are told that they put into no stream.
    WatchModules,
    /// The self-test's result.
    SelfTestDone(Result<(), String>),
    /// Look at the replies in the module's memory, by the server's `client-output-buffer-limit` as it is now.
    LookAtHeldBytes,
    /// Read keys for an audit. Answers what was read.
    ReadKeys(Box<Step>, Sender<Box<Step>>),
    /// Find out whether the server waits for its replicas to shut down, for [`Shared::is_shutting_down`].
    LookForShutdown,
    /// Everything is in place: serve clients as the leader of that epoch, unless [`Shared::stage`] has moved on.
    Lead { epoch: u64, stage: u64 },
    /// Another node leads, and this one has all that the log had: serve reads, unless [`Shared::stage`] has moved on.
    ServeReads { stage: u64 },
    /// The lease of that epoch, which had passed, is renewed: serve clients again.
    Resume(u64),
    /// Writes are to be paused for a planned failover. Answers where the stream stands.
    PauseWrites(Sender<u64>),
    /// The planned failover does not take place: take writes again.
    GoOn,
    /// Cease to lead for a planned failover, unless the stream stands elsewhere than at that offset. Answers whether it does. Not
    /// to be done if `is_decided` is set: who asked does not wait any more. Set by whoever is first.
    StepDown {
        /// Where it should stand.
        end: u64,
        /// See above.
        is_decided: Arc<AtomicBool>,
        /// Whether the node has ceased to lead.
        reply: Sender<bool>,
    },
    /// The lease has passed: close all clients that were connected until then.
    CloseClients,
    /// The mode became off, or the server had to pass over something of its log: let it be a primary, whose history is its own.
    StopFollowing,
    /// Attach anew, if that is why the node refuses: it had to pass over something.
    StartOver(String),
    /// Try again to set back what the server had not taken back when it ceased to follow its log.
    RestoreSettings,
    /// Serve nobody until the next [`Task::Lead`], for that reason; a node that serves reads goes on doing so.
    Hold(String),
    /// The operator made the server a replica: leave the server's settings and commands alone.
    StandAside,
    /// The agent ships nothing any more, because the node is to have no log.
    TermEnded,
    /// Serve nobody, and answer with an error instead of `-LOADING`: an operator has to act.
    Refuse(String),
    /// What made this node refuse clients is over: it attaches to its log again.
    AttachAnew,
    /// The server is linked to its log, so all that it holds is from it: let it log in to the log as such from now on, by that user
    /// name. Answers whether it is linked.
    FollowsWhole(String, Sender<bool>),
    /// Up to where does the server hold what its log gave it, and under which replication id? `None` if it holds anything else.
    Held(Sender<Option<(String, u64)>>),
}

/// What the main thread tells the agent.
pub enum Command {
    /// The mode is now this.
    Mode(Mode),
    /// The operator made the server a replica of another one, or a primary again.
    Replica(bool),
    /// While it followed its log, the server was made a primary.
    LostItsLog,
    /// While it followed its log, the server had to pass over something.
    PassedOver(PassedOver),
    /// The server could not load the full copy that its log sent.
    CopyFailed,
    /// As a replica of the log, the server has applied everything up to the offset that [`Shared::attach_target`] asked for.
    Applied,
    /// There is news of who leads, in [`Shared::view`].
    Viewed,
    /// The log must start anew from this node's data: see [`Shared::seeds_wanted`].
    SeedAnew,
    /// This node handed over to another one.
    HandedOver,
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// See [`Interrupt::LogAccepted`](crate::agent::interrupt::Interrupt::LogAccepted).
    AcceptLog {
        /// The log's id.
        log_id: String,
        /// Whether it is to start anew from this node's data.
        seeds: bool,
    },
    /// The log service says that another node leads, or may.
    Fenced {
        /// The epoch that is over.
        epoch: u64,
        /// What it says.
        detail: String,
    },
    /// The server or the module goes away: ship what is left, release the lease, then end.
    Stop,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The replication id of what it has. With an offset it tells a history from any other.
    pub replid: String,
    /// What was applied: whole commands, whole transactions.
    pub applied: u64,
    /// What was received.
    pub received: u64,
    /// What was received is not applied for now, because the operator has paused clients, or a module's command blocks.
    pub is_paused: bool,
}

/// No target: see [`Shared::attach_target`].
pub const NO_TARGET: u64 = u64::MAX;

/// Figures that both threads read.
pub struct Shared {
    /// See [`Shared::durable`].
    durable_offset: AtomicU64,
    /// The log is to start from a snapshot of this node and does not hold it yet, so nothing is durable.
    pub is_seeding: AtomicBool,
    /// How often it was found that the log must start anew from this node, because it lacks what the node holds. Written by the main
    /// thread.
    pub seeds_wanted: AtomicU64,
    /// Of those, how many the last snapshot is younger than that the log took. Written by the agent.
    pub seeds_had: AtomicU64,
    /// Current epoch of this leader; 0 if it does not lead.
    pub epoch: AtomicU64,
    link: AtomicU8,
    /// While attaching: the offset that the main thread reports when it is applied, once.
    pub attach_target: AtomicU64,
    /// How often the connection to the log was made anew.
    pub log_reconnects: AtomicU64,
    /// How often the tap was made anew.
    pub tap_reconnects: AtomicU64,
    /// How often the log was started anew from a snapshot of this node.
    pub seeds: AtomicU64,
    /// Where the stream stood when the node was told to have no log any more. Written by the main thread.
    pub leave_offset: AtomicU64,
    /// The server waits for its replicas before it shuts down. Written by the main thread when the agent asks.
    pub is_shutting_down: AtomicBool,
    /// The node is told to have no log any more, so what takes long is to break off. Cleared by the agent.
    pub is_leaving: AtomicBool,
    /// Counts the times that this node ceased to lead or to be on its way there. Written by the main thread.
    pub stage: AtomicU64,
    /// The module is to end, and what takes long is to break off.
    pub is_stopping: AtomicBool,
    /// By when the node has ended, or left its log.
    pub end: EndTime,
    /// Client id of the tap's connection to this server; 0 if there is none.
    pub tap_client: AtomicU64,
    /// As a replica of the log: what is applied (exclusive end). Written by the main thread.
    pub applied: AtomicU64,
    /// It follows the log and serves reads. Written by the main thread.
    pub serves_reads: AtomicBool,
    /// It leads, but its lease has passed. Written by the main thread.
    pub is_suspended: AtomicBool,
    /// Its replies cannot be kept from leaving, so it must not hold a lease that expires. Written by the agent.
    pub keeps_no_lease: AtomicBool,
    /// How often the lease passed without being renewed, so that all clients were closed.
    pub suspensions: AtomicU64,
    /// How often another node took over from this one.
    pub depositions: AtomicU64,
    /// Bytes that this node wrote and the log never had, which it threw away when another node took over. At most so many: what the
    /// log had and did not acknowledge any more is counted too.
    pub discarded_bytes: AtomicU64,
    /// What this node knows of its log.
    memory: Mutex<Memory>,
    contradiction: Mutex<Option<Contradiction>>,
    log_address: Mutex<Option<SocketAddr>>,
    view: Mutex<Option<Arc<View>>>,
    last_error: Mutex<LastError>,
    keeper_error: Mutex<LastError>,
    failover: Mutex<String>,
    /// The name this node goes by; known once it has described itself.
    pub node_id: OnceLock<String>,
    /// Host name and port, once they are known.
    pub default_address: OnceLock<String>,
    /// Rings the main thread.
    pub main_bell: Bell,
    /// Rings the agent.
    pub agent_bell: Bell,
    /// To the main thread.
    pub tasks: Sender<Task>,
}

impl Shared {
    /// Nothing is connected yet. The receiver is the main thread's.
    ///
    /// # Errors
    /// The process has no more file descriptors.
    pub fn new() -> std::io::Result<(Self, Receiver<Task>)> {
        let (tasks, receiver) = crossbeam_channel::unbounded();
        let shared = Shared {
            durable_offset: AtomicU64::new(0),
            is_seeding: AtomicBool::new(false),
            seeds_wanted: AtomicU64::new(0),
            seeds_had: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            link: AtomicU8::new(Link::Down as u8),
            attach_target: AtomicU64::new(NO_TARGET),
            log_reconnects: AtomicU64::new(0),
            tap_reconnects: AtomicU64::new(0),
            seeds: AtomicU64::new(0),
            leave_offset: AtomicU64::new(0),
            is_shutting_down: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            stage: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            end: EndTime::default(),
            tap_client: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            serves_reads: AtomicBool::new(false),
            is_suspended: AtomicBool::new(false),
            keeps_no_lease: AtomicBool::new(false),
            suspensions: AtomicU64::new(0),
            depositions: AtomicU64::new(0),
            discarded_bytes: AtomicU64::new(0),
            memory: Mutex::default(),
            contradiction: Mutex::default(),
            log_address: Mutex::default(),
            view: Mutex::new(None),
            last_error: Mutex::default(),
            keeper_error: Mutex::default(),
            failover: Mutex::new(String::new()),
            node_id: OnceLock::new(),
            default_address: OnceLock::new(),
            main_bell: Bell::new()?,
            agent_bell: Bell::new()?,
            tasks,
        };
        Ok((shared, receiver))
    }

    /// Everything up to this offset is acknowledged by the log; `None` while it does not even hold the data that this node
    /// started with, or lacks what the node has written since. Any thread.
    pub fn durable(&self) -> Option<u64> {
        // The offset was published before seeding ended.
        self.acknowledged().filter(|_| !self.must_seed())
    }

    /// As [`Shared::durable`], but also while the log lacks what was written past the stream: how far it is with the stream. Any thread.
    pub fn acknowledged(&self) -> Option<u64> {
        (!self.is_seeding.load(Ordering::Acquire)).then(|| self.durable_offset.load(Ordering::Acquire))
    }

    /// Whether the log lacks something that this node holds and that is not on its way there. Any thread.
    pub fn must_seed(&self) -> bool {
        self.seeds_had.load(Ordering::Acquire) < self.seeds_wanted.load(Ordering::Acquire)
    }

    /// Makes known how far the log is. Agent only.
    pub fn set_durable(&self, offset: u64) {
        self.durable_offset.store(offset, Ordering::Release);
        self.main_bell.ring();
    }

    /// The state of the connection to the log.
    pub fn link(&self) -> Link {
        if self.link.load(Ordering::Relaxed) == Link::Up as u8 {
            Link::Up
        } else {
            Link::Down
        }
    }

    /// Sets [`Shared::link`].
    pub fn set_link(&self, link: Link) {
        self.link.store(link as u8, Ordering::Relaxed);
    }

    /// The last thing that went wrong; empty if nothing has since all was well.
    pub fn last_error(&self) -> String {
        self.error().text().to_owned()
    }

    /// Sets [`Shared::last_error`]. Returns whether the server's log is to say so.
    pub fn set_last_error(&self, error: &str) -> bool {
        self.error().set(error, Instant::now())
    }

    /// Clears [`Shared::last_error`], if that is still this error.
    pub fn has_passed(&self, error: &str) {
        let mut last = self.error();
        if last.text() == error {
            last.set("", Instant::now());
        }
    }

    /// What keeps the lease from being renewed. Returns whether the server's log is to say so.
    pub fn set_keeper_error(&self, error: &str) -> bool {
        self.lease_error().set(error, Instant::now())
    }

    /// A planned failover ended for that reason: empty if this node has handed over.
    pub fn failover_ended(&self, why: &str) {
        let mut last = self.failover.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        why.clone_into(&mut last);
    }

    /// Why the last planned failover did not take place; empty if it did, or none was asked for.
    pub fn failover_error(&self) -> String {
        self.failover.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// What this node knows of its log. Any thread.
    pub fn known(&self) -> Option<Known> {
        self.memory().now(self.durable())
    }

    /// Changes what this node knows, given what is durable.
    pub fn remember(&self, change: impl FnOnce(&mut Memory, Option<u64>)) {
        let durable = self.durable();
        change(&mut self.memory(), durable);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How the log contradicts what this node knows; `None` if it does not.
    pub fn contradiction(&self) -> Option<Contradiction> {
        self.contradiction.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Sets [`Shared::contradiction`]. Agent.
    pub fn set_contradiction(&self, contradiction: Option<Contradiction>) {
        *self.contradiction.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = contradiction;
    }

    /// Where a connection that stays last reached the log; `None` if none has. Any thread.
    pub fn log_address(&self) -> Option<SocketAddr> {
        *self.log_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Sets [`Shared::log_address`]. Agent and keeper.
    pub fn set_log_address(&self, address: SocketAddr) {
        *self.log_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(address);
    }

    /// What the log service last said of the shard's nodes.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// What was heard is of no account any more.
    pub fn forget_view(&self) {
        *self.view.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    /// What keeps the lease from being renewed; empty if nothing does.
    pub fn keeper_error(&self) -> String {
        self.lease_error().text().to_owned()
    }

    /// Sets [`Shared::view`], and returns it.
    pub fn set_view(&self, mut view: View) -> Arc<View> {
        let mut last = self.view.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(last) = &*last {
            view.follow(last);
        }
        let view = Arc::new(view);
        *last = Some(Arc::clone(&view));
        view
    }

    /// Among nodes that can take over, the highest does; 0: never this one. Any thread.
    pub fn priority(&self) -> u32 {
        if settings::FAILOVER.is_on() && self.keeps_no_lease.load(Ordering::Relaxed) {
            0
        } else {
            settings::priority()
        }
    }

    /// The name this node goes by; empty before it has described itself.
    pub fn node_id(&self) -> String {
        self.node_id.get().cloned().unwrap_or_default()
    }

    /// Where clients reach this node.
    pub fn address(&self) -> String {
        match settings::ANNOUNCE.value() {
            announced if announced.is_empty() => self.default_address.get().cloned().unwrap_or_default(),
            announced => announced,
        }
    }

    /// Something failed and will be tried again: sets [`Shared::last_error`], and logs it unless it was told a moment ago. Nothing is by a
    /// node that is told to end, or to have no log: that breaks off what was under way.
    pub fn try_again_after(&self, error: &str) {
        if self.end.get().is_none() && self.set_last_error(error) {
            log_warning(format!("durability: {error}; trying again"));
        }
    }

    fn error(&self) -> MutexGuard<'_, LastError> {
        self.last_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lease_error(&self) -> MutexGuard<'_, LastError> {
        self.keeper_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives the main thread a task, and wakes it.
    pub fn send(&self, task: Task) {
        // The main thread keeps the receiver for as long as the module is loaded.
        let _ = self.tasks.send(task);
        self.main_bell.ring();
    }
}
