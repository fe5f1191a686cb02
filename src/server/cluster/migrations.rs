//! The server's own migrations of slots (`CLUSTER MIGRATESLOTS`), which the module lets go on step by step. Main thread, outside of any
//! command and of any server event.

use std::ffi::c_int;

use durability_protocol::{SlotRanges, SLOT_COUNT};
use valkey_module::{CallReply, CallResult, Context};

use crate::server::api;
use crate::server::cluster::functions::{ForeignClient, Functions};

/// `PAUSE_DURING_FAILOVER`, of `pause_purpose`. Nothing of the server's uses it on a node whose log decides over it.
const PURPOSE: c_int = 2;
/// `PAUSE_ACTION_CLIENT_ALL`, `PAUSE_ACTION_EXPIRE` and `PAUSE_ACTION_EVICT`. Not `PAUSE_ACTION_REPLICA`: the stream goes on, as the server
/// deletes keys in slots that it has lost.
const ALL: u32 = 1 << 1 | 1 << 2 | 1 << 3;

/// The state of an export while it sends what is written, or waits to.
const STREAMS: [&str; 2] = ["snapshotting", "replicating"];
/// The states of an export that has asked its clients to wait.
const PAUSED: [&str; 2] = ["failover-paused", "waiting-to-pause"];

/// A migration, as `CLUSTER GETSLOTMIGRATIONS` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Migration {
    /// 40 hexadecimal digits.
    pub name: String,
    /// Whether the slots leave this node.
    pub is_export: bool,
    /// What moves.
    pub slots: SlotRanges,
    /// The id of the node that gets them; empty if the server only keeps track.
    pub target_node: String,
    /// As the server words it.
    pub state: String,
}

impl Migration {
    /// Whether it may still come about, as far as the server knows.
    pub fn goes_on(&self) -> bool {
        !matches!(&self.state[..], "success" | "cancelled" | "failed" | "cleaning-up")
    }

    /// Whether it is an export that streams and has not paused clients.
    pub fn streams(&self) -> bool {
        self.is_export && STREAMS.contains(&&self.state[..])
    }

    /// Whether it is an export that has paused clients, or is about to.
    pub fn has_paused(&self) -> bool {
        self.is_export && PAUSED.contains(&&self.state[..])
    }

    /// Whether it is an export whose target has been told that it may take the slots.
    pub fn has_granted(&self) -> bool {
        self.is_export && self.state == "failover-granted"
    }

    /// Whether it is an import that waits for the source's last word.
    pub fn has_requested(&self) -> bool {
        !self.is_export && self.state == "failover-requested"
    }
}

/// All migrations that the server remembers, the newest first.
pub fn all(ctx: &Context) -> Vec<Migration> {
    let Ok(CallReply::Array(jobs)) = api::call(ctx, "CLUSTER", &["GETSLOTMIGRATIONS"]) else { return Vec::new() };
    let migration = |job: CallResult| match job.ok()? {
        CallReply::Array(fields) => {
            let pairs = (0..fields.len()).step_by(2).map(|at| (text(fields.get(at)), text(fields.get(at + 1))));
            Some(read(pairs))
        }
        CallReply::Map(fields) => Some(read(fields.iter().map(|(name, value)| (text(Some(name)), text(Some(value)))))),
        _ => None,
    };
    let all = jobs.iter().filter_map(migration).collect();
    all
}

fn text(reply: Option<CallResult>) -> String {
    match reply {
        Some(Ok(CallReply::String(text))) => text.to_string().unwrap_or_default(),
        _ => String::new(),
    }
}

fn read(fields: impl Iterator<Item = (String, String)>) -> Migration {
    let mut migration = Migration::default();
    for (name, value) in fields {
        match &name[..] {
            "name" => migration.name = value,
            "operation" => migration.is_export = value == "EXPORT",
            "slot_ranges" => migration.slots = ranges(&value),
            "target_node" => migration.target_node = value,
            "state" => migration.state = value,
            _ => {}
        }
    }
    migration
}

/// Reads `0-5 7-7`.
fn ranges(text: &str) -> SlotRanges {
    let bounds = |range: &str| {
        let (first, last) = range.split_once('-')?;
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?.min(SLOT_COUNT - 1))
    };
    SlotRanges::of(text.split(' ').filter_map(bounds).flatten())
}

/// Ends a migration in the server: it deletes nothing, whatever came, if that is a success. Otherwise an import deletes the keys that came.
///
/// # Errors
/// The server does not know it.
pub fn finish(ctx: &Context, name: &str, is_success: bool, message: &str) -> Result<(), String> {
    let state = if is_success { "SUCCESS" } else { "FAILED" };
    let arguments = ["SYNCSLOTS", "FINISH", "STATE", state, "NAME", name, "MESSAGE", message];
    let length = if message.is_empty() { arguments.len() - 2 } else { arguments.len() };
    api::call(ctx, "CLUSTER", &arguments[..length]).map(drop)
}

/// The server gives up all migrations whose slots leave this node.
pub fn cancel_exports(ctx: &Context) {
    // An error says that there are none.
    let _ = api::call(ctx, "CLUSTER", &["CANCELSLOTMIGRATIONS"]);
}

/// What the server does with a command of a migration's client that the module has kept from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The target has nearly everything: pause writes.
    RequestPause,
    /// The source takes no more writes: ask it for the slots.
    Paused,
    /// The target has everything: tell it that it may take the slots.
    RequestFailover,
}

/// Has the server do that. Returns whether the client is still there.
pub fn go_on(client: u64, step: Step) -> bool {
    let Some((functions, client)) = find(client) else { return false };
    let go_on = match step {
        Step::RequestPause => functions.request_pause,
        Step::Paused => functions.paused,
        Step::RequestFailover => functions.request_failover,
    };
    // SAFETY: the server's own function for a command of that client, which lives, and none of whose commands runs.
    unsafe { go_on(client) };
    true
}

/// Whether that client is still there.
pub fn is_there(client: u64) -> bool {
    find(client).is_some()
}

fn find(client: u64) -> Option<(&'static Functions, *mut ForeignClient)> {
    let functions = Functions::get().ok()?;
    // SAFETY: only looks into the server's table of clients.
    let client = unsafe { (functions.client_by_id)(client) };
    (!client.is_null()).then_some((functions, client))
}

/// From now on no command of a client runs, whatever it is about, until [`answer_clients`]. Commands that come meanwhile wait.
pub fn hold_clients() {
    if let Ok(functions) = Functions::get() {
        // SAFETY: the server's own function, with its own constants.
        unsafe { (functions.pause_actions)(PURPOSE, i64::MAX, ALL) };
    }
}

/// Commands of clients run again. Any time on the main thread.
pub fn answer_clients() {
    if let Ok(functions) = Functions::get() {
        // SAFETY: as above.
        unsafe { (functions.unpause_actions)(PURPOSE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_is_read_from_what_the_server_shows() {
        let shown = [
            ("name", "a"),
            ("operation", "EXPORT"),
            ("slot_ranges", "0-5 7-7"),
            ("target_node", "n"),
            ("state", "replicating"),
        ];
        let migration = read(shown.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(migration.slots.to_string(), "0-5,7");
        assert!(migration.streams() && migration.goes_on() && !migration.has_paused());
        assert_eq!((&migration.name[..], &migration.target_node[..]), ("a", "n"));
    }

    #[test]
    fn what_the_server_shows_in_another_form_is_no_slot() {
        for text in ["", "x", "1", "1-", "5-3"] {
            assert!(ranges(text).is_empty(), "{text}");
        }
    }
}
