//! The server and the log service under test.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};
use durability_histories::process::{from_environment, Process};

const HOST: &str = "127.0.0.1";

/// Name of the shard, for the server and for whoever asks the log service about it.
pub const SHARD: &str = "histories";

/// Below the ports that the system gives to outgoing connections: one of those could otherwise take the port of a process
/// that is being restarted.
const PORTS: std::ops::Range<u16> = 27000..28000;

/// A log service and a server that ships to it, in one directory.
#[derive(Debug)]
pub struct Cluster {
    /// The server under test.
    pub server: Process,
    /// Its log service.
    pub log: Process,
    /// Where the server listens, as a URL.
    pub server_url: String,
    /// Where the log service listens, as a URL.
    pub log_url: String,
}

impl Cluster {
    /// Starts both. The programs are named by the environment, see `run.sh`.
    pub fn start(directory: &Path) -> Result<Self> {
        let [port, log_port, http_port] = free_ports()?;
        let data = directory.join("server");
        fs::create_dir(&data)?;
        let configuration = directory.join("valkey.conf");
        let lines = [
            format!("bind {HOST}"),
            format!("port {port}"),
            format!("dir {}", data.display()),
            "save \"\"".to_owned(),
            format!("loadmodule {}", from_environment("DURABILITY_SO")?.display()),
            format!("durability.log {HOST}:{log_port}"),
            format!("durability.shard {SHARD}"),
            "durability.mode sync".to_owned(),
        ];
        fs::write(&configuration, lines.join("\n"))?;
        let log_directory = directory.join("log");
        let arguments = [
            ["--dir", &log_directory.display().to_string()],
            ["--listen", &format!("{HOST}:{log_port}")],
            ["--http", &format!("{HOST}:{http_port}")],
            ["--log-level", "warn"],
            ["--snapshot-log-mb", "0"],
        ];
        let arguments = arguments.concat().into_iter().chain(["--enable-debug-command"]).map(str::to_owned).collect();
        let mut log = Process::new(from_environment("LOGSERVICE")?, arguments, directory.join("log.output"));
        let program = from_environment("VALKEY_BIN_DIR")?.join("valkey-server");
        let arguments = vec![configuration.display().to_string()];
        let mut server = Process::new(program, arguments, directory.join("server.output"));
        log.start()?;
        server.start()?;
        let url = |port| format!("redis://{HOST}:{port}");
        Ok(Cluster { server, log, server_url: url(port), log_url: url(log_port) })
    }
}

/// Ports that nobody listens on. The search begins at a place of this process's own, so that two that run at once differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let offset = std::process::id() as usize * N % PORTS.len();
    let candidates = PORTS.cycle().skip(offset).take(PORTS.len());
    let free: Vec<u16> = candidates.filter(|&port| TcpListener::bind((HOST, port)).is_ok()).take(N).collect();
    free.try_into().ok().context("no ports are free")
}
