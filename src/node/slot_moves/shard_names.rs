//! Which shard of the log a node of the cluster belongs to: the nodes tell each other over the cluster's bus. Main thread only.

use std::collections::HashMap;

use valkey_module::Context;

use crate::server::cluster::messages;
use crate::settings;

/// More nodes than any cluster has: what is beyond is forgotten.
const MOST: usize = 10_000;

/// What nodes have told.
#[derive(Default)]
pub struct ShardNames(HashMap<String, String>);

impl ShardNames {
    /// The node with that id belongs to that shard.
    pub fn learn(&mut self, node: &str, shard: &str) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(node.to_owned(), shard.to_owned());
    }

    /// The shard of the node with that id. If it has not told yet, it is asked.
    pub fn of(&self, ctx: &Context, node: &str) -> Option<String> {
        let known = self.0.get(node).cloned();
        if known.is_none() {
            messages::ask_for_shard(ctx, node, &settings::SHARD.value());
        }
        known
    }
}
