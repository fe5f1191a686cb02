//! The server's replication stream, between commands. Main thread only, and never within a command or a server event: what is put into
//! the stream there would end up in the middle of what the server does.

use valkey_module::Context;

use crate::server::api;
use crate::server::internals::Internals;

/// Whether words that the module puts into the stream get there: the server is a primary, and nothing is paused.
pub fn takes_words(ctx: &Context) -> bool {
    let actions = ctx.server_info("clients").field("paused_actions").map(|actions| actions.to_string_lossy());
    actions.is_some_and(|actions| actions == "none") && !api::is_replica(ctx)
}

/// Whether the server keeps its stream, as it does from its first replica on; `None` if it does not say.
pub fn is_kept(ctx: &Context) -> Option<bool> {
    Some(ctx.server_info("replication").field("repl_backlog_active")?.to_string_lossy() == "1")
}

/// Has the server keep its stream from now on, as it does from its first replica on. Nothing happens if it does so already. Returns whether
/// the stream is new.
pub fn start(ctx: &Context, internals: &Internals) -> bool {
    let is_new = is_kept(ctx) == Some(false);
    if is_new {
        // SAFETY: the server keeps none, as it just said.
        unsafe { internals.start_replication_backlog() };
    }
    is_new
}

/// Puts a command without effect (PING) into the stream. Returns whether it got there.
pub fn put_ping(ctx: &Context, internals: &Internals) -> bool {
    let may_put = takes_words(ctx) && !api::is_within_command(ctx);
    if may_put {
        let ping = ctx.create_string("PING");
        // SAFETY: nothing runs, the stream takes words, and the string lives.
        unsafe { internals.put_into_stream(ping.inner) };
    }
    may_put
}

/// Finds out how the server tells what it will put into the stream ([`Internals::queued`]), by a command without effect (PING). The server
/// keeps its stream. Returns whether that is known now; `None` if it was not tried.
pub fn find_queue(ctx: &Context, internals: &Internals) -> Option<bool> {
    let may_put = takes_words(ctx) && !api::is_within_command(ctx);
    may_put.then(|| {
        let ping = ctx.create_string("PING");
        // SAFETY: nothing runs, the stream takes words, and the string lives.
        unsafe { internals.find_queue(ping.inner) }
    })
}
