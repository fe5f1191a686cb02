//! Which commands the server of a leader puts into its replication stream, and so into the log. What comes out of the log is
//! applied only if it is one of these: whoever has a token of the shard can append anything.

/// What a command is, where it stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// A leader may have put it there.
    Yes,
    /// A leader may have, if the first argument is `GETACK`.
    Getack,
    /// That depends on the subcommand, which has a full name of its own.
    BySubcommand,
    /// No leader puts it there.
    Never,
}

/// The one use of `REPLCONF` in the stream.
const GETACK: &str = "GETACK";

/// Judges the command with that full name (`function|load`), in lower case, by the flags that the server's `COMMAND` tells of it.
/// `is_container`: it has subcommands.
///
/// A server puts into the stream what wrote (flag `write`; `MIGRATE` becomes a `DEL` there), messages, and words of its own. Scripts
/// are never there: what they call is. Of those that only read, `PFCOUNT` is there when it keeps its result, and any is if another
/// module wrote as it heard of what the command did. What a module replicates of its own commands need not be registered as a write.
pub fn is_logged(name: &str, is_container: bool, has: impl Fn(&str) -> bool) -> Logged {
    match name {
        // Messages are there because the server says so of these two, in no flag that it tells.
        "ping" | "select" | "multi" | "exec" | "publish" | "spublish" => return Logged::Yes,
        "replconf" => return Logged::Getack,
        "migrate" => return Logged::Never,
        _ if is_container => return Logged::BySubcommand,
        // Of the durability module's own commands none is there. Nodes of a cluster have no log.
        _ if name.starts_with("durability.") || name.starts_with("cluster|") => return Logged::Never,
        _ if has("write") => return Logged::Yes,
        _ => {}
    }
    // That scripts may not call a module's command says nothing about who replicates it.
    let is_taken = has("module") || (has("readonly") && !has("noscript"));
    if is_taken && !has("admin") {
        Logged::Yes
    } else {
        Logged::Never
    }
}

/// What becomes of a command that comes out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It is applied, whatever its arguments are.
    Always,
    /// It is applied.
    Taken,
    /// No leader can have logged the command with that full name.
    NotLogged(String),
    /// The server that is to apply it tells of no command with that full name.
    Unknown(String),
}

/// So much of a name is told: all of it, as long as it is one.
const SHOWN_NAME_BYTES: usize = 64;

/// Judges a command by its name, in lower case, and its first argument (empty if it has none). `find` tells what [`is_logged`] says of
/// the command with that full name.
pub fn judge(name: &str, first: &[u8], find: impl Fn(&str) -> Option<Logged>) -> Judged {
    match find(name) {
        Some(Logged::Yes) => Judged::Always,
        Some(Logged::Getack) if first.eq_ignore_ascii_case(GETACK.as_bytes()) => Judged::Taken,
        Some(Logged::Getack | Logged::Never) => Judged::NotLogged(name.to_owned()),
        Some(Logged::BySubcommand) => {
            let shown = &first[..first.len().min(SHOWN_NAME_BYTES)];
            let full_name = format!("{name}|{}", shown.escape_ascii()).to_ascii_lowercase();
            match find(&full_name) {
                Some(Logged::Yes) => Judged::Taken,
                Some(_) => Judged::NotLogged(full_name),
                None => Judged::Unknown(full_name),
            }
        }
        None => Judged::Unknown(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, flags: &[&str]) -> Logged {
        is_logged(name, false, |flag| flags.contains(&flag))
    }

    #[test]
    fn what_a_leader_puts_into_its_stream_is_taken() {
        for (name, flags) in [
            ("set", &["write", "denyoom"][..]),
            ("flushall", &["write"]),
            ("function|load", &["noscript", "write", "denyoom"]),
            ("pfdebug", &["write", "denyoom", "admin"]),
            ("publish", &["pubsub", "loading", "stale", "fast"]),
            ("pfcount", &["readonly"]),
            ("get", &["readonly", "fast"]),
            ("multi", &["noscript", "loading"]),
            ("exec", &["noscript", "loading"]),
            ("ping", &["fast"]),
            ("select", &["loading"]),
            ("x.set", &["write", "module"]),
            ("x.replicates", &["module"]),
            ("x.not-in-scripts", &["module", "noscript"]),
            ("x.reads", &["module", "readonly", "noscript"]),
        ] {
            assert_eq!(judged(name, flags), Logged::Yes, "{name}");
        }
        assert_eq!(judged("replconf", &["admin", "noscript"]), Logged::Getack);
        assert_eq!(is_logged("function", true, |_| false), Logged::BySubcommand);
    }

    #[test]
    fn anything_else_is_not() {
        for (name, flags) in [
            ("config|set", &["admin", "noscript", "loading", "stale"][..]),
            ("acl|setuser", &["admin", "noscript"]),
            ("replicaof", &["admin", "noscript", "stale"]),
            ("debug", &["admin", "noscript", "loading", "stale", "protected"]),
            ("migrate", &["write", "movablekeys"]),
            ("eval", &["noscript", "stale"]),
            ("eval_ro", &["noscript", "readonly"]),
            ("fcall", &["noscript"]),
            ("script|flush", &["noscript", "stale"]),
            ("client|kill", &["admin", "noscript"]),
            ("subscribe", &["pubsub", "noscript"]),
            ("discard", &["noscript", "fast"]),
            ("cluster|setslot", &["admin"]),
            ("cluster|flushslot", &["write", "admin"]),
            ("x.admin", &["module", "admin"]),
            ("x.admin-not-in-scripts", &["module", "admin", "noscript"]),
            ("durability.failover", &["module", "write"]),
        ] {
            assert_eq!(judged(name, flags), Logged::Never, "{name}");
        }
    }

    #[test]
    fn a_command_is_judged_by_its_full_name_in_any_case() {
        let find = |name: &str| match name {
            "set" | "function|load" => Some(Logged::Yes),
            "function" | "config" => Some(Logged::BySubcommand),
            "replconf" => Some(Logged::Getack),
            "debug" | "config|set" => Some(Logged::Never),
            _ => None,
        };
        let judged = |command: &str| {
            let (name, first) = command.split_once(' ').unwrap_or((command, ""));
            judge(name, first.as_bytes(), find)
        };
        assert_eq!(judged("set k"), Judged::Always);
        for command in ["function LOAD", "replconf getack", "replconf GETACK"] {
            assert_eq!(judged(command), Judged::Taken, "{command}");
        }
        let cases = [
            ("debug SLEEP", "debug"),
            ("config SET", "config|set"),
            ("replconf ack", "replconf"),
            ("replconf", "replconf"),
        ];
        for (command, name) in cases {
            assert_eq!(judged(command), Judged::NotLogged(name.to_owned()), "{command}");
        }
        for (command, name) in [("nosuch", "nosuch"), ("config", "config|"), ("function \nx", "function|\\nx")] {
            assert_eq!(judged(command), Judged::Unknown(name.to_owned()), "{command}");
        }
    }
}
