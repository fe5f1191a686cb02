//! The module's state on the server's main thread, and how it changes.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::{Context, ContextFlags};

use crate::command_table::CommandTable;
use crate::config::{self, Mode};
use crate::connections::ServerConnections;
use crate::ffi::{self, Internals};
use crate::filter::{self, Refusal};
use crate::gate::{ClientId, Gate};
use crate::guard::has_failed;
use crate::hooks;
use crate::lag::Lag;
use crate::server::{self, TapUser};
use crate::settle::Settling;
use crate::shared::{Command, Shared, Task, NO_TARGET};
use crate::valve::Group;

/// How long the server waits for the agent when it shuts down.
const STOP_TIMEOUT: Duration = Duration::from_millis(2500);

/// What this node is to its shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nothing: the module is off.
    Off,
    /// On its way to lead: connecting to the log, catching up, or waiting for another leader's lease.
    Attaching,
    /// It leads: its writes go to the log.
    Leader,
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
    /// The newest group that a script depends on whose own event is still to come.
    pub script_dependency: Group,
    /// Ages of the writes that are not durable.
    pub lag: Lag,
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
    /// Times that writes began to be refused.
    pub refusals: u64,
    /// The epoch that this node leads, or would if its mode allowed it.
    epoch: Option<u64>,
    /// Since when writes are refused.
    pub refusing_since: Option<Instant>,
    /// Whether the gate hears of commands.
    pub is_listening: bool,
    /// Whether the server has gone round its event loop since the module was loaded.
    has_run: bool,
    /// Clients wait while this node attaches.
    settling: Option<Settling>,
    last_offset: u64,
    to_agent: Sender<Command>,
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
    /// See [`Module::commands`].
    pub commands: CommandTable,
    /// Whether the operator made the server a replica.
    pub is_replica: bool,
}

thread_local! {
    static MODULE: RefCell<Option<Module>> = const { RefCell::new(None) };
}

/// Runs `work` on the module. `None` if it is not loaded, or if this is called from within another `with`: then it is
/// a command of the module's own that made the server call back.
pub fn with<R>(work: impl FnOnce(&mut Module) -> R) -> Option<R> {
    MODULE.with(|module| module.try_borrow_mut().ok()?.as_mut().map(work))
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
    let (major, minor, patch) = server::version();
    if !ffi::is_verified_version(major, minor) {
        return Some(format!(
            "sync mode is verified for Valkey 9.1 and this is {major}.{minor}.{patch}; use durability.mode async, or a \
             release of this module that knows this version"
        ));
    }
    Internals::get().err().map(|missing| format!("{missing}, which sync mode needs; use durability.mode async"))
}

/// Why this server cannot have a log, in any mode but off.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    let is_cluster = ctx.get_flags().contains(ContextFlags::CLUSTER);
    is_cluster.then(|| {
        "cluster mode (cluster-enabled yes) is not supported yet: a cluster's node cannot follow its log after a restart; \
         set cluster-enabled no, or durability.mode off"
            .to_owned()
    })
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
        let Parts { ctx, shared, gate, tap_user, to_agent, agent, commands, is_replica } = parts;
        let mode = config::MODE.mode();
        let role = match mode {
            Mode::Off => Role::Off,
            _ if is_replica => Role::Replica,
            _ => Role::Attaching,
        };
        let module = Module {
            ctx,
            shared,
            gate,
            commands,
            script_dependency: 0,
            lag: Lag::default(),
            role,
            mode,
            self_test: None,
            self_test_client: 0,
            tap_user,
            refusals: 0,
            refusing_since: None,
            epoch: None,
            is_listening: false,
            has_run: false,
            settling: None,
            last_offset: 0,
            to_agent,
            agent: Some(agent),
        };
        module.update_filter();
        module
    }

    fn change_mode(&mut self, mode: Mode) -> Result<(), String> {
        if mode == self.mode {
            return Ok(());
        }
        if let (true, Some(why)) = (mode != Mode::Off, why_the_log_is_impossible(&self.ctx)) {
            return Err(why);
        }
        if mode == Mode::Sync {
            if let Some(why) = why_sync_is_impossible() {
                return Err(why);
            }
            match &self.self_test {
                Some(Ok(())) => {}
                Some(Err(why)) => return Err(format!("sync mode does not work in this server: {why}")),
                // Not tried yet: the agent tries before this node serves anything, as at a start.
                None if self.role != Role::Leader => {}
                None => return Err("sync mode is still being tested in this server; try again in a second".to_owned()),
            }
        }
        let was_off = self.mode == Mode::Off;
        self.mode = mode;
        match mode {
            Mode::Off => {
                log_warning(
                    "durability: mode is off: writes are not sent to the log any more and a failure loses them",
                );
                self.leave(Role::Off);
                self.listen_to_commands()?;
            }
            _ if was_off && server::is_replica(&self.ctx) && config::ALLOW_REPLICAOF.load(Ordering::Relaxed) => {
                self.serve_nobody(Role::Replica)?;
            }
            _ if was_off => {
                self.serve_nobody(Role::Attaching)?;
                self.settle();
            }
            Mode::Async if self.role != Role::Leader => {
                // Only sync mode was in the way.
                if let Some(epoch) = self.epoch {
                    self.lead(epoch)?;
                }
            }
            Mode::Sync | Mode::Async => self.listen_to_commands()?,
        }
        self.tell_agent(Command::Mode(mode));
        Ok(())
    }

    /// The gate wants to hear of commands in sync mode, while leading.
    pub fn listen_to_commands(&mut self) -> Result<(), String> {
        let listens = self.mode == Mode::Sync && self.role == Role::Leader;
        let listeners: [(u64, server::EventCallback); 3] = [
            (ffi::EVENT_COMMAND_RESULT_SUCCESS, hooks::on_command),
            (ffi::EVENT_COMMAND_RESULT_FAILURE, hooks::on_command),
            (ffi::EVENT_FLUSHDB, hooks::on_flush),
        ];
        for (event, callback) in listeners {
            server::subscribe(&self.ctx, event, listens.then_some(callback))?;
        }
        self.is_listening = listens;
        if let (true, Some(gate)) = (listens, &mut self.gate) {
            // Whatever was written without the gate's knowledge is dirty until the log has it.
            gate.write_all();
        }
        Ok(())
    }

    /// From now on this node serves its clients, as the leader of `epoch`.
    pub fn lead(&mut self, epoch: u64) -> Result<(), String> {
        if let (Mode::Sync, Some(Err(why))) = (self.mode, &self.self_test) {
            let why = format!("sync mode does not work in this server: {why}; CONFIG SET durability.mode async works");
            self.serve_nobody(Role::Refused(why.clone()))?;
            self.epoch = Some(epoch);
            return Err(why);
        }
        self.epoch = Some(epoch);
        self.lag.clear();
        self.last_offset = server::replication_offset(&self.ctx);
        self.role = Role::Leader;
        self.find_receivers();
        self.listen_to_commands()?;
        self.update_filter();
        log_notice(format!(
            "durability: leading shard {} in epoch {epoch} from offset {}, mode {}",
            config::SHARD.value(),
            self.last_offset,
            self.mode.name()
        ));
        Ok(())
    }

    /// Clients wait until this node leads, but not for long. Nothing happens if the server does not allow that.
    fn settle(&mut self) {
        if self.settling.is_none() && self.gate.is_some() {
            self.settling = Internals::get().ok().map(Settling::begin);
        }
    }

    /// Clients wait no longer.
    pub fn end_settling(&mut self) {
        if let (Some(settling), Some(gate)) = (self.settling.take(), &self.gate) {
            settling.end(&gate.connections);
        }
    }

    /// As [`Module::end_settling`], if clients have waited long enough.
    pub fn end_settling_in_time(&mut self) {
        if self.settling.as_ref().is_some_and(Settling::is_over) {
            log_notice("durability: not attached yet; clients are refused until it is");
            self.end_settling();
        }
    }

    /// The operator made the server a replica of another one, or a primary again. Called from a server event, in which
    /// nothing can be subscribed to: the task that follows does that.
    pub fn role_changed(&mut self, is_replica: bool) {
        match (&self.role, is_replica) {
            (Role::Off, _) => {}
            (Role::Attaching, false) => return self.tell_agent(Command::LostItsLog),
            (Role::Leader | Role::Attaching | Role::Refused(_), true) => {
                log_warning("durability: this node is a replica of another server now, and has no log of its own");
                self.leave(Role::Replica);
                self.shared.send(Task::StandAside);
            }
            (Role::Replica, false) => {
                log_notice("durability: this node is a primary again: its log starts anew from what it holds");
                self.role = Role::Attaching;
                self.update_filter();
                self.settle();
            }
            (Role::Replica, true) | (Role::Leader | Role::Refused(_), false) => return,
        }
        self.tell_agent(Command::Replica(is_replica));
    }

    /// Clients may have subscribed while this module did not look at commands.
    fn find_receivers(&self) {
        let Some(gate) = &self.gate else { return };
        match server::clients_with_messages(&self.ctx) {
            Ok(clients) => clients.into_iter().for_each(|client| gate.connections.receives_messages(client)),
            Err(why) => log_warning(format!(
                "durability: messages to clients that have subscribed before may tell of writes that are not durable: {why}"
            )),
        }
    }

    /// The agent leads no more. Returns whether clients were served until now.
    pub fn stop_leading(&mut self) -> bool {
        self.epoch = None;
        self.role == Role::Leader
    }

    /// From now on this node serves nobody (unless `role` is off); clients that wait for the log are closed without an answer.
    pub fn serve_nobody(&mut self, role: Role) -> Result<(), String> {
        self.role = role;
        self.listen_to_commands()?;
        self.forget_term();
        self.abandon_clients();
        self.update_filter();
        Ok(())
    }

    /// From now on this node serves its clients without a log. What is held leaves if the log acknowledges it soon: the agent
    /// ships it, and then has the rest abandoned. Called from server events as well, so it subscribes to nothing.
    fn leave(&mut self, role: Role) {
        self.role = role;
        self.is_listening = false;
        self.forget_term();
        let offset = server::replication_offset(&self.ctx);
        if let Some(gate) = &mut self.gate {
            gate.close_group(|| offset);
        }
        self.shared.leave_offset.store(offset, Ordering::Release);
        self.update_filter();
    }

    fn forget_term(&mut self) {
        self.epoch = None;
        self.refusing_since = None;
        self.lag.clear();
        self.script_dependency = 0;
    }

    /// Closes the clients whose writes the log has not acknowledged, and forgets what is dirty.
    fn abandon_clients(&mut self) {
        if let Some(gate) = &mut self.gate {
            let held = gate.held_clients();
            if held > 0 {
                log_warning(format!("durability: closing {held} clients whose writes the log has not acknowledged"));
            }
            gate.abandon();
        }
    }

    /// The agent has ended its term, and ships nothing any more.
    pub fn term_ended(&mut self) {
        if self.role != Role::Leader {
            self.abandon_clients();
        }
    }

    /// The event loop is about to write replies and sleep.
    pub fn before_sleep(&mut self) {
        if !self.has_run {
            self.has_run = true;
            if self.role == Role::Attaching {
                self.settle();
            }
        }
        if has_failed() && !matches!(self.role, Role::Refused(_)) {
            // Not from here: the server is going through its listeners.
            self.role = Role::Refused("internal error, see the server's log; restart the server".to_owned());
            if let Some(gate) = &mut self.gate {
                gate.abandon();
            }
            self.update_filter();
        }
        match self.role {
            Role::Leader => self.account(),
            Role::Attaching => self.report_applied(),
            Role::Off | Role::Replica => self.release_held(),
            Role::Refused(_) => {}
        }
        if self.settling.is_some() {
            if self.role == Role::Attaching {
                self.end_settling_in_time();
            } else {
                self.end_settling();
            }
        }
    }

    fn account(&mut self) {
        let offset = server::replication_offset(&self.ctx);
        let durable = self.shared.durable();
        if let Some(gate) = &mut self.gate {
            if !gate.is_idle() {
                gate.close_group(|| offset);
            }
            // What tests/histories must notice: everything leaves at once.
            let released = if cfg!(feature = "broken-gate") { Some(u64::MAX) } else { durable };
            if let Some(released) = released {
                gate.release(released);
            }
        }
        let durable = durable.unwrap_or(0);
        if offset == self.last_offset && self.lag.is_empty() && self.refusing_since.is_none() {
            return;
        }
        let now = Instant::now();
        if offset != self.last_offset {
            self.last_offset = offset;
            self.lag.written(now, offset);
        }
        self.lag.durable(durable);
        self.bound_lag(now, offset.saturating_sub(durable));
    }

    fn release_held(&mut self) {
        if let (Some(gate), Some(durable)) = (&mut self.gate, self.shared.durable()) {
            gate.release(durable);
        }
    }

    /// Refuses writes at the limit, and takes them again when the log has caught up to half of it.
    fn bound_lag(&mut self, now: Instant, pending_bytes: u64) {
        let limit = Duration::from_millis(config::MAX_LAG_MS.load(Ordering::Relaxed) as u64);
        let limit_bytes = config::MAX_PENDING_BYTES.load(Ordering::Relaxed) as u64;
        let lag = self.lag.age(now);
        match self.refusing_since {
            None if lag >= limit || pending_bytes >= limit_bytes => {
                self.refusals += 1;
                self.refusing_since = Some(now);
                log_warning(format!(
                    "durability: refusing writes: the log is {} ms and {pending_bytes} bytes behind; reads go on",
                    lag.as_millis()
                ));
            }
            Some(since) if lag <= limit / 2 && pending_bytes <= limit_bytes / 2 => {
                self.refusing_since = None;
                let seconds = now.duration_since(since).as_secs_f64();
                log_notice(format!("durability: taking writes again after {seconds:.1} s"));
            }
            _ => return,
        }
        self.update_filter();
    }

    fn report_applied(&mut self) {
        let target = self.shared.attach_target.load(Ordering::Acquire);
        if target == NO_TARGET || server::replication_offset(&self.ctx) < target {
            return;
        }
        let Some(role) = server::role(&self.ctx).filter(|role| role.is_connected_replica) else { return };
        self.shared.attach_target.store(NO_TARGET, Ordering::Release);
        self.tell_agent(Command::Applied(role.offset));
    }

    /// What the command filter refuses follows from role and lag.
    fn update_filter(&self) {
        filter::set(match &self.role {
            Role::Off | Role::Replica => Refusal::Nothing,
            Role::Attaching => Refusal::Data("LOADING durability: this node is attaching to its log".to_owned()),
            Role::Refused(why) => Refusal::Data(format!("ERR durability: {why}")),
            Role::Leader if self.refusing_since.is_some() => Refusal::Writes,
            Role::Leader => Refusal::RoleChanges,
        });
    }

    /// The durability lag now.
    pub fn lag_age(&mut self) -> Duration {
        if self.role != Role::Leader {
            return Duration::ZERO;
        }
        self.lag.durable(self.shared.durable().unwrap_or(0));
        self.lag.age(Instant::now())
    }

    /// Puts a message into the agent's mailbox and wakes it.
    pub fn tell_agent(&self, command: Command) {
        // An agent that is gone has been told to stop.
        let _ = self.to_agent.send(command);
        self.shared.agent_bell.ring();
    }

    /// Whether nothing depends on the module: it is off, or the server shuts down (it unloads its modules after it has
    /// said so), or the server gave up on loading it.
    pub fn may_be_unloaded(&self) -> bool {
        self.role == Role::Off || self.agent.is_none() || !self.has_run
    }

    /// Has the agent ship what is left and end. Waits for it, but not for long.
    pub fn stop_agent(&mut self) {
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
