//! Starts, watches and ends the engine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use durability_protocol::audit::parse_keyspace;
use durability_protocol::EngineVersion;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::bounds::{Bounds, Clock};
use super::client::{info_field, Client};
use super::commands::Commands;
use super::configuration::configuration;
use super::confine::{self, Confined};
use super::feed::{Feed, Start};
use super::flags::Isolation;
use super::names::{self, Names};
use super::output::Output;
use super::EngineError;
use crate::printable::printable;
use crate::store::Contents;

/// How long it may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked how far it is.
const POLL: Duration = Duration::from_millis(20);
/// The longest that it may take to end by itself once a connection to it has broken.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Which engine, and how it is started.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The program, looked up in `PATH` if it has no slash.
    pub program: PathBuf,
    /// A configuration file that is read before what this process sets: to load modules that the data needs.
    pub config: Option<PathBuf>,
    /// Whether it gives way to everything else that runs on the machine.
    pub is_background: bool,
    /// What it may take.
    pub bounds: Bounds,
    /// Whether it has a network of its own.
    pub isolation: Isolation,
    /// Commands that keep their own names besides those that the log needs.
    pub kept_commands: Vec<String>,
    /// What is older is not used.
    pub min_version: Option<EngineVersion>,
}

/// A running engine. Ends when it is dropped, and when this process does.
pub struct Engine {
    child: Child,
    client: Client,
    /// Hears what the engine publishes while it is read (`reading.rs`). Its socket has no name any more when that is known.
    pub(super) listener: Client,
    output: Arc<Output>,
    version: EngineVersion,
    names: Names,
    commands: Commands,
    bounds: Bounds,
    /// Where it is fed from, until it is.
    feeding: Option<TcpListener>,
    is_background: bool,
    /// What it was fed, in bytes.
    fed_bytes: u64,
}

/// How far an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    is_linked: bool,
    applied: u64,
    received: u64,
    sent: u64,
}

impl Engine {
    /// Starts an engine that writes what it saves to `file`, for a log that was written with so many databases, if that is known.
    ///
    /// # Errors
    /// It cannot be started, or ends at once, or is of a version that is not to be used.
    pub async fn start(options: &EngineOptions, file: &Path, databases: Option<u32>) -> Result<Self, EngineError> {
        loop {
            match Self::start_once(options, file, databases).await {
                // It has not got a command that was to be hidden, and the next one is not told of that.
                Err(EngineError::Ended { output, .. }) if names::note_missing(&output) => {}
                started => return started,
            }
        }
    }

    async fn start_once(options: &EngineOptions, file: &Path, databases: Option<u32>) -> Result<Self, EngineError> {
        let system = |action| move |source| EngineError::System { action, source };
        let not_started = |source| EngineError::Start { program: options.program.clone(), source };
        let names = Names::draw(&options.kept_commands).map_err(system("cannot draw random numbers"))?;
        let home = tempfile::Builder::new().prefix("logservice-").tempdir();
        let home = home.map_err(system("cannot create a temporary directory"))?;
        let socket = home.path().join("engine.sock");
        let configuration = configuration(options, &socket, file, databases, &names)?;
        let spawned = confine::spawn(options, || {
            let mut command = Command::new(&options.program);
            // What this process is told of an object store is not for modules that the engine loads.
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
                command.env_remove(name);
            }
            command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            command
        });
        let Confined { mut child, listener: feeding } = spawned.map_err(not_started)?;
        // If memory runs out it is this one that can be done without.
        if let Some(pid) = child.id() {
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "800");
        }
        let mut stdin = child.stdin.take().ok_or_else(|| not_started(std::io::ErrorKind::BrokenPipe.into()))?;
        stdin.write_all(configuration.as_bytes()).await.map_err(system("cannot configure valkey-server"))?;
        drop(stdin);
        let output = Arc::new(Output::default());
        if let Some(stdout) = child.stdout.take() {
            let output = output.clone();
            tokio::spawn(async move { output.read(stdout).await });
        }
        // Where it says what is wrong with its configuration.
        let stderr = child.stderr.take().map(|stderr| {
            let output = output.clone();
            tokio::spawn(async move { output.read(stderr).await })
        });
        let clock = Clock::start(child.id());
        let client = loop {
            match Client::connect(&socket).await {
                Ok(client) => break client,
                Err(source) => {
                    if let Err(ended) = check_alive(&mut child, &output, &options.bounds) {
                        // What it wrote comes by another way than its end.
                        if let Some(stderr) = stderr {
                            let _ = tokio::time::timeout(END_TIMEOUT, stderr).await;
                        }
                        return Err(check_alive(&mut child, &output, &options.bounds).err().unwrap_or(ended));
                    }
                    if Instant::now() > clock.deadline(START_TIMEOUT) {
                        return Err(not_started(source));
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        let listener = Client::connect(&socket).await.map_err(not_started)?;
        // The socket has served: if this process is killed, nobody else would remove it.
        drop(home);
        let mut engine = Engine {
            child,
            client,
            listener,
            output,
            version: EngineVersion { major: 0, minor: 0, patch: 0 },
            names,
            commands: Commands::default(),
            bounds: options.bounds,
            feeding: Some(feeding),
            is_background: options.is_background,
            fed_bytes: 0,
        };
        let info = engine.ask(&["INFO", "server"]).await?;
        let version = info_field(&info, "valkey_version").and_then(|version| version.parse().ok());
        engine.version = version.ok_or_else(|| EngineError::Answer {
            command: "INFO server".to_owned(),
            reason: "it does not tell a Valkey version".to_owned(),
        })?;
        check_version(options, engine.version)?;
        let answer = |reason| EngineError::Answer { command: "COMMAND".to_owned(), reason };
        let reply = engine.query(&[b"COMMAND"]).await?;
        engine.commands = Commands::read(&reply).map_err(answer)?;
        Ok(engine)
    }

    /// A feed for this engine, the only one that it has: of the log it is sent nothing but what a leader can have logged.
    ///
    /// # Errors
    /// It has one, or its thread cannot be started.
    pub fn open_feed(&mut self, start: Start) -> Result<Feed, EngineError> {
        let listener = self.feeding.take().ok_or_else(|| EngineError::System {
            action: "cannot feed an engine twice",
            source: std::io::ErrorKind::AddrInUse.into(),
        })?;
        Ok(Feed::open(start, self.commands.clone(), listener, self.is_background)?)
    }

    /// Its version.
    pub fn version(&self) -> EngineVersion {
        self.version
    }

    /// Follows `feed` until everything is applied that can be: to its end, or to before a command or transaction that the end
    /// cuts in two. Answers up to where (exclusive).
    ///
    /// # Errors
    /// The engine ended or stands still, or the feed broke off.
    pub async fn apply(&mut self, feed: &mut Feed) -> Result<u64, EngineError> {
        self.ask(&["CONFIG", "SET", "primaryauth", &feed.secret]).await?;
        let (host, port) = (feed.address.ip().to_string(), feed.address.port().to_string());
        self.ask(&["REPLICAOF", &host, &port]).await?;
        self.catch_up(feed).await
    }

    /// Waits until everything is applied of the feed that it follows, as [`Engine::apply`] does.
    ///
    /// # Errors
    /// The same.
    pub async fn catch_up(&mut self, feed: &mut Feed) -> Result<u64, EngineError> {
        let end = feed.end() + feed.inserted_bytes();
        let mut last: Option<Progress> = None;
        let mut moved = Clock::start(self.child.id());
        loop {
            check_alive(&mut self.child, &self.output, &self.bounds)?;
            if let Some(error) = feed.failure() {
                return Err(error.into());
            }
            let progress = match self.progress(feed).await {
                Ok(progress) => progress,
                // It is at one command, as nothing else keeps it from answering.
                Err(EngineError::Silent { .. }) => {
                    let (applied, received) = last.map_or((0, 0), |last| (last.applied, last.received));
                    return Err(EngineError::Stalled { applied, received, end, seconds: self.bounds.stall.as_secs() });
                }
                Err(error) => return Err(self.ended_or(error).await),
            };
            self.fed_bytes = progress.sent;
            let is_same = last == Some(progress);
            if progress.is_linked && progress.received == end && (is_same || progress.applied == end) {
                // What is received is applied within the turn of the event loop that received it.
                return Ok(progress.applied - feed.inserted_bytes());
            }
            if !is_same {
                (last, moved) = (Some(progress), Clock::start(self.child.id()));
            } else if Instant::now() > moved.deadline(self.bounds.stall) {
                let Progress { applied, received, .. } = progress;
                return Err(EngineError::Stalled { applied, received, end, seconds: self.bounds.stall.as_secs() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The name by which it knows a command.
    pub(super) fn name_of(&self, command: &str) -> String {
        self.names.of(command)
    }

    /// Asks what takes no time.
    pub(super) async fn ask(&mut self, command: &[&str]) -> Result<String, EngineError> {
        self.ask_within(self.bounds.stall, command).await
    }

    /// Asks what takes as long as the data is large.
    async fn ask_of_all(&mut self, command: &[&str]) -> Result<String, EngineError> {
        self.ask_within(self.bounds.time_for(self.fed_bytes), command).await
    }

    async fn ask_within(&mut self, limit: Duration, command: &[&str]) -> Result<String, EngineError> {
        let words: Vec<_> = command.iter().map(|word| word.as_bytes()).collect();
        let reply = self.query_within(limit, &words).await?;
        let text = reply.as_str().map(str::to_owned);
        text.ok_or_else(|| EngineError::Answer { command: shown(&words), reason: "the reply is no text".to_owned() })
    }

    /// As [`Engine::ask`], with arguments and a reply of any kind.
    pub(super) async fn query(&mut self, command: &[&[u8]]) -> Result<BytesFrame, EngineError> {
        self.query_within(self.bounds.stall, command).await
    }

    async fn query_within(&mut self, limit: Duration, command: &[&[u8]]) -> Result<BytesFrame, EngineError> {
        let name = command.first().map(|name| self.names.of(&String::from_utf8_lossy(name))).unwrap_or_default();
        let words: Vec<_> = std::iter::once(name.as_bytes()).chain(command.iter().skip(1).copied()).collect();
        let clock = Clock::start(self.child.id());
        let mut reply = pin!(self.client.query(&words));
        let mut deadline = clock.deadline(limit);
        loop {
            if let Ok(reply) = tokio::time::timeout_at(deadline, &mut reply).await {
                return reply.map_err(|reason| EngineError::Answer { command: shown(command), reason });
            }
            let past = std::mem::replace(&mut deadline, clock.deadline(limit));
            if deadline <= past {
                return Err(EngineError::Silent { command: shown(command), seconds: limit.as_secs() });
            }
        }
    }

    /// Why it ended, if it did, instead of what was noticed first.
    pub(super) async fn ended_or(&mut self, error: EngineError) -> EngineError {
        let _ = tokio::time::timeout(END_TIMEOUT, self.child.wait()).await;
        check_alive(&mut self.child, &self.output, &self.bounds).err().unwrap_or(error)
    }

    async fn progress(&mut self, feed: &Feed) -> Result<Progress, EngineError> {
        let info = self.ask(&["INFO", "replication"]).await?;
        let number = |name| info_field(&info, name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Ok(Progress {
            is_linked: info_field(&info, "master_link_status") == Some("up"),
            applied: number("slave_repl_offset"),
            received: number("slave_read_repl_offset"),
            sent: feed.sent_bytes(),
        })
    }

    /// How many keys each database has that has any, those included whose time has come.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn key_counts(&mut self) -> Result<Vec<(u32, u64)>, EngineError> {
        Ok(parse_keyspace(&self.ask(&["INFO", "keyspace"]).await?))
    }

    /// What it holds: the number of keys of each database, and the digest of everything. Afterwards it follows nothing.
    pub async fn contents(&mut self) -> Result<Contents, EngineError> {
        // The digest leaves out fields of hashes whose time has come, so it would change by itself. Only the source of an import
        // sees everything, and only on a server that is no replica.
        self.ask(&["REPLICAOF", "NO", "ONE"]).await?;
        self.ask(&["CLIENT", "IMPORT-SOURCE", "ON"]).await?;
        let info = self.ask(&["INFO", "keyspace"]).await?;
        let digest = self.ask_of_all(&["DEBUG", "DIGEST"]).await?;
        let keys = parse_keyspace(&info);
        let module_types = self.module_types(&keys).await?;
        Ok(Contents { keys, digest, module_types })
    }

    /// The modules' types of which it has values, in the databases that have keys. Only where there are modules: it looks at every key.
    async fn module_types(&mut self, databases: &[(u32, u64)]) -> Result<Vec<String>, EngineError> {
        let modules = self.query(&[b"MODULE", b"LIST"]).await?;
        if !matches!(modules, BytesFrame::Array(modules) if modules.iter().any(is_loaded)) {
            return Ok(Vec::new());
        }
        let databases: Vec<String> = databases.iter().map(|(database, _)| database.to_string()).collect();
        let mut command = vec!["EVAL", MODULE_TYPES, "0"];
        command.extend(databases.iter().map(String::as_str));
        let mut types: Vec<String> = self.ask_of_all(&command).await?.split_whitespace().map(str::to_owned).collect();
        types.sort_unstable();
        Ok(types)
    }

    /// Saves what it holds to the file that it was started with.
    pub async fn save(&mut self) -> Result<(), EngineError> {
        let saved = self.ask_of_all(&["SAVE"]).await;
        let Err(error) = saved else { return Ok(()) };
        check_alive(&mut self.child, &self.output, &self.bounds)?;
        match error {
            EngineError::Answer { command, reason } => {
                let warning = self.last_warning().await;
                Err(EngineError::Answer { command, reason: format!("{reason} ({warning})") })
            }
            error => Err(error),
        }
    }

    /// The last warning that it wrote before this.
    async fn last_warning(&mut self) -> String {
        // What it writes arrives by another way than what it answers. It writes this behind all else.
        if self.ask(&["DEBUG", "LOG", END_OF_OUTPUT]).await.is_ok() {
            for _ in 0..OUTPUT_LOOKS {
                if self.output.has(END_OF_OUTPUT) {
                    break;
                }
                tokio::time::sleep(OUTPUT_LOOK_INTERVAL).await;
            }
        }
        let warning = self.output.last_warning_before(END_OF_OUTPUT);
        warning.unwrap_or_else(|| "it does not say why".to_owned())
    }

    /// Ends it, and waits until it has ended and its memory is free.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// What it is asked to write behind what it has written.
const END_OF_OUTPUT: &str = "end-of-output";
/// How often, at most, it is looked whether that has arrived.
const OUTPUT_LOOKS: u32 = 100;
/// The time between two looks.
const OUTPUT_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Whether an element of `MODULE LIST` is none that is a part of the server: the path of those is their name.
fn is_loaded(module: &BytesFrame) -> bool {
    let BytesFrame::Array(fields) = module else { return true };
    let value = |name: &str| fields.chunks_exact(2).find(|pair| pair[0].as_str() == Some(name))?[1].as_str();
    value("name") != value("path")
}

/// Answers the names of the types of all keys in some databases, but for the server's own.
const MODULE_TYPES: &str = "\
    local found = {none = true, string = true, list = true, set = true, zset = true, hash = true, stream = true} \
    local names = {} \
    for _, database in ipairs(ARGV) do \
        server.call('SELECT', database) \
        local cursor = '0' \
        repeat \
            local reply = server.call('SCAN', cursor, 'COUNT', 1000) \
            cursor = reply[1] \
            for _, key in ipairs(reply[2]) do \
                local name = server.call('TYPE', key).ok \
                if not found[name] then \
                    found[name] = true \
                    names[#names + 1] = name \
                end \
            end \
        until cursor == '0' \
    end \
    return table.concat(names, ' ')";

/// What `--version` of the program says.
///
/// # Errors
/// It cannot be started, or is no valkey-server.
pub async fn program_version(options: &EngineOptions) -> Result<EngineVersion, EngineError> {
    let not_started = |source| EngineError::Start { program: options.program.clone(), source };
    let spawned = confine::spawn(options, || {
        let mut command = Command::new(&options.program);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    });
    let output = spawned.map_err(not_started)?.child.wait_with_output();
    let output = tokio::time::timeout(START_TIMEOUT, output).await;
    let output = output.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(not_started)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v=")?.parse().ok());
    version.ok_or_else(|| not_started(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no valkey-server")))
}

/// Refuses a version that is not to be used.
pub fn check_version(options: &EngineOptions, found: EngineVersion) -> Result<(), EngineError> {
    match options.min_version.filter(|least| found < *least) {
        Some(least) => Err(EngineError::OldVersion { found, least }),
        None => Ok(()),
    }
}

/// A command as it is told of in an error: its name, and that of a subcommand. What follows may be secret, or long.
fn shown(command: &[&[u8]]) -> String {
    let words = command.iter().take(2).map(|word| printable(&String::from_utf8_lossy(&word[..word.len().min(64)])));
    words.collect::<Vec<_>>().join(" ")
}

fn check_alive(child: &mut Child, output: &Output, bounds: &Bounds) -> Result<(), EngineError> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            let output = output.reason(bounds.memory_bytes);
            Err(EngineError::Ended { status: status.to_string(), output })
        }
        Err(source) => Err(EngineError::System { action: "cannot watch valkey-server", source }),
    }
}
