//! Notices what a node had to pass over in the stream that it follows, and full copies that it could not load. Main thread only.

use valkey_module::logging::log_warning;

use crate::exchange::mailbox::{Command, Task};
use crate::exchange::passed_over::{PassedOver, Why};
use crate::node::command_filter::{decode, primary};
use crate::node::{role_changes, Module, Role};
use crate::server::api;
use crate::server::command_result::CommandResult;
use crate::server::follow_settings::{self, Owner};

/// Bytes of an error that are shown at most.
const MAX_WHY_BYTES: usize = 128;

/// A command failed, or was refused before it ran. Called from a server event, in which nothing can be subscribed to.
///
/// These events tell of every error that a command of the stream can end with: the server lets no command of its primary block, so none
/// fails later.
pub fn failed_while_following(module: &mut Module, result: &CommandResult) {
    // A command that another one called is judged by that one's own event.
    if result.is_called_by_module() || !module.role.may_follow() || follow_settings::owner() != Owner::Log {
        return;
    }
    if !primary::is_last_primary(result.client()) && !api::is_connected_primary(result.client()) {
        return;
    }
    let offset = api::replication_offset(&module.ctx);
    pass_over(module, PassedOver { offset, command: name_of(result), why: why_refused(result) });
}

/// The server could not load the full copy that its log sent, and holds nothing any more. It asks for another at once, so it is taken away
/// from its log until the agent has waited. Called from a server event, in which nothing can be subscribed to.
pub fn copy_failed(module: &mut Module) {
    if follow_settings::owner() != Owner::Log || !module.role.may_follow() {
        return;
    }
    module.shared.send(Task::StopFollowing);
    // A node that refuses its clients for another reason keeps on doing so.
    if matches!(module.role, Role::Attaching | Role::Follower) {
        role_changes::stop_serving(module, Role::Attaching);
        module.tell_agent(Command::CopyFailed);
    }
}

/// From now on nobody is served, and this node does not lead. The server is taken out of the log's history, so that nothing that it holds is
/// taken for that later, neither by itself nor from what it saves.
pub fn pass_over(module: &mut Module, passed_over: PassedOver) {
    if !matches!(module.role, Role::Attaching | Role::Follower) {
        // It refuses its clients for another reason. What it holds is not to be used then either.
        return module.shared.send(Task::StopFollowing);
    }
    let why = passed_over.to_string();
    log_warning(format!("durability: {why}"));
    role_changes::stop_serving(module, Role::Refused(why));
    module.end_read_pause();
    module.shared.send(Task::StopFollowing);
    module.tell_agent(Command::PassedOver(passed_over));
}

/// The name by which the server knows the command, or else the one in the stream.
fn name_of(result: &CommandResult) -> String {
    result.name().unwrap_or_else(|| {
        let name = result.texts().next().unwrap_or_default();
        let name = &name[..name.len().min(decode::MAX_NAME_BYTES)];
        name.to_ascii_lowercase().escape_ascii().to_string()
    })
}

/// The error with which the command was refused before it ran, without the command's arguments, which are data.
fn why_refused(result: &CommandResult) -> Why {
    result.refusal().map_or(Why::Failed, |error| Why::Refused(shown(error)))
}

/// One line, not too long, without the arguments with which an unknown command began.
fn shown(error: &[u8]) -> String {
    let text = String::from_utf8_lossy(error);
    let text = text.split_once(", with args").map_or(&*text, |(text, _)| text);
    let text = text.trim().trim_start_matches('-');
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_in_one_line_without_data() {
        assert_eq!(shown(b"-OOM command not allowed.\r\n"), "OOM command not allowed.");
        assert_eq!(shown(b"unknown command 'x', with args beginning with: 'secret' "), "unknown command 'x'");
        assert_eq!(shown(b"a\nb"), "a b");
    }
}
