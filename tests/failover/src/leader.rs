//! How clients find the leader: they ask the nodes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use durability_histories::connection::Connection;

use crate::shard::NodeState;

/// For connecting, and for the answer to who leads.
const ASK_TIME: Duration = Duration::from_millis(300);

/// A connection on which the node said that it leads. If it ceases to, it answers nothing any more.
pub struct Leader {
    /// To the node.
    pub connection: Connection,
    /// What it leads.
    pub epoch: u64,
}

/// Knows the nodes, and until when clients work.
#[derive(Debug)]
pub struct Finder {
    urls: Vec<String>,
    /// Who led when somebody last looked.
    last: AtomicUsize,
    is_over: AtomicBool,
    retry: Duration,
}

impl Finder {
    /// Nodes are asked again after `retry` if none leads.
    pub fn new(urls: Vec<String>, retry: Duration) -> Self {
        Finder { urls, last: AtomicUsize::new(0), is_over: AtomicBool::new(false), retry }
    }

    /// Looks until a node says that it leads; `None` once all is over. Its answers may then take `patience`.
    pub fn find(&self, patience: Duration) -> Option<Leader> {
        while !self.is_over() {
            let last = self.last.load(Ordering::Relaxed);
            for attempt in 0..self.urls.len() {
                let number = (last + attempt) % self.urls.len();
                if let Ok(Some(leader)) = ask(&self.urls[number], patience) {
                    self.last.store(number, Ordering::Relaxed);
                    return Some(leader);
                }
            }
            thread::sleep(self.retry);
        }
        None
    }

    /// Clients are to stop.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether clients are to stop.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Where node `number` is reached.
    pub fn url(&self, number: usize) -> &str {
        &self.urls[number]
    }

    /// Where the node is reached that led when somebody last looked.
    pub fn last_url(&self) -> &str {
        self.url(self.last.load(Ordering::Relaxed))
    }
}

fn ask(url: &str, patience: Duration) -> Result<Option<Leader>> {
    let mut connection = Connection::open(url, ASK_TIME)?;
    let state = NodeState::read(&connection.command("INFO", &["durability"])?);
    // A node whose epoch has just ended shows no epoch.
    if state.role() != "leader" || state.epoch() == 0 {
        return Ok(None);
    }
    connection.set_timeout(patience)?;
    Ok(Some(Leader { connection, epoch: state.epoch() }))
}
