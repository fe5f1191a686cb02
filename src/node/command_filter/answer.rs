//! Refuses a command. A filter cannot answer, so it turns the command into [`REFUSED`], which can; or, between MULTI and EXEC, into one that
//! no server knows, whose name is the error, so that the transaction aborts as a whole. Main thread only.

use std::sync::atomic::Ordering;

use valkey_module::CommandFilterCtx;

use crate::node::command_filter::decode::{argument, is_command};
use crate::node::command_filter::refusal::{self, REFUSED_COMMANDS};
use crate::server::api;

/// The command that answers the refusal.
pub const REFUSED: &str = "durability.refused";

/// The server's own error, which would come first: a client that has not logged in is not told what this node is and where the leader is.
const STRANGER_ERROR: &str = "NOAUTH Authentication required.";
const STRANGER_EXEC_ERROR: &str = "EXECABORT Transaction discarded because of: NOAUTH Authentication required.";

/// Refuses a command that touches data, and counts it.
pub fn refuse_data(command: &CommandFilterCtx, is_exec: bool, is_in_transaction: bool, error: impl FnOnce() -> String) {
    if !is_command(command) {
        return;
    }
    // Not left to the server, which wants no login of a client that came before the password was removed.
    if api::client_flags(command.get_client_id()).is_stranger {
        let is_exec = argument(command, 0).eq_ignore_ascii_case(b"EXEC");
        return refuse(command, if is_exec { STRANGER_EXEC_ERROR } else { STRANGER_ERROR }.to_owned());
    }
    REFUSED_COMMANDS.fetch_add(1, Ordering::Relaxed);
    if is_exec {
        // One argument too many makes the server abort the transaction, as the loading server's own refusal would.
        command.arg_insert(1, "refused");
    } else if is_in_transaction {
        // The server answers with the name of the command that it does not know.
        replace(command, &error());
    } else {
        refuse(command, error());
    }
}

/// As [`refuse_data`], for a command of a client that may be in a transaction. It is no EXEC.
pub fn refuse_queued(command: &CommandFilterCtx, error: impl FnOnce() -> String) {
    let is_in_transaction = api::client_flags(command.get_client_id()).is_in_transaction;
    refuse_data(command, false, is_in_transaction, error);
}

/// Has the command answered with that error.
pub fn refuse(command: &CommandFilterCtx, error: String) {
    refusal::set_next_error(error);
    replace(command, REFUSED);
}

/// The command becomes the one of that name, without arguments.
fn replace(command: &CommandFilterCtx, name: &str) {
    for position in (1..command.args_count()).rev() {
        command.arg_delete(position);
    }
    command.arg_replace(0, name);
}
