//! Starts an engine: finds the program, checks its version, configures it and connects to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use durability_protocol::EngineVersion;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::bounds::{Bounds, Clock};
use super::client::{info_field, Client};
use super::commands::Commands;
use super::configuration::configuration;
use super::confine::{self, Confined};
use super::flags::Isolation;
use super::names::{self, Names};
use super::output::EngineOutput;
use super::running_engine::{check_alive, Engine, END_TIMEOUT, POLL};
use super::EngineError;
use crate::base::background::Priority;

/// How long an engine may take to open its socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Which engine is used, and how it is started.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The program, looked up in `PATH` if it has no slash.
    pub program: PathBuf,
    /// A configuration file that is read before this process's own settings, to load modules that the data needs.
    pub config: Option<PathBuf>,
    /// How much of a busy core it gets.
    pub priority: Priority,
    /// Its time and memory.
    pub bounds: Bounds,
    /// Whether it has a network of its own.
    pub isolation: Isolation,
    /// Commands that keep their own names, besides those that the log needs.
    pub kept_commands: Vec<String>,
    /// Older versions are refused.
    pub min_version: Option<EngineVersion>,
}

impl Engine {
    /// Starts an engine that saves to `file`, for a log that was written with so many databases; `None` if that is unknown.
    ///
    /// # Errors
    /// It cannot be started, ends at once, or has a version that is refused.
    pub async fn start(options: &EngineOptions, file: &Path, databases: Option<u32>) -> Result<Self, EngineError> {
        loop {
            match Self::start_once(options, file, databases).await {
                // It lacks a command that was to be hidden. The next attempt does not hide that one.
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
        let spawned = confine::spawn(options, || engine_command(options));
        let Confined { mut child, listener: feeding } = spawned.map_err(not_started)?;
        // If memory runs out, the engine is the process to kill.
        if let Some(pid) = child.id() {
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "800");
        }
        let mut stdin = child.stdin.take().ok_or_else(|| not_started(std::io::ErrorKind::BrokenPipe.into()))?;
        stdin.write_all(configuration.as_bytes()).await.map_err(system("cannot configure valkey-server"))?;
        drop(stdin);
        let output = Arc::new(EngineOutput::default());
        let client = connect(&mut child, &output, &socket, options).await?;
        let listener = Client::connect(&socket).await.map_err(not_started)?;
        // The socket's file is no longer needed, and nobody would remove it if this process were killed.
        drop(home);
        let engine = Engine {
            child,
            client,
            listener,
            output,
            version: EngineVersion { major: 0, minor: 0, patch: 0 },
            names,
            commands: Commands::default(),
            bounds: options.bounds,
            feeding: Some(feeding),
            priority: options.priority,
            fed_bytes: 0,
        };
        engine.identify(options).await
    }

    /// Reads its version and its commands.
    async fn identify(mut self, options: &EngineOptions) -> Result<Self, EngineError> {
        let info = self.ask(&["INFO", "server"]).await?;
        let version = info_field(&info, "valkey_version").and_then(|version| version.parse().ok());
        self.version = version.ok_or_else(|| EngineError::Answer {
            command: "INFO server".to_owned(),
            reason: "it does not tell a Valkey version".to_owned(),
        })?;
        check_version(options, self.version)?;
        let answer = |reason| EngineError::Answer { command: "COMMAND".to_owned(), reason };
        let reply = self.query(&[b"COMMAND"]).await?;
        self.commands = Commands::read(&reply).map_err(answer)?;
        Ok(self)
    }
}

/// The command that starts an engine, which reads its configuration from its standard input.
fn engine_command(options: &EngineOptions) -> Command {
    let mut command = Command::new(&options.program);
    // Credentials of an object store are not for modules that the engine loads.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
        command.env_remove(name);
    }
    command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Connects to an engine once it has opened its socket, and reads its log into `output` from now on.
async fn connect(
    child: &mut Child,
    output: &Arc<EngineOutput>,
    socket: &Path,
    options: &EngineOptions,
) -> Result<Client, EngineError> {
    if let Some(stdout) = child.stdout.take() {
        let output = output.clone();
        tokio::spawn(async move { output.read(stdout).await });
    }
    // It reports errors in its configuration there.
    let stderr = child.stderr.take().map(|stderr| {
        let output = output.clone();
        tokio::spawn(async move { output.read(stderr).await })
    });
    let clock = Clock::start(child.id());
    loop {
        let source = match Client::connect(socket).await {
            Ok(client) => return Ok(client),
            Err(source) => source,
        };
        if let Err(ended) = check_alive(child, output, &options.bounds) {
            // Its end may be seen before its last words have arrived.
            if let Some(stderr) = stderr {
                let _ = tokio::time::timeout(END_TIMEOUT, stderr).await;
            }
            return Err(check_alive(child, output, &options.bounds).err().unwrap_or(ended));
        }
        if Instant::now() > clock.deadline(START_TIMEOUT) {
            return Err(EngineError::Start { program: options.program.clone(), source });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The version that the program reports with `--version`.
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

/// Refuses a version that is older than [`EngineOptions::min_version`].
pub fn check_version(options: &EngineOptions, found: EngineVersion) -> Result<(), EngineError> {
    match options.min_version.filter(|least| found < *least) {
        Some(least) => Err(EngineError::OldVersion { found, least }),
        None => Ok(()),
    }
}
