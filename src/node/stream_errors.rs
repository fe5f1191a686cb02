//! Notices what a node had to pass over of the stream that it follows, and that it could not load a full copy. Main thread.

use std::ffi::CStr;

use valkey_module::logging::log_warning;

use crate::exchange::passed_over::{PassedOver, Why};
use crate::exchange::{Command, Task};
use crate::node::{command_filter, Module, Role};
use crate::server::api;
use crate::server::follow_settings::{self, Owner};
use crate::server::internals::CommandResult;

/// So much of an error is shown.
const MAX_WHY_BYTES: usize = 128;

impl Role {
    /// Whether the server may be a replica of the log.
    pub fn may_follow(&self) -> bool {
        matches!(self, Role::Attaching | Role::Follower | Role::Refused(_))
    }
}

impl Module {
    /// A command failed, or was refused before it ran. Called from a server event, in which nothing can be subscribed to.
    ///
    /// These events tell of every error that a command of the stream can end with: the server lets no command of its primary block, so
    /// none fails later.
    pub fn failed_while_following(&mut self, result: &CommandResult) {
        // What another command called is for that one to judge.
        if result.is_module_client != 0 || !self.role.may_follow() || follow_settings::owner() != Owner::Log {
            return;
        }
        if !command_filter::is_last_primary(result.client_id) && !api::is_connected_primary(result.client_id) {
            return;
        }
        self.pass_over(PassedOver {
            offset: api::replication_offset(&self.ctx),
            command: name_of(result),
            why: why_refused(result),
        });
    }

    /// The server could not load the full copy that its log sent, and holds nothing any more. It asks for another at once, so it is
    /// taken away from its log until the agent has waited. Called from a server event, in which nothing can be subscribed to.
    pub fn copy_failed(&mut self) {
        if follow_settings::owner() != Owner::Log || !self.role.may_follow() {
            return;
        }
        self.shared.send(Task::StopFollowing);
        // One that refuses for another reason goes on doing so.
        if matches!(self.role, Role::Attaching | Role::Follower) {
            self.stop_serving(Role::Attaching);
            self.tell_agent(Command::CopyFailed);
        }
    }

    /// From now on nobody is served, and this node does not lead. The server is taken out of the log's history, so that nothing of what
    /// it holds is taken for that later, by itself or from what it saves.
    pub fn pass_over(&mut self, passed_over: PassedOver) {
        if !matches!(self.role, Role::Attaching | Role::Follower) {
            // It refuses for another reason. What it holds is not to be used then either.
            return self.shared.send(Task::StopFollowing);
        }
        let why = passed_over.to_string();
        log_warning(format!("durability: {why}"));
        self.stop_serving(Role::Refused(why));
        self.end_settling();
        self.shared.send(Task::StopFollowing);
        self.tell_agent(Command::PassedOver(passed_over));
    }
}

/// As the server calls it, or as it stands in the stream if the server does not know it.
fn name_of(result: &CommandResult) -> String {
    if !result.command_name.is_null() {
        // SAFETY: the server's own name of the command.
        return unsafe { CStr::from_ptr(result.command_name) }.to_string_lossy().into_owned();
    }
    if result.argc < 1 {
        return String::new();
    }
    // SAFETY: the server's own arguments, of which there is one, as they were passed to the event's callback.
    let name = unsafe { api::bytes(*result.argv) };
    let name = &name[..name.len().min(command_filter::MAX_NAME_BYTES)];
    name.to_ascii_lowercase().escape_ascii().to_string()
}

/// The error with which it was refused before it ran. Without what the command was given, which is data.
fn why_refused(result: &CommandResult) -> Why {
    if result.rejection_context.is_null() {
        return Why::Failed;
    }
    // SAFETY: the server's error, a C string that lives during the event's callback.
    let error = unsafe { CStr::from_ptr(result.rejection_context) }.to_bytes();
    Why::Refused(shown(error))
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
