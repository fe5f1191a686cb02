//! The shipper: takes bytes from the tap, appends them to the log with many appends in flight, and takes the
//! acknowledgements. One loop on the agent's thread waits for all of it, so no byte changes hands between threads.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::buffer::spare_capacity;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::{Agent, Interrupt, BACKOFF_FROM, BACKOFF_TO};
use crate::backlog::Backlog;
use crate::config::{self, Mode};
use crate::log_connection::encode;
use crate::log_link::{LinkError, LogLink};
use crate::shared::{Link, Task};
use crate::tap::Tap;

/// The server is told how far the log is this often.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// While the server asks how far its replicas are, it is looked this often whether it does so to shut down.
const SHUTDOWN_LOOK_INTERVAL: Duration = Duration::from_millis(50);
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
    /// The node is to have no log any more; what was written before could be shipped, or time ran out.
    ModeChanged,
    /// The module ends; what could be shipped is shipped.
    Stop,
}

enum Log {
    Up(LogLink),
    Down { retry: Instant, wait: Duration },
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
    next_look: Instant,
    was_shutting_down: bool,
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
        next_look: now,
        was_shutting_down: false,
        gather_until: now,
        ending: None,
    };
    // Commands may have come while nobody listened to the bell.
    let mut turned = shipper.obey();
    loop {
        if let Err(ended) = turned {
            // What came through the pipe before the connection ended belongs to the stream.
            shipper.read_pipe();
            return match (ended, &shipper.ending) {
                // Nothing is left to be opened again for.
                (Ended::TapLost(_), Some(ending)) => ending.ended(),
                (ended, _) => ended,
            };
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
        if let Some(ending) = &self.ending {
            wake = wake.min(ending.at);
        }
        if let Log::Down { retry, .. } = &self.log {
            wake = wake.min(*retry);
        }
        let mut sockets = vec![PollFd::new(&self.agent.shared.agent_bell, PollFlags::IN)];
        // Beside a pipe, the socket only tells that the connection has ended.
        let tap_flags = if takes_more || pipe.is_some() { PollFlags::IN } else { PollFlags::empty() };
        sockets.push(PollFd::from_borrowed_fd(self.tap.stream.as_fd(), tap_flags));
        if let Log::Up(link) = &self.log {
            let writes = link.wants_to_send(self.backlog);
            let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            sockets.push(PollFd::new(link, flags));
        }
        let timeout = Timespec::try_from(wake.saturating_duration_since(now)).map_err(|error| error.to_string())?;
        match poll(&mut sockets, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        let has = |index: usize| sockets.get(index).is_some_and(|socket| !socket.revents().is_empty());
        Ok((has(0), has(1), has(2)))
    }

    fn obey(&mut self) -> Result<(), Ended> {
        match self.agent.look_at_commands() {
            Ok(()) | Err(Interrupt::Failed(_) | Interrupt::Hopeless(_)) => Ok(()),
            Err(Interrupt::ModeChanged) => {
                let until = self.agent.shared.leave_offset.load(Ordering::Acquire);
                self.ending.get_or_insert(Ending { at: Instant::now() + STOP_TIMEOUT, until: Some(until) });
                Ok(())
            }
            Err(Interrupt::Stop) => {
                self.ending = Some(Ending { at: Instant::now() + STOP_TIMEOUT, until: None });
                Ok(())
            }
        }
    }

    fn check_stop(&self) -> Result<(), Ended> {
        let Some(ending) = &self.ending else { return Ok(()) };
        let is_done = match ending.until {
            Some(offset) => self.backlog.durable() >= offset,
            None => self.backlog.pending_bytes() == 0,
        };
        if is_done || Instant::now() >= ending.at {
            return Err(ending.ended());
        }
        Ok(())
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
        if self.agent.mode() == Mode::Async && self.ending.is_none() {
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
                self.agent.shared.try_again_after(&why);
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
        if link.owed_for() > STALL_TIMEOUT {
            let seconds = STALL_TIMEOUT.as_secs();
            return Err(LinkError::Lost(format!("the log service has acknowledged nothing for {seconds} s")));
        }
        Ok(())
    }

    /// Tells the server how far the log is, as a replica does that holds nothing in memory: WAIT counts replicas as ever, and
    /// WAITAOF as well unless the log is to count there. When the server shuts down it waits for what replicas hold, and the
    /// log counts.
    fn acknowledge(&mut self, before: u64) -> std::io::Result<()> {
        let durable = self.backlog.durable();
        let now = Instant::now();
        if self.is_ack_wanted && now >= self.next_look {
            self.next_look = now + SHUTDOWN_LOOK_INTERVAL;
            self.agent.shared.send(Task::LookForShutdown);
        }
        let is_shutting_down = self.agent.shared.is_shutting_down.load(Ordering::Relaxed);
        let is_news = durable > before || is_shutting_down != self.was_shutting_down;
        if !(self.is_ack_wanted && is_news) && now < self.next_ack {
            return Ok(());
        }
        self.was_shutting_down = is_shutting_down;
        self.next_ack = now + ACK_INTERVAL;
        if durable == self.backlog.end() {
            self.is_ack_wanted = is_shutting_down;
        }
        let (durable, nothing) = (durable.to_string(), "0".to_owned());
        let in_memory = if is_shutting_down { &durable } else { &nothing };
        let on_disk = if config::COUNT_IN_WAITAOF.load(Ordering::Relaxed) { &durable } else { &nothing };
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

/// Whether the server asks, in these bytes of the stream, how far its replicas are. A value may look the same; the
/// answer then is one too many. One that is cut in two is answered within a second all the same.
fn asks_for_ack(bytes: &[u8]) -> bool {
    memmem::find(bytes, GETACK).is_some()
}
