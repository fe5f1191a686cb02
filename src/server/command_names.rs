//! Names of commands that must not be changed: the stream holds commands by the names that this server has for them, and every node that
//! applies it, this module included, knows only the original ones.

use std::sync::OnceLock;

use valkey_module::{CallReply, Context};

use crate::server::api;

/// Commands of the stream that change no data.
const IN_STREAM: [&str; 8] = ["select", "multi", "exec", "publish", "spublish", "pfcount", "ping", "replconf"];

/// What the module itself runs, on the server or by a connection of its own. Commands by which audits read are not among them: an audit
/// reports what it lacks.
const NEEDED: [&str; 12] =
    ["acl", "auth", "client", "command", "config", "dump", "info", "psync", "replicaof", "role", "xpending", "xrange"];

/// Why this server can have no log; found out once, as names do not change while it runs.
static WHY_IMPOSSIBLE: OnceLock<Option<String>> = OnceLock::new();

/// Why the names of this server's commands allow no log; `None` if they do. Main thread, while the module loads or later.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    WHY_IMPOSSIBLE
        .get_or_init(|| match renamed(ctx) {
            Ok(renamed) => why_impossible(&renamed),
            Err(why) => Some(why),
        })
        .clone()
}

/// The commands, in alphabetical order, that `rename-command` has given another name or removed although they need their own.
///
/// # Errors
/// The server does not say what its commands are.
fn renamed(ctx: &Context) -> Result<Vec<String>, String> {
    let mut wanted: Vec<String> = IN_STREAM.iter().chain(&NEEDED).map(|name| (*name).to_owned()).collect();
    // Names as they were before anything was renamed, of subcommands as well.
    match api::call(ctx, "ACL", &["CAT", "write"]) {
        Ok(CallReply::Array(names)) => {
            wanted
                .extend(names.iter().flatten().filter_map(|name| text(&name)).map(|name| top_level(&name).to_owned()));
        }
        Ok(_) => return Err("the server's answer to ACL CAT has an unknown form".to_owned()),
        // ACL itself is renamed.
        Err(_) => return Ok(vec!["acl".to_owned()]),
    }
    wanted.sort_unstable();
    wanted.dedup();
    let question: Vec<&str> = std::iter::once("INFO").chain(wanted.iter().map(String::as_str)).collect();
    let Ok(CallReply::Array(found)) = api::call(ctx, "COMMAND", &question) else {
        return Ok(vec!["command".to_owned()]);
    };
    let found: Vec<Option<String>> = found.iter().map(|entry| entry.ok().and_then(|entry| own_name(&entry))).collect();
    if found.len() != wanted.len() {
        return Err("the server's answer to COMMAND INFO has an unknown form".to_owned());
    }
    // A command may go by the name of another.
    let is_itself = |(wanted, found): &(String, Option<String>)| found.as_ref() == Some(wanted);
    Ok(wanted.into_iter().zip(found).filter(|pair| !is_itself(pair)).map(|(wanted, _)| wanted).collect())
}

/// The name under which a command can be renamed: for a subcommand, that of its container.
fn top_level(name: &str) -> &str {
    name.split_once('|').map_or(name, |(container, _)| container)
}

/// What an entry of `COMMAND INFO` says is the command's own name; `None` if there is no command.
fn own_name(entry: &CallReply) -> Option<String> {
    let CallReply::Array(fields) = entry else { return None };
    fields.get(0)?.ok().as_ref().and_then(text)
}

fn text(reply: &CallReply) -> Option<String> {
    match reply {
        CallReply::String(string) => string.to_string().map(|name| name.to_ascii_lowercase()),
        _ => None,
    }
}

/// What to tell the operator.
fn why_impossible(renamed: &[String]) -> Option<String> {
    let (first, rest) = renamed.split_first()?;
    let others = match rest.len() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = first.to_ascii_uppercase();
    Some(format!(
        "rename-command has renamed or disabled {first}{others}: a log is Valkey's replication stream, which no other node, snapshot \
         or restore could apply without that name; remove the line from valkey.conf and use ACLs instead, or set \
         durability.mode off"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subcommand_counts_as_its_container() {
        assert_eq!(top_level("function|load"), "function");
        assert_eq!(top_level("set"), "set");
    }

    #[test]
    fn the_operator_is_told_which_command() {
        assert_eq!(why_impossible(&[]), None);
        let why = why_impossible(&["flushall".to_owned(), "set".to_owned()]).expect("a reason");
        assert!(why.contains("FLUSHALL (and 1 more)"), "{why}");
    }
}
