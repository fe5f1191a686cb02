//! The nodes of one shard.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::node::{Node, NodeState};
use crate::system::Settings;

const POLL: Duration = Duration::from_millis(20);

/// Nodes that have one log. All end when this is dropped.
#[derive(Debug)]
pub struct Shard {
    /// As the log calls it.
    pub name: String,
    /// The nodes. A node and a service of the same number are in the same zone.
    pub nodes: Vec<Node>,
    /// An RDB that some node saved.
    old_rdb: PathBuf,
}

impl Shard {
    /// Shard `number`. No node runs yet.
    ///
    /// # Errors
    /// A file cannot be written, or a port is not free.
    pub fn new(settings: &Settings, number: usize, server: &Path) -> Result<Self> {
        let name = settings.shard_names()[number].clone();
        let nodes = (0..settings.nodes()).map(|node| Node::new(settings, number, node, server));
        let old_rdb = settings.directory.join(format!("{name}.old.rdb"));
        Ok(Shard { name, nodes: nodes.collect::<Result<_>>()?, old_rdb })
    }

    /// Starts a node with nothing on its disk but what it knows of its cluster.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        node.remove_rdb()?;
        node.start()
    }

    /// Starts a node with what some node saved a while ago.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_node_with_old_rdb(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        if self.old_rdb.exists() {
            fs::copy(&self.old_rdb, node.rdb())?;
        }
        node.start()
    }

    /// Has a node save its data, for [`Shard::start_node_with_old_rdb`]. Nothing is saved if it does not answer.
    ///
    /// # Errors
    /// The file cannot be moved.
    pub fn save_old_rdb(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        if node.command("SAVE", &[]).is_ok() && node.rdb().exists() {
            fs::rename(node.rdb(), &self.old_rdb)?;
        }
        Ok(())
    }

    /// What a node says of itself; `None` if it says nothing.
    pub fn state(&self, number: usize) -> Option<NodeState> {
        self.nodes[number].state()
    }

    /// Which node leads.
    pub fn leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find(|&number| self.state(number).is_some_and(|state| state.role() == "leader"))
    }

    /// Another node: the first after that one, the second, and so on, round and round among the others.
    pub fn after(&self, node: usize, after: usize) -> usize {
        let others = self.nodes.len() - 1;
        (node + 1 + (after - 1) % others) % self.nodes.len()
    }

    /// Nobody ends by itself.
    ///
    /// # Errors
    /// Somebody did.
    pub fn check_alive(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.is_started && !node.process.is_running()? {
                bail!("node {} has ended by itself", node.name);
            }
        }
        Ok(())
    }

    /// Waits until one node leads, and all others follow. Returns the leader.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_led(&mut self, timeout: Duration) -> Result<usize> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let states: Vec<_> = self.nodes.iter().map(Node::state).collect();
            let role = |state: &Option<NodeState>| state.as_ref().map_or("silent", NodeState::role).to_owned();
            let roles: Vec<String> = states.iter().map(role).collect();
            let count = |wanted| roles.iter().filter(|role| *role == wanted).count();
            if count("leader") == 1 && count("follower") == self.nodes.len() - 1 {
                return roles.iter().position(|role| role == "leader").context("one leads");
            }
            if started.elapsed() > timeout {
                bail!("after {timeout:?} without faults the nodes of {} are {}", self.name, roles.join(", "));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until that node, which leads, has heard of one that it could hand over to.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_known(&self, leader: usize, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        while !self.state(leader).is_some_and(|state| state.knows_a_follower()) {
            if started.elapsed() > timeout {
                bail!("after {timeout:?} the leader knows of no other node");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until the log has everything that the leader holds.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_shipped(&self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let leader = self.leader().and_then(|leader| self.state(leader));
            match leader.and_then(|state| state.pending_bytes()) {
                Some(0) => return Ok(()),
                left if started.elapsed() > timeout => {
                    bail!("after {timeout:?} the log of {} lacks {left:?} bytes", self.name)
                }
                _ => thread::sleep(POLL),
            }
        }
    }

    /// Waits until all nodes hold the same. Returns its digest.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_equal(&mut self, timeout: Duration) -> Result<String> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let digest = |node: &Node| node.command("DEBUG", &["DIGEST"]).map(|value| format!("{value:?}"));
            let digests: Vec<_> = self.nodes.iter().map(digest).collect();
            let is_same =
                digests.iter().all(|digest| matches!((digest, &digests[0]), (Ok(one), Ok(other)) if one == other));
            if let (true, Ok(digest)) = (is_same, &digests[0]) {
                return Ok(digest.clone());
            }
            if started.elapsed() > timeout {
                bail!("after {timeout:?} without faults and writes the nodes of {} hold {digests:?}", self.name);
            }
            thread::sleep(POLL);
        }
    }
}
