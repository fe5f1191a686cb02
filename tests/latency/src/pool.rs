//! A load on many connections, each with one request at a time.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::time::{timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use crate::client::Client;
use crate::load::{Kind, Latencies, Times, TICK};
use crate::plan::Plan;
use crate::process::Punctual;
use crate::processes::Server;
use crate::resp;
use crate::Result;

/// What is measured begins so long after the load.
const WARM_UP: Duration = Duration::from_millis(500);
/// Once all is sent, the last replies may take so long.
const LAST_REPLIES: Duration = Duration::from_secs(10);

/// Among the numbers of connections, stands for the timer.
const A_TICK: u64 = u64::MAX;

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Each connection sends its next request when it has a reply.
    Closed,
    /// So many a tick, each on a connection that is free; it waits for one if none is.
    PerTick(usize),
}

/// What was seen.
#[derive(Default)]
pub struct Measured {
    /// From the moment at which a request was due to its reply.
    pub latencies: Latencies,
    /// From the sending of a read to its reply: without its wait for a free connection.
    pub sent_reads: Times,
    /// Requests a second.
    pub rate: f64,
}

struct Connection {
    client: Client,
    buffer: Vec<u8>,
    filled: usize,
    request: Option<Request>,
}

/// A request that is under way.
struct Request {
    kind: Kind,
    due: Duration,
    sent: Duration,
}

/// Offers a load to `server` for `duration` after a warm-up.
pub fn run(server: &Server, connections: usize, pace: Pace, plan: &Plan, duration: Duration) -> Result<Measured> {
    let connections = (0..connections).map(|_| {
        let client = server.connect()?;
        client.socket.set_nonblocking(true)?;
        Ok(Connection { client, buffer: vec![0; 4096], filled: 0, request: None })
    });
    let connections: Vec<_> = connections.collect::<Result<_>>()?;
    let events = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, connection) in connections.iter().enumerate() {
        epoll::add(&events, &connection.client.socket, EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    let ticks = ticks()?;
    if let Pace::PerTick(_) = pace {
        epoll::add(&events, &ticks, EventData::new_u64(A_TICK), EventFlags::IN)?;
    }
    let free = (0..connections.len()).collect();
    let end = WARM_UP + duration;
    let _punctual = Punctual::new()?;
    let start = Instant::now();
    let mut pool = Pool {
        connections,
        free,
        events,
        ticks,
        sent: 0,
        plan,
        pace,
        start,
        latencies: Latencies::default(),
        sent_reads: Times::default(),
    };
    pool.run(end)?;
    let rate = pool.latencies.all().count() as f64 / duration.as_secs_f64();
    Ok(Measured { latencies: pool.latencies, sent_reads: pool.sent_reads, rate })
}

/// A timer that ends with every [`TICK`].
fn ticks() -> Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let tick = Timespec::try_from(TICK)?;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: tick, it_value: tick })?;
    Ok(timer)
}

struct Pool<'a> {
    connections: Vec<Connection>,
    /// Numbers of those that wait for nothing.
    free: Vec<usize>,
    /// Tells of connections that have something to be read, and of ticks.
    events: OwnedFd,
    ticks: OwnedFd,
    sent: usize,
    plan: &'a Plan,
    pace: Pace,
    start: Instant,
    latencies: Latencies,
    sent_reads: Times,
}

impl Pool<'_> {
    fn run(&mut self, end: Duration) -> Result<()> {
        let timeout = Timespec::try_from(LAST_REPLIES)?;
        let mut ready = Vec::with_capacity(self.connections.len() + 1);
        loop {
            let now = self.start.elapsed();
            if now < end {
                self.send_due(now)?;
            } else if self.free.len() == self.connections.len() {
                return Ok(());
            } else if now > end + LAST_REPLIES {
                return Err("not everything was answered".into());
            }
            ready.clear();
            epoll::wait(&self.events, spare_capacity(&mut ready), Some(&timeout))?;
            for event in &ready {
                match event.data.u64() {
                    // How many there were is of no interest; read, it goes on.
                    A_TICK => drop(rustix::io::read(&self.ticks, &mut [0; 8])?),
                    index => self.read(index as usize)?,
                }
            }
        }
    }

    fn send_due(&mut self, now: Duration) -> Result<()> {
        while let Some(index) = self.free.pop() {
            let due = match self.pace {
                Pace::Closed => now,
                Pace::PerTick(count) => TICK * (self.sent / count) as u32,
            };
            if due > now {
                self.free.push(index);
                break;
            }
            let (bytes, _) = self.plan.requests(self.sent..self.sent + 1);
            let connection = &mut self.connections[index];
            connection.client.socket.write_all(bytes)?;
            connection.request = Some(Request { kind: self.plan.kind(self.sent), due, sent: now });
            self.sent += 1;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        match connection.client.socket.read(&mut connection.buffer[connection.filled..]) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(count) => connection.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let Some((reply, length)) = resp::take(&connection.buffer[..connection.filled])? else { return Ok(()) };
        let Request { kind, due, sent } = connection.request.take().ok_or("a reply that nothing asked for")?;
        if !kind.is_answered_by(reply) || length != connection.filled {
            return Err(format!("a {kind:?} was answered by {reply:?}").into());
        }
        connection.filled = 0;
        self.free.push(index);
        if due >= WARM_UP {
            let now = self.start.elapsed();
            self.latencies.of(kind).record(now.saturating_sub(due));
            if kind == Kind::Get {
                self.sent_reads.record(now.saturating_sub(sent));
            }
        }
        Ok(())
    }
}
