//! The `DURABILITY.*` commands and the section of `INFO`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use valkey_module::redisvalue::ValkeyValueKey;
use valkey_module::{CallReply, Context, InfoContext, ValkeyError, ValkeyResult, ValkeyString, ValkeyValue};

use crate::base::panic_guard::guard;
use crate::decide::known_log::Kind;
use crate::exchange::mailbox::Command;
use crate::front::info::{figures, Figure};
use crate::node::command_filter::refusal;
use crate::node::{self, Module};
use crate::server::events::InfoSection;
use crate::server::{api, support};

const HELP: [&str; 18] = [
    "DURABILITY.MODE",
    "    Show the mode: sync, async or off.",
    "DURABILITY.MODE sync|async|off",
    "    Change it. Needs the permission for CONFIG SET. CONFIG REWRITE keeps it.",
    "DURABILITY.LAG",
    "    Milliseconds since the oldest write that the log has not acknowledged ran; 0 if there is none.",
    "DURABILITY.LAG HISTORY",
    "    The greatest lag of each of the last 600 seconds, oldest first: pairs of a Unix time and milliseconds.",
    "DURABILITY.STATUS",
    "    Everything the module knows of itself, as a map. The same figures stand in INFO durability.",
    "DURABILITY.FAILOVER [TO node-id] [TIMEOUT milliseconds]",
    "    Hand leadership over to that node, or to the one that suits best. Answers at once; failover_error in",
    "    DURABILITY.STATUS says why it did not come about.",
    "DURABILITY.ACCEPT-LOG log-id [SEED]",
    "    On a node that refuses its log as another one, as an older copy, or as one that it did not follow: that log is right. Its",
    "    data take the place of this node's; with SEED it starts anew from this node's data.",
    "DURABILITY.HELP",
    "    Show this text.",
];

pub(crate) fn on_module(what: &str, work: impl FnOnce(&mut Module) -> ValkeyValue) -> ValkeyResult {
    guard(what, None, || node::with(work)).ok_or(ValkeyError::Str("ERR the durability module is not running"))
}

fn no_arguments(arguments: &[ValkeyString]) -> Result<(), ValkeyError> {
    if arguments.len() == 1 {
        Ok(())
    } else {
        Err(ValkeyError::WrongArity)
    }
}

/// `DURABILITY.MODE [sync|async|off]`
pub fn mode(ctx: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    match &arguments[..] {
        [_] => on_module("showing the mode", |module| ValkeyValue::SimpleString(module.mode.name().to_owned())),
        [_, mode] => {
            let mode = mode.try_as_str()?.to_ascii_lowercase();
            if !api::may_run(ctx, &["config", "set", "durability.mode", &mode]) {
                // If CONFIG was renamed, permissions are not the reason.
                return Err(support::why_the_log_is_impossible(ctx).map_or(
                    ValkeyError::Str("NOPERM changing the mode needs the permission to run CONFIG SET"),
                    |why| ValkeyError::String(format!("ERR {why}")),
                ));
            }
            // The module is not borrowed here: the server calls back into its configuration.
            match api::call(ctx, "CONFIG", &["SET", "durability.mode", &mode]) {
                Ok(CallReply::String(_)) => Ok(ValkeyValue::SimpleStringStatic("OK")),
                Ok(_) => Err(ValkeyError::Str("ERR CONFIG SET gave no status")),
                Err(error) => Err(ValkeyError::String(error)),
            }
        }
        _ => Err(ValkeyError::WrongArity),
    }
}

/// `DURABILITY.LAG [HISTORY]`
pub fn lag(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    match &arguments[..] {
        [_] => on_module("showing the lag", |module| ValkeyValue::Integer(module.behind().lag.as_millis() as i64)),
        [_, what] if what.as_slice().eq_ignore_ascii_case(b"history") => on_module("showing the lag", |module| {
            module.behind();
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let pair = |(age_s, lag_ms): (u64, u32)| {
                ValkeyValue::Array(vec![
                    ValkeyValue::Integer(now_s.saturating_sub(age_s) as i64),
                    ValkeyValue::Integer(i64::from(lag_ms)),
                ])
            };
            ValkeyValue::Array(module.limits.writes.history().maxima().map(pair).collect())
        }),
        [_, _] => Err(ValkeyError::Str("ERR usage: DURABILITY.LAG [HISTORY]")),
        _ => Err(ValkeyError::WrongArity),
    }
}

/// `DURABILITY.STATUS`
pub fn status(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    no_arguments(&arguments)?;
    on_module("showing the status", |module| {
        let entries = figures(module).into_iter().map(|(name, figure)| {
            let value = match figure {
                Figure::Number(number) => ValkeyValue::Integer(number),
                Figure::Text(text) => ValkeyValue::BulkString(text),
            };
            (ValkeyValueKey::from(name), value)
        });
        ValkeyValue::OrderedMap(entries.collect::<BTreeMap<_, _>>())
    })
}

/// `DURABILITY.ACCEPT-LOG log-id [SEED]`
pub fn accept_log(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    let (log_id, seeds) = match &arguments[..] {
        [_, log_id] => (log_id.try_as_str()?, false),
        [_, log_id, seed] if seed.as_slice().eq_ignore_ascii_case(b"seed") => (log_id.try_as_str()?, true),
        [_, _, _] => return Err(ValkeyError::Str("ERR usage: DURABILITY.ACCEPT-LOG log-id [SEED]")),
        _ => return Err(ValkeyError::WrongArity),
    };
    let accepted = guard("accepting a log", None, || node::with(|module| begin_to_accept(module, log_id, seeds)));
    accepted.unwrap_or(Err(ValkeyError::Str("ERR the durability module is not running")))
}

fn begin_to_accept(module: &mut Module, log_id: &str, seeds: bool) -> ValkeyResult {
    let Some(contradiction) = module.shared.contradiction() else {
        return Err(ValkeyError::Str(
            "ERR nothing is to be accepted: the log does not contradict what this node knows",
        ));
    };
    // The operator has to have seen which log this is about.
    if contradiction.log_id != log_id {
        return Err(ValkeyError::String(format!("ERR the log has another id: {}", contradiction.log_id)));
    }
    if seeds && contradiction.kind == Kind::Unfollowed {
        return Err(ValkeyError::Str(
            "ERR the log cannot start anew from this node's data: others have led it since. Without SEED this node takes the log's",
        ));
    }
    module.tell_agent(Command::AcceptLog { log_id: log_id.to_owned(), keeps_own_data: seeds });
    Ok(ValkeyValue::SimpleStringStatic("OK"))
}

/// `DURABILITY.HELP`
pub fn help(_: &Context, arguments: Vec<ValkeyString>) -> ValkeyResult {
    no_arguments(&arguments)?;
    Ok(ValkeyValue::Array(HELP.iter().map(|line| ValkeyValue::SimpleStringStatic(line)).collect()))
}

/// `DURABILITY.REFUSED`: runs instead of a command that the filter refuses, and answers why.
pub fn refused(_: &Context, _: Vec<ValkeyString>) -> ValkeyResult {
    match refusal::take_next_error() {
        error if error.is_empty() => Err(ValkeyError::Str("ERR this command is for the durability module itself")),
        error => Err(ValkeyError::String(error)),
    }
}

fn section(ctx: &InfoContext, figures: Vec<(&'static str, Figure)>) -> Result<(), ValkeyError> {
    let mut section = ctx.builder().add_section("");
    for (name, figure) in figures {
        section = match figure {
            Figure::Number(number) => section.field(name, number.to_string())?,
            Figure::Text(text) => section.field(name, text)?,
        };
    }
    section.build_section()?.build_info().map(drop)
}

/// The section of `INFO`.
pub struct Section;

impl InfoSection for Section {
    fn show(ctx: &InfoContext) {
        let Some(figures) = node::with(figures) else { return };
        // The section has the module's name. An error means that the client asked for other sections only.
        let _ = section(ctx, figures);
    }
}
