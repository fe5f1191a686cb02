//! Refuses commands before they run: all that touch data while this node may not serve, writes while the log is too far
//! behind, and those that would take a node away from its log.
//!
//! A command filter cannot answer. It turns the command into [`REFUSED`], which can; or, between MULTI and EXEC, into one
//! that no server knows, whose name is the error, so that the transaction aborts as a whole.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};

use valkey_module::{CommandFilterCtx, ContextFlags, RedisModuleCommandFilterCtx};

use crate::base::panic_guard::guard;
use crate::decide::gate::ClientId;
use crate::decide::queued_writes::Transactions;
use crate::decide::write_limit::{Behind, Limits, Verdict};
use crate::log::shard_view::LeaseState;
use crate::node::{self, redirect, stream_commands, Module};
use crate::server::command_table::Properties;
use crate::server::follow_settings::{self, Owner};
use crate::server::{api, debug_command, propagation, running_client};
use crate::settings;

/// The command that answers the refusal.
pub const REFUSED: &str = "durability.refused";
/// Names of commands are shorter.
pub const MAX_NAME_BYTES: usize = 64;

/// What is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing.
    Nothing,
    /// What would take this node away from its log: REPLICAOF, FAILOVER.
    RoleChanges,
    /// Those; clients that can be redirected are sent to the leader.
    Redirectable,
    /// Those that take the node away; commands that change data may be refused soon.
    WritesSoon,
    /// Those, and commands that change data.
    Writes,
    /// Everything that a loading server would refuse, with that error.
    Data(String),
}

const NOTHING: u8 = 0;
const ROLE_CHANGES: u8 = 1;
const REDIRECTABLE: u8 = 2;
const WRITES_SOON: u8 = 3;
const WRITES: u8 = 4;
const DATA: u8 = 5;

static LEVEL: AtomicU8 = AtomicU8::new(NOTHING);
/// How many commands were refused.
pub static REFUSED_COMMANDS: AtomicU64 = AtomicU64::new(0);

const ROLE_CHANGE_ERROR: &str = "ERR this node is led by its log: REPLICAOF and FAILOVER would take it away. \
    CONFIG SET durability.mode off first if that is what you want, or durability.allow-replicaof yes. If a Sentinel sent this: \
    it must not monitor this node, clients find the leader by the log service";

const INTERNAL_ERROR: &str = "ERR durability: internal error, see the server's log; restart the server";

/// What another module calls as it hears of a command that this module runs in the middle of something.
const IN_USE_ERROR: &str = "ERR durability: this node is changing what it serves: try again";

/// As the server's own, which would come first: what this node is and where the leader is are not for those who have not logged in.
const STRANGER_ERROR: &str = "NOAUTH Authentication required.";
const STRANGER_EXEC_ERROR: &str = "EXECABORT Transaction discarded because of: NOAUTH Authentication required.";

const READ_ONLY_ERROR: &str = "READONLY You can't write against a node that follows its log.";

const REWRITE_FOLLOWING_ERROR: &str =
    "ERR this node follows its log, and for that time some settings are the log's, which \
    CONFIG REWRITE would keep: try again when the node leads (durability_role in INFO durability)";
const REWRITE_MIXED_ERROR: &str = "ERR some settings are still those with which this node followed its log, which \
    CONFIG REWRITE would keep: the server's log says why they could not be set back; try again when they are";

thread_local! {
    /// The error that [`REFUSED`] answers next, and the one for all commands that touch data.
    static ERRORS: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
    static LAST_PRIMARY: Cell<ClientId> = const { Cell::new(0) };
    /// Of the stream that this node follows.
    static STREAM: Cell<StreamCalls> = const { Cell::new(StreamCalls::new()) };
    /// Kept while writes are refused, or may be soon.
    static TRANSACTIONS: RefCell<Transactions> = RefCell::default();
}

/// What an earlier life of the module knew, whose library stays mapped, is not so any more. Main thread.
pub fn forget_all() {
    REFUSED_COMMANDS.store(0, Ordering::Relaxed);
    LAST_PRIMARY.set(0);
    stream_commands::forget_all();
    TRANSACTIONS.with_borrow_mut(Transactions::forget);
}

/// Changes what is refused. Main thread.
pub fn set(refusal: Refusal) {
    let level = match refusal {
        Refusal::Nothing => NOTHING,
        Refusal::RoleChanges => ROLE_CHANGES,
        Refusal::Redirectable => REDIRECTABLE,
        Refusal::WritesSoon => WRITES_SOON,
        Refusal::Writes => WRITES,
        Refusal::Data(error) => {
            ERRORS.with_borrow_mut(|errors| errors.1 = error);
            DATA
        }
    };
    if !(WRITES_SOON..=WRITES).contains(&level) {
        TRANSACTIONS.with_borrow_mut(Transactions::forget);
    }
    LEVEL.store(level, Ordering::Relaxed);
}

/// The error for the command that was just turned into [`REFUSED`]; nobody else gets it.
pub fn error() -> String {
    ERRORS.with_borrow_mut(|errors| std::mem::take(&mut errors.0))
}

/// The filter itself. Runs before every command of every client and script.
pub extern "C" fn filter(ctx: *mut RedisModuleCommandFilterCtx) {
    let level = LEVEL.load(Ordering::Relaxed);
    let owner = follow_settings::owner();
    if level == NOTHING && owner == Owner::Operator {
        return;
    }
    running_client::note(ctx);
    let is_judged = guard("filtering a command", false, || {
        filter_command(ctx, level, owner);
        true
    });
    if !is_judged {
        guard("refusing a command", (), || refuse(&CommandFilterCtx::new(ctx), INTERNAL_ERROR.to_owned()));
    }
}

fn filter_command(ctx: *mut RedisModuleCommandFilterCtx, level: u8, owner: Owner) {
    let command = CommandFilterCtx::new(ctx);
    let mut name = argument(&command, 0);
    if propagation::has_cause(name, || argument(&command, 1))
        && node::with(Module::watch_commands).is_none()
        && node::is_in_use()
    {
        return refuse_data(&command, false, false, || IN_USE_ERROR.to_owned());
    }
    if owner == Owner::Log && stream_commands::refuses(&command, name, || argument(&command, 1)) {
        return;
    }
    if owner != Owner::Operator && is_config_rewrite(name, argument(&command, 1)) {
        return refuse_rewrite(&command, owner);
    }
    if level == NOTHING {
        return;
    }
    if name.len() == 5 && name.eq_ignore_ascii_case(b"DEBUG") {
        match filter_debug(&command) {
            debug_command::Verdict::Runs => {}
            debug_command::Verdict::Populates => name = debug_command::POPULATE.as_bytes(),
            debug_command::Verdict::Refused(error) => {
                let is_in_transaction = api::client_flags(command.get_client_id()).is_in_transaction;
                return refuse_data(&command, false, is_in_transaction, || error);
            }
        }
    }
    if name.len() == 8 && name.eq_ignore_ascii_case(b"SHUTDOWN") {
        hurry_shutdown(&command);
    }
    let word = redirect::word(name).filter(|_| !api::client_flags(command.get_client_id()).is_stranger);
    if let Some(word) = word {
        redirect::note(command.get_client_id(), word, (1..command.args_count()).map(|at| argument(&command, at)));
    }
    if changes_role(name) {
        if !settings::ALLOW_REPLICAOF.load(Ordering::Relaxed) {
            // With the whole transaction: what a Sentinel sends behind it would close all clients.
            let is_in_transaction = api::client_flags(command.get_client_id()).is_in_transaction;
            refuse_data(&command, false, is_in_transaction, || ROLE_CHANGE_ERROR.to_owned());
        }
    } else if level > ROLE_CHANGES {
        filter_data(&command, ctx, name, level);
    }
}

/// Compares lengths first: this runs before every command.
fn changes_role(name: &[u8]) -> bool {
    match name.len() {
        7 => name.eq_ignore_ascii_case(b"SLAVEOF"),
        8 => name.eq_ignore_ascii_case(b"FAILOVER"),
        9 => name.eq_ignore_ascii_case(b"REPLICAOF"),
        _ => false,
    }
}

fn is_config_rewrite(name: &[u8], subcommand: &[u8]) -> bool {
    name.len() == 6 && name.eq_ignore_ascii_case(b"CONFIG") && subcommand.eq_ignore_ascii_case(b"REWRITE")
}

/// Exchanges the command where that is what becomes of it.
fn filter_debug(command: &CommandFilterCtx) -> debug_command::Verdict {
    let has_aof = node::with(|module| module.ctx.get_flags().contains(ContextFlags::AOF)) == Some(true);
    let verdict = debug_command::judge((0..command.args_count()).map(|at| argument(command, at)), has_aof);
    if verdict == debug_command::Verdict::Populates {
        command.arg_delete(1);
        command.arg_replace(0, debug_command::POPULATE);
    }
    verdict
}

/// The file would hold what is set for this time only, a token among it and files that another process does not have, and
/// the server might not start with it.
fn refuse_rewrite(command: &CommandFilterCtx, owner: Owner) {
    let error = if owner == Owner::Log { REWRITE_FOLLOWING_ERROR } else { REWRITE_MIXED_ERROR };
    let is_in_transaction = api::client_flags(command.get_client_id()).is_in_transaction;
    refuse_data(command, false, is_in_transaction, || error.to_owned());
}

/// While a script is busy, SHUTDOWN would wait for the log's acknowledgement for ever: only the event loop's own rounds end
/// that wait, and there are none. If the log is the only replica, it is not waited for: what the script wrote is not in the
/// stream yet, and what was written before is shipped when the module stops.
fn hurry_shutdown(command: &CommandFilterCtx) {
    let given = |word: &[u8]| (1..command.args_count()).any(|at| argument(command, at).eq_ignore_ascii_case(word));
    let is_only_replica = node::with(|module| {
        let is_busy = module.ctx.get_flags().contains(ContextFlags::LUA);
        is_busy
            && module
                .ctx
                .server_info("replication")
                .field("connected_slaves")
                .is_some_and(|n| n.to_string_lossy() == "1")
    });
    if is_only_replica == Some(true) && !given(b"NOW") && !given(b"ABORT") {
        command.arg_insert(command.args_count(), "NOW");
    }
}

/// An argument's bytes, for the time of the callback; none if there is no such argument.
fn argument<'a>(command: &CommandFilterCtx, position: i32) -> &'a [u8] {
    if position >= command.args_count() {
        return &[];
    }
    // SAFETY: the argument exists, and is used only during the callback.
    unsafe { api::bytes(command.arg_get(position)) }
}

fn filter_data(command: &CommandFilterCtx, ctx: *mut RedisModuleCommandFilterCtx, name: &[u8], level: u8) {
    let client = command.get_client_id();
    let mut lowercase = [0; MAX_NAME_BYTES];
    // A longer one is no command.
    let Some(lowercase) = lowercase.get_mut(..name.len()) else { return };
    lowercase.copy_from_slice(name);
    lowercase.make_ascii_lowercase();
    let Ok(name) = std::str::from_utf8(lowercase) else { return };
    if LAST_PRIMARY.get() == client {
        return note_stream_command(name, command);
    }
    let Some((properties, is_own)) = node::with(|module| {
        let is_self_test = client == module.self_test_client;
        if let (true, Some(gate)) = (is_self_test, &mut module.gate) {
            running_client::learn(&mut gate.connections, ctx, client);
        }
        let is_own = is_self_test || client == module.shared.tap_client.load(Ordering::Relaxed);
        (properties_of(module, name, command), is_own)
    }) else {
        if node::is_in_use() {
            // Whether it may run is not known.
            refuse_data(command, false, false, || IN_USE_ERROR.to_owned());
        }
        return;
    };
    if is_own {
        return;
    }
    match level {
        REDIRECTABLE if name != "exec" && redirect::applies(client, properties) => {
            let is_in_transaction = api::client_flags(client).is_in_transaction;
            refuse_data(command, false, is_in_transaction, where_the_leader_is);
        }
        // Even where the server would take it (replica-read-only no): what only this node has is not in the log.
        REDIRECTABLE if properties.is_write && name != "exec" => {
            let flags = api::client_flags(client);
            if !is_primary(command, name, flags.is_primary) && !is_called_by_stream(client) {
                refuse_data(command, false, flags.is_in_transaction, || READ_ONLY_ERROR.to_owned());
            }
        }
        REDIRECTABLE => {}
        DATA if !properties.runs_while_loading || name == "exec" => {
            let flags = api::client_flags(client);
            if is_primary(command, name, flags.is_primary) || is_called_by_stream(client) {
                return;
            }
            let error = || ERRORS.with_borrow(|errors| errors.1.clone());
            refuse_data(command, name == "exec", flags.is_in_transaction, error);
        }
        DATA => note_receiver(name, command, client),
        _ => filter_write(command, name, client, properties, level == WRITES),
    }
}

/// While this node holds what its log has not confirmed, clients are not to be notified of keys.
fn note_receiver(name: &str, command: &CommandFilterCtx, client: ClientId) {
    let is_told = match name {
        "subscribe" | "psubscribe" | "ssubscribe" => true,
        "client" => argument(command, 1).eq_ignore_ascii_case(b"TRACKING"),
        _ => false,
    };
    if is_told {
        node::with(|module| module.gate.as_ref().map(|gate| gate.connections.receives_messages(client)));
    }
}

fn properties_of(module: &Module, name: &str, command: &CommandFilterCtx) -> Properties {
    let mut properties = module.commands.get(name);
    if properties.is_some_and(|properties| properties.is_container) && command.args_count() > 1 {
        let sub = String::from_utf8_lossy(argument(command, 1)).to_ascii_lowercase();
        properties = module.commands.get(&format!("{name}|{sub}"));
    }
    // One that was renamed is there, but not by this name.
    properties.unwrap_or(Properties::UNKNOWN)
}

/// Whether there is such a command. If not, the server says so itself.
fn is_command(command: &CommandFilterCtx) -> bool {
    let name = (0..command.args_count().min(2)).map(|at| argument(command, at));
    node::with(|module| module.tap_user.knows(&module.ctx, name)).unwrap_or(true)
}

fn where_the_leader_is() -> String {
    let seen = node::with(|module| module.shared.view().map(|view| (view, module.shared.node_id()))).flatten();
    let view = seen.filter(|(view, own)| view.lease != LeaseState::Free && view.leader != *own).map(|(view, _)| view);
    match view.filter(|view| !view.leader_address.is_empty()) {
        Some(view) => format!("REDIRECT {}", view.leader_address),
        None => "TRYAGAIN durability: nobody leads at the moment".to_owned(),
    }
}

/// Refuses a write at the limit. While that may come soon, it keeps account of transactions, so that those that hold a write
/// can be refused as a whole when they are executed beyond the limit, and no others.
fn filter_write(
    command: &CommandFilterCtx,
    name: &str,
    client: ClientId,
    properties: Properties,
    mut is_refusing: bool,
) {
    match name {
        "multi" => return TRANSACTIONS.with_borrow_mut(|transactions| transactions.begin(client)),
        "discard" | "reset" | "quit" => {
            TRANSACTIONS.with_borrow_mut(|transactions| transactions.end(client));
            return;
        }
        "exec" => {}
        _ if properties.is_write => {}
        // For what it calls.
        _ if properties.runs_others && !is_refusing => {
            node::with(judge_now);
            return;
        }
        _ => return,
    }
    let flags = api::client_flags(client);
    if is_primary(command, name, flags.is_primary) {
        return;
    }
    is_refusing = is_refusing || node::with(judge_now) == Some(true);
    if name == "exec" {
        let holds_no_write = TRANSACTIONS.with_borrow_mut(|transactions| transactions.end(client));
        if is_refusing && flags.is_in_transaction && !holds_no_write {
            refuse_data(command, true, true, String::new);
        }
    } else if is_refusing {
        let Some(behind) = node::with(Module::behind) else { return };
        refuse_data(command, false, flags.is_in_transaction, || too_far_behind(&behind));
    } else if flags.is_in_transaction {
        TRANSACTIONS.with_borrow_mut(|transactions| transactions.queued_write(client));
    }
}

/// Judges to the moment: the event loop may have slept since it last did. Not while a script runs, which is to see one verdict.
/// Returns whether writes are refused.
fn judge_now(module: &mut Module) -> bool {
    if !module.ctx.get_flags().contains(ContextFlags::LUA) {
        module.look_at_bound_now();
    }
    module.bound.verdict() == Verdict::Refused
}

/// Whether that client is the primary that the filter saw last.
pub fn is_last_primary(client: ClientId) -> bool {
    LAST_PRIMARY.get() == client
}

/// Whether this is the server's primary, which is not refused; it is known from then on.
fn is_primary(command: &CommandFilterCtx, name: &str, is_primary: bool) -> bool {
    if is_primary {
        LAST_PRIMARY.set(command.get_client_id());
        STREAM.set(StreamCalls::new());
        note_stream_command(name, command);
    }
    is_primary
}

/// A command of the stream comes: may it, or the transaction that it belongs to, call others?
fn note_stream_command(name: &str, command: &CommandFilterCtx) {
    let mut stream = STREAM.get();
    match name {
        "multi" => stream.begin(),
        "exec" => stream.execute(),
        _ => {
            // Only a module's commands do: the stream holds what scripts did, not scripts.
            let calls_others = node::with(|module| {
                module.commands.has_others() && properties_of(module, name, command).calls_others()
            });
            stream.note(calls_others.unwrap_or(true));
        }
    }
    STREAM.set(stream);
}

/// Whether the command that runs is called by one of the stream, so that it has to run as well; or by one of the AOF that the server
/// loads. Not what another module does of its own accord as it hears of the stream's changes: its node does that when it leads, and
/// then it is in the stream.
fn is_called_by_stream(client: ClientId) -> bool {
    let found = node::with(|module| {
        api::loads_for_module(&module.ctx, client) || STREAM.get().may_call && api::executes_for_primary(&module.ctx)
    });
    found == Some(true)
}

/// Whether what runs of the stream may call other commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StreamCalls {
    /// What runs may.
    may_call: bool,
    /// What was queued since MULTI; none outside of a transaction.
    queued: Option<bool>,
}

impl StreamCalls {
    /// Of a link to a primary that is new. What it sent before may not have been looked at.
    const fn new() -> Self {
        StreamCalls { may_call: true, queued: None }
    }

    fn begin(&mut self) {
        *self = StreamCalls { may_call: false, queued: Some(false) };
    }

    fn execute(&mut self) {
        *self = StreamCalls { may_call: self.queued.unwrap_or(true), queued: None };
    }

    fn note(&mut self, calls_others: bool) {
        match &mut self.queued {
            Some(queued) => *queued |= calls_others,
            None => self.may_call = calls_others,
        }
    }
}

fn too_far_behind(behind: &Behind) -> String {
    let limits = Limits::configured();
    let lag_ms = behind.lag.as_millis();
    if behind.pending_bytes > limits.pending_bytes / 2 && behind.lag <= limits.lag / 2 {
        return format!(
            "CLUSTERDOWN durability: writes are refused, the log is {} bytes behind (limit {} bytes); reads go on",
            behind.pending_bytes, limits.pending_bytes
        );
    }
    format!(
        "CLUSTERDOWN durability: writes are refused, the log is {lag_ms} ms behind (limit {} ms); reads go on",
        limits.lag.as_millis()
    )
}

fn refuse_data(command: &CommandFilterCtx, is_exec: bool, is_in_transaction: bool, error: impl FnOnce() -> String) {
    if !is_command(command) {
        return;
    }
    // Not left to the server: of a client that came before the password was removed it wants no login any more.
    if api::client_flags(command.get_client_id()).is_stranger {
        let is_exec = argument(command, 0).eq_ignore_ascii_case(b"EXEC");
        return refuse(command, if is_exec { STRANGER_EXEC_ERROR } else { STRANGER_ERROR }.to_owned());
    }
    REFUSED_COMMANDS.fetch_add(1, Ordering::Relaxed);
    if is_exec {
        // One argument too many makes the server abort the transaction, as the loading server's own refusal would.
        command.arg_insert(1, "refused");
    } else if is_in_transaction {
        // The server answers with the name of the command that it does not know.
        replace(command, &error());
    } else {
        refuse(command, error());
    }
}

/// A command of the stream does not run, nor does the transaction that it belongs to.
pub fn refuse_of_stream(command: &CommandFilterCtx, is_in_transaction: bool, error: String) {
    refuse_data(command, false, is_in_transaction, || error);
}

/// The client is gone.
pub fn disconnected(client: ClientId) {
    redirect::disconnected(client);
    if LEVEL.load(Ordering::Relaxed) >= WRITES_SOON {
        TRANSACTIONS.with_borrow_mut(|transactions| transactions.end(client));
    }
}

fn refuse(command: &CommandFilterCtx, error: String) {
    ERRORS.with_borrow_mut(|errors| errors.0 = error);
    replace(command, REFUSED);
}

/// The command becomes one of that name, without arguments.
fn replace(command: &CommandFilterCtx, name: &str) {
    for position in (1..command.args_count()).rev() {
        command.arg_delete(position);
    }
    command.arg_replace(0, name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transaction_calls_follows_from_what_was_queued() {
        let mut stream = StreamCalls::new();
        stream.note(false);
        assert!(!stream.may_call);
        stream.note(true);
        assert!(stream.may_call);
        stream.begin();
        stream.note(true);
        stream.note(false);
        assert!(!stream.may_call, "nothing runs yet");
        stream.execute();
        assert!(stream.may_call);
        stream.begin();
        stream.note(false);
        stream.execute();
        assert!(!stream.may_call);
        stream.execute();
        assert!(stream.may_call, "what was queued is not known");
    }

    #[test]
    fn config_rewrite_is_known_by_any_case() {
        assert!(is_config_rewrite(b"config", b"rewrite"));
        assert!(is_config_rewrite(b"CONFIG", b"ReWrite"));
        assert!(!is_config_rewrite(b"CONFIG", b"SET"));
        assert!(!is_config_rewrite(b"CONFIG", b""));
    }

    #[test]
    fn commands_that_take_a_node_from_its_log_are_known_by_any_case() {
        for name in ["REPLICAOF", "replicaof", "SlaveOf", "failover"] {
            assert!(changes_role(name.as_bytes()), "{name}");
        }
        for name in ["GET", "REPLCONF", "SETRANGE", "GETRANGE1"] {
            assert!(!changes_role(name.as_bytes()), "{name}");
        }
    }
}
