//! Commands of a cluster's users and nodes that would take a node away from its log, or change what it is without the log. Main thread only.

use std::sync::atomic::Ordering;

use valkey_module::CommandFilterCtx;

use crate::decide::cluster_commands::{establish, judge, Verdict};
use crate::exchange::mailbox::Task;
use crate::node::command_filter::answer::{refuse_data, refuse_queued};
use crate::node::command_filter::decode::argument;
use crate::node::{self, slot_moves, Role};
use crate::server::api;
use crate::server::cluster::membership::Membership;

/// The command that adds slots once the log has stored them.
pub const ADD_SLOTS: &str = "durability.addslots";
const FAILOVER: &str = "durability.failover";

/// The beginning of this error has the replica try again later, and not by SYNC.
const NODE_REPLICA_ERROR: &str =
    "NOMASTERLINK durability: in a cluster a node follows the log of its shard, and no other node";
const NOT_LEADER_ERROR: &str =
    "ERR durability: this node does not lead its shard: add slots where it is led (CLUSTER NODES)";

const NOT_LEADER_MOVES_ERROR: &str =
    "ERR durability: this node does not lead its shard: move slots on the node that leads (CLUSTER NODES)";
const NOT_LEADER_IMPORTS_ERROR: &str =
    "ERR durability: the target does not lead its shard: move slots to the node that leads (CLUSTER NODES)";
const IMPORTS_ERROR: &str = "ERR durability: the target does not take this migration: it takes part in too many";
const FLUSH_ERROR: &str = "TRYAGAIN durability: slots are coming to this shard at the moment";
const FINISH_ERROR: &str =
    "ERR durability: CLUSTER CANCELSLOTMIGRATIONS on the node that has the slots ends a migration";

/// Judges a command of a node of a cluster. Returns whether nothing else is to be judged.
pub fn filter(command: &CommandFilterCtx, name: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(b"CLUSTER") {
        filter_cluster(command)
    } else if (name.len() == 8 && name.eq_ignore_ascii_case(b"FLUSHALL"))
        || (name.len() == 7 && name.eq_ignore_ascii_case(b"FLUSHDB"))
    {
        filter_flush(command)
    } else if name.len() == 4 && name.eq_ignore_ascii_case(b"EXEC") {
        filter_exec(command)
    } else if name.eq_ignore_ascii_case(b"PSYNC") || name.eq_ignore_ascii_case(b"SYNC") {
        filter_replica(command)
    } else {
        false
    }
}

/// Keys that have come from another shard are only here while it is being decided whose they are. Returns whether the command is refused.
fn filter_flush(command: &CommandFilterCtx) -> bool {
    let client = command.get_client_id();
    let is_queued = api::client_flags(client).is_in_transaction;
    let is_claiming = node::with(|module| {
        let is_claiming = module.slot_moves.is_claiming();
        if is_queued && !is_claiming {
            module.slot_moves.queued_flush(client);
        }
        is_claiming
    });
    if is_claiming == Some(true) {
        refuse_queued(command, || FLUSH_ERROR.to_owned());
    }
    is_claiming == Some(true)
}

/// As [`filter_flush`], for a transaction that was begun before. Commands that it runs are not filtered.
fn filter_exec(command: &CommandFilterCtx) -> bool {
    let client = command.get_client_id();
    let is_refused =
        node::with(|module| module.slot_moves.end_transaction(client) && module.slot_moves.is_claiming()) == Some(true);
    if is_refused {
        refuse_data(command, true, true, || FLUSH_ERROR.to_owned());
    }
    is_refused
}

/// What a replica got from its primary would not be in the log yet.
fn filter_replica(command: &CommandFilterCtx) -> bool {
    let client = command.get_client_id();
    let is_tap = node::with(|module| module.shared.tap_client.load(Ordering::Relaxed) == client) == Some(true);
    if !is_tap {
        refuse_queued(command, || NODE_REPLICA_ERROR.to_owned());
    }
    true
}

fn filter_cluster(command: &CommandFilterCtx) -> bool {
    match judge((1..command.args_count()).map(|at| argument(command, at))) {
        Verdict::Runs => {}
        Verdict::IsAboutKeys => return filter_flush(command),
        Verdict::Refused(error) => refuse_queued(command, || error.to_owned()),
        Verdict::MigrateSlots => {
            let why = node::with(|module| match module.role {
                Role::Leader => {
                    module.shared.send(Task::AskForTargets);
                    None
                }
                _ => Some(NOT_LEADER_MOVES_ERROR),
            });
            if let Some(why) = why.flatten() {
                refuse_queued(command, || why.to_owned());
            }
        }
        Verdict::SyncSlots => sync_slots(command),
        Verdict::FailOver => {
            // A leader need not fail over to itself, which the server says.
            let own = node::with(|module| (!module.role.leads()).then(|| module.shared.node_id())).flatten();
            if let Some(own) = own {
                replace(command, FAILOVER, &["TO", &own]);
            }
        }
        Verdict::AddSlots(slots) => {
            let leads = node::with(|module| module.role == Role::Leader) == Some(true);
            let are_free = |slots: &Vec<u16>| Membership::get().is_some_and(|cluster| cluster.are_free(slots));
            match slots.filter(are_free) {
                _ if !leads => refuse_queued(command, || NOT_LEADER_ERROR.to_owned()),
                Some(slots) => {
                    let slots: Vec<String> = slots.iter().map(u16::to_string).collect();
                    replace(command, ADD_SLOTS, &slots.iter().map(String::as_str).collect::<Vec<_>>());
                }
                // The server says what is wrong with them, and changes nothing.
                None => {}
            }
        }
    }
    true
}

/// One side of a migration says to the other how far it is. Where that decides whose the slots are, the server hears only that the other side
/// is there; what it means happens when the logs have stored it.
fn sync_slots(command: &CommandFilterCtx) {
    let client = command.get_client_id();
    if api::client_flags(client).is_primary {
        // Of the stream that this node follows. What it would keep track of depends on what the cluster was like then. A leader knows by its log
        // which keys are its shard's.
        return replace(command, "ping", &[]);
    }
    let word = argument(command, 2).to_ascii_lowercase();
    let is_over = || command.arg_replace(2, "ACK");
    let leads = node::with(|module| module.role == Role::Leader) == Some(true);
    match &word[..] {
        b"establish" if !leads => refuse_queued(command, || NOT_LEADER_IMPORTS_ERROR.to_owned()),
        b"establish" => {
            // The server says what is wrong with another one.
            let import = establish((3..command.args_count()).map(|at| argument(command, at)));
            let begin = |(job, source, slots)| {
                node::with(|module| slot_moves::begin(module, client, job, slots, source)) == Some(true)
            };
            if import.is_some_and(|import| !begin(import)) {
                refuse_queued(command, || IMPORTS_ERROR.to_owned());
            }
        }
        b"paused" => {
            node::with(|module| slot_moves::paused(module, client));
            is_over();
        }
        b"failover-granted" => {
            node::with(|module| slot_moves::granted(module, client));
            is_over();
        }
        b"request-pause" => {
            node::with(|module| slot_moves::ask_to_pause(module, client));
            is_over();
        }
        b"request-failover" => {
            node::with(|module| slot_moves::ask_to_fail_over(module, client));
            is_over();
        }
        b"finish" => refuse_queued(command, || FINISH_ERROR.to_owned()),
        _ => {}
    }
}

/// The command becomes another one.
fn replace(command: &CommandFilterCtx, name: &str, arguments: &[&str]) {
    for position in (1..command.args_count()).rev() {
        command.arg_delete(position);
    }
    command.arg_replace(0, name);
    for (position, argument) in (1..).zip(arguments) {
        command.arg_insert(position, argument);
    }
}
