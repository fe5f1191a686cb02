//! What the server says of itself, by its commands and by the context.

use std::cell::Cell;

use valkey_module::{CallOptionsBuilder, CallReply, CallResult, Context, ContextFlags};

use crate::server::internals::Internals;

thread_local! {
    static IS_CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the command that runs is one of this module's own.
pub fn is_calling() -> bool {
    IS_CALLING.get()
}

/// Runs a command.
///
/// # Errors
/// The error reply.
pub fn call(ctx: &Context, command: &str, arguments: &[&str]) -> Result<CallReply<'static>, String> {
    let options = CallOptionsBuilder::new().errors_as_replies().build();
    let was_calling = IS_CALLING.replace(true);
    let result: CallResult<'static> = ctx.call_ext(command, &options, arguments);
    IS_CALLING.set(was_calling);
    result.map_err(|error| error.to_utf8_string().unwrap_or_else(|| "an error that is no text".to_owned()))
}

/// The value of a config of the server; empty if it has none.
pub fn config(ctx: &Context, name: &str) -> String {
    match call(ctx, "CONFIG", &["GET", name]) {
        Ok(CallReply::Array(pair)) => match pair.get(1) {
            Some(Ok(CallReply::String(value))) => value.to_string().unwrap_or_default(),
            _ => String::new(),
        },
        Ok(CallReply::Map(map)) => match map.get(0) {
            Some((_, Ok(CallReply::String(value)))) => value.to_string().unwrap_or_default(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Names and values of those of these configs that the server has.
pub fn configs(ctx: &Context, names: &[&str]) -> Vec<(String, String)> {
    let text = |reply: Option<CallResult>| match reply {
        Some(Ok(CallReply::String(text))) => text.to_string(),
        _ => None,
    };
    let arguments: Vec<&str> = ["GET"].iter().chain(names).copied().collect();
    match call(ctx, "CONFIG", &arguments) {
        Ok(CallReply::Array(pairs)) => (0..pairs.len())
            .step_by(2)
            .filter_map(|at| Some((text(pairs.get(at))?, text(pairs.get(at + 1))?)))
            .collect(),
        Ok(CallReply::Map(pairs)) => {
            pairs.iter().filter_map(|(name, value)| Some((text(Some(name))?, text(Some(value))?))).collect()
        }
        _ => Vec::new(),
    }
}

/// The names of the modules that are loaded. `None` if the server does not say: its MODULE LIST is renamed.
pub fn modules(ctx: &Context) -> Option<Vec<String>> {
    let CallReply::Array(modules) = call(ctx, "MODULE", &["LIST"]).ok()? else { return None };
    let text = |reply: Option<CallResult>| match reply {
        Some(Ok(CallReply::String(text))) => text.to_string(),
        _ => None,
    };
    let name = |module| match module {
        // Names and values in turn.
        CallReply::Array(fields) => {
            let at = (0..fields.len()).step_by(2).find(|at| text(fields.get(*at)).as_deref() == Some("name"))?;
            text(fields.get(at + 1))
        }
        CallReply::Map(fields) => fields
            .iter()
            .find_map(|(key, value)| (text(Some(key)).as_deref() == Some("name")).then(|| text(Some(value)))?),
        _ => None,
    };
    modules.iter().map(|module| name(module.ok()?)).collect()
}

/// The reply to `ROLE`.
pub struct Role {
    /// On a primary the end of the stream; on a replica the end of what was applied. Exclusive.
    pub offset: u64,
    /// Whether this is a replica whose link to its primary is up.
    pub is_connected_replica: bool,
}

/// Asks `ROLE`. `None` if the reply has no form that is known.
pub fn role(ctx: &Context) -> Option<Role> {
    let reply = call(ctx, "ROLE", &[]).ok()?;
    let CallReply::Array(fields) = reply else { return None };
    let offset_index = if fields.len() == 5 { 4 } else { 1 };
    let offset = match fields.get(offset_index) {
        Some(Ok(CallReply::I64(offset))) => u64::try_from(offset.to_i64()).ok()?,
        _ => return None,
    };
    let state = match fields.get(3) {
        Some(Ok(CallReply::String(state))) => state.to_string(),
        _ => None,
    };
    Some(Role { offset, is_connected_replica: state.as_deref() == Some("connected") })
}

/// The end of the replication stream, in bytes.
pub fn replication_offset(ctx: &Context) -> u64 {
    match Internals::get() {
        Ok(internals) => internals.replication_offset(),
        Err(_) => role(ctx).map_or(0, |role| role.offset),
    }
}

/// Whether the server is a replica, whatever the state of its link.
pub fn is_replica(ctx: &Context) -> bool {
    ctx.get_flags().contains(ContextFlags::SLAVE)
}

/// Whether the server takes in events in the middle of something: it loads data, a script is slow, or another module's command lets it go
/// on meanwhile (`RM_Yield`). Nothing may change then that a command can see. A server whose internals are not known does not tell the last.
pub fn is_within_command(ctx: &Context) -> bool {
    ctx.get_flags().intersects(ContextFlags::LOADING | ContextFlags::LUA)
        || Internals::get().is_ok_and(Internals::is_within_command)
}
