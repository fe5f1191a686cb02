//! What the server calls the module for: every subscription stands here, with its reason. `decode.rs` holds the functions that the server
//! calls, and [`Hooks`] is what they pass on.
//!
//! The server calls all of them on its main thread, but for the command's events, which also come from threads of other modules while those
//! hold the server's lock.

mod decode;

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use valkey_module::{raw, Context, InfoContext, RedisModuleCommandFilterCtx};

use crate::decide::gate::ClientId;
use crate::server::api::api;
use crate::server::command_result::CommandResult;

// Ids of events (`valkeymodule.h`).
/// The server became a replica, or a primary.
const REPLICATION_ROLE_CHANGED: u64 = 0;
/// A database, or all of them, were emptied.
const FLUSHDB: u64 = 2;
/// Data begins to be loaded, or was, or could not be.
const LOADING: u64 = 3;
/// A client connected or disconnected.
const CLIENT_CHANGE: u64 = 4;
/// The server shuts down.
const SHUTDOWN: u64 = 5;
/// A module was loaded or unloaded.
const MODULE_CHANGE: u64 = 9;
/// Data is being loaded; reported now and then.
const LOADING_PROGRESS: u64 = 10;
/// The event loop is about to sleep, or woke up.
const EVENTLOOP: u64 = 15;
/// Configs were changed.
const CONFIG: u64 = 16;
/// A command ran and did not fail.
const COMMAND_RESULT_SUCCESS: u64 = 20;
/// A command ran and failed.
const COMMAND_RESULT_FAILURE: u64 = 21;
/// A command was refused before it ran: it does not exist, has too few arguments, or may not run now.
const COMMAND_RESULT_REJECTED: u64 = 22;
/// A command was refused before it ran, by the permissions of its user.
const COMMAND_RESULT_ACL_REJECTED: u64 = 23;

/// What the module does when the server calls it.
pub trait Hooks: 'static {
    /// A command ran. Called for each command while replies are held, so every nanosecond counts.
    fn command_ran(ctx: &Context, result: &CommandResult, has_failed: bool);
    /// [`Hooks::command_ran`] has panicked, so what that client's reply depends on is not known.
    fn command_is_not_understood(client: ClientId);
    /// A command failed, or was refused before it ran, while this node follows its log or may do so.
    fn command_failed_while_following(result: &CommandResult);
    /// A database was emptied, or all were.
    fn flushed();
    /// A key was evicted.
    fn evicted(key: &[u8]);
    /// The command that runs has made a consumer in that stream.
    fn consumer_created(stream: &[u8]);
    /// The event loop wakes: something is to be done.
    fn woke();
    /// The event loop is about to write replies to sockets, and to sleep.
    fn before_sleep();
    /// A client has connected.
    fn client_connected(client: ClientId);
    /// A client is about to be freed.
    fn client_disconnected(client: ClientId);
    /// The server became a replica, or a primary.
    fn role_changed(is_replica: bool);
    /// The data that the server began to load could not be loaded.
    fn loading_failed();
    /// Data is being loaded, during which the event loop does not go round as usual.
    fn loading_goes_on();
    /// Another module was loaded, or is being unloaded: `leaving` is its name then, and the server still lists it.
    fn modules_changed(ctx: &Context, leaving: Option<&str>);
    /// Configs were changed, perhaps by this module.
    fn configs_changed();
    /// The server shuts down.
    fn shuts_down();
    /// In a cluster, the node of that name asks this one to hand over to it.
    fn asked_to_hand_over(name: &str);
    /// In a cluster, the node with that id says that it is of the shard of that name, and may ask for that of this one.
    fn heard_shard(node: &str, shard: &str, asks: bool);
    /// The agent has woken the main thread.
    fn agent_rang();
    /// A command is about to run, or to be queued. Called before every command of every client and script, but for those that the module
    /// itself runs. The context is the server's own.
    fn filter(ctx: *mut RedisModuleCommandFilterCtx);
    /// A client logs in. Returns whether that is the module's own connection, which is logged in now; if not, the server's users decide.
    fn log_in(ctx: &Context, user: &[u8], password: &[u8]) -> bool;
}

/// The module's section of INFO.
pub trait InfoSection: 'static {
    /// A client asks for it.
    fn show(ctx: &InfoContext);
}

/// Subscribes to everything that the module needs in every mode and role. While the module loads.
///
/// # Errors
/// The server does not know an event.
pub fn subscribe<H: Hooks>(ctx: &Context) -> Result<(), String> {
    // Groups are closed before the server writes replies, and time is looked at when it wakes.
    subscribe_to(ctx, EVENTLOOP, Some(decode::on_event_loop::<H>))?;
    // What is known of a connection must go before the server frees it.
    subscribe_to(ctx, CLIENT_CHANGE, Some(decode::on_client_change::<H>))?;
    // Commands come and go, and other modules may write what no command tells about.
    subscribe_to(ctx, MODULE_CHANGE, Some(decode::on_module_change::<H>))?;
    // The agent ships what is left, and gives back the lease.
    subscribe_to(ctx, SHUTDOWN, Some(decode::on_shutdown::<H>))?;
    // They are compared with those of the other nodes.
    subscribe_to(ctx, CONFIG, Some(decode::on_config_change::<H>))?;
    // Somebody may take the node away from its log.
    subscribe_to(ctx, REPLICATION_ROLE_CHANGED, Some(decode::on_role_change::<H>))?;
    // A full copy from the log may not load, and nothing of it is to be dropped for its age.
    subscribe_to(ctx, LOADING, Some(decode::on_loading::<H>))?;
    // Clients wait no longer than they may, also while the server loads.
    subscribe_to(ctx, LOADING_PROGRESS, Some(decode::on_loading_progress::<H>))?;
    // No command's event tells about a key that is evicted.
    subscribe_to_keyspace(ctx, raw::REDISMODULE_NOTIFY_EVICTED, decode::on_eviction::<H>)
        .map_err(|()| "the server does not report evictions".to_owned())?;
    // The server does not put every consumer that a command makes into the stream.
    subscribe_to_keyspace(ctx, raw::REDISMODULE_NOTIFY_STREAM, decode::on_stream::<H>)
        .map_err(|()| "the server does not report changes of streams".to_owned())?;
    // Commands are refused before they run.
    add_filter(ctx, decode::on_filter::<H>)?;
    // The module's own connections get in, whatever users the server has.
    // SAFETY: the context is valid and the callback has the right signature.
    unsafe { api!(RedisModule_RegisterAuthCallback)(ctx.ctx, Some(decode::on_login::<H>)) };
    Ok(())
}

/// Has `S` shown in INFO. While the module loads.
pub fn show_in_info<S: InfoSection>(ctx: &Context) {
    raw::register_info_function(ctx.ctx, Some(decode::on_info::<S>));
}

/// What the server reports about commands. Each of these costs something for each command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Commands that ran. A leader in sync mode holds their replies, and a leader in any mode completes the stream.
    pub commands: bool,
    /// Commands that failed, or were refused. A node that follows its log has to notice what it could not apply.
    pub failures: bool,
    /// Databases that were emptied: the command that did so may look like one that wrote nothing. For the gate.
    pub flushes: bool,
}

/// Subscriptions that change with the node's mode and role.
#[derive(Clone, Copy)]
pub struct CommandEvents {
    on_command: EventCallback,
    on_failure: EventCallback,
    on_flush: EventCallback,
}

impl CommandEvents {
    /// Those that end in `H`.
    pub fn of<H: Hooks>() -> Self {
        CommandEvents {
            on_command: decode::on_command::<H>,
            on_failure: decode::on_failed_while_following::<H>,
            on_flush: decode::on_flush::<H>,
        }
    }

    /// The server reports that from now on, and nothing else. Not to be called while it goes through its listeners, that is from another
    /// event's callback.
    ///
    /// # Errors
    /// The server does not know an event. Some subscriptions may have changed.
    pub fn hear(&self, ctx: &Context, heard: Heard) -> Result<(), String> {
        let on_command = heard.commands.then_some(self.on_command);
        let on_failure = heard.failures.then_some(self.on_failure);
        subscribe_to(ctx, COMMAND_RESULT_SUCCESS, on_command)?;
        // A node that wants the first leads, and so does not follow its log.
        subscribe_to(ctx, COMMAND_RESULT_FAILURE, on_command.or(on_failure))?;
        subscribe_to(ctx, COMMAND_RESULT_REJECTED, on_failure)?;
        subscribe_to(ctx, COMMAND_RESULT_ACL_REJECTED, on_failure)?;
        subscribe_to(ctx, FLUSHDB, heard.flushes.then_some(self.on_flush))
    }
}

/// Has the main thread called whenever the agent's descriptor is readable.
///
/// # Errors
/// The server has no room for the descriptor.
pub fn watch_agent<H: Hooks>(fd: BorrowedFd) -> Result<(), String> {
    let (fd, readable) = (fd.as_raw_fd(), raw::REDISMODULE_EVENTLOOP_READABLE as c_int);
    // SAFETY: the callback has the right signature and uses no user data.
    let status = unsafe { api!(RedisModule_EventLoopAdd)(fd, readable, Some(decode::on_bell::<H>), ptr::null_mut()) };
    if status == raw::REDISMODULE_OK as c_int {
        Ok(())
    } else {
        Err(format!("the server cannot watch descriptor {fd}: raise maxclients"))
    }
}

/// Ends [`watch_agent`].
pub fn unwatch_agent(fd: BorrowedFd) {
    // SAFETY: has no preconditions; the result only says whether the descriptor was watched.
    unsafe { api!(RedisModule_EventLoopDel)(fd.as_raw_fd(), raw::REDISMODULE_EVENTLOOP_READABLE as c_int) };
}

/// A callback for a server event.
type EventCallback = unsafe extern "C" fn(*mut raw::RedisModuleCtx, raw::RedisModuleEvent, u64, *mut std::ffi::c_void);

/// Calls `callback` at each event of that id from now on; `None` ends it.
fn subscribe_to(ctx: &Context, event: u64, callback: Option<EventCallback>) -> Result<(), String> {
    let event_and_version = raw::RedisModuleEvent { id: event, dataver: 1 };
    // SAFETY: the context is valid, and the callback has the signature that the event wants.
    let status = unsafe { api!(RedisModule_SubscribeToServerEvent)(ctx.ctx, event_and_version, callback) };
    if status == raw::REDISMODULE_OK as c_int {
        Ok(())
    } else {
        Err(format!("the server has no event {event}; Valkey 9.1 or newer is needed"))
    }
}

/// A callback for a change of a key: kind and name of the change, and the key.
type KeyspaceCallback = unsafe extern "C" fn(
    *mut raw::RedisModuleCtx,
    c_int,
    *const std::ffi::c_char,
    *mut raw::RedisModuleString,
) -> c_int;

fn subscribe_to_keyspace(ctx: &Context, kinds: c_int, callback: KeyspaceCallback) -> Result<(), ()> {
    // SAFETY: the context is valid and the callback has the right signature.
    let status = unsafe { api!(RedisModule_SubscribeToKeyspaceEvents)(ctx.ctx, kinds, Some(callback)) };
    (status == raw::REDISMODULE_OK as c_int).then_some(()).ok_or(())
}

fn add_filter(ctx: &Context, filter: extern "C" fn(*mut raw::RedisModuleCommandFilterCtx)) -> Result<(), String> {
    // SAFETY: the context is valid and the filter has the right signature.
    let added = unsafe {
        api!(RedisModule_RegisterCommandFilter)(ctx.ctx, Some(filter), raw::REDISMODULE_CMDFILTER_NOSELF as c_int)
    };
    if added.is_null() {
        Err("the server takes no command filter".to_owned())
    } else {
        Ok(())
    }
}
