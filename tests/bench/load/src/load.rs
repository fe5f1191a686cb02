//! When what is sent, and when it ends. One thread.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::Timespec;
use rustix::fd::OwnedFd;

use crate::connection::{Asked, Connection};
use crate::requests::Requests;
use crate::seen::Seen;
use crate::Result;

/// Once all is sent, the last replies may take so long.
const LAST_REPLIES: Duration = Duration::from_secs(3);
/// The most events that are taken at a time.
const EVENTS: usize = 256;

/// What is asked for.
pub struct Plan {
    /// Requests under way on a connection at most.
    pub pipeline: usize,
    /// Requests a second; 0: as fast as they are answered.
    pub rate: f64,
    /// What is due in this first time is not counted.
    pub warm: Duration,
    /// What is due in the time after that is.
    pub counted: Duration,
}

/// Sends by that plan. Where the requests end by themselves, all of them are sent.
pub fn run(sockets: Vec<TcpStream>, plan: &Plan, requests: Requests) -> Result<Seen> {
    // Timers end when they are to, not 50 microseconds later.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(sockets.len());
    for (index, socket) in sockets.into_iter().enumerate() {
        epoll::add(&epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        connections.push(Connection::new(socket)?);
    }
    let free = (0..connections.len()).collect();
    let seen = Seen::new(plan.warm, plan.warm + plan.counted)?;
    let load = Load { epoll, connections, free, plan, requests, seen, start: Instant::now(), asked: 0, has_more: true };
    load.run()
}

struct Load<'a> {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Those that have nothing under way, or at a fixed rate less than they may have; the one that is free longest is first.
    free: VecDeque<usize>,
    plan: &'a Plan,
    requests: Requests,
    seen: Seen,
    start: Instant,
    /// Requests that were sent, or at least are in a buffer.
    asked: u64,
    has_more: bool,
}

impl Load<'_> {
    fn run(mut self) -> Result<Seen> {
        let end = self.plan.warm + self.plan.counted;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let now = self.start.elapsed();
            if !self.is_over(now, end) {
                self.ask(now)?;
            }
            let is_over = self.is_over(now, end);
            let is_idle = self.connections.iter().all(|connection| connection.under_way.is_empty());
            if is_over && is_idle || !self.sends_all() && now >= end + LAST_REPLIES {
                return Ok(self.end(now, end));
            }
            let wait = Timespec::try_from(self.wait(now, end))?;
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait))?;
            for event in events.drain(..) {
                let index = event.data.u64() as usize;
                let flags = event.flags;
                self.hear(index, flags)?;
            }
        }
    }

    /// Whether the requests end by themselves.
    fn sends_all(&self) -> bool {
        self.requests.are_finite()
    }

    /// Whether nothing more is to be sent. At a fixed rate, what is due is sent however late.
    fn is_over(&self, now: Duration, end: Duration) -> bool {
        if self.sends_all() {
            !self.has_more
        } else if self.plan.rate > 0.0 {
            self.due() >= end
        } else {
            now >= end
        }
    }

    /// Sends what is due.
    fn ask(&mut self, now: Duration) -> Result<()> {
        let end = self.plan.warm + self.plan.counted;
        while self.has_more && !self.free.is_empty() {
            if self.plan.rate > 0.0 {
                let due = self.due();
                if due > now || due >= end {
                    return Ok(());
                }
                self.ask_on(due, now, 1)?;
            } else {
                self.ask_on(now, now, self.plan.pipeline)?;
            }
        }
        Ok(())
    }

    /// When the next request is due.
    fn due(&self) -> Duration {
        Duration::from_secs_f64(self.asked as f64 / self.plan.rate)
    }

    fn ask_on(&mut self, due: Duration, now: Duration, count: usize) -> Result<()> {
        let Some(index) = self.free.pop_front() else { return Ok(()) };
        let connection = &mut self.connections[index];
        for _ in 0..count {
            self.has_more = self.has_more && connection.ask(&mut self.requests, due, now);
            self.asked += u64::from(self.has_more);
        }
        if self.plan.rate > 0.0 && connection.under_way.len() < self.plan.pipeline {
            self.free.push_back(index);
        }
        if !connection.send()? {
            self.listen(index, EventFlags::IN | EventFlags::OUT)?;
        }
        Ok(())
    }

    fn listen(&self, index: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(index as u64);
        Ok(epoll::modify(&self.epoll, &self.connections[index].socket, data, flags)?)
    }

    fn hear(&mut self, index: usize, flags: EventFlags) -> Result<()> {
        if flags.contains(EventFlags::OUT) && self.connections[index].send()? {
            self.listen(index, EventFlags::IN)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let Load { connections, seen, start, .. } = self;
        let connection = &mut connections[index];
        let before = connection.under_way.len();
        let mut now = None;
        connection.hear(|asked, is_error| {
            seen.answered(asked, *now.get_or_insert_with(|| start.elapsed()), is_error);
        })?;
        let after = connection.under_way.len();
        let was_free = self.plan.rate > 0.0 && before < self.plan.pipeline;
        let is_free = if self.plan.rate > 0.0 { after < self.plan.pipeline } else { after == 0 };
        if is_free && !was_free && before > 0 {
            self.free.push_back(index);
        }
        Ok(())
    }

    /// How long nothing has to be done unless something comes.
    fn wait(&self, now: Duration, end: Duration) -> Duration {
        if self.sends_all() {
            Duration::from_secs(1)
        } else if self.is_over(now, end) || self.plan.rate > 0.0 && self.free.is_empty() {
            (end + LAST_REPLIES).saturating_sub(now)
        } else if self.plan.rate > 0.0 {
            self.due().saturating_sub(now)
        } else {
            end.saturating_sub(now)
        }
    }

    /// What was due and is not answered counts as well, sent or not.
    fn end(mut self, now: Duration, end: Duration) -> Seen {
        for asked in self.connections.iter().flat_map(|connection| connection.under_way.iter()) {
            self.seen.unanswered(*asked, now);
        }
        let mut unsent = Vec::new();
        while self.plan.rate > 0.0 && self.due() < end {
            let due = self.due();
            unsent.clear();
            let Some(kind) = self.requests.add(&mut unsent) else { break };
            self.seen.unanswered(Asked { kind, due, sent: now }, now);
            self.asked += 1;
        }
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::{sleep, spawn};

    use super::*;

    /// A connection to a server that answers each write by `+OK`, and stands still from the first request on for `stall`.
    fn stalling(stall: Duration) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let (mut bytes, mut stall) = ([0; 1 << 16], Some(stall));
            while let Ok(count @ 1..) = socket.read(&mut bytes) {
                if let Some(stall) = stall.take() {
                    sleep(stall);
                }
                let requests = bytes[..count].iter().filter(|byte| **byte == b'*').count();
                if socket.write_all(&b"+OK\r\n".repeat(requests)).is_err() {
                    return;
                }
            }
        });
        TcpStream::connect(address).expect("connected")
    }

    fn plan(rate: f64, pipeline: usize, ms: u64) -> Plan {
        Plan { pipeline, rate, warm: Duration::ZERO, counted: Duration::from_millis(ms) }
    }

    #[test]
    fn what_a_stall_keeps_from_being_sent_counts_from_when_it_was_due() {
        let seen =
            run(vec![stalling(Duration::from_millis(500))], &plan(1000.0, 1, 1000), Requests::random("k", 9, 5, 0, 1));
        let json = seen.expect("seen").json();
        assert_eq!((json["writes"]["count"].as_u64(), json["unanswered"].as_u64()), (Some(1000), Some(0)), "{json}");
        // Half of all were due while it stood still: the median of those is half of that time.
        let p90 = json["writes"]["p90_us"].as_u64().expect("a number");
        assert!((300_000..600_000).contains(&p90), "{json}");
    }

    #[test]
    fn what_is_never_answered_is_told() {
        let seen =
            run(vec![stalling(Duration::from_secs(60))], &plan(100.0, 1, 300), Requests::random("k", 9, 5, 50, 1));
        let json = seen.expect("seen").json();
        assert_eq!((json["unanswered"].as_u64(), json["all_requests"].as_u64()), (Some(30), Some(0)), "{json}");
        assert!(json["reads"]["p50_us"].as_u64() >= Some(3_000_000), "{json}");
    }

    #[test]
    fn without_a_rate_what_comes_next_is_sent_when_all_is_answered() {
        let seen = run(vec![stalling(Duration::ZERO)], &plan(0.0, 16, 200), Requests::random("k", 9, 5, 0, 1));
        let json = seen.expect("seen").json();
        let all = json["all_requests"].as_u64().expect("a number");
        assert!(all > 16 && all.is_multiple_of(16), "{json}");
    }

    #[test]
    fn each_key_is_written() {
        let seen = run(vec![stalling(Duration::ZERO)], &plan(0.0, 50, 0), Requests::each_key("k", 1001, 5));
        assert_eq!(seen.expect("seen").json()["all_requests"], 1001);
    }
}
