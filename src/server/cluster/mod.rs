//! The server as a node of a Valkey cluster. Main thread only, unless it is said otherwise.
//!
//! | file | |
//! |---|---|
//! | `node.rs` | structs of the server |
//! | `functions.rs` | functions of the server |
//! | `layout_check.rs` | whether they are the ones that this module knows |
//! | `membership.rs` | what this node is in the cluster, and how that changes |
//! | `bus_links.rs` | connections of the cluster's bus, which are no clients |
//! | `bus_messages.rs` | published messages that wait on them for the log |
//! | `loading.rs` | a primary that loads what its log sends drops nothing for its age |
//! | `migrations.rs` | the server's own migrations of slots |
//! | `messages.rs` | messages between the modules of nodes |
//! | `settings.rs` | the settings that a node of a durable cluster needs |

pub mod bus_links;
pub mod bus_messages;
mod functions;
mod layout_check;
pub mod loading;
pub mod membership;
pub mod messages;
pub mod migrations;
mod node;
pub mod settings;

use std::sync::atomic::{AtomicBool, Ordering};

use valkey_module::{Context, ContextFlags};

use crate::server::version;
use crate::settings as own_settings;

/// Whether the server is a node of a cluster, which does not change while it runs.
static IS_CLUSTER: AtomicBool = AtomicBool::new(false);

/// Notes whether the server is a node of a cluster. Main thread, first of all when the module is loaded.
pub fn note(ctx: &Context) {
    IS_CLUSTER.store(ctx.get_flags().contains(ContextFlags::CLUSTER), Ordering::Relaxed);
}

/// Whether the server is a node of a cluster. Any thread.
#[inline]
pub fn is_enabled() -> bool {
    IS_CLUSTER.load(Ordering::Relaxed)
}

/// Why this server, as a node of a cluster, cannot have a log; none if it can, or is no such node. Main thread.
pub fn why_the_log_is_impossible(ctx: &Context) -> Option<String> {
    if !is_enabled() {
        return None;
    }
    if !own_settings::FAILOVER.is_on() {
        return Some(
            "in cluster mode (cluster-enabled yes) the log decides which node leads a shard: set durability.failover yes, or durability.mode off"
                .to_owned(),
        );
    }
    if own_settings::ALLOW_REPLICAOF.is_on() {
        return Some(
            "in cluster mode (cluster-enabled yes) the server has no REPLICAOF: set durability.allow-replicaof no"
                .to_owned(),
        );
    }
    version::why_not_offered().or_else(|| {
        let different = layout_check::verified(ctx).err();
        different
            .map(|what| format!("{what}, which cluster mode needs; set cluster-enabled no, or durability.mode off"))
    })
}
