//! The shipper's connection to the log: many appends in flight. Nothing here waits but connecting.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_protocol::{append_header, Code, Known, Refusal, CHECK, MAX_APPEND_BYTES};
use redis_protocol::resp2::types::OwnedFrame;

use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::decide::known_log::{Contradiction, Kind};
use crate::decide::service_choice::Failure;
use crate::decide::unacked::Backlog;
use crate::log::connect::connect;
use crate::log::local_node::LocalNode;
use crate::log::reply::take_reply;
use crate::log::request::{encode, login, other_build};
use crate::log::services::Service;
use crate::log::socket::LogSocket;
use crate::settings;

/// The most bytes that are sent and not acknowledged.
const WINDOW_BYTES: u64 = 8 << 20;
/// The most appends that are sent and not acknowledged.
const WINDOW_APPENDS: usize = 512;
/// How long connecting may take, resolving the name included. The agent ships and acknowledges nothing meanwhile.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// A reply that the log owes.
enum Expected {
    Login,
    Check,
    Append { end: u64 },
}

/// An append on its way into the socket.
struct Outgoing {
    header: Vec<u8>,
    payload: Range<u64>,
    /// How many bytes of header, payload and the closing line end are written.
    written: usize,
}

const LINE_END: &[u8] = b"\r\n";

/// A connection to the log on which the agent's loop never waits. Agent, or the thread that writes the stream in its place.
pub struct AppendLink {
    socket: LogSocket,
    service: Arc<Service>,
    expected: VecDeque<Expected>,
    outgoing: Option<Outgoing>,
    replies: Vec<u8>,
    is_logged_in: bool,
    /// What this node knew of the log when it connected.
    known: Option<Known>,
    /// When the log last acknowledged something, or began to owe an acknowledgement.
    progress: Instant,
}

/// What went wrong on the connection.
#[derive(Debug)]
pub enum LinkError {
    /// The connection failed.
    Io(std::io::Error),
    /// The connection is of no more use. A new one may work.
    Lost(String),
    /// The log has not answered for too long.
    Silent(String),
    /// The log refuses, and another connection may work: to another service, if that one decides.
    Refused(Refusal),
    /// Another leader has taken over.
    Fenced(String),
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// The log acknowledges what it cannot have.
    Broken(String),
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        LinkError::Io(error)
    }
}

impl AppendLink {
    /// Connects, and sends the login and what this node knows of the log, without waiting for an answer. The TLS handshake is done along
    /// with what is sent and read, and [`AppendLink::owed_for`] bounds it.
    ///
    /// # Errors
    /// What went wrong, for the operator.
    pub fn open(node: &dyn LocalNode) -> Result<Self, String> {
        let services = node.services();
        let service = services.in_use();
        let mut limit = TimeLimit::within(CONNECT_TIME, AtEnd::GoesOn, node.end());
        if services.are_several() {
            limit = limit.at_most(services.time_for_one());
        }
        let login = login().map_err(|error| error.to_string())?;
        let mut socket = connect(&service, &limit).map_err(|error| {
            if let Some(failure) = error.failure(services) {
                services.failed(&service, failure);
            }
            error.to_string()
        })?;
        let failed = |error: std::io::Error| {
            services.failed(&service, Failure::Lost);
            format!("the connection to {service} failed: {error}")
        };
        let known = node.known();
        let (shard, text) = (settings::SHARD.value(), Known::text(known.as_ref()));
        let check = encode(&[CHECK, &shard, &node.node_id(), &node.address(), &text]);
        socket.write_all(&[encode(&[&login[0], &login[1], &login[2]]), check].concat()).map_err(failed)?;
        socket.tcp().set_nonblocking(true).map_err(failed)?;
        Ok(AppendLink {
            socket,
            service,
            expected: VecDeque::from([Expected::Login, Expected::Check]),
            outgoing: None,
            replies: Vec::new(),
            is_logged_in: false,
            known,
            progress: Instant::now(),
        })
    }

    /// Whether the log has accepted the login, and is the one that this node knows.
    pub fn is_logged_in(&self) -> bool {
        self.is_logged_in
    }

    /// The service that it leads to.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The connection itself, to poll.
    pub fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(self.socket.tcp())
    }

    /// How long ago the log last acknowledged something, if it owes an acknowledgement; zero if it owes nothing.
    pub fn owed_for(&self) -> Duration {
        if self.expected.is_empty() {
            return Duration::ZERO;
        }
        self.progress.elapsed()
    }

    /// Whether the log still owes the end of the TLS handshake.
    pub fn is_handshaking(&self) -> bool {
        self.socket.is_handshaking()
    }

    /// Whether there is something to send, and the window has room for it.
    pub fn wants_to_send(&self, backlog: &Backlog) -> bool {
        self.outgoing.is_some()
            || self.socket.wants_write()
            || (self.has_window(backlog) && backlog.sent() < backlog.end())
    }

    /// Whether the socket has taken everything there was to send, and more can be sent.
    pub fn is_ready(&self, backlog: &Backlog) -> bool {
        self.outgoing.is_none()
            && !self.socket.wants_write()
            && self.has_window(backlog)
            && backlog.sent() == backlog.end()
    }

    /// There is no window before the login is answered: a log that stands still would otherwise be sent the same appends on each connection
    /// that is tried meanwhile. Nor is there one before the log is known to be the right one: another log would accept the appends, or
    /// mistake them for ones that it has.
    fn has_window(&self, backlog: &Backlog) -> bool {
        self.is_logged_in && self.expected.len() < WINDOW_APPENDS && backlog.sent() - backlog.durable() < WINDOW_BYTES
    }

    /// Sends as much as the window and the socket take.
    ///
    /// # Errors
    /// The connection has failed.
    pub fn send(&mut self, shard: &str, epoch: u64, backlog: &mut Backlog) -> Result<(), LinkError> {
        if !self.socket.try_flush()? {
            return Ok(());
        }
        loop {
            if self.outgoing.is_none() {
                if !self.has_window(backlog) {
                    return Ok(());
                }
                let Some(payload) = backlog.take(MAX_APPEND_BYTES) else { return Ok(()) };
                if self.expected.is_empty() {
                    self.progress = Instant::now();
                }
                self.expected.push_back(Expected::Append { end: payload.end });
                let mut header = Vec::with_capacity(128);
                append_header(&mut header, shard, epoch, payload.start, (payload.end - payload.start) as usize);
                self.outgoing = Some(Outgoing { header, payload, written: 0 });
            }
            if !self.write_outgoing(backlog)? {
                return Ok(());
            }
        }
    }

    /// Returns whether the append is written whole.
    fn write_outgoing(&mut self, backlog: &Backlog) -> Result<bool, LinkError> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(true) };
        let payload_bytes = (outgoing.payload.end - outgoing.payload.start) as usize;
        let total = outgoing.header.len() + payload_bytes + LINE_END.len();
        while outgoing.written < total {
            // All of it is still in the backlog: see `read_replies`.
            let skip = outgoing.written.saturating_sub(outgoing.header.len()).min(payload_bytes);
            let header_left = &outgoing.header[outgoing.written.min(outgoing.header.len())..];
            let end_written = outgoing.written.saturating_sub(outgoing.header.len() + payload_bytes);
            let mut slices = vec![IoSlice::new(header_left)];
            backlog.slices(outgoing.payload.start + skip as u64..outgoing.payload.end, &mut slices);
            slices.push(IoSlice::new(&LINE_END[end_written..]));
            match self.socket.write_vectored(&slices) {
                Ok(0) => return Err(std::io::Error::from(ErrorKind::WriteZero).into()),
                Ok(count) => outgoing.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.outgoing = None;
        Ok(true)
    }

    /// Reads the replies that have arrived. Returns whether something more is durable.
    ///
    /// # Errors
    /// The connection has failed, or the log refuses, or it answers what it cannot know.
    pub fn read_replies(&mut self, backlog: &mut Backlog) -> Result<bool, LinkError> {
        let mut bytes = [0; 16 << 10];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(LinkError::Lost(format!("{} closed the connection", self.service))),
                Ok(count) => self.replies.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(false)
                }
                Err(error) => return Err(error.into()),
            }
            // The poll does not report what is decrypted already.
            if !self.socket.has_received() {
                break;
            }
        }
        let mut is_news = false;
        while let Some(reply) = take_reply(&mut self.replies).map_err(LinkError::Lost)? {
            is_news |= self.take(reply, backlog)?;
        }
        Ok(is_news)
    }

    /// Returns whether something more is durable.
    fn take(&mut self, reply: OwnedFrame, backlog: &mut Backlog) -> Result<bool, LinkError> {
        let Some(expected) = self.expected.pop_front() else {
            return Err(LinkError::Lost(format!("{} answered what nobody asked", self.service)));
        };
        match (expected, reply) {
            (Expected::Login, OwnedFrame::SimpleString(_)) => {}
            (Expected::Check, OwnedFrame::BulkString(_)) => self.is_logged_in = true,
            (Expected::Check, OwnedFrame::Error(line)) => {
                return Err(contradicted(&Refusal::parse(&line), self.known.as_ref()))
            }
            (Expected::Append { end }, OwnedFrame::Integer(durable)) => {
                return self.acknowledged(end, u64::try_from(durable).unwrap_or(0), backlog);
            }
            (_, OwnedFrame::Error(line)) => return Err(refused(Refusal::parse(&line), backlog, self.known.as_ref())),
            (_, other) => return Err(LinkError::Lost(format!("{} answered {other:?}", self.service))),
        }
        Ok(false)
    }

    /// The log answers the append that ends at `end` with the offset up to which it is durable (both exclusive).
    fn acknowledged(&mut self, end: u64, durable: u64, backlog: &mut Backlog) -> Result<bool, LinkError> {
        if durable < end {
            let why = format!("{} acknowledged offset {durable} for an append up to {end}", self.service);
            return Err(LinkError::Broken(why));
        }
        if durable > backlog.end() {
            let why = format!("{} acknowledged offset {durable}, beyond what it was sent", self.service);
            return Err(LinkError::Broken(why));
        }
        // The log may have received on an earlier connection what is now being written on this one. Those bytes stay in the backlog until
        // they are written: the reply to that append acknowledges them again.
        let kept_from = self.outgoing.as_ref().map_or(u64::MAX, |outgoing| outgoing.payload.start);
        let acknowledged = backlog.acknowledge(durable.min(kept_from));
        let is_news = acknowledged.map_err(|why| LinkError::Broken(why.to_string()))?;
        self.progress = Instant::now();
        Ok(is_news)
    }
}

/// The log refuses the comparison, before anything is appended.
fn contradicted(refusal: &Refusal, known: Option<&Known>) -> LinkError {
    match known.and_then(|known| Contradiction::of(refusal, known)) {
        Some(contradiction) => LinkError::Contradicted(contradiction),
        None if refusal.code == Code::Err => LinkError::Lost(other_build(refusal)),
        None => LinkError::Refused(refusal.clone()),
    }
}

fn refused(refusal: Refusal, backlog: &Backlog, known: Option<&Known>) -> LinkError {
    match refusal.code {
        Code::Fenced => LinkError::Fenced(refusal.detail),
        // Only this node appends in this epoch, so the log has lost what it acknowledged. Another comparison would not show that: what
        // this node knows may still be true of the log.
        Code::Gap => LinkError::Contradicted(Contradiction {
            log_id: known.map(|known| known.log.clone()).unwrap_or_default(),
            detail: format!("it has acknowledged offset {}; {refusal}", backlog.durable()),
            kind: Kind::Lasting,
        }),
        _ => LinkError::Refused(refusal),
    }
}

#[cfg(test)]
#[path = "append_link_tests.rs"]
mod tests;
