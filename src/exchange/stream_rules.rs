//! What a leader may put into its log, as its server's commands are, for the agent to look at the stream as it passes. Needed only where
//! another module is loaded: what a module replicates by name, the server puts into the stream whatever it is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use durability_protocol::Logged;

use crate::base::locks::lock;

/// See the module's documentation.
#[derive(Debug)]
pub struct StreamRules {
    /// Where the stream ended (exclusive) when the first other module was loaded. A command begins there. Of the stream of that time: a node
    /// that comes to lead later may have another.
    pub from: u64,
    /// The server's commands by full name, in lower case.
    pub commands: HashMap<String, Logged>,
}

/// The rules as they are now; none as long as no other module is loaded. Written by the main thread, read by any.
#[derive(Debug, Default)]
pub struct CurrentRules {
    is_there: AtomicBool,
    rules: Mutex<Option<Arc<StreamRules>>>,
}

impl CurrentRules {
    /// The server has other modules, and these commands, while its stream ends at `offset`. From there on the rules hold, or from where
    /// earlier ones did.
    pub fn set(&self, offset: u64, commands: HashMap<String, Logged>) {
        let mut rules = lock(&self.rules);
        let from = rules.as_ref().map_or(offset, |rules| rules.from);
        *rules = Some(Arc::new(StreamRules { from, commands }));
        self.is_there.store(true, Ordering::Release);
    }

    /// The rules. Without any, this costs no lock.
    #[inline]
    pub fn get(&self) -> Option<Arc<StreamRules>> {
        if self.is_there.load(Ordering::Acquire) {
            lock(&self.rules).clone()
        } else {
            None
        }
    }
}
