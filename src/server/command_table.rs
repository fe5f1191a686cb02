//! What the server says about its commands: whether they see data, change it, and where their keys are.

use std::collections::HashMap;

use durability_protocol::{is_logged, Logged};
use valkey_module::{CallReply, CallResult, Context};

use crate::server::api;
use crate::server::propagation::Omits;

/// Commands that only run other commands. What those read and write is accounted for one by one, in their own events.
const RUN_OTHER_COMMANDS: [&str; 7] = ["exec", "eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"];

/// Commands whose reply shows keys that no key specification names: those that a pattern makes.
const READ_BY_PATTERN: [&str; 2] = ["sort", "sort_ro"];
/// Subcommands of this see functions, which are written without keys,
const FUNCTIONS: &str = "function|";
/// but for these.
const SEE_NO_FUNCTIONS: [&str; 2] = ["function|help", "function|kill"];

/// Commands that write a key of another database than the one selected.
const LEAVE_DATABASE: [&str; 2] = ["copy", "move"];

/// Its subcommands are arguments to the server, which declares nothing of them.
const DEBUG: &str = "debug";
/// Subcommands of DEBUG that show nothing of the dataset.
const SHOW_NOTHING: [&str; 18] = [
    "aof-flush-sleep",
    "change-repl-id",
    "client-enforce-reply-list",
    "client-eviction",
    "config-rewrite-force-all",
    "delay-rdb-client-free-second",
    "dict-resizing",
    "error",
    "help",
    "log",
    "mallctl",
    "mallctl-str",
    "pause-cron",
    "protocol",
    "replybuffer",
    "set-active-expire",
    "sleep",
    "structsize",
];
/// Its keys show in the outcome of the transaction alone.
const WATCH: &str = "watch";
const EXEC: &str = "exec";
const MULTI: &str = "multi";

/// Commands of this module. They touch no key.
const OWN_PREFIX: &str = "durability.";
/// Modules that do nothing of their own accord: this one, and the server's engine for scripts.
const KNOWN_MODULES: [&str; 2] = ["durability", "lua"];

/// Commands of the server's own that put into the stream what they did, piece by piece.
const PROPAGATE_PIECES: [&str; 3] = ["xreadgroup", "xclaim", "xautoclaim"];
/// The same, if they take several.
const PROPAGATE_PIECES_OF_MANY: &str = "spop";

/// What the reply of a command that wrote nothing can tell about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// Nothing of the data.
    Nothing,
    /// Its keys; the whole keyspace if it has none.
    Keys,
    /// Any key.
    Everything,
    /// Functions. What the commands that it runs see is told by their own events.
    Functions,
    /// Nothing yet: the outcome of the client's next EXEC tells of its keys.
    Watched,
    /// What [`debug_sees`] says.
    Debug,
    /// As [`Sees::Functions`], and what became of the keys that its client watches (see `decide/watched_keys.rs`).
    Transaction,
}

impl Sees {
    fn of(name: &str, has: impl Fn(&str) -> bool) -> Sees {
        if name == EXEC {
            Sees::Transaction
        } else if name == WATCH {
            Sees::Watched
        } else if RUN_OTHER_COMMANDS.contains(&name)
            || (name.starts_with(FUNCTIONS) && !SEE_NO_FUNCTIONS.contains(&name))
        {
            Sees::Functions
        } else if READ_BY_PATTERN.contains(&name) {
            Sees::Everything
        } else if name == DEBUG {
            Sees::Debug
        } else if has("readonly") || has("write") {
            Sees::Keys
        } else if is_foreign(name, has) {
            // It declares nothing, so it may have looked at anything.
            Sees::Everything
        } else {
            Sees::Nothing
        }
    }
}

/// What that subcommand of DEBUG sees.
pub fn debug_sees(subcommand: &[u8]) -> Sees {
    match SHOW_NOTHING.iter().any(|one| subcommand.eq_ignore_ascii_case(one.as_bytes())) {
        true => Sees::Nothing,
        false => Sees::Everything,
    }
}

/// Whether the command is another module's.
fn is_foreign(name: &str, has: impl Fn(&str) -> bool) -> bool {
    has("module") && !name.starts_with(OWN_PREFIX)
}

/// Where a command's keys are in its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It has none.
    None,
    /// From `first` to `last`, every `step`th. A negative `last` counts from the end: -1 is the last argument.
    Range {
        /// Of the first key; 1 is the argument after the command's name.
        first: i32,
        /// Of the last key.
        last: i32,
        /// From one key to the next.
        step: i32,
    },
    /// Only the server can tell, from the arguments.
    Movable,
}

/// What the server says of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// What its reply can tell about.
    pub sees: Sees,
    /// It can change data.
    pub is_write: bool,
    /// It is answered while the server loads its data.
    pub runs_while_loading: bool,
    /// Clients may run it while another's script is busy.
    pub runs_while_busy: bool,
    /// It only runs other commands (EXEC, scripts).
    pub runs_others: bool,
    /// It has subcommands, which have properties of their own.
    pub is_container: bool,
    /// It may write keys of another database than the one that its client has selected.
    pub leaves_database: bool,
    /// It is another module's: it may call other commands, and answer a client later that it blocked.
    pub is_foreign: bool,
    /// It begins a transaction.
    pub is_multi: bool,
    /// Where its keys are.
    pub keys: Keys,
    /// What the server forgets of its effect.
    pub omits: Omits,
    /// The server never puts it into the stream as it is: it puts there what it did, piece by piece, or the commands that it runs are there.
    pub propagates_itself: bool,
    /// It puts into the stream what it did, piece by piece, if it was given a count.
    pub propagates_pieces_of_many: bool,
    /// Whether a leader's server puts it into the stream.
    pub logged: Logged,
}

impl Properties {
    /// Of a command of which nothing is known: everything is taken to be possible.
    pub const UNKNOWN: Properties = Properties {
        sees: Sees::Everything,
        is_write: true,
        runs_while_loading: false,
        runs_while_busy: false,
        runs_others: false,
        is_container: false,
        leaves_database: true,
        is_foreign: true,
        is_multi: false,
        keys: Keys::Movable,
        omits: Omits::Nothing,
        propagates_itself: true,
        propagates_pieces_of_many: false,
        logged: Logged::Never,
    };

    /// Whether it may run other commands.
    pub fn calls_others(&self) -> bool {
        self.runs_others || self.is_foreign
    }

    /// Reads one entry of the reply to `COMMAND`, that of the command with that full name.
    fn parse(name: &str, entry: &CallReply) -> Option<Properties> {
        let CallReply::Array(entry) = entry else { return None };
        let integer = |index| match entry.get(index) {
            Some(Ok(CallReply::I64(number))) => i32::try_from(number.to_i64()).ok(),
            _ => None,
        };
        let length = |index| match entry.get(index) {
            Some(Ok(CallReply::Array(array))) => array.len(),
            Some(Ok(CallReply::Set(set))) => set.iter().count(),
            _ => 0,
        };
        let flags: Vec<String> = match entry.get(2) {
            Some(Ok(CallReply::Array(flags))) => flags.iter().filter_map(|flag| text(&flag)).collect(),
            Some(Ok(CallReply::Set(flags))) => flags.iter().filter_map(|flag| text(&flag)).collect(),
            _ => return None,
        };
        let has = |flag: &str| flags.iter().any(|one| one == flag);
        let (first, last, step) = (integer(3)?, integer(4)?, integer(5)?);
        let keys = match () {
            _ if has("movablekeys") || (first == 0 && length(8) > 0) => Keys::Movable,
            _ if first > 0 && step > 0 => Keys::Range { first, last, step },
            _ => Keys::None,
        };
        Some(Properties {
            sees: Sees::of(name, has),
            is_write: has("write"),
            runs_while_loading: has("loading"),
            runs_while_busy: has("allow_busy"),
            runs_others: RUN_OTHER_COMMANDS.contains(&name),
            is_container: length(9) > 0,
            // A module's command may do anything.
            leaves_database: LEAVE_DATABASE.contains(&name) || has("module"),
            is_foreign: is_foreign(name, has),
            is_multi: name == MULTI,
            keys,
            omits: Omits::of(name),
            propagates_itself: PROPAGATE_PIECES.contains(&name) || RUN_OTHER_COMMANDS.contains(&name) || has("module"),
            propagates_pieces_of_many: name == PROPAGATE_PIECES_OF_MANY,
            logged: is_logged(name, length(9) > 0, has),
        })
    }
}

fn text(reply: &CallResult) -> Option<String> {
    match reply {
        Ok(CallReply::String(string)) => string.to_string(),
        _ => None,
    }
}

/// The properties of all commands, asked of the server at load and whenever another module came or went: not while a
/// command runs, as a call from within its events would meet the server in the middle of it. Main thread only.
#[derive(Default)]
pub struct CommandTable {
    /// By the address of the server's own copy of the name.
    by_address: HashMap<usize, Properties>,
    /// By full name, in lower case.
    by_name: HashMap<String, Properties>,
    has_others: bool,
}

impl CommandTable {
    /// Asks the server. `leaving`: the name of a module that is being unloaded, and counts as one that is not there.
    ///
    /// # Errors
    /// The server's answer has no form that is known.
    pub fn of_server(ctx: &Context, leaving: Option<&str>) -> Result<Self, String> {
        let mut table = CommandTable::default();
        table.add(&api::call(ctx, "COMMAND", &[])?);
        let is_known = |name: &String| KNOWN_MODULES.contains(&name.as_str()) || leaving == Some(name.as_str());
        // A server that does not say which modules it has may have any.
        table.has_others = !api::modules(ctx).is_some_and(|names| names.iter().all(is_known));
        if table.by_name.contains_key("set") {
            Ok(table)
        } else {
            Err("the server's answer to COMMAND has an unknown form".to_owned())
        }
    }

    /// Takes in a list of commands, and their subcommands.
    fn add(&mut self, entries: &CallReply) {
        let CallReply::Array(entries) = entries else { return };
        for entry in entries.iter().flatten() {
            let CallReply::Array(fields) = &entry else { continue };
            let Some(name) = fields.get(0).as_ref().and_then(text) else { continue };
            let name = name.to_ascii_lowercase();
            if let Some(properties) = Properties::parse(&name, &entry) {
                self.by_name.insert(name, properties);
            }
            if let Some(Ok(subcommands)) = fields.get(9) {
                self.add(&subcommands);
            }
        }
    }

    /// Of the command whose full name stands at `address`; `name` is asked for only the first time.
    pub fn get_by_address(&mut self, address: usize, name: impl FnOnce() -> String) -> Properties {
        let by_name = &self.by_name;
        let find = || by_name.get(&name().to_ascii_lowercase()).copied().unwrap_or(Properties::UNKNOWN);
        *self.by_address.entry(address).or_insert_with(find)
    }

    /// Whether the command whose name stands at `address` may begin a transaction: it does, or was never asked for.
    pub fn may_be_multi(&self, address: usize) -> bool {
        self.by_address.get(&address).is_none_or(|properties| properties.is_multi)
    }

    /// Whether other modules are loaded. They may have no commands, and act as they hear of what others do.
    #[inline]
    pub fn has_others(&self) -> bool {
        self.has_others
    }

    /// Of the command with that full name, in lower case. `None` if the server has none of that name, or knows it by another.
    pub fn get(&self, name: &str) -> Option<Properties> {
        self.by_name.get(name).copied()
    }
}

/// Positions of the keys that [`Keys::Range`] describes among `argc` arguments.
pub fn range_positions(argc: i32, first: i32, last: i32, step: i32) -> impl Iterator<Item = usize> {
    let last = if last < 0 { argc + last } else { last.min(argc - 1) };
    (first..=last).step_by(step.max(1) as usize).map(|position| position as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reply_tells_about_follows_from_flags_and_few_exceptions() {
        let flags = |given: &'static [&str]| move |flag: &str| given.contains(&flag);
        assert_eq!(Sees::of("ping", flags(&["fast"])), Sees::Nothing);
        assert_eq!(Sees::of("get", flags(&["readonly"])), Sees::Keys);
        assert_eq!(Sees::of("sort_ro", flags(&["readonly"])), Sees::Everything);
        assert_eq!(Sees::of("fcall_ro", flags(&["readonly"])), Sees::Functions);
        assert_eq!(Sees::of("function|list", flags(&[])), Sees::Functions);
        assert_eq!(Sees::of("function|help", flags(&[])), Sees::Nothing);
        assert_eq!(Sees::of("function|kill", flags(&[])), Sees::Nothing);
        assert_eq!(Sees::of("exec", flags(&["noscript"])), Sees::Transaction);
        assert_eq!(Sees::of("watch", flags(&["fast"])), Sees::Watched);
        assert_eq!(Sees::of("debug", flags(&["admin"])), Sees::Debug);
        assert_eq!(debug_sees(b"OBJECT"), Sees::Everything);
        assert_eq!(debug_sees(b"Sleep"), Sees::Nothing);
    }

    #[test]
    fn a_command_of_another_module_may_have_seen_anything_unless_it_says_what() {
        let flags = |given: &'static [&str]| move |flag: &str| given.contains(&flag);
        assert_eq!(Sees::of("x.info", flags(&["module"])), Sees::Everything);
        assert_eq!(Sees::of("x.get", flags(&["module", "readonly"])), Sees::Keys);
        assert_eq!(Sees::of("x.set", flags(&["module", "write"])), Sees::Keys);
        assert_eq!(Sees::of("durability.lag", flags(&["module"])), Sees::Nothing);
    }

    #[test]
    fn key_positions_follow_the_servers_description() {
        let positions = |argc, first, last, step| range_positions(argc, first, last, step).collect::<Vec<_>>();
        assert_eq!(positions(3, 1, 1, 1), [1], "SET k v");
        assert_eq!(positions(5, 1, -1, 2), [1, 3], "MSET a 1 b 2");
        assert_eq!(positions(4, 1, -2, 1), [1, 2], "BLPOP a b 0");
        assert_eq!(positions(2, 1, 2, 1), [1], "an argument that is missing is no key");
        assert!(positions(1, 1, -1, 1).is_empty());
    }
}
