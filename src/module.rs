//! The module's state on the server's main thread, and how it changes.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

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
use crate::shared::{Command, Shared, NO_TARGET};
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
    last_offset: u64,
    to_agent: Sender<Command>,
    /// Disconnected when the agent has ended.
    agent: Option<Receiver<()>>,
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

/// The configured mode is about to become `mode`.
///
/// # Errors
/// Why it cannot, for the user to read; then nothing has changed.
pub fn change_mode(mode: Mode) -> Result<(), String> {
    // Before the module is loaded there is nothing to change; what was configured is checked when it starts.
    with(|module| module.change_mode(mode)).unwrap_or(Ok(()))
}

impl Module {
    /// Starts out attaching, or off. The agent is running.
    pub fn new(
        ctx: Context,
        shared: Arc<Shared>,
        gate: Option<Gate<ServerConnections>>,
        tap_user: TapUser,
        to_agent: Sender<Command>,
        agent: Receiver<()>,
    ) -> Self {
        let mode = config::MODE.mode();
        let module = Module {
            ctx,
            shared,
            gate,
            commands: CommandTable::default(),
            script_dependency: 0,
            lag: Lag::default(),
            role: if mode == Mode::Off { Role::Off } else { Role::Attaching },
            mode,
            self_test: None,
            self_test_client: 0,
            tap_user,
            refusals: 0,
            refusing_since: None,
            epoch: None,
            is_listening: false,
            has_run: false,
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
                self.serve_nobody(Role::Off)?;
            }
            _ if was_off => self.serve_nobody(Role::Attaching)?,
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
    fn listen_to_commands(&mut self) -> Result<(), String> {
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

    /// The agent leads no more. Returns whether clients were served until now.
    pub fn stop_leading(&mut self) -> bool {
        self.epoch = None;
        self.role == Role::Leader
    }

    /// From now on this node serves nobody (unless `role` is off); clients that wait for the log are closed without an answer.
    pub fn serve_nobody(&mut self, role: Role) -> Result<(), String> {
        self.role = role;
        self.epoch = None;
        self.listen_to_commands()?;
        if let Some(gate) = &mut self.gate {
            let held = gate.held_clients();
            if held > 0 {
                log_warning(format!("durability: closing {held} clients whose writes the log has not acknowledged"));
            }
            gate.abandon();
        }
        self.lag.clear();
        self.script_dependency = 0;
        self.update_filter();
        Ok(())
    }

    /// The event loop is about to write replies and sleep.
    pub fn before_sleep(&mut self) {
        self.has_run = true;
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
            Role::Off | Role::Refused(_) => {}
        }
    }

    fn account(&mut self) {
        let offset = server::replication_offset(&self.ctx);
        let durable = self.shared.durable.load(Ordering::Acquire);
        if let Some(gate) = &mut self.gate {
            if !gate.is_idle() {
                gate.close_group(|| offset);
                gate.release(durable);
            }
        }
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
            Role::Off => Refusal::Nothing,
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
        self.lag.durable(self.shared.durable.load(Ordering::Acquire));
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
