//! What the server says about itself. Main thread, outside of any command and of any server event.

use std::sync::atomic::Ordering;

use valkey_module::{CallReply, Context};

use crate::exchange::server_facts::ServerFacts;
use crate::node;
use crate::node::tasks::stream::kept_position;
use crate::server::cluster::membership::Membership;
use crate::server::follow_settings::{self, Owner};
use crate::server::{api, cluster};

/// Kinds of listeners that a server shows in INFO: TCP, unix sockets, TLS, RDMA, and room for more.
const MAX_LISTENERS: usize = 8;

/// How the server can be reached, and what it holds.
pub fn describe(ctx: &Context) -> ServerFacts {
    let follows_log = api::is_replica(ctx) && follow_settings::owner() == Owner::Log;
    // The cluster makes a node a replica by itself.
    let is_others_replica = api::is_replica(ctx) && !follows_log && !cluster::is_enabled();
    let has_data = has_data(ctx);
    let mut facts =
        ServerFacts { has_data, is_others_replica, follows_log, is_as_left: is_as_left(ctx), ..ServerFacts::default() };
    facts.cluster_primary = Membership::get().and_then(|membership| membership.living_primary_id());
    let info = ctx.server_info("server");
    // A kind that the server does not listen by leaves a gap in their numbers.
    for number in 0..MAX_LISTENERS {
        if let Some(listener) = info.field(&format!("listener{number}")) {
            facts.add_listener(&listener.to_string_lossy());
        }
    }
    let databases = if cluster::is_enabled() { "cluster-databases" } else { "databases" };
    facts.databases = api::config(ctx, databases).parse().unwrap_or(0);
    facts.engine = info.field("valkey_version").map(|version| version.to_string_lossy()).unwrap_or_default();
    facts
}

/// Whether nothing came into the server's stream since it held what the log had.
fn is_as_left(ctx: &Context) -> bool {
    let position = kept_position(ctx);
    node::with(|module| module.left_log.is_still_at(position.as_ref())) == Some(true)
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
        // An answer of no known form: to assume data where there is none is better than to lose it.
        _ => false,
    }
}

/// Finds out whether the server waits for its replicas to shut down, and tells the agent.
pub fn look_for_shutdown(ctx: &Context) {
    let is_shutting_down = ctx.server_info("server").field("shutdown_in_milliseconds").is_some();
    node::with(|module| {
        module.shared.is_shutting_down.store(is_shutting_down, Ordering::Relaxed);
        module.shared.agent_waker.wake();
    });
}
