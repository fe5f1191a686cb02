//! The shipper: takes bytes from the tap, appends them to the log with many appends in flight, and takes the acknowledgements. One loop on
//! the agent's thread waits for all of it, so bytes change threads at most once.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use valkey_module::logging::{log_notice, log_warning};

use crate::agent::interrupt::Interrupt;
use crate::agent::server_acks::ServerAcks;
use crate::agent::state::Agent;
use crate::agent::stream_check::StreamCheck;
use crate::agent::tap::Tap;
use crate::agent::uplink::{SharedUplink, Uplink, UplinkState};
use crate::base::locks::lock;
use crate::decide::service_choice::Failure;
use crate::decide::unacked::Backlog;
use crate::exchange::mailbox::Task;
use crate::exchange::pipe::SendNow;
use crate::log::append_link::{AppendLink, LinkError};
use crate::settings::{self, Mode};

/// A log that owes acknowledgements and sends none for this long is connected to again.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// In async mode no client waits for the log, so bytes accumulate for this long before they are read.
const ASYNC_GATHER: Duration = Duration::from_millis(2);
/// At the end, shipping stops this long before the node has to have ended: it still has to give its lease back.
const RELEASE_TIME: Duration = Duration::from_millis(800);

/// Why shipping ended.
pub enum Ended {
    /// The connection to the server is gone. What was read from it is in the backlog.
    TapLost(String),
    /// Something else is to be done first.
    Interrupted(Interrupt),
}

impl From<Interrupt> for Ended {
    fn from(interrupt: Interrupt) -> Self {
        Ended::Interrupted(interrupt)
    }
}

struct Shipper<'a> {
    agent: &'a mut Agent,
    tap: &'a Tap,
    /// Memory that is swapped with the pipe's.
    taken: Vec<u8>,
    uplink: Arc<SharedUplink>,
    acks: ServerAcks,
    /// Whether the tap's connection ended while shipping was to end anyway.
    is_tap_gone: bool,
    /// In async mode: until then bytes accumulate in the socket.
    gather_until: Instant,
    ending: Option<Ending>,
}

/// Shipping is to end soon.
struct Ending {
    /// The latest moment.
    at: Instant,
    /// If the mode changed: as soon as everything up to this offset (exclusive) is durable, and whatever was
    /// sent with it. `None`: the module ends.
    until: Option<u64>,
}

impl Ending {
    fn ended(&self) -> Ended {
        Ended::Interrupted(match self.until {
            Some(_) => Interrupt::ModeChanged,
            None => Interrupt::Stop,
        })
    }
}

/// What woke the loop.
struct Woken {
    by_waker: bool,
    by_tap: bool,
    by_log: bool,
}

/// Ships from `tap` to the log until something ends it. `backlog` ends where the tap goes on, and `check` has seen what is in it. Agent's
/// thread.
pub fn ship(agent: &mut Agent, epoch: u64, tap: &mut Tap, backlog: &mut Backlog, check: &mut StreamCheck) -> Ended {
    if let Err(error) = tap.stream.set_nonblocking(true) {
        return Ended::TapLost(error.to_string());
    }
    let now = Instant::now();
    // The uplink takes the backlog. An empty one that is left behind cannot be mistaken for it.
    let whole = std::mem::replace(backlog, Backlog::new(0));
    check.tap_opened();
    let mut uplink = Uplink::new(epoch, whole, std::mem::take(check));
    uplink.tapped(&std::mem::take(&mut tap.first));
    let uplink = Arc::new(SharedUplink::new(uplink));
    let mut shipper = Shipper {
        agent,
        tap,
        taken: Vec::new(),
        uplink: Arc::clone(&uplink),
        acks: ServerAcks::new(now),
        is_tap_gone: false,
        gather_until: now,
        ending: None,
    };
    let ended = shipper.run();
    let mut uplink = lock(&uplink);
    *backlog = std::mem::replace(&mut uplink.backlog, Backlog::new(0));
    *check = std::mem::take(&mut uplink.check);
    drop(uplink);
    ended
}

impl Shipper<'_> {
    fn run(&mut self) -> Ended {
        if let Some(pipe) = &self.tap.pipe {
            pipe.connect(Some(Arc::clone(&self.uplink) as Arc<dyn SendNow>));
        }
        // Commands may have arrived while nothing watched the waker.
        let mut turned = self.read_mailbox();
        let ended = loop {
            match turned {
                Ok(()) => turned = self.turn(),
                Err(ended) => break ended,
            }
        };
        if let Some(pipe) = &self.tap.pipe {
            pipe.connect(None);
            // What came through the pipe before the connection ended belongs to the stream.
            let uplink = Arc::clone(&self.uplink);
            self.read_pipe(&mut lock(&uplink));
        }
        match (ended, &self.ending) {
            // The tap need not be opened again.
            (Ended::TapLost(_), Some(ending)) => ending.ended(),
            (ended, _) => ended,
        }
    }

    /// Waits until something can be done, and does it.
    fn turn(&mut self) -> Result<(), Ended> {
        if self.ending.is_none() && self.agent.is_snapshot_due() {
            return Err(Ended::TapLost("something was written that is not in the stream".to_owned()));
        }
        let now = Instant::now();
        let shared_uplink = Arc::clone(&self.uplink);
        let mut uplink = lock(&shared_uplink);
        self.connect_if_due(now, &mut uplink);
        let has_room = uplink.backlog.pending_bytes() < settings::MAX_PENDING_BYTES.value();
        let takes_more = has_room && self.gather_until <= now && self.wants_more(&uplink);
        uplink.may_send_directly = takes_more && self.agent.control.mode() == Mode::Sync && self.ending.is_none();
        let woken = self.wait(now, takes_more, uplink).map_err(Ended::TapLost)?;
        let mut uplink = lock(&shared_uplink);
        if woken.by_waker {
            self.agent.shared.agent_waker.clear();
            self.read_mailbox()?;
        }
        self.take_stream(&woken, takes_more, &mut uplink)?;
        if let Some(command) = uplink.check.take_found() {
            self.agent.shared.send(Task::FoundUnfit(command));
        }
        if let Err(error) = self.serve_link(woken.by_log, &mut uplink) {
            self.link_failed(error, &mut uplink)?;
        }
        self.acknowledge(&uplink)?;
        self.check_end(&uplink)
    }

    /// Releases the uplink and sleeps.
    fn wait(&self, now: Instant, takes_more: bool, uplink: MutexGuard<'_, Uplink>) -> Result<Woken, String> {
        let mut wake = self.acks.next(&uplink);
        let pipe = self.tap.pipe.as_deref();
        if self.gather_until > now {
            wake = wake.min(self.gather_until);
        }
        if let Some(ending) = &self.ending {
            wake = wake.min(ending.at);
        }
        let mut socket = None;
        let mut log_flags = PollFlags::IN;
        match &uplink.connection {
            UplinkState::Down { retry } => wake = wake.min(*retry),
            UplinkState::Up(link) => {
                if link.wants_to_send(&uplink.backlog) {
                    log_flags |= PollFlags::OUT;
                }
                if !link.is_logged_in() {
                    wake = wake.min(now + self.stall_time(false));
                }
                socket = Some(link.socket());
            }
        }
        drop(uplink);
        if takes_more && pipe.is_some_and(|pipe| !pipe.await_push()) {
            wake = now;
        }
        // With a pipe, the socket only shows that the connection has ended.
        let tap_flags = if takes_more || pipe.is_some() { PollFlags::IN } else { PollFlags::empty() };
        let agent_waker = &self.agent.shared.agent_waker;
        let waker = PollFd::new(agent_waker, PollFlags::IN);
        let tap = match self.is_tap_gone {
            true => PollFd::new(agent_waker, PollFlags::empty()),
            false => PollFd::from_borrowed_fd(self.tap.stream.as_fd(), tap_flags),
        };
        let timeout = Timespec::try_from(wake.saturating_duration_since(now)).map_err(|error| error.to_string())?;
        let polled = match &socket {
            Some(socket) => poll_all([waker, tap, PollFd::new(socket, log_flags)], &timeout),
            None => poll_all([waker, tap], &timeout).map(|[waker, tap]| [waker, tap, false]),
        };
        let [by_waker, by_tap, by_log] = polled.map_err(|error| error.to_string())?;
        Ok(Woken { by_waker, by_tap, by_log })
    }

    fn read_mailbox(&mut self) -> Result<(), Ended> {
        match self.agent.control.read_mailbox() {
            // A node that passed over something never ships.
            Ok(())
            | Err(Interrupt::Failed(_) | Interrupt::Hopeless(_) | Interrupt::PassedOver(_) | Interrupt::CopyFailed) => {
                Ok(())
            }
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
            Err(interrupt) => Err(interrupt.into()),
        }
    }

    fn ending_at(&self) -> Instant {
        let now = Instant::now();
        // The main thread has set the end before it sent the command.
        self.agent.shared.end.get().and_then(|end| end.checked_sub(RELEASE_TIME)).unwrap_or(now)
    }

    fn check_end(&self, uplink: &Uplink) -> Result<(), Ended> {
        let Some(ending) = &self.ending else { return Ok(()) };
        let is_done = match ending.until {
            // What is still on its way would move the log's end after the lease is given back, when this node may be asking for it again.
            Some(offset) => uplink.backlog.durable() >= offset && uplink.backlog.pending_bytes() == 0,
            None => uplink.backlog.pending_bytes() == 0,
        };
        if is_done || Instant::now() >= ending.at {
            return Err(ending.ended());
        }
        Ok(())
    }

    /// Whether what the server writes is still to be shipped: after a change of the mode, only up to the offset at which that was.
    fn wants_more(&self, uplink: &Uplink) -> bool {
        self.ending.as_ref().and_then(|ending| ending.until).is_none_or(|until| uplink.backlog.end() < until)
    }

    /// Takes what the server has written. At the end, everything that was written before belongs to it.
    fn take_stream(&mut self, woken: &Woken, takes_more: bool, uplink: &mut Uplink) -> Result<(), Ended> {
        let is_ending = self.ending.is_some();
        if takes_more || is_ending && self.wants_more(uplink) {
            self.read_pipe(uplink);
        }
        let mut has_more = woken.by_tap || is_ending && self.tap.pipe.is_none() && self.wants_more(uplink);
        while has_more && !self.is_tap_gone {
            has_more = match self.read_tap(uplink) {
                Ok(has_more) => has_more && is_ending && self.wants_more(uplink),
                // What was read is shipped all the same.
                Err(Ended::TapLost(_)) if is_ending => {
                    self.is_tap_gone = true;
                    false
                }
                Err(ended) => return Err(ended),
            }
        }
        Ok(())
    }

    /// Takes what waits in the pipe, if there is one.
    fn read_pipe(&mut self, uplink: &mut Uplink) {
        let Some(pipe) = &self.tap.pipe else { return };
        pipe.take(&mut self.taken);
        if self.taken.is_empty() {
            return;
        }
        uplink.tapped(&self.taken);
        self.taken.clear();
        self.gather();
    }

    /// Takes what the tap's socket has, one block at most. Returns whether that was anything.
    fn read_tap(&mut self, uplink: &mut Uplink) -> Result<bool, Ended> {
        let lost = |why: String| Err(Ended::TapLost(why));
        let room = uplink.backlog.room();
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
        uplink.filled();
        self.gather();
        Ok(true)
    }

    /// Something was read. In async mode, the next bytes accumulate before they are read.
    fn gather(&mut self) {
        if self.agent.control.mode() == Mode::Async && self.ending.is_none() {
            self.gather_until = Instant::now() + ASYNC_GATHER;
        }
    }

    fn connect_if_due(&mut self, now: Instant, uplink: &mut Uplink) {
        let services = &self.agent.shared.services;
        if !uplink.is_due(now, services.confirmations()) {
            return;
        }
        match AppendLink::open(&*self.agent.shared) {
            Ok(link) => {
                uplink.connected(link);
                self.agent.shared.link.connected();
            }
            Err(why) => {
                self.agent.shared.try_again_after(&why);
                uplink.disconnected(services, services.has_next());
            }
        }
    }

    fn link_failed(&mut self, error: LinkError, uplink: &mut Uplink) -> Result<(), Ended> {
        let shared = Arc::clone(&self.agent.shared);
        let UplinkState::Up(link) = &uplink.connection else { return Ok(()) };
        let service = Arc::clone(link.service());
        let (why, failure) = match error {
            LinkError::Io(error) => (format!("the connection to {service} failed: {error}"), Some(Failure::Lost)),
            LinkError::Lost(why) => (why, Some(Failure::Lost)),
            LinkError::Silent(why) => (why, Some(Failure::Silent)),
            LinkError::Refused(refusal) => {
                (format!("{service} refuses: {refusal}"), shared.services.failure_of(&refusal))
            }
            LinkError::Fenced(detail) => return Err(Interrupt::Fenced(detail).into()),
            LinkError::Contradicted(contradiction) => return Err(Interrupt::Contradicted(contradiction).into()),
            LinkError::Broken(why) => return Err(Interrupt::Hopeless(why).into()),
        };
        if let Some(failure) = failure {
            shared.services.failed(&service, failure);
        }
        if shared.set_last_error(&why) {
            log_warning(format!("durability: {why}; {} bytes wait", uplink.backlog.pending_bytes()));
        }
        shared.link.lost();
        shared.log_reconnects.fetch_add(1, Ordering::Relaxed);
        // What it acknowledged before counts.
        self.agent.publish(&uplink.backlog);
        uplink.disconnected(&shared.services, failure.is_some() && shared.services.has_next());
        Ok(())
    }

    fn serve_link(&mut self, has_replies: bool, uplink: &mut Uplink) -> Result<(), LinkError> {
        let UplinkState::Up(link) = &mut uplink.connection else { return Ok(()) };
        let services = &self.agent.shared.services;
        let was_logged_in = link.is_logged_in();
        let is_news = has_replies && link.read_replies(&mut uplink.backlog)?;
        let (is_logged_in, service) = (link.is_logged_in(), Arc::clone(link.service()));
        if is_logged_in && !was_logged_in {
            services.decided(&service);
            self.agent.shared.link.answered(&service);
        }
        if is_news {
            // The error is cleared first: a client that is answered because of what is published may ask for it.
            if !self.agent.shared.last_error().is_empty() {
                log_notice(format!("durability: the log acknowledges again, at offset {}", uplink.backlog.durable()));
                self.agent.shared.set_last_error("");
            }
            self.agent.publish(&uplink.backlog);
        }
        let (owed_for, is_handshaking) = (link.owed_for(), link.is_handshaking());
        if is_logged_in && !was_logged_in {
            uplink.accepted(services.confirmations());
        }
        if services.is_out_of_use(&service) {
            return Err(LinkError::Lost(format!("{service} does not decide over the log any more")));
        }
        uplink.send()?;
        let stall_time = self.stall_time(is_logged_in);
        if owed_for > stall_time {
            let what = if is_handshaking { "not finished the TLS handshake" } else { "acknowledged nothing" };
            return Err(LinkError::Silent(format!("{service} has {what} for {} s", stall_time.as_secs_f32())));
        }
        Ok(())
    }

    /// How long the log may owe something. One of several services that does not even accept the login leaves time for another one.
    fn stall_time(&self, is_logged_in: bool) -> Duration {
        match is_logged_in || !self.agent.shared.services.are_several() {
            true => STALL_TIMEOUT,
            false => self.agent.shared.services.time_for_one(),
        }
    }

    fn acknowledge(&mut self, uplink: &Uplink) -> Result<(), Ended> {
        if self.is_tap_gone {
            return Ok(());
        }
        match self.acks.send(&self.agent.shared, self.tap, uplink) {
            Ok(()) => {}
            Err(_) if self.ending.is_some() => self.is_tap_gone = true,
            Err(error) => return Err(Ended::TapLost(error.to_string())),
        }
        Ok(())
    }
}

/// Sleeps until one of the sockets has what is waited for, at most `timeout`. Returns which have.
fn poll_all<const N: usize>(mut sockets: [PollFd<'_>; N], timeout: &Timespec) -> Result<[bool; N], Errno> {
    match poll(&mut sockets, Some(timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(sockets.map(|socket| !socket.revents().is_empty())),
        Err(error) => Err(error),
    }
}
