//! The uplink: what was tapped and is not acknowledged, and the connection to the log on which it goes out.
//!
//! The agent works on it. While the agent sleeps, the thread that writes the stream sends small amounts itself: waking the agent for each
//! would cost every held reply a change of threads. That thread never waits. What it cannot do at once, it leaves to the agent.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use memchr::memmem;

use crate::agent::retry::retry_waits;
use crate::agent::stream_check::StreamCheck;
use crate::base::backoff::Backoff;
use crate::decide::unacked::Backlog;
use crate::exchange::pipe::SendNow;
use crate::log::append_link::{AppendLink, LinkError};
use crate::log::services::Services;
use crate::settings;

/// Larger amounts are sent by the agent: copying them into a socket would keep the server's main thread from its clients.
const MOST_DIRECT_BYTES: usize = 16 << 10;
/// The longest wait before all of several services are tried again.
const RETRY_TO_AMONG_SEVERAL: Duration = Duration::from_millis(500);
/// How the server asks for an acknowledgement, in the stream.
const GETACK: &[u8] = b"REPLCONF\r\n$6\r\nGETACK\r\n";

/// The connection to the log.
pub enum UplinkState {
    /// It is open.
    Up(AppendLink),
    /// It is to be opened again.
    Down {
        /// When.
        retry: Instant,
    },
}

/// See the module's documentation.
pub struct Uplink {
    /// What was tapped and is not acknowledged.
    pub backlog: Backlog,
    /// Decides how much of what is tapped goes into the backlog.
    pub check: StreamCheck,
    /// The connection.
    pub connection: UplinkState,
    /// The waits after failures of the connection.
    waits: Backoff,
    /// As of [`Services::confirmations`], when a connection was last tried or accepted.
    confirmations: u64,
    /// The server waits for an acknowledgement of everything up to this offset (exclusive).
    pub ack_wanted_for: u64,
    /// Whether the thread that writes the stream may send: replies wait for the log.
    pub may_send_directly: bool,
    /// What went wrong when that thread sent. The agent deals with it.
    trouble: Option<LinkError>,
    epoch: u64,
    shard: String,
}

/// An uplink that two threads work on.
pub type SharedUplink = Mutex<Uplink>;

impl Uplink {
    /// Not connected; to be connected now.
    pub fn new(epoch: u64, backlog: Backlog, check: StreamCheck) -> Self {
        Uplink {
            // The server may have asked while there was no uplink.
            ack_wanted_for: backlog.end(),
            backlog,
            check,
            connection: UplinkState::Down { retry: Instant::now() },
            waits: retry_waits(),
            confirmations: 0,
            may_send_directly: false,
            trouble: None,
            epoch,
            shard: settings::SHARD.value(),
        }
    }

    /// Whether a connection is to be opened now: it is time to, or another thread has found the service that decides. Agent.
    pub fn is_due(&mut self, now: Instant, confirmations: u64) -> bool {
        let has_news = std::mem::replace(&mut self.confirmations, confirmations) != confirmations;
        matches!(self.connection, UplinkState::Down { retry } if retry <= now || has_news)
    }

    /// The connection was accepted, which is no news to this uplink. Agent.
    pub fn accepted(&mut self, confirmations: u64) {
        self.confirmations = confirmations;
    }

    /// The connection is a new one: everything that is not acknowledged is sent on it. Agent.
    pub fn connected(&mut self, link: AppendLink) {
        self.backlog.rewind();
        self.trouble = None;
        self.connection = UplinkState::Up(link);
    }

    /// The connection failed, or could not be opened. A log that has accepted the login on it usually is back soon. A log that has not,
    /// because its certificate has expired or it refuses the token, is tried ever more rarely. Of several services, another one is tried at
    /// once, or all of them again soon: one may decide by then. Agent.
    pub fn disconnected(&mut self, services: &Services, has_next: bool) {
        if matches!(&self.connection, UplinkState::Up(link) if link.is_logged_in()) {
            self.waits.reset();
        }
        let wait = match (has_next, services.are_several()) {
            (true, _) => Duration::ZERO,
            (false, true) => self.waits.next().min(RETRY_TO_AMONG_SEVERAL),
            (false, false) => self.waits.next(),
        };
        self.connection = UplinkState::Down { retry: Instant::now() + wait };
    }

    /// Adds what was tapped, as far as the log may have it. Returns whether the server asks for an acknowledgement in it.
    pub fn tapped(&mut self, bytes: &[u8]) -> bool {
        let fit = self.check.fit(self.backlog.end(), bytes);
        self.backlog.append(&bytes[..fit]);
        let asks = asks_for_ack(bytes);
        self.note_question(asks);
        asks
    }

    /// Bytes were read into the backlog's own memory. Agent.
    pub fn filled(&mut self) {
        let from = self.backlog.end();
        let bytes = self.backlog.filled();
        let (asks, fit) = (asks_for_ack(bytes), self.check.fit(from, bytes));
        if fit < bytes.len() {
            self.backlog.cut(from + fit as u64);
        }
        self.note_question(asks);
    }

    fn note_question(&mut self, asks: bool) {
        if asks {
            self.ack_wanted_for = self.backlog.end();
        }
    }

    /// Sends as much as window and socket take.
    ///
    /// # Errors
    /// The connection is of no more use, since now or since the other thread sent.
    pub fn send(&mut self) -> Result<(), LinkError> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        match &mut self.connection {
            UplinkState::Up(link) => link.send(&self.shard, self.epoch, &mut self.backlog),
            UplinkState::Down { .. } => Ok(()),
        }
    }

    /// See [`SendNow::send_now`].
    fn send_directly(&mut self, tapped: &mut Vec<u8>) -> bool {
        if !self.may_send_directly || tapped.len() > MOST_DIRECT_BYTES || self.trouble.is_some() {
            return false;
        }
        // Earlier bytes go first.
        if !self.is_ready() {
            return false;
        }
        let asks = self.tapped(tapped);
        tapped.clear();
        if let Err(error) = self.send() {
            self.trouble = Some(error);
            return false;
        }
        // The agent acknowledges to the server, and waits until the socket takes the rest.
        !asks && !self.check.has_found() && self.is_ready()
    }

    /// Whether the socket has taken everything there was to send, and more can be sent.
    fn is_ready(&self) -> bool {
        matches!(&self.connection, UplinkState::Up(link) if link.is_ready(&self.backlog))
    }
}

impl SendNow for SharedUplink {
    fn send_now(&self, bytes: &mut Vec<u8>) -> bool {
        // An agent that holds the uplink is awake.
        self.try_lock().is_ok_and(|mut uplink| uplink.send_directly(bytes))
    }
}

/// Whether the server asks, in these bytes of the stream, how far its replicas are. A value that looks the same costs one answer too many.
/// A question that is cut in two is answered within a second all the same.
fn asks_for_ack(bytes: &[u8]) -> bool {
    memmem::find(bytes, GETACK).is_some()
}
