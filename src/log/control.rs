//! A connection to the log service for single questions, one at a time. The commands themselves are in `control_commands.rs`. The shipper
//! has a connection of its own, which never waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{Code, Known, Refusal, ACCEPT, CHECK, DIFFERS};
use redis_protocol::resp2::types::OwnedFrame;

use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::decide::known_log::Contradiction;
use crate::decide::service_choice::Failure;
use crate::log::connect::connect;
use crate::log::control_commands::Report;
use crate::log::error::LogError;
use crate::log::local_node::{LocalNode, Node};
use crate::log::reply::take_reply;
use crate::log::request::{encode, login, other_build, read_log_id};
use crate::log::services::{Reached, Service};
use crate::log::socket::LogSocket;
use crate::settings;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long is waited for what has come already. The system has no shorter time.
const AT_HAND: Duration = Duration::from_millis(1);

/// A stream that goes on comes sooner.
const QUIET: Duration = Duration::from_millis(200);

/// A logged-in connection. Every question blocks its thread, so the main thread has none.
pub struct LogConnection {
    socket: LogSocket,
    service: Arc<Service>,
    breaker: Arc<Breaker>,
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

/// With this another thread breaks off a question.
pub struct Breaker {
    tcp: Arc<TcpStream>,
    is_broken_off: AtomicBool,
}

impl Breaker {
    /// Ends the connection. That says nothing of the service.
    pub fn break_off(&self) {
        self.is_broken_off.store(true, Ordering::Release);
        // The connection may have ended by itself.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

impl LogConnection {
    /// Connects to the log service in use, logs in to this node's shard, and compares what this node knows with the log. So the connection is
    /// one to the right log: the storage does not change while the service runs. Of several services, each is tried until one does that.
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
        LogConnection::open_reporting(node, time, at_end, None)
    }

    /// As [`LogConnection::open_within`]. While nobody is known to decide, `report` is told to each service that answers: it would hear of
    /// this node from no other one, and somebody may look there for what is wrong.
    ///
    /// # Errors
    /// As [`LogConnection::open`].
    pub fn open_reporting(
        node: &Arc<impl LocalNode + 'static>,
        time: Duration,
        at_end: AtEnd,
        report: Option<&Report<'_>>,
    ) -> Result<Self, LogError> {
        try_services(node, time, at_end, |socket, service, limit| {
            LogConnection::open_on(socket, service, node, time, at_end, limit, report)
        })
        .inspect(|connection| node.services().decided(&connection.service))
    }

    fn open_on(
        socket: LogSocket,
        service: Arc<Service>,
        node: &Arc<impl LocalNode + 'static>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
        report: Option<&Report<'_>>,
    ) -> Result<Self, LogError> {
        let mut connection = LogConnection::log_in(socket, service, node, answer_time, at_end, limit)?;
        let (id, address) = (node.node_id(), node.address());
        let own = Node { id: &id, address: &address };
        let checked = connection.check_within(&own, node.known().as_ref(), limit);
        if let (Err(error), Some(report)) = (&checked, report) {
            if matches!(error.failure(node.services()), Some(Failure::DecidesNot(None))) {
                // It is noted and refused. What fails is the comparison before it, whatever comes of this.
                let _ = connection.exchange(&LogConnection::report_command(&own, report, Duration::ZERO), limit);
            }
        }
        checked.map(|()| connection)
    }

    /// As [`LogConnection::open_within`], without the comparison: for what is to be said of a log that contradicts what this node knows.
    ///
    /// # Errors
    /// The log cannot be reached, or does not take the token.
    pub fn open_unchecked(node: &Arc<impl LocalNode + 'static>, time: Duration) -> Result<Self, LogError> {
        let at_end = AtEnd::BreaksOff;
        try_services(node, time, at_end, |socket, service, limit| {
            LogConnection::log_in(socket, service, node, time, at_end, limit)
        })
    }

    fn log_in(
        socket: LogSocket,
        service: Arc<Service>,
        node: &Arc<impl LocalNode + 'static>,
        answer_time: Duration,
        at_end: AtEnd,
        limit: &TimeLimit<'_>,
    ) -> Result<Self, LogError> {
        let breaker = Arc::new(Breaker { tcp: Arc::clone(socket.tcp()), is_broken_off: AtomicBool::new(false) });
        let mut connection = LogConnection {
            socket,
            service,
            breaker,
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
        LogError::Unreachable { address: self.service.address.clone(), source }
    }

    pub(super) fn ask(&mut self, arguments: &[&str]) -> Result<OwnedFrame, LogError> {
        self.ask_bytes(&encode(arguments))
    }

    /// Asks what only the service answers that decides over the log.
    pub(super) fn ask_bytes(&mut self, command: &[u8]) -> Result<OwnedFrame, LogError> {
        let node = Arc::clone(&self.node);
        self.decide(command, &TimeLimit::within(self.answer_time, self.at_end, node.end()))
    }

    /// Asks what any service answers.
    pub(super) fn ask_any(&mut self, arguments: &[&str]) -> Result<OwnedFrame, LogError> {
        let node = Arc::clone(&self.node);
        let limit = TimeLimit::within(self.answer_time, self.at_end, node.end());
        self.exchange(&encode(arguments), &limit).inspect_err(|error| self.failed(error))
    }

    /// As [`LogConnection::ask_bytes`], within `limit`.
    pub(super) fn decide(&mut self, command: &[u8], limit: &TimeLimit<'_>) -> Result<OwnedFrame, LogError> {
        let answer = self.exchange(command, limit);
        self.note(&answer);
        answer
    }

    /// What a decision, or a failure, shows of the service.
    fn note<T>(&self, answer: &Result<T, LogError>) {
        match answer {
            Ok(_) => self.node.services().decided(&self.service),
            Err(error) => self.failed(error),
        }
    }

    fn failed(&self, error: &LogError) {
        let services = self.node.services();
        let was_given_up = self.breaker.is_broken_off.load(Ordering::Acquire) || self.node.end().get().is_some();
        if let Some(failure) = error.failure(services).filter(|_| !was_given_up) {
            services.failed(&self.service, failure);
        }
    }

    /// Whether a question that breaks off when the node is to end may still be asked.
    ///
    /// # Errors
    /// The node is to end.
    pub fn may_ask(&self) -> Result<(), LogError> {
        let limit = TimeLimit::within(self.answer_time, AtEnd::BreaksOff, self.node.end());
        limit.next_step().map(drop).map_err(|error| self.unreachable(error))
    }

    fn exchange(&mut self, command: &[u8], limit: &TimeLimit<'_>) -> Result<OwnedFrame, LogError> {
        // A question is not sent if nobody would wait for its answer.
        limit.next_step().map_err(|error| self.unreachable(error))?;
        let left = limit.left().max(Duration::from_millis(1));
        let sent = self.socket.tcp().set_write_timeout(Some(left)).and_then(|()| self.socket.write_all(command));
        sent.map_err(|error| self.unreachable(error))?;
        self.receive(limit)
    }

    /// Waits for a reply. What has come by the time limit counts, however late this thread runs.
    fn receive(&mut self, limit: &TimeLimit<'_>) -> Result<OwnedFrame, LogError> {
        let mut out_of_time = None;
        loop {
            let reply = take_reply(&mut self.buffer).map_err(|detail| self.protocol(detail))?;
            match reply {
                Some(OwnedFrame::Error(line)) => return Err(self.refused(Refusal::parse(&line))),
                Some(frame) => return Ok(frame),
                None => {}
            }
            if self.node.services().is_out_of_use(&self.service) {
                return Err(self.unreachable(std::io::Error::other("no answer, and another one decides by now")));
            }
            if let Some(error) = out_of_time {
                return Err(self.unreachable(error));
            }
            let mut bytes = [0; 4096];
            let step = limit.next_step().unwrap_or_else(|error| {
                out_of_time = Some(error);
                AT_HAND
            });
            let read = self.socket.tcp().set_read_timeout(Some(step));
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
        LogError::Protocol { address: self.service.address.clone(), detail: detail.into() }
    }

    fn refused(&self, refusal: Refusal) -> LogError {
        LogError::Refused { refusal, by: Arc::clone(&self.service) }
    }

    /// Compares the log with what this node knows.
    ///
    /// # Errors
    /// The log is not what this node knows, cannot be reached, refuses, or does not speak the protocol.
    pub fn check(&mut self, node: &Node<'_>, known: Option<&Known>) -> Result<(), LogError> {
        let local = Arc::clone(&self.node);
        let checked = self.check_within(node, known, &TimeLimit::within(self.answer_time, self.at_end, local.end()));
        self.note(&checked);
        checked
    }

    fn check_within(&mut self, node: &Node<'_>, known: Option<&Known>, limit: &TimeLimit<'_>) -> Result<(), LogError> {
        let command = encode(&[CHECK, &settings::SHARD.value(), node.id, node.address, &Known::text(known)]);
        let reply = self.exchange(&command, limit);
        match (reply, known) {
            (Ok(reply), _) => {
                self.log_id = read_log_id(&reply).map_err(|detail| self.protocol(detail))?;
                Ok(())
            }
            (Err(LogError::Refused { refusal, .. }), known) => {
                Err(match known.and_then(|known| Contradiction::of(&refusal, known)) {
                    Some(contradiction) => LogError::Contradicted(contradiction),
                    None if refusal.code == Code::Err => self.protocol(other_build(&refusal)),
                    None => self.refused(refusal),
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
            Err(error) if matches!(error.code(), Some(Code::Gap | Code::OtherLog)) => Ok(()),
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

    /// The service, and the address that was reached among those of its name.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn reached(&self) -> Result<Reached, LogError> {
        let address = self.socket.tcp().peer_addr().map_err(|error| self.unreachable(error))?;
        Ok(Reached { address, service: Arc::clone(&self.service) })
    }

    /// The service.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// With which another thread can break off a question.
    pub fn breaker(&self) -> Arc<Breaker> {
        Arc::clone(&self.breaker)
    }
}

/// Has the service in use opened, and one after another of several if it fails, until none is left that was not tried.
fn try_services(
    node: &Arc<impl LocalNode + 'static>,
    time: Duration,
    at_end: AtEnd,
    open: impl Fn(LogSocket, Arc<Service>, &TimeLimit<'_>) -> Result<LogConnection, LogError>,
) -> Result<LogConnection, LogError> {
    let services = node.services();
    let limit = TimeLimit::within(time, at_end, node.end());
    loop {
        let service = services.in_use();
        // One that is silent leaves time for another one.
        let own = if services.are_several() { limit.part(2).at_most(services.time_for_one()) } else { limit };
        let began = Instant::now();
        let opened = connect(&service, &own).and_then(|socket| open(socket, Arc::clone(&service), &own));
        let Err(error) = opened else {
            services.opened(began.elapsed());
            return opened;
        };
        let failure = match error.failure(services) {
            // It does not take the token, say, and another one may.
            None if error.code() == Some(Code::Err) => Failure::Lost,
            None => return Err(error),
            Some(failure) => failure,
        };
        if node.end().get().is_some() && limit.left().is_zero() {
            // The node ends. That says nothing of the service.
            return Err(error);
        }
        services.failed(&service, failure);
        if !services.has_next() || limit.left().is_zero() {
            return Err(error);
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
