//! The module's state on the server's main thread, and where it is kept.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use valkey_module::logging::log_warning;
use valkey_module::Context;

use crate::decide::dependency::Dependencies;
use crate::decide::gate::{ClientId, Gate, Held};
use crate::decide::minority::Minority;
use crate::decide::silent_writes::SilentWrites;
use crate::decide::taken_replies;
use crate::decide::write_limit::{Behind, Verdict};
use crate::exchange::mailbox::Command;
use crate::exchange::own_logins::OwnLogins;
use crate::exchange::{lease_clock, Shared};
use crate::lead::lease_keeper::LeaseKeeperHandle;
use crate::node::agent_handle::AgentHandle;
use crate::node::claims::{self, Claims};
use crate::node::command_filter::refusal::{self, Refusal};
use crate::node::left_log::LeftLog;
use crate::node::limits::ClientLimits;
use crate::node::read_pauses::ReadPauses;
use crate::node::remembered;
use crate::node::role::Role;
use crate::node::slot_moves::state::SlotMoves;
use crate::node::unlogged_writes::NotLogged;
use crate::server::api::{self, TapUser};
use crate::server::cluster::bus_messages;
use crate::server::command_table::CommandTable;
use crate::server::connections::ServerConnections;
use crate::server::events::CommandEvents;
use crate::server::{cluster, late_holds, leaving_slots, running_client, support};
use crate::settings::{self, Mode};

/// The module, once it is loaded. Lives on the main thread.
pub struct Module {
    /// A context that is valid for as long as the module is loaded.
    pub ctx: Context,
    /// Figures and mailboxes shared with the agent.
    pub shared: Arc<Shared>,
    /// Holds replies. None if the server lacks what that takes; sync mode is refused then.
    pub gate: Option<Gate<ServerConnections>>,
    /// What the server says about its commands.
    pub commands: CommandTable,
    /// What replies depend on, beyond the command that they answer.
    pub dependencies: Dependencies,
    /// How far the log is behind, and what follows from that for clients.
    pub limits: ClientLimits,
    /// While writes may soon be refused: who last ran a script or a transaction. A script's writes belong to that client's reply.
    pub script_caller: ClientId,
    /// What was written and did not go to the log.
    pub unlogged: NotLogged,
    /// Finds writes of modules that are not in the stream.
    pub silent_writes: SilentWrites,
    /// Times in which nothing is read from clients.
    pub read_pauses: ReadPauses,
    /// What this node is in its cluster, if it leads.
    pub claims: Claims,
    /// The time in which this node leads and the majority of its cluster does not see it.
    pub minority: Minority,
    /// Slots of the cluster that move.
    pub slot_moves: SlotMoves,
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
    /// The module's own logins that are still to come.
    pub own_logins: OwnLogins,
    /// The epoch that this node leads, or would lead if its mode allowed that.
    pub epoch: Option<u64>,
    /// Where this node left its log.
    pub left_log: LeftLog,
    /// Whether the gate is told about commands.
    pub is_listening: bool,
    /// Whether the module adds to the stream what the server leaves out: this node leads, and is told about commands.
    pub completes_stream: bool,
    /// In async mode: a command came that needs that.
    pub has_cause_to_watch: bool,
    /// The streams in which the command that runs has made a consumer.
    pub created_consumers: Vec<Vec<u8>>,
    /// Whether the server has gone round its event loop since the module was loaded.
    pub has_run: bool,
    /// Whether this node serves nobody any more because a callback has panicked.
    pub has_given_up: bool,
    /// Subscriptions that change with mode and role.
    pub command_events: CommandEvents,
    /// The agent.
    pub agent: AgentHandle,
    /// Asks the thread that renews the lease.
    pub keeper: LeaseKeeperHandle,
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
    pub keeper: LeaseKeeperHandle,
    /// See [`Module::commands`].
    pub commands: CommandTable,
    /// See [`Module::command_events`].
    pub command_events: CommandEvents,
    /// Whether the operator made the server a replica.
    pub is_replica: bool,
    /// Whether the server has written without this module.
    pub was_off: bool,
}

thread_local! {
    static MODULE: RefCell<Option<Module>> = const { RefCell::new(None) };
}

/// Runs `work` on the module. `None` if the module is not loaded, if this is another thread than the main one, or if this is called from
/// within another `with` ([`is_in_use`]): a command that the module itself runs has then made the server call back.
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

impl Module {
    /// Starts out attaching, off, or as a replica. The agent runs already.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            ctx,
            shared,
            gate,
            tap_user,
            to_agent,
            agent,
            keeper,
            commands,
            command_events,
            is_replica,
            was_off,
        } = parts;
        let mode = settings::MODE.mode();
        let role = match mode {
            Mode::Off => Role::Off,
            _ if is_replica => Role::Replica,
            _ => Role::Attaching,
        };
        let mut unlogged = NotLogged::default();
        if role == Role::Off || was_off {
            unlogged.time.begin();
        }
        running_client::keep_many(commands.has_others());
        if commands.has_others() {
            shared.stream_rules.set(0, commands.logged());
        }
        let module = Module {
            ctx,
            shared,
            gate,
            commands,
            dependencies: Dependencies::default(),
            limits: ClientLimits::new(Instant::now()),
            script_caller: 0,
            unlogged,
            silent_writes: SilentWrites::default(),
            read_pauses: ReadPauses::default(),
            claims: Claims::default(),
            minority: Minority::default(),
            slot_moves: SlotMoves::default(),
            newest_client: 0,
            role,
            mode,
            self_test: None,
            self_test_client: 0,
            tap_user,
            own_logins: OwnLogins::default(),
            epoch: None,
            left_log: LeftLog::default(),
            is_listening: false,
            completes_stream: false,
            has_cause_to_watch: false,
            created_consumers: Vec::new(),
            has_run: false,
            has_given_up: false,
            command_events,
            agent: AgentHandle::new(to_agent, agent),
            keeper,
        };
        module.update_filter();
        module
    }

    /// Puts a command into the agent's mailbox and wakes it.
    pub fn tell_agent(&self, command: Command) {
        self.agent.tell(&self.shared, command);
    }

    /// Has the agent ship what is left, give back the lease, and end. Waits for it, for a bounded time.
    pub fn stop_agent(&mut self) {
        self.agent.stop(&self.shared);
    }

    /// Whether nothing depends on the module. Either it is off, nobody waits for the log any more, and everything that was held has left;
    /// or the server shuts down (it unloads its modules after it has said so); or the server gave up on loading it.
    pub fn may_be_unloaded(&self) -> bool {
        let holds_nobody = self.gate.as_ref().is_none_or(|gate| gate.held_clients() == 0);
        let holds_nothing = taken_replies::total() == 0 && bus_messages::waiting().0 == 0;
        (self.role == Role::Off && holds_nobody && holds_nothing) || self.agent.was_stopped() || !self.has_run
    }

    /// The server's commands are these from now on.
    pub fn learn_commands(&mut self, commands: CommandTable) {
        running_client::keep_many(commands.has_others());
        remembered::forget_taken();
        if commands.has_others() {
            self.shared.stream_rules.set(api::replication_offset(&self.ctx), commands.logged());
        }
        self.commands = commands;
    }

    /// Why a leader of this server cannot be kept from answering once its lease has passed.
    pub fn why_leases_are_not_kept(&self) -> Option<String> {
        support::why_leases_are_not_kept(self.self_test.as_ref())
    }

    /// How far the log is behind now; nothing unless this node leads.
    pub fn behind(&mut self) -> Behind {
        let now = Instant::now();
        if !self.role.leads() {
            self.limits.writes.look_idle(now);
            return Behind { lag: Duration::ZERO, pending_bytes: 0 };
        }
        let offset = api::replication_offset(&self.ctx);
        self.limits.writes.look(now, offset, self.shared.acknowledged())
    }

    /// Judges whether writes are taken, with the stream at `offset`.
    pub fn judge_writes(&mut self, now: Instant, offset: u64) {
        let may_throttle = self.may_throttle();
        if self.limits.judge_writes(now, offset, self.shared.acknowledged(), may_throttle) {
            self.update_filter();
        }
    }

    /// Whether replies may be held to slow writers down. In sync mode they wait for the log anyway. While the log lacks an initial snapshot,
    /// nothing is durable, and nobody knows the log's pace.
    fn may_throttle(&self) -> bool {
        self.mode == Mode::Async
            && settings::THROTTLE.is_on()
            && self.self_test == Some(Ok(()))
            && self.shared.durable().is_some()
    }

    /// The client is about to run a write, or a transaction with one. Holds its reply if writers are to be slowed down. A client without a
    /// connection may be that of a script: then it is the reply of the script's caller.
    pub fn throttle(&mut self, client: ClientId) {
        let Some(window) = self.limits.writes.window() else { return };
        let Some(gate) = &mut self.gate else { return };
        let mut held = gate.throttle(client, window);
        if held == Held::NoConnection && gate.connections.is_script_running() {
            held = gate.throttle(self.script_caller, window);
        }
        self.limits.writes.throttle.writes += u64::from(held != Held::NoConnection);
    }

    /// The command of that name, or a module on its own account if the name is empty, wrote what is not put into the stream. The log must
    /// start anew from what this node holds, and until it has done so nothing is durable.
    pub fn found_unlogged(&mut self, command: &str) {
        self.unlogged.found(command);
        self.start_log_anew();
    }

    /// Another module has put the command of that name into the stream, which is not shipped from there on.
    pub fn found_unfit(&mut self, command: &str) {
        self.unlogged.found_unfit(command);
        self.start_log_anew();
    }

    fn start_log_anew(&mut self) {
        leaving_slots::end_for_unlogged();
        self.shared.snapshots_wanted.fetch_add(1, Ordering::AcqRel);
        self.tell_agent(Command::SnapshotWanted);
        if let (true, Some(gate)) = (self.is_listening, &mut self.gate) {
            gate.write_all();
        }
    }

    /// Whether the server may hold writes that its replication id and offset say nothing about. While it has no log, nothing puts into its
    /// stream what the server keeps out of it.
    pub fn may_hold_untold_writes(&self) -> bool {
        self.unlogged.time.goes_on() || self.shared.lacks_snapshot()
    }

    /// Writes what the log has acknowledged to clients that have ended their sending.
    pub fn write_to_half_closed(&self) {
        let Some(gate) = &self.gate else { return };
        let mut half_closed = gate.connections.half_closed.borrow_mut();
        if !half_closed.is_empty() {
            half_closed.go_on(|| api::config(&self.ctx, "maxclients").parse().unwrap_or(0));
        }
    }

    /// Closes the clients whose writes the log has not acknowledged, and forgets what is dirty. Messages to other nodes of the cluster that
    /// may tell of it, or of a time in which this node led no more, never leave.
    pub fn abandon_clients(&mut self) {
        if let Some(gate) = &mut self.gate {
            let held = gate.held_clients();
            if held > 0 {
                log_warning(format!("durability: closing {held} clients whose writes the log has not acknowledged"));
            }
            if !gate.is_idle() || lease_clock::has_passed() {
                bus_messages::abandon();
            }
            gate.abandon();
        }
    }

    /// Clients wait, for a bounded time. Does nothing if the server does not allow that.
    pub fn pause_reads(&mut self) {
        if self.gate.is_some() {
            self.read_pauses.begin();
        }
    }

    /// Clients wait no longer.
    pub fn end_read_pause(&mut self) {
        self.read_pauses.end(self.gate.as_ref());
    }

    /// Has the command filter refuse what role and lag ask for.
    pub fn update_filter(&self) {
        late_holds::withhold_notifications(!self.role.is_confirmed());
        refusal::set(match &self.role {
            Role::Off | Role::Replica => Refusal::Nothing,
            // To a client of a cluster, that error says to look for the primary again.
            Role::Attaching if cluster::is_enabled() => {
                Refusal::Data("CLUSTERDOWN durability: this node is attaching to its log".to_owned())
            }
            Role::Follower if claims::decide_by_slots(&self.claims) => Refusal::Data(
                "CLUSTERDOWN durability: this node follows its log, and is not yet a replica in the cluster".to_owned(),
            ),
            Role::Attaching => Refusal::Data("LOADING durability: this node is attaching to its log".to_owned()),
            Role::Refused(why) => Refusal::Data(format!("ERR durability: {why}")),
            Role::Follower => Refusal::Redirectable,
            Role::Suspended => Refusal::Data(
                "CLUSTERDOWN durability: the lease of this node has passed, because its log does not answer; another node may lead"
                    .to_owned(),
            ),
            Role::Leader => match self.limits.writes.verdict() {
                Verdict::Taken => Refusal::RoleChanges,
                Verdict::TakenYet => Refusal::WritesSoon,
                Verdict::Refused => Refusal::Writes,
            },
        });
    }
}
