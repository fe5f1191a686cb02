//! The log service and the servers under test. They are killed, by their process ids, when they are dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, waitpid, Pid, Signal, WaitOptions};

use crate::client::Client;
use crate::resp::{self, Reply};
use crate::Result;

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// For a snapshot to be made beside other load.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
const REPLAY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const HOST: &str = "127.0.0.1";
const SHARD: &str = "latency";
/// Without tokens, the log service asks for none.
const ANY_TOKEN: &str = "any";
/// No outage is that long.
const NO_LIMIT_MS: u64 = 600_000;

/// Where the programs are, and where they may work.
#[derive(Debug)]
pub struct Programs {
    /// Path of valkey-server.
    pub valkey_server: PathBuf,
    /// Path of the module.
    pub module: PathBuf,
    /// Path of logservice.
    pub logservice: PathBuf,
    /// An empty directory.
    pub directory: PathBuf,
    /// Another one, for the log.
    pub log_directory: PathBuf,
    /// First of four ports.
    pub base_port: u16,
}

/// A process.
struct Running(Child);

impl Running {
    fn start(program: &Path, arguments: &[String], output: &Path) -> Result<Self> {
        let output = File::create(output)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Running(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server.
pub struct Server {
    process: Running,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// A new connection to it.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(self.port)
    }
}

/// A log service.
pub struct Log {
    client: Client,
    process: Running,
    port: u16,
}

impl Log {
    /// It acknowledges nothing from now on.
    pub fn freeze(&mut self) -> Result<()> {
        self.client.call(&["LOG.DEBUG", "FREEZE-ACKS", SHARD]).map(drop)
    }

    /// It acknowledges what it has, and from now on at once.
    pub fn resume(&mut self) -> Result<()> {
        self.client.call(&["LOG.DEBUG", "RESUME-ACKS", SHARD]).map(drop)
    }

    /// It acknowledges that much later than it could.
    pub fn delay(&mut self, delay: Duration) -> Result<()> {
        let milliseconds = format!("{}", delay.as_secs_f64() * 1000.0);
        self.client.call(&["LOG.DEBUG", "DELAY-ACKS", SHARD, &milliseconds]).map(drop)
    }

    /// Has a snapshot made, and waits for it.
    pub fn make_snapshot(&self) -> Result<()> {
        let mut client = Client::connect(self.port)?;
        client.socket.set_read_timeout(Some(SNAPSHOT_TIMEOUT))?;
        let mut request = Vec::new();
        resp::encode(&mut request, &[b"LOG.SNAPSHOT", SHARD.as_bytes()]);
        client.send(&request)?;
        client.reply(|reply| match reply {
            // Its offset and its length.
            Reply::Array(2) => Ok(()),
            other => Err(format!("LOG.SNAPSHOT was answered {other:?}").into()),
        })?
    }

    /// The process stands still from now on.
    pub fn stop(&self) -> Result<()> {
        let id = Pid::from_child(&self.process.0);
        kill_process(id, Signal::STOP)?;
        match waitpid(Some(id), WaitOptions::UNTRACED)? {
            Some((_, status)) if status.stopped() => Ok(()),
            _ => Err("the log service ended instead of standing still".into()),
        }
    }

    /// The process goes on.
    pub fn go_on(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process.0), Signal::CONT)?)
    }
}

/// A server with the module, and the log service that it ships to.
pub struct Durable {
    /// The server.
    pub server: Server,
    /// Its log.
    pub log: Log,
}

impl Durable {
    /// Waits until the log has everything and nobody waits.
    pub fn settle(&self) -> Result<()> {
        let mut client = self.server.connect()?;
        wait_until("everything is durable", START_TIMEOUT, || {
            Ok(client.durability("pending_bytes")? == 0 && client.durability("held_clients")? == 0)
        })
    }
}

impl Programs {
    /// Starts a server without the module. `options` are names and values of its configs in turn.
    pub fn start_plain(&self, options: &[&str]) -> Result<Server> {
        self.start_server("plain", 0, options, &[])
    }

    /// Starts a server without the module that follows `log`, and waits until it has applied everything before `offset`.
    pub fn start_replica(&self, log: &Log, offset: u64) -> Result<Server> {
        let primary = format!("{HOST} {}", log.port);
        let options = ["replicaof", &primary, "primaryuser", SHARD, "primaryauth", ANY_TOKEN];
        let server = self.start_plain(&options)?;
        let mut client = server.connect()?;
        wait_until("the replica has what is in the log", REPLAY_TIMEOUT, || {
            Ok(client.info("replication", "master_link_status")? == "up"
                && client.info("replication", "master_repl_offset")?.parse::<u64>()? >= offset)
        })?;
        Ok(server)
    }

    /// Starts a log service and a server in sync mode that ships to it, and waits until it leads. An outage of the log is
    /// measured, not what comes after it: writes are never refused.
    pub fn start_durable(&self, options: &[&str]) -> Result<Durable> {
        self.start_limited("sync", NO_LIMIT_MS, options)
    }

    /// Starts a log service and a server that ships to it in that mode, and waits until it leads. The server refuses
    /// writes when the oldest that the log does not have is `max_lag_ms` old.
    pub fn start_limited(&self, mode: &str, max_lag_ms: u64, options: &[&str]) -> Result<Durable> {
        let (log_port, http_port) = (self.base_port + 2, self.base_port + 3);
        let directory = fresh(&self.log_directory, "log")?;
        let arguments = [
            "--dir".to_owned(),
            directory.display().to_string(),
            "--listen".to_owned(),
            format!("{HOST}:{log_port}"),
            "--http".to_owned(),
            format!("{HOST}:{http_port}"),
            "--enable-debug-command".to_owned(),
            "--valkey-server".to_owned(),
            self.valkey_server.display().to_string(),
            // When they are made, and so when they may disturb, is for a figure to say.
            "--snapshot-log-mb".to_owned(),
            "0".to_owned(),
        ];
        let process = Running::start(&self.logservice, &arguments, &self.directory.join("log.output"))?;
        let log = wait_for_client(log_port)?;
        let module = [
            ("loadmodule", self.module.display().to_string()),
            ("durability.log", format!("{HOST}:{log_port}")),
            ("durability.shard", SHARD.to_owned()),
            ("durability.mode", mode.to_owned()),
            ("durability.max-lag-ms", max_lag_ms.to_string()),
            ("durability.max-pending-bytes", "4gb".to_owned()),
        ];
        let server = self.start_server("durable", 1, options, &module)?;
        let mut client = server.connect()?;
        wait_until("the server leads", START_TIMEOUT, || {
            Ok(client.info("durability", "durability_role").is_ok_and(|role| role == "leader"))
        })?;
        Ok(Durable { server, log: Log { client: log, process, port: log_port } })
    }

    fn start_server(&self, name: &str, port: u16, options: &[&str], module: &[(&str, String)]) -> Result<Server> {
        let port = self.base_port + port;
        let directory = fresh(&self.directory, name)?;
        let mut config = format!("bind {HOST}\nport {port}\ndir {}\nsave \"\"\n", directory.display());
        for option in options.chunks(2) {
            config += &format!("{}\n", option.join(" "));
        }
        for (option, value) in module {
            config += &format!("{option} {value}\n");
        }
        let file = directory.join("valkey.conf");
        std::fs::write(&file, config)?;
        let output = self.directory.join(format!("{name}.output"));
        let process = Running::start(&self.valkey_server, &[file.display().to_string()], &output)?;
        let server = Server { process, port };
        wait_for_client(port)
            .map_err(|error| format!("{error}: {}", std::fs::read_to_string(&output).unwrap_or_default()))?;
        Ok(server)
    }
}

/// An empty directory of that name.
fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir(&directory)?;
    Ok(directory)
}

/// Waits until something that answers listens on `port`.
fn wait_for_client(port: u16) -> Result<Client> {
    let mut client = None;
    wait_until("a process that was started answers", START_TIMEOUT, || {
        client = Client::connect(port).ok();
        Ok(client.as_mut().is_some_and(|client| client.call(&["PING"]).is_ok()))
    })?;
    client.ok_or_else(|| "nothing listens".into())
}

/// Asks again and again until `is_so`.
pub fn wait_until(what: &str, timeout: Duration, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_closely(what, timeout, POLL, is_so)
}

/// Asks again and again, `poll` apart, until `is_so`.
pub fn wait_closely(
    what: &str,
    timeout: Duration,
    poll: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err(format!("not within {} s: {what}", timeout.as_secs()).into());
        }
        sleep(poll);
    }
    Ok(())
}
