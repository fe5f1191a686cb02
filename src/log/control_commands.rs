//! The commands of the log service that a node sends on its [`LogConnection`].

use std::sync::Arc;
use std::time::Duration;

use durability_leadership::Moment;
use durability_protocol::{
    NodeFigures, ACQUIRE, AUDIT_RESULT, BEGIN, DATABASES, FIGURES, RENEW, RESIGN, SEEN, SETTINGS, STATUS, ZONE,
};
use redis_protocol::resp2::types::OwnedFrame;

use crate::base::process_identity;
use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::local_node::Node;
use crate::log::reply::LogStatus;
use crate::log::request::{encode, encode_bytes};
use crate::log::shard_view::ShardView;
use crate::settings;

/// See `durability_protocol`.
const NODE: &str = "LOG.NODE";

/// What a node runs.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The server's version.
    pub version: String,
    /// How many databases it has; 0 if that is not known.
    pub databases: u32,
}

/// Where a node wants to begin to lead.
#[derive(Debug, Clone, Copy)]
pub struct LogPosition<'a> {
    /// The end of the log (exclusive).
    pub end: u64,
    /// The replication id of what the node holds up to there; `None` if it holds nothing of the log.
    pub replid: Option<&'a str>,
    /// The newest epoch that the node has heard of.
    pub seen: u64,
}

/// The state of a node, for the log service and the other nodes.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// `leader`, `follower` or `attaching`.
    pub role: &'a str,
    /// See `durability.priority`.
    pub priority: u32,
    /// See `durability.zone`.
    pub zone: String,
    /// What it has applied (exclusive end).
    pub applied: u64,
    /// The version of the leadership that it saw last.
    pub version: u64,
    /// For monitoring; none if there are none yet, or the service on this connection did not say that it takes them.
    pub figures: Option<NodeFigures>,
    /// [`NodeSettings`](durability_protocol::NodeSettings) as text; none under the same conditions.
    pub settings: Option<Arc<str>>,
}

impl LogConnection {
    /// Reads the log from `offset` on (exclusive end of what is known), as a server of that version that holds the history of `replid`
    /// would. Passes on what comes, until `takes` wants no more, nothing has come for a moment, or an answer would take too long. The log
    /// may not go on from there; then nothing comes. The connection is of no more use after that.
    ///
    /// # Errors
    /// The log cannot be reached, or refuses.
    pub fn read_stream(
        &mut self,
        version: &str,
        replid: &str,
        offset: u64,
        takes: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), LogError> {
        self.ask(&["REPLCONF", "version", version])?;
        // PSYNC counts from one and asks for the next byte.
        match self.ask(&["PSYNC", replid, &(offset + 1).to_string()])? {
            OwnedFrame::SimpleString(answer) if answer.starts_with(b"CONTINUE") => self.read_on(takes),
            _ => Ok(()),
        }
    }

    /// `LOG.STATUS`.
    ///
    /// # Errors
    /// As every question: the log cannot be reached, refuses, or does not speak the protocol.
    pub fn status(&mut self) -> Result<LogStatus, LogError> {
        let reply = self.ask_any(&[STATUS, &settings::SHARD.value()])?;
        let status = LogStatus::read(&reply).map_err(|detail| self.protocol(detail))?;
        self.client_ip.clone_from(&status.client_ip);
        Ok(status)
    }

    /// The IP address from which the log service sees this node, from the last answer to [`LogConnection::status`]; empty before.
    pub fn client_ip(&self) -> &str {
        &self.client_ip
    }

    /// Takes leadership at exactly `position`, for a server `engine`, with a lease (zero: it does not expire). Returns the new epoch. A
    /// node that is to end meanwhile still waits for the answer, as it has to give back what it is granted.
    ///
    /// # Errors
    /// [`Code::Leased`](durability_protocol::Code::Leased) while another node leads, or has led since; [`Code::Gap`](durability_protocol::Code::Gap)
    /// if the log ends elsewhere, or with another history.
    pub fn acquire(
        &mut self,
        node: &Node<'_>,
        position: &LogPosition<'_>,
        lease: Duration,
        engine: &Engine,
    ) -> Result<u64, LogError> {
        let (end, lease_ms) = (position.end.to_string(), lease.as_millis().to_string());
        let (shard, process) = (settings::SHARD.value(), process_identity::own_name(&self.client_ip));
        let replid = position.replid.unwrap_or_default();
        let mut command =
            vec![ACQUIRE, &shard, node.id, node.address, &end, &lease_ms, &engine.version, &process, replid];
        // Omit trailing arguments whose value is unknown.
        let unknown = command.iter().rev().take(2).take_while(|argument| argument.is_empty()).count();
        command.truncate(command.len() - unknown);
        let databases = engine.databases.to_string();
        if engine.databases > 0 {
            command.extend([DATABASES, &databases]);
        }
        let seen = position.seen.to_string();
        command.extend([SEEN, &seen]);
        let local = Arc::clone(&self.node);
        let limit = TimeLimit::within(self.answer_time, AtEnd::Settles, local.end());
        let reply = self.decide(&encode(&command), &limit)?;
        match &reply {
            OwnedFrame::Array(fields) => match fields.first() {
                Some(OwnedFrame::Integer(epoch)) if *epoch > 0 => Ok(*epoch as u64),
                _ => Err(self.protocol("LOG.ACQUIRE answered no epoch")),
            },
            _ => Err(self.protocol("LOG.ACQUIRE answered no array")),
        }
    }

    /// The stream of `epoch` goes on at `offset` under `replid`.
    ///
    /// # Errors
    /// [`Code::Fenced`](durability_protocol::Code::Fenced) or [`Code::Gap`](durability_protocol::Code::Gap).
    pub fn begin(&mut self, epoch: u64, replid: &str, offset: u64) -> Result<(), LogError> {
        self.ask(&[BEGIN, &settings::SHARD.value(), &epoch.to_string(), replid, &offset.to_string()]).map(drop)
    }

    /// Renews the lease of `epoch` for `lease` from when the service receives this; zero: it does not expire. `sent` is now.
    ///
    /// # Errors
    /// [`Code::Fenced`](durability_protocol::Code::Fenced) if it was lost.
    pub fn renew(&mut self, epoch: u64, lease: Duration, sent: Moment) -> Result<(), LogError> {
        let (epoch, lease_ms, sent) = (epoch.to_string(), lease.as_millis().to_string(), sent.0.to_string());
        self.ask(&[RENEW, &settings::SHARD.value(), &epoch, &lease_ms, &sent]).map(drop)
    }

    /// Reports this node, and answers who leads. The answer comes as soon as that is another version than the reported one, or the lease is
    /// free, and after `wait` at the latest. `wait` is shorter than answers may take.
    ///
    /// # Errors
    /// As every question.
    pub fn node(&mut self, node: &Node<'_>, report: &Report<'_>, wait: Duration) -> Result<ShardView, LogError> {
        let reply = self.ask_bytes(&LogConnection::report_command(node, report, wait))?;
        ShardView::read(&reply).map_err(|detail| self.protocol(detail))
    }

    /// As bytes to be sent, what [`LogConnection::node`] asks.
    pub(super) fn report_command(node: &Node<'_>, report: &Report<'_>, wait: Duration) -> Vec<u8> {
        let [priority, applied, version] =
            [u64::from(report.priority), report.applied, report.version].map(|number| number.to_string());
        let wait_ms = wait.as_millis().to_string();
        let shard = settings::SHARD.value();
        let mut command =
            vec![NODE, &shard, node.id, node.address, report.role, &priority, &applied, &version, &wait_ms];
        if !report.zone.is_empty() {
            // Not otherwise: a service of an earlier version does not know it.
            command.extend([ZONE, &report.zone]);
        }
        let figures = report.figures.map(|figures| figures.text());
        command.extend(figures.iter().flat_map(|figures| [FIGURES, figures]));
        command.extend(report.settings.iter().flat_map(|settings| [SETTINGS, settings]));
        encode(&command)
    }

    /// Sends keys of this node for the audit `id`: an encoded [`durability_protocol::audit::Batch`]. Answers the databases and names of
    /// further keys that the service asks for.
    ///
    /// # Errors
    /// As every question; the audit may be over.
    pub fn audit_result(&mut self, id: u64, epoch: u64, batch: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, LogError> {
        let (shard, id, epoch) = (settings::SHARD.value(), id.to_string(), epoch.to_string());
        let command = [AUDIT_RESULT.as_bytes(), shard.as_bytes(), id.as_bytes(), epoch.as_bytes(), batch];
        let reply = self.ask_bytes(&encode_bytes(command.into_iter()))?;
        let OwnedFrame::Array(items) = &reply else { return Err(self.protocol("LOG.AUDIT-RESULT answered no array")) };
        let name = |pair: &[OwnedFrame]| match pair {
            [OwnedFrame::BulkString(database), OwnedFrame::BulkString(key)] => {
                Some((std::str::from_utf8(database).ok()?.parse().ok()?, key.clone()))
            }
            _ => None,
        };
        let names: Option<Vec<_>> = items.chunks(2).map(name).collect();
        names.ok_or_else(|| self.protocol("LOG.AUDIT-RESULT answered no names of keys"))
    }

    /// Gives leadership back, after this node has stopped answering clients.
    ///
    /// # Errors
    /// [`Code::Fenced`](durability_protocol::Code::Fenced) if it was lost already.
    pub fn resign(&mut self, epoch: u64) -> Result<(), LogError> {
        self.ask(&[RESIGN, &settings::SHARD.value(), &epoch.to_string()]).map(drop)
    }

    /// As [`LogConnection::resign`]. Only `node_id` can take leadership for the time `reserved`.
    ///
    /// # Errors
    /// As [`LogConnection::resign`].
    pub fn resign_to(&mut self, epoch: u64, node_id: &str, reserved: Duration) -> Result<(), LogError> {
        let (epoch, reserve_ms) = (epoch.to_string(), reserved.as_millis().to_string());
        self.ask(&[RESIGN, &settings::SHARD.value(), &epoch, "TO", node_id, &reserve_ms]).map(drop)
    }
}
