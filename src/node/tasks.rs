//! What the agent asks of the main thread, carried out.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use valkey_module::logging::{log_notice, log_warning};
use valkey_module::{CallOptionsBuilder, CallReply, CallResult, Context};

use crate::base::panic_guard::has_failed;
use crate::decide::gate::Connections;
use crate::exchange::own_logins::Origin;
use crate::exchange::server_facts::Facts;
use crate::exchange::{lease_clock, Position, Progress, Task};
use crate::node::{self, audit_reads, Module, Role};
use crate::server::follow_settings::{self, Owner};
use crate::server::held_table::{Diversion, Turn};
use crate::server::internals::Internals;
use crate::server::named_link::{self, Link};
use crate::server::{api, data_types};
use crate::settings;

/// Kinds of listeners that a server shows in INFO: TCP, unix sockets, TLS, RDMA, and room for more.
const MAX_LISTENERS: usize = 8;

thread_local! {
    static TASKS: RefCell<Option<Receiver<Task>>> = const { RefCell::new(None) };
    static IS_CHANGING_ROLE: Cell<bool> = const { Cell::new(false) };
}

/// Whether it is this module that makes the server a replica or a primary.
pub fn is_changing_role() -> bool {
    IS_CHANGING_ROLE.get()
}

fn is_attaching() -> bool {
    node::with(|module| module.role == Role::Attaching).unwrap_or(false)
}

fn change_server_role(ctx: &Context, arguments: &[&str]) -> Result<(), String> {
    let follows = node::with(|module| matches!(module.role, Role::Attaching | Role::Follower)) == Some(true);
    if !follows {
        return Err("this node is not attaching to its log any more".to_owned());
    }
    IS_CHANGING_ROLE.set(true);
    let result = api::call(ctx, "REPLICAOF", arguments);
    IS_CHANGING_ROLE.set(false);
    result.map(drop)
}

/// Tasks come from `tasks` from now on.
pub fn receive_from(tasks: Receiver<Task>) {
    TASKS.set(Some(tasks));
}

/// Runs the tasks that wait. Main thread, outside of any command and of any server event.
pub fn run() {
    let Some(ctx) = node::with(|module| Context::new(module.ctx.ctx)) else { return };
    while let Some(task) = TASKS.with_borrow(|tasks| tasks.as_ref().and_then(|tasks| tasks.try_recv().ok())) {
        carry_out(&ctx, task);
    }
}

/// The module is not borrowed while a command of the server runs here: the command makes the server call back.
fn carry_out(ctx: &Context, task: Task) {
    match task {
        Task::Describe(reply) => answer(reply, describe(ctx)),
        Task::Follow { address, user, password, reply } => answer(reply, follow(ctx, address, &user, &password)),
        Task::FollowAt(address, reply) => answer(reply, follow_at(ctx, address)),
        Task::Promote(reply) => answer(reply, promote(ctx)),
        Task::StartStream(offset, reply) => answer(reply, start_stream(ctx, offset)),
        Task::LookForShutdown => {
            let is_shutting_down = ctx.server_info("server").field("shutdown_in_milliseconds").is_some();
            node::with(|module| {
                module.shared.is_shutting_down.store(is_shutting_down, Ordering::Relaxed);
                module.shared.agent_bell.ring();
            });
        }
        Task::ReadKeys(mut step, reply) => {
            audit_reads::run(ctx, &mut step);
            answer(reply, step);
        }
        Task::UnknownTypes(names, reply) => answer(reply, data_types::unknown(names)),
        Task::Progress(reply) => answer(reply, progress(ctx)),
        Task::LacksLink(reply) => answer(reply, lacks_link(ctx)),
        Task::Advance(end, reply) => answer(reply, advance(ctx, end)),
        Task::MarkStream(reply) => answer(reply, mark_stream(ctx)),
        Task::TakeConnection(socket, secrets, reply) => {
            let taken = Internals::get().map_err(str::to_owned).and_then(|internals| internals.take_connection(socket));
            let expected = taken.map(|client| {
                node::with(|module| module.own_logins.expect(Origin::Client(client), secrets));
            });
            answer(reply, expected);
        }
        Task::ExpectLogins(origin, secrets, reply) => {
            node::with(|module| module.own_logins.expect(origin, secrets));
            answer(reply, ());
        }
        Task::Divert(pipe, reply) => {
            let is_diverted = node::with(|module| {
                let tap = module.shared.tap_client.load(Ordering::Relaxed);
                let gate = module.gate.as_mut()?;
                Some(
                    gate.connections
                        .divert(tap, Diversion { pipe, shared: Arc::clone(&module.shared), turn: Turn::default() }),
                )
            });
            answer(reply, is_diverted.flatten().unwrap_or(false));
        }
        Task::SelfTestPending(reply) => {
            let pending = node::with(|module| {
                let client = module.self_test_client;
                let gate = module.gate.as_mut()?;
                gate.connections.flush(client);
                Some(gate.connections.waiting_bytes(client))
            });
            answer(reply, pending.flatten().unwrap_or(0));
        }
        Task::SelfTestRelease(reply) => {
            node::with(|module| {
                let client = module.self_test_client;
                if let Some(gate) = module.gate.as_mut() {
                    gate.let_go(client);
                }
            });
            answer(reply, ());
        }
        Task::LearnDatabase(number, reply) => {
            let is_known = node::with(|module| {
                let client = module.self_test_client;
                Some(module.gate.as_mut()?.connections.learn_database(client, number))
            });
            answer(reply, is_known.flatten().unwrap_or(false));
        }
        Task::OneDatabase => {
            node::with(|module| {
                if let Some(gate) = &mut module.gate {
                    gate.connections.layout.there_is_one();
                }
            });
        }
        Task::WatchModules => watch_modules(ctx),
        Task::LookAtHeldBytes => {
            let limits = api::config(ctx, "client-output-buffer-limit");
            node::with(|module| module.close_those_with_most(Instant::now(), &limits));
        }
        Task::SelfTestDone(result) => {
            let is_news = node::with(|module| module.self_test.as_ref() != Some(&result)) == Some(true);
            if let (Err(why), true) = (&result, is_news) {
                log_warning(format!("durability: sync mode does not work in this server: {why}"));
            }
            node::with(|module| module.self_test = Some(result));
        }
        Task::Lead { epoch, stage } => {
            if is_current(stage) && is_attaching() && !api::is_replica(ctx) {
                change_role("leading", |module| module.lead(epoch));
            }
        }
        Task::ServeReads { stage } => {
            if is_current(stage) && is_attaching() && api::is_replica(ctx) {
                change_role("following", Module::serve_reads);
            }
        }
        Task::Resume(epoch) => change_role("leading again", |module| module.resume(epoch)),
        Task::CloseClients => {
            change_role("not leading", Module::listen_to_commands);
            close_clients(ctx);
        }
        Task::PauseWrites(reply) => {
            if let Some(offset) = node::with(Module::pause_writes).flatten() {
                answer(reply, offset);
            }
        }
        Task::GoOn => {
            node::with(Module::go_on);
        }
        Task::StepDown { end, is_decided, reply } => {
            if is_decided.swap(true, Ordering::AcqRel) {
                return;
            }
            let may = node::with(|module| module.may_step_down(end)) == Some(true);
            if may {
                log_notice("durability: everything is in the log; this node leads no more");
                step_down(ctx, Role::Attaching);
            }
            answer(reply, may);
        }
        Task::Hold(why) => {
            // The log does not answer, so clients are told at once.
            node::with(Module::end_settling);
            if node::with(Module::stop_leading) == Some(true) {
                log_warning(format!("durability: not serving clients: {why}"));
                node::with(Module::note_deposition);
                step_down(ctx, Role::Attaching);
            } else {
                lease_clock::put_off();
            }
        }
        Task::StandAside => {
            change_role("standing aside", Module::listen_to_commands);
            follow_settings::restore(ctx);
        }
        Task::StopFollowing => stop_following(ctx),
        Task::StartOver(why) => {
            if node::with(|module| module.role == Role::Refused(why)) == Some(true) {
                change_role("starting over", |module| module.serve_nobody(Role::Attaching));
            }
        }
        Task::RestoreSettings => {
            if follow_settings::owner() == Owner::Mixed {
                follow_settings::restore(ctx);
            }
        }
        Task::TermEnded => {
            node::with(Module::term_ended);
        }
        Task::AttachAnew => {
            let is_refused = node::with(|module| matches!(module.role, Role::Refused(_)));
            if is_refused == Some(true) && !has_failed() {
                change_role("attaching", |module| module.serve_nobody(Role::Attaching));
            }
        }
        Task::FollowsWhole(user, reply) => answer(reply, follows_whole(ctx, &user)),
        Task::Held(reply) => answer(reply, held(ctx)),
        Task::Refuse(why) => {
            log_warning(format!("durability: refusing clients until an operator acts: {why}"));
            if node::with(Module::stop_leading) == Some(true) {
                step_down(ctx, Role::Refused(why));
            } else {
                lease_clock::put_off();
                // A node that has no log any more serves without it.
                if node::with(|module| matches!(module.role, Role::Off | Role::Replica)) == Some(false) {
                    change_role("refusing", |module| module.serve_nobody(Role::Refused(why)));
                }
            }
        }
    }
}

/// The agent may have stopped waiting.
fn answer<T>(reply: Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Whether the node has not ceased to attach since the agent saw that stage.
fn is_current(stage: u64) -> bool {
    node::with(|module| module.shared.stage.load(Ordering::Relaxed) == stage) == Some(true)
}

/// This node leads no more. Nobody who is connected gets another answer from it.
fn step_down(ctx: &Context, role: Role) {
    lease_clock::lost();
    node::with(|module| lease_clock::answer_beyond(module.newest_client));
    change_role("ceasing to lead", |module| module.serve_nobody(role));
    close_clients(ctx);
    node::with(Module::end_settling);
}

/// Closes all clients without another answer: they look for the node that leads. What gets the stream is closed as well, but for the
/// tap, which the log judges.
fn close_clients(ctx: &Context) {
    let close = |arguments: &[&str]| {
        // One that is gone already is no error worth telling.
        if let Err(why) = api::call(ctx, "CLIENT", arguments) {
            if !why.contains("No such client") {
                log_warning(format!("durability: clients are not closed, and get no answer: {why}"));
            }
        }
    };
    close(&["KILL", "TYPE", "normal"]);
    close(&["KILL", "TYPE", "pubsub"]);
    let tap = node::with(|module| module.shared.tap_client.load(Ordering::Relaxed)).unwrap_or(0);
    for line in api::client_list(ctx, "replica").unwrap_or_default() {
        let id = line.strip_prefix("id=").and_then(|line| line.split_whitespace().next()).unwrap_or("0");
        if id != tap.to_string() {
            close(&["KILL", "ID", id]);
        }
    }
}

fn change_role(what: &str, change: impl FnOnce(&mut Module) -> Result<(), String>) {
    if let Some(Err(why)) = node::with(change) {
        log_warning(format!("durability: {what} failed: {why}"));
    }
}

fn describe(ctx: &Context) -> Facts {
    let is_others_replica = api::is_replica(ctx) && follow_settings::owner() != Owner::Log;
    let follows_log = api::is_replica(ctx) && !is_others_replica;
    let has_data = has_data(ctx);
    let mut facts = Facts { has_data, is_others_replica, follows_log, is_as_left: is_as_left(ctx), ..Facts::default() };
    let info = ctx.server_info("server");
    // A kind that it does not listen by leaves a gap in their numbers.
    for number in 0..MAX_LISTENERS {
        if let Some(listener) = info.field(&format!("listener{number}")) {
            facts.add_listener(&listener.to_string_lossy());
        }
    }
    facts.databases = api::config(ctx, "databases").parse().unwrap_or(0);
    facts.engine = info.field("valkey_version").map(|version| version.to_string_lossy()).unwrap_or_default();
    facts
}

/// Whether the server has any key or function.
pub fn has_data(ctx: &Context) -> bool {
    let has_functions = match api::call(ctx, "FUNCTION", &["LIST"]) {
        Ok(CallReply::Array(functions)) => functions.len() > 0,
        _ => false,
    };
    has_functions || !is_empty_keyspace(ctx)
}

/// Whether no database has a key.
fn is_empty_keyspace(ctx: &Context) -> bool {
    match api::call(ctx, "INFO", &["keyspace"]) {
        Ok(CallReply::String(text)) => !text.to_string().unwrap_or_default().contains("keys="),
        Ok(CallReply::VerbatimString(text)) => {
            text.as_parts().is_some_and(|(_, bytes)| !String::from_utf8_lossy(bytes).contains("keys="))
        }
        // An answer of no known form: rather take it that there is data than lose it.
        _ => false,
    }
}

fn follow(ctx: &Context, address: SocketAddr, user: &str, password: &str) -> Result<(), String> {
    // Before the first byte of the stream arrives.
    node::with(Module::listen_to_commands).unwrap_or(Ok(()))?;
    follow_settings::set(ctx, user, password)?;
    if !api::is_replica(ctx) && node::with(|module| module.may_hold_untold_writes()) == Some(true) {
        // A server that ceases to be a replica gets a replication id that its log does not know, and so a full copy.
        replicate_from(ctx, address)?;
        change_server_role(ctx, &["NO", "ONE"])?;
    }
    follow_at(ctx, address)
}

fn follow_at(ctx: &Context, address: SocketAddr) -> Result<(), String> {
    if follow_settings::owner() != Owner::Log {
        return Err("this node does not follow its log any more".to_owned());
    }
    replicate_from(ctx, address)?;
    log_notice(format!("durability: following the log at {address}"));
    Ok(())
}

fn replicate_from(ctx: &Context, address: SocketAddr) -> Result<(), String> {
    let host = match address {
        // Of an address that means something on one link only.
        SocketAddr::V6(address) if address.scope_id() > 0 => format!("{}%{}", address.ip(), address.scope_id()),
        address => address.ip().to_string(),
    };
    let log = settings::LOG.value();
    let (name, _) = settings::parse_address(&log)?;
    let before = named_link::expect(Link { address: host.clone(), port: address.port(), host: name });
    change_server_role(ctx, &[&host, &address.port().to_string()]).inspect_err(|_| named_link::restore(before))
}

/// The server is a primary from now on, whose history is its own. Notes where that begins.
fn stop_following(ctx: &Context) {
    let left_at = node::with(|module| module.shared.leave_offset.load(Ordering::Relaxed));
    let mut offset = left_at.unwrap_or(0);
    if follow_settings::owner() == Owner::Log {
        IS_CHANGING_ROLE.set(true);
        let ended = api::call(ctx, "REPLICAOF", &["NO", "ONE"]);
        IS_CHANGING_ROLE.set(false);
        match ended {
            Ok(_) => follow_settings::restore(ctx),
            Err(why) => log_warning(format!("durability: the server still follows its log: {why}")),
        }
        // What came from the log until now is no write of this node's.
        offset = api::replication_offset(ctx);
    }
    let left = kept_position(ctx).map(|(replid, _)| (replid, offset));
    node::with(|module| {
        if std::mem::take(&mut module.is_to_note_where) {
            module.left = left;
        }
    });
}

/// Where the server's stream stands, if it keeps one: then whatever it writes moves that on, or ends the stream of that replication id.
fn kept_position(ctx: &Context) -> Option<(String, u64)> {
    let is_kept = ctx.server_info("replication").field("repl_backlog_active")?.to_string_lossy() == "1";
    position(ctx).ok().filter(|_| is_kept && !api::is_replica(ctx))
}

/// Whether nothing came into the server's stream since it held what the log had.
fn is_as_left(ctx: &Context) -> bool {
    let left = node::with(|module| module.left.clone()).flatten();
    left.is_some() && kept_position(ctx) == left
}

/// Whether the server is linked to its log. If so, all it holds is from there, and by `user` it says so when it connects again.
fn follows_whole(ctx: &Context, user: &str) -> bool {
    if follow_settings::owner() != Owner::Log || progress(ctx).is_none() {
        return false;
    }
    match follow_settings::set_user(ctx, user) {
        Ok(()) => true,
        Err(why) => {
            log_warning(format!("durability: the server does not tell the log what it holds: {why}"));
            false
        }
    }
}

/// What the server holds, if all of it is from its log, linked to it or not.
fn held(ctx: &Context) -> Option<(String, u64)> {
    let is_whole = api::is_replica(ctx) && follow_settings::owner() == Owner::Log && follow_settings::is_whole();
    position(ctx).ok().filter(|_| is_whole)
}

/// A server that never had a replica counts no offsets yet. It starts where a log starts that holds nothing, so the two
/// already agree, and neither a full sync nor a fork is needed.
fn start_stream(ctx: &Context, offset: u64) -> Option<(String, u64)> {
    let internals = Internals::get().ok()?;
    let info = ctx.server_info("replication");
    let has_no_backlog = info.field("repl_backlog_active")?.to_string_lossy() == "0";
    if !is_attaching() || !has_no_backlog || api::is_replica(ctx) || api::replication_offset(ctx) != offset {
        return None;
    }
    // SAFETY: it has none, as it just said.
    unsafe { internals.start_replication_backlog() };
    position(ctx).ok()
}

/// Where other modules have commands, and this node leads, each command's event is heard, and it is found out how the server tells
/// what is put into the stream.
fn watch_modules(ctx: &Context) {
    let wants =
        |module: &mut Module| module.role == Role::Leader && module.gate.is_some() && module.commands.has_others();
    let (Some(true), Ok(internals)) = (node::with(wants), Internals::get()) else { return };
    if takes_words(ctx) {
        let ping = ctx.create_string("PING");
        // SAFETY: a task runs outside of commands and events; this node leads, so it keeps its stream, which takes words; and the
        // string lives.
        if !unsafe { internals.find_queue(ping.inner) } {
            log_notice(
                "durability: what modules write past the stream is found only where nothing else is written meanwhile",
            );
        }
    }
    node::with(Module::watch_commands);
}

/// Whether words that the module puts into the server's stream get there: it is a primary, and nothing is paused.
fn takes_words(ctx: &Context) -> bool {
    let actions = ctx.server_info("clients").field("paused_actions").map(|actions| actions.to_string_lossy());
    actions.is_some_and(|actions| actions == "none") && !api::is_replica(ctx)
}

/// `None` unless this is a replica whose link is up, and that had to pass over nothing.
fn progress(ctx: &Context) -> Option<Progress> {
    if node::with(|module| matches!(module.role, Role::Attaching | Role::Follower)) != Some(true) {
        return None;
    }
    let info = ctx.server_info("replication");
    let number = |name: &str| info.field(name)?.to_string_lossy().parse::<u64>().ok();
    let is_up = info.field("master_link_status")?.to_string_lossy() == "up";
    let (applied, received) = (number("slave_repl_offset")?, number("slave_read_repl_offset")?);
    let replid = info.field("master_replid")?.to_string_lossy();
    is_up.then(|| Progress { replid, applied, received, is_paused: applied < received && is_paused(ctx) })
}

/// Whether the stream is received but not applied, because `CLIENT PAUSE` holds for the primary as well, or it is blocked.
fn is_paused(ctx: &Context) -> bool {
    let is_blocked = |line: &str| {
        let flags = line.split_whitespace().find_map(|field| field.strip_prefix("flags="));
        flags.is_some_and(|flags| flags.contains('b'))
    };
    let info = ctx.server_info("clients");
    let pauses = info.field("paused_actions").is_none_or(|actions| actions.to_string_lossy() != "none");
    // What cannot be told counts as paused: to take a log's end for torn is for good.
    pauses || api::client_list(ctx, "master").map_or(true, |lines| lines.iter().any(|line| is_blocked(line)))
}

fn lacks_link(ctx: &Context) -> bool {
    let info = ctx.server_info("replication");
    let is = |name: &str, value: &str| info.field(name).is_some_and(|field| field.to_string_lossy() == value);
    is("master_link_status", "down") && is("master_sync_in_progress", "0")
}

/// A PING goes into the stream, where the server's internals are known; else what [`advance`] writes.
fn mark_stream(ctx: &Context) -> Result<u64, String> {
    if !takes_words(ctx) {
        return Err("the server's stream cannot be moved on: clients are paused, or it is a replica".to_owned());
    }
    let before = api::replication_offset(ctx);
    match Internals::get() {
        Ok(internals) if node::why_sync_is_impossible().is_none() => {
            let ping = ctx.create_string("PING");
            // SAFETY: a task runs outside of commands and events, the stream takes words, and the string lives.
            unsafe { internals.put_into_stream(ping.inner) };
        }
        _ => advance(ctx, before + 1)?,
    }
    Ok(api::replication_offset(ctx))
}

/// Writes and deletes a key of the module's own until the stream is long enough.
fn advance(ctx: &Context, end: u64) -> Result<(), String> {
    const KEY: &str = "durability:padding";
    const STEP_BYTES: u64 = 1 << 20;
    let options = CallOptionsBuilder::new().replicate().errors_as_replies().build();
    let run = |command: &str, arguments: &[&str]| {
        let result: CallResult = ctx.call_ext(command, &options, arguments);
        result.map(drop).map_err(|error| error.to_utf8_string().unwrap_or_default())
    };
    loop {
        let offset = api::replication_offset(ctx);
        if offset >= end {
            return Ok(());
        }
        let padding = "0".repeat((end - offset).min(STEP_BYTES) as usize);
        run("SET", &[KEY, &padding])?;
        run("DEL", &[KEY])?;
        if api::replication_offset(ctx) == offset {
            return Err("the replication stream does not move".to_owned());
        }
    }
}

fn promote(ctx: &Context) -> Position {
    // A node that had to pass over something is refused by `change_server_role`: everything was applied before this.
    node::with(Module::prepare_to_lead);
    change_server_role(ctx, &["NO", "ONE"])?;
    follow_settings::restore(ctx);
    position(ctx)
}

fn position(ctx: &Context) -> Position {
    let info = ctx.server_info("replication");
    let replid = info.field("master_replid").map(|id| id.to_string_lossy()).unwrap_or_default();
    if !durability_protocol::is_valid_replid(&replid) {
        return Err(format!("the server shows no replication id in INFO ('{replid}')"));
    }
    Ok((replid, api::replication_offset(ctx)))
}
