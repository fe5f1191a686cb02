//! How clients find the leader: they ask the nodes; in a cluster they go where a node says that a slot is served.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use durability_histories::connection::Connection;

use crate::node::NodeState;

/// For connecting, and for the answer to who leads.
const ASK_TIME: Duration = Duration::from_millis(300);

/// What a node leads: a shard, and an epoch of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// The shard.
    pub shard: usize,
    /// The epoch. Those of different shards are not compared.
    pub epoch: u64,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} of shard {}", self.epoch, self.shard)
    }
}

/// A connection on which the node said that it leads. If it ceases to, it answers nothing any more.
pub struct Leader {
    /// To the node.
    pub connection: Connection,
    /// What it leads.
    pub term: Term,
}

/// Where a node is reached.
#[derive(Debug, Clone)]
pub struct Address {
    /// Its shard.
    pub shard: usize,
    /// By clients.
    pub url: String,
}

/// Knows the nodes, and until when clients work.
#[derive(Debug)]
pub struct Finder {
    nodes: Vec<Address>,
    is_cluster: bool,
    /// Who led when somebody last looked, by tag.
    last: Mutex<HashMap<String, usize>>,
    /// Tags of keys that clients work on now.
    in_use: Mutex<BTreeSet<String>>,
    is_over: AtomicBool,
    retry: Duration,
}

enum Asked {
    Leads(Leader),
    /// The node of that number is said to serve the slot.
    Elsewhere(usize),
    Nothing,
}

impl Finder {
    /// Nodes are asked again after `retry` if none leads.
    pub fn new(nodes: Vec<Address>, is_cluster: bool, retry: Duration) -> Self {
        Finder {
            nodes,
            is_cluster,
            last: Mutex::default(),
            in_use: Mutex::default(),
            is_over: AtomicBool::new(false),
            retry,
        }
    }

    /// Looks until a node says that it leads, and serves the slot of that tag; `None` once all is over. Its answers may then take `patience`.
    pub fn find(&self, tag: &str, patience: Duration) -> Option<Leader> {
        while !self.is_over() {
            let last = self.last(tag);
            for attempt in 0..self.nodes.len() {
                let mut number = (last + attempt) % self.nodes.len();
                let mut asked = self.ask(number, tag, patience);
                if let Asked::Elsewhere(other) = asked {
                    number = other;
                    asked = self.ask(number, tag, patience);
                }
                if let Asked::Leads(leader) = asked {
                    self.lock().insert(tag.to_owned(), number);
                    return Some(leader);
                }
            }
            thread::sleep(self.retry);
        }
        None
    }

    /// Clients begin to work on keys with that tag.
    pub fn begin_use(&self, tag: &str) {
        self.lock_in_use().insert(tag.to_owned());
    }

    /// They do not any more.
    pub fn end_use(&self, tag: &str) {
        self.lock_in_use().remove(tag);
    }

    /// On which they work now.
    pub fn tags_in_use(&self) -> Vec<String> {
        self.lock_in_use().iter().cloned().collect()
    }

    /// Clients are to stop.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether clients are to stop.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether the nodes are a cluster.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Where node `number` is reached.
    pub fn address(&self, number: usize) -> &Address {
        &self.nodes[number]
    }

    /// Where the node is reached that led when somebody last looked for that tag.
    pub fn last_address(&self, tag: &str) -> &Address {
        self.address(self.last(tag))
    }

    fn last(&self, tag: &str) -> usize {
        self.lock().get(tag).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_in_use(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, number: usize, tag: &str, patience: Duration) -> Asked {
        // A node that does not answer leads nobody.
        self.try_ask(number, tag, patience).unwrap_or(Asked::Nothing)
    }

    fn try_ask(&self, number: usize, tag: &str, patience: Duration) -> Result<Asked> {
        let Address { shard, url } = self.address(number);
        let mut connection = Connection::open(url, ASK_TIME)?;
        if self.is_cluster {
            if let Some(address) = connection.redirection(tag)? {
                let named = self.nodes.iter().position(|node| node.url.ends_with(&format!("//{address}")));
                return Ok(named.map_or(Asked::Nothing, Asked::Elsewhere));
            }
        }
        let state = NodeState::read(&connection.command("INFO", &["durability"])?);
        // A node whose epoch has just ended shows no epoch.
        if state.role() != "leader" || state.epoch() == 0 {
            return Ok(Asked::Nothing);
        }
        connection.set_timeout(patience)?;
        Ok(Asked::Leads(Leader { connection, term: Term { shard: *shard, epoch: state.epoch() } }))
    }
}
