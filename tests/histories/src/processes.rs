//! The server and the log services under test.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Result};
use durability_histories::process::{from_environment, Process};
use durability_histories::services::{url, Options, Ports, Services};

const HOST: &str = "127.0.0.1";

/// Name of the shard, for the server and for whoever asks the log service about it.
pub const SHARD: &str = "histories";

/// Below the ports that the system gives to outgoing connections: one of those could otherwise take the port of a process
/// that is being restarted.
const PORTS: std::ops::Range<u16> = 27000..28000;

/// For three services to become a cluster.
const FORM_TIME: Duration = Duration::from_secs(20);

/// Log services and a server that ships to them, in one directory.
#[derive(Debug)]
pub struct Cluster {
    /// The server under test.
    pub server: Process,
    /// Its log services: one, or three.
    pub services: Services,
    /// Where the server listens, as a URL.
    pub server_url: String,
}

impl Cluster {
    /// Starts all. The programs are named by the environment, see `run.sh`.
    pub fn start(directory: &Path, services: usize) -> Result<Self> {
        let free = free_ports(1 + 3 * services)?;
        let (port, of_services) = (free[0], &free[1..]);
        let data = directory.join("server");
        fs::create_dir(&data)?;
        let configuration = directory.join("valkey.conf");
        let (listen, others) = of_services.split_at(services);
        let (http, peers) = others.split_at(services);
        let logs: Vec<String> = listen.iter().map(|port| format!("{HOST}:{port}")).collect();
        let lines = [
            format!("bind {HOST}"),
            format!("port {port}"),
            format!("dir {}", data.display()),
            "save \"\"".to_owned(),
            format!("loadmodule {}", from_environment("DURABILITY_SO")?.display()),
            format!("durability.log {}", logs.join(",")),
            format!("durability.shard {SHARD}"),
            "durability.mode sync".to_owned(),
        ];
        fs::write(&configuration, lines.join("\n"))?;
        let peers = if services > 1 { peers.to_vec() } else { Vec::new() };
        let ports =
            listen.iter().zip(http).map(|(&listen, &http)| Ports { listen, http, peers: peers.clone() }).collect();
        let mut services = Services::new(&Options {
            directory,
            shards: &[SHARD.to_owned()],
            ports,
            arguments: &["--log-level", "warn", "--snapshot-log-mb", "0", "--enable-debug-command"],
            has_failpoints: false,
        })?;
        let program = from_environment("VALKEY_BIN_DIR")?.join("valkey-server");
        let arguments = vec![configuration.display().to_string()];
        let mut server = Process::new(program, arguments, directory.join("server.output"));
        services.start_all()?;
        services.form(FORM_TIME)?;
        server.start()?;
        Ok(Cluster { server, services, server_url: url(port) })
    }
}

/// Ports that nobody listens on. The search begins at a place of this process's own, so that two that run at once differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let offset = std::process::id() as usize * count % PORTS.len();
    let candidates = PORTS.cycle().skip(offset).take(PORTS.len());
    let free: Vec<u16> = candidates.filter(|&port| TcpListener::bind((HOST, port)).is_ok()).take(count).collect();
    ensure!(free.len() == count, "no ports are free");
    Ok(free)
}
