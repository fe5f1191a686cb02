//! Commands that an engine knows only by names that are drawn at its start. No leader logs them, and an attacker who writes to the log must
//! not be able to use them. The log service itself uses some of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Commands that no leader logs and that no module is expected to call: all but those that a leader logs (`MULTI`, `EXEC`, `SELECT`, `PING`,
/// `PUBLISH`, `SPUBLISH`, `REPLCONF`, `SCRIPT`, `FUNCTION` and those that write) and those that only read keys. A command with a subcommand
/// that `is_logged` allows is not hidden either, as an engine ends if it does not know what it is fed.
const HIDDEN: &[&str] = &[
    "ACL",
    "ASKING",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "COMMANDLOG",
    "CONFIG",
    "DEBUG",
    "DISCARD",
    "ECHO",
    "EVAL",
    "EVALSHA",
    "EVALSHA_RO",
    "EVAL_RO",
    "FAILOVER",
    "FCALL",
    "FCALL_RO",
    "HELLO",
    "INFO",
    "LASTSAVE",
    "LATENCY",
    "MIGRATE",
    "MODULE",
    "MONITOR",
    "PFSELFTEST",
    "PSUBSCRIBE",
    "PSYNC",
    "PUBSUB",
    "PUNSUBSCRIBE",
    "QUIT",
    "READONLY",
    "READWRITE",
    "REPLICAOF",
    "RESET",
    "ROLE",
    "SAVE",
    "SHUTDOWN",
    "SLAVEOF",
    "SLOWLOG",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "TIME",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WAITAOF",
    "WATCH",
];

/// The ones among them that the log service needs.
const USED: &[&str] =
    &["CLIENT", "COMMAND", "CONFIG", "DEBUG", "EVAL", "INFO", "MODULE", "REPLICAOF", "SAVE", "SUBSCRIBE"];

/// The server's message that it has no such command.
const UNKNOWN: &str = "No such command in rename-command";

/// Commands that the installed valkey-server was found to lack.
static MISSING: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The names of the commands of one engine.
#[derive(Debug)]
pub struct Names {
    secret: String,
    hidden: Vec<&'static str>,
}

impl Names {
    /// Draws names for all hidden commands, except those that are `kept`.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn draw(kept: &[String]) -> std::io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let secret = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let missing = missing();
        let is_hidden =
            |name: &&str| !missing.contains(name) && !kept.iter().any(|kept| kept.eq_ignore_ascii_case(name));
        Ok(Names { secret, hidden: HIDDEN.iter().copied().filter(is_hidden).collect() })
    }

    /// The name under which the engine knows `command`.
    pub fn of(&self, command: &str) -> String {
        let hidden = self.hidden.iter().find(|name| name.eq_ignore_ascii_case(command));
        hidden.map_or_else(|| command.to_owned(), |name| format!("{}-{}", name.to_ascii_lowercase(), self.secret))
    }

    /// The lines of the engine's configuration that hide commands.
    pub fn configuration(&self) -> String {
        self.hidden.iter().map(|name| format!("rename-command {name} {}\n", self.of(name))).collect()
    }
}

/// Whether an engine ended with `output` because it lacks a command that was to be hidden: it has another version, or its own configuration
/// disables the command. The next engine's configuration does not mention that command.
pub fn note_missing(output: &str) -> bool {
    let refused = output.split_once(UNKNOWN).map(|(before, _)| before);
    let name = refused.and_then(|before| before.rsplit_once("rename-command "));
    let name = name.and_then(|(_, rest)| rest.split_whitespace().next());
    let hidden = HIDDEN.iter().find(|hidden| Some(**hidden) == name && !USED.contains(hidden));
    hidden.is_some_and(|hidden| missing().insert(hidden))
}

fn missing() -> MutexGuard<'static, BTreeSet<&'static str>> {
    MISSING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_drawn_anew_for_each_engine_and_what_writes_keeps_its_own() {
        let (one, other) = (Names::draw(&[]).expect("drawn"), Names::draw(&["config".to_owned()]).expect("drawn"));
        assert_ne!(one.of("DEBUG"), other.of("DEBUG"));
        assert_ne!(one.of("config"), "config");
        assert_eq!(other.of("CONFIG"), "CONFIG");
        assert!(!other.configuration().contains("CONFIG"));
        for command in [
            "SET",
            "SELECT",
            "MULTI",
            "EXEC",
            "PING",
            "PUBLISH",
            "SPUBLISH",
            "FUNCTION",
            "SCRIPT",
            "REPLCONF",
            "SCAN",
            "PFDEBUG",
            "RESTORE-ASKING",
            "MEMORY",
        ] {
            assert_eq!(one.of(command), command);
        }
    }

    #[test]
    fn a_command_that_the_server_has_not_got_is_not_hidden_the_next_time_unless_it_is_needed() {
        let output =
            |name| format!("Reading the configuration file, at line 21; >>> 'rename-command {name} x'; {UNKNOWN}");
        assert!(note_missing(&output("PFSELFTEST")));
        assert!(!Names::draw(&[]).expect("drawn").configuration().contains("PFSELFTEST"));
        assert!(!note_missing(&output("PFSELFTEST")), "it is known already");
        assert!(!note_missing(&output("CONFIG")), "the log service needs it");
        assert!(!note_missing("it ended for another reason"));
    }
}
