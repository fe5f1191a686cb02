//! What the lease keeper's thread works with: its duty, its connection to the log service, and the lease. Other threads change the duty,
//! and break off what the thread waits for.

use std::sync::atomic::{fence, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use durability_leadership::{Lease, Moment};
use valkey_module::logging::{log_notice, log_warning};

use crate::base::backoff::Backoff;
use crate::base::locks::lock;
use crate::base::time_limit::AtEnd;
use crate::decide::cluster_claim::Claim;
use crate::exchange::mailbox::{Command, Task};
use crate::exchange::{lease_clock, Shared};
use crate::lead::planned_failover::FailoverRequest;
use crate::log::control::{Breaker, LogConnection};
use crate::log::control_commands::Report;
use crate::log::error::LogError;
use crate::log::local_node::Node;
use crate::log::services::Services;
use crate::log::shard_view::ShardView;
use crate::settings;

/// How much longer than it waits for news an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The longest that an answer to a renewal may take, if a third of the lease is longer.
const RENEWAL_TIME: Duration = Duration::from_secs(1);
/// The first wait after a failure.
const RETRY_FROM: Duration = Duration::from_millis(50);
/// The longest wait after a failure.
const RETRY_TO: Duration = Duration::from_millis(500);
/// The same among several services.
const RETRY_TO_AMONG_SEVERAL: Duration = Duration::from_millis(150);

/// The role that a leader reports.
pub(super) const LEADER: &str = "leader";

/// What the lease keeper does.
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
        /// The lease as it was granted.
        lease: Lease,
    },
}

/// What other threads change. Held for moments only.
pub(super) struct State {
    pub(super) duty: Duty,
    pub(super) is_stopping: bool,
    /// Of the connection on which the thread waits for an answer.
    pub(super) breaker: Option<Arc<Breaker>>,
    /// Whether that connection was broken off.
    pub(super) is_broken_off: bool,
    /// A planned failover that was requested and is not begun.
    pub(super) handover: Option<FailoverRequest>,
    /// What the log is to store of the leader of that epoch in its cluster.
    pub(super) claim: Option<(u64, Claim)>,
}

impl State {
    fn leads(&self, epoch: u64) -> bool {
        !self.is_stopping && matches!(self.duty, Duty::Lead { epoch: current, .. } if current == epoch)
    }
}

/// What the lease keeper's thread shares with the threads that direct it.
pub(super) struct KeeperState {
    pub(super) shared: Arc<Shared>,
    pub(super) to_agent: Sender<Command>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the lease keeper's thread keeps from one question to the next.
pub(super) struct Session {
    pub(super) log: Option<LogConnection>,
    /// The version of the leadership that it saw last on this connection; 0 before.
    version: u64,
    /// Whether the service on this connection takes figures for monitoring.
    takes_figures: bool,
    /// Whether the service on the last connection that was of use did. Those of one cluster are of one version, but for an upgrade.
    took_figures: bool,
    /// The role and the applied offset that were to be reported last; none before.
    told: Option<(&'static str, u64)>,
    /// Whether it takes settings.
    takes_settings: bool,
    /// An epoch, and its lease.
    pub(super) lease: Option<(u64, Lease)>,
    pub(super) retry: Backoff,
    /// The last failure while following, if it was reported and is not over.
    pub(super) reported: String,
    /// As of [`Services::confirmations`], when the thread last told the agent.
    confirmations: u64,
}

impl Session {
    pub(super) fn new() -> Self {
        let retry = Backoff::new(RETRY_FROM, RETRY_TO);
        Session {
            log: None,
            version: 0,
            takes_figures: false,
            took_figures: false,
            told: None,
            takes_settings: false,
            lease: None,
            retry,
            reported: String::new(),
            confirmations: 0,
        }
    }

    /// The next question goes out on a new connection.
    pub(super) fn disconnect(&mut self) {
        self.log = None;
    }
}

impl KeeperState {
    /// There is nothing to do yet.
    pub(super) fn new(shared: Arc<Shared>, to_agent: Sender<Command>) -> Self {
        let state = Mutex::new(State {
            duty: Duty::Nothing,
            is_stopping: false,
            breaker: None,
            is_broken_off: false,
            handover: None,
            claim: None,
        });
        KeeperState { shared, to_agent, state, changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes the thread look at `state` again, whatever it waits for. Any thread.
    pub(super) fn interrupt(&self, state: &mut State) {
        if let Some(breaker) = state.breaker.take() {
            breaker.break_off();
            state.is_broken_off = true;
        }
        self.changed.notify_all();
    }

    /// As [`KeeperState::interrupt`], but what the thread waits for from the log service comes first. Any thread.
    pub(super) fn look_again(&self) {
        self.changed.notify_all();
    }

    /// Has the log store what this leader is in its cluster, if that was asked for. The main thread is told what became of it.
    pub(super) fn store_claim(&self, session: &mut Session, epoch: u64) -> Result<(), LogError> {
        self.give_up_claim(epoch);
        let Some((_, claim)) = self.lock().claim.take() else { return Ok(()) };
        let time = renewal_time(&self.shared.services);
        let stored = self.connection(session, time).and_then(|log| log.store_claim(epoch, &claim, lease_clock::now()));
        let told = stored.as_ref().map(drop).map_err(ToString::to_string);
        self.shared.send(Task::ClaimStored(claim, told));
        stored
    }

    /// Tells the main thread that the log does not store a claim of another epoch than `epoch`.
    pub(super) fn give_up_claim(&self, epoch: u64) {
        let old = self.lock().claim.take_if(|(of, _)| *of != epoch);
        if let Some((_, claim)) = old {
            self.shared.send(Task::ClaimStored(claim, Err("this node leads no more".to_owned())));
        }
    }

    /// Waits for a duty. `None` at the end.
    pub(super) fn next_duty(&self) -> Option<Duty> {
        let has_nothing = |state: &mut State| state.duty == Duty::Nothing && !state.is_stopping;
        let state = self.changed.wait_while(self.lock(), has_nothing);
        let state = state.unwrap_or_else(|poisoned| poisoned.into_inner());
        (!state.is_stopping).then(|| state.duty.clone())
    }

    /// Waits until the duty is another than `duty`, at most `time`. With `heeds_requests`, a requested failover ends the wait as well.
    pub(super) fn pause(&self, duty: &Duty, time: Duration, heeds_requests: bool) {
        let is_same = |state: &mut State| {
            state.duty == *duty
                && !state.is_stopping
                && !(heeds_requests && (state.handover.is_some() || state.claim.is_some()))
        };
        drop(self.changed.wait_timeout_while(self.lock(), time, is_same));
    }

    /// A connection for one question that is answered within `time`. Another thread can break it off. Opening a connection takes several
    /// round trips, and has a limit of its own.
    pub(super) fn connection<'a>(
        &self,
        session: &'a mut Session,
        time: Duration,
    ) -> Result<&'a mut LogConnection, LogError> {
        if std::mem::take(&mut self.lock().is_broken_off) {
            session.log = None;
        }
        let log = match &mut session.log {
            Some(log) => log,
            none => {
                let time = time.max(opening_time(&self.shared.services));
                let told = session.told.map(|told| self.state_of_node(told, session.took_figures, 0));
                let log = LogConnection::open_reporting(&self.shared, time, AtEnd::GoesOn, told.as_ref())?;
                self.shared.set_log_address(log.reached()?);
                (session.version, session.takes_figures, session.takes_settings) = (0, false, false);
                none.insert(log)
            }
        };
        log.answers_within(time);
        self.lock().breaker = Some(log.breaker());
        Ok(log)
    }

    /// Reports this node, and hears who leads.
    pub(super) fn report(
        &self,
        session: &mut Session,
        role: &'static str,
        applied: u64,
        wait: Duration,
    ) -> Result<Arc<ShardView>, LogError> {
        // A leader that waits long for the answer renews its lease late.
        let time = match wait.is_zero() {
            true => renewal_time(&self.shared.services),
            false => wait + answer_time(&self.shared.services),
        };
        session.told = Some((role, applied));
        self.connection(session, time)?;
        // After the connection is there: another service counts its versions otherwise.
        let mut report = self.state_of_node((role, applied), session.takes_figures, session.version);
        if session.takes_settings {
            report.settings = self.settings();
        }
        let log = self.connection(session, time)?;
        let (id, address) = (self.shared.node_id(), self.shared.address());
        let view = log.node(&Node { id: &id, address: &address }, &report, wait)?;
        (session.version, session.takes_figures) = (view.version, view.takes_figures);
        (session.took_figures, session.takes_settings) = (view.takes_figures, view.takes_settings);
        if role == LEADER {
            self.say_differences(&view);
        }
        Ok(self.shared.set_view(view))
    }

    /// What this node says of itself, in that role and with that applied, to a service that takes figures, or not, and on whose connection it
    /// saw that version of the leadership last. Without its settings.
    fn state_of_node(
        &self,
        (role, applied): (&'static str, u64),
        takes_figures: bool,
        version: u64,
    ) -> Report<'static> {
        let figures = if takes_figures { self.shared.monitoring.ask() } else { None };
        let (priority, zone) = (self.shared.priority(), settings::ZONE.value());
        Report { role, priority, zone, applied, version, figures, settings: None }
    }

    /// Says in the server's log when the nodes of the shard begin or cease to differ. Once for each change, at the leader.
    fn say_differences(&self, view: &ShardView) {
        let before = self.shared.view();
        let before = before.as_ref().map_or("", |view| &view.differing_settings);
        match view.differing_settings.as_str() {
            same if same == before => {}
            "" => log_notice("durability: the nodes of this shard are set up alike again"),
            names => log_warning(format!(
                "durability: nodes of this shard are set up differently, which clients would notice after a failover: {names}"
            )),
        }
    }

    /// What this node tells of its settings. Has the main thread look at them from time to time.
    fn settings(&self) -> Option<Arc<str>> {
        let (settings, asks) = self.shared.monitoring.settings(Instant::now());
        if asks {
            self.shared.send(Task::LookAtSettings);
        }
        settings
    }

    /// Renews the lease of `epoch` if that is due, or if leases are to have another length than before.
    pub(super) fn renew(&self, session: &mut Session, epoch: u64) -> Result<(), LogError> {
        let length = settings::lease();
        let now = lease_clock::now();
        let Some((_, lease)) = &mut session.lease else { return Ok(()) };
        let has_other_length = lease.length().unwrap_or_default() != length;
        let is_due = !lease.observe(now) || has_other_length || lease.next_renewal() <= now;
        if !is_due {
            return Ok(());
        }
        // The lease counts from when the renewal is sent, and to find the service that takes it may need a while.
        let time = renewal_time(&self.shared.services);
        let opened = self.connection(session, time).map(drop);
        let sent = lease_clock::now();
        let Some((_, lease)) = &mut session.lease else { return Ok(()) };
        let is_over = !lease.observe(sent);
        if !is_over {
            lease.renewal_sent(sent, length);
            // A shorter length counts from now on.
            self.publish(epoch, lease.valid_until());
        }
        let renewed =
            opened.and_then(|()| self.connection(session, time)).and_then(|log| log.renew(epoch, length, sent));
        let Some((_, lease)) = &mut session.lease else { return Ok(()) };
        if let Err(error) = renewed {
            lease.renewal_failed(lease_clock::now());
            return Err(error);
        }
        self.shared.services.renewed(lease_clock::now().since(sent));
        if is_over || !lease.renewed(sent) {
            // The log service would have refused if another node had led. The clients of the lease that is over are closed.
            *lease = Lease::acquired(sent, length);
        }
        self.shared.set_lease_error("");
        let is_published = self.publish(epoch, lease.valid_until());
        // See `Module::suspend`.
        fence(Ordering::SeqCst);
        if is_published && self.shared.is_suspended.load(Ordering::Acquire) {
            self.shared.send(Task::Resume(epoch));
        }
        Ok(())
    }

    /// A question was answered. If that is news of which service decides, the agent, which may wait to try it again, hears of it.
    pub(super) fn answered(&self, session: &mut Session) {
        let confirmations = self.shared.services.confirmations();
        if std::mem::replace(&mut session.confirmations, confirmations) != confirmations {
            self.shared.agent_waker.wake();
        }
    }

    /// How long to wait after that failure: not at all if another service is to be tried.
    pub(super) fn wait_after(&self, session: &mut Session, error: &LogError) -> Duration {
        let services = &self.shared.services;
        if error.failure(services).is_some() && services.has_next() {
            return Duration::ZERO;
        }
        let wait = session.retry.next();
        if services.are_several() {
            // Another one may decide by now, and the lease is to last until it is found.
            wait.min(RETRY_TO_AMONG_SEVERAL)
        } else {
            wait
        }
    }

    /// Whether the thread is still to lead that epoch.
    pub(super) fn leads(&self, epoch: u64) -> bool {
        self.lock().leads(epoch)
    }

    /// Publishes that the lease of `epoch` lasts until then. Returns whether that counts: not if another duty has come meanwhile.
    fn publish(&self, epoch: u64, until: Moment) -> bool {
        let state = self.lock();
        let counts = state.leads(epoch);
        if counts {
            lease_clock::set(until);
        }
        counts
    }
}

/// How much longer than it waits for news an answer to a follower may take.
fn answer_time(services: &Services) -> Duration {
    if services.are_several() {
        services.time_for_one()
    } else {
        ANSWER_TIME
    }
}

/// How long an answer to a leader may take.
fn renewal_time(services: &Services) -> Duration {
    let length = settings::lease();
    if services.are_several() {
        services.time_for_one()
    } else if length.is_zero() {
        RENEWAL_TIME
    } else {
        RENEWAL_TIME.min(length / 3)
    }
}

/// How long connecting, the TLS handshake, the login and the comparison of logs may take. They are several round trips, so a short lease
/// does not shorten this. Among several services, each has its time, and all are tried.
fn opening_time(services: &Services) -> Duration {
    if services.are_several() {
        // The last one gets half of what is left.
        services.time_for_one() * (services.count() + 1)
    } else {
        RENEWAL_TIME.max(settings::lease() / 3)
    }
}
