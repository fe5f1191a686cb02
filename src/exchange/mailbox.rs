//! The messages between the main thread and the agent's threads. The sender puts a message into the mailbox, and then wakes the reader:
//! [`Shared::send`](crate::exchange::Shared::send) does both.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::decide::cluster_claim::{Claim, Stored};
use crate::decide::known_log::Contradiction;
use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};
use crate::exchange::audit_step::AuditStep;
use crate::exchange::own_logins::Origin;
use crate::exchange::passed_over::PassedOver;
use crate::exchange::pipe::Pipe;
use crate::exchange::server_facts::ServerFacts;
use crate::log::services::Reached;
use crate::settings::Mode;

/// A replication id and an offset in its stream (exclusive), or why there is none.
pub type Position = Result<(String, u64), String>;

/// What the agent asks of the main thread.
pub enum Task {
    /// How can this server be reached, and does it hold data?
    Describe(Sender<ServerFacts>),
    /// Become a replica of the log service.
    Follow {
        /// Where it is.
        at: Reached,
        /// With which the server logs in there.
        user: String,
        /// With which the server logs in there.
        password: String,
        /// Whether the log knows which slots of a cluster the shard serves, so that this node need not.
        knows_slots: bool,
        /// Why the server does not.
        reply: Sender<Result<(), String>>,
    },
    /// As a replica of the log service, follow that one, at that address, from now on.
    FollowAt(Reached, Sender<Result<(), String>>),
    /// The cluster has made the server, as a replica of the log service, one of another node: follow the log again.
    FollowAgain,
    /// Become a primary, and in a cluster that of the shard, by that claim. Answers the replication id and offset from which the stream goes
    /// on.
    Promote(Option<Claim>, Sender<Position>),
    /// What is the leader of this shard to claim in its cluster, of which the log has stored that?
    PlanClaim(Stored, Sender<Result<Claim, String>>),
    /// Become the shard's primary in the cluster, by that claim. The server is no replica.
    TakeClaim(Claim, Sender<Result<(), String>>),
    /// The log has stored what this leader is in its cluster, or has not, for that reason.
    ClaimStored(Claim, Result<(), String>),
    /// The log has answered what was asked of it while slots move.
    SlotStepAnswered(SlotStep, Result<SlotAnswer, NotDone>),
    /// A user has the server move slots: ask the nodes that get them which shards they belong to.
    AskForTargets,
    /// Something of slots that move is due.
    MoveSlots,
    /// This node leads no more: the server ends what moves slots.
    EndSlotMoves,
    /// This node has handed over in a cluster: do clients still wait until the bus has told who leads?
    AwaitsRedirect(Sender<bool>),
    /// Become a replica of that node in the cluster, which leads. Answers whether this node is one.
    BelongTo(String, Sender<bool>),
    /// Keep the replication stream from here on. Answers the position, or `None` unless the server is a primary without replicas that
    /// stands at that offset.
    StartStream(u64, Sender<Option<(String, u64)>>),
    /// Which of these modules' types does the server not know?
    UnknownTypes(Vec<String>, Sender<Vec<String>>),
    /// How far has the server come as a replica of the log?
    Progress(Sender<Option<Progress>>),
    /// Where does the server stand, whatever it holds?
    StandsAt(Sender<Position>),
    /// The server, as a replica of the log, cannot apply what stands there.
    PassOver(PassedOver),
    /// Does the server, as a replica of the log, have no connection to it, not even one on which it receives a full copy?
    LacksLink(Sender<bool>),
    /// Make the stream at least that long.
    Advance(u64, Sender<Result<(), String>>),
    /// Move the stream on by a command without effect. Answers where it ends then.
    MarkStream(Sender<Result<u64, String>>),
    /// Serve the client at the other end of that socket, which is the module's own and logs in once with each of these secrets.
    TakeConnection(OwnedFd, Vec<String>, Sender<Result<(), String>>),
    /// Expect one of the module's own connections from there, which logs in once with each of these secrets.
    ExpectLogins(Origin, Vec<String>, Sender<()>),
    /// From now on, write what is meant for the connected tap into the pipe. Answers whether that is possible.
    Divert(Arc<Pipe>, Sender<bool>),
    /// How many bytes wait on the connection that is held for the self-test?
    SelfTestPending(Sender<u64>),
    /// Release the connection that is held for the self-test.
    SelfTestRelease(Sender<()>),
    /// The self-test's client has selected the database with that number. Answers whether it is known now where clients keep it.
    LearnDatabase(u32, Sender<bool>),
    /// The server has only one database.
    OneDatabase,
    /// Other modules may have commands: find out how to notice writes of theirs that they do not replicate.
    WatchModules,
    /// Another module has put that command into the stream, which no leader may log. It is not shipped: the log must start anew.
    FoundUnfit(String),
    /// The self-test's result.
    SelfTestDone(Result<(), String>),
    /// Check the replies in the module's memory against the server's current `client-output-buffer-limit`.
    LookAtHeldBytes,
    /// Look at some of what the log service compares among nodes, for [`Monitoring`](crate::exchange::monitoring::Monitoring).
    LookAtSettings,
    /// Read keys for an audit. Answers what was read.
    ReadKeys(Box<AuditStep>, Sender<Box<AuditStep>>),
    /// Find out whether the server waits for its replicas to shut down, for
    /// [`Shared::is_shutting_down`](crate::exchange::Shared::is_shutting_down).
    LookForShutdown,
    /// Everything is in place: serve clients as the leader of that epoch, unless [`Shared::stage`](crate::exchange::Shared::stage) has
    /// moved on.
    Lead { epoch: u64, stage: u64 },
    /// Another node leads, and this one has all that the log had: serve reads, unless
    /// [`Shared::stage`](crate::exchange::Shared::stage) has moved on.
    ServeReads { stage: u64 },
    /// The lease of that epoch had passed and is renewed: serve clients again.
    Resume(u64),
    /// Pause writes for a planned failover. Answers where the stream stands.
    PauseWrites(Sender<u64>),
    /// The planned failover does not take place: accept writes again.
    GoOn,
    /// Stop leading for a planned failover, unless the stream stands at another offset.
    StepDown {
        /// Where the stream should stand (exclusive).
        end: u64,
        /// Whichever thread sets this first decides. Set by the asker: it waits no longer, and the main thread does nothing. Set by the
        /// main thread: its answer comes.
        is_decided: Arc<AtomicBool>,
        /// Whether the node has stopped leading.
        reply: Sender<bool>,
    },
    /// The lease has passed: close all clients that were connected until then.
    CloseClients,
    /// This node has handed over in a cluster, and neither follows its log yet nor has heard who leads: close the clients whose commands wait
    /// for that in the server.
    CloseWaiting,
    /// The mode became off, or the server passed over something of its log: let it be a primary with a history of its own.
    StopFollowing,
    /// The node refuses clients because it passed over something, for that reason: attach again if it still is the reason.
    StartOver(String),
    /// Try again to restore the settings that the server refused to restore when it stopped following its log.
    RestoreSettings,
    /// Serve nobody until the next [`Task::Lead`], for that reason. A node that serves reads keeps serving them.
    Hold(String),
    /// The operator made the server a replica: leave the server's settings and commands alone.
    StandAside,
    /// The node is to have no log, and the agent ships nothing any more.
    ShippingEnded,
    /// Serve nobody, and answer with an error instead of `-LOADING`: an operator has to act.
    Refuse(String),
    /// What made this node refuse clients is over: it attaches to its log again.
    AttachAnew,
    /// If the server is linked to its log, everything it holds is from it: let it log in to the log as such from now on, by that user
    /// name. Answers whether it is linked.
    FollowsWhole(String, Sender<bool>),
    /// Up to where does the server hold what its log gave it, and under which replication id? `None` if it holds anything else.
    Held(Sender<Option<(String, u64)>>),
}

/// What the main thread and the lease keeper tell the agent.
pub enum Command {
    /// The mode is now this.
    Mode(Mode),
    /// The operator made the server a replica of another one, or a primary again.
    Replica(bool),
    /// While it followed its log, the server was made a primary.
    LostItsLog,
    /// While it followed its log, the server passed over something.
    PassedOver(PassedOver),
    /// The server could not load the full copy that its log sent.
    CopyFailed,
    /// As a replica of the log, the server has applied everything up to the offset in
    /// [`Shared::attach_target`](crate::exchange::Shared::attach_target).
    Applied,
    /// There is news of who leads, in [`Shared::view`](crate::exchange::Shared::view).
    Viewed,
    /// The log must start anew from this node's data: see [`Shared::snapshots_wanted`](crate::exchange::Shared::snapshots_wanted).
    SnapshotWanted,
    /// This node gave the lease to another one.
    HandedOver,
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// The operator says that the log of that id is right.
    AcceptLog {
        /// The log's id.
        log_id: String,
        /// Whether the log starts anew from this node's data. If not, this node's data gives way to the log's.
        keeps_own_data: bool,
    },
    /// The log service says that another node leads, or may.
    Fenced {
        /// The epoch that is over.
        epoch: u64,
        /// What the log service says.
        detail: String,
    },
    /// The server or the module goes away: ship what is left, release the lease, then end.
    Stop,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The replication id of what it has. Together with an offset it identifies a history.
    pub replid: String,
    /// What it has applied (exclusive end): whole commands, whole transactions.
    pub applied: u64,
    /// What it has received (exclusive end).
    pub received: u64,
    /// What it received is not applied for now: the operator has paused clients, or a module's command blocks.
    pub is_paused: bool,
}
