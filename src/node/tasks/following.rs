//! Makes the server a replica of its log, or a primary again. Main thread, outside of any command and of any server event.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use valkey_module::logging::{log_notice, log_warning};
use valkey_module::Context;

use crate::decide::cluster_claim::{Claim, Stored};
use crate::exchange::mailbox::{Position, Progress};
use crate::log::services::Reached;
use crate::node::left_log::StreamPosition;
use crate::node::tasks::serving::change_role;
use crate::node::tasks::stream::{kept_position, position};
use crate::node::{self, listening, role_changes, Role};
use crate::server::api;
use crate::server::cluster::{self, membership::Membership};
use crate::server::follow_settings::{self, Owner};
use crate::server::named_link::{self, Link};

thread_local! {
    static IS_CHANGING_ROLE: Cell<bool> = const { Cell::new(false) };
}

/// Whether it is this module that makes the server a replica or a primary.
pub fn is_changing_role() -> bool {
    IS_CHANGING_ROLE.get()
}

/// Whom the server is to replicate from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The one at that address.
    At(&'a str, u16),
    /// Nobody.
    None,
}

/// Runs `work`, which changes what the server replicates from, or what it is in its cluster.
fn changing_role<T>(work: impl FnOnce() -> T) -> T {
    IS_CHANGING_ROLE.set(true);
    let result = work();
    IS_CHANGING_ROLE.set(false);
    result
}

/// Does what REPLICAOF does, which a node of a cluster does not have.
fn replicaof(ctx: &Context, source: Source<'_>) -> Result<(), String> {
    changing_role(|| match source {
        Source::At(host, port) if cluster::is_enabled() => membership()?.replicate_from(host, port),
        Source::None if cluster::is_enabled() => {
            membership()?.stop_replicating();
            Ok(())
        }
        Source::At(host, port) => api::call(ctx, "REPLICAOF", &[host, &port.to_string()]).map(drop),
        Source::None => api::call(ctx, "REPLICAOF", &["NO", "ONE"]).map(drop),
    })
}

/// As [`replicaof`], unless this node ceased to attach to its log or to follow it.
fn replicaof_while_following(ctx: &Context, source: Source<'_>) -> Result<(), String> {
    check_follows()?;
    replicaof(ctx, source)
}

fn check_follows() -> Result<(), String> {
    let follows = node::with(|module| matches!(module.role, Role::Attaching | Role::Follower)) == Some(true);
    follows.then_some(()).ok_or_else(|| "this node is not attaching to its log any more".to_owned())
}

fn membership() -> Result<Membership, String> {
    Membership::get().ok_or_else(|| "the insides of this server's cluster are not known".to_owned())
}

/// Makes the server a replica of its log, which it logs in to with that user name and password.
///
/// In a cluster, `knows_slots` says that the log knows which slots the shard serves.
pub fn follow(ctx: &Context, at: &Reached, user: &str, password: &str, knows_slots: bool) -> Result<(), String> {
    // Before the first byte of the stream arrives.
    node::with(listening::listen_to_commands).unwrap_or(Ok(()))?;
    let may_hold_others = match api::is_replica(ctx) {
        // The cluster may have made it a replica of another node, which may have sent something.
        true if follow_settings::owner() == Owner::Log => false,
        // As a primary it may have written what no stream tells.
        true => !lacks_link(ctx) || may_hold_untold_writes(),
        false => may_hold_untold_writes(),
    };
    follow_settings::set(ctx, user, password)?;
    if cluster::is_enabled() && knows_slots {
        membership()?.let_go_of_slots();
    }
    if may_hold_others {
        // A server that ceases to be a replica gets a replication id that its log does not know, and so a full copy.
        replicate_from(ctx, at)?;
        replicaof_while_following(ctx, Source::None)?;
    }
    follow_at(ctx, at)?;
    // The server takes no writes any more, and its slots are not its own.
    node::with(|module| module.slot_moves.answer_clients());
    Ok(())
}

fn may_hold_untold_writes() -> bool {
    node::with(|module| module.may_hold_untold_writes()) == Some(true)
}

/// The server follows its log at that address from now on.
pub fn follow_at(ctx: &Context, at: &Reached) -> Result<(), String> {
    if follow_settings::owner() != Owner::Log {
        return Err("this node does not follow its log any more".to_owned());
    }
    replicate_from(ctx, at)?;
    log_notice(format!("durability: following the log at {}", at.address));
    Ok(())
}

fn replicate_from(ctx: &Context, at: &Reached) -> Result<(), String> {
    let host = match at.address {
        // The scope belongs to an address that is valid on one link only.
        SocketAddr::V6(address) if address.scope_id() > 0 => format!("{}%{}", address.ip(), address.scope_id()),
        address => address.ip().to_string(),
    };
    let (name, port) = (at.service.host.clone(), at.address.port());
    let before = named_link::expect(Link { address: host.clone(), port, host: name });
    replicaof_while_following(ctx, Source::At(&host, port)).inspect_err(|_| named_link::restore(before))
}

/// The cluster has made the server a replica of another node, whom its log does not know: it follows the log again.
pub fn follow_again(ctx: &Context) {
    // A node that does not follow yet is told to by the agent.
    let Some(link) = named_link::current().filter(|_| follow_settings::owner() == Owner::Log) else { return };
    match replicaof_while_following(ctx, Source::At(&link.address, link.port)) {
        Ok(()) => log_notice("durability: the cluster pointed this node to another one; it follows its log again"),
        // The agent attaches anew.
        Err(why) => log_warning(format!("durability: this node does not follow its log again: {why}")),
    }
}

/// Makes the server a primary that holds everything its log has, and in a cluster that of the shard. Returns where its stream goes on.
pub fn promote(ctx: &Context, claim: Option<&Claim>) -> Position {
    // A node that had to pass over something is refused below: everything was applied before this.
    node::with(role_changes::prepare_to_lead);
    match claim {
        Some(claim) => take(claim)?,
        None => replicaof_while_following(ctx, Source::None)?,
    }
    follow_settings::restore(ctx);
    position(ctx)
}

/// What this node is to claim in its cluster, if the log lets it lead.
pub fn plan_claim(stored: &Stored) -> Result<Claim, String> {
    Ok(membership()?.plan(stored))
}

/// Makes the server the primary of its shard in the cluster. The log has stored the claim.
pub fn take(claim: &Claim) -> Result<(), String> {
    check_follows()?;
    let membership = membership()?;
    if let Some(why) = membership.why_outdated(claim) {
        return Err(why);
    }
    changing_role(|| membership.take(claim));
    node::with(|module| module.claims.took(claim));
    if !claim.slots.is_empty() {
        log_notice(format!(
            "durability: claims slots {} in the cluster, config epoch {}",
            claim.slots, claim.config_epoch
        ));
    }
    Ok(())
}

/// Makes this node, which follows its log, a replica of the leader in the cluster. Returns whether it is one.
pub fn belong_to(leader: &str) -> bool {
    let Ok(membership) = membership() else { return false };
    check_follows().is_ok() && changing_role(|| membership.belong_to(leader))
}

/// The server is a primary from now on, whose history is its own. Notes where that begins.
pub fn stop_following(ctx: &Context) {
    let left_at = node::with(|module| module.shared.leave_offset.load(Ordering::Relaxed));
    let mut offset = left_at.unwrap_or(0);
    if follow_settings::owner() == Owner::Log {
        match replicaof(ctx, Source::None) {
            Ok(()) => follow_settings::restore(ctx),
            Err(why) => log_warning(format!("durability: the server still follows its log: {why}")),
        }
        // What came from the log until now was not written by this node.
        offset = api::replication_offset(ctx);
    }
    let left = kept_position(ctx).map(|(replid, _)| (replid, offset));
    node::with(|module| module.left_log.note(left));
}

/// The operator made the server a replica: leaves its settings and commands alone.
pub fn stand_aside(ctx: &Context) {
    change_role("standing aside", listening::listen_to_commands);
    follow_settings::restore(ctx);
}

/// Tries again to set back what the server did not take back when it ceased to follow its log.
pub fn restore_settings(ctx: &Context) {
    if follow_settings::owner() == Owner::Mixed {
        follow_settings::restore(ctx);
    }
}

/// Whether the server is linked to its log. If so, it holds nothing but what came from there, and says so by `user` when it connects again.
pub fn follows_whole(ctx: &Context, user: &str) -> bool {
    if follow_settings::owner() != Owner::Log || progress(ctx).is_none() {
        return false;
    }
    match follow_settings::set_user(ctx, user) {
        Ok(()) => true,
        Err(why) => {
            log_warning(format!("durability: the server does not tell the log what it holds: {why}"));
            false
        }
    }
}

/// What the server holds, if all of it is from its log, linked to it or not.
pub fn held(ctx: &Context) -> Option<StreamPosition> {
    let is_whole = api::is_replica(ctx) && follow_settings::owner() == Owner::Log && follow_settings::is_whole();
    position(ctx).ok().filter(|_| is_whole)
}

/// How far the server is. `None` unless it is a replica whose link is up, and had to pass over nothing.
pub fn progress(ctx: &Context) -> Option<Progress> {
    if node::with(|module| matches!(module.role, Role::Attaching | Role::Follower)) != Some(true) {
        return None;
    }
    let info = ctx.server_info("replication");
    let number = |name: &str| info.field(name)?.to_string_lossy().parse::<u64>().ok();
    let is_up = info.field("master_link_status")?.to_string_lossy() == "up";
    let (applied, received) = (number("slave_repl_offset")?, number("slave_read_repl_offset")?);
    let replid = info.field("master_replid")?.to_string_lossy();
    is_up.then(|| Progress { replid, applied, received, is_paused: applied < received && is_paused(ctx) })
}

/// Whether the stream is received but not applied, because `CLIENT PAUSE` applies to the primary as well, or the primary is blocked.
fn is_paused(ctx: &Context) -> bool {
    let is_blocked = |line: &str| {
        let flags = line.split_whitespace().find_map(|field| field.strip_prefix("flags="));
        flags.is_some_and(|flags| flags.contains('b'))
    };
    let info = ctx.server_info("clients");
    let pauses = info.field("paused_actions").is_none_or(|actions| actions.to_string_lossy() != "none");
    // What the server does not tell counts as paused: to take a log's end for torn cannot be undone.
    pauses || api::client_list(ctx, "master").map_or(true, |lines| lines.iter().any(|line| is_blocked(line)))
}

/// Whether the server, as a replica, has no connection to its log, not even one on which it receives a full copy.
pub fn lacks_link(ctx: &Context) -> bool {
    let info = ctx.server_info("replication");
    let is = |name: &str, value: &str| info.field(name).is_some_and(|field| field.to_string_lossy() == value);
    is("master_link_status", "down") && is("master_sync_in_progress", "0")
}
