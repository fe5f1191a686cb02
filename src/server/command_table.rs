//! The properties of the server's commands, by name and by the address of the name.

use std::collections::HashMap;

use durability_protocol::Logged;
use valkey_module::{CallReply, CallResult, Context};

use crate::decide::command_properties::{Declared, Properties};
use crate::server::{api, cluster};

/// Modules that do nothing of their own accord: this one, and the server's engine for scripts.
const KNOWN_MODULES: [&str; 2] = ["durability", "lua"];

/// How slots come to a leader in a cluster, and so to its log. A follower runs nothing of it; without a cluster it would be refused.
const SLOTS_COME: &str = "cluster|syncslots";

/// Reads one entry of the reply to `COMMAND`, that of the command with that full name. `None` if its form is not known.
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
    let mut properties = Properties::of(&Declared {
        name,
        flags: &flags,
        key_range: (integer(3)?, integer(4)?, integer(5)?),
        has_key_specifications: length(8) > 0,
        has_subcommands: length(9) > 0,
    });
    if cluster::is_enabled() && name == SLOTS_COME {
        properties.logged = Logged::Yes;
    }
    Some(properties)
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
            if let Some(properties) = parse(&name, &entry) {
                self.by_name.insert(name, properties);
            }
            if let Some(Ok(subcommands)) = fields.get(9) {
                self.add(&subcommands);
            }
        }
    }

    /// The properties of the command whose full name stands at `address`. `name` is called only the first time.
    pub fn get_by_address(&mut self, address: usize, name: impl FnOnce() -> String) -> Properties {
        let by_name = &self.by_name;
        let find = || by_name.get(&name().to_ascii_lowercase()).copied().unwrap_or(Properties::UNKNOWN);
        *self.by_address.entry(address).or_insert_with(find)
    }

    /// Whether the command whose name stands at `address` may begin a transaction: it does, or was never asked for.
    pub fn may_be_multi(&self, address: usize) -> bool {
        self.by_address.get(&address).is_none_or(|properties| properties.is_multi)
    }

    /// Which commands a leader may log, by full name, in lower case.
    pub fn logged(&self) -> HashMap<String, Logged> {
        self.by_name.iter().map(|(name, properties)| (name.clone(), properties.logged)).collect()
    }

    /// Whether other modules are loaded. They may have no commands, and act on what others do.
    #[inline]
    pub fn has_others(&self) -> bool {
        self.has_others
    }

    /// The properties of the command with that full name, in lower case. `None` if the server has none of that name, or knows it by another.
    pub fn get(&self, name: &str) -> Option<Properties> {
        self.by_name.get(name).copied()
    }
}
