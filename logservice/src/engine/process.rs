//! Starts, watches and ends the engine.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use durability_protocol::audit::parse_keyspace;
use durability_protocol::EngineVersion;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::background::give_way;
use super::client::{info_field, Client};
use super::feed::Feed;
use super::EngineError;
use crate::store::Contents;

/// How long it may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may move while there is something to apply.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is asked how far it is.
const POLL: Duration = Duration::from_millis(20);
/// Lines of its log that are kept for an error.
const KEPT_LINES: usize = 8;
/// How its log begins to say that it answered its primary with an error.
const REFUSED: &str = "== CRITICAL == ";
/// The longest that it may take to answer: digests and saves take as long as the data is large.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest that it may take to end by itself once a connection to it has broken.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Databases of a log of which it is not known how many it uses: as many as a leader may be configured with, within reason.
const DATABASES: u32 = 16_384;
/// How the line of its last report begins that says what it had applied when it ended.
const APPLIED: &str = "slave_repl_offset:";

/// Which engine, and how it is started.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The program, looked up in `PATH` if it has no slash.
    pub program: PathBuf,
    /// A configuration file that is read before what this process sets: to load modules that the data needs.
    pub config: Option<PathBuf>,
    /// Whether it gives way to everything else that runs on the machine.
    pub is_background: bool,
}

/// A running engine. Ends when it is dropped, and when this process does.
pub struct Engine {
    child: Child,
    client: Client,
    /// Hears what the engine publishes while it is read (`reading.rs`). Its socket has no name any more when that is known.
    pub(super) listener: Client,
    output: Arc<Mutex<Output>>,
    version: EngineVersion,
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
    /// It cannot be started, or ends at once.
    pub async fn start(options: &EngineOptions, file: &Path, databases: Option<u32>) -> Result<Self, EngineError> {
        let system = |action| move |source| EngineError::System { action, source };
        let not_started = |source| EngineError::Start { program: options.program.clone(), source };
        let home = tempfile::Builder::new().prefix("logservice-").tempdir();
        let home = home.map_err(system("cannot create a temporary directory"))?;
        let socket = home.path().join("engine.sock");
        let mut command = Command::new(&options.program);
        // What this process is told of an object store is not for modules that the engine loads.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
            command.env_remove(name);
        }
        command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        prepare(&mut command, options.is_background);
        let mut child = command.spawn().map_err(not_started)?;
        // If memory runs out it is this one that can be done without.
        if let Some(pid) = child.id() {
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "800");
        }
        let configuration = configuration(options, &socket, file, databases)?;
        let mut stdin = child.stdin.take().ok_or_else(|| not_started(std::io::ErrorKind::BrokenPipe.into()))?;
        stdin.write_all(configuration.as_bytes()).await.map_err(system("cannot configure valkey-server"))?;
        drop(stdin);
        let output = Arc::new(Mutex::new(Output::default()));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(keep_last_lines(stdout, output.clone()));
        }
        // Where it says what is wrong with its configuration.
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(keep_last_lines(stderr, output.clone()));
        }
        let deadline = Instant::now() + START_TIMEOUT;
        let mut client = loop {
            match Client::connect(&socket).await {
                Ok(client) => break client,
                Err(source) => {
                    check_alive(&mut child, &output)?;
                    if Instant::now() > deadline {
                        return Err(not_started(source));
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
        };
        let listener = Client::connect(&socket).await.map_err(not_started)?;
        // The socket has served: if this process is killed, nobody else would remove it.
        drop(home);
        let info = client.ask(&["INFO", "server"]).await?;
        let version = info_field(&info, "valkey_version").and_then(|version| version.parse().ok());
        let version = version.ok_or_else(|| EngineError::Answer {
            command: "INFO server".to_owned(),
            reason: "it does not tell a Valkey version".to_owned(),
        })?;
        Ok(Engine { child, client, listener, output, version })
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
        let mut moved = Instant::now();
        loop {
            check_alive(&mut self.child, &self.output)?;
            if let Some(error) = feed.failure() {
                return Err(error.into());
            }
            let progress = match self.progress(feed).await {
                Ok(progress) => progress,
                Err(error) => return Err(self.ended_or(error).await),
            };
            let is_same = last == Some(progress);
            if progress.is_linked && progress.received == end && (is_same || progress.applied == end) {
                // What is received is applied within the turn of the event loop that received it.
                return Ok(progress.applied - feed.inserted_bytes());
            }
            if !is_same {
                (last, moved) = (Some(progress), Instant::now());
            } else if moved.elapsed() > STALL_TIMEOUT {
                let Progress { applied, received, .. } = progress;
                return Err(EngineError::Stalled { applied, received, end });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn ask(&mut self, command: &[&str]) -> Result<String, EngineError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.client.ask(command)).await;
        asked.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(EngineError::Answer { command: command.join(" "), reason })
        })
    }

    /// As [`Engine::ask`], with arguments and a reply of any kind.
    pub(super) async fn query(&mut self, command: &[&[u8]]) -> Result<BytesFrame, EngineError> {
        self.client.query(command).await.map_err(|reason| {
            let words: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word)).collect();
            EngineError::Answer { command: words.join(" "), reason }
        })
    }

    /// Why it ended, if it did, instead of what was noticed first.
    pub(super) async fn ended_or(&mut self, error: EngineError) -> EngineError {
        let _ = tokio::time::timeout(END_TIMEOUT, self.child.wait()).await;
        check_alive(&mut self.child, &self.output).err().unwrap_or(error)
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
        let digest = self.ask(&["DEBUG", "DIGEST"]).await?;
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
        let mut types: Vec<String> = self.ask(&command).await?.split_whitespace().map(str::to_owned).collect();
        types.sort_unstable();
        Ok(types)
    }

    /// Saves what it holds to the file that it was started with.
    pub async fn save(&mut self) -> Result<(), EngineError> {
        let saved = self.ask(&["SAVE"]).await;
        let Err(error) = saved else { return Ok(()) };
        check_alive(&mut self.child, &self.output)?;
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
            let has_arrived = || kept(&self.output).last.iter().any(|line| line.contains(END_OF_OUTPUT));
            for _ in 0..OUTPUT_LOOKS {
                if has_arrived() {
                    break;
                }
                tokio::time::sleep(OUTPUT_LOOK_INTERVAL).await;
            }
        }
        let output = kept(&self.output);
        let warnings = output.last.iter().filter(|line| !line.contains(END_OF_OUTPUT));
        let last = warnings.rev().find_map(|line| Some(line.split_once(" # ")?.1));
        last.unwrap_or("it does not say why").to_owned()
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

/// What `--version` of the program at `path` says.
///
/// # Errors
/// It cannot be started, or is no valkey-server.
pub async fn program_version(path: &Path) -> Result<EngineVersion, EngineError> {
    let not_started = |source| EngineError::Start { program: path.to_owned(), source };
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().await.map_err(not_started)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v=")?.parse().ok());
    version.ok_or_else(|| not_started(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no valkey-server")))
}

fn configuration(
    options: &EngineOptions,
    socket: &Path,
    file: &Path,
    databases: Option<u32>,
) -> Result<String, EngineError> {
    let quoted = |path: &Path| -> Result<String, EngineError> {
        let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n', '\r']));
        let text = text.ok_or_else(|| EngineError::System {
            action: "cannot use a path with quotes, backslashes or other than UTF-8 text",
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, path.display().to_string()),
        })?;
        Ok(format!("\"{text}\""))
    };
    let mut out = String::new();
    if let Some(config) = &options.config {
        out += &format!("include {}\n", quoted(config)?);
    }
    let (directory, name) = (file.parent().unwrap_or(Path::new(".")), Path::new(file.file_name().unwrap_or_default()));
    out += &format!(
        "port 0\ntls-port 0\nunixsocket {}\nunixsocketperm 700\ndir {}\ndbfilename {}\n",
        quoted(socket)?,
        quoted(directory)?,
        quoted(name)?
    );
    // It holds what the leader holds, whatever that takes, and keeps nothing by itself.
    let databases = databases.unwrap_or(0).max(DATABASES);
    out +=
        &format!("databases {databases}\nmaxmemory 0\nproto-max-bulk-len 4096gb\nclient-query-buffer-limit 4096gb\n");
    out +=
        "save \"\"\nappendonly no\nrdbcompression yes\nrdbchecksum yes\nreplica-read-only yes\nrepl-backlog-size 1mb\n";
    out += "repl-diskless-load swapdb\nenable-debug-command local\ndaemonize no\nsupervised no\nlogfile \"\"\nloglevel notice\n";
    // What it cannot apply is not passed over, as a replica does unless told otherwise: it ends.
    out += "propagation-error-behavior panic\n";
    // Nothing expires by itself either, whether it follows a feed or not.
    out += "import-mode yes\n";
    out += "latency-tracking no\nactivedefrag no\nio-threads 1\ncluster-enabled no\ntls-replication no\n";
    Ok(out)
}

/// The program gives way to others if it is to, and ends when this process does.
pub(super) fn prepare(command: &mut Command, is_background: bool) {
    // SAFETY: called in the child between fork and exec; what it calls are system calls that are safe there, and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            if is_background {
                give_way();
            }
            // If this process is killed, nobody else would end it.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
}

/// What an engine wrote.
#[derive(Debug, Default)]
struct Output {
    last: VecDeque<String>,
    /// What it could not apply: the report of its end, which follows, is long.
    refused: Option<String>,
    /// Up to where it had applied the log then (exclusive).
    applied: Option<u64>,
}

async fn keep_last_lines(stdout: impl AsyncRead + Unpin, output: Arc<Mutex<Output>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!("valkey-server: {line}");
        let mut output = kept(&output);
        if let Some((_, refused)) = line.split_once(REFUSED) {
            output.refused.get_or_insert_with(|| refused.trim().to_owned());
        }
        if let (true, Some(applied)) = (output.refused.is_some(), line.trim().strip_prefix(APPLIED)) {
            output.applied = applied.parse().ok().or(output.applied);
        }
        if output.last.len() == KEPT_LINES {
            output.last.pop_front();
        }
        output.last.push_back(line);
    }
}

fn kept(output: &Mutex<Output>) -> MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn text(output: &Mutex<Output>) -> String {
    let output = kept(output);
    if let Some(refused) = &output.refused {
        let place = output.applied.map_or_else(String::new, |applied| format!(" at offset {applied}"));
        return format!(
            "it cannot apply the log{place}: {refused} (a module that the data needs? --valkey-conf names a file with loadmodule)"
        );
    }
    output.last.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn check_alive(child: &mut Child, output: &Mutex<Output>) -> Result<(), EngineError> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(EngineError::Ended { status: status.to_string(), output: text(output) }),
        Err(source) => Err(EngineError::System { action: "cannot watch valkey-server", source }),
    }
}
