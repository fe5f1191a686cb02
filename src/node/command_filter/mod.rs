//! Refuses commands before they run: those that touch data while this node may not serve, writes while the log is too far behind, and those
//! that would take a node away from its log.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | the filter: which commands are refused |
//! | `refusal.rs` | what is refused at the moment |
//! | `cluster_commands.rs` | commands of a cluster that the log has a say in |
//! | `write_filter.rs` | writes while the log is too far behind |
//! | `primary.rs` | what comes from the server's primary is not refused |
//! | `answer.rs` | how a command is refused |
//! | `decode.rs` | the command that is about to run |

pub mod answer;
pub mod cluster_commands;
pub mod decode;
pub mod primary;
pub mod refusal;
mod write_filter;

use std::sync::atomic::Ordering;

use valkey_module::{CommandFilterCtx, ContextFlags, RedisModuleCommandFilterCtx};

use crate::base::panic_guard::guard;
use crate::decide::command_properties::{Keys, Properties};
use crate::decide::gate::ClientId;
use crate::log::shard_view::LeaseState;
use crate::node::command_filter::answer::{refuse, refuse_data, refuse_queued};
use crate::node::command_filter::decode::{argument, lowercase, properties_of, MAX_NAME_BYTES};
use crate::node::command_filter::primary::is_called_by_stream;
use crate::node::command_filter::refusal::{DATA, NOTHING, REDIRECTABLE, ROLE_CHANGES, WRITES, WRITES_SOON};
use crate::node::command_filter::write_filter::filter_write;
use crate::node::{self, listening, redirect, remembered, stream_commands};
use crate::server::api::ClientFlags;
use crate::server::cluster::membership::Membership;
use crate::server::follow_settings::{self, Owner};
use crate::server::{api, cluster, debug_command, propagation, running_client};
use crate::settings;

const ROLE_CHANGE_ERROR: &str = "ERR this node is led by its log: REPLICAOF and FAILOVER would take it away. \
    CONFIG SET durability.mode off first if that is what you want, or durability.allow-replicaof yes. If a Sentinel sent this: \
    it must not monitor this node, clients find the leader by the log service";

const INTERNAL_ERROR: &str = "ERR durability: internal error, see the server's log; restart the server";

/// Another module calls a command because of one that this module runs in the middle of something.
const IN_USE_ERROR: &str = "ERR durability: this node is changing what it serves: try again";

const READ_ONLY_ERROR: &str = "READONLY You can't write against a node that follows its log.";

const REWRITE_FOLLOWING_ERROR: &str =
    "ERR this node follows its log, and for that time some settings are the log's, which \
    CONFIG REWRITE would keep: try again when the node leads (durability_role in INFO durability)";
const REWRITE_MIXED_ERROR: &str = "ERR some settings are still those with which this node followed its log, which \
    CONFIG REWRITE would keep: the server's log says why they could not be set back; try again when they are";

/// Forgets what an earlier life of the module knew: the library stays mapped when the module is unloaded. Main thread.
pub fn forget_all() {
    refusal::forget_all();
    primary::forget_all();
    remembered::forget_taken();
}

/// The client is gone. Main thread.
pub fn disconnected(client: ClientId) {
    redirect::disconnected(client);
    if refusal::level() >= WRITES_SOON {
        refusal::transactions(|transactions| transactions.end(client));
    }
}

/// The filter itself. Runs before every command of every client and script.
pub fn filter(ctx: *mut RedisModuleCommandFilterCtx) {
    let level = refusal::level();
    let owner = follow_settings::owner();
    if level == NOTHING && owner == Owner::Operator {
        return;
    }
    running_client::note(ctx);
    let is_judged = guard("filtering a command", false, || {
        filter_command(ctx, level, owner);
        true
    });
    if !is_judged {
        guard("refusing a command", (), || refuse(&CommandFilterCtx::new(ctx), INTERNAL_ERROR.to_owned()));
    }
}

fn filter_command(ctx: *mut RedisModuleCommandFilterCtx, level: u8, owner: Owner) {
    let command = CommandFilterCtx::new(ctx);
    let mut name = argument(&command, 0);
    if propagation::has_cause(name, || argument(&command, 1))
        && node::with(listening::watch_commands).is_none()
        && node::is_in_use()
    {
        return refuse_data(&command, false, false, || IN_USE_ERROR.to_owned());
    }
    if owner == Owner::Log && stream_commands::refuses(&command, name, || argument(&command, 1)) {
        return;
    }
    if owner != Owner::Operator && is_config_rewrite(name, argument(&command, 1)) {
        return refuse_rewrite(&command, owner);
    }
    if level == NOTHING {
        return;
    }
    if name.len() == 5 && name.eq_ignore_ascii_case(b"DEBUG") {
        match filter_debug(&command) {
            debug_command::Verdict::Runs => {}
            debug_command::Verdict::Populates => name = debug_command::POPULATE.as_bytes(),
            debug_command::Verdict::Refused(error) => return refuse_queued(&command, || error),
        }
    }
    if name.len() == 8 && name.eq_ignore_ascii_case(b"SHUTDOWN") {
        hurry_shutdown(&command);
    }
    let word = redirect::word(name).filter(|_| !api::client_flags(command.get_client_id()).is_stranger);
    if let Some(word) = word {
        redirect::note(command.get_client_id(), word, (1..command.args_count()).map(|at| argument(&command, at)));
    }
    if cluster::is_enabled() && cluster_commands::filter(&command, name) {
        return;
    }
    if changes_role(name) {
        if !settings::ALLOW_REPLICAOF.is_on() {
            // The whole transaction is refused: the commands that a Sentinel sends after this one would close all clients.
            refuse_queued(&command, || ROLE_CHANGE_ERROR.to_owned());
        }
    } else if level > ROLE_CHANGES {
        filter_data(&command, ctx, name, level);
    }
}

/// Compares lengths first: this runs before every command.
fn changes_role(name: &[u8]) -> bool {
    match name.len() {
        7 => name.eq_ignore_ascii_case(b"SLAVEOF"),
        8 => name.eq_ignore_ascii_case(b"FAILOVER"),
        9 => name.eq_ignore_ascii_case(b"REPLICAOF"),
        _ => false,
    }
}

fn is_config_rewrite(name: &[u8], subcommand: &[u8]) -> bool {
    name.len() == 6 && name.eq_ignore_ascii_case(b"CONFIG") && subcommand.eq_ignore_ascii_case(b"REWRITE")
}

/// Judges a DEBUG command, and turns it into the one that runs instead.
fn filter_debug(command: &CommandFilterCtx) -> debug_command::Verdict {
    let has_aof = node::with(|module| module.ctx.get_flags().contains(ContextFlags::AOF)) == Some(true);
    let verdict = debug_command::judge((0..command.args_count()).map(|at| argument(command, at)), has_aof);
    if verdict == debug_command::Verdict::Populates {
        command.arg_delete(1);
        command.arg_replace(0, debug_command::POPULATE);
    }
    verdict
}

/// The file would hold what is set for this time only. A token is among it, and files that another process does not have, so that the
/// server might not start with it.
fn refuse_rewrite(command: &CommandFilterCtx, owner: Owner) {
    let error = if owner == Owner::Log { REWRITE_FOLLOWING_ERROR } else { REWRITE_MIXED_ERROR };
    refuse_queued(command, || error.to_owned());
}

/// While a script is busy, SHUTDOWN would wait for the log's acknowledgement for ever: only the event loop's own rounds end that wait, and
/// there are none. If the log is the only replica, SHUTDOWN does not wait for it: what the script wrote is not in the stream yet, and what
/// was written before is shipped when the module stops.
fn hurry_shutdown(command: &CommandFilterCtx) {
    let given = |word: &[u8]| (1..command.args_count()).any(|at| argument(command, at).eq_ignore_ascii_case(word));
    let is_only_replica = node::with(|module| {
        let is_busy = module.ctx.get_flags().contains(ContextFlags::LUA);
        is_busy
            && module
                .ctx
                .server_info("replication")
                .field("connected_slaves")
                .is_some_and(|n| n.to_string_lossy() == "1")
    });
    if is_only_replica == Some(true) && !given(b"NOW") && !given(b"ABORT") {
        command.arg_insert(command.args_count(), "NOW");
    }
}

fn filter_data(command: &CommandFilterCtx, ctx: *mut RedisModuleCommandFilterCtx, name: &[u8], level: u8) {
    let client = command.get_client_id();
    let mut buffer = [0; MAX_NAME_BYTES];
    let Some(name) = lowercase(name, &mut buffer) else { return };
    if primary::is_last_primary(client) {
        return primary::note_stream_command(name, command);
    }
    let Some((properties, is_own)) = node::with(|module| {
        let is_self_test = client == module.self_test_client;
        if let (true, Some(gate)) = (is_self_test, &mut module.gate) {
            running_client::learn(&mut gate.connections, ctx, client);
        }
        let is_own = is_self_test || client == module.shared.tap_client.load(Ordering::Relaxed);
        (properties_of(module, name, command), is_own)
    }) else {
        if node::is_in_use() {
            // Whether it may run is not known.
            refuse_data(command, false, false, || IN_USE_ERROR.to_owned());
        }
        return;
    };
    if is_own {
        return;
    }
    match level {
        REDIRECTABLE => filter_following(command, name, client, properties),
        DATA => filter_not_serving(command, name, client, properties),
        _ => filter_write(command, name, client, properties, level == WRITES),
    }
}

/// This node follows its log: sends clients to the leader that can be redirected, and refuses the writes of others.
fn filter_following(command: &CommandFilterCtx, name: &str, client: ClientId, properties: Properties) {
    if name == "exec" {
        return;
    }
    if !cluster::is_enabled() && redirect::applies(client, properties) {
        refuse_queued(command, where_the_leader_is);
    } else if properties.is_write && !is_left_to_cluster() {
        // Even where the server would take the write (replica-read-only no): what only this node has is not in the log.
        let flags = api::client_flags(client);
        if !primary::note(command, name, flags.is_primary) && !is_called_by_stream(client) {
            refuse_data(command, false, flags.is_in_transaction, || READ_ONLY_ERROR.to_owned());
        }
    }
}

/// Whether the server sends the clients of a cluster to the primary, and takes no other write either.
fn is_left_to_cluster() -> bool {
    let is_read_only = || node::with(|module| module.ctx.get_flags().contains(ContextFlags::READONLY)) == Some(true);
    cluster::is_enabled() && is_read_only()
}

/// This node serves nobody: refuses what a loading server would refuse.
fn filter_not_serving(command: &CommandFilterCtx, name: &str, client: ClientId, properties: Properties) {
    let is_exec = name == "exec";
    if properties.runs_while_loading && !is_exec {
        return note_receiver(name, command, client);
    }
    let flags = api::client_flags(client);
    if !primary::note(command, name, flags.is_primary) && !is_called_by_stream(client) && !is_sent_on(properties, flags)
    {
        refuse_data(command, is_exec, flags.is_in_transaction, refusal::data_error);
    }
}

/// Whether the server sends the client on to the primary, whatever this node serves: to its cluster it is a replica, and the client has not
/// asked to read from one.
fn is_sent_on(properties: Properties, flags: ClientFlags) -> bool {
    let has_keys = matches!(properties.keys, Keys::Range { .. });
    let is_replica = || Membership::get().is_some_and(|membership| membership.living_primary_id().is_some());
    has_keys && flags.is_connected && !flags.reads_from_replicas && cluster::is_enabled() && is_replica()
}

/// While this node holds what its log has not confirmed, clients are not to be notified of keys.
fn note_receiver(name: &str, command: &CommandFilterCtx, client: ClientId) {
    let receives = match name {
        "subscribe" | "psubscribe" | "ssubscribe" => true,
        "client" => argument(command, 1).eq_ignore_ascii_case(b"TRACKING"),
        _ => false,
    };
    if receives {
        node::with(|module| module.gate.as_ref().map(|gate| gate.connections.receives_messages(client)));
    }
}

fn where_the_leader_is() -> String {
    let seen = node::with(|module| module.shared.view().map(|view| (view, module.shared.node_id()))).flatten();
    let view = seen.filter(|(view, own)| view.lease != LeaseState::Free && view.leader != *own).map(|(view, _)| view);
    match view.filter(|view| !view.leader_address.is_empty()) {
        Some(view) => format!("REDIRECT {}", view.leader_address),
        None => "TRYAGAIN durability: nobody leads at the moment".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_rewrite_is_known_by_any_case() {
        assert!(is_config_rewrite(b"config", b"rewrite"));
        assert!(is_config_rewrite(b"CONFIG", b"ReWrite"));
        assert!(!is_config_rewrite(b"CONFIG", b"SET"));
        assert!(!is_config_rewrite(b"CONFIG", b""));
    }

    #[test]
    fn commands_that_take_a_node_from_its_log_are_known_by_any_case() {
        for name in ["REPLICAOF", "replicaof", "SlaveOf", "failover"] {
            assert!(changes_role(name.as_bytes()), "{name}");
        }
        for name in ["GET", "REPLCONF", "SETRANGE", "GETRANGE1"] {
            assert!(!changes_role(name.as_bytes()), "{name}");
        }
    }
}
