//! The keeper: a thread of its own that tells the log service of this node, hears who leads, and renews the lease while this
//! node does. Nothing that the agent does, and nothing that the main thread does, can make it late.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{fence, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use durability_leadership::{Lease, Moment};
use durability_protocol::{Code, Refusal};
use valkey_module::logging::log_warning;

use crate::base::panic_guard::{guard, has_failed};
use crate::base::time_limit::AtEnd;
use crate::exchange::{lease_clock, Command, Shared, Task};
use crate::lead::audit::Auditor;
use crate::lead::planned_failover::Request;
use crate::log::control::{LogConnection, LogError, Node, Report};
use crate::log::shard_view::View;
use crate::settings;

/// How long the log service lets a question wait for news. Then it is told again how far this node is.
const NEWS_WAIT: Duration = Duration::from_millis(100);
/// How much longer an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How often a leader reports, at least: so old at most is what it knows of the nodes that it could hand over to.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// The longest that an answer to a renewal may take, if a third of the lease is longer.
const RENEWAL_TIME: Duration = Duration::from_secs(1);
/// Waits after a failure: doubled from the first to the second.
const RETRY_FROM: Duration = Duration::from_millis(50);
/// See [`RETRY_FROM`].
const RETRY_TO: Duration = Duration::from_millis(500);

/// What the keeper does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// Nothing: the node has no log, or is not connected to it yet.
    Nothing,
    /// Hear who leads.
    Follow,
    /// Renew the lease of that epoch.
    Lead {
        /// The epoch.
        epoch: u64,
        /// As it was granted.
        lease: Lease,
    },
}

struct State {
    duty: Duty,
    is_stopping: bool,
    /// What the thread waits for an answer on.
    socket: Option<Arc<TcpStream>>,
    /// That one was broken off.
    is_broken_off: bool,
    /// What was asked for and is not begun.
    handover: Option<Request>,
}

impl State {
    fn leads(&self, epoch: u64) -> bool {
        !self.is_stopping && matches!(self.duty, Duty::Lead { epoch: current, .. } if current == epoch)
    }
}

/// What the thread and those that tell it something share.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) to_agent: Sender<Command>,
    auditor: Auditor,
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread. It ends when this is dropped.
pub struct Keeper {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

/// Through which the main thread asks the keeper.
#[derive(Clone)]
pub struct KeeperDesk(Arc<Inner>);

impl KeeperDesk {
    /// Asks for a planned failover; one that was asked for and is not begun is forgotten.
    pub fn hand_over(&self, request: Request) {
        let mut state = self.0.lock();
        state.handover = Some(request);
        self.0.interrupt(&mut state);
    }
}

impl Keeper {
    /// Starts the thread, with nothing to do.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(shared: Arc<Shared>, to_agent: Sender<Command>) -> std::io::Result<Self> {
        let state = Mutex::new(State {
            duty: Duty::Nothing,
            is_stopping: false,
            socket: None,
            is_broken_off: false,
            handover: None,
        });
        let inner = Arc::new(Inner { shared, to_agent, auditor: Auditor::default(), state, changed: Condvar::new() });
        let thread = {
            let inner = Arc::clone(&inner);
            std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
                guard("keeping the lease", (), || inner.run());
            })?
        };
        Ok(Keeper { inner, thread: Some(thread) })
    }

    /// For the main thread.
    pub fn desk(&self) -> KeeperDesk {
        KeeperDesk(Arc::clone(&self.inner))
    }

    /// From now on the thread does that. After this the lease is not prolonged for what it did before. Agent.
    pub fn set(&self, duty: Duty) {
        let mut state = self.inner.lock();
        if state.duty != duty {
            state.duty = duty;
            self.inner.interrupt(&mut state);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        {
            let mut state = self.inner.lock();
            state.is_stopping = true;
            self.inner.interrupt(&mut state);
        }
        // What it waits for serves nobody any more.
        self.inner.shared.end.stop(Instant::now());
        self.inner.auditor.stop();
        if let Some(thread) = self.thread.take() {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn interrupt(&self, state: &mut State) {
        if let Some(socket) = state.socket.take() {
            // It may have ended by itself.
            let _ = socket.shutdown(Shutdown::Both);
            state.is_broken_off = true;
        }
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut work = Work { log: None, version: 0, lease: None, retry: RETRY_FROM, told: String::new() };
        while let Some(duty) = self.next_duty() {
            let done = match &duty {
                Duty::Lead { epoch, lease } => self.lead(&mut work, *epoch, lease),
                _ => self.follow(&mut work),
            };
            match done {
                Ok(wait) => {
                    work.retry = RETRY_FROM;
                    self.pause(&duty, wait, true);
                }
                Err(error) => {
                    work.log = None;
                    self.failed(&mut work, &duty, &error);
                    self.pause(&duty, work.retry_later(), false);
                }
            }
        }
    }

    /// What there is to do, as soon as there is something; `None` at the end.
    fn next_duty(&self) -> Option<Duty> {
        let has_nothing = |state: &mut State| state.duty == Duty::Nothing && !state.is_stopping;
        let state = self.changed.wait_while(self.lock(), has_nothing);
        let state = state.unwrap_or_else(|poisoned| poisoned.into_inner());
        (!state.is_stopping).then(|| state.duty.clone())
    }

    /// Until `duty` is another, or something is asked for and that matters, at most `time`.
    fn pause(&self, duty: &Duty, time: Duration, heeds_requests: bool) {
        let is_same = |state: &mut State| {
            state.duty == *duty && !state.is_stopping && !(heeds_requests && state.handover.is_some())
        };
        drop(self.changed.wait_timeout_while(self.lock(), time, is_same));
    }

    /// A connection on which one question is asked that is answered within `time`; another thread can break it off. To open one takes
    /// more questions than that, and has a limit of its own.
    pub(crate) fn connection<'a>(&self, work: &'a mut Work, time: Duration) -> Result<&'a mut LogConnection, LogError> {
        if std::mem::take(&mut self.lock().is_broken_off) {
            work.log = None;
        }
        let log = match &mut work.log {
            Some(log) => log,
            none => {
                let log = LogConnection::open_within(&self.shared, time.max(opening_time()), AtEnd::GoesOn)?;
                self.shared.set_log_address(log.reached()?);
                none.insert(log)
            }
        };
        log.answers_within(time);
        self.lock().socket = Some(log.tcp());
        Ok(log)
    }

    /// Reports this node, and hears who leads.
    pub(crate) fn report(
        &self,
        work: &mut Work,
        role: &str,
        applied: u64,
        wait: Duration,
    ) -> Result<Arc<View>, LogError> {
        let version = work.version;
        // A leader that waits long for this is late to renew its lease.
        let time = if wait.is_zero() { renewal_time() } else { wait + ANSWER_TIME };
        let log = self.connection(work, time)?;
        let (id, address) = (self.shared.node_id(), self.shared.address());
        let report = Report { role, priority: self.shared.priority(), applied, version };
        let view = log.node(&Node { id: &id, address: &address }, &report, wait)?;
        work.version = view.version;
        Ok(self.shared.set_view(view))
    }

    fn follow(&self, work: &mut Work) -> Result<Duration, LogError> {
        work.lease = None;
        self.lock().handover = None;
        let role = if self.shared.serves_reads.load(Ordering::Relaxed) { "follower" } else { "attaching" };
        let applied = self.shared.applied.load(Ordering::Relaxed);
        let view = self.report(work, role, applied, NEWS_WAIT)?;
        if applied > 0 {
            // It was applied before the answer came, so what the answer says of epoch and replication id is not older.
            self.shared.remember(|memory, _| memory.followed(view.stream_epoch, &view.replid, applied));
        }
        // The agent's errors are not over because this went well.
        self.shared.has_passed(&std::mem::take(&mut work.told));
        self.shared.set_keeper_error("");
        // The agent that is gone needs no news.
        let _ = self.to_agent.send(Command::Viewed);
        Ok(Duration::ZERO)
    }

    fn lead(&self, work: &mut Work, epoch: u64, granted: &Lease) -> Result<Duration, LogError> {
        if work.lease.as_ref().is_none_or(|(of, _)| *of != epoch) {
            work.lease = Some((epoch, granted.clone()));
        }
        if has_failed() {
            // Nothing that this process knows counts any more: another node is to lead.
            lease_clock::lost();
            if self.lock().handover.take().is_some() {
                let length = work.lease.as_ref().and_then(|(_, lease)| lease.length());
                let lease = match length {
                    Some(_) => "its lease passes by itself".to_owned(),
                    None => format!(
                        "its lease never expires: restart this node, or let another lead by LOG.RELEASE {} {epoch} FORCE",
                        settings::SHARD.value()
                    ),
                };
                self.shared.failover_ended(&format!("this node serves nobody any more, see the server's log; {lease}"));
            }
            return Ok(REPORT_INTERVAL);
        }
        self.renew(work, epoch)?;
        let view = self.report(work, "leader", self.shared.durable().unwrap_or(0), Duration::ZERO)?;
        if view.epoch > epoch && !view.leader.is_empty() {
            let detail = format!("epoch {epoch} is over: {} leads in epoch {}", view.leader, view.epoch);
            return Err(Refusal::new(Code::Fenced, detail).into());
        }
        if let Some(order) = view.audit {
            self.auditor.order(&self.shared, order, epoch);
        }
        let request = self.lock().handover.take();
        if let Some(request) = request {
            self.hand_over(work, epoch, &request)?;
        }
        let Some((_, lease)) = &work.lease else { return Ok(Duration::ZERO) };
        Ok(lease.next_renewal().since(lease_clock::now()).min(REPORT_INTERVAL))
    }

    /// Renews the lease of `epoch` if that is due, or if leases are to have another length than before.
    pub(crate) fn renew(&self, work: &mut Work, epoch: u64) -> Result<(), LogError> {
        let length = settings::lease();
        let sent = lease_clock::now();
        let Some((_, lease)) = &mut work.lease else { return Ok(()) };
        let is_over = !lease.observe(sent);
        let is_other = lease.length().unwrap_or_default() != length;
        let is_due = is_over || is_other || lease.next_renewal() <= sent;
        if !is_due {
            return Ok(());
        }
        if !is_over {
            lease.renewal_sent(sent, length);
            // A shorter one counts from now on.
            self.publish(epoch, lease.valid_until());
        }
        let renewed = self.connection(work, renewal_time()).and_then(|log| log.renew(epoch, length, sent));
        let Some((_, lease)) = &mut work.lease else { return Ok(()) };
        if let Err(error) = renewed {
            lease.renewal_failed(lease_clock::now());
            return Err(error);
        }
        if is_over || !lease.renewed(sent) {
            // Nobody else has led, or the log service would have refused. The clients of the one that is over are closed.
            *lease = Lease::acquired(sent, length);
        }
        self.shared.set_keeper_error("");
        let is_published = self.publish(epoch, lease.valid_until());
        // See `Module::suspend`.
        fence(Ordering::SeqCst);
        if is_published && self.shared.is_suspended.load(Ordering::Acquire) {
            self.shared.send(Task::Resume(epoch));
        }
        Ok(())
    }

    /// Whether the thread is still to lead that epoch.
    pub(crate) fn leads(&self, epoch: u64) -> bool {
        self.lock().leads(epoch)
    }

    /// The lease of `epoch` lasts until then. Answers whether that counts: not if the term has ended meanwhile.
    fn publish(&self, epoch: u64, until: Moment) -> bool {
        let state = self.lock();
        let counts = state.leads(epoch);
        if counts {
            lease_clock::set(until);
        }
        counts
    }

    fn failed(&self, work: &mut Work, duty: &Duty, error: &LogError) {
        let mut state = self.lock();
        state.socket = None;
        if state.duty != *duty || state.is_stopping || std::mem::take(&mut state.is_broken_off) {
            // It was told to stop what it did.
            return;
        }
        if let LogError::Contradicted(contradiction) = error {
            if let Duty::Lead { .. } = duty {
                lease_clock::lost();
            }
            state.duty = Duty::Nothing;
            // The agent that is gone has no log.
            let _ = self.to_agent.send(Command::Contradicted(contradiction.clone()));
            self.shared.agent_bell.ring();
            return;
        }
        let Duty::Lead { epoch, .. } = *duty else {
            work.told = error.to_string();
            self.shared.try_again_after(&work.told);
            return;
        };
        match error {
            LogError::Refused(refusal) if refusal.code == Code::Fenced => {
                lease_clock::lost();
                state.duty = Duty::Follow;
                // The agent that is gone leads no more.
                let _ = self.to_agent.send(Command::Fenced { epoch, detail: refusal.detail.clone() });
                self.shared.agent_bell.ring();
            }
            error if self.shared.set_keeper_error(&error.to_string()) => {
                log_warning(format!("durability: looking after the lease of epoch {epoch}: {error}; trying again"));
            }
            _ => {}
        }
    }
}

/// How long an answer to a leader may take.
fn renewal_time() -> Duration {
    let length = settings::lease();
    if length.is_zero() {
        RENEWAL_TIME
    } else {
        RENEWAL_TIME.min(length / 3)
    }
}

/// How long it may take to connect, with TLS, to log in, and to compare logs: several round trips, so that a short lease says nothing of
/// it.
fn opening_time() -> Duration {
    RENEWAL_TIME.max(settings::lease() / 3)
}

/// What the thread has from one question to the next.
pub(crate) struct Work {
    log: Option<LogConnection>,
    /// Of the leadership, as it was seen last.
    version: u64,
    /// Of that epoch.
    lease: Option<(u64, Lease)>,
    retry: Duration,
    /// What was last told of a failure while following, as it has not passed yet.
    told: String,
}

impl Work {
    /// The next question is asked on a connection of its own.
    pub(crate) fn disconnect(&mut self) {
        self.log = None;
    }

    fn retry_later(&mut self) -> Duration {
        let wait = self.retry;
        self.retry = (self.retry * 2).min(RETRY_TO);
        wait
    }
}

#[cfg(test)]
#[path = "lease_keeper_tests.rs"]
mod tests;
