//! What follows from a command's name and from what the server declares of it: what its reply can tell about, whether it changes data, where
//! its keys are, and what of its effect is missing from the stream.

use durability_protocol::{is_logged, Logged};

use crate::decide::omitted_effects::Omits;

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
    /// Functions. The commands that it runs have events of their own for what they see.
    Functions,
    /// Nothing yet: the outcome of the client's next EXEC tells about its keys.
    Watched,
    /// What [`debug_sees`] says.
    Debug,
    /// As [`Sees::Functions`], and what became of the keys that its client watches (see `decide/watched_keys.rs`).
    Transaction,
}

impl Sees {
    /// What the command with that full name, in lower case, sees. `has`: whether it has the flag of that name.
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

/// What that subcommand of DEBUG sees; `subcommand` may be in any case.
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
        /// Position of the first key; 1 is the argument after the command's name.
        first: i32,
        /// Position of the last key, inclusive.
        last: i32,
        /// From one key to the next.
        step: i32,
    },
    /// Only the server can tell, from the arguments.
    Movable,
}

/// What the server's `COMMAND` declares of a command.
#[derive(Debug, Clone, Copy)]
pub struct Declared<'a> {
    /// Its full name, in lower case: `config|get` for a subcommand.
    pub name: &'a str,
    /// Its flags, as `COMMAND` names them.
    pub flags: &'a [String],
    /// Positions of its first and last key, and the step between keys; 0 for a command without keys.
    pub key_range: (i32, i32, i32),
    /// It has key specifications.
    pub has_key_specifications: bool,
    /// It has subcommands, which have properties of their own.
    pub has_subcommands: bool,
}

/// What is known of a command.
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
    /// Nothing is known of the command: everything is taken to be possible.
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

    /// The properties of a command that the server declares so.
    pub fn of(declared: &Declared) -> Properties {
        let Declared { name, flags, key_range: (first, last, step), .. } = *declared;
        let has = |flag: &str| flags.iter().any(|one| one == flag);
        let keys = match () {
            () if has("movablekeys") || (first == 0 && declared.has_key_specifications) => Keys::Movable,
            () if first > 0 && step > 0 => Keys::Range { first, last, step },
            () => Keys::None,
        };
        Properties {
            sees: Sees::of(name, has),
            is_write: has("write"),
            runs_while_loading: has("loading"),
            runs_while_busy: has("allow_busy"),
            runs_others: RUN_OTHER_COMMANDS.contains(&name),
            is_container: declared.has_subcommands,
            // A module's command may do anything.
            leaves_database: LEAVE_DATABASE.contains(&name) || has("module"),
            is_foreign: is_foreign(name, has),
            is_multi: name == MULTI,
            keys,
            omits: Omits::of(name),
            propagates_itself: PROPAGATE_PIECES.contains(&name) || RUN_OTHER_COMMANDS.contains(&name) || has("module"),
            propagates_pieces_of_many: name == PROPAGATE_PIECES_OF_MANY,
            logged: is_logged(name, declared.has_subcommands, has),
        }
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

    #[test]
    fn what_is_not_declared_in_full_is_taken_from_the_arguments() {
        let declared = Declared {
            name: "x",
            flags: &["write".to_owned()],
            key_range: (0, 0, 0),
            has_key_specifications: false,
            has_subcommands: false,
        };
        assert_eq!(Properties::of(&declared).keys, Keys::None);
        assert_eq!(Properties::of(&Declared { has_key_specifications: true, ..declared }).keys, Keys::Movable);
        let range = Declared { key_range: (1, -1, 2), ..declared };
        assert_eq!(Properties::of(&range).keys, Keys::Range { first: 1, last: -1, step: 2 });
        let movable = Declared { flags: &["movablekeys".to_owned()], ..range };
        assert_eq!(Properties::of(&movable).keys, Keys::Movable);
        let properties = Properties::of(&Declared { name: "spop", ..range });
        assert!(properties.is_write && properties.propagates_pieces_of_many && !properties.runs_others);
    }
}
