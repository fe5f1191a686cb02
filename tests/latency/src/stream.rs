//! An open load on one connection: requests are sent when they are due, whatever was answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::{Latencies, Times, TICK};
use crate::plan::Plan;
use crate::process::Punctual;
use crate::resp;
use crate::Result;

/// What is measured begins so long after the load.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was seen.
pub struct Measured {
    /// From the moment at which a request was due to its reply.
    pub latencies: Latencies,
    /// From the moment at which a bundle was due to its sending: what the load generator adds to the latencies.
    pub lateness: Times,
}

/// Sends `per_tick` requests each [`TICK`] on one connection, for `seconds` after a warm-up.
pub fn run(client: Client, plan: &Arc<Plan>, per_tick: usize, seconds: u64) -> Result<Measured> {
    let ticks = ((WARM_UP + Duration::from_secs(seconds)).as_nanos() / TICK.as_nanos()) as usize;
    let start = Instant::now() + Duration::from_millis(10);
    let schedule = Schedule { start, per_tick, ticks };
    let socket = client.socket.try_clone()?;
    let writer = {
        let (plan, schedule) = (Arc::clone(plan), schedule.clone());
        thread::spawn(move || write(socket, &plan, &schedule))
    };
    let latencies = read(client.socket, plan, &schedule)?;
    let lateness = writer.join().map_err(|_| "the writing thread panicked")??;
    Ok(Measured { latencies, lateness })
}

/// When which request is due.
#[derive(Clone)]
struct Schedule {
    start: Instant,
    per_tick: usize,
    ticks: usize,
}

impl Schedule {
    fn requests(&self) -> usize {
        self.ticks * self.per_tick
    }

    fn due(&self, request: usize) -> Duration {
        TICK * (request / self.per_tick) as u32
    }
}

fn write(mut socket: TcpStream, plan: &Plan, schedule: &Schedule) -> Result<Times> {
    let _punctual = Punctual::new()?;
    let mut lateness = Times::default();
    let mut sent = 0;
    while sent < schedule.requests() {
        let due = schedule.due(sent);
        sleep(due.saturating_sub(schedule.start.elapsed()));
        let late = (Instant::now() - schedule.start).saturating_sub(due);
        if due >= WARM_UP {
            lateness.record(late);
        }
        // Ticks that were missed are sent with this one.
        let ticks = (late.as_nanos() / TICK.as_nanos()) as usize + 1;
        let until = (sent + ticks * schedule.per_tick).min(schedule.requests());
        while sent < until {
            let (bytes, count) = plan.requests(sent..until);
            socket.write_all(bytes)?;
            sent += count;
        }
    }
    Ok(lateness)
}

fn read(mut socket: TcpStream, plan: &Plan, schedule: &Schedule) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    let mut buffer = vec![0; 1 << 20];
    let (mut filled, mut answered) = (0, 0);
    while answered < schedule.requests() {
        match socket.read(&mut buffer[filled..])? {
            0 => return Err("the server closed the connection".into()),
            count => filled += count,
        }
        let now = Instant::now().saturating_duration_since(schedule.start);
        let mut taken = 0;
        while let Some((reply, length)) = resp::take(&buffer[taken..filled])? {
            let kind = plan.kind(answered);
            if !kind.is_answered_by(reply) {
                return Err(format!("request {answered}, a {kind:?}, was answered by {reply:?}").into());
            }
            let due = schedule.due(answered);
            if due >= WARM_UP {
                latencies.of(kind).record(now.saturating_sub(due));
            }
            taken += length;
            answered += 1;
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
    Ok(latencies)
}
