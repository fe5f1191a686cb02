//! The line to the log: what was tapped and is not acknowledged, and the connection on which it goes.
//!
//! The agent works on it. While the agent sleeps, the thread that writes the stream sends little things itself: to wake the
//! agent for each would cost every held reply a change of threads. It never waits: what it cannot do at once it leaves to
//! the agent.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use memchr::memmem;

use crate::agent::{BACKOFF_FROM, BACKOFF_TO};
use crate::decide::unacked::Backlog;
use crate::log::append_link::{LinkError, LogLink};
use crate::settings;

/// More than this at once is sent by the agent: copying it into a socket would keep the server's main thread from clients.
const MOST_DIRECT_BYTES: usize = 16 << 10;
/// The server asks for an acknowledgement, in the stream.
const GETACK: &[u8] = b"REPLCONF\r\n$6\r\nGETACK\r\n";

/// The connection.
pub enum Log {
    /// It is there.
    Up(LogLink),
    /// It is to be made anew.
    Down {
        /// When.
        retry: Instant,
    },
}

/// See the module's documentation.
pub struct Line {
    /// What was tapped and is not acknowledged.
    pub backlog: Backlog,
    /// The connection.
    pub log: Log,
    /// How long to wait when the connection fails next.
    wait: Duration,
    /// The server waits for an acknowledgement of everything up to this offset.
    pub ack_wanted_for: u64,
    /// Whether the thread that writes the stream may send: replies wait for the log.
    pub may_send_directly: bool,
    /// What went wrong when it did, for the agent to deal with.
    trouble: Option<LinkError>,
    epoch: u64,
    shard: String,
}

/// A line that two threads work on.
pub type SharedLine = Mutex<Line>;

/// Takes the line, or waits for it. Agent.
pub fn lock(line: &SharedLine) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Line {
    /// Not connected; to be connected now.
    pub fn new(epoch: u64, backlog: Backlog) -> Self {
        Line {
            // The server may have asked while there was no line.
            ack_wanted_for: backlog.end(),
            backlog,
            log: Log::Down { retry: Instant::now() },
            wait: BACKOFF_FROM,
            may_send_directly: false,
            trouble: None,
            epoch,
            shard: settings::SHARD.value(),
        }
    }

    /// The connection is a new one: everything that is not acknowledged is sent on it.
    pub fn connected(&mut self, link: LogLink) {
        self.backlog.rewind();
        self.trouble = None;
        self.log = Log::Up(link);
    }

    /// The connection failed, or could not be made. A log that has answered the login on it is back soon, as a rule; one that
    /// has not (its certificate has expired, it does not take the token) is asked ever more rarely.
    pub fn disconnected(&mut self) {
        if matches!(&self.log, Log::Up(link) if link.is_logged_in()) {
            self.wait = BACKOFF_FROM;
        }
        self.log = Log::Down { retry: Instant::now() + self.wait };
        self.wait = (self.wait * 2).min(BACKOFF_TO);
    }

    /// Adds what was tapped. Returns whether the server asks for an acknowledgement in it.
    pub fn tapped(&mut self, bytes: &[u8]) -> bool {
        self.backlog.append(bytes);
        let asks = asks_for_ack(bytes);
        self.note_question(asks);
        asks
    }

    /// Bytes were read into the backlog's own memory.
    pub fn filled(&mut self) {
        let asks = asks_for_ack(self.backlog.filled());
        self.note_question(asks);
    }

    fn note_question(&mut self, asks: bool) {
        if asks {
            self.ack_wanted_for = self.backlog.end();
        }
    }

    /// Sends as much as window and socket take, and says what went wrong, here or when the other thread sent.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn send(&mut self) -> Result<(), LinkError> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        match &mut self.log {
            Log::Up(link) => link.send(&self.shard, self.epoch, &mut self.backlog),
            Log::Down { .. } => Ok(()),
        }
    }

    /// Takes `tapped`, and leaves it empty, if this thread may send it instead of the agent. Returns whether the agent has
    /// nothing to do because of it.
    pub fn send_directly(&mut self, tapped: &mut Vec<u8>) -> bool {
        if !self.may_send_directly || tapped.len() > MOST_DIRECT_BYTES || self.trouble.is_some() {
            return false;
        }
        // What came before has to go before.
        if !self.is_ready() {
            return false;
        }
        let asks = self.tapped(tapped);
        tapped.clear();
        if let Err(error) = self.send() {
            self.trouble = Some(error);
            return false;
        }
        // The agent acknowledges to the server, and waits for the socket to take the rest.
        !asks && self.is_ready()
    }

    /// Whether all that there was to send is in the socket, and more can be sent.
    fn is_ready(&self) -> bool {
        matches!(&self.log, Log::Up(link) if link.is_ready(&self.backlog))
    }
}

/// Whether the server asks, in these bytes of the stream, how far its replicas are. A value may look the same; the
/// answer then is one too many. One that is cut in two is answered within a second all the same.
fn asks_for_ack(bytes: &[u8]) -> bool {
    memmem::find(bytes, GETACK).is_some()
}
