//! `LOG.APPEND`, and the replies that wait for durability.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use durability_protocol::{Refusal, MAX_APPEND_BYTES};
use tokio::sync::watch;

use super::arguments::{number, text};
use super::reply::{self, Protocol, Reply};
use crate::shard::{Progress, Shard, Submitted, Ticket};

/// Appends of one connection that may wait for durability. Beyond that the connection is not read.
const MAX_WAITING: usize = 4096;
/// The same in bytes.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Most shards that one connection may append to.
const MAX_TARGETS: usize = 64;

/// A shard this connection appends to.
pub struct Target {
    shard: Arc<Shard>,
    progress: watch::Receiver<Progress>,
}

enum Waiting {
    Reply(Reply, Protocol),
    Append { target: usize, ticket: Ticket, bytes: usize, arrived: Instant },
}

/// The replies of a connection in the order of its commands, from the first that waits for durability on.
#[derive(Default)]
pub struct Replies {
    targets: Vec<Target>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

/// A parsed `LOG.APPEND`.
pub struct AppendCommand<'a> {
    /// The shard's name.
    pub shard: &'a str,
    epoch: u64,
    offset: u64,
    payload: Bytes,
}

impl<'a> AppendCommand<'a> {
    /// Reads `shard epoch offset bytes`.
    pub fn parse(arguments: &'a [Bytes]) -> Result<Self, Refusal> {
        let [_, shard, epoch, offset, payload] = arguments else {
            return Err(reply::failure("usage: LOG.APPEND shard epoch offset bytes"));
        };
        debug_assert!(payload.len() <= MAX_APPEND_BYTES);
        Ok(AppendCommand {
            shard: text(shard)?,
            epoch: number(epoch, "epoch")?,
            offset: number(offset, "offset")?,
            payload: payload.clone(),
        })
    }

    /// Bytes that it appends.
    pub fn payload_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Gives it to its shard. Waits only if it begins below the log's end.
    pub async fn submit(self, shard: &Shard) -> Result<Ticket, Refusal> {
        match shard.append(self.epoch, self.offset, self.payload)? {
            Submitted::Accepted(ticket) => Ok(ticket),
            Submitted::Overlaps(overlap) => shard.append_overlapping(overlap).await,
        }
    }
}

impl Replies {
    /// Whether more commands may be taken in.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.waiting_bytes < MAX_WAITING_BYTES
    }

    /// Whether this connection ever appended.
    pub fn has_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Whether no reply waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The target of that name with its index, if this connection appended to it before.
    pub fn target(&self, shard: &str) -> Option<(usize, Arc<Shard>)> {
        let mut targets = self.targets.iter().enumerate();
        targets.find(|(_, target)| target.shard.name() == shard).map(|(at, target)| (at, target.shard.clone()))
    }

    /// Adds a target.
    pub fn add_target(&mut self, shard: Arc<Shard>) -> Result<usize, Refusal> {
        if self.targets.len() >= MAX_TARGETS {
            return Err(reply::failure(format!("one connection appends to {MAX_TARGETS} shards at most")));
        }
        let progress = shard.notifier().subscribe();
        self.targets.push(Target { shard, progress });
        Ok(self.targets.len() - 1)
    }

    /// Adds the reply to an append of so many bytes that came at `arrived`. It is given when `ticket` has an outcome.
    pub fn push_append(&mut self, target: usize, ticket: Ticket, bytes: usize, arrived: Instant) {
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting::Append { target, ticket, bytes, arrived });
    }

    /// Adds a reply that waits only for those before it.
    pub fn push(&mut self, reply: Reply, protocol: Protocol, out: &mut BytesMut) {
        if self.waiting.is_empty() {
            reply::encode(out, &reply, protocol);
        } else {
            self.waiting.push_back(Waiting::Reply(reply, protocol));
        }
    }

    /// Encodes the replies that can be given now into `out`.
    pub fn settle(&mut self, out: &mut BytesMut) {
        // Read once for all of them, if there are any.
        let mut now = None;
        while let Some(first) = self.waiting.front() {
            match first {
                Waiting::Reply(reply, protocol) => reply::encode(out, reply, *protocol),
                Waiting::Append { target, ticket, bytes, arrived } => {
                    let Some(target) = self.targets.get(*target) else { break };
                    let Some(outcome) = ticket.outcome(&target.progress.borrow()) else { break };
                    self.waiting_bytes -= bytes;
                    if outcome.is_ok() {
                        let now = *now.get_or_insert_with(Instant::now);
                        target.shard.append_latency().note(now.saturating_duration_since(*arrived));
                    }
                    let reply = outcome.map_or_else(|refusal| reply::error(&refusal), reply::integer);
                    // The same in every protocol.
                    reply::encode(out, &reply, Protocol::default());
                }
            }
            self.waiting.pop_front();
        }
    }
}
