//! The shipper: takes bytes from the tap, appends them to the log with many appends in flight, and takes the
//! acknowledgements. One loop on the agent's thread waits for all of it, so no byte changes hands between threads.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use durability_protocol::{append_header, Code, Refusal, MAX_APPEND_BYTES};
use memchr::memmem;
use redis_protocol::resp2::types::OwnedFrame;
use rustix::buffer::spare_capacity;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::{Agent, Interrupt, BACKOFF_FROM, BACKOFF_TO};
use crate::backlog::Backlog;
use crate::config::{self, Mode};
use crate::log_connection::{self, encode, take_reply};
use crate::shared::Link;
use crate::tap::Tap;

/// Bytes that are sent and not acknowledged, at most.
const WINDOW_BYTES: u64 = 8 << 20;
/// Appends that are sent and not acknowledged, at most.
const WINDOW_APPENDS: usize = 512;
/// The server is told how far the log is this often.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// A log that acknowledges nothing of what it was sent for so long is connected to anew.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// In async mode, nobody waits for the log: bytes gather for so long before they are read.
const ASYNC_GATHER: Duration = Duration::from_millis(2);
/// At the end, what is left is shipped for at most so long.
const STOP_TIMEOUT: Duration = Duration::from_millis(800);
/// The server asks for an acknowledgement, in the stream.
const GETACK: &[u8] = b"REPLCONF\r\n$6\r\nGETACK\r\n";

/// Why shipping ended.
pub enum Ended {
    /// The connection to the server is gone; what was read from it is in the backlog.
    TapLost(String),
    /// Another leader has taken over.
    Fenced(String),
    /// The log contradicts what this node knows.
    Broken(String),
    /// The mode became off.
    ModeChanged,
    /// The module ends; what could be shipped is shipped.
    Stop,
}

/// A reply that the log owes.
enum Expected {
    Login,
    Append { end: u64 },
}

/// An append on its way into the socket.
struct Outgoing {
    header: Vec<u8>,
    payload: Range<u64>,
    /// Of header, payload and the closing line end.
    written: usize,
}

const LINE_END: &[u8] = b"\r\n";

/// A connection to the log that never makes the loop wait.
struct LogLink {
    socket: TcpStream,
    expected: VecDeque<Expected>,
    outgoing: Option<Outgoing>,
    replies: Vec<u8>,
    /// When the log last acknowledged something, or was first owed to.
    progress: Instant,
}

enum Log {
    Up(LogLink),
    Down { retry: Instant, wait: Duration },
}

/// What went wrong on the link to the log.
enum LinkError {
    /// To be connected to anew.
    Lost(String),
    /// Shipping ends.
    Ended(Ended),
}

impl From<std::io::Error> for LinkError {
    fn from(error: std::io::Error) -> Self {
        LinkError::Lost(format!("the connection to the log service failed: {error}"))
    }
}

struct Shipper<'a> {
    agent: &'a mut Agent,
    epoch: u64,
    shard: String,
    tap: &'a Tap,
    /// Memory that changes places with the pipe's.
    taken: Vec<u8>,
    backlog: &'a mut Backlog,
    log: Log,
    is_ack_wanted: bool,
    next_ack: Instant,
    /// In async mode: until then bytes gather in the socket.
    gather_until: Instant,
    stop_at: Option<Instant>,
}

/// Ships from `tap` to the log until something ends it. `backlog` ends where the tap goes on.
pub fn ship(agent: &mut Agent, epoch: u64, tap: &mut Tap, backlog: &mut Backlog) -> Ended {
    if let Err(error) = tap.stream.set_nonblocking(true) {
        return Ended::TapLost(error.to_string());
    }
    backlog.append(&std::mem::take(&mut tap.first));
    let now = Instant::now();
    let mut shipper = Shipper {
        agent,
        epoch,
        shard: config::SHARD.value(),
        tap,
        taken: Vec::new(),
        backlog,
        log: Log::Down { retry: now, wait: BACKOFF_FROM },
        is_ack_wanted: true,
        next_ack: now,
        gather_until: now,
        stop_at: None,
    };
    // Commands may have come while nobody listened to the bell.
    let mut turned = shipper.obey();
    loop {
        if let Err(ended) = turned {
            // What came through the pipe before the connection ended belongs to the stream.
            shipper.read_pipe();
            return ended;
        }
        turned = shipper.turn();
    }
}

impl Shipper<'_> {
    /// Waits until something can be done, and does it.
    fn turn(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        self.connect_if_due(now);
        let has_room = self.backlog.pending_bytes() < config::MAX_PENDING_BYTES.load(Ordering::Relaxed) as u64;
        let takes_more = has_room && self.gather_until <= now;
        let (bell, tap, log) = self.wait(now, takes_more).map_err(Ended::TapLost)?;
        if bell {
            self.agent.shared.agent_bell.silence();
            self.obey()?;
        }
        if takes_more {
            self.read_pipe();
        }
        if tap {
            self.read_tap()?;
        }
        let before = self.backlog.durable();
        if let Err(error) = self.serve_link(log) {
            self.link_failed(error)?;
        }
        self.acknowledge(before).map_err(|error| Ended::TapLost(error.to_string()))?;
        self.check_stop()
    }

    /// Returns whether the bell rang, and whether the tap and the log have something.
    fn wait(&self, now: Instant, takes_more: bool) -> Result<(bool, bool, bool), String> {
        let mut wake = self.next_ack;
        let pipe = self.tap.pipe.as_deref();
        if takes_more && pipe.is_some_and(|pipe| !pipe.await_ring()) {
            wake = now;
        }
        if self.gather_until > now {
            wake = wake.min(self.gather_until);
        }
        if let Some(stop_at) = self.stop_at {
            wake = wake.min(stop_at);
        }
        if let Log::Down { retry, .. } = &self.log {
            wake = wake.min(*retry);
        }
        let mut sockets = vec![PollFd::new(&self.agent.shared.agent_bell, PollFlags::IN)];
        // Beside a pipe, the socket only tells that the connection has ended.
        let tap_flags = if takes_more || pipe.is_some() { PollFlags::IN } else { PollFlags::empty() };
        sockets.push(PollFd::from_borrowed_fd(self.tap.stream.as_fd(), tap_flags));
        if let Log::Up(link) = &self.log {
            let writes = link.outgoing.is_some() || (link.has_window(self.backlog) && self.has_unsent());
            let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            sockets.push(PollFd::new(&link.socket, flags));
        }
        let timeout = Timespec::try_from(wake.saturating_duration_since(now)).map_err(|error| error.to_string())?;
        match poll(&mut sockets, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        let has = |index: usize| sockets.get(index).is_some_and(|socket| !socket.revents().is_empty());
        Ok((has(0), has(1), has(2)))
    }

    fn has_unsent(&self) -> bool {
        self.backlog.sent() < self.backlog.end()
    }

    fn obey(&mut self) -> Result<(), Ended> {
        match self.agent.look_at_commands() {
            Ok(()) | Err(Interrupt::Failed(_) | Interrupt::Hopeless(_)) => Ok(()),
            Err(Interrupt::ModeChanged) => Err(Ended::ModeChanged),
            Err(Interrupt::Stop) => {
                self.stop_at = Some(Instant::now() + STOP_TIMEOUT);
                Ok(())
            }
        }
    }

    fn check_stop(&self) -> Result<(), Ended> {
        match self.stop_at {
            Some(at) if self.backlog.pending_bytes() == 0 || Instant::now() >= at => Err(Ended::Stop),
            _ => Ok(()),
        }
    }

    /// Takes what waits in the pipe, if there is one.
    fn read_pipe(&mut self) {
        let Some(pipe) = &self.tap.pipe else { return };
        pipe.take(&mut self.taken);
        if self.taken.is_empty() {
            return;
        }
        self.backlog.append(&self.taken);
        let wants_ack = asks_for_ack(&self.taken);
        self.taken.clear();
        self.came_in(wants_ack);
    }

    fn read_tap(&mut self) -> Result<(), Ended> {
        let lost = |why: String| Err(Ended::TapLost(why));
        let room = self.backlog.room();
        let start = room.len();
        match rustix::io::read(&self.tap.stream, spare_capacity(room)) {
            Ok(0) => return lost("the server closed it".to_owned()),
            Ok(_) if self.tap.pipe.is_some() => {
                room.truncate(start);
                return lost("the server wrote past the pipe".to_owned());
            }
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return lost(error.to_string()),
        }
        let wants_ack = asks_for_ack(self.backlog.filled());
        self.came_in(wants_ack);
        Ok(())
    }

    fn came_in(&mut self, wants_ack: bool) {
        self.is_ack_wanted |= wants_ack;
        self.agent.shared.tapped.store(self.backlog.end(), Ordering::Relaxed);
        if self.agent.mode() == Mode::Async && self.stop_at.is_none() {
            self.gather_until = Instant::now() + ASYNC_GATHER;
        }
    }

    fn connect_if_due(&mut self, now: Instant) {
        let Log::Down { retry, wait } = &self.log else { return };
        let wait = *wait;
        if now < *retry {
            return;
        }
        match LogLink::open() {
            Ok(link) => {
                self.backlog.rewind();
                self.log = Log::Up(link);
                self.agent.shared.set_link(Link::Up);
            }
            Err(why) => {
                if self.agent.shared.set_last_error(&why) {
                    log_warning(format!("durability: {why}; trying again"));
                }
                self.log = Log::Down { retry: Instant::now() + wait, wait: (wait * 2).min(BACKOFF_TO) };
            }
        }
    }

    fn link_failed(&mut self, error: LinkError) -> Result<(), Ended> {
        match error {
            LinkError::Ended(ended) => Err(ended),
            LinkError::Lost(why) => {
                if self.agent.shared.set_last_error(&why) {
                    log_warning(format!("durability: {why}; {} bytes wait", self.backlog.pending_bytes()));
                }
                self.agent.shared.set_link(Link::Down);
                self.agent.shared.log_reconnects.fetch_add(1, Ordering::Relaxed);
                self.log = Log::Down { retry: Instant::now() + BACKOFF_FROM, wait: BACKOFF_FROM };
                Ok(())
            }
        }
    }

    fn serve_link(&mut self, has_replies: bool) -> Result<(), LinkError> {
        let Log::Up(link) = &mut self.log else { return Ok(()) };
        if has_replies && link.read_replies(self.backlog)? {
            self.agent.publish(self.backlog);
            if !self.agent.shared.last_error().is_empty() {
                log_notice(format!("durability: the log acknowledges again, at offset {}", self.backlog.durable()));
                self.agent.shared.set_last_error("");
            }
        }
        link.send(&self.shard, self.epoch, self.backlog)?;
        let owes = !link.expected.is_empty();
        if owes && link.progress.elapsed() > STALL_TIMEOUT {
            let seconds = STALL_TIMEOUT.as_secs();
            return Err(LinkError::Lost(format!("the log service has acknowledged nothing for {seconds} s")));
        }
        Ok(())
    }

    /// Tells the server how far the log is, as a replica does: so WAIT, and the wait of SHUTDOWN, mean durability.
    fn acknowledge(&mut self, before: u64) -> std::io::Result<()> {
        let durable = self.backlog.durable();
        let is_wanted = self.is_ack_wanted && durable > before;
        if !is_wanted && Instant::now() < self.next_ack {
            return Ok(());
        }
        self.next_ack = Instant::now() + ACK_INTERVAL;
        if durable == self.backlog.end() {
            self.is_ack_wanted = false;
        }
        let bytes = encode(&["REPLCONF", "ACK", &durable.to_string()]);
        let mut socket = &self.tap.stream;
        match socket.write(&bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            // A part of a command would be followed by another command.
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl LogLink {
    fn open() -> Result<Self, String> {
        let mut socket = log_connection::connect().map_err(|error| error.to_string())?;
        let failed = |error: std::io::Error| format!("the connection to the log service failed: {error}");
        let login = log_connection::login();
        socket.write_all(&encode(&[&login[0], &login[1], &login[2]])).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(LogLink {
            socket,
            expected: VecDeque::from([Expected::Login]),
            outgoing: None,
            replies: Vec::new(),
            progress: Instant::now(),
        })
    }

    fn has_window(&self, backlog: &Backlog) -> bool {
        self.expected.len() < WINDOW_APPENDS && backlog.sent() - backlog.durable() < WINDOW_BYTES
    }

    /// Sends as much as the window and the socket take.
    fn send(&mut self, shard: &str, epoch: u64, backlog: &mut Backlog) -> Result<(), LinkError> {
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
            // What is acknowledged already may be gone from the backlog; what is not written cannot be.
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

    /// Reads the replies that are there. Returns whether something more is durable.
    fn read_replies(&mut self, backlog: &mut Backlog) -> Result<bool, LinkError> {
        let mut bytes = [0; 16 << 10];
        match self.socket.read(&mut bytes) {
            Ok(0) => return Err(LinkError::Lost("the log service closed the connection".to_owned())),
            Ok(count) => self.replies.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut is_news = false;
        while let Some(reply) = take_reply(&mut self.replies).map_err(LinkError::Lost)? {
            let Some(expected) = self.expected.pop_front() else {
                return Err(LinkError::Lost("the log service answered what nobody asked".to_owned()));
            };
            match (expected, reply) {
                (Expected::Login, OwnedFrame::SimpleString(_)) => {}
                (Expected::Append { end }, OwnedFrame::Integer(durable)) => {
                    let durable = u64::try_from(durable).unwrap_or(0);
                    if durable < end {
                        let why = format!("the log service acknowledged offset {durable} for an append up to {end}");
                        return Err(LinkError::Ended(Ended::Broken(why)));
                    }
                    let acknowledged = backlog.acknowledge(durable);
                    is_news |= acknowledged.map_err(|why| LinkError::Ended(Ended::Broken(why.to_string())))?;
                    self.progress = Instant::now();
                }
                (_, OwnedFrame::Error(line)) => return Err(refused(Refusal::parse(&line), backlog)),
                (_, other) => return Err(LinkError::Lost(format!("the log service answered {other:?}"))),
            }
        }
        Ok(is_news)
    }
}

/// Whether the server asks, in these bytes of the stream, how far its replicas are. A value may look the same; the
/// answer then is one too many. One that is cut in two is answered within a second all the same.
fn asks_for_ack(bytes: &[u8]) -> bool {
    memmem::find(bytes, GETACK).is_some()
}

fn refused(refusal: Refusal, backlog: &Backlog) -> LinkError {
    match refusal.code {
        Code::Fenced => LinkError::Ended(Ended::Fenced(refusal.detail)),
        // Nobody else appends in this epoch, so the log has lost what it acknowledged.
        Code::Gap => LinkError::Ended(Ended::Broken(format!(
            "the log service has acknowledged offset {} and now ends elsewhere ({refusal}): its storage was rolled back or \
             exchanged. This node still holds the data: save it (BGSAVE) before anything else",
            backlog.durable()
        ))),
        _ => LinkError::Lost(format!("the log service refuses: {refusal}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_ends_leadership_only_if_trying_again_cannot_help() {
        let backlog = Backlog::new(7);
        let of = |code| refused(Refusal::new(code, "x"), &backlog);
        assert!(matches!(of(Code::Fenced), LinkError::Ended(Ended::Fenced(_))));
        assert!(matches!(of(Code::Gap), LinkError::Ended(Ended::Broken(_))));
        for code in [Code::NoSpace, Code::LogFailed, Code::NoAuth, Code::Err] {
            assert!(matches!(of(code), LinkError::Lost(_)), "{code:?}");
        }
    }
}
