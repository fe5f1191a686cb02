//! A running engine: sends it commands, follows how far it has applied its feed, and notices its end.

use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use durability_protocol::EngineVersion;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame};
use tokio::process::Child;
use tokio::time::Instant;

use super::bounds::{Bounds, Clock};
use super::client::{info_field, Client};
use super::commands::Commands;
use super::feed::{Feed, Start};
use super::names::Names;
use super::output::EngineOutput;
use super::EngineError;
use crate::base::background::Priority;
use crate::base::printable::printable;

/// How often to ask an engine how far it is.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// How long an engine may take to end by itself once a connection to it has broken.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(10);
/// A running engine. Ends when it is dropped, and when this process does.
pub struct Engine {
    pub(super) child: Child,
    pub(super) client: Client,
    /// Receives what the engine publishes while its keys are read (`reading.rs`). Connected at the start, as the socket has no name later.
    pub(super) listener: Client,
    pub(super) output: Arc<EngineOutput>,
    pub(super) version: EngineVersion,
    pub(super) names: Names,
    pub(super) commands: Commands,
    pub(super) bounds: Bounds,
    /// The listener for its feed, until the feed is opened.
    pub(super) feeding: Option<TcpListener>,
    pub(super) priority: Priority,
    /// Bytes that it was fed.
    pub(super) fed_bytes: u64,
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
    /// Opens the only feed of this engine. Of the log, the engine is sent only what a leader can have logged.
    ///
    /// # Errors
    /// It has a feed, or the feed's thread cannot be started.
    pub fn open_feed(&mut self, start: Start) -> Result<Feed, EngineError> {
        let listener = self.feeding.take().ok_or_else(|| EngineError::System {
            action: "cannot feed an engine twice",
            source: std::io::ErrorKind::AddrInUse.into(),
        })?;
        Ok(Feed::open(start, self.commands.clone(), listener, self.priority)?)
    }

    /// Its version.
    pub fn version(&self) -> EngineVersion {
        self.version
    }

    /// Follows `feed` until everything is applied that can be: up to the feed's end, or to before a command or transaction that the end
    /// cuts in two. Returns up to where (exclusive).
    ///
    /// # Errors
    /// The engine ended or stands still, or the feed broke off.
    pub async fn apply(&mut self, feed: &mut Feed) -> Result<u64, EngineError> {
        self.ask(&["CONFIG", "SET", "primaryauth", &feed.secret]).await?;
        let (host, port) = (feed.address.ip().to_string(), feed.address.port().to_string());
        self.ask(&["REPLICAOF", &host, &port]).await?;
        self.catch_up(feed).await
    }

    /// Waits until everything is applied of the feed that it already follows; see [`Engine::apply`].
    ///
    /// # Errors
    /// As [`Engine::apply`].
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
                // It is busy with a single command, as nothing else keeps it from answering.
                Err(EngineError::Silent { .. }) => {
                    let (applied, received) = last.map_or((0, 0), |last| (last.applied, last.received));
                    return Err(EngineError::Stalled { applied, received, end, seconds: self.bounds.stall.as_secs() });
                }
                Err(error) => return Err(self.ended_or(error).await),
            };
            self.fed_bytes = progress.sent;
            let is_same = last == Some(progress);
            // Of a command of slots that come nothing is sent before its end.
            let received = feed.sent_until().map(|sent| sent + feed.inserted_bytes());
            if progress.is_linked
                && Some(progress.received) == received
                && (is_same || Some(progress.applied) == received)
            {
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

    /// The name under which it knows a command.
    pub(super) fn name_of(&self, command: &str) -> String {
        self.names.of(command)
    }

    /// Sends a command that takes no time, and returns its reply as text.
    pub(super) async fn ask(&mut self, command: &[&str]) -> Result<String, EngineError> {
        self.ask_within(self.bounds.stall, command).await
    }

    /// The same for a command whose time grows with the data.
    pub(super) async fn ask_of_all(&mut self, command: &[&str]) -> Result<String, EngineError> {
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

    /// Why it ended, if it did, instead of `error`, which was noticed first.
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

    /// The last warning in its log.
    async fn last_warning(&mut self) -> String {
        // Its log arrives separately from its replies. It writes this line after all others.
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

    /// Ends it, and waits until its memory is free.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

/// The line that marks the end of what it has written so far.
const END_OF_OUTPUT: &str = "end-of-output";
/// How often to check, at most, whether that line has arrived.
const OUTPUT_LOOKS: u32 = 100;
/// The time between two checks.
const OUTPUT_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A command as errors show it: its name and subcommand. Further arguments may be secret or long.
fn shown(command: &[&[u8]]) -> String {
    let words = command.iter().take(2).map(|word| printable(&String::from_utf8_lossy(&word[..word.len().min(64)])));
    words.collect::<Vec<_>>().join(" ")
}

pub(super) fn check_alive(child: &mut Child, output: &EngineOutput, bounds: &Bounds) -> Result<(), EngineError> {
    match child.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => {
            let output = output.reason(bounds.memory_bytes);
            Err(EngineError::Ended { status: status.to_string(), output })
        }
        Err(source) => Err(EngineError::System { action: "cannot watch valkey-server", source }),
    }
}
