//! The shard under test: a log service, three nodes, and the links between them and to their clients.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use durability_histories::connection::Connection;
use durability_histories::process::{from_environment, Process};
use redis::Value;

use crate::link::Link;

const HOST: &str = "127.0.0.1";
const SHARD: &str = "failover";
/// How many nodes there are.
pub const NODES: usize = 3;
/// A node that stands still does not answer.
const ANSWER_TIME: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(20);

/// When writes are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// When the log has them.
    Sync,
    /// At once.
    Async,
}

/// How the shard is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For everything that is written.
    pub directory: PathBuf,
    /// The ports from here on are used.
    pub base_port: u16,
    /// When writes are acknowledged.
    pub mode: Mode,
    /// `durability.lease-ms`
    pub lease: Duration,
    /// `durability.max-lag-ms`
    pub limit: Duration,
}

/// A server, and the links from it to the log and to it from its clients.
#[derive(Debug)]
pub struct Node {
    /// The server.
    pub process: Process,
    /// Whether it is meant to run.
    pub is_started: bool,
    /// From the server to the log service.
    pub log_link: Link,
    /// From clients to the server.
    pub client_link: Link,
    directory: PathBuf,
    /// Past the link.
    url: String,
}

/// The log service and the nodes. All end when this is dropped.
#[derive(Debug)]
pub struct Shard {
    /// The nodes, which are named n0, n1, ...
    pub nodes: Vec<Node>,
    /// The log service, and whether it is meant to run.
    log: Process,
    is_log_started: bool,
    /// Where clients reach the nodes.
    pub client_urls: Vec<String>,
    /// An RDB that some node saved.
    old_rdb: PathBuf,
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct NodeState(HashMap<String, String>);

impl NodeState {
    /// Reads the answer to `INFO durability`.
    pub fn read(info: &Value) -> Self {
        let text: String = redis::from_redis_value_ref(info).unwrap_or_default();
        let fields = text.lines().filter_map(|line| line.strip_prefix("durability_")?.split_once(':'));
        NodeState(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// leader, follower, ...
    pub fn role(&self) -> &str {
        self.0.get("role").map_or("unknown", String::as_str)
    }

    /// Whether it has heard of a node that follows.
    pub fn knows_a_follower(&self) -> bool {
        self.0.values().any(|value| value.contains("role=follower"))
    }

    /// The epoch that it leads.
    pub fn epoch(&self) -> u64 {
        self.0.get("epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0)
    }
}

impl Shard {
    /// Starts everything.
    ///
    /// # Errors
    /// A program does not start, or a port is not free.
    pub fn start(settings: &Settings) -> Result<Self> {
        let Settings { directory, base_port, .. } = settings;
        let server = from_environment("VALKEY_BIN_DIR")?.join("valkey-server");
        let log = log_service(directory, *base_port, &server)?;
        let nodes = (0..NODES).map(|number| node(settings, number, &server)).collect::<Result<Vec<_>>>()?;
        let client_urls = (0..NODES).map(|number| url(client_port(*base_port, number))).collect();
        let old_rdb = directory.join("old.rdb");
        let mut shard = Shard { nodes, log, is_log_started: false, client_urls, old_rdb };
        shard.start_log()?;
        (0..NODES).try_for_each(|number| shard.start_node(number))?;
        Ok(shard)
    }

    /// Starts a node with nothing on its disk.
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

    /// As a crash.
    ///
    /// # Errors
    /// The system does not let it be killed.
    pub fn kill_node(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        node.is_started = false;
        node.process.kill()
    }

    /// Starts the log service, unless it runs. Returns whether it was started.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_log(&mut self) -> Result<bool> {
        if std::mem::replace(&mut self.is_log_started, true) {
            return Ok(false);
        }
        self.log.start()?;
        Ok(true)
    }

    /// As a crash.
    ///
    /// # Errors
    /// The system does not let it be killed.
    pub fn kill_log(&mut self) -> Result<()> {
        self.is_log_started = false;
        self.log.kill()
    }

    /// What a node says of itself; `None` if it says nothing.
    pub fn state(&self, number: usize) -> Option<NodeState> {
        self.nodes[number].state()
    }

    /// Which node leads.
    pub fn leader(&self) -> Option<usize> {
        (0..NODES).find(|&number| self.state(number).is_some_and(|state| state.role() == "leader"))
    }

    /// Nobody ends by itself.
    ///
    /// # Errors
    /// Somebody did.
    pub fn check_alive(&mut self) -> Result<()> {
        if self.is_log_started && !self.log.is_running()? {
            bail!("the log service has ended by itself");
        }
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if node.is_started && !node.process.is_running()? {
                bail!("node n{number} has ended by itself");
            }
        }
        Ok(())
    }

    /// Waits until one node leads, and all others follow. Returns the leader.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_whole(&mut self, timeout: Duration) -> Result<usize> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let states: Vec<_> = (0..NODES).map(|number| self.state(number)).collect();
            let role = |state: &Option<NodeState>| state.as_ref().map_or("silent", NodeState::role).to_owned();
            let roles: Vec<String> = states.iter().map(role).collect();
            let count = |wanted| roles.iter().filter(|role| *role == wanted).count();
            if count("leader") == 1 && count("follower") == NODES - 1 {
                return roles.iter().position(|role| role == "leader").context("one leads");
            }
            if started.elapsed() > timeout {
                bail!("after {timeout:?} without faults the nodes are {}", roles.join(", "));
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

    /// Waits until all nodes hold the same.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_equal(&mut self, timeout: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check_alive()?;
            let digest = |node: &Node| node.command("DEBUG", &["DIGEST"]).map(|value| format!("{value:?}"));
            let digests: Vec<_> = self.nodes.iter().map(digest).collect();
            let is_same =
                digests.iter().all(|digest| matches!((digest, &digests[0]), (Ok(one), Ok(other)) if one == other));
            if is_same {
                return Ok(());
            }
            if started.elapsed() > timeout {
                bail!("after {timeout:?} without faults and writes the nodes hold {digests:?}");
            }
            thread::sleep(POLL);
        }
    }
}

impl Node {
    fn start(&mut self) -> Result<()> {
        self.is_started = true;
        self.process.start()
    }

    fn rdb(&self) -> PathBuf {
        self.directory.join("dump.rdb")
    }

    fn remove_rdb(&self) -> Result<()> {
        if self.rdb().exists() {
            fs::remove_file(self.rdb())?;
        }
        Ok(())
    }

    fn state(&self) -> Option<NodeState> {
        self.command("INFO", &["durability"]).ok().map(|info| NodeState::read(&info))
    }

    /// Sends a command past the link.
    ///
    /// # Errors
    /// It fails, or is not answered.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Result<Value> {
        Connection::open(&self.url, ANSWER_TIME)?.command(name, arguments)
    }
}

fn url(port: u16) -> String {
    format!("redis://{HOST}:{port}")
}

fn client_port(base_port: u16, number: usize) -> u16 {
    base_port + 30 + number as u16
}

fn node(settings: &Settings, number: usize, server: &Path) -> Result<Node> {
    let Settings { directory, base_port, mode, lease, limit } = settings;
    let port = base_port + 10 + number as u16;
    let log_port = base_port + 20 + number as u16;
    let client_port = client_port(*base_port, number);
    let data = directory.join(format!("n{number}"));
    fs::create_dir(&data)?;
    let configuration = directory.join(format!("n{number}.conf"));
    let lines = [
        format!("bind {HOST}"),
        format!("port {port}"),
        format!("dir {}", data.display()),
        "save \"\"".to_owned(),
        "enable-debug-command yes".to_owned(),
        format!("loadmodule {}", from_environment("DURABILITY_SO")?.display()),
        format!("durability.log {HOST}:{log_port}"),
        format!("durability.shard {SHARD}"),
        format!("durability.mode {}", if *mode == Mode::Sync { "sync" } else { "async" }),
        "durability.failover yes".to_owned(),
        format!("durability.lease-ms {}", lease.as_millis()),
        format!("durability.max-lag-ms {}", limit.as_millis()),
        format!("durability.node-id n{number}"),
        format!("durability.announce {HOST}:{client_port}"),
    ];
    fs::write(&configuration, lines.join("\n"))?;
    let arguments = vec![configuration.display().to_string()];
    Ok(Node {
        process: Process::new(server.to_owned(), arguments, directory.join(format!("n{number}.output"))),
        is_started: false,
        log_link: Link::open(log_port, *base_port)?,
        client_link: Link::open(client_port, port)?,
        directory: data,
        url: url(port),
    })
}

fn log_service(directory: &Path, base_port: u16, server: &Path) -> Result<Process> {
    let arguments = [
        ["--dir", &directory.join("log").display().to_string()],
        ["--listen", &format!("{HOST}:{base_port}")],
        ["--http", &format!("{HOST}:{}", base_port + 1)],
        // Small enough that snapshots are made meanwhile, and that segments end often.
        ["--segment-mb", "2"],
        ["--snapshot-log-mb", "2"],
        ["--valkey-server", &server.display().to_string()],
    ];
    let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
    Ok(Process::new(from_environment("LOGSERVICE")?, arguments, directory.join("log.output")))
}
