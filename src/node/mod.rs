//! The module's state on the server's main thread, and how it changes.

pub mod audit_reads;
pub mod command_filter;
pub mod limits;
pub mod login_check;
pub mod redirect;
pub mod roles;
pub mod stream_commands;
pub mod stream_errors;
pub mod tasks;

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::{Context, ContextFlags};

use crate::base::panic_guard::has_failed;
use crate::decide::gate::{ClientId, Gate};
use crate::decide::held_memory::HeldBound;
use crate::decide::reply_timeouts::Timeouts;
use crate::decide::silent_writes::SilentWrites;
use crate::decide::taken_replies;
use crate::decide::unlogged::{Unlogged, UnloggedWrites};
use crate::decide::valve::Group;
use crate::decide::watched_keys::Watching;
use crate::decide::write_limit::Bound;
use crate::exchange::own_logins::OwnLogins;
use crate::exchange::{Command, Shared, Task, NO_TARGET};
use crate::lead::lease_keeper::KeeperDesk;
use crate::server::api::{self, TapUser};
use crate::server::command_table::CommandTable;
use crate::server::connections::ServerConnections;
use crate::server::internals::{self, Internals};
use crate::server::read_pause::Settling;
use crate::server::{command_names, follow_settings, running_client};
use crate::settings::{self, Mode};

/// How long the server waits for the agent when it shuts down.
const STOP_TIMEOUT: Duration = Duration::from_millis(2500);
/// For the agent's thread itself to end, when all that waits for the log has.
const LAST_STEPS: Duration = Duration::from_millis(200);

/// What this node is to its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nothing: the module is off.
    Off,
    /// On its way to lead: connecting to the log, catching up, or waiting for another leader's lease.
    Attaching,
    /// Another node leads: it follows the log, and serves reads.
    Follower,
    /// It leads: its writes go to the log.
    Leader,
    /// It leads, unless another node has taken over: its lease has passed, because the log does not answer.
    Suspended,
    /// The operator made it a replica of another server: it has no log until it is a primary again.
    Replica,
    /// It cannot serve until an operator acts, for that reason.
    Refused(String),
}

impl Role {
    /// As `DURABILITY.STATUS` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Off => "off",
            Role::Attaching => "attaching",
            Role::Follower => "follower",
            Role::Suspended => "suspended",
            Role::Leader => "leader",
            Role::Replica => "replica",
            Role::Refused(_) => "refused",
        }
    }
}

/// The module, once it is loaded. Lives on the main thread.
pub struct Module {
    /// A context that is valid for as long as the module is loaded.
    pub ctx: Context,
    /// Figures and mailboxes shared with the agent.
    pub shared: Arc<Shared>,
    /// Holds replies; missing where the server lacks what it takes, and then sync mode is refused.
    pub gate: Option<Gate<ServerConnections>>,
    /// What the server says of its commands.
    pub commands: CommandTable,
    /// The newest group that a script, or another module's command, depends on by what it called; its own event is to come.
    pub script_dependency: Group,
    /// What transactions tell of watched keys.
    pub watching: Watching,
    /// How far the log is behind, and whether writes are refused for it.
    pub bound: Bound,
    /// Closes clients that wait too long.
    pub timeouts: Timeouts,
    /// Clients that were closed because they waited too long.
    pub timed_out_clients: u64,
    /// Bounds the memory of replies that wait.
    pub held_bound: HeldBound,
    /// When writes were not sent to the log.
    pub unlogged: Unlogged,
    /// Writes that were found not to be in the stream.
    pub unlogged_writes: UnloggedWrites,
    /// Finds those of modules.
    pub silent_writes: SilentWrites,
    /// Clients wait because of a planned failover.
    pub is_pausing: bool,
    /// Id of the client that connected last.
    pub newest_client: ClientId,
    /// What this node is to its shard.
    pub role: Role,
    /// The mode in force.
    pub mode: Mode,
    /// Whether holding replies works in this server; `None` before it was tried.
    pub self_test: Option<Result<(), String>>,
    /// The client that is held for the self-test; 0 if none was.
    pub self_test_client: ClientId,
    /// The user that the tap logs in as.
    pub tap_user: TapUser,
    /// The logins of the module's own that are to come.
    pub own_logins: OwnLogins,
    /// The epoch that this node leads, or would if its mode allowed it.
    pub epoch: Option<u64>,
    /// Replication id and end of the stream when this node last ceased to hold what its log had, because the mode became off; none if that
    /// says nothing of what was written since.
    pub left: Option<(String, u64)>,
    /// That is still to be noted.
    pub is_to_note_where: bool,
    /// It led until then, so the log may lack the end of that.
    pub led_until_left: bool,
    /// Whether the gate hears of commands.
    pub is_listening: bool,
    /// Whether what the server leaves out of the stream is put there: this node leads, and hears of commands.
    pub completes_stream: bool,
    /// In async mode: a command came that needs that.
    pub has_cause_to_watch: bool,
    /// The streams in which the command that runs has made a consumer.
    pub created_consumers: Vec<Vec<u8>>,
    /// Whether the server has gone round its event loop since the module was loaded.
    has_run: bool,
    /// Whether this node serves nobody any more because a callback has panicked.
    pub has_given_up: bool,
    /// Clients wait while this node attaches.
    pub settling: Option<Settling>,
    /// The server has just started: clients wait until the log holds what it started with, if that does not take long. Nobody
    /// is kept from anything meanwhile, and the server is then not in the middle of a background save of the log's.
    pub settles_until_seeded: bool,
    to_agent: Sender<Command>,
    /// To ask the keeper.
    pub keeper: KeeperDesk,
    /// Disconnected when the agent has ended.
    agent: Option<Receiver<()>>,
}

/// What a module is made of.
pub struct Parts {
    /// See [`Module::ctx`].
    pub ctx: Context,
    /// See [`Module::shared`].
    pub shared: Arc<Shared>,
    /// See [`Module::gate`].
    pub gate: Option<Gate<ServerConnections>>,
    /// See [`Module::tap_user`].
    pub tap_user: TapUser,
    /// The agent's mailbox.
    pub to_agent: Sender<Command>,
    /// Disconnected when the agent has ended.
    pub agent: Receiver<()>,
    /// See [`Module::keeper`].
    pub keeper: KeeperDesk,
    /// See [`Module::commands`].
    pub commands: CommandTable,
    /// Whether the operator made the server a replica.
    pub is_replica: bool,
    /// Whether the server has written without this module.
    pub was_off: bool,
}

thread_local! {
    static MODULE: RefCell<Option<Module>> = const { RefCell::new(None) };
}

/// Runs `work` on the module. `None` if it is not loaded, if this is another thread than the main one, or if this is called from
/// within another `with` ([`is_in_use`]): then it is a command of the module's own that made the server call back.
pub fn with<R>(work: impl FnOnce(&mut Module) -> R) -> Option<R> {
    MODULE.with(|module| module.try_borrow_mut().ok()?.as_mut().map(work))
}

/// As [`with`], for what the module must not miss.
///
/// # Panics
/// This is called from within another `with`.
pub fn must<R>(work: impl FnOnce(&mut Module) -> R) -> Option<R> {
    assert!(!is_in_use(), "the server calls back while the module is in use");
    with(work)
}

/// Whether this is called from within [`with`].
pub fn is_in_use() -> bool {
    MODULE.with(|module| module.try_borrow().is_err())
}

/// Puts the module in place.
pub fn loaded(module: Module) {
    MODULE.with(|place| *place.borrow_mut() = Some(module));
}

/// Takes the module out of its place.
pub fn unloaded() -> Option<Module> {
    MODULE.with(|place| place.borrow_mut().take())
}

/// Why this server cannot offer sync mode, judged without trying.
pub fn why_sync_is_impossible() -> Option<String> {
    let (major, minor, patch) = api::version();
    if !internals::is_verified_version(major, minor) {
        return Some(format!(
            "sync mode is verified for Valkey 9.1 and this is {major}.{minor}.{patch}; use durability.mode async, or a \
             release of this module that knows this version"
        ));
    }
    Internals::get().err().map(|missing| format!("{missing}, which sync mode needs; use durability.mode async"))
}

/// Why a leader of this server cannot be kept from answering once its lease has passed: as it takes what sync mode takes. `self_test`
/// is what the self-test found; none if it has not run. Any thread.
pub fn why_leases_are_not_kept(self_test: Option<&Result<(), String>>) -> Option<String> {
    let failed = || self_test.and_then(|result| result.as_ref().err()).cloned();
    why_sync_is_impossible().or_else(failed).map(|why| {
        format!("durability.failover yes keeps a leader whose lease has passed from answering as sync mode does: {why}")
    })
}

/// Why this server cannot have a log, in any mode but off.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    let is_cluster = ctx.get_flags().contains(ContextFlags::CLUSTER);
    let why = is_cluster.then(|| {
        "cluster mode (cluster-enabled yes) is not supported yet: a cluster's node cannot follow its log after a restart; \
         set cluster-enabled no, or durability.mode off"
            .to_owned()
    });
    why.or_else(|| command_names::why_the_log_is_impossible(ctx))
}

/// The configured mode is about to become `mode`.
///
/// # Errors
/// Why it cannot, for the user to read; then nothing has changed.
pub fn change_mode(mode: Mode) -> Result<(), String> {
    // Before the module is loaded there is nothing to change; what was configured is checked when it starts.
    with(|module| module.change_mode(mode)).unwrap_or(Ok(()))
}

impl Module {
    /// Starts out attaching, off, or as a replica. The agent is running.
    pub fn new(parts: Parts) -> Self {
        let Parts { ctx, shared, gate, tap_user, to_agent, agent, keeper, commands, is_replica, was_off } = parts;
        let mode = settings::MODE.mode();
        let role = match mode {
            Mode::Off => Role::Off,
            _ if is_replica => Role::Replica,
            _ => Role::Attaching,
        };
        let mut unlogged = Unlogged::default();
        if role == Role::Off || was_off {
            unlogged.begin();
        }
        running_client::keep_many(commands.has_others());
        let module = Module {
            ctx,
            shared,
            gate,
            commands,
            script_dependency: 0,
            watching: Watching::default(),
            bound: Bound::new(Instant::now()),
            timeouts: Timeouts::default(),
            timed_out_clients: 0,
            held_bound: HeldBound::default(),
            unlogged,
            unlogged_writes: UnloggedWrites::default(),
            silent_writes: SilentWrites::default(),
            is_pausing: false,
            newest_client: 0,
            role,
            mode,
            self_test: None,
            self_test_client: 0,
            tap_user,
            own_logins: OwnLogins::default(),
            epoch: None,
            left: None,
            is_to_note_where: false,
            led_until_left: false,
            is_listening: false,
            completes_stream: false,
            has_cause_to_watch: false,
            created_consumers: Vec::new(),
            has_run: false,
            has_given_up: false,
            settling: None,
            settles_until_seeded: false,
            to_agent,
            keeper,
            agent: Some(agent),
        };
        module.update_filter();
        module
    }

    /// The event loop is about to write replies and sleep.
    pub fn before_sleep(&mut self) {
        if !self.has_run {
            self.has_run = true;
            if self.role == Role::Attaching {
                self.settles_until_seeded = true;
                self.settle();
            }
        }
        if has_failed() && !self.has_given_up {
            self.give_up();
        }
        if let Some(gate) = &self.gate {
            gate.connections.round_is_over();
        }
        // No command runs: what is left here was read by a module's callback or thread.
        self.script_dependency = 0;
        // Before the lease is looked at: a leader whose lease has passed goes on with all it had if nobody else has led.
        if self.silent_writes.is_waiting() {
            let offset = api::replication_offset(&self.ctx);
            if self.silent_writes.nothing_runs(offset) && matches!(self.role, Role::Leader | Role::Suspended) {
                self.found_unlogged("");
            }
        }
        self.look_at_lease();
        match self.role {
            Role::Leader | Role::Suspended => self.account(),
            Role::Attaching | Role::Follower => self.report_applied(),
            Role::Off | Role::Replica => self.release_held(),
            Role::Refused(_) => {}
        }
        self.close_withheld();
        self.write_to_half_closed();
        if taken_replies::total() > 0 {
            self.look_at_held_bytes(Instant::now());
        }
        if follow_settings::is_retry_due() {
            self.shared.send(Task::RestoreSettings);
        }
        if self.settling.is_some() {
            let is_settled = match self.role {
                Role::Attaching | Role::Suspended => false,
                Role::Leader if self.is_pausing => false,
                Role::Leader if self.settles_until_seeded => self.shared.durable().is_some(),
                _ => true,
            };
            if is_settled {
                self.end_settling();
            } else {
                self.end_settling_in_time();
            }
        }
    }

    /// The server's commands are these from now on.
    pub fn learn_commands(&mut self, commands: CommandTable) {
        running_client::keep_many(commands.has_others());
        stream_commands::forget_all();
        self.commands = commands;
    }

    fn account(&mut self) {
        let offset = api::replication_offset(&self.ctx);
        let durable = self.shared.durable();
        let may_be_untold = self.commands.has_others() && self.is_listening && offset != self.bound.offset();
        if let Some(gate) = &mut self.gate {
            if may_be_untold && !gate.has_open_writes() && gate.connections.is_anyone_awaiting() {
                // What a module wrote in a callback, of which no command tells, its answers may tell of.
                gate.write();
            }
            if !gate.is_idle() {
                gate.close_group(|| offset);
            }
            // What tests/histories must notice: everything leaves at once.
            let released = if cfg!(feature = "broken-gate") { Some(u64::MAX) } else { durable };
            if let Some(released) = released {
                gate.release(released);
            }
            let late_answers = gate.late_answers();
            if self.timeouts.is_kept() {
                late_answers.into_iter().for_each(|(client, group)| self.timeouts.held(client, group));
            }
        }
        if durable.is_some() {
            self.unlogged.end();
        }
        let is_anyone_held = self.gate.as_ref().is_some_and(|gate| gate.held_clients() > 0);
        if !self.bound.is_idle_at(offset) || is_anyone_held || self.timeouts.is_waiting() {
            let now = Instant::now();
            self.look_at_bound(now, offset, self.shared.acknowledged());
            self.close_late(now);
            self.offer_again(now);
        }
    }

    /// Closes clients that were to be told of keys before the log had confirmed them.
    fn close_withheld(&mut self) {
        let closed = self.gate.as_mut().map_or(0, Gate::take_late_holds);
        if closed > 0 {
            log_notice(format!(
                "durability: closed {closed} clients that would have been notified of keys which the log has not confirmed"
            ));
        }
    }

    /// Writes to clients that have ended their sending what the log has acknowledged.
    pub fn write_to_half_closed(&self) {
        let Some(gate) = &self.gate else { return };
        let mut half_closed = gate.connections.half_closed.borrow_mut();
        if !half_closed.is_empty() {
            half_closed.go_on(|| api::config(&self.ctx, "maxclients").parse().unwrap_or(0));
        }
    }

    /// The command of that name, or a module on its own account, wrote what is not put into the stream: the log must start anew from
    /// what this node holds, and until it has done so nothing is durable.
    pub fn found_unlogged(&mut self, command: &str) {
        if self.unlogged_writes.found(command, Instant::now()) {
            let who = if command.is_empty() { "a module, on its own account," } else { command };
            log_warning(format!(
                "durability: {who} wrote without replicating it, so what it wrote is not in the log: the log starts anew from \
                 this node's data ({} such writes so far, logged once a minute)",
                self.unlogged_writes.count
            ));
        }
        self.shared.seeds_wanted.fetch_add(1, Ordering::AcqRel);
        self.tell_agent(Command::SeedAnew);
        if let (true, Some(gate)) = (self.is_listening, &mut self.gate) {
            gate.write_all();
        }
    }

    fn release_held(&mut self) {
        if let (Some(gate), Some(durable)) = (&mut self.gate, self.shared.durable()) {
            gate.release(durable);
        }
    }

    fn report_applied(&mut self) {
        let offset = api::replication_offset(&self.ctx);
        if self.role == Role::Follower {
            self.shared.applied.store(offset, Ordering::Relaxed);
        }
        let target = self.shared.attach_target.load(Ordering::Acquire);
        if target == NO_TARGET || offset < target {
            return;
        }
        if !api::role(&self.ctx).is_some_and(|role| role.is_connected_replica) {
            return;
        }
        self.shared.attach_target.store(NO_TARGET, Ordering::Release);
        self.tell_agent(Command::Applied);
    }

    /// Puts a message into the agent's mailbox and wakes it.
    pub fn tell_agent(&self, command: Command) {
        // An agent that is gone has been told to stop.
        let _ = self.to_agent.send(command);
        self.shared.agent_bell.ring();
    }

    /// Whether nothing depends on the module: it is off, nobody waits for the log any more, and all that was held has left; or the server shuts down (it unloads its
    /// modules after it has said so), or the server gave up on loading it.
    pub fn may_be_unloaded(&self) -> bool {
        let holds_nobody = self.gate.as_ref().is_none_or(|gate| gate.held_clients() == 0);
        (self.role == Role::Off && holds_nobody && taken_replies::total() == 0) || self.agent.is_none() || !self.has_run
    }

    /// Has the agent ship what is left, give back the lease, and end. Waits for it, but not for long: all of that has one time limit.
    pub fn stop_agent(&mut self) {
        self.shared.end.stop(Instant::now() + STOP_TIMEOUT - LAST_STEPS);
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        self.tell_agent(Command::Stop);
        if let Some(ended) = self.agent.take() {
            // Disconnected or not, the agent has let go of its end.
            if ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                log_warning("durability: the agent does not end in time; going on without it");
            }
        }
    }
}
