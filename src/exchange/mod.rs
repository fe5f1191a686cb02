//! What the main thread and the agent's threads share. This file holds the figures. Nothing here waits, and no lock is held across
//! I/O.
//!
//! - `mailbox`, `waker`: the messages between the threads, and how a sleeping thread notices them
//! - `pipe`: the replication stream, on its way from the server to the agent
//! - `lease_clock`: whether this node may answer its clients
//! - `server_facts`, `server_support`: what the main thread tells the agent of the server
//! - `stream_rules`: what a leader may put into its log
//! - `own_logins`: how the server recognizes the module's own connections
//! - `link`: the state of the connection to the log
//! - `monitoring`: figures for the log service
//! - `audit_step`, `passed_over`, `last_error`: what both sides say of audits, of commands that could not be applied, and of errors

pub mod audit_step;
pub mod last_error;
pub mod lease_clock;
pub mod link;
pub mod mailbox;
pub mod monitoring;
pub mod own_logins;
pub mod passed_over;
pub mod pipe;
pub mod server_facts;
pub mod server_support;
pub mod stream_rules;
pub mod waker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use durability_protocol::Known;
use valkey_module::logging::log_warning;

use crate::base::locks::lock;
use crate::base::time_limit::EndTime;
use crate::decide::known_log::{Contradiction, Memory};
use crate::exchange::last_error::LastError;
use crate::exchange::link::Link;
use crate::exchange::mailbox::Task;
use crate::exchange::monitoring::Monitoring;
use crate::exchange::stream_rules::CurrentRules;
use crate::exchange::waker::Waker;
use crate::log::local_node::LocalNode;
use crate::log::services::{Reached, Services};
use crate::log::shard_view::ShardView;
use crate::settings;

/// No target: see [`Shared::attach_target`].
pub const NO_TARGET: u64 = u64::MAX;

/// Figures that several threads read.
pub struct Shared {
    /// See [`Shared::durable`].
    durable_offset: AtomicU64,
    /// The log is to start from a snapshot of this node and does not hold it yet, so nothing is durable.
    pub awaits_snapshot: AtomicBool,
    /// How often the log was found to lack something that this node holds, so that it must start anew from a snapshot of this node.
    /// Written by the main thread.
    pub snapshots_wanted: AtomicU64,
    /// How many of [`Shared::snapshots_wanted`] came before the last snapshot that the log took, which holds what they were about. Written
    /// by the agent.
    pub snapshots_taken: AtomicU64,
    /// Current epoch of this leader; 0 if it does not lead.
    pub epoch: AtomicU64,
    /// The connection to the log.
    pub link: Link,
    /// While attaching: the main thread reports once when the server has applied everything up to this offset (exclusive).
    pub attach_target: AtomicU64,
    /// How often the connection to the log was made again.
    pub log_reconnects: AtomicU64,
    /// How often the tap was opened again.
    pub tap_reconnects: AtomicU64,
    /// How often the log was started from a snapshot of this node.
    pub initial_snapshots: AtomicU64,
    /// Where the stream stood (exclusive) when the node was ordered to have no log any more. Written by the main thread.
    pub leave_offset: AtomicU64,
    /// The server waits for its replicas before it shuts down. Written by the main thread when the agent asks.
    pub is_shutting_down: AtomicBool,
    /// The node is to have no log any more, so long work breaks off. Cleared by the agent.
    pub is_leaving: AtomicBool,
    /// Counts how often this node stopped leading, or being on its way there. Written by the main thread.
    pub stage: AtomicU64,
    /// The module is to end, and long work breaks off.
    pub is_stopping: AtomicBool,
    /// By when the node has ended, or left its log.
    pub end: EndTime,
    /// Client id of the tap's connection to this server; 0 if there is none.
    pub tap_client: AtomicU64,
    /// As a replica of the log: what is applied (exclusive end). Written by the main thread.
    pub applied: AtomicU64,
    /// This node follows the log and serves reads. Written by the main thread.
    pub serves_reads: AtomicBool,
    /// This node leads, but its lease has passed. Written by the main thread.
    pub is_suspended: AtomicBool,
    /// Replies cannot be kept from leaving, so this node must not hold a lease that expires. Written by the agent.
    pub keeps_no_lease: AtomicBool,
    /// How often the lease passed without being renewed, so that all clients were closed.
    pub suspensions: AtomicU64,
    /// How often another node took over from this one. Shown to users as `depositions`.
    pub depositions: AtomicU64,
    /// Upper bound of the bytes that this node wrote, that the log never had, and that were discarded when another node took over. Bytes
    /// that the log had and did not acknowledge any more are counted too.
    pub discarded_bytes: AtomicU64,
    /// What this node knows of its log.
    memory: Mutex<Memory>,
    contradiction: Mutex<Option<Contradiction>>,
    log_address: Mutex<Option<Reached>>,
    view: Mutex<Option<Arc<ShardView>>>,
    last_error: Mutex<LastError>,
    lease_error: Mutex<LastError>,
    failover: Mutex<String>,
    /// The log services, and which of them is in use.
    pub services: Services,
    /// Figures for the log service.
    pub monitoring: Monitoring,
    /// What may go into the log, where another module is loaded. Written by the main thread.
    pub stream_rules: Arc<CurrentRules>,
    /// The name of this node, once the server has described itself.
    pub node_id: OnceLock<String>,
    /// Host name and port, once they are known.
    pub default_address: OnceLock<String>,
    /// Wakes the main thread.
    pub main_waker: Waker,
    /// Wakes the agent.
    pub agent_waker: Waker,
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
            awaits_snapshot: AtomicBool::new(false),
            snapshots_wanted: AtomicU64::new(0),
            snapshots_taken: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            link: Link::default(),
            attach_target: AtomicU64::new(NO_TARGET),
            log_reconnects: AtomicU64::new(0),
            tap_reconnects: AtomicU64::new(0),
            initial_snapshots: AtomicU64::new(0),
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
            lease_error: Mutex::default(),
            failover: Mutex::new(String::new()),
            services: Services::configured(),
            monitoring: Monitoring::default(),
            stream_rules: Arc::default(),
            node_id: OnceLock::new(),
            default_address: OnceLock::new(),
            main_waker: Waker::new()?,
            agent_waker: Waker::new()?,
            tasks,
        };
        Ok((shared, receiver))
    }

    /// The log has acknowledged everything up to this offset (exclusive). `None` while it does not even hold the data that this node
    /// started with, or lacks something that the node has written since. Any thread.
    pub fn durable(&self) -> Option<u64> {
        // The offset was published before the snapshot was taken.
        self.acknowledged().filter(|_| !self.lacks_snapshot())
    }

    /// As [`Shared::durable`], but also while the log lacks what was written past the stream: how far it is with the stream. Any thread.
    pub fn acknowledged(&self) -> Option<u64> {
        (!self.awaits_snapshot.load(Ordering::Acquire)).then(|| self.durable_offset.load(Ordering::Acquire))
    }

    /// Whether the log lacks something that this node holds and that is not on its way there, so that it needs a snapshot. Any thread.
    pub fn lacks_snapshot(&self) -> bool {
        self.snapshots_taken.load(Ordering::Acquire) < self.snapshots_wanted.load(Ordering::Acquire)
    }

    /// Publishes how far the log is. Agent.
    pub fn set_durable(&self, offset: u64) {
        self.durable_offset.store(offset, Ordering::Release);
        self.main_waker.wake();
    }

    /// The last thing that went wrong; empty if nothing has since all was well. Any thread.
    pub fn last_error(&self) -> String {
        lock(&self.last_error).text().to_owned()
    }

    /// Sets [`Shared::last_error`]. Returns whether the server's log is to say so. Any thread.
    pub fn set_last_error(&self, error: &str) -> bool {
        lock(&self.last_error).set(error, Instant::now())
    }

    /// Clears [`Shared::last_error`], if it still is this error. Any thread.
    pub fn has_passed(&self, error: &str) {
        let mut last = lock(&self.last_error);
        if last.text() == error {
            last.set("", Instant::now());
        }
    }

    /// What keeps the lease from being renewed; empty if nothing does. Any thread.
    pub fn lease_error(&self) -> String {
        lock(&self.lease_error).text().to_owned()
    }

    /// Sets [`Shared::lease_error`]. Returns whether the server's log is to say so. Lease keeper.
    pub fn set_lease_error(&self, error: &str) -> bool {
        lock(&self.lease_error).set(error, Instant::now())
    }

    /// A planned failover ended for that reason; empty if this node has handed over. Any thread.
    pub fn failover_ended(&self, why: &str) {
        why.clone_into(&mut lock(&self.failover));
    }

    /// Why the last planned failover did not take place; empty if it did, or if none was requested. Any thread.
    pub fn failover_error(&self) -> String {
        lock(&self.failover).clone()
    }

    /// What this node knows of its log. Any thread.
    pub fn known(&self) -> Option<Known> {
        lock(&self.memory).now(self.durable())
    }

    /// Changes what this node knows, given what is durable. Any thread.
    pub fn remember(&self, change: impl FnOnce(&mut Memory, Option<u64>)) {
        let durable = self.durable();
        change(&mut lock(&self.memory), durable);
    }

    /// How the log contradicts what this node knows; `None` if it does not. Any thread.
    pub fn contradiction(&self) -> Option<Contradiction> {
        lock(&self.contradiction).clone()
    }

    /// Sets [`Shared::contradiction`]. Agent.
    pub fn set_contradiction(&self, contradiction: Option<Contradiction>) {
        *lock(&self.contradiction) = contradiction;
    }

    /// Where a lasting connection last reached the log; `None` if none has. Any thread.
    pub fn log_address(&self) -> Option<Reached> {
        lock(&self.log_address).clone()
    }

    /// Sets [`Shared::log_address`]. Agent and lease keeper.
    pub fn set_log_address(&self, reached: Reached) {
        *lock(&self.log_address) = Some(reached);
    }

    /// What the log service last said of the shard's nodes. Any thread.
    pub fn view(&self) -> Option<Arc<ShardView>> {
        lock(&self.view).clone()
    }

    /// Forgets [`Shared::view`]: it says nothing of what comes next. Any thread.
    pub fn forget_view(&self) {
        *lock(&self.view) = None;
    }

    /// Sets [`Shared::view`], and returns it. Lease keeper.
    pub fn set_view(&self, mut view: ShardView) -> Arc<ShardView> {
        let mut last = lock(&self.view);
        if let Some(last) = &*last {
            view.follow(last);
        }
        let view = Arc::new(view);
        *last = Some(Arc::clone(&view));
        view
    }

    /// Of the nodes that can take over, the one with the highest priority does. 0: this node never does. Any thread.
    pub fn priority(&self) -> u32 {
        if settings::FAILOVER.is_on() && self.keeps_no_lease.load(Ordering::Relaxed) {
            0
        } else {
            settings::priority()
        }
    }

    /// The name of this node; empty before the server has described itself. Any thread.
    pub fn node_id(&self) -> String {
        self.node_id.get().cloned().unwrap_or_default()
    }

    /// Where clients reach this node. Any thread.
    pub fn address(&self) -> String {
        match settings::ANNOUNCE.value() {
            announced if announced.is_empty() => self.default_address.get().cloned().unwrap_or_default(),
            announced => announced,
        }
    }

    /// Something failed and will be tried again: sets [`Shared::last_error`], and logs it unless it was logged a moment ago. Does nothing
    /// in a node that is to end or to have no log: that breaks off what was under way. Any thread.
    pub fn try_again_after(&self, error: &str) {
        if self.end.get().is_none() && self.set_last_error(error) {
            log_warning(format!("durability: {error}; trying again"));
        }
    }

    /// Gives the main thread a task, and wakes it. Any thread.
    pub fn send(&self, task: Task) {
        // The main thread keeps the receiver for as long as the module is loaded.
        let _ = self.tasks.send(task);
        self.main_waker.wake();
    }
}

impl LocalNode for Shared {
    fn node_id(&self) -> String {
        self.node_id()
    }

    fn address(&self) -> String {
        self.address()
    }

    fn known(&self) -> Option<Known> {
        self.known()
    }

    fn services(&self) -> &Services {
        &self.services
    }

    fn end(&self) -> &EndTime {
        &self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_to_end_tries_nothing_again() {
        let (shared, _tasks) = Shared::new().unwrap();
        shared.end.stop(Instant::now());
        shared.try_again_after("no answer before this node ended or left its log");
        assert_eq!(shared.last_error(), "");
    }

    #[test]
    fn nothing_is_durable_while_the_log_lacks_a_snapshot() {
        let (shared, _tasks) = Shared::new().unwrap();
        shared.set_durable(7);
        assert_eq!((shared.durable(), shared.acknowledged()), (Some(7), Some(7)));
        shared.snapshots_wanted.fetch_add(1, Ordering::AcqRel);
        assert_eq!(
            (shared.durable(), shared.acknowledged()),
            (None, Some(7)),
            "it lacks what was written past the stream"
        );
        shared.snapshots_taken.store(1, Ordering::Release);
        assert_eq!(shared.durable(), Some(7));
        shared.awaits_snapshot.store(true, Ordering::Release);
        assert_eq!((shared.durable(), shared.acknowledged()), (None, None), "it lacks what the node started with");
    }
}
