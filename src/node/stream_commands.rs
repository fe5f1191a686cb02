//! A command that comes out of the log runs only if a leader can have put it there: everybody who has a token of the shard can append to the
//! log, and the server obeys its primary in everything, `CONFIG`, `ACL` and `REPLICAOF` included. Main thread only.

use durability_protocol::{judge, Judged};
use valkey_module::CommandFilterCtx;

use crate::exchange::passed_over::{PassedOver, Why};
use crate::node::command_filter::answer::refuse_data;
use crate::node::command_filter::decode::{lowercase, MAX_NAME_BYTES};
use crate::node::command_filter::primary;
use crate::node::{self, remembered, stream_errors};
use crate::server::api;

/// Before a command runs, or is queued, while this node follows its log: refuses it if it comes out of the log and no leader can have put it
/// there, and takes the node out of the log's history. Returns whether it was refused. Main thread.
///
/// A command that a leader may log is not refused, no matter which client sends it, so that clients' commands cost no more than a comparison
/// of their names.
pub fn refuses<'a>(command: &CommandFilterCtx, name: &[u8], first: impl FnOnce() -> &'a [u8]) -> bool {
    if remembered::is_taken(name) {
        return false;
    }
    let client = command.get_client_id();
    if remembered::is_other(client) {
        return false;
    }
    let mut buffer = [0; MAX_NAME_BYTES];
    let Some(lowercase) = lowercase(name, &mut buffer) else { return false };
    let first = first();
    let judged = node::with(|module| {
        match judge(lowercase, first, |name| module.commands.get(name).map(|properties| properties.logged)) {
            // Shown by the name that it was sent by. A command that the server does not have is left to the server, whose error says more.
            Judged::Unknown(name) if module.tap_user.knows(&module.ctx, [lowercase.as_bytes(), first].into_iter()) => {
                Judged::NotLogged(name)
            }
            judged => judged,
        }
    });
    match judged {
        Some(Judged::Always) => remembered::add_taken(name),
        Some(Judged::NotLogged(full_name)) => return refuse_if_logged(command, client, full_name),
        // While the module is in use another module calls, which is not the stream.
        Some(Judged::Taken | Judged::Unknown(_)) | None => {}
    }
    false
}

fn refuse_if_logged(command: &CommandFilterCtx, client: u64, full_name: String) -> bool {
    let flags = api::client_flags(client);
    if !flags.is_primary && !primary::is_last_primary(client) {
        remembered::add_other(client);
        return false;
    }
    let error = format!("ERR durability: no leader logs '{full_name}'");
    refuse_data(command, false, flags.is_in_transaction, || error);
    node::with(|module| {
        let offset = api::replication_offset(&module.ctx);
        stream_errors::pass_over(module, PassedOver { offset, command: full_name, why: Why::NotALeaders });
    });
    true
}
