//! How a node's role changes, other than to lead ([`super::leading`]): what it serves, holds and refuses follows from its role. Main thread
//! only.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use valkey_module::logging::{log_notice, log_warning};

use crate::base::panic_guard::has_failed;
use crate::exchange::lease_clock;
use crate::exchange::mailbox::{Command, Task};
use crate::node::{claims, event_loop, listening, slot_moves, Module, Role};
use crate::server::follow_settings::{self, Owner};
use crate::server::{api, cluster};
use crate::settings;

/// Why a node refuses its clients after a callback has panicked.
pub const INTERNAL_ERROR: &str = "internal error, see the server's log; restart the server";

/// How long a node may take to leave its log: to ship what clients wait for, and to give back the lease.
const LEAVE_TIME: Duration = Duration::from_millis(1600);

/// Sets the role, and says so in the server's log. A node in which a callback has panicked cannot rely on anything it knows, so it serves
/// nobody, whatever it was about to become.
pub fn set_role(module: &mut Module, role: Role) {
    let role = if has_failed() { Role::Refused(INTERNAL_ERROR.to_owned()) } else { role };
    if role.name() != module.role.name() {
        log_notice(format!("durability: role: {}, was {}", role.name(), module.role.name()));
    }
    module.role = role;
}

/// Publishes, for other threads, what this node serves.
pub fn publish_service(module: &Module) {
    let is_follower = module.role == Role::Follower;
    // A node that does not follow yet may hold what the log does not have.
    let applied = if is_follower { api::replication_offset(&module.ctx) } else { 0 };
    module.shared.applied.store(applied, Ordering::Relaxed);
    module.shared.serves_reads.store(is_follower, Ordering::Relaxed);
    module.shared.is_suspended.store(module.role == Role::Suspended, Ordering::Release);
}

/// From now on this node serves nobody (unless `role` is off); clients that wait for the log are closed without an answer. Not from within a
/// server event.
///
/// # Errors
/// The server does not take a subscription.
pub fn serve_nobody(module: &mut Module, role: Role) -> Result<(), String> {
    stop_serving(module, role);
    listening::listen_to_commands(module)
}

/// As [`serve_nobody`], but subscribes to nothing, so that server events can call it.
pub fn stop_serving(module: &mut Module, role: Role) {
    begin_stage(module);
    set_role(module, role);
    publish_service(module);
    listening::ignore_commands(module);
    end_epoch(module);
    module.abandon_clients();
    module.update_filter();
}

/// A callback has panicked: nobody who is connected is answered any more, and others are told why. Called from server events, in which
/// nothing can be subscribed to.
pub fn give_up(module: &mut Module) {
    module.has_given_up = true;
    let role = Role::Refused(INTERNAL_ERROR.to_owned());
    set_role(module, role.clone());
    module.update_filter();
    answer_nobody(module);
    // What the panic has left in disorder may make this panic as well, so it comes last.
    stop_serving(module, role);
}

/// Nobody who is connected gets another answer.
fn answer_nobody(module: &Module) {
    lease_clock::lost();
    lease_clock::answer_beyond(module.newest_client);
    module.shared.send(Task::CloseClients);
}

/// From now on this node serves its clients without a log. What is held leaves if the log acknowledges it soon: the agent ships it, and then
/// has the rest abandoned. Called from server events as well, so it subscribes to nothing.
pub fn leave(module: &mut Module, role: Role) {
    let led = module.role.leads();
    // What a node in any other role holds may be its own until it was linked to its log.
    let is_whole = follow_settings::owner() == Owner::Log && follow_settings::is_whole();
    let held_the_logs = led || module.role == Role::Follower || is_whole;
    module.left_log.leave(role == Role::Off, held_the_logs, led);
    begin_stage(module);
    set_role(module, role);
    publish_service(module);
    lease_clock::not_needed();
    module.shared.forget_view();
    listening::ignore_commands(module);
    end_epoch(module);
    module.unlogged.time.begin();
    let offset = api::replication_offset(&module.ctx);
    if let Some(gate) = &mut module.gate {
        gate.close_group(|| offset);
        gate.end_throttling();
    }
    module.shared.leave_offset.store(offset, Ordering::Release);
    module.shared.end.leave(Some(Instant::now() + LEAVE_TIME));
    module.shared.is_leaving.store(true, Ordering::Release);
    module.update_filter();
}

/// The agent may be about to ask for something that it decided on before this. That is void.
fn begin_stage(module: &Module) {
    module.shared.stage.fetch_add(1, Ordering::Relaxed);
}

fn end_epoch(module: &mut Module) {
    module.epoch = None;
    slot_moves::end(module);
    if let Some(client) = module.claims.end() {
        claims::answer_in_vain(client);
    }
    module.limits.writes.end(Instant::now());
    module.limits.timeouts.forget();
    module.dependencies.nothing_runs();
}

/// The agent's epoch has ended, and it ships nothing any more.
pub fn epoch_ended(module: &mut Module) {
    let left_at = module.shared.leave_offset.load(Ordering::Relaxed);
    module.left_log.epoch_ended(module.shared.durable() >= Some(left_at));
    let has_no_log = module.role.has_no_log();
    if has_no_log {
        event_loop::release_held(module);
        module.write_to_half_closed();
    }
    if module.role != Role::Leader {
        module.abandon_clients();
    }
    if has_no_log {
        // The node may have been granted a lease while it left its log.
        lease_clock::not_needed();
    }
}

/// Another node leads, and this one has what the log had: reads are served.
pub fn serve_reads(module: &mut Module) {
    set_role(module, Role::Follower);
    publish_service(module);
    module.update_filter();
    let leader = module.shared.view().map(|view| view.leader.clone()).filter(|leader| !leader.is_empty());
    let leader = leader.as_deref().unwrap_or("nobody");
    log_notice(format!("durability: following shard {}, which {leader} leads; serving reads", settings::SHARD.value()));
}

/// Comes before this node is made a primary: nobody reads or writes until it leads, but clients wait for that.
pub fn prepare_to_lead(module: &mut Module) {
    if module.role == Role::Follower {
        set_role(module, Role::Attaching);
        publish_service(module);
        module.update_filter();
        module.pause_reads();
    }
}

/// The cluster has made the server a replica of another node. The log decides what that is worth.
fn pointed_elsewhere(module: &mut Module) {
    match module.role {
        Role::Attaching | Role::Follower => {
            // Commands that wait are sent on to the node that the cluster has made the primary.
            module.slot_moves.answer_clients();
            module.shared.send(Task::FollowAgain);
        }
        Role::Leader | Role::Suspended => {
            log_warning(
                "durability: the cluster knows another leader of this shard than its log: this node leads no more",
            );
            answer_nobody(module);
            stop_serving(module, Role::Attaching);
            module.shared.send(Task::StandAside);
            module.tell_agent(Command::LostItsLog);
        }
        Role::Off | Role::Replica | Role::Refused(_) => {}
    }
}

/// The operator made the server a replica of another server, or a primary again. Called from a server event, in which nothing can be
/// subscribed to: the task that follows does that.
pub fn server_role_changed(module: &mut Module, is_replica: bool) {
    if is_replica && cluster::is_enabled() {
        return pointed_elsewhere(module);
    }
    match (&module.role, is_replica) {
        (Role::Off, _) => {}
        (Role::Attaching, false) => return module.tell_agent(Command::LostItsLog),
        (Role::Follower, false) => {
            log_warning("durability: something made this node a primary, which is not allowed");
            stop_serving(module, Role::Attaching);
            return module.tell_agent(Command::LostItsLog);
        }
        // It is a replica of another server already.
        (Role::Replica, true) => return,
        (_, true) if !settings::ALLOW_REPLICAOF.is_on() => {
            // By a way that the filter does not see, such as a command that was renamed. The agent then asks for an operator.
            log_warning("durability: something made this node a replica of another server, which is not allowed");
            if module.role.leads() {
                answer_nobody(module);
            }
            stop_serving(module, Role::Attaching);
            module.shared.send(Task::StandAside);
            return module.tell_agent(Command::LostItsLog);
        }
        (Role::Leader | Role::Suspended | Role::Follower | Role::Attaching | Role::Refused(_), true) => {
            log_warning("durability: this node is a replica of another server now, and has no log of its own");
            leave(module, Role::Replica);
            module.shared.send(Task::StandAside);
        }
        (Role::Replica, false) => {
            log_notice("durability: this node is a primary again: its log starts anew from what it holds");
            begin_stage(module);
            set_role(module, Role::Attaching);
            module.update_filter();
            module.pause_reads();
        }
        (Role::Leader | Role::Suspended | Role::Refused(_), false) => return,
    }
    module.tell_agent(Command::Replica(is_replica));
}
