//! The shard under test: one log service or three, three nodes, and the links between them and to their clients.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use durability_histories::connection::Connection;
use durability_histories::process::{from_environment, Process};
use durability_histories::services::{url, Options, Ports, Services};
use redis::Value;

use crate::link::Link;
use crate::peer_links::PeerLinks;

const HOST: &str = "127.0.0.1";
const SHARD: &str = "failover";
/// How many nodes there are.
pub const NODES: usize = 3;
/// A node that stands still does not answer.
const ANSWER_TIME: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(20);
/// For three services to become a cluster.
const FORM_TIME: Duration = Duration::from_secs(20);

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
    /// Log services: one, or three that keep the log together.
    pub services: usize,
    /// Whether disks of log services are to fail.
    pub has_failpoints: bool,
    /// What a byte takes from one zone to another, each way.
    pub distance: Duration,
    /// Of three log services the one whose disk alone is left in the end.
    pub survivor: Option<usize>,
}

/// A server, and the links from it to the log and to it from its clients.
#[derive(Debug)]
pub struct Node {
    /// The server.
    pub process: Process,
    /// Whether it is meant to run.
    pub is_started: bool,
    /// From the server to each log service.
    pub log_links: Vec<Link>,
    /// From clients to the server.
    pub client_link: Link,
    directory: PathBuf,
    /// Past the link.
    url: String,
}

/// The log services and the nodes. All end when this is dropped.
#[derive(Debug)]
pub struct Shard {
    /// The nodes, which are named n0, n1, ...
    pub nodes: Vec<Node>,
    /// The log services, which are named log0, log1, ... A node and a service of the same number are in the same zone.
    pub services: Services,
    /// What the services say to each other goes through these.
    pub peer_links: PeerLinks,
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

    /// What the log does not have of what it holds.
    pub fn pending_bytes(&self) -> Option<u64> {
        self.0.get("pending_bytes")?.parse().ok()
    }

    /// How often its lease expired.
    pub fn suspensions(&self) -> Option<u64> {
        self.0.get("suspensions")?.parse().ok()
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
        let peer_links = PeerLinks::open(*base_port, settings.services, settings.distance)?;
        let services = log_services(settings, &peer_links)?;
        let nodes = (0..NODES).map(|number| node(settings, number, &server)).collect::<Result<Vec<_>>>()?;
        let client_urls = (0..NODES).map(|number| url(client_port(*base_port, number))).collect();
        let old_rdb = directory.join("old.rdb");
        let mut shard = Shard { nodes, services, peer_links, client_urls, old_rdb };
        shard.services.start_all()?;
        shard.services.form(FORM_TIME)?;
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
        self.services.check_alive()?;
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if node.is_started && !node.process.is_running()? {
                bail!("node n{number} has ended by itself");
            }
        }
        Ok(())
    }

    /// Waits until all services are well, one node leads, and all others follow. Returns the leader.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_whole(&mut self, timeout: Duration) -> Result<usize> {
        // A shard without nodes is not known to the services, so the nodes come first.
        let leader = self.wait_until_led(timeout)?;
        self.services.wait_until_well(timeout)?;
        Ok(leader)
    }

    fn wait_until_led(&mut self, timeout: Duration) -> Result<usize> {
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
                left if started.elapsed() > timeout => bail!("after {timeout:?} the log lacks {left:?} bytes"),
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

    /// Where it is reached past the link.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a command past the link.
    ///
    /// # Errors
    /// It fails, or is not answered.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Result<Value> {
        Connection::open(&self.url, ANSWER_TIME)?.command(name, arguments)
    }
}

fn client_port(base_port: u16, number: usize) -> u16 {
    base_port + 30 + number as u16
}

fn node(settings: &Settings, number: usize, server: &Path) -> Result<Node> {
    let Settings { directory, base_port, mode, lease, limit, .. } = settings;
    let port = base_port + 10 + number as u16;
    let log_ports: Vec<u16> = (0..settings.services).map(|service| log_port(*base_port, number, service)).collect();
    // The service of the node's own zone first, as an operator would.
    let own_first = (0..log_ports.len()).map(|after| log_ports[(number + after) % log_ports.len()]);
    let logs = own_first.map(|port| format!("{HOST}:{port}")).collect::<Vec<_>>().join(",");
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
        format!("durability.log {logs}"),
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
        log_links: links(&log_ports, settings, number)?,
        client_link: Link::open(client_port, port)?,
        directory: data,
        url: url(port),
    })
}

fn links(log_ports: &[u16], settings: &Settings, number: usize) -> Result<Vec<Link>> {
    let open = |(service, port): (usize, &u16)| {
        let distance = if service == number { Duration::ZERO } else { settings.distance };
        Link::open_over(*port, listen_port(settings.base_port, service), distance)
    };
    log_ports.iter().enumerate().map(open).collect()
}

/// Where a node reaches a service, through a link of its own.
fn log_port(base_port: u16, node: usize, service: usize) -> u16 {
    base_port + 20 + (NODES * service + node) as u16
}

fn listen_port(base_port: u16, service: usize) -> u16 {
    base_port + 2 * service as u16
}

fn log_services(settings: &Settings, peer_links: &PeerLinks) -> Result<Services> {
    let ports = |service| {
        let listen = listen_port(settings.base_port, service);
        Ports { listen, http: listen + 1, peers: peer_links.ports(service) }
    };
    Services::new(&Options {
        directory: &settings.directory,
        shard: SHARD,
        ports: (0..settings.services).map(ports).collect(),
        // Small enough that snapshots are made meanwhile, and that segments end often.
        arguments: &["--segment-mb", "2", "--snapshot-log-mb", "2"],
        has_failpoints: settings.has_failpoints,
    })
}
