//! Whether any reply leaves before the log has acknowledged what it depends on, while I/O threads do all the writing.
//!
//! Seen from outside, in two ways. While acknowledgements are frozen, not one byte may arrive, however long one waits.
//! While each is delayed, none may arrive sooner than the delay after its request was sent. That the program would
//! see it is shown with a server in async mode, whose replies do leave.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::plan::Random;
use crate::processes::{wait_until, Durable, Programs};
use crate::report::Report;
use crate::resp::{self, Reply};
use crate::Result;

const CLIENTS: usize = 60;
/// Of each of the two ways.
const WRITES: usize = 50_000;
/// Requests that a client sends at once, in turn.
const DEPTHS: [usize; 8] = [1, 16, 3, 90, 1, 40, 7, 250];
const DELAYS: [Duration; 4] =
    [Duration::from_millis(2), Duration::from_millis(3), Duration::from_millis(4), Duration::from_millis(5)];
const VALUE: [u8; 100] = [b'x'; 100];
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often, while acknowledgements are frozen, one looks whether something arrived, and how long apart.
const LOOKS: usize = 4;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Counts them.
pub fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    report.title("Early replies: io-threads 4, always active, 60 clients");
    let durable = programs.start_durable(&["io-threads", "4", "io-threads-always-active", "yes"])?;
    let mut observer = Observer::new(durable)?;

    observer.admin.call(&["DURABILITY.MODE", "async"])?;
    let seen = observer.frozen_round(DEPTHS[1], false)?;
    observer.admin.call(&["DURABILITY.MODE", "sync"])?;
    report.at_least("bytes that arrive in async mode (a check of this check)", seen as f64, 1.0, "");

    let (mut early, mut writes, mut rounds) = (0, 0, 0);
    while writes < WRITES {
        let depth = DEPTHS[rounds % DEPTHS.len()];
        early += observer.frozen_round(depth, true)?;
        writes += CLIENTS * depth;
        rounds += 1;
    }
    report.remark("frozen: held writes, rounds", &format!("{writes}, {rounds}"));
    report.at_most("frozen: bytes that arrive early", early as f64, 0.0, "");

    let (mut early, mut writes, mut rounds) = (0, 0, 0);
    let mut random = Random(9);
    while writes < WRITES {
        let depth = DEPTHS[rounds % DEPTHS.len()];
        early += observer.delayed_round(depth, DELAYS[random.below(DELAYS.len() as u64) as usize])?;
        writes += CLIENTS * depth;
        rounds += 1;
    }
    report.remark("delayed by 2 to 5 ms: held writes, rounds", &format!("{writes}, {rounds}"));
    report.at_most("delayed by 2 to 5 ms: bytes that arrive early", early as f64, 0.0, "");
    let written = observer.admin.info("stats", "io_threaded_writes_processed")?;
    report.remark("writes that I/O threads did", &written);
    Ok(())
}

/// A client that writes, and knows what it must be answered.
struct Writer {
    client: Client,
    name: String,
    /// How often it has incremented its counter.
    count: i64,
    sent: Instant,
}

impl Writer {
    /// Every other request has an answer of its own, so that their order is seen.
    fn send(&mut self, depth: usize) -> Result<()> {
        let mut requests = Vec::new();
        for _ in 0..depth.div_ceil(2) {
            resp::encode(&mut requests, &[b"INCR", format!("counter:{}", self.name).as_bytes()]);
        }
        for number in 0..depth / 2 {
            resp::encode(&mut requests, &[b"SET", format!("key:{}:{number}", self.name).as_bytes(), &VALUE]);
        }
        self.sent = Instant::now();
        self.client.send(&requests)
    }

    fn check_replies(&mut self, depth: usize) -> Result<()> {
        for _ in 0..depth.div_ceil(2) {
            self.count += 1;
            self.client.expect(Reply::Integer(self.count))?;
        }
        for _ in 0..depth / 2 {
            self.client.expect(Reply::Status(b"OK"))?;
        }
        Ok(())
    }
}

struct Observer {
    durable: Durable,
    admin: Client,
    writers: Vec<Writer>,
}

impl Observer {
    fn new(durable: Durable) -> Result<Self> {
        let writer = |number: usize| {
            let client = durable.server.connect()?;
            Ok(Writer { client, name: number.to_string(), count: 0, sent: Instant::now() })
        };
        let writers = (0..CLIENTS).map(writer).collect::<Result<_>>()?;
        Ok(Observer { admin: durable.server.connect()?, durable, writers })
    }

    /// Every client writes while nothing is acknowledged. Returns how many bytes arrive before the log is resumed.
    fn frozen_round(&mut self, depth: usize, is_held: bool) -> Result<usize> {
        self.durable.log.freeze()?;
        let before = executed_writes(&mut self.admin)?;
        for writer in &mut self.writers {
            writer.send(depth)?;
        }
        let admin = &mut self.admin;
        wait_until("all writes are executed", TIMEOUT, || {
            Ok(executed_writes(admin)? == before + (CLIENTS * depth) as u64)
        })?;
        if is_held {
            wait_until("all clients are held", TIMEOUT, || Ok(admin.durability("held_clients")? == CLIENTS as u64))?;
        }
        let mut early = 0;
        for _ in 0..LOOKS {
            sleep(BETWEEN_LOOKS);
            early = 0;
            for writer in &self.writers {
                early += writer.client.arrived()?;
            }
        }
        self.durable.log.resume()?;
        self.check_replies(depth)?;
        Ok(early)
    }

    /// Every client writes while acknowledgements are delayed. Returns how many bytes arrive sooner than that.
    fn delayed_round(&mut self, depth: usize, delay: Duration) -> Result<usize> {
        self.durable.settle()?;
        self.durable.log.delay(delay)?;
        let mut early = vec![0; self.writers.len()];
        for index in 0..self.writers.len() {
            self.writers[index].send(depth)?;
            self.look_for_early(&mut early[..=index], delay)?;
        }
        let last = self.writers.last().map_or_else(Instant::now, |writer| writer.sent);
        while last.elapsed() < delay {
            self.look_for_early(&mut early, delay)?;
        }
        self.check_replies(depth)?;
        Ok(early.iter().sum())
    }

    fn look_for_early(&self, early: &mut [usize], delay: Duration) -> Result<()> {
        for (writer, early) in self.writers.iter().zip(early) {
            if *early == 0 && writer.sent.elapsed() < delay {
                let arrived = writer.client.arrived()?;
                // Only what was seen before the delay has passed was early for certain.
                if writer.sent.elapsed() < delay {
                    *early = arrived;
                }
            }
        }
        Ok(())
    }

    fn check_replies(&mut self, depth: usize) -> Result<()> {
        self.writers.iter_mut().try_for_each(|writer| writer.check_replies(depth))
    }
}

/// How many writes of the clients the server has executed.
fn executed_writes(admin: &mut Client) -> Result<u64> {
    let mut sum = 0;
    for command in ["set", "incr"] {
        // A command that was never called is not listed.
        if let Ok(figures) = admin.info("commandstats", &format!("cmdstat_{command}")) {
            let calls = figures.split(',').find_map(|figure| figure.strip_prefix("calls="));
            sum += calls.ok_or("no calls in commandstats")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}
