//! Which commands a leader's server puts into its replication stream, and so into the log. Other commands in the log are not applied, as
//! anyone with a token of the shard can append anything.

/// Whether a leader may have put a command into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// It may have.
    Yes,
    /// It may have if the first argument is `GETACK`.
    Getack,
    /// It depends on the subcommand, which has a full name of its own.
    BySubcommand,
    /// It never does.
    Never,
}

/// The only use of `REPLCONF` in the stream.
const GETACK: &str = "GETACK";

/// Judges the command with that full name (`function|load`), in lower case, by its flags in the server's reply to `COMMAND`. `is_container`:
/// it has subcommands.
///
/// A server puts into the stream commands that wrote (flag `write`; `MIGRATE` becomes a `DEL`), messages, and commands of its own. It never
/// puts scripts there, but what they call. A command that only reads is there if it is `PFCOUNT` and stores its result, or if a module wrote
/// when it was notified of the command. What a module replicates of its own commands need not be registered as a write.
pub fn is_logged(name: &str, is_container: bool, has: impl Fn(&str) -> bool) -> Logged {
    match name {
        // The server replicates these two messages, which no flag shows.
        "ping" | "select" | "multi" | "exec" | "publish" | "spublish" => return Logged::Yes,
        "replconf" => return Logged::Getack,
        "migrate" => return Logged::Never,
        _ if is_container => return Logged::BySubcommand,
        // The durability module's own commands are never there. Nor are those of a cluster, but for `CLUSTER SYNCSLOTS` where slots come to a
        // shard: nodes of a cluster and engines know that one, and do nothing for it.
        _ if name.starts_with("durability.") || name.starts_with("cluster|") => return Logged::Never,
        _ if has("write") => return Logged::Yes,
        _ => {}
    }
    // A module may replicate its commands even if scripts may not call them.
    let is_taken = has("module") || (has("readonly") && !has("noscript"));
    if is_taken && !has("admin") {
        Logged::Yes
    } else {
        Logged::Never
    }
}

/// How to treat a command that comes out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// Apply it, whatever its arguments are.
    Always,
    /// Apply it.
    Taken,
    /// No leader can have logged the command with that full name.
    NotLogged(String),
    /// The server that would apply it has no command with that full name.
    Unknown(String),
}

/// Most bytes of a name that are reported. No real name is longer.
const SHOWN_NAME_BYTES: usize = 64;

/// Judges a command by its name, in lower case, and its first argument (empty if it has none). `find` returns the result of [`is_logged`]
/// for the command with that full name.
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
            ("cluster|syncslots", &["write", "admin", "stale"]),
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
