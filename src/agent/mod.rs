//! The agent: the module's own thread. It attaches the server to its log, taps the stream, ships it, and takes
//! acknowledgements. The main thread never waits for it, but for a bounded moment at shutdown.

pub mod attach;
pub mod follow;
pub mod full_copy;
pub mod grant;
pub mod initial_snapshot;
pub mod interrupt;
pub mod own_server;
pub mod self_test;
pub mod tap;
pub mod uplink;

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded, Receiver, RecvTimeoutError, Sender};
use durability_protocol::{Code, Known};
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::attach::Leadership;
use crate::agent::full_copy::CopyWait;
use crate::agent::grant::Grant;
use crate::agent::interrupt::Interrupt;
use crate::agent::self_test::Unfinished;
use crate::agent::tap::{Start, Tap};
use crate::base::panic_guard::guard;
use crate::base::time_limit::AtEnd;
use crate::decide::known_log::{Contradiction, Kind};
use crate::decide::unacked::Backlog;
use crate::exchange::passed_over::{StartingOver, Step};
use crate::exchange::{Command, Link, Shared, Task};
use crate::lead::lease_keeper::{Duty, Keeper, KeeperDesk};
use crate::log::control::{LogConnection, LogError, Node};
use crate::node;
use crate::settings::{self, Mode};
use crate::shipper::{self, Ended};

/// Waits between attempts to attach, and to reach the log: doubled from the first to the second.
pub const BACKOFF_FROM: Duration = Duration::from_millis(100);
/// See [`BACKOFF_FROM`].
pub const BACKOFF_TO: Duration = Duration::from_secs(2);

/// How often it is looked whether the log has another snapshot, from which this node could start over.
const SNAPSHOT_POLL: Duration = Duration::from_secs(2);

/// Least time between two snapshots with which the log starts anew because something was written that is not in the stream. For
/// each the server forks. What depends on such a write waits that long.
const SEED_INTERVAL: Duration = Duration::from_secs(10);

/// A node that its log contradicts looks this often whether the right log is back.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the log may take to answer whether it is the right one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long giving back a lease may take.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(700);

/// The agent's state.
pub struct Agent {
    /// Shared with the main thread.
    pub shared: Arc<Shared>,
    /// Renews the lease, or hears who leads.
    pub keeper: Keeper,
    commands: Receiver<Command>,
    mode: Mode,
    /// Whether the operator made the server a replica of another one: then it has no log.
    is_replica: bool,
    /// What the self-test found; none if it has not run. One that failed runs again when the node attaches anew.
    self_test: Option<Result<(), String>>,
    /// The newest epoch that this process led.
    pub last_led: Option<u64>,
    /// Whether the server ran without its log since it last followed or led it.
    pub was_off: bool,
    /// The newest epoch of which this server holds everything, as its leader. `None` once it follows the log, until it leads.
    pub holds_all_of: Option<u64>,
    /// [`Shared::stage`] when the node began to attach.
    stage: u64,
    /// Since when, and how often, it had to pass over something of its log.
    starting_over: StartingOver,
    /// How long it waits after the next full copy that its server cannot load.
    pub copy_wait: CopyWait,
    /// When the log last took a snapshot because the tap had lost its place, or something was missing.
    last_seed: Option<Instant>,
    /// What only an operator can end: the log was seen to differ. This node does not attach to it, whatever else comes.
    lasting: Option<Contradiction>,
    /// An operator has accepted a log that lacks what the server holds, and it has not given way to that log, or been led, since.
    pub gives_way: bool,
    /// The lease that the log service may keep for this node.
    pub grant: Grant,
    /// It may be waited for until this node says that it answers nobody any more.
    is_deposed: bool,
}

/// What the main thread has of the threads that were started.
pub struct Started {
    /// The agent's mailbox.
    pub to_agent: Sender<Command>,
    /// Disconnected when the agent has ended.
    pub ended: Receiver<()>,
    /// To ask the keeper.
    pub keeper: KeeperDesk,
}

/// Starts the thread, in that mode; `was_off` as in [`Agent`].
///
/// # Errors
/// The system gives no thread.
pub fn start(shared: Arc<Shared>, mode: Mode, is_replica: bool, was_off: bool) -> std::io::Result<Started> {
    let (ends, ended) = bounded(0);
    let (sender, commands) = unbounded();
    let keeper = Keeper::start(Arc::clone(&shared), sender.clone())?;
    let keeper_desk = keeper.desk();
    let mut agent = Agent {
        shared,
        keeper,
        commands,
        mode,
        is_replica,
        self_test: None,
        last_led: None,
        was_off,
        holds_all_of: None,
        stage: 0,
        starting_over: StartingOver::default(),
        copy_wait: CopyWait::default(),
        last_seed: None,
        lasting: None,
        gives_way: false,
        grant: Grant::None,
        is_deposed: false,
    };
    std::thread::Builder::new().name("durability".to_owned()).spawn(move || {
        guard("running the agent", (), || agent.run());
        // With it the keeper ends.
        drop(agent);
        drop::<Sender<()>>(ends);
    })?;
    Ok(Started { to_agent: sender, ended, keeper: keeper_desk })
}

impl Agent {
    fn run(&mut self) {
        self.run_until_stopped();
        self.give_back();
    }

    fn run_until_stopped(&mut self) {
        let mut backoff = BACKOFF_FROM;
        // What came while the agent waited, and is still to be answered.
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
            self.keeper.set(Duty::Nothing);
            self.shared.remember(|memory, durable| memory.ceased(durable));
            self.shared.set_link(Link::Down);
            self.shared.epoch.store(0, Ordering::Relaxed);
            match interrupt {
                Interrupt::Stop => return,
                Interrupt::ModeChanged => {
                    backoff = BACKOFF_FROM;
                    // If it is not, that comes first when it serves.
                    if self.has_log() {
                        self.leave_log();
                    }
                }
                // The release may have failed: what is left of the lease is given back with any other.
                Interrupt::HandedOver => backoff = BACKOFF_FROM,
                Interrupt::Fenced(detail) => {
                    backoff = BACKOFF_FROM;
                    self.is_deposed = true;
                    self.shared.send(Task::Hold(format!("another node leads: {detail}")));
                }
                Interrupt::Contradicted(contradiction) => {
                    backoff = BACKOFF_FROM;
                    match self.wait_for_right_log(contradiction) {
                        Err(Interrupt::Stop) => return,
                        Err(Interrupt::ModeChanged) => self.leave_log(),
                        Ok(()) | Err(_) => {}
                    }
                    self.shared.set_contradiction(None);
                    self.shared.send(Task::AttachAnew);
                }
                Interrupt::LogAccepted { log_id, seeds } => {
                    self.accept_log(&log_id, seeds);
                }
                failed @ (Interrupt::Failed(_) | Interrupt::LostItsLog | Interrupt::CopyFailed) => {
                    let mut wait = backoff;
                    let why = match failed {
                        Interrupt::Failed(why) => why,
                        Interrupt::CopyFailed => {
                            wait = self.copy_wait.next();
                            self.why_copy_failed()
                        }
                        _ => "the server was taken away from its log".to_owned(),
                    };
                    // A node that led does not serve while it attaches anew.
                    self.shared.send(Task::Hold(why.clone()));
                    if started.elapsed() > BACKOFF_TO {
                        backoff = BACKOFF_FROM;
                    }
                    self.shared.try_again_after(&why);
                    match self.pause(wait) {
                        Err(Interrupt::Stop) => return,
                        Err(Interrupt::PassedOver(what)) => passed_over = Some(what),
                        _ => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_TO);
                }
                Interrupt::PassedOver(passed_over) => {
                    backoff = BACKOFF_FROM;
                    let why = passed_over.to_string();
                    self.shared.set_last_error(&why);
                    if let Err(Interrupt::Stop) = self.wait_to_start_over(passed_over.offset) {
                        return;
                    }
                    log_notice("durability: starting over from a full copy of the log");
                    self.shared.send(Task::StartOver(why));
                }
                Interrupt::Hopeless(why) => {
                    self.shared.set_last_error(&why);
                    self.shared.send(Task::Refuse(why));
                    if let Err(Interrupt::Stop) = self.pause(Duration::MAX) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until a full copy may help this node, which had to pass over something at `offset`.
    ///
    /// # Errors
    /// Something else is to be done first.
    fn wait_to_start_over(&mut self, offset: u64) -> Result<(), Interrupt> {
        match self.starting_over.next(offset, Instant::now()) {
            Step::After(wait) => self.pause(wait),
            Step::WithSnapshotBehind(offset) => loop {
                self.pause(SNAPSHOT_POLL)?;
                // Whatever keeps the log from answering is told when the node attaches.
                let status = LogConnection::open(&self.shared).and_then(|mut log| log.status());
                if status.is_ok_and(|status| status.snapshot_offset > Some(offset)) {
                    return Ok(());
                }
            },
        }
    }

    /// Attaches, leads, and ships, until something ends it.
    fn serve(&mut self) -> Result<std::convert::Infallible, Interrupt> {
        while !self.has_log() {
            self.leave_log();
            let mut paused = Ok(());
            while paused.is_ok() && self.grant.may_come() {
                paused = self.pause(BACKOFF_TO);
                if paused.is_ok() {
                    // What was to be done by then is done.
                    self.shared.end.leave(None);
                    self.give_back();
                }
            }
            paused.and_then(|()| self.pause(Duration::MAX)).or_else(|interrupt| match interrupt {
                Interrupt::ModeChanged => Ok(()),
                other => Err(other),
            })?;
        }
        self.shared.is_leaving.store(false, Ordering::Release);
        self.shared.end.leave(None);
        let facts = self.ask(Task::Describe)?;
        if std::mem::take(&mut self.is_deposed) {
            // The main thread has closed all clients before it answered.
            self.give_back();
        }
        // Whatever was asked of the main thread before is done.
        self.stage = self.shared.stage.load(Ordering::Relaxed);
        self.test_once()?;
        // Whatever is found missing later than this may be missing in a snapshot as well.
        let wanted = self.shared.seeds_wanted.load(Ordering::Acquire);
        let leadership = attach::attach(self, &facts)?;
        self.lead(leadership, wanted)
    }

    fn test_once(&mut self) -> Result<(), Interrupt> {
        if self.self_test != Some(Ok(())) && node::why_sync_is_impossible().is_none() {
            let result = match self_test::run(self) {
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

    /// Why this node must leave a lease that expires to other ones: once it has passed, replies could leave all the same.
    pub fn why_it_keeps_no_lease(&self) -> Option<String> {
        node::why_leases_are_not_kept(self.self_test.as_ref())
    }

    /// Leads and ships. `wanted` is what [`Shared::seeds_wanted`] was before the tap was opened.
    fn lead(&mut self, leadership: Leadership, wanted: u64) -> Result<std::convert::Infallible, Interrupt> {
        let Leadership { epoch, mut replid, mut tap, mut backlog, is_to_seed } = leadership;
        self.was_off = false;
        self.gives_way = false;
        self.holds_all_of = Some(epoch);
        self.shared.epoch.store(epoch, Ordering::Relaxed);
        self.shared.is_seeding.store(is_to_seed, Ordering::Release);
        self.publish(&backlog);
        self.shared.set_last_error("");
        self.shared.send(Task::Lead { epoch, stage: self.stage });
        let mut tap_is_lost = false;
        if is_to_seed {
            // The node serves meanwhile; nothing it writes is durable before the snapshot is.
            if let Err(why) = self.seed(&tap, epoch, &replid, backlog.end()) {
                self.shared.try_again_after(&why);
                tap_is_lost = true;
            } else {
                self.shared.seeds_had.store(wanted, Ordering::Release);
            }
        }
        loop {
            if !tap_is_lost {
                if let Some(durable) = self.shared.durable() {
                    self.shared.remember(|memory, _| memory.leads(epoch, &replid, durable));
                }
                let why = match shipper::ship(self, epoch, &mut tap, &mut backlog) {
                    Ended::TapLost(error) => error,
                    Ended::Fenced(detail) => {
                        return Err(Interrupt::Fenced(detail));
                    }
                    Ended::HandedOver => return Err(Interrupt::HandedOver),
                    Ended::LostItsLog => return Err(Interrupt::LostItsLog),
                    Ended::Broken(why) => return Err(Interrupt::Hopeless(why)),
                    Ended::Contradicted(contradiction) => return Err(Interrupt::Contradicted(contradiction)),
                    Ended::LogAccepted { log_id, seeds } => return Err(Interrupt::LogAccepted { log_id, seeds }),
                    Ended::ModeChanged => return Err(Interrupt::ModeChanged),
                    Ended::Stop => return Err(Interrupt::Stop),
                };
                log_notice(format!("durability: the tap ended ({why}); opening it again at offset {}", backlog.end()));
            }
            tap_is_lost = false;
            tap = self.resume(epoch, &mut replid, &mut backlog)?;
            self.publish(&backlog);
        }
    }

    /// Opens the tap where `backlog` ends, however long it takes. If the server does not have the next byte any more, or the
    /// log was never seeded, the log starts anew from a snapshot, which holds what lies between.
    ///
    /// # Errors
    /// Something else is to be done first.
    fn resume(&mut self, epoch: u64, replid: &mut String, backlog: &mut Backlog) -> Result<Tap, Interrupt> {
        let mut wait = BACKOFF_FROM;
        loop {
            self.shared.tap_reconnects.fetch_add(1, Ordering::Relaxed);
            match self.try_resume(epoch, replid, backlog) {
                Ok(tap) => return Ok(tap),
                // The node still holds everything, so it goes on leading and tries again.
                Err(Interrupt::Failed(why)) => self.shared.try_again_after(&why),
                Err(other) => return Err(other),
            }
            self.pause(wait)?;
            wait = (wait * 2).min(BACKOFF_TO);
        }
    }

    fn try_resume(&mut self, epoch: u64, replid: &mut String, backlog: &mut Backlog) -> Result<Tap, Interrupt> {
        // Whatever is found missing later than this may be missing in the snapshot as well.
        let wanted = self.shared.seeds_wanted.load(Ordering::Acquire);
        let is_seeding = self.shared.is_seeding.load(Ordering::Relaxed) || self.shared.must_seed();
        let position = (!is_seeding).then_some((replid.as_str(), backlog.end()));
        let (tap, start) = tap::open_anew(self, position)?;
        if let Start::Snapshot { replid: new_replid, offset } = start {
            if let Err(why) = self.seed(&tap, epoch, &new_replid, offset) {
                self.shared.try_again_after(&why);
                // The server forks for each snapshot.
                self.pause(BACKOFF_TO)?;
                return Err(Interrupt::Failed(why));
            }
            *replid = new_replid;
            *backlog = Backlog::new(offset);
            self.publish(backlog);
            self.shared.seeds_had.store(wanted, Ordering::Release);
            self.last_seed = Some(Instant::now());
        }
        Ok(tap)
    }

    /// The log starts anew, at `offset`, from the snapshot with which the tap begins.
    ///
    /// # Errors
    /// The log is as it was before.
    pub fn seed(&self, tap: &Tap, epoch: u64, replid: &str, offset: u64) -> Result<(), String> {
        let bytes = tap.snapshot_bytes(&self.shared).map_err(|error| error.to_string())?;
        let status =
            LogConnection::open(&self.shared).and_then(|mut log| log.status()).map_err(|error| error.to_string())?;
        initial_snapshot::send(&self.shared, &tap.stream, &status, epoch, replid, offset, bytes)
            .map_err(|error| error.to_string())?;
        self.shared.is_seeding.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes known how far the log is.
    pub fn publish(&self, backlog: &Backlog) {
        self.shared.set_durable(backlog.durable());
    }

    /// Connects to the log and compares what this node knows, and what its server holds of it. Answers the end of the latter, if
    /// there is anything to compare.
    ///
    /// # Errors
    /// The log cannot be reached, or is not what this node knows, or something else is to be done first.
    pub fn open_checked(&mut self) -> Result<(LogConnection, Option<u64>), Interrupt> {
        let (id, address) = (self.shared.node_id(), self.shared.address());
        let node = Node { id: &id, address: &address };
        if let Some(lasting) = self.lasting.clone() {
            // Nobody else is to lead this log either.
            let mut log = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT)?;
            log.contradict(&node, self.shared.known().as_ref())?;
            return Err(Interrupt::Contradicted(lasting));
        }
        if self.gives_way {
            return Ok((LogConnection::open(&self.shared)?, None));
        }
        let known = self.shared.known();
        let mut log = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT)?;
        let mut end = None;
        // Newer than what is remembered, so it comes first: what the log confirms ends an earlier contradiction of this node.
        if let (Some((replid, durable)), Some(known)) = (self.ask(Task::Held)?, &known) {
            // In which epoch it was so is not known.
            let held = Known { epoch: 0, replid, durable, ..known.clone() };
            log.check(&node, Some(&held))?;
            end = Some(durable);
        }
        log.check(&node, known.as_ref())?;
        Ok((log, end))
    }

    /// The log is not what this node knows: nobody is served until it is, or an operator has accepted it.
    ///
    /// # Errors
    /// The module is to end, or the node is to have no log, or has been given one again.
    fn wait_for_right_log(&mut self, mut contradiction: Contradiction) -> Result<(), Interrupt> {
        let mut is_news = true;
        loop {
            if contradiction.is_lasting() {
                self.lasting = Some(contradiction.clone());
            }
            if is_news {
                let why = contradiction.text(&settings::SHARD.value());
                self.shared.set_last_error(&why);
                self.shared.set_contradiction(Some(contradiction.clone()));
                self.shared.send(Task::Refuse(why));
                if contradiction.is_lasting() {
                    // At once: the log service does not know of it. What it answers is found again.
                    drop(self.open_checked());
                }
            }
            is_news = false;
            match self.pause(RECHECK_INTERVAL).and_then(|()| self.open_checked()) {
                Ok((log, _)) if contradiction.kind == Kind::Unfollowed && log.log_id() == contradiction.log_id => {}
                Ok(_) => {
                    log_notice("durability: the log is the one that this node knows; attaching to it again");
                    return Ok(());
                }
                // One that may pass takes the place of none that lasts.
                Err(Interrupt::Contradicted(now)) if now.is_lasting() || self.lasting.is_none() => {
                    is_news = now != contradiction;
                    contradiction = now;
                }
                Err(Interrupt::LogAccepted { log_id, seeds }) if self.accept_log(&log_id, seeds) => return Ok(()),
                Err(end @ (Interrupt::Stop | Interrupt::ModeChanged)) => return Err(end),
                Err(Interrupt::Fenced(_)) => self.is_deposed = true,
                // Whatever else is in the way is found again.
                Err(_) => {}
            }
        }
    }

    /// The operator says that the log of that id is right, whatever this node knows. Answers whether it was accepted; if not, everything
    /// is as before.
    fn accept_log(&mut self, log_id: &str, seeds: bool) -> bool {
        if self.shared.contradiction().is_some_and(|it| it.is_unfollowed(log_id)) {
            log_warning(format!(
                "durability: an operator has accepted the log {log_id}: what this node wrote while it had no log gives way to it"
            ));
            self.was_off = false;
            return true;
        }
        let accepted = LogConnection::open_unchecked(&self.shared, ANSWER_TIMEOUT).and_then(|mut log| {
            log.accept(log_id)?;
            log.status()
        });
        match accepted {
            Ok(status) => {
                log_warning(format!(
                    "durability: an operator has accepted the log {log_id}: {}",
                    if seeds { "it starts anew from this node's data" } else { "this node's data give way to it" }
                ));
                self.shared.remember(|memory, _| memory.forget());
                self.grant = Grant::None;
                self.lasting = None;
                self.gives_way = true;
                // Nobody may lead in between.
                self.was_off = seeds;
                self.holds_all_of = seeds.then_some(status.epoch);
                true
            }
            Err(error) => {
                log_warning(format!(
                    "durability: the log {log_id} is not accepted, and this node refuses as before; send DURABILITY.ACCEPT-LOG again: {error}"
                ));
                false
            }
        }
    }

    /// The node is to have no log, whatever was under way: what was held is not acknowledged any more.
    fn leave_log(&mut self) {
        self.was_off = true;
        self.shared.send(Task::TermEnded);
        self.give_back();
    }

    /// Gives back the lease, if the log service may keep one for this node. Best effort: one that is not given back is tried again when
    /// the node ends, is taken over by the same node when it comes back, or passes.
    fn give_back(&mut self) {
        self.keeper.set(Duty::Nothing);
        if self.grant == Grant::None {
            return;
        }
        match self.resign_what_is_granted() {
            Ok(Some(epoch)) => {
                self.grant = Grant::None;
                log_notice(format!("durability: released the lease of epoch {epoch}"));
            }
            // It may still come; there is no more time for it.
            Ok(None) if matches!(self.grant, Grant::Unknown(_)) => {}
            Ok(None) => self.grant = Grant::None,
            Err(LogError::Refused(refusal)) if refusal.code == Code::Fenced => self.grant = Grant::None,
            Err(error) => log_warning(format!("durability: the lease is not released: {error}")),
        }
    }

    /// See [`Grant::resign`].
    fn resign_what_is_granted(&self) -> Result<Option<u64>, LogError> {
        // A node that ends has until then, any other is to attach to its log again.
        let end = self.shared.end.get();
        let left = end.map_or(RELEASE_TIMEOUT, |end| end.saturating_duration_since(Instant::now()));
        let mut log = LogConnection::open_within(&self.shared, left, AtEnd::GoesOn)?;
        self.grant.resign(&mut log, &self.shared.node_id(), end)
    }

    /// Gives the main thread a task and waits for its answer.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn ask<T>(&mut self, task: impl FnOnce(Sender<T>) -> Task) -> Result<T, Interrupt> {
        let (reply, answer) = bounded(1);
        self.shared.send(task(reply));
        loop {
            match answer.recv_timeout(Duration::from_millis(20)) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
                Err(RecvTimeoutError::Timeout) => self.look_at_commands()?,
            }
        }
    }

    /// Waits, at most `time`.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn pause(&mut self, time: Duration) -> Result<(), Interrupt> {
        let deadline = Instant::now().checked_add(time);
        loop {
            let received = match deadline {
                Some(deadline) => self.commands.recv_deadline(deadline),
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
            }
        }
    }

    /// There will be news when the server, as a replica of the log, has applied everything up to `target`.
    pub fn report_when_applied(&self, target: u64) {
        if self.shared.attach_target.swap(target, Ordering::AcqRel) != target {
            self.shared.main_bell.ring();
        }
    }

    /// Waits until there is news of who leads, or of what the server has applied, at most `time`.
    ///
    /// # Errors
    /// Something else is to be done first.
    pub fn wait_for_news(&mut self, time: Duration) -> Result<(), Interrupt> {
        let deadline = Instant::now() + time;
        let mut has_news = false;
        loop {
            // All that is known already is one piece of news.
            let received = match has_news {
                true => self.commands.try_recv().map_err(|_| RecvTimeoutError::Timeout),
                false => self.commands.recv_deadline(deadline),
            };
            match received {
                Ok(Command::Applied | Command::Viewed) => has_news = true,
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Interrupt::Stop),
            }
        }
    }

    /// Has the server serve reads while another node leads.
    pub fn serve_reads(&self) {
        self.shared.send(Task::ServeReads { stage: self.stage });
    }

    /// Takes the commands that wait.
    ///
    /// # Errors
    /// One of them ends the current work.
    pub fn look_at_commands(&mut self) -> Result<(), Interrupt> {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command)?;
        }
        Ok(())
    }

    /// Whether this node is to have its log.
    fn has_log(&self) -> bool {
        self.mode != Mode::Off && !self.is_replica
    }

    /// Whether the log is to start anew now, as it lacks what this node holds. Not more often than the server can bear: whoever makes
    /// it necessary may do so all the time.
    pub fn is_seed_due(&self) -> bool {
        self.shared.must_seed() && self.last_seed.is_none_or(|last| last.elapsed() >= SEED_INTERVAL)
    }

    /// The mode that the main thread last told.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn obey(&mut self, command: Command) -> Result<(), Interrupt> {
        let had_log = self.has_log();
        match command {
            Command::Stop => Err(Interrupt::Stop),
            // News that nobody waits for any more, or that the shipper sees by itself.
            Command::Applied | Command::Viewed | Command::SeedAnew => Ok(()),
            Command::Fenced { epoch, detail } if self.last_led == Some(epoch) => Err(Interrupt::Fenced(detail)),
            Command::Fenced { .. } => Ok(()),
            Command::HandedOver => Err(Interrupt::HandedOver),
            Command::Contradicted(contradiction) => Err(Interrupt::Contradicted(contradiction)),
            Command::AcceptLog { log_id, seeds }
                if self.shared.contradiction().is_some_and(|it| !seeds || it.kind != Kind::Unfollowed) =>
            {
                Err(Interrupt::LogAccepted { log_id, seeds })
            }
            // It has ended meanwhile.
            Command::AcceptLog { .. } => Ok(()),
            Command::LostItsLog => Err(Interrupt::LostItsLog),
            Command::CopyFailed => Err(Interrupt::CopyFailed),
            Command::PassedOver(passed_over) => Err(Interrupt::PassedOver(passed_over)),
            Command::Mode(mode) => {
                self.mode = mode;
                self.go_on_if(had_log)
            }
            Command::Replica(is_replica) => {
                self.is_replica = is_replica;
                self.go_on_if(had_log)
            }
        }
    }

    fn go_on_if(&self, had_log: bool) -> Result<(), Interrupt> {
        if self.has_log() == had_log {
            Ok(())
        } else {
            Err(Interrupt::ModeChanged)
        }
    }
}
