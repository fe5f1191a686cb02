//! One server under test, with the links from it to the log, and to it from its clients and from other nodes of its cluster.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use durability_histories::connection::Connection;
use durability_histories::process::{from_environment, Process};
use durability_histories::services::url;
use redis::Value;

use crate::link::Link;
use crate::ports::RoundPorts;
use crate::system::{Mode, Settings};

pub(crate) const HOST: &str = "127.0.0.1";
/// A node that stands still does not answer.
const ANSWER_TIME: Duration = Duration::from_millis(300);
/// `cluster-node-timeout`. Nobody waits for it to take over: the lease decides.
const NODE_TIMEOUT_MS: u64 = 2000;

/// A server, and its links.
#[derive(Debug)]
pub struct Node {
    /// As its log calls it.
    pub name: String,
    /// The server.
    pub process: Process,
    /// Whether it is meant to run.
    pub is_started: bool,
    /// From the server to each log service.
    pub log_links: Vec<Link>,
    /// From clients to the server.
    pub client_link: Link,
    /// From other nodes of the cluster to the server; `None` outside cluster mode.
    pub bus_link: Option<Link>,
    /// Past the link.
    pub url: String,
    /// Through the link.
    pub client_url: String,
    directory: PathBuf,
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

impl Node {
    /// Node `number` of shard `shard`. It does not run yet.
    ///
    /// # Errors
    /// A file cannot be written, or a port is not free.
    pub fn new(settings: &Settings, shard: usize, number: usize, server: &Path) -> Result<Self> {
        let Settings { directory, services, .. } = settings;
        let ports = RoundPorts(settings.base_port);
        let at = shard * settings.nodes() + number;
        let name = if settings.is_cluster() { format!("s{shard}n{number}") } else { format!("n{number}") };
        let data = directory.join(&name);
        fs::create_dir(&data)?;
        let configuration = directory.join(format!("{name}.conf"));
        fs::write(&configuration, configure(settings, shard, at, &name, &data)?.join("\n"))?;
        let to_service = |service| {
            let distance = if service == number { Duration::ZERO } else { settings.distance };
            Link::open_over(ports.log_link(at, service), ports.service(service), distance)
        };
        let bus_link = settings.is_cluster().then(|| Link::open(ports.bus_link(at), ports.bus(at))).transpose()?;
        Ok(Node {
            process: Process::new(
                server.to_owned(),
                vec![configuration.display().to_string()],
                directory.join(format!("{name}.output")),
            ),
            name,
            is_started: false,
            log_links: (0..*services).map(to_service).collect::<Result<_>>()?,
            client_link: Link::open(ports.client(at), ports.node(at))?,
            bus_link,
            url: url(ports.node(at)),
            client_url: url(ports.client(at)),
            directory: data,
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> Result<()> {
        self.is_started = true;
        self.process.start()
    }

    /// As a crash.
    ///
    /// # Errors
    /// The system does not let it be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.is_started = false;
        self.process.kill()
    }

    /// Where it saves its data.
    pub fn rdb(&self) -> PathBuf {
        self.directory.join("dump.rdb")
    }

    /// Takes away what it has saved. Its `nodes.conf` stays.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_rdb(&self) -> Result<()> {
        if self.rdb().exists() {
            fs::remove_file(self.rdb())?;
        }
        Ok(())
    }

    /// What it says of itself; `None` if it says nothing.
    pub fn state(&self) -> Option<NodeState> {
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

/// The lines of its configuration.
fn configure(settings: &Settings, shard: usize, at: usize, name: &str, data: &Path) -> Result<Vec<String>> {
    let Settings { mode, lease, limit, services, .. } = settings;
    let ports = RoundPorts(settings.base_port);
    // The service of the node's own zone first, as an operator would.
    let own_first = (0..*services).map(|after| ports.log_link(at, (at + after) % services));
    let logs = own_first.map(|port| format!("{HOST}:{port}")).collect::<Vec<_>>().join(",");
    let mut lines = vec![
        format!("bind {HOST}"),
        format!("port {}", ports.node(at)),
        format!("dir {}", data.display()),
        "save \"\"".to_owned(),
        "enable-debug-command yes".to_owned(),
        format!("loadmodule {}", from_environment("DURABILITY_SO")?.display()),
        format!("durability.log {logs}"),
        format!("durability.shard {}", settings.shard_names()[shard]),
        format!("durability.mode {}", if *mode == Mode::Sync { "sync" } else { "async" }),
        "durability.failover yes".to_owned(),
        format!("durability.lease-ms {}", lease.as_millis()),
        format!("durability.max-lag-ms {}", limit.as_millis()),
        format!("durability.node-id {name}"),
        format!("durability.announce {HOST}:{}", ports.client(at)),
    ];
    if settings.is_cluster() {
        lines.extend([
            "cluster-enabled yes".to_owned(),
            format!("cluster-port {}", ports.bus(at)),
            format!("cluster-announce-port {}", ports.client(at)),
            format!("cluster-announce-bus-port {}", ports.bus_link(at)),
            format!("cluster-node-timeout {NODE_TIMEOUT_MS}"),
            "cluster-require-full-coverage no".to_owned(),
        ]);
    }
    Ok(lines)
}
