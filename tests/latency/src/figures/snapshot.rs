//! What clients notice of snapshots that the log service makes meanwhile.
//!
//! Server, clients, log service and snapshots share this machine. Where all of them share two cores, any process that keeps the
//! otherwise idle one busy is noticed, however gladly it gives way. So rounds beside snapshots are held against rounds
//! beside a process of the same class that does nothing but that; quiet rounds are shown as well.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::{fill, Latencies};
use crate::plan::{Plan, Random};
use crate::pool::{self, Pace};
use crate::processes::{Durable, Programs};
use crate::report::Report;
use crate::resp;
use crate::Result;

const CLIENTS: usize = 50;
/// 10,000 requests a second: what is left of the machine is enough for a snapshot to get on.
const RATE: Pace = Pace::PerTick(1);
/// What is stored beside the keys under load, so that a snapshot takes seconds.
const BALLAST_KEYS: usize = 500_000;
const BALLAST_BYTES: u64 = 400;
const MOST: f64 = 1.1;

/// Measures it in `rounds`, each with `seconds` of load without and with snapshots.
pub fn measure(programs: &Programs, seconds: u64, rounds: usize, report: &mut Report) -> Result<()> {
    report.title("Snapshots made meanwhile (80 % GET, 20 % SET of 100 B, 50 clients, 10,000/s), sync mode");
    let durable = programs.start_durable(&[])?;
    let mut admin = durable.server.connect()?;
    fill(&mut admin)?;
    fill_ballast(&mut admin)?;
    durable.settle()?;
    let forks_before = admin.info("stats", "total_forks")?;
    let duration = Duration::from_secs(seconds);
    let (mut quiet, mut burnt, mut busy, mut made) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds as u64 {
        let plan = Plan::new(20 + round);
        quiet.push(pool::run(&durable.server, CLIENTS, RATE, &plan, duration)?.latencies);
        let burner = Burner::start()?;
        burnt.push(pool::run(&durable.server, CLIENTS, RATE, &plan, duration)?.latencies);
        drop(burner);
        let (latencies, mut times) = with_snapshots(&durable, &plan, duration)?;
        busy.push(latencies);
        made.append(&mut times);
    }
    let forks = admin.info("stats", "total_forks")?;
    let times: Vec<_> = made.iter().map(|time| format!("{:.1}", time.as_secs_f64())).collect();
    report.remark("snapshots made, and seconds that each took", &format!("{}: {}", made.len(), times.join("  ")));
    for (name, rounds) in [("quiet", &quiet), ("beside a busy loop", &burnt), ("beside snapshots", &busy)] {
        let mut all = Latencies::default();
        rounds.iter().for_each(|round| all.add(round));
        report.remark(&format!("{name}: GET"), &all.get.summary());
        report.remark(&format!("{name}: SET"), &all.set.summary());
        let by_round: Vec<_> = rounds.iter().map(|round| format!("{:.3}", p99(round))).collect();
        report.remark(&format!("{name}: p99 of all in ms, by round"), &by_round.join("  "));
    }
    let to_quiet = p99_of_all(&busy) / p99_of_all(&quiet);
    report.remark("p99 beside snapshots, to quiet", &format!("{to_quiet:.3}"));
    report.at_most("p99 beside snapshots, to beside a busy loop", p99_of_all(&busy) / p99_of_all(&burnt), MOST, "");
    report.at_most("forks of the server", forks.parse::<f64>()? - forks_before.parse::<f64>()?, 0.0, "");
    Ok(())
}

/// The load, beside snapshots that follow one another; and how long each of those took that ended meanwhile.
fn with_snapshots(durable: &Durable, plan: &Plan, duration: Duration) -> Result<(Latencies, Vec<Duration>)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let mut times = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                durable.log.make_snapshot()?;
                times.push(started.elapsed());
            }
            Ok(times)
        });
        let measured = pool::run(&durable.server, CLIENTS, RATE, plan, duration);
        is_over.store(true, Ordering::Relaxed);
        let times: Result<_> = maker.join().map_err(|_| "the thread that asks for snapshots panicked")?;
        Ok((measured?.latencies, times?))
    })
}

/// Keeps a core busy that nobody else wants, until it is dropped.
struct Burner(Child);

impl Burner {
    fn start() -> Result<Self> {
        let burner = Command::new("chrt").args(["--idle", "0", "sh", "-c", "while :; do :; done"]).spawn();
        Ok(Burner(burner.map_err(|error| format!("chrt (of util-linux) cannot be started: {error}"))?))
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fill_ballast(client: &mut Client) -> Result<()> {
    // Values that do not compress to nothing.
    let mut random = Random(7);
    let pool: Vec<u8> = (0..1 << 20).map(|_| b'0' + random.below(64) as u8).collect();
    client.run_all(BALLAST_KEYS, |key, to| {
        let at = (key * 131) % (pool.len() - BALLAST_BYTES as usize);
        resp::encode(to, &[b"SET", format!("ballast:{key}").as_bytes(), &pool[at..at + BALLAST_BYTES as usize]]);
    })
}

fn p99(latencies: &Latencies) -> f64 {
    latencies.all().percentile(99.0)
}

/// Of all rounds together: what other processes do now and then is in all of them.
fn p99_of_all(rounds: &[Latencies]) -> f64 {
    let mut all = Latencies::default();
    rounds.iter().for_each(|round| all.add(round));
    p99(&all)
}
