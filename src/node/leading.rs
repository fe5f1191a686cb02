//! How a node leads: from being told to, through a lease that passes and is renewed, until it steps down. Main thread only.

use std::sync::atomic::{fence, Ordering};
use std::time::Instant;

use valkey_module::logging::{log_notice, log_warning};

use crate::base::panic_guard::has_failed;
use crate::decide::write_limit::Behind;
use crate::exchange::lease_clock;
use crate::exchange::mailbox::Task;
use crate::node::role_changes::{self, INTERNAL_ERROR};
use crate::node::{listening, slot_moves, Module, Role};
use crate::server::api;
use crate::settings::{self, Mode};

/// Why this node may not lead in that mode, whatever the log service says.
pub fn why_it_may_not_lead(module: &Module, mode: Mode) -> Option<String> {
    if has_failed() {
        return Some(INTERNAL_ERROR.to_owned());
    }
    if let (Mode::Sync, Some(Err(why))) = (mode, &module.self_test) {
        return Some(format!("sync mode does not work in this server: {why}; CONFIG SET durability.mode async works"));
    }
    let depends_on_lease = settings::FAILOVER.is_on() && module.gate.is_none();
    depends_on_lease.then(|| module.why_leases_are_not_kept()).flatten()
}

/// From now on this node serves its clients, as the leader of `epoch`.
///
/// # Errors
/// Why it may not lead, or why the server does not take a subscription.
pub fn lead(module: &mut Module, epoch: u64) -> Result<(), String> {
    if let Some(why) = why_it_may_not_lead(module, module.mode) {
        role_changes::serve_nobody(module, Role::Refused(why.clone()))?;
        // Another mode may allow it.
        module.epoch = Some(epoch);
        return Err(why);
    }
    module.epoch = Some(epoch);
    module.limits.writes.begin(Instant::now(), api::replication_offset(&module.ctx));
    serve_as_leader(module)?;
    log_notice(format!(
        "durability: leading shard {} in epoch {epoch} from offset {}, mode {}",
        settings::SHARD.value(),
        module.limits.writes.offset(),
        module.mode.name()
    ));
    Ok(())
}

/// Serves clients for as long as the lease lasts.
fn serve_as_leader(module: &mut Module) -> Result<(), String> {
    // What can fail comes before anything has changed.
    listening::subscribe(module, module.mode, &Role::Leader)?;
    lease_clock::answer_nobody_beyond_it();
    lease_clock::keep_to_it();
    role_changes::set_role(module, Role::Leader);
    role_changes::publish_service(module);
    listening::listen_to_commands(module)?;
    module.shared.send(Task::WatchModules);
    module.update_filter();
    Ok(())
}

/// Suspends the leader whose lease has passed. Called from server events, in which nothing can be subscribed to.
#[inline]
pub fn check_lease(module: &mut Module) {
    if module.role == Role::Leader && (lease_clock::has_passed() || lease_clock::has_refused()) {
        suspend(module);
    }
}

/// Nobody who is connected gets another answer: another node may lead. As long as none does, this one ships what it has, and goes on when
/// its lease is renewed.
fn suspend(module: &mut Module) {
    log_warning(
        "durability: the lease has passed without being renewed: closing all clients, and serving nobody until it is",
    );
    role_changes::set_role(module, Role::Suspended);
    module.shared.suspensions.fetch_add(1, Ordering::Relaxed);
    listening::ignore_commands(module);
    lease_clock::answer_beyond(module.newest_client);
    role_changes::publish_service(module);
    module.limits.timeouts.forget();
    module.dependencies.nothing_runs();
    module.abandon_clients();
    slot_moves::suspend(module);
    module.update_filter();
    module.shared.send(Task::CloseClients);
    // The lease may have been renewed by a thread that has not seen that this node is suspended. Either that thread sees it, or this one
    // sees the renewal: both write, pass a fence, and then read what the other has written.
    fence(Ordering::SeqCst);
    if let (Some(epoch), false) = (module.epoch, lease_clock::has_passed()) {
        module.shared.send(Task::Resume(epoch));
    }
}

/// The lease of `epoch` is renewed, so nobody has led since.
///
/// # Errors
/// The server does not take a subscription.
pub fn resume(module: &mut Module, epoch: u64) -> Result<(), String> {
    if module.role != Role::Suspended || module.epoch != Some(epoch) || lease_clock::has_passed() {
        return Ok(());
    }
    slot_moves::resume(module);
    serve_as_leader(module)?;
    log_notice(format!(
        "durability: the lease of epoch {epoch} is renewed: leading shard {} again",
        settings::SHARD.value()
    ));
    Ok(())
}

/// The agent leads no more. Returns whether this node led until now.
pub fn end_leading(module: &mut Module) -> bool {
    module.epoch = None;
    module.role.leads()
}

/// Counts what this node wrote and the log does not have: another node leads, or may, so those writes are lost.
pub fn count_discarded(module: &mut Module) {
    let Behind { lag, pending_bytes } = module.behind();
    module.shared.depositions.fetch_add(1, Ordering::Relaxed);
    module.shared.discarded_bytes.fetch_add(pending_bytes, Ordering::Relaxed);
    log_warning(format!(
        "durability: this node leads no more; it gives up {pending_bytes} bytes that the log has not acknowledged, the oldest {} \
         ms old",
        lag.as_millis()
    ));
}

/// Begins a planned failover: nothing is read from clients for a moment. Returns where the stream ends, or none unless this node leads.
pub fn pause_writes(module: &mut Module) -> Option<u64> {
    if module.role != Role::Leader {
        return None;
    }
    if module.read_pauses.begin_failover() {
        module.pause_reads();
    }
    Some(api::replication_offset(&module.ctx))
}

/// Ends a planned failover that does not take place.
pub fn resume_writes(module: &mut Module) {
    if module.read_pauses.end_failover() && module.role == Role::Leader {
        module.end_read_pause();
    }
}

/// Whether a planned failover may take place: this node never wrote anything beyond `end`, clients wait, and the log has everything.
pub fn may_step_down(module: &Module, end: u64) -> bool {
    module.role == Role::Leader
        && module.read_pauses.is_for_failover()
        && module.read_pauses.is_active()
        && api::replication_offset(&module.ctx) == end
        && module.shared.durable() >= Some(end)
}
