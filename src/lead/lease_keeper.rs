//! The lease keeper: a thread of its own that reports this node to the log service, hears who leads, and renews the lease while this node
//! leads. Nothing that the agent or the main thread does can delay it.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use durability_leadership::Lease;
use durability_protocol::{Code, Refusal};
use valkey_module::logging::log_warning;

use crate::base::panic_guard::{guard, has_failed};
use crate::decide::cluster_claim::Claim;
use crate::exchange::mailbox::Command;
use crate::exchange::{lease_clock, Shared};
use crate::lead::audit::Auditor;
use crate::lead::keeper_state::{Duty, KeeperState, Session, LEADER};
use crate::lead::planned_failover::{self, FailoverRequest};
use crate::log::error::LogError;
use crate::settings;

/// How long the log service may wait for news before it answers a follower. Then the follower reports how far it is again.
const NEWS_WAIT: Duration = Duration::from_millis(100);
/// How often a leader reports at least. What it knows of the nodes that it could hand over to is no older.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// The thread. It ends when this is dropped.
pub struct LeaseKeeper {
    state: Arc<KeeperState>,
    auditor: Auditor,
    thread: Option<JoinHandle<()>>,
}

/// How the main thread reaches the lease keeper.
#[derive(Clone)]
pub struct LeaseKeeperHandle(Arc<KeeperState>);

impl LeaseKeeperHandle {
    /// Requests a planned failover. It replaces a request that is not begun. Main thread.
    pub fn hand_over(&self, request: FailoverRequest) {
        let mut state = self.0.lock();
        state.handover = Some(request);
        self.0.interrupt(&mut state);
    }

    /// Has the log store what the leader of `epoch` is in its cluster, and the main thread told whether it has. Main thread.
    pub fn store_claim(&self, epoch: u64, claim: Claim) {
        let mut state = self.0.lock();
        state.claim = Some((epoch, claim));
        self.0.look_again();
    }
}

impl LeaseKeeper {
    /// Starts the thread, with nothing to do. Main thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(shared: Arc<Shared>, to_agent: Sender<Command>) -> std::io::Result<Self> {
        let state = Arc::new(KeeperState::new(shared, to_agent));
        let auditor = Auditor::default();
        let renewer = Renewer { state: Arc::clone(&state), auditor: auditor.clone() };
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            guard("keeping the lease", (), || renewer.run());
        })?;
        Ok(LeaseKeeper { state, auditor, thread: Some(thread) })
    }

    /// For the main thread.
    pub fn handle(&self) -> LeaseKeeperHandle {
        LeaseKeeperHandle(Arc::clone(&self.state))
    }

    /// Sets what the thread does. When this returns, the lease of the previous duty is not prolonged any more. Agent.
    pub fn set(&self, duty: Duty) {
        let mut state = self.state.lock();
        if state.duty != duty {
            state.duty = duty;
            self.state.interrupt(&mut state);
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        {
            let mut state = self.state.lock();
            state.is_stopping = true;
            self.state.interrupt(&mut state);
        }
        // Nobody needs the answer that the thread waits for.
        self.state.shared.end.stop(Instant::now());
        self.auditor.stop();
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

/// What runs on the thread.
struct Renewer {
    state: Arc<KeeperState>,
    auditor: Auditor,
}

impl Renewer {
    fn run(&self) {
        let mut session = Session::new();
        while let Some(duty) = self.state.next_duty() {
            let done = match &duty {
                Duty::Lead { epoch, lease } => self.lead(&mut session, *epoch, lease),
                _ => self.follow(&mut session),
            };
            match done {
                Ok(wait) => {
                    session.retry.reset();
                    self.state.answered(&mut session);
                    self.state.pause(&duty, wait, true);
                }
                Err(error) => {
                    session.disconnect();
                    self.failed(&mut session, &duty, &error);
                    let wait = self.state.wait_after(&mut session, &error);
                    self.state.pause(&duty, wait, false);
                }
            }
        }
    }

    fn follow(&self, session: &mut Session) -> Result<Duration, LogError> {
        let KeeperState { shared, to_agent, .. } = &*self.state;
        session.lease = None;
        self.state.give_up_claim(0);
        self.state.lock().handover = None;
        let role = if shared.serves_reads.load(Ordering::Relaxed) { "follower" } else { "attaching" };
        let applied = shared.applied.load(Ordering::Relaxed);
        let view = self.state.report(session, role, applied, NEWS_WAIT)?;
        if applied > 0 {
            // It was applied before the answer came, so the answer's epoch and replication id are not older.
            shared.remember(|memory, _| memory.followed(view.stream_epoch, &view.replid, applied));
        }
        // This success does not end the agent's errors.
        shared.has_passed(&std::mem::take(&mut session.reported));
        shared.set_lease_error("");
        // An agent that is gone needs no news.
        let _ = to_agent.send(Command::Viewed);
        Ok(Duration::ZERO)
    }

    fn lead(&self, session: &mut Session, epoch: u64, granted: &Lease) -> Result<Duration, LogError> {
        if session.lease.as_ref().is_none_or(|(of, _)| *of != epoch) {
            session.lease = Some((epoch, granted.clone()));
        }
        if has_failed() {
            self.refuse_to_lead(session, epoch);
            return Ok(REPORT_INTERVAL);
        }
        self.state.renew(session, epoch)?;
        self.state.store_claim(session, epoch)?;
        let durable = self.state.shared.durable().unwrap_or(0);
        let view = self.state.report(session, LEADER, durable, Duration::ZERO)?;
        if view.epoch > epoch && !view.leader.is_empty() {
            let detail = format!("epoch {epoch} is over: {} leads in epoch {}", view.leader, view.epoch);
            let by = self.state.shared.services.in_use();
            return Err(LogError::Refused { refusal: Refusal::new(Code::Fenced, detail), by });
        }
        if let Some(order) = view.audit {
            self.auditor.order(&self.state.shared, order, epoch);
        }
        let request = self.state.lock().handover.take();
        if let Some(request) = request {
            planned_failover::hand_over(&self.state, session, epoch, &request)?;
        }
        let Some((_, lease)) = &session.lease else { return Ok(Duration::ZERO) };
        Ok(lease.next_renewal().since(lease_clock::now()).min(REPORT_INTERVAL))
    }

    /// A panic has made everything that this process knows unreliable: another node is to lead.
    fn refuse_to_lead(&self, session: &Session, epoch: u64) {
        lease_clock::lost();
        if self.state.lock().handover.take().is_none() {
            return;
        }
        let length = session.lease.as_ref().and_then(|(_, lease)| lease.length());
        let lease = match length {
            Some(_) => "its lease passes by itself".to_owned(),
            None => format!(
                "its lease never expires: restart this node, or let another lead by LOG.RELEASE {} {epoch} FORCE",
                settings::SHARD.value()
            ),
        };
        let why = format!("this node serves nobody any more, see the server's log; {lease}");
        self.state.shared.failover_ended(&why);
    }

    fn failed(&self, session: &mut Session, duty: &Duty, error: &LogError) {
        let KeeperState { shared, to_agent, .. } = &*self.state;
        let mut state = self.state.lock();
        state.breaker = None;
        if state.duty != *duty || state.is_stopping || std::mem::take(&mut state.is_broken_off) {
            // Another thread broke it off.
            return;
        }
        if let LogError::Contradicted(contradiction) = error {
            if let Duty::Lead { .. } = duty {
                lease_clock::lost();
            }
            state.duty = Duty::Nothing;
            // An agent that is gone has no log.
            let _ = to_agent.send(Command::Contradicted(contradiction.clone()));
            shared.agent_waker.wake();
            return;
        }
        let Duty::Lead { epoch, .. } = *duty else {
            session.reported = error.to_string();
            shared.try_again_after(&session.reported);
            return;
        };
        match error {
            LogError::Refused { refusal, .. } if refusal.code == Code::Fenced => {
                lease_clock::lost();
                state.duty = Duty::Follow;
                // An agent that is gone does not lead.
                let _ = to_agent.send(Command::Fenced { epoch, detail: refusal.detail.clone() });
                shared.agent_waker.wake();
            }
            error if shared.set_lease_error(&error.to_string()) => {
                log_warning(format!("durability: looking after the lease of epoch {epoch}: {error}; trying again"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "lease_keeper_tests.rs"]
mod tests;
