//! What a write dirties, and what a reply waits for.
//!
//! A reply waits for the newest group of writes that it can tell about. A write tells about itself. A read tells about the keys that it names,
//! and so waits for the newest write of one of them; a command that names no key may have looked at any. A command that only runs others
//! (EXEC, a script, a command of another module) tells about whatever those told it: what they depend on is collected, and waits for the
//! command's own event.

use crate::decide::command_properties::{debug_sees, range_positions, Keys, Properties, Sees};
use crate::decide::dirty_keys::Database;
use crate::decide::gate::{ClientId, Connections, Gate, Held};
use crate::decide::valve::Group;
use crate::decide::watched_keys::{Executed, Ran, Watching};

/// The arguments of a command that ran.
pub trait Arguments {
    /// How many there are, with the command's name.
    fn count(&self) -> i32;
    /// The one at that position, which is below [`Arguments::count`]; 0 is the command's name.
    fn get(&self, position: usize) -> &[u8];
    /// Calls `each` with every key, as the server finds them, for a command whose keys follow from its arguments.
    fn for_each_movable_key(&self, each: impl FnMut(&[u8]));
}

/// How a command ran.
#[derive(Debug, Clone, Copy)]
pub struct Execution {
    /// Who ran it. For a command that a script calls, the script engine's own client, which has no connection.
    pub client: ClientId,
    /// It changed data.
    pub wrote: bool,
    /// It ended with an error.
    pub has_failed: bool,
    /// A module called it.
    pub is_called_by_module: bool,
    /// The command that ran before it, as [`Dependencies::ran`] has returned it.
    pub before: Ran,
}

/// What replies depend on, beyond the command that they answer. Main thread only.
#[derive(Default)]
pub struct Dependencies {
    /// The newest group that a script, or another module's command, depends on by what it called; its own event is to come. 0 for none.
    called: Group,
    /// What transactions tell about watched keys.
    watching: Watching,
}

impl Dependencies {
    /// A command ran: the client, and the address of the command's name. Called for each one, first. Returns the command before.
    #[inline]
    pub fn ran(&mut self, ran: Ran) -> Ran {
        self.watching.ran(ran)
    }

    /// Applies the rule to a command that ran: dirties what it wrote, and holds its reply for what that tells about. `may_be_multi`: whether
    /// the command whose name stands at that address begins a transaction, or may do so. Returns the group that the client's reply waits
    /// for, unless it waited for that before.
    pub fn apply<C: Connections>(
        &mut self,
        gate: &mut Gate<C>,
        execution: &Execution,
        properties: &Properties,
        arguments: &impl Arguments,
        may_be_multi: impl FnOnce(usize) -> bool,
    ) -> Option<Group> {
        let client = execution.client;
        let mut dependency = match execution.wrote {
            true => write(gate, client, properties, arguments),
            false => read(gate, client, properties, arguments),
        };
        match properties.sees {
            Sees::Watched => {
                if !execution.is_called_by_module {
                    self.watching.watched(client, dependency, gate.released());
                }
                return None;
            }
            Sees::Transaction => dependency = dependency.max(self.outcome(gate, execution, may_be_multi)),
            _ => {}
        }
        if execution.is_called_by_module {
            // The command that made the module call this one has its own event, with these writes counted in.
            if !execution.wrote {
                self.collect(dependency);
            }
            return None;
        }
        if properties.is_foreign && properties.runs_while_busy {
            // What was collected is its own, or that of a script which is busy and still needs it.
            dependency = dependency.max(self.called);
        } else if properties.calls_others() {
            dependency = dependency.max(std::mem::take(&mut self.called));
        }
        if dependency == 0 {
            return None;
        }
        match gate.hold(client, dependency) {
            // A script called it: the script's own event follows.
            Held::NoConnection => {
                self.collect(dependency);
                None
            }
            Held::Now | Held::Longer => Some(dependency),
            Held::Already => None,
        }
    }

    fn collect(&mut self, dependency: Group) {
        self.called = dependency.max(self.called);
    }

    /// What the outcome of a client's EXEC depends on, beyond its commands. An error says nothing about watched keys.
    fn outcome<C: Connections>(
        &mut self,
        gate: &Gate<C>,
        execution: &Execution,
        may_be_multi: impl FnOnce(usize) -> bool,
    ) -> Group {
        match self.watching.executed(execution.client, execution.before, may_be_multi) {
            Executed::Commands(watched) => watched,
            Executed::Nothing if execution.has_failed => 0,
            Executed::Nothing => gate.read_all(),
        }
    }

    /// No command runs: what is collected was read by a module's callback or thread, for no reply.
    #[inline]
    pub fn nothing_runs(&mut self) {
        self.called = 0;
    }

    /// The client is gone.
    pub fn disconnected(&mut self, client: ClientId) {
        self.watching.disconnected(client);
    }

    /// Nothing is known of watched keys: groups are counted anew, or commands ran whose events did not come.
    pub fn forget_watched(&mut self) {
        self.watching.forget();
    }
}

/// Dirties what the command wrote. Returns the group that its writer waits for.
fn write<C: Connections>(
    gate: &mut Gate<C>,
    client: ClientId,
    properties: &Properties,
    arguments: &impl Arguments,
) -> Group {
    if properties.runs_others {
        // What it ran has dirtied its own keys.
        return gate.write();
    }
    let mut database = None;
    for_each_key(properties.keys, arguments, |key| {
        let database = *database.get_or_insert_with(|| match properties.leaves_database {
            true => Database::ANY,
            false => gate.connections.database(client),
        });
        let hash = gate.hash(key);
        gate.write_key(hash, database);
    });
    match database {
        Some(_) => gate.write(),
        None => gate.write_all(),
    }
}

/// The group that the reply of a command depends on that wrote nothing. It is 0, or is released, if the reply depends on nothing.
fn read<C: Connections>(
    gate: &Gate<C>,
    client: ClientId,
    properties: &Properties,
    arguments: &impl Arguments,
) -> Group {
    let sees = match properties.sees {
        Sees::Debug if arguments.count() > 1 => debug_sees(arguments.get(1)),
        sees => sees,
    };
    match sees {
        Sees::Nothing => return 0,
        Sees::Functions | Sees::Transaction => return gate.read_functions(),
        Sees::Everything | Sees::Debug => return gate.read_all(),
        Sees::Keys | Sees::Watched => {}
    }
    let mut dependency = None;
    for_each_key(properties.keys, arguments, |key| {
        let reader = (!properties.leaves_database).then_some(client);
        let group = gate.read_key(gate.hash(key), reader);
        dependency = dependency.max(Some(group));
    });
    dependency.unwrap_or_else(|| gate.read_all())
}

fn for_each_key(keys: Keys, arguments: &impl Arguments, mut each: impl FnMut(&[u8])) {
    match keys {
        Keys::None => {}
        Keys::Range { first, last, step } => {
            range_positions(arguments.count(), first, last, step).for_each(|position| each(arguments.get(position)));
        }
        Keys::Movable => arguments.for_each_movable_key(each),
    }
}

#[cfg(test)]
#[path = "dependency_tests.rs"]
mod tests;
