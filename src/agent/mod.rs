//! The agent: the module's own thread. It attaches the server to its log, taps the stream, ships it, and takes acknowledgements. The main
//! thread never waits for it, except for a bounded moment at shutdown.
//!
//! This file is its loop. From the bottom up: `interrupt` and `grant` are what it works with, `control` is its mailbox, `state` what it
//! remembers. `own_server`, `tap`, `uplink`, `self_test` and `initial_snapshot` are its connections. `attach`, `candidate` and `follow`
//! bring its node to lead, `leading` with `src/shipper.rs` is what it does then.

pub mod acquire;
pub mod attach;
pub mod broken_stream;
pub mod control;
pub mod follow;
pub mod full_copy;
pub mod grant;
pub mod initial_snapshot;
pub mod interrupt;
pub mod leading;
pub mod membership;
pub mod own_server;
pub mod release;
pub mod replica_link;
pub mod retry;
pub mod right_log;
pub mod self_test;
pub mod server_acks;
mod slot_intentions;
pub mod state;
pub mod stream_check;
pub mod tap;
pub mod torn_tail;
pub mod uplink;

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded, Receiver, Sender};
use valkey_module::logging::log_notice;

use crate::agent::control::Control;
use crate::agent::interrupt::Interrupt;
use crate::agent::retry::{retry_waits, RETRY_TO};
use crate::agent::self_test::Unfinished;
use crate::agent::state::Agent;
use crate::base::backoff::Backoff;
use crate::base::panic_guard::guard;
use crate::decide::known_log::Contradiction;
use crate::exchange::mailbox::{Command, Task};
use crate::exchange::passed_over::{NextCopy, PassedOver};
use crate::exchange::server_support::ServerSupport;
use crate::exchange::Shared;
use crate::lead::keeper_state::Duty;
use crate::lead::lease_keeper::{LeaseKeeper, LeaseKeeperHandle};
use crate::log::control::LogConnection;
use crate::settings::Mode;

/// How often to check whether the log has another snapshot, from which this node could start over.
const SNAPSHOT_POLL: Duration = Duration::from_secs(2);

/// How often to look whether the bus has told who leads.
const REDIRECT_POLL: Duration = Duration::from_millis(5);
/// How long it may take, which takes some milliseconds if all is well. If the next leader dies, this node has to be a candidate again before
/// clients have waited for too long.
const REDIRECT_TIME: Duration = Duration::from_millis(500);

/// How the main thread reaches the threads that were started.
pub struct Started {
    /// The agent's mailbox.
    pub to_agent: Sender<Command>,
    /// Disconnected when the agent has ended.
    pub ended: Receiver<()>,
    /// For requests to the lease keeper.
    pub keeper: LeaseKeeperHandle,
}

/// Starts the agent and the lease keeper, in that mode. `is_replica` says that the operator made the server a replica, `was_off` is as in
/// [`Agent`]. Main thread.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    shared: Arc<Shared>,
    support: ServerSupport,
    mode: Mode,
    is_replica: bool,
    was_off: bool,
) -> std::io::Result<Started> {
    let (ends, ended) = bounded(0);
    let (to_agent, commands) = unbounded();
    let keeper = LeaseKeeper::start(Arc::clone(&shared), to_agent.clone())?;
    let keeper_handle = keeper.handle();
    let mut agent = Agent::new(Control::new(shared, support, commands, mode, is_replica), keeper, was_off);
    std::thread::Builder::new().name("durability".to_owned()).spawn(move || {
        guard("running the agent", (), || agent.run());
        // The lease keeper ends with the agent.
        drop(agent);
        drop::<Sender<()>>(ends);
    })?;
    Ok(Started { to_agent, ended, keeper: keeper_handle })
}

/// The module is to end.
struct Stopped;

impl Agent {
    fn run(&mut self) {
        self.run_until_stopped();
        self.give_back();
    }

    fn run_until_stopped(&mut self) {
        let mut waits = retry_waits();
        // What the server passed over while the agent waited.
        let mut passed_over = None;
        loop {
            let started = Instant::now();
            let interrupt = match passed_over.take() {
                Some(passed_over) => Interrupt::PassedOver(passed_over),
                None => match self.serve() {
                    Ok(never) => match never {},
                    Err(interrupt) => interrupt,
                },
            };
            self.stop_leading();
            match self.recover(interrupt, started, &mut waits) {
                Ok(next) => passed_over = next,
                Err(Stopped) => return,
            }
        }
    }

    fn stop_leading(&self) {
        self.keeper.set(Duty::Nothing);
        self.shared.remember(|memory, durable| memory.ceased(durable));
        self.shared.link.lost();
        self.shared.epoch.store(0, Ordering::Relaxed);
    }

    /// Does what is needed before the node can attach again. Returns what the server passed over meanwhile, which comes first.
    fn recover(
        &mut self,
        interrupt: Interrupt,
        started: Instant,
        waits: &mut Backoff,
    ) -> Result<Option<PassedOver>, Stopped> {
        match interrupt {
            Interrupt::Stop => return Err(Stopped),
            Interrupt::ModeChanged => {
                waits.reset();
                // A node without a log leaves it when it serves next.
                if self.control.has_log() {
                    self.leave_log();
                }
            }
            // If the release failed, the lease is given back along with the next one.
            Interrupt::HandedOver => waits.reset(),
            Interrupt::Fenced(detail) => {
                waits.reset();
                self.must_confirm_step_down = true;
                self.shared.send(Task::Hold(format!("another node leads: {detail}")));
            }
            Interrupt::Contradicted(contradiction) => {
                waits.reset();
                self.recover_contradicted(contradiction)?;
            }
            Interrupt::LogAccepted { log_id, keeps_own_data } => {
                self.accept_log(&log_id, keeps_own_data);
            }
            Interrupt::Failed(why) => return self.retry_later(&why, started, waits, None),
            Interrupt::LostItsLog => {
                // A leader that its cluster has taken for a replica gives back the lease.
                self.must_confirm_step_down |= self.control.support.is_cluster;
                return self.retry_later("the server was taken away from its log", started, waits, None);
            }
            Interrupt::CopyFailed => {
                let wait = self.copy_waits.next();
                let why = full_copy::why_copy_failed(&self.shared);
                return self.retry_later(&why, started, waits, Some(wait));
            }
            Interrupt::PassedOver(passed_over) => {
                waits.reset();
                self.start_over(&passed_over)?;
            }
            Interrupt::Hopeless(why) => {
                self.shared.set_last_error(&why);
                self.shared.send(Task::Refuse(why));
                if let Err(Interrupt::Stop) = self.control.pause(Duration::MAX) {
                    return Err(Stopped);
                }
            }
        }
        Ok(None)
    }

    /// Waits before the next attempt: for `wait`, or as long as is usual.
    fn retry_later(
        &mut self,
        why: &str,
        started: Instant,
        waits: &mut Backoff,
        wait: Option<Duration>,
    ) -> Result<Option<PassedOver>, Stopped> {
        // A node that led does not serve while it attaches again.
        self.shared.send(Task::Hold(why.to_owned()));
        let usual = waits.next();
        if started.elapsed() > RETRY_TO {
            // An attempt that took long is not one of a quick series: the next waits are short, but not the shortest.
            waits.reset();
            waits.next();
        }
        self.shared.try_again_after(why);
        match self.control.pause(wait.unwrap_or(usual)) {
            Err(Interrupt::Stop) => Err(Stopped),
            Err(Interrupt::PassedOver(passed_over)) => Ok(Some(passed_over)),
            _ => Ok(None),
        }
    }

    fn recover_contradicted(&mut self, contradiction: Contradiction) -> Result<(), Stopped> {
        match self.wait_for_right_log(contradiction) {
            Err(Interrupt::Stop) => return Err(Stopped),
            Err(Interrupt::ModeChanged) => self.leave_log(),
            Ok(()) | Err(_) => {}
        }
        self.shared.set_contradiction(None);
        self.shared.send(Task::AttachAnew);
        Ok(())
    }

    fn start_over(&mut self, passed_over: &PassedOver) -> Result<(), Stopped> {
        let why = passed_over.to_string();
        self.shared.set_last_error(&why);
        if let Err(Interrupt::Stop) = self.wait_to_start_over(passed_over.offset) {
            return Err(Stopped);
        }
        log_notice("durability: starting over from a full copy of the log");
        self.shared.send(Task::StartOver(why));
        Ok(())
    }

    /// Waits until a full copy may help this node, whose server passed over something at `offset`.
    ///
    /// # Errors
    /// Something else is to be done first.
    fn wait_to_start_over(&mut self, offset: u64) -> Result<(), Interrupt> {
        match self.starting_over.next(offset, Instant::now()) {
            NextCopy::After(wait) => self.control.pause(wait),
            NextCopy::WithSnapshotBehind(offset) => loop {
                self.control.pause(SNAPSHOT_POLL)?;
                // The error of a log that does not answer is reported when the node attaches.
                let status = LogConnection::open(&self.shared).and_then(|mut log| log.status());
                if status.is_ok_and(|status| status.snapshot_offset > Some(offset)) {
                    return Ok(());
                }
            },
        }
    }

    /// Attaches, leads, and ships, until something ends it.
    fn serve(&mut self) -> Result<Infallible, Interrupt> {
        while !self.control.has_log() {
            self.leave_log();
            match self.wait_without_log() {
                Ok(()) | Err(Interrupt::ModeChanged) => {}
                Err(other) => return Err(other),
            }
        }
        self.shared.is_leaving.store(false, Ordering::Release);
        self.shared.end.leave(None);
        self.wait_for_redirect()?;
        let facts = self.control.ask(Task::Describe)?;
        if std::mem::take(&mut self.must_confirm_step_down) {
            // The main thread has closed all clients before it answered.
            self.give_back();
        }
        self.control.begin_stage();
        self.test_once()?;
        // What is found missing after this moment may be missing in a snapshot as well.
        let wanted = self.shared.snapshots_wanted.load(Ordering::Acquire);
        let leadership = attach::attach(self, &facts)?;
        self.lead(leadership, wanted)
    }

    /// Waits for the bus to tell who leads, if this node has just handed over in a cluster. A server that hears from the bus who leads becomes a
    /// replica of that node, and sends on the clients that it has blocked. One that follows its log already knows no owner of what were its
    /// slots, and would tell them that the cluster is down.
    fn wait_for_redirect(&mut self) -> Result<(), Interrupt> {
        let deadline = Instant::now() + REDIRECT_TIME;
        while self.control.support.is_cluster && Instant::now() < deadline && self.control.ask(Task::AwaitsRedirect)? {
            self.control.pause(REDIRECT_POLL)?;
        }
        Ok(())
    }

    /// Waits until the node is to have a log. Gives back a lease that is granted late.
    fn wait_without_log(&mut self) -> Result<(), Interrupt> {
        while self.grant.may_come() {
            self.control.pause(RETRY_TO)?;
            // What was to be done until the node left its log is done.
            self.shared.end.leave(None);
            self.give_back();
        }
        self.control.pause(Duration::MAX)
    }

    fn test_once(&mut self) -> Result<(), Interrupt> {
        if self.self_test != Some(Ok(())) && self.control.support.why_no_sync.is_none() {
            let result = match self_test::run(&mut self.control) {
                Ok(()) => Ok(()),
                Err(Unfinished::Failed(why)) => Err(why),
                Err(Unfinished::Interrupted(interrupt)) => return Err(interrupt),
            };
            self.self_test = Some(result.clone());
            self.shared.send(Task::SelfTestDone(result));
        }
        self.shared.keeps_no_lease.store(self.why_it_keeps_no_lease().is_some(), Ordering::Relaxed);
        Ok(())
    }
}
