//! How a node's role changes, on the server's main thread: what it serves, holds and refuses follows from its role.

use std::sync::atomic::{fence, Ordering};
use std::time::{Duration, Instant};

use valkey_module::logging::{log_notice, log_warning};

use crate::base::panic_guard::has_failed;
use crate::decide::write_limit::{Behind, Verdict};
use crate::exchange::{lease_clock, Command, Task};
use crate::hooks;
use crate::node::command_filter::{self, Refusal};
use crate::node::{why_leases_are_not_kept, why_sync_is_impossible, why_the_log_is_impossible, Module, Role};
use crate::server::follow_settings::{self, Owner};
use crate::server::internals::{self, Internals};
use crate::server::read_pause::Settling;
use crate::server::{api, held_table, propagation, running_client};
use crate::settings::{self, Mode};

/// What a node says that serves nobody because a callback has panicked.
const INTERNAL_ERROR: &str = "internal error, see the server's log; restart the server";

/// How long a node may take to leave its log: to ship what clients wait for, and to give back the lease.
const LEAVE_TIME: Duration = Duration::from_millis(1600);

/// What a node hears of commands that run.
struct Listening {
    /// The gate hears of them.
    listens: bool,
    /// What the server leaves out of the stream is put there.
    completes: bool,
    /// That would be so if there were cause.
    may_complete: bool,
}

impl Module {
    /// The mode becomes `mode`.
    ///
    /// # Errors
    /// Why it cannot; then nothing has changed.
    pub fn change_mode(&mut self, mode: Mode) -> Result<(), String> {
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
        let role = self.role_in(mode);
        if role == Role::Leader {
            if let Some(why) = self.why_it_may_not_lead(mode) {
                return Err(why);
            }
        }
        // What can fail comes before anything has changed.
        self.subscribe(mode, &role)?;
        let was_off = self.mode == Mode::Off;
        self.mode = mode;
        match role {
            Role::Off => {
                log_warning(
                    "durability: mode is off: writes are not sent to the log any more and a failure loses them",
                );
                // Also one that is refused may follow its log still.
                self.shared.send(Task::StopFollowing);
                self.leave(role);
                self.listen_to_commands()?;
            }
            Role::Replica if was_off => {
                self.serve_nobody(role)?;
                self.tell_agent(Command::Replica(true));
            }
            Role::Attaching if was_off => {
                self.serve_nobody(role)?;
                self.settle();
            }
            Role::Leader if self.role != Role::Leader => {
                if let Some(epoch) = self.epoch {
                    self.lead(epoch)?;
                }
            }
            _ => self.listen_to_commands()?,
        }
        self.tell_agent(Command::Mode(mode));
        Ok(())
    }

    /// What this node becomes at once if its mode becomes `mode`.
    fn role_in(&self, mode: Mode) -> Role {
        let was_off = self.mode == Mode::Off;
        match mode {
            Mode::Off => Role::Off,
            _ if was_off && api::is_replica(&self.ctx) && settings::ALLOW_REPLICAOF.load(Ordering::Relaxed) => {
                Role::Replica
            }
            _ if was_off => Role::Attaching,
            // Only sync mode was in the way.
            Mode::Async if matches!(self.role, Role::Refused(_)) && self.epoch.is_some() => Role::Leader,
            _ => self.role.clone(),
        }
    }

    /// Whom this node hears of commands that ran: whether for the gate, whether for what the server leaves out of the stream, and
    /// whether for the latter if there is cause.
    fn listening(&self, mode: Mode, role: &Role) -> Listening {
        let leads = *role == Role::Leader;
        let listens = mode == Mode::Sync && leads;
        // In async mode an event for each command would cost more than it is worth before there is cause for it.
        let may_complete = leads && self.gate.is_some() && running_client::has_learned();
        Listening { listens, completes: may_complete && (listens || self.has_cause_to_watch), may_complete }
    }

    /// Has the server tell of commands what a node of that mode and role wants to hear: the gate of those that ran, in sync mode, while
    /// leading; one that follows, or may, of those that fail.
    ///
    /// # Errors
    /// The server does not; then it tells what it told before.
    fn subscribe(&self, mode: Mode, role: &Role) -> Result<(), String> {
        let of = |mode: Mode, role: &Role| {
            let Listening { listens, completes, .. } = self.listening(mode, role);
            let follows = mode != Mode::Off && role.may_follow();
            let on_command = (listens || completes).then_some(hooks::on_command as api::EventCallback);
            let on_failed = follows.then_some(hooks::on_failed_while_following as api::EventCallback);
            [
                (internals::EVENT_COMMAND_RESULT_SUCCESS, on_command),
                (internals::EVENT_COMMAND_RESULT_FAILURE, on_command.or(on_failed)),
                (internals::EVENT_COMMAND_RESULT_REJECTED, on_failed),
                (internals::EVENT_COMMAND_RESULT_ACL_REJECTED, on_failed),
                (internals::EVENT_FLUSHDB, listens.then_some(hooks::on_flush as api::EventCallback)),
            ]
        };
        let all = |listeners: [(u64, Option<api::EventCallback>); 5]| {
            listeners.into_iter().try_for_each(|(event, callback)| api::subscribe(&self.ctx, event, callback))
        };
        all(of(mode, role)).inspect_err(|_| {
            // It was taken before.
            let _ = all(of(self.mode, &self.role));
        })
    }

    /// From now on this node hears of commands what its mode and role ask for.
    ///
    /// # Errors
    /// See [`Module::subscribe`].
    pub fn listen_to_commands(&mut self) -> Result<(), String> {
        self.subscribe(self.mode, &self.role)?;
        let Listening { listens, completes, may_complete } = self.listening(self.mode, &self.role);
        self.is_listening = listens;
        self.completes_stream = completes;
        propagation::wait_for_cause(may_complete && !completes);
        self.watching.forget();
        if listens {
            self.find_receivers();
        }
        if let (true, Some(gate)) = (listens, &mut self.gate) {
            // Whatever was written without the gate's knowledge is dirty until the log has it.
            gate.write_all();
        }
        Ok(())
    }

    /// In async mode: a command is about to run of which the server may leave something out of the stream.
    pub fn watch_commands(&mut self) {
        self.has_cause_to_watch = true;
        if self.completes_stream {
            return;
        }
        if let Err(why) = self.listen_to_commands() {
            log_warning(format!("durability: what scripts hide from the stream is not in the log: {why}"));
        }
    }

    /// Why this node may not lead in that mode, whatever the log service says.
    fn why_it_may_not_lead(&self, mode: Mode) -> Option<String> {
        if has_failed() {
            return Some(INTERNAL_ERROR.to_owned());
        }
        if let (Mode::Sync, Some(Err(why))) = (mode, &self.self_test) {
            return Some(format!(
                "sync mode does not work in this server: {why}; CONFIG SET durability.mode async works"
            ));
        }
        let keeps_none = || why_leases_are_not_kept(self.self_test.as_ref());
        (settings::FAILOVER.is_on() && self.gate.is_none()).then(keeps_none).flatten()
    }

    /// From now on this node serves its clients, as the leader of `epoch`.
    pub fn lead(&mut self, epoch: u64) -> Result<(), String> {
        if let Some(why) = self.why_it_may_not_lead(self.mode) {
            self.serve_nobody(Role::Refused(why.clone()))?;
            // Another mode may allow it.
            self.epoch = Some(epoch);
            return Err(why);
        }
        self.epoch = Some(epoch);
        self.bound.begin(Instant::now(), api::replication_offset(&self.ctx));
        self.serve_as_leader()?;
        log_notice(format!(
            "durability: leading shard {} in epoch {epoch} from offset {}, mode {}",
            settings::SHARD.value(),
            self.bound.offset(),
            self.mode.name()
        ));
        Ok(())
    }

    /// Clients are served for as long as the lease lasts.
    fn serve_as_leader(&mut self) -> Result<(), String> {
        // What can fail comes before anything has changed.
        self.subscribe(self.mode, &Role::Leader)?;
        lease_clock::answer_nobody_beyond_it();
        lease_clock::keep_to_it();
        self.set_role(Role::Leader);
        self.tell_what_it_serves();
        self.listen_to_commands()?;
        self.shared.send(Task::WatchModules);
        self.update_filter();
        Ok(())
    }

    /// This is what the node is to its shard from now on. One in which a callback has panicked knows nothing for sure, and serves nobody,
    /// whatever was about to become of it.
    fn set_role(&mut self, role: Role) {
        self.role = if has_failed() { Role::Refused(INTERNAL_ERROR.to_owned()) } else { role };
    }

    /// A callback has panicked: nobody who is connected is answered any more, and others are told why. Called from server events, in
    /// which nothing can be subscribed to.
    pub fn give_up(&mut self) {
        self.has_given_up = true;
        let role = Role::Refused(INTERNAL_ERROR.to_owned());
        self.set_role(role.clone());
        self.update_filter();
        lease_clock::lost();
        lease_clock::answer_beyond(self.newest_client);
        self.shared.send(Task::CloseClients);
        // What is not as it should be may show here once more.
        self.stop_serving(role);
    }

    /// Clients wait until this node leads, but not for long. Nothing happens if the server does not allow that.
    pub fn settle(&mut self) {
        if self.settling.is_none() && self.gate.is_some() {
            self.settling = Internals::get().ok().map(Settling::begin);
        }
    }

    /// Clients wait no longer.
    pub fn end_settling(&mut self) {
        self.settles_until_seeded = false;
        self.is_pausing = false;
        if let (Some(settling), Some(gate)) = (self.settling.take(), &self.gate) {
            settling.end(&gate.connections);
        }
    }

    /// As [`Module::end_settling`], if clients have waited long enough.
    pub fn end_settling_in_time(&mut self) {
        if self.settling.as_ref().is_some_and(Settling::is_over) {
            if self.role == Role::Attaching {
                log_notice("durability: not attached yet; clients are refused until it is");
            }
            self.end_settling();
        }
    }

    /// The operator made the server a replica of another one, or a primary again. Called from a server event, in which
    /// nothing can be subscribed to: the task that follows does that.
    pub fn role_changed(&mut self, is_replica: bool) {
        match (&self.role, is_replica) {
            (Role::Off, _) => {}
            (Role::Attaching, false) => return self.tell_agent(Command::LostItsLog),
            (Role::Follower, false) => {
                log_warning("durability: something made this node a primary, which is not allowed");
                self.stop_serving(Role::Attaching);
                return self.tell_agent(Command::LostItsLog);
            }
            // It follows another one already.
            (Role::Replica, true) => return,
            (_, true) if !settings::ALLOW_REPLICAOF.load(Ordering::Relaxed) => {
                // By a way that the filter does not see, such as a command that was renamed. The agent then asks for an operator.
                log_warning("durability: something made this node a replica of another server, which is not allowed");
                if matches!(self.role, Role::Leader | Role::Suspended) {
                    lease_clock::lost();
                    lease_clock::answer_beyond(self.newest_client);
                    self.shared.send(Task::CloseClients);
                }
                self.stop_serving(Role::Attaching);
                self.shared.send(Task::StandAside);
                return self.tell_agent(Command::LostItsLog);
            }
            (Role::Leader | Role::Suspended | Role::Follower | Role::Attaching | Role::Refused(_), true) => {
                log_warning("durability: this node is a replica of another server now, and has no log of its own");
                self.leave(Role::Replica);
                self.shared.send(Task::StandAside);
            }
            (Role::Replica, false) => {
                log_notice("durability: this node is a primary again: its log starts anew from what it holds");
                self.new_stage();
                self.set_role(Role::Attaching);
                self.update_filter();
                self.settle();
            }
            (Role::Leader | Role::Suspended | Role::Refused(_), false) => return,
        }
        self.tell_agent(Command::Replica(is_replica));
    }

    /// Clients may have subscribed, or been blocked by a module, while this module did not look at commands.
    fn find_receivers(&self) {
        let Some(gate) = &self.gate else { return };
        match api::receivers(&self.ctx) {
            Ok(clients) => {
                for client in clients {
                    if client.is_subscriber {
                        gate.connections.receives_messages(client.id);
                    }
                    if client.is_blocked && self.commands.has_others() {
                        gate.connections.awaits_answer(client.id);
                    }
                }
            }
            Err(why) => log_warning(format!(
                "durability: messages to clients that have subscribed before may tell of writes that are not durable: {why}"
            )),
        }
    }

    /// The agent leads no more. Returns whether this node led until now.
    pub fn stop_leading(&mut self) -> bool {
        self.epoch = None;
        matches!(self.role, Role::Leader | Role::Suspended)
    }

    /// Another node leads, and this one has what the log had: reads are served.
    pub fn serve_reads(&mut self) -> Result<(), String> {
        self.set_role(Role::Follower);
        self.tell_what_it_serves();
        self.update_filter();
        self.end_settling();
        let leader = self.shared.view().map(|view| view.leader.clone()).filter(|leader| !leader.is_empty());
        let leader = leader.as_deref().unwrap_or("nobody");
        log_notice(format!(
            "durability: following shard {}, which {leader} leads; serving reads",
            settings::SHARD.value()
        ));
        Ok(())
    }

    /// Comes before this node is made a primary: nobody reads or writes until it leads, but clients wait for that.
    pub fn prepare_to_lead(&mut self) {
        if self.role == Role::Follower {
            self.set_role(Role::Attaching);
            self.tell_what_it_serves();
            self.update_filter();
            self.settle();
        }
    }

    /// Suspends the leader whose lease has passed. Called from server events, in which nothing can be subscribed to.
    #[inline]
    pub fn look_at_lease(&mut self) {
        if self.role == Role::Leader && (lease_clock::has_passed() || lease_clock::has_refused()) {
            self.suspend();
        }
    }

    /// Nobody who is connected gets another answer: another node may lead. As long as none does, this one ships what it has, and
    /// goes on when its lease is renewed.
    fn suspend(&mut self) {
        log_warning("durability: the lease has passed without being renewed: closing all clients, and serving nobody until it is");
        self.set_role(Role::Suspended);
        self.shared.suspensions.fetch_add(1, Ordering::Relaxed);
        self.is_listening = false;
        self.completes_stream = false;
        propagation::wait_for_cause(false);
        lease_clock::answer_beyond(self.newest_client);
        self.tell_what_it_serves();
        self.timeouts.forget();
        self.script_dependency = 0;
        self.abandon_clients();
        self.update_filter();
        self.shared.send(Task::CloseClients);
        // The keeper may have renewed it without having seen that this node is suspended. Either it sees that, or this sees
        // what it has published (there is a fence between writing and looking on both sides).
        fence(Ordering::SeqCst);
        if let (Some(epoch), false) = (self.epoch, lease_clock::has_passed()) {
            self.shared.send(Task::Resume(epoch));
        }
    }

    /// The lease of `epoch` is renewed, so nobody has led since.
    pub fn resume(&mut self, epoch: u64) -> Result<(), String> {
        if self.role != Role::Suspended || self.epoch != Some(epoch) || lease_clock::has_passed() {
            return Ok(());
        }
        self.serve_as_leader()?;
        log_notice(format!(
            "durability: the lease of epoch {epoch} is renewed: leading shard {} again",
            settings::SHARD.value()
        ));
        Ok(())
    }

    /// Another node leads, or may: what this one wrote and the log does not have is of no account any more. Counts it.
    pub fn note_deposition(&mut self) {
        let Behind { lag, pending_bytes } = self.behind();
        self.shared.depositions.fetch_add(1, Ordering::Relaxed);
        self.shared.discarded_bytes.fetch_add(pending_bytes, Ordering::Relaxed);
        log_warning(format!(
            "durability: this node leads no more; it gives up {pending_bytes} bytes that the log has not acknowledged, the oldest {} \
             ms old",
            lag.as_millis()
        ));
    }

    /// For a planned failover: nothing is read from clients for a moment. Answers where the stream stands, unless this node does
    /// not lead.
    pub fn pause_writes(&mut self) -> Option<u64> {
        if self.role != Role::Leader {
            return None;
        }
        if !self.is_pausing {
            self.is_pausing = true;
            self.settle();
        }
        Some(api::replication_offset(&self.ctx))
    }

    /// The planned failover does not take place.
    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.is_pausing) && self.role == Role::Leader {
            self.end_settling();
        }
    }

    /// Whether everything up to `end` is all that this node ever wrote, nobody writes, and the log has it.
    pub fn may_step_down(&self, end: u64) -> bool {
        self.role == Role::Leader
            && self.is_pausing
            && self.settling.is_some()
            && api::replication_offset(&self.ctx) == end
            && self.shared.durable() >= Some(end)
    }

    fn tell_what_it_serves(&self) {
        // A node that does not follow yet may hold what the log does not have.
        let applied = if self.role == Role::Follower { api::replication_offset(&self.ctx) } else { 0 };
        self.shared.applied.store(applied, Ordering::Relaxed);
        self.shared.serves_reads.store(self.role == Role::Follower, Ordering::Relaxed);
        self.shared.is_suspended.store(self.role == Role::Suspended, Ordering::Release);
    }

    /// From now on this node serves nobody (unless `role` is off); clients that wait for the log are closed without an answer.
    pub fn serve_nobody(&mut self, role: Role) -> Result<(), String> {
        self.stop_serving(role);
        self.listen_to_commands()
    }

    /// As [`Module::serve_nobody`], but subscribes to nothing, so that server events can call it.
    pub fn stop_serving(&mut self, role: Role) {
        self.new_stage();
        self.set_role(role);
        self.tell_what_it_serves();
        self.is_listening = false;
        self.completes_stream = false;
        propagation::wait_for_cause(false);
        self.forget_term();
        self.abandon_clients();
        self.update_filter();
    }

    /// From now on this node serves its clients without a log. What is held leaves if the log acknowledges it soon: the agent
    /// ships it, and then has the rest abandoned. Called from server events as well, so it subscribes to nothing.
    fn leave(&mut self, role: Role) {
        let led = matches!(self.role, Role::Leader | Role::Suspended);
        // Of any other role, what it holds may be its own until it was linked to its log.
        let is_whole = follow_settings::owner() == Owner::Log && follow_settings::is_whole();
        let held_the_logs = led || self.role == Role::Follower || is_whole;
        if held_the_logs || role == Role::Replica {
            self.left = None;
        }
        self.is_to_note_where = held_the_logs && role == Role::Off;
        if self.is_to_note_where {
            self.led_until_left = led;
        }
        self.new_stage();
        self.set_role(role);
        self.tell_what_it_serves();
        lease_clock::not_needed();
        self.shared.forget_view();
        self.is_listening = false;
        self.completes_stream = false;
        propagation::wait_for_cause(false);
        self.forget_term();
        self.unlogged.begin();
        let offset = api::replication_offset(&self.ctx);
        if let Some(gate) = &mut self.gate {
            gate.close_group(|| offset);
        }
        self.shared.leave_offset.store(offset, Ordering::Release);
        self.shared.end.leave(Some(Instant::now() + LEAVE_TIME));
        self.shared.is_leaving.store(true, Ordering::Release);
        self.update_filter();
    }

    /// What the agent is about to ask for was thought of before this.
    fn new_stage(&self) {
        self.shared.stage.fetch_add(1, Ordering::Relaxed);
    }

    fn forget_term(&mut self) {
        self.epoch = None;
        self.bound.end(Instant::now());
        self.timeouts.forget();
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
        let left_at = self.shared.leave_offset.load(Ordering::Relaxed);
        if std::mem::take(&mut self.led_until_left) && self.shared.durable() < Some(left_at) {
            // What the log did not get of this term is in no log: only an operator gives it up.
            self.left = None;
        }
        let has_no_log = matches!(self.role, Role::Off | Role::Replica);
        if has_no_log {
            // What the log acknowledged last may have come since the event loop last went round.
            if let (Some(durable), Some(gate)) = (self.shared.durable(), &mut self.gate) {
                gate.release(durable);
            }
            self.write_to_half_closed();
        }
        if self.role != Role::Leader {
            self.abandon_clients();
        }
        if has_no_log {
            // It may have been granted a lease while it was told to have no log.
            lease_clock::not_needed();
        }
    }

    /// Whether the server may hold writes that its replication id and offset say nothing of: as long as it has no log, nobody puts into
    /// its stream what is kept out of that.
    pub fn may_hold_untold_writes(&self) -> bool {
        self.unlogged.goes_on() || self.shared.must_seed()
    }

    /// What the command filter refuses follows from role and lag.
    pub fn update_filter(&self) {
        let is_confirmed = !matches!(self.role, Role::Attaching | Role::Refused(_) | Role::Suspended);
        held_table::WITHHOLDS_NOTIFICATIONS.store(!is_confirmed, Ordering::Release);
        command_filter::set(match &self.role {
            Role::Off | Role::Replica => Refusal::Nothing,
            Role::Attaching => Refusal::Data("LOADING durability: this node is attaching to its log".to_owned()),
            Role::Refused(why) => Refusal::Data(format!("ERR durability: {why}")),
            Role::Follower => Refusal::Redirectable,
            Role::Suspended => Refusal::Data(
                "CLUSTERDOWN durability: the lease of this node has passed, because its log does not answer; another node may lead"
                    .to_owned(),
            ),
            Role::Leader => match self.bound.verdict() {
                Verdict::Taken => Refusal::RoleChanges,
                Verdict::TakenYet => Refusal::WritesSoon,
                Verdict::Refused => Refusal::Writes,
            },
        });
    }
}
