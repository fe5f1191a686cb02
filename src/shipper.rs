//! The shipper: takes bytes from the tap, appends them to the log with many appends in flight, and takes the
//! acknowledgements. One loop on the agent's thread waits for all of it, so no byte changes hands between threads.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::interrupt::Interrupt;
use crate::agent::tap::Tap;
use crate::agent::uplink::{self, Line, Log, SharedLine};
use crate::agent::Agent;
use crate::decide::known_log::Contradiction;
use crate::decide::unacked::Backlog;
use crate::exchange::{Link, Task};
use crate::log::append_link::{LinkError, LogLink};
use crate::log::control::encode;
use crate::settings::{self, Mode};

/// The server is told how far the log is this often.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// While the server asks how far its replicas are, it is looked this often whether it does so to shut down.
const SHUTDOWN_LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A log that acknowledges nothing of what it was sent for so long is connected to anew.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// In async mode, nobody waits for the log: bytes gather for so long before they are read.
const ASYNC_GATHER: Duration = Duration::from_millis(2);
/// At the end, what is left is shipped until so long before the node is to have ended: the lease is still to be given back.
const RELEASE_TIME: Duration = Duration::from_millis(800);

/// Why shipping ended.
pub enum Ended {
    /// The connection to the server is gone; what was read from it is in the backlog.
    TapLost(String),
    /// Another leader has taken over.
    Fenced(String),
    /// This node gave the lease to another one.
    HandedOver,
    /// The server was taken away from its log, so what the tap brings may be another one's data.
    LostItsLog,
    /// The log is not what this node knows.
    Contradicted(Contradiction),
    /// The operator says that the log of that id is right; see [`Interrupt::LogAccepted`].
    LogAccepted { log_id: String, seeds: bool },
    /// The log answers what it cannot know.
    Broken(String),
    /// The node is to have no log any more; what was written before could be shipped, or time ran out.
    ModeChanged,
    /// The module ends; what could be shipped is shipped.
    Stop,
}

struct Shipper<'a> {
    agent: &'a mut Agent,
    tap: &'a Tap,
    /// Memory that changes places with the pipe's.
    taken: Vec<u8>,
    line: Arc<SharedLine>,
    /// What the log had acknowledged when the server was last told.
    told: u64,
    next_ack: Instant,
    next_look: Instant,
    /// [`Line::ack_wanted_for`] when it was last looked whether the server shuts down.
    looked_for: u64,
    was_shutting_down: bool,
    /// The tap's connection has ended while shipping was to end anyway.
    is_tap_gone: bool,
    /// In async mode: until then bytes gather in the socket.
    gather_until: Instant,
    ending: Option<Ending>,
}

/// Shipping is to end soon.
struct Ending {
    /// At the latest then.
    at: Instant,
    /// For what reason; if the mode changed, as soon as this offset is durable.
    until: Option<u64>,
}

impl Ending {
    fn ended(&self) -> Ended {
        match self.until {
            Some(_) => Ended::ModeChanged,
            None => Ended::Stop,
        }
    }
}

/// Ships from `tap` to the log until something ends it. `backlog` ends where the tap goes on.
pub fn ship(agent: &mut Agent, epoch: u64, tap: &mut Tap, backlog: &mut Backlog) -> Ended {
    if let Err(error) = tap.stream.set_nonblocking(true) {
        return Ended::TapLost(error.to_string());
    }
    let now = Instant::now();
    // Where nothing is left behind, nothing can be taken for what was.
    let whole = std::mem::replace(backlog, Backlog::new(0));
    let mut line = Line::new(epoch, whole);
    line.tapped(&std::mem::take(&mut tap.first));
    let line = Arc::new(SharedLine::new(line));
    let mut shipper = Shipper {
        agent,
        tap,
        taken: Vec::new(),
        line: Arc::clone(&line),
        told: 0,
        next_ack: now,
        next_look: now,
        looked_for: 0,
        was_shutting_down: false,
        is_tap_gone: false,
        gather_until: now,
        ending: None,
    };
    let ended = shipper.run();
    *backlog = std::mem::replace(&mut uplink::lock(&line).backlog, Backlog::new(0));
    ended
}

impl Shipper<'_> {
    fn run(&mut self) -> Ended {
        if let Some(pipe) = &self.tap.pipe {
            pipe.connect(Some(Arc::clone(&self.line)));
        }
        // Commands may have come while nobody listened to the bell.
        let mut turned = self.obey();
        let ended = loop {
            match turned {
                Ok(()) => turned = self.turn(),
                Err(ended) => break ended,
            }
        };
        if let Some(pipe) = &self.tap.pipe {
            pipe.connect(None);
            // What came through the pipe before the connection ended belongs to the stream.
            let line = Arc::clone(&self.line);
            self.read_pipe(&mut uplink::lock(&line));
        }
        match (ended, &self.ending) {
            // Nothing is left to be opened again for.
            (Ended::TapLost(_), Some(ending)) => ending.ended(),
            (ended, _) => ended,
        }
    }

    /// Waits until something can be done, and does it.
    fn turn(&mut self) -> Result<(), Ended> {
        if self.ending.is_none() && self.agent.is_seed_due() {
            return Err(Ended::TapLost("something was written that is not in the stream".to_owned()));
        }
        let now = Instant::now();
        let shared_line = Arc::clone(&self.line);
        let mut line = uplink::lock(&shared_line);
        self.connect_if_due(now, &mut line);
        let has_room = line.backlog.pending_bytes() < settings::MAX_PENDING_BYTES.load(Ordering::Relaxed) as u64;
        let takes_more = has_room && self.gather_until <= now;
        line.may_send_directly = takes_more && self.agent.mode() == Mode::Sync && self.ending.is_none();
        let (bell, tap, log) = self.wait(now, takes_more, line).map_err(Ended::TapLost)?;
        let mut line = uplink::lock(&shared_line);
        if bell {
            self.agent.shared.agent_bell.silence();
            self.obey()?;
        }
        // At the end, whatever was written before belongs to it.
        let is_ending = self.ending.is_some();
        if takes_more || is_ending {
            self.read_pipe(&mut line);
        }
        let mut has_more = tap || is_ending && self.tap.pipe.is_none();
        while has_more && !self.is_tap_gone {
            has_more = match self.read_tap(&mut line) {
                Ok(has_more) => has_more && is_ending,
                // What was read is shipped all the same.
                Err(Ended::TapLost(_)) if is_ending => {
                    self.is_tap_gone = true;
                    false
                }
                Err(ended) => return Err(ended),
            }
        }
        if let Err(error) = self.serve_link(log, &mut line) {
            self.link_failed(error, &mut line)?;
        }
        if let Err(error) = self.acknowledge(&mut line) {
            if !is_ending {
                return Err(Ended::TapLost(error.to_string()));
            }
            self.is_tap_gone = true;
        }
        self.check_stop(&line)
    }

    /// Lets go of the line and sleeps. Returns whether the bell rang, and whether the tap and the log have something.
    fn wait(&self, now: Instant, takes_more: bool, line: MutexGuard<'_, Line>) -> Result<(bool, bool, bool), String> {
        let mut wake = self.next_ack;
        let pipe = self.tap.pipe.as_deref();
        if self.gather_until > now {
            wake = wake.min(self.gather_until);
        }
        if let Some(ending) = &self.ending {
            wake = wake.min(ending.at);
        }
        if self.is_to_look(&line) {
            wake = wake.min(self.next_look);
        }
        let mut socket = None;
        let mut log_flags = PollFlags::IN;
        match &line.log {
            Log::Down { retry } => wake = wake.min(*retry),
            Log::Up(link) => {
                if link.wants_to_send(&line.backlog) {
                    log_flags |= PollFlags::OUT;
                }
                socket = Some(link.socket());
            }
        }
        drop(line);
        if takes_more && pipe.is_some_and(|pipe| !pipe.await_ring()) {
            wake = now;
        }
        // Beside a pipe, the socket only tells that the connection has ended.
        let tap_flags = if takes_more || pipe.is_some() { PollFlags::IN } else { PollFlags::empty() };
        let bell = PollFd::new(&self.agent.shared.agent_bell, PollFlags::IN);
        let tap = match self.is_tap_gone {
            true => PollFd::new(&self.agent.shared.agent_bell, PollFlags::empty()),
            false => PollFd::from_borrowed_fd(self.tap.stream.as_fd(), tap_flags),
        };
        let timeout = Timespec::try_from(wake.saturating_duration_since(now)).map_err(|error| error.to_string())?;
        let polled = match &socket {
            Some(socket) => poll_all([bell, tap, PollFd::new(socket, log_flags)], &timeout),
            None => poll_all([bell, tap], &timeout).map(|[bell, tap]| [bell, tap, false]),
        };
        let [bell, tap, log] = polled.map_err(|error| error.to_string())?;
        Ok((bell, tap, log))
    }

    fn obey(&mut self) -> Result<(), Ended> {
        match self.agent.look_at_commands() {
            // A node that had to pass over something never gets here.
            Ok(())
            | Err(Interrupt::Failed(_) | Interrupt::Hopeless(_) | Interrupt::PassedOver(_) | Interrupt::CopyFailed) => {
                Ok(())
            }
            Err(Interrupt::Fenced(why)) => Err(Ended::Fenced(why)),
            Err(Interrupt::Contradicted(contradiction)) => Err(Ended::Contradicted(contradiction)),
            Err(Interrupt::LogAccepted { log_id, seeds }) => Err(Ended::LogAccepted { log_id, seeds }),
            Err(Interrupt::HandedOver) => Err(Ended::HandedOver),
            Err(Interrupt::LostItsLog) => Err(Ended::LostItsLog),
            Err(Interrupt::ModeChanged) => {
                let until = self.agent.shared.leave_offset.load(Ordering::Acquire);
                let at = self.ending_at();
                self.ending.get_or_insert(Ending { at, until: Some(until) });
                Ok(())
            }
            Err(Interrupt::Stop) => {
                self.ending = Some(Ending { at: self.ending_at(), until: None });
                Ok(())
            }
        }
    }

    fn ending_at(&self) -> Instant {
        let now = Instant::now();
        // Whoever has it end has said by when.
        self.agent.shared.end.get().and_then(|end| end.checked_sub(RELEASE_TIME)).unwrap_or(now)
    }

    fn check_stop(&self, line: &Line) -> Result<(), Ended> {
        let Some(ending) = &self.ending else { return Ok(()) };
        let is_done = match ending.until {
            Some(offset) => line.backlog.durable() >= offset,
            None => line.backlog.pending_bytes() == 0,
        };
        if is_done || Instant::now() >= ending.at {
            return Err(ending.ended());
        }
        Ok(())
    }

    /// Takes what waits in the pipe, if there is one.
    fn read_pipe(&mut self, line: &mut Line) {
        let Some(pipe) = &self.tap.pipe else { return };
        pipe.take(&mut self.taken);
        if self.taken.is_empty() {
            return;
        }
        line.tapped(&self.taken);
        self.taken.clear();
        self.came_in();
    }

    /// Takes what the tap's socket has, a block at most. Returns whether that was anything.
    fn read_tap(&mut self, line: &mut Line) -> Result<bool, Ended> {
        let lost = |why: String| Err(Ended::TapLost(why));
        let room = line.backlog.room();
        let start = room.len();
        match rustix::io::read(&self.tap.stream, spare_capacity(room)) {
            Ok(0) => return lost("the server closed it".to_owned()),
            Ok(_) if self.tap.pipe.is_some() => {
                room.truncate(start);
                return lost("the server wrote past the pipe".to_owned());
            }
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return lost(error.to_string()),
        }
        line.filled();
        self.came_in();
        Ok(true)
    }

    fn came_in(&mut self) {
        if self.agent.mode() == Mode::Async && self.ending.is_none() {
            self.gather_until = Instant::now() + ASYNC_GATHER;
        }
    }

    fn connect_if_due(&mut self, now: Instant, line: &mut Line) {
        let Log::Down { retry } = &line.log else { return };
        if now < *retry {
            return;
        }
        match LogLink::open(&self.agent.shared) {
            Ok(link) => {
                line.connected(link);
                self.agent.shared.set_link(Link::Up);
            }
            Err(why) => {
                self.agent.shared.try_again_after(&why);
                line.disconnected();
            }
        }
    }

    fn link_failed(&mut self, error: LinkError, line: &mut Line) -> Result<(), Ended> {
        match error {
            LinkError::Ended(ended) => Err(ended),
            LinkError::Lost(why) => {
                if self.agent.shared.set_last_error(&why) {
                    log_warning(format!("durability: {why}; {} bytes wait", line.backlog.pending_bytes()));
                }
                self.agent.shared.set_link(Link::Down);
                self.agent.shared.log_reconnects.fetch_add(1, Ordering::Relaxed);
                line.disconnected();
                Ok(())
            }
        }
    }

    fn serve_link(&mut self, has_replies: bool, line: &mut Line) -> Result<(), LinkError> {
        let Log::Up(link) = &mut line.log else { return Ok(()) };
        if has_replies && link.read_replies(&mut line.backlog)? {
            // First, as who is answered by what is published may ask for it.
            if !self.agent.shared.last_error().is_empty() {
                log_notice(format!("durability: the log acknowledges again, at offset {}", line.backlog.durable()));
                self.agent.shared.set_last_error("");
            }
            self.agent.publish(&line.backlog);
        }
        let (owed_for, is_handshaking) = (link.owed_for(), link.is_handshaking());
        line.send()?;
        if owed_for > STALL_TIMEOUT {
            let seconds = STALL_TIMEOUT.as_secs();
            let what = if is_handshaking { "not finished the TLS handshake" } else { "acknowledged nothing" };
            return Err(LinkError::Lost(format!("the log service has {what} for {seconds} s")));
        }
        Ok(())
    }

    fn is_to_look(&self, line: &Line) -> bool {
        line.ack_wanted_for > self.looked_for || self.was_shutting_down
    }

    /// Tells the server how far the log is, as a replica does that holds nothing in memory: WAIT counts replicas as ever, and
    /// WAITAOF as well unless the log is to count there. When the server shuts down it waits for what replicas hold, and the
    /// log counts.
    fn acknowledge(&mut self, line: &mut Line) -> std::io::Result<()> {
        if self.is_tap_gone {
            return Ok(());
        }
        let now = Instant::now();
        if self.is_to_look(line) && now >= self.next_look {
            self.next_look = now + SHUTDOWN_LOOK_INTERVAL;
            self.looked_for = line.ack_wanted_for;
            self.agent.shared.send(Task::LookForShutdown);
        }
        let is_shutting_down = self.agent.shared.is_shutting_down.load(Ordering::Relaxed);
        // Nothing is durable while the log lacks what was written past the stream. A server that shuts down does not wait for that.
        let lacks_something = self.agent.shared.must_seed() && !is_shutting_down;
        let durable = if lacks_something { self.told } else { line.backlog.durable() };
        let is_wanted = is_shutting_down || self.told < line.ack_wanted_for;
        let is_news = durable > self.told || is_shutting_down != self.was_shutting_down;
        if !(is_wanted && is_news) && now < self.next_ack {
            return Ok(());
        }
        self.told = durable;
        self.was_shutting_down = is_shutting_down;
        self.next_ack = now + ACK_INTERVAL;
        let (durable, nothing) = (durable.to_string(), "0".to_owned());
        let in_memory = if is_shutting_down { &durable } else { &nothing };
        let on_disk = if settings::COUNT_IN_WAITAOF.load(Ordering::Relaxed) { &durable } else { &nothing };
        let bytes = encode(&["REPLCONF", "ACK", in_memory, "FACK", on_disk]);
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

/// Sleeps until one of the sockets has what is waited for, at most `timeout`. Returns which have.
fn poll_all<const N: usize>(mut sockets: [PollFd<'_>; N], timeout: &Timespec) -> Result<[bool; N], Errno> {
    match poll(&mut sockets, Some(timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(sockets.map(|socket| !socket.revents().is_empty())),
        Err(error) => Err(error),
    }
}
