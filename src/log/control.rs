//! A connection to the log service for single questions, one at a time. The shipper has its own, which never waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use durability_leadership::Moment;
use durability_protocol::{
    Code, Known, Refusal, ACCEPT, ACQUIRE, AUDIT_RESULT, BEGIN, CHECK, DATABASES, DIFFERS, RENEW, RESIGN, STATUS,
};
use redis_protocol::resp2;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

use crate::base::process_identity;
use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::decide::known_log::Contradiction;
use crate::exchange::Shared;
use crate::log::address;
use crate::log::reply::{take_reply, LogStatus};
use crate::log::shard_view::View;
use crate::log::socket::LogSocket;
use crate::settings;
use crate::settings::tls::TlsSettings;
use crate::settings::token::{self, TokenError};

/// See `durability_protocol`.
const NODE: &str = "LOG.NODE";

/// How long connecting to one address may take, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// This node, as it tells the log service of itself.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its name.
    pub id: &'a str,
    /// Where clients reach it.
    pub address: &'a str,
}

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
    /// The replication id of what the node holds up to there; none if it holds nothing of the log.
    pub replid: Option<&'a str>,
}

/// What the node is and how far, for the log service and the other nodes.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// `leader`, `follower` or `attaching`.
    pub role: &'a str,
    /// See `durability.priority`.
    pub priority: u32,
    /// What it has applied (exclusive end).
    pub applied: u64,
    /// The version of the leadership that it saw last.
    pub version: u64,
}

/// Why the log did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be reached, or the connection broke.
    #[error("the log service at {address} cannot be reached: {source}")]
    Unreachable {
        /// As configured.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The token cannot be had.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It answered with an error.
    #[error("the log service refuses: {0}")]
    Refused(#[from] Refusal),
    /// It is another log than this node knows, or an older copy of it.
    #[error("{}", .0.text(&settings::SHARD.value()))]
    Contradicted(Contradiction),
    /// It answered something else than the protocol says.
    #[error("the log service at {address} does not speak the protocol: {detail}")]
    Protocol {
        /// As configured.
        address: String,
        /// What it said.
        detail: String,
    },
}

/// Connects to the log service that is configured, without logging in; with TLS the handshake is still to be done. Each address gets a
/// part of what the limit leaves, and what comes after one as well.
///
/// # Errors
/// No address that the name stands for can be connected to in time, or TLS cannot be used as it is configured.
pub fn connect(limit: &TimeLimit<'_>) -> Result<LogSocket, LogError> {
    let address = settings::LOG.value();
    let unreachable = |source| LogError::Unreachable { address: address.clone(), source };
    let (host, port) = settings::parse_address(&address)
        .map_err(|why| unreachable(std::io::Error::new(ErrorKind::InvalidInput, why)))?;
    let tls = TlsSettings::configured().map_err(|error| unreachable(std::io::Error::other(error)))?;
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    let addresses = address::resolve(&host, port, limit).map_err(unreachable)?;
    for (left, socket_address) in (1..=addresses.len() as u32).rev().zip(&addresses) {
        let time = limit.part(left + 1).left().min(CONNECT_TIMEOUT);
        // It may not be zero.
        match TcpStream::connect_timeout(socket_address, time.max(Duration::from_millis(1))) {
            Ok(socket) => {
                socket.set_nodelay(true).map_err(unreachable)?;
                return LogSocket::new(socket, &host, tls).map_err(unreachable);
            }
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

/// The bytes of a command with those arguments.
pub fn encode(arguments: &[&str]) -> Vec<u8> {
    encode_bytes(arguments.iter().map(|argument| argument.as_bytes()))
}

fn encode_bytes<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let frame = OwnedFrame::Array(arguments.map(|argument| OwnedFrame::BulkString(argument.to_vec())).collect());
    let mut bytes = vec![0; frame.encode_len(false)];
    resp2::encode::encode(&mut bytes, &frame, false).expect("the buffer has the length that the frame asks for");
    bytes
}

/// The login that names this node's shard.
///
/// # Errors
/// There is no token that can be sent.
pub fn login() -> Result<[String; 3], TokenError> {
    Ok(["AUTH".to_owned(), settings::SHARD.value(), token::current()?])
}

/// The log's id, as `LOG.CHECK` is answered.
///
/// # Errors
/// It is none.
pub fn read_log_id(reply: &OwnedFrame) -> Result<String, String> {
    match reply {
        OwnedFrame::BulkString(id) if !id.is_empty() => Ok(String::from_utf8_lossy(id).into_owned()),
        other => Err(format!("LOG.CHECK answered {other:?}")),
    }
}

/// What to tell an operator whose log service does not compare logs as this module does.
pub fn other_build(refusal: &Refusal) -> String {
    format!("module and log service are of different builds; use those of one build ({CHECK}: {refusal})")
}

/// A logged-in connection.
pub struct LogConnection {
    socket: LogSocket,
    address: String,
    buffer: Vec<u8>,
    /// The id of the log.
    log_id: String,
    /// From where the log service sees this node, as it said when it was last asked for its status; empty before.
    client_ip: String,
    /// How long an answer may take.
    answer_time: Duration,
    /// What becomes of a question when the node is told to end.
    at_end: AtEnd,
    shared: Arc<Shared>,
}

impl LogConnection {
    /// Connects, logs in to this node's shard, and compares what this node knows with the log. So everything that is asked on the
    /// connection is asked of the right log: its storage does not change while the service runs.
    ///
    /// # Errors
    /// The log cannot be reached, does not take the token, or is not what this node knows.
    pub fn open(shared: &Arc<Shared>) -> Result<Self, LogError> {
        LogConnection::open_within(shared, ANSWER_TIMEOUT, AtEnd::BreaksOff)
    }

    /// As [`LogConnection::open`]. All of it takes no longer than `time`: to resolve the name, to connect to one of its addresses, the TLS
    /// handshake, the login, and the comparison. Nor does any answer later.
    ///
    /// # Errors
    /// As [`LogConnection::open`].
    pub fn open_within(shared: &Arc<Shared>, time: Duration, at_end: AtEnd) -> Result<Self, LogError> {
        let limit = TimeLimit::within(time, at_end, &shared.end);
        LogConnection::open_on(connect(&limit)?, shared, time, at_end, &limit)
    }

    fn open_on(
        socket: LogSocket,
        shared: &Arc<Shared>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
    ) -> Result<Self, LogError> {
        let mut connection = LogConnection::log_in(socket, shared, answer_time, at_end, limit)?;
        let (id, address) = (shared.node_id(), shared.address());
        connection.check_within(&Node { id: &id, address: &address }, shared.known().as_ref(), limit)?;
        Ok(connection)
    }

    /// As [`LogConnection::open_within`], for what an operator says of a log that contradicts what this node knows.
    ///
    /// # Errors
    /// The log cannot be reached, or does not take the token.
    pub fn open_unchecked(shared: &Arc<Shared>, time: Duration) -> Result<Self, LogError> {
        let at_end = AtEnd::BreaksOff;
        let limit = TimeLimit::within(time, at_end, &shared.end);
        LogConnection::log_in(connect(&limit)?, shared, time, at_end, &limit)
    }

    fn log_in(
        socket: LogSocket,
        shared: &Arc<Shared>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
    ) -> Result<Self, LogError> {
        let (address, shared) = (settings::LOG.value(), Arc::clone(shared));
        let (buffer, log_id, client_ip) = (Vec::new(), String::new(), String::new());
        let mut connection = LogConnection { socket, address, buffer, log_id, client_ip, answer_time, at_end, shared };
        connection.socket.handshake(limit).map_err(|error| connection.unreachable(error))?;
        let login = login()?;
        connection.exchange(&encode(&[&login[0], &login[1], &login[2]]), limit)?;
        Ok(connection)
    }

    fn unreachable(&self, source: std::io::Error) -> LogError {
        let source = match source.kind() {
            ErrorKind::WouldBlock => std::io::Error::new(ErrorKind::TimedOut, "no answer in time"),
            _ => source,
        };
        LogError::Unreachable { address: self.address.clone(), source }
    }

    fn ask(&mut self, arguments: &[&str]) -> Result<OwnedFrame, LogError> {
        self.ask_bytes(&encode(arguments))
    }

    fn ask_bytes(&mut self, command: &[u8]) -> Result<OwnedFrame, LogError> {
        let shared = Arc::clone(&self.shared);
        self.exchange(command, &TimeLimit::within(self.answer_time, self.at_end, &shared.end))
    }

    /// Whether a question that breaks off when the node is told to end may be asked.
    ///
    /// # Errors
    /// The node is told to end.
    pub fn may_ask(&self) -> Result<(), LogError> {
        let limit = TimeLimit::within(self.answer_time, AtEnd::BreaksOff, &self.shared.end);
        limit.next_step().map(drop).map_err(|error| self.unreachable(error))
    }

    fn exchange(&mut self, command: &[u8], limit: &TimeLimit<'_>) -> Result<OwnedFrame, LogError> {
        // Nothing is asked whose answer nobody waits for.
        limit.next_step().map_err(|error| self.unreachable(error))?;
        let left = limit.left().max(Duration::from_millis(1));
        let sent = self.socket.tcp().set_write_timeout(Some(left)).and_then(|()| self.socket.write_all(command));
        sent.map_err(|error| self.unreachable(error))?;
        loop {
            let reply = take_reply(&mut self.buffer).map_err(|detail| self.protocol(detail))?;
            match reply {
                Some(OwnedFrame::Error(line)) => return Err(Refusal::parse(&line).into()),
                Some(frame) => return Ok(frame),
                None => {}
            }
            let mut bytes = [0; 4096];
            let step = limit.next_step();
            let read = step.and_then(|step| self.socket.tcp().set_read_timeout(Some(step)));
            match read.and_then(|()| self.socket.read(&mut bytes)) {
                Ok(0) => return Err(self.unreachable(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(self.unreachable(error)),
            }
        }
    }

    fn protocol(&self, detail: impl Into<String>) -> LogError {
        LogError::Protocol { address: self.address.clone(), detail: detail.into() }
    }

    /// Whether the log is what this node knows.
    ///
    /// # Errors
    /// It is not, or as every question: the log cannot be reached, refuses, or does not speak the protocol.
    pub fn check(&mut self, node: &Node<'_>, known: Option<&Known>) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        self.check_within(node, known, &TimeLimit::within(self.answer_time, self.at_end, &shared.end))
    }

    fn check_within(&mut self, node: &Node<'_>, known: Option<&Known>, limit: &TimeLimit<'_>) -> Result<(), LogError> {
        let command = encode(&[CHECK, &settings::SHARD.value(), node.id, node.address, &Known::text(known)]);
        let reply = self.exchange(&command, limit);
        match (reply, known) {
            (Ok(reply), _) => {
                self.log_id = read_log_id(&reply).map_err(|detail| self.protocol(detail))?;
                Ok(())
            }
            (Err(LogError::Refused(refusal)), known) => {
                Err(match known.and_then(|known| Contradiction::of(&refusal, known)) {
                    Some(contradiction) => LogError::Contradicted(contradiction),
                    None if refusal.code == Code::Err => self.protocol(other_build(&refusal)),
                    None => refusal.into(),
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// This node has seen that the log holds other bytes than it wrote, so that nobody is to lead it.
    ///
    /// # Errors
    /// As every question; that the log service refuses because of it is none.
    pub fn contradict(&mut self, node: &Node<'_>, known: Option<&Known>) -> Result<(), LogError> {
        match self.ask(&[CHECK, &settings::SHARD.value(), node.id, node.address, &Known::text(known), DIFFERS]) {
            Err(LogError::Refused(refusal)) if matches!(refusal.code, Code::Gap | Code::OtherLog) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The id of the log that this node has compared with what it knows.
    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    /// An operator says that the log of that id is right as it is.
    ///
    /// # Errors
    /// As every question; [`Code::OtherLog`] if it has another id.
    pub fn accept(&mut self, log_id: &str) -> Result<(), LogError> {
        self.ask(&[ACCEPT, &settings::SHARD.value(), log_id]).map(drop)
    }

    /// `LOG.STATUS`.
    ///
    /// # Errors
    /// As every question: the log cannot be reached, refuses, or does not speak the protocol.
    pub fn status(&mut self) -> Result<LogStatus, LogError> {
        let reply = self.ask(&[STATUS, &settings::SHARD.value()])?;
        let status = LogStatus::read(&reply).map_err(|detail| self.protocol(detail))?;
        self.client_ip.clone_from(&status.client_ip);
        Ok(status)
    }

    /// From where the log service sees this node, as far as it was asked for its status.
    pub fn client_ip(&self) -> &str {
        &self.client_ip
    }

    /// Takes leadership at exactly `position`, with a lease (zero: that does not expire), for a server `engine`.
    /// Returns the new epoch. A node that is told to end meanwhile waits for the answer, as it is to give back what it is granted.
    ///
    /// # Errors
    /// [`Code::Leased`](durability_protocol::Code::Leased) while another node leads, [`Code::Gap`](durability_protocol::Code::Gap)
    /// if the log's end is another, or belongs to another history.
    pub fn acquire(
        &mut self,
        node: &Node<'_>,
        position: &LogPosition<'_>,
        lease: Duration,
        engine: &Engine,
    ) -> Result<u64, LogError> {
        // A lease of 0 ms does not expire.
        let (end, lease_ms) = (position.end.to_string(), lease.as_millis().to_string());
        let (shard, process) = (settings::SHARD.value(), process_identity::own_name(&self.client_ip));
        let replid = position.replid.unwrap_or_default();
        let mut command =
            vec![ACQUIRE, &shard, node.id, node.address, &end, &lease_ms, &engine.version, &process, replid];
        // What is not known at the end is not told.
        let untold = command.iter().rev().take(2).take_while(|argument| argument.is_empty()).count();
        command.truncate(command.len() - untold);
        let databases = engine.databases.to_string();
        if engine.databases > 0 {
            command.extend([DATABASES, &databases]);
        }
        let shared = Arc::clone(&self.shared);
        let limit = TimeLimit::within(self.answer_time, AtEnd::Settles, &shared.end);
        let reply = self.exchange(&encode(&command), &limit)?;
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

    /// The lease of `epoch` lasts for `lease` from when the service gets this; zero: it does not expire. It is sent at `sent`.
    ///
    /// # Errors
    /// [`Code::Fenced`](durability_protocol::Code::Fenced) if it was lost.
    pub fn renew(&mut self, epoch: u64, lease: Duration, sent: Moment) -> Result<(), LogError> {
        let (epoch, lease_ms, sent) = (epoch.to_string(), lease.as_millis().to_string(), sent.0.to_string());
        self.ask(&[RENEW, &settings::SHARD.value(), &epoch, &lease_ms, &sent]).map(drop)
    }

    /// Reports this node, and answers who leads: as soon as that is another version than the reported one, or the lease is free,
    /// at the latest after `wait`, which is shorter than answers may take.
    ///
    /// # Errors
    /// As every question.
    pub fn node(&mut self, node: &Node<'_>, report: &Report<'_>, wait: Duration) -> Result<View, LogError> {
        let [priority, applied, version] =
            [u64::from(report.priority), report.applied, report.version].map(|number| number.to_string());
        let wait_ms = wait.as_millis().to_string();
        let shard = settings::SHARD.value();
        let command = [NODE, &shard, node.id, node.address, report.role, &priority, &applied, &version, &wait_ms];
        let reply = self.ask(&command)?;
        View::read(&reply).map_err(|detail| self.protocol(detail))
    }

    /// Keys of this node for the audit `id`, an encoded [`durability_protocol::audit::Batch`]. Answers the databases and names of keys
    /// that the service wants to know of as well.
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

    /// From now on no answer takes longer than `time`.
    pub fn answers_within(&mut self, time: Duration) {
        self.answer_time = time;
    }

    /// The address that was reached, of those that the configured name stands for.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn reached(&self) -> Result<SocketAddr, LogError> {
        self.socket.tcp().peer_addr().map_err(|error| self.unreachable(error))
    }

    /// The connection itself, to break off a question from another thread.
    pub fn tcp(&self) -> Arc<TcpStream> {
        Arc::clone(self.socket.tcp())
    }

    /// Gives leadership back, after this node has stopped answering clients.
    ///
    /// # Errors
    /// [`Code::Fenced`](durability_protocol::Code::Fenced) if it was lost already.
    pub fn resign(&mut self, epoch: u64) -> Result<(), LogError> {
        self.ask(&[RESIGN, &settings::SHARD.value(), &epoch.to_string()]).map(drop)
    }

    /// As [`LogConnection::resign`], and for so long only `node_id` can take it.
    ///
    /// # Errors
    /// As [`LogConnection::resign`].
    pub fn resign_to(&mut self, epoch: u64, node_id: &str, reserved: Duration) -> Result<(), LogError> {
        let (epoch, reserve_ms) = (epoch.to_string(), reserved.as_millis().to_string());
        self.ask(&[RESIGN, &settings::SHARD.value(), &epoch, "TO", node_id, &reserve_ms]).map(drop)
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
