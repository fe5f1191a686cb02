//! The settings that a node of a durable cluster needs: the log decides who leads a shard, so the cluster neither elects nor moves nodes
//! between shards. Main thread.

use valkey_module::{raw, Context};

use crate::server::api;
use crate::server::cluster::is_enabled;

/// `VALKEYMODULE_CLUSTER_FLAG_NO_FAILOVER`: the server holds no elections.
const NO_FAILOVER: u64 = 1 << 1;

/// What is set, and to what.
const SETTINGS: [(&str, &str); 2] = [("cluster-replica-no-failover", "yes"), ("cluster-allow-replica-migration", "no")];

/// Makes the settings what they have to be. Returns what to say of it in the server's log; nothing outside of cluster mode, or if they were
/// so already.
///
/// # Errors
/// The server does not take them.
pub fn apply(ctx: &Context) -> Result<Option<String>, String> {
    if !is_enabled() {
        return Ok(None);
    }
    // SAFETY: set while the module loads, before this is called; the context is valid.
    if let Some(set_flags) = unsafe { raw::RedisModule_SetClusterFlags } {
        // SAFETY: as above.
        unsafe { set_flags(ctx.ctx, NO_FAILOVER) };
    }
    let changed: Vec<_> = SETTINGS.into_iter().filter(|(name, value)| api::config(ctx, name) != *value).collect();
    if changed.is_empty() {
        return Ok(None);
    }
    let arguments = std::iter::once("SET").chain(changed.iter().flat_map(|(name, value)| [*name, *value]));
    let arguments: Vec<&str> = arguments.collect();
    api::call(ctx, "CONFIG", &arguments).map_err(|why| format!("cluster mode needs {SETTINGS:?}: {why}"))?;
    let shown: Vec<_> = changed.iter().map(|(name, value)| format!("{name} {value}")).collect();
    Ok(Some(format!(
        "this is a node of a cluster: the log decides who leads its shard, so the cluster elects nobody; set {}",
        shown.join(", ")
    )))
}
