//! Loading and unloading the module.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

use valkey_module::logging::{log_notice, log_warning};
use valkey_module::{Context, Status, ValkeyString};

use crate::agent::{self, Started};
use crate::base::panic_guard::guard;
use crate::decide::gate::{Connections, Gate};
use crate::exchange::server_support::ServerSupport;
use crate::exchange::{lease_clock, Shared};
use crate::front::{command_docs, commands, config_registration, reset};
use crate::hooks::ModuleHooks;
use crate::node::{self, tasks, Module, Parts};
use crate::server::api::{self, TapUser};
use crate::server::command_table::CommandTable;
use crate::server::connections::ServerConnections;
use crate::server::events::CommandEvents;
use crate::server::internals::Internals;
use crate::server::{
    cluster, events, forks, hidden_replica, intercepted_writes, module_load, module_options, named_link, read_pause,
    running_client, support, version,
};
use crate::settings::arguments::Arguments;
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
    if let Err(why) = parse(arguments) {
        ctx.log_warning(&why);
        return Status::Err;
    }
    // Refused if the module was loaded before: a category outlives its module. If there is no room for it, its use fails.
    let _ = ctx.add_acl_category(command_docs::CATEGORY);
    module_options::declare(ctx);
    Status::Ok
}

fn parse(arguments: &[ValkeyString]) -> Result<Arguments, String> {
    let words: Result<Vec<&str>, _> = arguments.iter().map(ValkeyString::try_as_str).collect();
    Arguments::parse(&words.map_err(|_| "an argument of loadmodule is not UTF-8".to_owned())?)
}

/// Reads the module's configuration, and starts it.
pub fn load(ctx: &Context, arguments: &[ValkeyString]) -> Status {
    let started = guard("loading", Err("an internal error".to_owned()), || {
        config_registration::register(ctx, &parse(arguments)?)?;
        start(ctx)
    });
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
    cluster::note(ctx);
    tls::server_has_tls(!api::config(ctx, "tls-replication").is_empty());
    if settings::TLS.is_on() {
        tls::check().map_err(|error| error.to_string())?;
    }
    token::check().map_err(|error| error.to_string())?;
    if settings::MODE.mode() != Mode::Off {
        if let Some(why) = support::why_the_log_is_impossible(ctx) {
            return Err(why);
        }
        cluster::loading::mend_what_was_saved();
        if let Some(notice) = cluster::settings::apply(ctx)? {
            log_notice(format!("durability: {notice}"));
        }
    }
    let why_no_sync = support::why_sync_is_impossible();
    if let (Mode::Sync, Some(why)) = (settings::MODE.mode(), &why_no_sync) {
        return Err(why.clone());
    }
    if let Some(notice) = version::notice() {
        log_warning(format!("durability: {notice}"));
    }
    module_load::give_large_memory_back();
    reset::forget_earlier_life();
    let lasting = module_load::lasting_context(ctx).ok_or("the server has no thread-safe contexts")?;

    command_docs::register(ctx)?;
    events::show_in_info::<commands::Section>(ctx);
    events::subscribe::<ModuleHooks>(ctx)?;
    cluster::messages::listen::<ModuleHooks>(ctx);

    let commands = match CommandTable::of_server(ctx, None) {
        // Where COMMAND was renamed, the module is never switched on.
        Err(_) if settings::MODE.mode() == Mode::Off => CommandTable::default(),
        table => table?,
    };
    let tap_user = TapUser::new()?;
    let (shared, receiver) = Shared::new().map_err(|error| format!("no descriptors or randomness: {error}"))?;
    let shared = Arc::new(shared);
    events::watch_agent::<ModuleHooks>(shared.main_waker.as_fd())?;
    tasks::receive_from(receiver);

    let gate = match Internals::get() {
        Ok(internals) if why_no_sync.is_none() => {
            cluster::bus_links::learn();
            intercepted_writes::install(internals);
            named_link::install();
            hidden_replica::install();
            Some(Gate::new(ServerConnections::new(internals, Arc::clone(&shared))))
        }
        _ => {
            module_options::declare_without_internals(ctx);
            None
        }
    };
    // At a server's start there is no data yet. If there is some, clients have written it without this module.
    let was_off = tasks::has_data(ctx);
    let is_replica = settings::ALLOW_REPLICAOF.is_on() && api::is_replica(ctx);
    lease_clock::tell(Some(Arc::clone(&shared)));
    forks::watch();
    let support = ServerSupport {
        why_no_sync,
        expect_own_port: read_pause::expect_own,
        knows_clients: running_client::has_learned,
        is_cluster: cluster::is_enabled(),
    };
    let Started { to_agent, ended: agent, keeper } =
        agent::start(Arc::clone(&shared), support, settings::MODE.mode(), is_replica, was_off)
            .map_err(|error| format!("no thread: {error}"))?;
    let command_events = CommandEvents::of::<ModuleHooks>();
    let parts = Parts {
        ctx: lasting,
        shared,
        gate,
        tap_user,
        to_agent,
        agent,
        keeper,
        commands,
        command_events,
        is_replica,
        was_off,
    };
    node::loaded(Module::new(parts));
    Ok(())
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
            module.end_read_pause();
            module.stop_agent();
            lease_clock::tell(None);
            events::unwatch_agent(module.shared.main_waker.as_fd());
            if let Some(gate) = &mut module.gate {
                gate.connections.abandon_half_closed();
                intercepted_writes::uninstall();
                named_link::uninstall();
                hidden_replica::uninstall();
                reset::forget_connections();
            }
        }
        Status::Ok
    })
}

/// A C string from text that holds no zero byte.
pub fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("'{text}' holds a zero byte"))
}
