//! The main thread's end of the agent. Main thread only.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use valkey_module::logging::log_warning;

use crate::exchange::mailbox::Command;
use crate::exchange::Shared;

/// How long the server waits for the agent when it shuts down.
const STOP_TIMEOUT: Duration = Duration::from_millis(2500);
/// The part of [`STOP_TIMEOUT`] in which the agent's thread itself ends, after everything that waits for the log has.
const LAST_STEPS: Duration = Duration::from_millis(200);

/// The agent, as the main thread reaches it.
pub struct AgentHandle {
    mailbox: Sender<Command>,
    /// Disconnected when the agent has ended. None once the agent was told to stop.
    ended: Option<Receiver<()>>,
}

impl AgentHandle {
    /// An agent that runs.
    pub fn new(mailbox: Sender<Command>, ended: Receiver<()>) -> Self {
        AgentHandle { mailbox, ended: Some(ended) }
    }

    /// Puts a command into the agent's mailbox and wakes it.
    pub fn tell(&self, shared: &Shared, command: Command) {
        // An agent that has ended was told to stop.
        let _ = self.mailbox.send(command);
        shared.agent_waker.wake();
    }

    /// Has the agent ship what is left, give back the lease, and end. Waits until it has, within [`STOP_TIMEOUT`].
    pub fn stop(&mut self, shared: &Shared) {
        shared.end.stop(Instant::now() + STOP_TIMEOUT - LAST_STEPS);
        shared.is_stopping.store(true, Ordering::Relaxed);
        self.tell(shared, Command::Stop);
        if let Some(ended) = self.ended.take() {
            // Nothing is ever sent: the agent lets go of its end when it ends.
            if ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                log_warning("durability: the agent does not end in time; going on without it");
            }
        }
    }

    /// Whether the agent was told to stop.
    pub fn was_stopped(&self) -> bool {
        self.ended.is_none()
    }
}
