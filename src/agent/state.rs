//! What the agent knows and remembers from one attachment to the next. Agent's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::control::Control;
use crate::agent::full_copy;
use crate::agent::grant::Grant;
use crate::base::backoff::Backoff;
use crate::decide::known_log::Contradiction;
use crate::decide::unacked::Backlog;
use crate::exchange::passed_over::StartingOver;
use crate::exchange::Shared;
use crate::lead::lease_keeper::LeaseKeeper;

/// The least time between two snapshots with which the log starts anew because it lacks something that this node wrote. The server forks
/// for each. What depends on such a write waits that long.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(10);

/// The agent.
pub struct Agent {
    /// Shared with the other threads.
    pub shared: Arc<Shared>,
    /// Its mailbox.
    pub control: Control,
    /// Renews the lease, or hears who leads.
    pub keeper: LeaseKeeper,
    /// The self-test's result; `None` if it has not run. One that failed runs again when the node attaches again.
    pub self_test: Option<Result<(), String>>,
    /// Whether the server ran without its log since it last followed or led it.
    pub was_off: bool,
    /// The newest epoch of which this server holds everything, as its leader. `None` from when it follows the log until it leads.
    pub holds_all_of: Option<u64>,
    /// Where, and when, it passed over something of its log.
    pub starting_over: StartingOver,
    /// The waits after full copies that the server cannot load.
    pub copy_waits: Backoff,
    /// When the log last took a snapshot because the tap had lost its place, or something was missing.
    pub last_snapshot: Option<Instant>,
    /// The contradiction that only an operator can end. Until then this node does not attach, even if another contradiction ends.
    pub lasting: Option<Contradiction>,
    /// Whether an operator has accepted a log that lacks what the server holds, and the server neither follows nor leads that log yet.
    pub gives_way: bool,
    /// The lease that the log service may hold for this node.
    pub grant: Grant,
    /// Whether another node may wait until this one confirms that it answers nobody any more.
    pub must_confirm_step_down: bool,
}

impl Agent {
    /// An agent that has not attached yet; `was_off` as in [`Agent`].
    pub fn new(control: Control, keeper: LeaseKeeper, was_off: bool) -> Self {
        Agent {
            shared: Arc::clone(&control.shared),
            control,
            keeper,
            self_test: None,
            was_off,
            holds_all_of: None,
            starting_over: StartingOver::default(),
            copy_waits: full_copy::waits(),
            last_snapshot: None,
            lasting: None,
            gives_way: false,
            grant: Grant::None,
            must_confirm_step_down: false,
        }
    }

    /// Why this node must leave a lease that expires to other nodes: its replies could leave after the lease has passed. `None` if it need
    /// not.
    pub fn why_it_keeps_no_lease(&self) -> Option<String> {
        self.control.support.why_leases_are_not_kept(self.self_test.as_ref())
    }

    /// Whether the log is to start anew now, because it lacks something that this node holds. Clients may cause that all the time, so it
    /// happens no more often than the server can bear.
    pub fn is_snapshot_due(&self) -> bool {
        self.shared.lacks_snapshot() && self.last_snapshot.is_none_or(|last| last.elapsed() >= SNAPSHOT_INTERVAL)
    }

    /// Publishes how far the log is.
    pub fn publish(&self, backlog: &Backlog) {
        self.shared.set_durable(backlog.durable());
    }
}
