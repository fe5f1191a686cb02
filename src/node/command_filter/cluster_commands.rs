//! Commands of a cluster's users and nodes that would take a node away from its log, or change what it is without the log. Main thread only.

use std::sync::atomic::Ordering;

use valkey_module::CommandFilterCtx;

use crate::decide::cluster_commands::{judge, Verdict};
use crate::node::command_filter::answer::refuse_queued;
use crate::node::command_filter::decode::argument;
use crate::node::{self, Role};
use crate::server::cluster::membership::Membership;

/// The command that adds slots once the log has stored them.
pub const ADD_SLOTS: &str = "durability.addslots";
const FAILOVER: &str = "durability.failover";

/// The beginning of this error has the replica try again later, and not by SYNC.
const NODE_REPLICA_ERROR: &str =
    "NOMASTERLINK durability: in a cluster a node follows the log of its shard, and no other node";
const NOT_LEADER_ERROR: &str =
    "ERR durability: this node does not lead its shard: add slots where it is led (CLUSTER NODES)";

/// Judges a command of a node of a cluster. Returns whether nothing else is to be judged.
pub fn filter(command: &CommandFilterCtx, name: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(b"CLUSTER") {
        filter_cluster(command)
    } else if name.eq_ignore_ascii_case(b"PSYNC") || name.eq_ignore_ascii_case(b"SYNC") {
        filter_replica(command)
    } else {
        false
    }
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
        Verdict::IsAboutKeys => return false,
        Verdict::Refused(error) => refuse_queued(command, || error.to_owned()),
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
