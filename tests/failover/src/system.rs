//! What is under test: one log service or three, one shard or a cluster of several, and the links between all of them and to their
//! clients.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use durability_histories::process::from_environment;
use durability_histories::services::{Options, Ports, Services};

use crate::cluster;
use crate::leader::{Address, Finder};
use crate::peer_links::PeerLinks;
use crate::ports::RoundPorts;
use crate::shard::Shard;

/// How many nodes a shard has that is alone, and as many zones there are.
pub const NODES: usize = 3;
/// How many a shard of a cluster has.
const NODES_OF_CLUSTER: usize = 2;
/// How many entries a copy may lack that has caught up, while clients write.
pub(crate) const MOST_LAG: u64 = 100;
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

/// How it is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For everything that is written.
    pub directory: PathBuf,
    /// The ports from here on are used: see [`RoundPorts`].
    pub base_port: u16,
    /// When writes are acknowledged.
    pub mode: Mode,
    /// `durability.lease-ms`
    pub lease: Duration,
    /// `durability.max-lag-ms`
    pub limit: Duration,
    /// Log services: one, or three that keep the logs together.
    pub services: usize,
    /// One shard outside cluster mode, or several.
    pub shards: usize,
    /// Whether disks of log services are to fail.
    pub has_failpoints: bool,
    /// What a byte takes from one zone to another, each way.
    pub distance: Duration,
    /// Of three log services the one whose disk alone is left in the end.
    pub survivor: Option<usize>,
}

/// The log services and the shards. All end when this is dropped.
#[derive(Debug)]
pub struct System {
    /// The shards.
    pub shards: Vec<Shard>,
    /// The log services, which are named log0, log1, ...
    pub services: Services,
    /// What the services say to each other goes through these.
    pub peer_links: PeerLinks,
}

impl Settings {
    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.shards > 1
    }

    /// How many nodes each shard has.
    pub fn nodes(&self) -> usize {
        if self.is_cluster() {
            NODES_OF_CLUSTER
        } else {
            NODES
        }
    }

    /// What the log calls the shards.
    pub fn shard_names(&self) -> Vec<String> {
        match self.is_cluster() {
            true => (0..self.shards).map(|shard| format!("s{shard}")).collect(),
            false => vec!["failover".to_owned()],
        }
    }
}

impl System {
    /// Starts everything. The shards of a cluster have an equal part of the slots each.
    ///
    /// # Errors
    /// A program does not start, a port is not free, or the nodes do not become a cluster.
    pub fn start(settings: &Settings, timeout: Duration) -> Result<Self> {
        let server = from_environment("VALKEY_BIN_DIR")?.join("valkey-server");
        let peer_links = PeerLinks::open(RoundPorts(settings.base_port), settings.services, settings.distance)?;
        let services = log_services(settings, &peer_links)?;
        let shards = (0..settings.shards).map(|shard| Shard::new(settings, shard, &server)).collect::<Result<_>>()?;
        let mut system = System { shards, services, peer_links };
        system.services.start_all()?;
        system.services.form(FORM_TIME)?;
        system.start_nodes()?;
        if settings.is_cluster() {
            cluster::make(&mut system, RoundPorts(settings.base_port), timeout)?;
        }
        system.wait_until_whole(timeout)?;
        Ok(system)
    }

    /// The shard, of which there is one only.
    pub fn shard(&mut self) -> &mut Shard {
        &mut self.shards[0]
    }

    /// Starts all nodes with nothing on their disks, none of which runs.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_nodes(&mut self) -> Result<()> {
        self.shards.iter_mut().try_for_each(|shard| (0..shard.nodes.len()).try_for_each(|node| shard.start_node(node)))
    }

    /// As a crash of all nodes at once.
    ///
    /// # Errors
    /// The system does not let one be killed.
    pub fn kill_nodes(&mut self) -> Result<()> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.nodes).try_for_each(|node| node.kill())
    }

    /// Finds leaders for clients, again after `retry` if there is none.
    pub fn finder(&self, retry: Duration) -> Finder {
        let of_shard = |(number, shard): (usize, &Shard)| {
            let address = |url: &String| Address { shard: number, url: url.clone() };
            shard.nodes.iter().map(|node| address(&node.client_url)).collect::<Vec<_>>()
        };
        let addresses = self.shards.iter().enumerate().flat_map(of_shard).collect();
        Finder::new(addresses, self.shards.len() > 1, retry)
    }

    /// Nobody ends by itself.
    ///
    /// # Errors
    /// Somebody did.
    pub fn check_alive(&mut self) -> Result<()> {
        self.services.check_alive()?;
        self.shards.iter_mut().try_for_each(Shard::check_alive)
    }

    /// Waits until all services are well, in each shard one node leads and all others follow, and a cluster knows it. Returns the leader of
    /// the first shard.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_whole(&mut self, timeout: Duration) -> Result<usize> {
        // A shard without nodes is not known to the services, so the nodes come first.
        let since = Instant::now();
        let mut leaders = Vec::new();
        for shard in &mut self.shards {
            leaders.push(shard.wait_until_led(timeout)?);
        }
        self.services.wait_until_well(MOST_LAG, timeout)?;
        if self.shards.len() > 1 {
            cluster::wait_until_settled(self, since, timeout)?;
        }
        Ok(leaders[0])
    }

    /// Waits until all nodes of each shard hold the same. Returns the digests.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_equal(&mut self, timeout: Duration) -> Result<Vec<String>> {
        self.shards.iter_mut().map(|shard| shard.wait_until_equal(timeout)).collect()
    }
}

fn log_services(settings: &Settings, peer_links: &PeerLinks) -> Result<Services> {
    let ports = |service| {
        let listen = RoundPorts(settings.base_port).service(service);
        Ports { listen, http: listen + 1, peers: peer_links.ports(service) }
    };
    Services::new(&Options {
        directory: &settings.directory,
        shards: &settings.shard_names(),
        ports: (0..settings.services).map(ports).collect(),
        // Small enough that snapshots are made meanwhile, and that segments end often.
        arguments: &["--segment-mb", "2", "--snapshot-log-mb", "2"],
        has_failpoints: settings.has_failpoints,
    })
}
