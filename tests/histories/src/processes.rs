//! The server and the log service under test, as processes that can be killed and started again.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{kill_process, Pid, Signal};

const HOST: &str = "127.0.0.1";

/// Name of the shard, for the server and for whoever asks the log service about it.
pub const SHARD: &str = "histories";

/// Below the ports that the system gives to outgoing connections: one of those could otherwise take the port of a process
/// that is being restarted.
const PORTS: std::ops::Range<u16> = 27000..28000;

/// A program with an output file of its own.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    output: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Starts it.
    pub fn start(&mut self) -> Result<()> {
        let output = File::options().create(true).append(true).open(&self.output)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// As a crash. Returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// It stands still until it is told to go on, or killed.
    pub fn stall(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// It goes on.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        kill_process(Pid::from_child(child), signal)?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = self.kill();
    }
}

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
        let mut log = Process {
            program: from_environment("LOGSERVICE")?,
            arguments: [
                ["--dir", &log_directory.display().to_string()],
                ["--listen", &format!("{HOST}:{log_port}")],
                ["--http", &format!("{HOST}:{http_port}")],
                ["--log-level", "warn"],
                ["--snapshot-log-mb", "0"],
            ]
            .concat()
            .into_iter()
            .chain(["--enable-debug-command"])
            .map(str::to_owned)
            .collect(),
            output: directory.join("log.output"),
            child: None,
        };
        let mut server = Process {
            program: from_environment("VALKEY_BIN_DIR")?.join("valkey-server"),
            arguments: vec![configuration.display().to_string()],
            output: directory.join("server.output"),
            child: None,
        };
        log.start()?;
        server.start()?;
        let url = |port| format!("redis://{HOST}:{port}");
        Ok(Cluster { server, log, server_url: url(port), log_url: url(log_port) })
    }
}

fn from_environment(name: &str) -> Result<PathBuf> {
    let path = env::var_os(name).with_context(|| format!("{name} is not set; run.sh sets it"))?;
    Ok(PathBuf::from(path))
}

/// Ports that nobody listens on. The search begins at a place of this process's own, so that two that run at once differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let offset = std::process::id() as usize * N % PORTS.len();
    let candidates = PORTS.cycle().skip(offset).take(PORTS.len());
    let free: Vec<u16> = candidates.filter(|&port| TcpListener::bind((HOST, port)).is_ok()).take(N).collect();
    free.try_into().ok().context("no ports are free")
}
