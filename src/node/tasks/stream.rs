//! The server's replication stream: where it stands, and how it moves on. Main thread, outside of any command and of any server event.

use valkey_module::logging::log_notice;
use valkey_module::{CallOptionsBuilder, CallResult, Context};

use crate::exchange::mailbox::Position;
use crate::node::left_log::StreamPosition;
use crate::node::{self, listening, Module, Role};
use crate::server::internals::Internals;
use crate::server::{api, stream, support};

/// The server's replication id, and the end of its stream (exclusive).
pub fn position(ctx: &Context) -> Position {
    let info = ctx.server_info("replication");
    let replid = info.field("master_replid").map(|id| id.to_string_lossy()).unwrap_or_default();
    if !durability_protocol::is_valid_replid(&replid) {
        return Err(format!("the server shows no replication id in INFO ('{replid}')"));
    }
    Ok((replid, api::replication_offset(ctx)))
}

/// Where the server's stream ends, if it keeps one: whatever the server writes then moves the end on, or ends the stream of that replication
/// id.
pub fn kept_position(ctx: &Context) -> Option<StreamPosition> {
    let is_kept = stream::is_kept(ctx)?;
    position(ctx).ok().filter(|_| is_kept && !api::is_replica(ctx))
}

/// Has the server keep its stream from `offset` on. A server that never had a replica counts no offsets yet. It starts where a log starts
/// that holds nothing, so the two agree already, and neither a full sync nor a fork is needed.
pub fn start(ctx: &Context, offset: u64) -> Option<StreamPosition> {
    let internals = Internals::get().ok()?;
    let is_attaching = node::with(|module| module.role == Role::Attaching) == Some(true);
    let may_start = is_attaching && !api::is_replica(ctx) && api::replication_offset(ctx) == offset;
    (may_start && stream::start(ctx, internals)).then(|| position(ctx).ok())?
}

/// Where other modules have commands, and this node leads: has this module told about each command, and finds out how the server tells what
/// is put into the stream.
pub fn watch_modules(ctx: &Context) {
    let wants =
        |module: &mut Module| module.role == Role::Leader && module.gate.is_some() && module.commands.has_others();
    let (Some(true), Ok(internals)) = (node::with(wants), Internals::get()) else { return };
    if stream::find_queue(ctx, internals) == Some(false) {
        log_notice(
            "durability: what modules write past the stream is found only where nothing else is written meanwhile",
        );
    }
    node::with(listening::watch_commands);
}

/// Moves the stream on by a command without effect, and returns its end. The command is a PING where the server's internals are known, or
/// else what [`advance`] writes.
pub fn mark(ctx: &Context) -> Result<u64, String> {
    if !stream::takes_words(ctx) {
        return Err("the server's stream cannot be moved on: clients are paused, or it is a replica".to_owned());
    }
    let before = api::replication_offset(ctx);
    match Internals::get() {
        Ok(internals) if support::why_sync_is_impossible().is_none() => {
            stream::put_ping(ctx, internals);
        }
        _ => advance(ctx, before + 1)?,
    }
    Ok(api::replication_offset(ctx))
}

/// Writes and deletes a key of the module's own until the stream is that long.
pub fn advance(ctx: &Context, end: u64) -> Result<(), String> {
    const KEY: &str = "durability:padding";
    const STEP_BYTES: u64 = 1 << 20;
    let options = CallOptionsBuilder::new().replicate().errors_as_replies().build();
    let run = |command: &str, arguments: &[&str]| {
        let result: CallResult = ctx.call_ext(command, &options, arguments);
        result.map(drop).map_err(|error| error.to_utf8_string().unwrap_or_default())
    };
    loop {
        let offset = api::replication_offset(ctx);
        if offset >= end {
            return Ok(());
        }
        let padding = "0".repeat((end - offset).min(STEP_BYTES) as usize);
        run("SET", &[KEY, &padding])?;
        run("DEL", &[KEY])?;
        if api::replication_offset(ctx) == offset {
            return Err("the replication stream does not move".to_owned());
        }
    }
}
