//! A connection to the log service for single questions, one at a time. The commands themselves are in `control_commands.rs`. The shipper
//! has a connection of its own, which never waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use durability_protocol::{Code, Known, Refusal, ACCEPT, CHECK, DIFFERS};
use redis_protocol::resp2::types::OwnedFrame;

use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::decide::known_log::Contradiction;
use crate::log::connect::connect;
use crate::log::error::LogError;
use crate::log::local_node::{LocalNode, Node};
use crate::log::reply::take_reply;
use crate::log::request::{encode, login, other_build, read_log_id};
use crate::log::socket::LogSocket;
use crate::settings;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream that goes on comes sooner.
const QUIET: Duration = Duration::from_millis(200);

/// A logged-in connection. Every question blocks its thread, so the main thread has none.
pub struct LogConnection {
    socket: LogSocket,
    address: String,
    buffer: Vec<u8>,
    /// The id of the log.
    log_id: String,
    /// The IP address from which the log service sees this node, from the last answer to `LOG.STATUS`; empty before.
    pub(super) client_ip: String,
    /// How long an answer may take.
    pub(super) answer_time: Duration,
    /// What becomes of a question when the node is to end.
    at_end: AtEnd,
    pub(super) node: Arc<dyn LocalNode>,
}

impl LogConnection {
    /// Connects, logs in to this node's shard, and compares what this node knows with the log. So the connection is one to the right log:
    /// the storage does not change while the service runs.
    ///
    /// # Errors
    /// The log cannot be reached, does not take the token, or is not what this node knows.
    pub fn open(node: &Arc<impl LocalNode + 'static>) -> Result<Self, LogError> {
        LogConnection::open_within(node, ANSWER_TIMEOUT, AtEnd::BreaksOff)
    }

    /// As [`LogConnection::open`]. All of it takes no longer than `time`: resolving the name, connecting to one of its addresses, the TLS
    /// handshake, the login, and the comparison. Later, no answer takes longer either.
    ///
    /// # Errors
    /// As [`LogConnection::open`].
    pub fn open_within(node: &Arc<impl LocalNode + 'static>, time: Duration, at_end: AtEnd) -> Result<Self, LogError> {
        let limit = TimeLimit::within(time, at_end, node.end());
        LogConnection::open_on(connect(&limit)?, node, time, at_end, &limit)
    }

    fn open_on(
        socket: LogSocket,
        node: &Arc<impl LocalNode + 'static>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
    ) -> Result<Self, LogError> {
        let mut connection = LogConnection::log_in(socket, node, answer_time, at_end, limit)?;
        let (id, address) = (node.node_id(), node.address());
        connection.check_within(&Node { id: &id, address: &address }, node.known().as_ref(), limit)?;
        Ok(connection)
    }

    /// As [`LogConnection::open_within`], without the comparison: for what is to be said of a log that contradicts what this node knows.
    ///
    /// # Errors
    /// The log cannot be reached, or does not take the token.
    pub fn open_unchecked(node: &Arc<impl LocalNode + 'static>, time: Duration) -> Result<Self, LogError> {
        let at_end = AtEnd::BreaksOff;
        let limit = TimeLimit::within(time, at_end, node.end());
        LogConnection::log_in(connect(&limit)?, node, time, at_end, &limit)
    }

    fn log_in(
        socket: LogSocket,
        node: &Arc<impl LocalNode + 'static>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
    ) -> Result<Self, LogError> {
        let mut connection = LogConnection {
            socket,
            address: settings::LOG.value(),
            buffer: Vec::new(),
            log_id: String::new(),
            client_ip: String::new(),
            answer_time,
            at_end,
            node: Arc::clone(node) as Arc<dyn LocalNode>,
        };
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

    pub(super) fn ask(&mut self, arguments: &[&str]) -> Result<OwnedFrame, LogError> {
        self.ask_bytes(&encode(arguments))
    }

    pub(super) fn ask_bytes(&mut self, command: &[u8]) -> Result<OwnedFrame, LogError> {
        let node = Arc::clone(&self.node);
        self.exchange(command, &TimeLimit::within(self.answer_time, self.at_end, node.end()))
    }

    /// Whether a question that breaks off when the node is to end may still be asked.
    ///
    /// # Errors
    /// The node is to end.
    pub fn may_ask(&self) -> Result<(), LogError> {
        let limit = TimeLimit::within(self.answer_time, AtEnd::BreaksOff, self.node.end());
        limit.next_step().map(drop).map_err(|error| self.unreachable(error))
    }

    pub(super) fn exchange(&mut self, command: &[u8], limit: &TimeLimit<'_>) -> Result<OwnedFrame, LogError> {
        // A question is not sent if nobody would wait for its answer.
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

    /// Passes on what comes and is no reply, as [`LogConnection::read_stream`] says.
    pub(super) fn read_on(&mut self, mut takes: impl FnMut(&[u8]) -> bool) -> Result<(), LogError> {
        let node = Arc::clone(&self.node);
        let limit = TimeLimit::within(self.answer_time, self.at_end, node.end());
        let first = std::mem::take(&mut self.buffer);
        let mut goes_on = first.is_empty() || takes(&first);
        while goes_on && limit.next_step().is_ok() {
            let mut bytes = [0; 4096];
            let read = self.socket.tcp().set_read_timeout(Some(QUIET));
            goes_on = match read.and_then(|()| self.socket.read(&mut bytes)) {
                Ok(0) => false,
                Ok(count) => takes(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(self.unreachable(error)),
            }
        }
        Ok(())
    }

    pub(super) fn protocol(&self, detail: impl Into<String>) -> LogError {
        LogError::Protocol { address: self.address.clone(), detail: detail.into() }
    }

    /// Compares the log with what this node knows.
    ///
    /// # Errors
    /// The log is not what this node knows, cannot be reached, refuses, or does not speak the protocol.
    pub fn check(&mut self, node: &Node<'_>, known: Option<&Known>) -> Result<(), LogError> {
        let local = Arc::clone(&self.node);
        self.check_within(node, known, &TimeLimit::within(self.answer_time, self.at_end, local.end()))
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

    /// Reports that the log holds other bytes than this node wrote, so that no node leads it.
    ///
    /// # Errors
    /// As every question. The refusal that this report causes is no error.
    pub fn contradict(&mut self, node: &Node<'_>, known: Option<&Known>) -> Result<(), LogError> {
        match self.ask(&[CHECK, &settings::SHARD.value(), node.id, node.address, &Known::text(known), DIFFERS]) {
            Err(LogError::Refused(refusal)) if matches!(refusal.code, Code::Gap | Code::OtherLog) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The id of the log that was compared with what this node knows; empty if none was.
    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    /// An operator says that the log of that id is right as it is.
    ///
    /// # Errors
    /// As every question; [`Code::OtherLog`] if the log has another id.
    pub fn accept(&mut self, log_id: &str) -> Result<(), LogError> {
        self.ask(&[ACCEPT, &settings::SHARD.value(), log_id]).map(drop)
    }

    /// From now on no answer takes longer than `time`.
    pub fn answers_within(&mut self, time: Duration) {
        self.answer_time = time;
    }

    /// The address that was reached, among those of the configured name.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn reached(&self) -> Result<SocketAddr, LogError> {
        self.socket.tcp().peer_addr().map_err(|error| self.unreachable(error))
    }

    /// The connection itself, so that another thread can break off a question.
    pub fn tcp(&self) -> Arc<TcpStream> {
        Arc::clone(self.socket.tcp())
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
