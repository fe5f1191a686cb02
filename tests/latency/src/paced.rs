//! An open load on several connections: requests are sent when they are due, whatever was answered, until it is told to
//! end. What they are and what their answers mean is told from outside.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::client::Client;
use crate::process::Punctual;
use crate::processes::Server;
use crate::resp::{self, Reply};
use crate::Result;

/// Once all is sent, the last replies may take so long.
const LAST_REPLIES: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;

/// How much is sent when.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// They are asked in turn.
    pub connections: usize,
    /// Requests are sent in bundles, one for each tick.
    pub tick: Duration,
    /// Requests of a bundle.
    pub per_tick: usize,
}

impl Pace {
    fn due(&self, request: usize) -> Duration {
        self.tick * (request / self.per_tick) as u32
    }
}

/// When a request was where, counted from the load's start.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// When it was to be sent.
    pub due: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When its reply came.
    pub answered: Duration,
}

impl Course {
    /// What a client sees that wanted to send it when it was due.
    pub fn latency(&self) -> Duration {
        self.answered.saturating_sub(self.due)
    }

    /// What the load generator adds to that.
    pub fn lateness(&self) -> Duration {
        self.sent.saturating_sub(self.due)
    }
}

/// Requests, and what their answers mean.
pub trait Load {
    /// Adds the next request of that connection to `to`.
    fn ask(&mut self, connection: usize, to: &mut Vec<u8>);

    /// Hears the reply to the oldest request of that connection that has none.
    ///
    /// # Errors
    /// The load ends.
    fn answered(&mut self, connection: usize, course: Course, reply: Reply<'_>) -> Result<()>;
}

/// Offers `load` to `server` from `start` until `is_over`, and returns when everything is answered.
pub fn run(server: &Server, pace: Pace, load: &mut impl Load, start: Instant, is_over: &AtomicBool) -> Result<()> {
    let connections = (0..pace.connections).map(|_| Connection::open(server));
    let connections: Vec<_> = connections.collect::<Result<_>>()?;
    let _punctual = Punctual::new()?;
    let mut paced = Paced { connections, pace, load, start, asked: 0 };
    while !is_over.load(Ordering::Relaxed) {
        paced.ask_due()?;
        paced.hear(pace.due(paced.asked).saturating_sub(start.elapsed()))?;
    }
    let end = start.elapsed() + LAST_REPLIES;
    while paced.connections.iter().any(|connection| !connection.waiting.is_empty()) {
        if start.elapsed() > end {
            return Err("not everything was answered".into());
        }
        paced.flush()?;
        paced.hear(pace.tick)?;
    }
    Ok(())
}

struct Connection {
    client: Client,
    /// Encoded, and not in the socket yet.
    outgoing: Vec<u8>,
    /// When each request that has no reply was due and sent.
    waiting: VecDeque<(Duration, Duration)>,
    /// Came, and is no whole reply yet.
    incoming: Vec<u8>,
}

impl Connection {
    fn open(server: &Server) -> Result<Self> {
        let client = server.connect()?;
        client.socket.set_nonblocking(true)?;
        Ok(Connection { client, outgoing: Vec::new(), waiting: VecDeque::new(), incoming: Vec::new() })
    }

    /// What the socket does not take is tried again with the next tick.
    fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            match self.client.socket.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

struct Paced<'a, L> {
    connections: Vec<Connection>,
    pace: Pace,
    load: &'a mut L,
    start: Instant,
    asked: usize,
}

impl<L: Load> Paced<'_, L> {
    fn ask_due(&mut self) -> Result<()> {
        let now = self.start.elapsed();
        while self.pace.due(self.asked) <= now {
            let index = self.asked % self.connections.len();
            let connection = &mut self.connections[index];
            self.load.ask(index, &mut connection.outgoing);
            connection.waiting.push_back((self.pace.due(self.asked), now));
            self.asked += 1;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.connections.iter_mut().try_for_each(Connection::flush)
    }

    /// Takes the replies that are there, or else those that come within `time`.
    fn hear(&mut self, time: Duration) -> Result<()> {
        let mut sockets: Vec<_> =
            self.connections.iter().map(|connection| PollFd::new(&connection.client.socket, PollFlags::IN)).collect();
        poll(&mut sockets, Some(&Timespec::try_from(time)?))?;
        let ready: Vec<_> = sockets.iter().map(|socket| !socket.revents().is_empty()).collect();
        for (index, _) in ready.iter().enumerate().filter(|(_, is_ready)| **is_ready) {
            self.read(index)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let mut bytes = [0; READ_BYTES];
        match connection.client.socket.read(&mut bytes) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => connection.incoming.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let answered = self.start.elapsed();
        let mut taken = 0;
        while let Some((reply, length)) = resp::take(&connection.incoming[taken..])? {
            let (due, sent) = connection.waiting.pop_front().ok_or("a reply that nothing asked for")?;
            self.load.answered(index, Course { due, sent, answered }, reply)?;
            taken += length;
        }
        connection.incoming.drain(..taken);
        Ok(())
    }
}
