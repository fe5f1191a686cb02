//! Loading and unloading the module.

use std::ffi::{c_int, CString};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use valkey_module::logging::log_warning;
use valkey_module::{raw, Context, Status, ValkeyString};

use crate::agent::{self, Started};
use crate::base::panic_guard::guard;
use crate::decide::gate::{Connections, Gate};
use crate::decide::taken_replies;
use crate::exchange::{lease_clock, Shared};
use crate::front::{command_docs, commands};
use crate::hooks;
use crate::node::{self, command_filter, login_check, tasks, Module, Parts};
use crate::server::api::{self, TapUser};
use crate::server::command_table::CommandTable;
use crate::server::connections::ServerConnections;
use crate::server::internals::{self, Internals};
use crate::server::{config_apply, held_table, named_link, propagation, running_client, write_path};
use crate::settings::{self, tls, token, Mode};

/// Checks what can be checked before anything is registered.
pub fn before_load(ctx: &Context, arguments: &[ValkeyString]) -> Status {
    let (major, minor, patch) = api::version();
    if (major, minor) < (9, 1) {
        ctx.log_warning(&format!(
            "this module needs Valkey 9.1 or newer (for its command-result events), and this is {major}.{minor}.{patch}: \
             upgrade valkey-server, or remove the loadmodule line"
        ));
        return Status::Err;
    }
    let texts: Vec<String> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    if let Err(why) = settings::check_arguments(texts.iter().map(String::as_str)) {
        ctx.log_warning(&why);
        return Status::Err;
    }
    config_apply::check_configs(settings::CONNECTION_CHECK);
    // Refused if the module was loaded before: a category outlives its module. If there is no room for it, its use fails.
    let _ = ctx.add_acl_category(command_docs::CATEGORY);
    // The server reads this before it calls `load`: with diskless loading, a replica keeps serving while it loads.
    let options = raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD
        | raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS
        | raw::VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION;
    // SAFETY: set while the module loads, before this is called.
    if let Some(set_options) = unsafe { raw::RedisModule_SetModuleOptions } {
        // SAFETY: a valid context.
        unsafe { set_options(ctx.ctx, options as c_int) };
    }
    Status::Ok
}

/// Starts the module. Its configuration is known by now.
pub fn load(ctx: &Context, _: &[ValkeyString]) -> Status {
    let started = guard("loading", Err("an internal error".to_owned()), || start(ctx));
    match started {
        Ok(()) => Status::Ok,
        Err(why) => {
            ctx.log_warning(&format!("the durability module cannot start: {why}"));
            Status::Err
        }
    }
}

fn start(ctx: &Context) -> Result<(), String> {
    if cfg!(feature = "broken-gate") {
        log_warning("durability: THIS BUILD IS BROKEN ON PURPOSE (broken-gate): acknowledged writes will be lost");
    }
    tls::server_has_tls(!api::config(ctx, "tls-replication").is_empty());
    if settings::TLS.is_on() {
        tls::check().map_err(|error| error.to_string())?;
    }
    token::check().map_err(|error| error.to_string())?;
    if settings::MODE.mode() != Mode::Off {
        if let Some(why) = node::why_the_log_is_impossible(ctx) {
            return Err(why);
        }
    }
    if settings::MODE.mode() == Mode::Sync {
        if let Some(why) = node::why_sync_is_impossible() {
            return Err(why);
        }
    }
    give_large_memory_back();
    forget_earlier_life();
    // SAFETY: set while the module loads, before this is called; the context is valid.
    let lasting = unsafe { raw::RedisModule_GetDetachedThreadSafeContext.map(|get| get(ctx.ctx)) };
    let lasting = Context::new(lasting.ok_or("the server has no thread-safe contexts")?);

    command_docs::register(ctx)?;
    raw::register_info_function(ctx.ctx, Some(commands::info));
    api::subscribe(ctx, internals::EVENT_EVENTLOOP, Some(hooks::on_event_loop))?;
    api::subscribe(ctx, internals::EVENT_CLIENT_CHANGE, Some(hooks::on_client_change))?;
    api::subscribe(ctx, internals::EVENT_MODULE_CHANGE, Some(hooks::on_module_change))?;
    api::subscribe(ctx, internals::EVENT_SHUTDOWN, Some(hooks::on_shutdown))?;
    api::subscribe(ctx, internals::EVENT_REPLICATION_ROLE_CHANGED, Some(hooks::on_role_change))?;
    api::subscribe(ctx, internals::EVENT_LOADING, Some(hooks::on_loading))?;
    api::subscribe(ctx, internals::EVENT_LOADING_PROGRESS, Some(hooks::on_loading_progress))?;

    api::watch_evictions(ctx, hooks::on_eviction)?;
    api::watch_streams(ctx, hooks::on_stream)?;
    api::add_filter(ctx, command_filter::filter)?;
    api::add_login(ctx, login_check::authenticate);

    let commands = match CommandTable::of_server(ctx, None) {
        // Where COMMAND was renamed, the module is never switched on.
        Err(_) if settings::MODE.mode() == Mode::Off => CommandTable::default(),
        table => table?,
    };
    let tap_user = TapUser::new()?;
    let (shared, receiver) = Shared::new().map_err(|error| format!("no descriptors or randomness: {error}"))?;
    let shared = Arc::new(shared);
    api::watch(shared.main_bell.as_fd().as_raw_fd(), hooks::on_bell)?;
    tasks::receive_from(receiver);

    let gate = match Internals::get() {
        Ok(internals) if node::why_sync_is_impossible().is_none() => {
            write_path::install(internals);
            named_link::install(internals);
            Some(Gate::new(ServerConnections::new(internals, Arc::clone(&shared))))
        }
        _ => None,
    };
    // At a server's start there is no data yet. Where there is, clients have written it without this module.
    let was_off = tasks::has_data(ctx);
    let is_replica = settings::ALLOW_REPLICAOF.load(Ordering::Relaxed) && api::is_replica(ctx);
    lease_clock::tell(Some(Arc::clone(&shared)));
    lease_clock::watch_forks();
    let Started { to_agent, ended: agent, keeper } =
        agent::start(Arc::clone(&shared), settings::MODE.mode(), is_replica, was_off)
            .map_err(|error| format!("no thread: {error}"))?;
    let parts = Parts { ctx: lasting, shared, gate, tap_user, to_agent, agent, keeper, commands, is_replica, was_off };
    node::loaded(Module::new(parts));
    Ok(())
}

/// The library stays mapped when the module is unloaded, and with it all that is static. Whatever is not so any more when the module is
/// loaded again is named here. Not the server's settings that could not be set back ([`crate::server::follow_settings`]), nor that a callback has
/// panicked, which lasts until a restart.
fn forget_earlier_life() {
    held_table::forget_all();
    taken_replies::set_log_is_slow(false);
    command_filter::forget_all();
    propagation::wait_for_cause(false);
    running_client::forget_all();
    lease_clock::not_needed();
    lease_clock::answer_nobody_beyond_it();
}

/// What waited for the log is large blocks. By default glibc stops giving those back to the system once the first was freed,
/// so that memory would stay with the process after an outage of the log.
fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only sets a number of this process's allocator, which is not the server's own.
    unsafe {
        const LARGE_BYTES: c_int = 128 << 10;
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Ends the module, if that loses nothing.
pub fn unload(ctx: &Context) -> Status {
    guard("unloading", Status::Err, || {
        if !node::with(|module| module.may_be_unloaded()).unwrap_or(true) {
            ctx.log_warning(
                "the durability module is in use: CONFIG SET durability.mode off first, then unload it. Clients that wait for the log \
                 keep it loaded while there are held_clients in INFO durability, those that read slowly while there are held_bytes",
            );
            return Status::Err;
        }
        if let Some(mut module) = node::unloaded() {
            module.end_settling();
            module.stop_agent();
            lease_clock::tell(None);
            api::unwatch(module.shared.main_bell.as_fd().as_raw_fd());
            if let Some(gate) = &mut module.gate {
                gate.connections.abandon_half_closed();
                write_path::uninstall();
                named_link::uninstall();
            }
        }
        Status::Ok
    })
}

/// A C string from text that holds no zero byte.
pub fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("'{text}' holds a zero byte"))
}
