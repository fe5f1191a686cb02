use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::decide::gate::tests::Fake;

/// A command's words. The keys of one that has movable keys are those that begin with `k`.
struct Words(Vec<String>);

impl Words {
    fn of(text: &str) -> Self {
        Words(text.split(' ').map(str::to_owned).collect())
    }
}

impl Arguments for Words {
    fn count(&self) -> i32 {
        self.0.len() as i32
    }
    fn get(&self, position: usize) -> &[u8] {
        self.0[position].as_bytes()
    }
    fn for_each_movable_key(&self, mut each: impl FnMut(&[u8])) {
        self.0[1..].iter().filter(|word| word.starts_with('k')).for_each(|word| each(word.as_bytes()));
    }
}

/// A command of the server's own with one key.
const ONE_KEY: Properties = Properties {
    sees: Sees::Keys,
    leaves_database: false,
    is_foreign: false,
    keys: Keys::Range { first: 1, last: 1, step: 1 },
    ..Properties::UNKNOWN
};
const PING: Properties = Properties { sees: Sees::Nothing, keys: Keys::None, ..ONE_KEY };
const EVAL: Properties = Properties { sees: Sees::Functions, runs_others: true, keys: Keys::Movable, ..ONE_KEY };
const EXEC: Properties = Properties { sees: Sees::Transaction, runs_others: true, keys: Keys::None, ..ONE_KEY };
const WATCH: Properties = Properties { sees: Sees::Watched, ..ONE_KEY };
const FLUSHALL: Properties = Properties { sees: Sees::Keys, keys: Keys::None, ..ONE_KEY };
const DBSIZE: Properties = Properties { sees: Sees::Keys, keys: Keys::None, ..ONE_KEY };
const FOREIGN: Properties = Properties { sees: Sees::Everything, is_foreign: true, keys: Keys::None, ..ONE_KEY };

/// The script engine's client: the fake connections have none for it.
const SCRIPT: ClientId = 0;
/// Addresses of names.
const MULTI_NAME: usize = 1;
const OTHER_NAME: usize = 2;

struct Node {
    gate: Gate<Fake>,
    dependencies: Dependencies,
}

impl Node {
    fn new() -> Self {
        Node { gate: Gate::new(Fake::default()), dependencies: Dependencies::default() }
    }

    /// A client runs a command. Returns what its reply waits for from now on.
    fn run(&mut self, client: ClientId, text: &str, properties: Properties, wrote: bool) -> Option<Group> {
        self.execute(client, text, properties, |execution| execution.wrote = wrote)
    }

    /// A module calls a command.
    fn call(&mut self, client: ClientId, text: &str, properties: Properties, wrote: bool) {
        let held = self.execute(client, text, properties, |execution| {
            (execution.wrote, execution.is_called_by_module) = (wrote, true);
        });
        assert_eq!(held, None, "what a module calls holds nobody by itself");
    }

    fn execute(
        &mut self,
        client: ClientId,
        text: &str,
        properties: Properties,
        how: impl FnOnce(&mut Execution),
    ) -> Option<Group> {
        let name = if text == "MULTI" { MULTI_NAME } else { OTHER_NAME };
        let before = self.dependencies.ran((client, name));
        let mut execution = Execution { client, wrote: false, has_failed: false, is_called_by_module: false, before };
        how(&mut execution);
        let is_multi = |address| address == MULTI_NAME;
        self.dependencies.apply(&mut self.gate, &execution, &properties, &Words::of(text), is_multi)
    }

    /// The n-th group ends at the offset 100 n.
    fn close_group(&mut self) {
        let offset = (self.gate.newest_closed_group() + 1) * 100;
        self.gate.close_group(|| offset);
    }
}

/// A node on which client 1 wrote the key `k1` in group 1 and `k2` in group 2.
fn two_writes() -> Node {
    let mut node = Node::new();
    node.run(1, "SET k1 v", ONE_KEY, true);
    node.close_group();
    node.run(1, "SET k2 v", ONE_KEY, true);
    node.close_group();
    node
}

#[test]
fn a_write_waits_for_its_own_group_and_a_read_for_the_write_of_its_key() {
    let mut node = two_writes();
    assert_eq!(node.run(2, "GET k1", ONE_KEY, false), Some(1));
    assert_eq!(node.run(3, "GET k2", ONE_KEY, false), Some(2));
    assert_eq!(node.run(4, "GET k3", ONE_KEY, false), None, "nobody wrote that key");
    assert_eq!(node.run(4, "PING", PING, false), None);
    assert_eq!(node.run(5, "SET k9 v", ONE_KEY, true), Some(3));
}

#[test]
fn a_read_of_several_keys_waits_for_the_newest_and_movable_keys_are_asked_for() {
    let all = Properties { keys: Keys::Range { first: 1, last: -1, step: 1 }, ..ONE_KEY };
    assert_eq!(two_writes().run(2, "MGET k3 k1 k2", all, false), Some(2));
    let movable = Properties { keys: Keys::Movable, ..ONE_KEY };
    assert_eq!(two_writes().run(2, "SINTERCARD 2 k1 k3", movable, false), Some(1));
}

#[test]
fn a_command_without_keys_depends_on_everything_and_a_write_without_keys_dirties_everything() {
    assert_eq!(two_writes().run(2, "DBSIZE", DBSIZE, false), Some(2));
    let mut node = two_writes();
    assert_eq!(node.run(2, "FLUSHALL", FLUSHALL, true), Some(3));
    assert_eq!(node.run(3, "GET k3", ONE_KEY, false), Some(3), "nobody named that key");
}

#[test]
fn a_key_of_another_database_is_another_key_unless_the_command_leaves_its_database() {
    let mut node = two_writes();
    node.gate.connections.databases.insert(2, 1);
    assert_eq!(node.run(2, "GET k1", ONE_KEY, false), None);
    let copy = Properties { leaves_database: true, ..ONE_KEY };
    assert_eq!(node.run(2, "COPY k1 x DB 0", copy, false), Some(1));
    node.run(2, "MOVE k4 0", copy, true);
    assert_eq!(node.run(3, "GET k4", ONE_KEY, false), Some(3));
}

#[test]
fn debug_depends_on_everything_but_for_subcommands_that_show_nothing() {
    let debug = Properties { sees: Sees::Debug, keys: Keys::None, ..ONE_KEY };
    assert_eq!(two_writes().run(2, "DEBUG OBJECT k1", debug, false), Some(2));
    assert_eq!(two_writes().run(2, "DEBUG", debug, false), Some(2));
    assert_eq!(two_writes().run(2, "DEBUG sleep 0", debug, false), None);
}

#[test]
fn a_script_waits_for_what_its_commands_saw() {
    let mut node = two_writes();
    node.run(SCRIPT, "GET k1", ONE_KEY, false);
    node.run(SCRIPT, "GET k3", ONE_KEY, false);
    assert_eq!(node.run(2, "EVAL script 0", EVAL, false), Some(1));
    assert_eq!(node.run(3, "EVAL script 0", EVAL, false), None, "the next script has seen nothing");
}

#[test]
fn a_script_that_wrote_waits_for_its_own_group_and_dirties_what_it_named() {
    let mut node = two_writes();
    node.run(SCRIPT, "SET k5 v", ONE_KEY, true);
    assert_eq!(node.run(2, "EVAL script 0", EVAL, true), Some(3));
    assert_eq!(node.run(3, "GET k5", ONE_KEY, false), Some(3));
    assert_eq!(node.run(4, "GET k6", ONE_KEY, false), None, "a script names its keys one by one");
}

#[test]
fn what_is_read_while_nothing_runs_holds_no_later_script() {
    let mut node = two_writes();
    node.call(SCRIPT, "GET k2", ONE_KEY, false);
    node.dependencies.nothing_runs();
    assert_eq!(node.run(2, "EVAL script 0", EVAL, false), None);
}

#[test]
fn a_command_of_another_module_waits_for_what_it_called() {
    let foreign = Properties { sees: Sees::Nothing, ..FOREIGN };
    let mut node = two_writes();
    node.call(2, "GET k1", ONE_KEY, false);
    assert_eq!(node.run(2, "x.get k1", foreign, false), Some(1));
    // It declares nothing, so it may have looked at anything.
    assert_eq!(node.run(3, "x.info", FOREIGN, false), Some(2));
}

#[test]
fn a_command_that_runs_while_a_script_is_busy_leaves_the_script_what_it_has_seen() {
    let busy = Properties { sees: Sees::Nothing, runs_while_busy: true, ..FOREIGN };
    let mut node = two_writes();
    node.run(SCRIPT, "GET k2", ONE_KEY, false);
    assert_eq!(node.run(2, "x.ping", busy, false), Some(2));
    assert_eq!(node.run(3, "EVAL script 0", EVAL, false), Some(2));
}

#[test]
fn what_a_called_command_wrote_is_dirty_and_waits_for_the_callers_event() {
    let mut node = two_writes();
    node.call(2, "SET k7 v", ONE_KEY, true);
    assert_eq!(node.run(3, "GET k7", ONE_KEY, false), Some(3));
}

#[test]
fn a_transaction_that_ran_waits_for_what_its_keys_were_dirty_with_when_they_were_watched() {
    let mut node = two_writes();
    assert_eq!(node.run(2, "WATCH k1", WATCH, false), None, "nothing is told yet");
    node.run(3, "SET k1 v", ONE_KEY, true);
    node.run(2, "MULTI", PING, false);
    node.run(2, "PING", PING, false);
    assert_eq!(node.run(2, "EXEC", EXEC, false), Some(1));
}

#[test]
fn a_transaction_that_was_aborted_waits_for_everything_and_one_that_failed_for_nothing() {
    let mut node = two_writes();
    node.run(2, "MULTI", PING, false);
    assert_eq!(node.run(2, "EXEC", EXEC, false), Some(2));
    let mut node = two_writes();
    node.run(2, "MULTI", PING, false);
    assert_eq!(node.execute(2, "EXEC", EXEC, |execution| execution.has_failed = true), None);
}

#[test]
fn nothing_is_known_of_watched_keys_once_they_are_forgotten() {
    for forget in
        [|node: &mut Node| node.dependencies.forget_watched(), |node: &mut Node| node.dependencies.disconnected(2)]
    {
        let mut node = two_writes();
        node.run(2, "WATCH k2", WATCH, false);
        forget(&mut node);
        node.run(2, "PING", PING, false);
        assert_eq!(node.run(2, "EXEC", EXEC, false), None);
    }
}

/// What clients do. Keys and databases are few, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Write {
        client: ClientId,
        key: u8,
    },
    WriteAll {
        client: ClientId,
    },
    Read {
        client: ClientId,
        key: u8,
    },
    /// A script of the client's writes one key, if any, and reads another.
    Script {
        client: ClientId,
        written: Option<u8>,
        read: u8,
    },
    CloseGroup,
    /// The log acknowledges all but the last so many closed groups.
    Release {
        but: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, key) = (1..7_u64, 0..6_u8);
    prop_oneof![
        6 => (client.clone(), key.clone()).prop_map(|(client, key)| Step::Write { client, key }),
        1 => client.clone().prop_map(|client| Step::WriteAll { client }),
        8 => (client.clone(), key.clone()).prop_map(|(client, key)| Step::Read { client, key }),
        4 => (client, proptest::option::of(key.clone()), key)
            .prop_map(|(client, written, read)| Step::Script { client, written, read }),
        5 => Just(Step::CloseGroup),
        2 => (0..4_u64).prop_map(|but| Step::Release { but }),
    ]
}

/// Everything that was ever written.
#[derive(Default)]
struct Written {
    /// Group, database and key of each write; no key for one of everything.
    writes: Vec<(Group, u32, Option<u8>)>,
    open: Group,
    open_is_used: bool,
    released: Group,
}

impl Written {
    fn write(&mut self, database: u32, key: Option<u8>) -> Group {
        self.open_is_used = true;
        self.writes.push((self.open, database, key));
        self.open
    }

    fn newest(&self, is_among: impl Fn(u32, Option<u8>) -> bool) -> Group {
        self.writes
            .iter()
            .filter(|(_, database, key)| is_among(*database, *key))
            .map(|write| write.0)
            .max()
            .unwrap_or(0)
    }

    /// The newest group that a read of that key has to wait for, and the newest that it may wait for: a key that is written in two databases
    /// counts as written in any.
    fn read(&self, database: u32, key: u8) -> (Group, Group) {
        let is_it = |written: Option<u8>| written.is_none_or(|written| written == key);
        let must = self.newest(|in_database, written| is_it(written) && (written.is_none() || in_database == database));
        (must, self.newest(|_, written| is_it(written)))
    }
}

/// What each client waits for at least and at most.
#[derive(Default)]
struct Expected(HashMap<ClientId, (Group, Group)>);

impl Expected {
    fn add(&mut self, client: ClientId, (least, most): (Group, Group), released: Group) -> (Group, Group) {
        let mark = self.0.entry(client).or_default();
        let beyond = |group: Group| if group > released { group } else { 0 };
        *mark = (mark.0.max(beyond(least)), mark.1.max(beyond(most)));
        *mark
    }
}

proptest! {
    #[test]
    fn a_reply_waits_for_every_write_that_it_tells_about_and_for_no_other_key(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut node = Node::new();
        let (mut written, mut expected) = (Written { open: 1, ..Written::default() }, Expected::default());
        // Half of the clients have selected the other database.
        let database = |client: ClientId| client as u32 % 2;
        for client in 1..7 {
            node.gate.connections.databases.insert(client, database(client));
        }
        for step in steps {
            let (client, group) = match step {
                Step::Write { client, key } => {
                    node.run(client, &format!("SET k{key} v"), ONE_KEY, true);
                    let group = written.write(database(client), Some(key));
                    (client, (group, group))
                }
                Step::WriteAll { client } => {
                    node.run(client, "FLUSHALL", FLUSHALL, true);
                    let group = written.write(database(client), None);
                    (client, (group, group))
                }
                Step::Read { client, key } => {
                    node.run(client, &format!("GET k{key}"), ONE_KEY, false);
                    (client, written.read(database(client), key))
                }
                Step::Script { client, written: changed, read } => {
                    // The script engine's client has selected the database of its caller.
                    node.gate.connections.databases.insert(SCRIPT, database(client));
                    if let Some(key) = changed {
                        node.run(SCRIPT, &format!("SET k{key} v"), ONE_KEY, true);
                        written.write(database(client), Some(key));
                    }
                    node.run(SCRIPT, &format!("GET k{read}"), ONE_KEY, false);
                    node.run(client, "EVAL script 0", EVAL, changed.is_some());
                    // A script tells about functions as well, which only a write of everything changes.
                    let own = changed.map_or_else(|| written.newest(|_, key| key.is_none()), |_| written.open);
                    let (least, most) = written.read(database(client), read);
                    (client, (own.max(least), own.max(most)))
                }
                Step::CloseGroup => {
                    node.close_group();
                    written.open += u64::from(std::mem::take(&mut written.open_is_used));
                    continue;
                }
                Step::Release { but } => {
                    written.released = (written.open - 1).saturating_sub(but).max(written.released);
                    node.gate.release(written.released * 100);
                    continue;
                }
            };
            let (least, most) = expected.add(client, group, written.released);
            let mark = node.gate.connections.mark(client).unwrap_or(0);
            prop_assert!((least..=most).contains(&mark), "client {client} waits for {mark}, not for {least} to {most}");
        }
    }
}
