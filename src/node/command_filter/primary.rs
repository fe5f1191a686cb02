//! Commands that come from the server's primary, which are not refused, and commands that those call. Main thread only.

use std::cell::Cell;

use valkey_module::CommandFilterCtx;

use crate::decide::gate::ClientId;
use crate::node;
use crate::node::command_filter::decode::properties_of;
use crate::server::api;

thread_local! {
    static LAST_PRIMARY: Cell<ClientId> = const { Cell::new(0) };
    /// Of the stream that this node follows.
    static STREAM: Cell<StreamCalls> = const { Cell::new(StreamCalls::new()) };
}

/// Forgets the primary of an earlier life of the module.
pub fn forget_all() {
    LAST_PRIMARY.set(0);
    STREAM.set(StreamCalls::new());
}

/// Whether that client is the primary that the filter saw last.
#[inline]
pub fn is_last_primary(client: ClientId) -> bool {
    LAST_PRIMARY.get() == client
}

/// Notes the command of a client, if the server says that the client is its primary (`is_primary`). Returns `is_primary`.
pub fn note(command: &CommandFilterCtx, name: &str, is_primary: bool) -> bool {
    if is_primary {
        LAST_PRIMARY.set(command.get_client_id());
        STREAM.set(StreamCalls::new());
        note_stream_command(name, command);
    }
    is_primary
}

/// A command of the stream comes. Notes whether it, or the transaction that it belongs to, may call others.
pub fn note_stream_command(name: &str, command: &CommandFilterCtx) {
    let mut stream = STREAM.get();
    match name {
        "multi" => stream.begin(),
        "exec" => stream.execute(),
        _ => {
            // Only a module's commands do: the stream holds what scripts did, not scripts.
            let calls_others = node::with(|module| {
                module.commands.has_others() && properties_of(module, name, command).calls_others()
            });
            stream.note(calls_others.unwrap_or(true));
        }
    }
    STREAM.set(stream);
}

/// Whether the command that runs is called by a command of the stream, or of the AOF that the server loads, so that it has to run as well.
/// This does not include what another module does of its own accord as it hears of the stream's changes: the module of the node that leads
/// does the same, so that is in the stream.
pub fn is_called_by_stream(client: ClientId) -> bool {
    let found = node::with(|module| {
        api::loads_for_module(&module.ctx, client) || STREAM.get().may_call && api::executes_for_primary(&module.ctx)
    });
    found == Some(true)
}

/// Whether the commands of the stream that run may call others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamCalls {
    /// What runs may.
    may_call: bool,
    /// What was queued since MULTI may; none outside of a transaction.
    queued: Option<bool>,
}

impl StreamCalls {
    /// The link to the primary is new. What it sent before may not have been noted.
    const fn new() -> Self {
        StreamCalls { may_call: true, queued: None }
    }

    fn begin(&mut self) {
        *self = StreamCalls { may_call: false, queued: Some(false) };
    }

    fn execute(&mut self) {
        *self = StreamCalls { may_call: self.queued.unwrap_or(true), queued: None };
    }

    fn note(&mut self, calls_others: bool) {
        match &mut self.queued {
            Some(queued) => *queued |= calls_others,
            None => self.may_call = calls_others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transaction_calls_follows_from_what_was_queued() {
        let mut stream = StreamCalls::new();
        stream.note(false);
        assert!(!stream.may_call);
        stream.note(true);
        assert!(stream.may_call);
        stream.begin();
        stream.note(true);
        stream.note(false);
        assert!(!stream.may_call, "nothing runs yet");
        stream.execute();
        assert!(stream.may_call);
        stream.begin();
        stream.note(false);
        stream.execute();
        assert!(!stream.may_call);
        stream.execute();
        assert!(stream.may_call, "what was queued is not known");
    }
}
