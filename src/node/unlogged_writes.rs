//! What is written and not in the log. Main thread only.

use std::time::Instant;

use valkey_module::logging::log_warning;

use crate::decide::unlogged::{Unlogged, UnloggedWrites};

/// What this node wrote that did not go to the log.
#[derive(Default)]
pub struct NotLogged {
    /// The last time during which writes were not sent to the log.
    pub time: Unlogged,
    /// Writes that were found not to be in the stream.
    pub writes: UnloggedWrites,
}

impl NotLogged {
    /// The command of that name, or a module on its own account if the name is empty, wrote what is not in the stream. Counts it, and logs
    /// it at most once a minute.
    pub fn found(&mut self, command: &str) {
        if self.writes.found(command, Instant::now()) {
            let who = if command.is_empty() { "a module, on its own account," } else { command };
            log_warning(format!(
                "durability: {who} wrote without replicating it, so what it wrote is not in the log: the log starts anew from \
                 this node's data ({} such writes so far, logged once a minute)",
                self.writes.count
            ));
        }
    }

    /// Another module has put the command of that name into the stream, which no leader may log. Counts it, and logs it at most once a minute.
    pub fn found_unfit(&mut self, command: &str) {
        if self.writes.found(command, Instant::now()) {
            log_warning(format!(
                "durability: another module has replicated '{command}', which no node would take from its log, so the log does not get \
                 it, and starts anew from this node's data ({} unlogged writes so far, logged once a minute)",
                self.writes.count
            ));
        }
    }
}
