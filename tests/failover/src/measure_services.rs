//! How long writes wait when something happens to one of three log services; and what a write takes if zones are apart.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use durability_histories::connection::Connection;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ledger::Ledger;
use crate::measure::{sum_up, under_load, End, WHOLE_TIME};
use crate::system::{Settings, System, MOST_LAG, NODES};

/// Writes are compared from so long before to so long after something happens.
const WINDOW: Duration = Duration::from_secs(1);
/// For how long two services are away: until the lease of the leader has passed, and for as long again.
const AWAY_LEASES: u32 = 2;
/// Between zones, each way.
const DISTANCE: Duration = Duration::from_micros(500);
/// Of each case, one after the other.
const SETS: usize = 1000;
const SET_TIME: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// Measures so many times, and says in a line what came of it.
///
/// # Errors
/// Nothing is acknowledged again, or what is planned comes about with a loss.
pub fn measure(settings: &Settings, end: End, rounds: u32, seed: u64) -> Result<String> {
    ensure!(settings.services > 1, "this is measured with --services 3");
    if end == End::Distance {
        return distance(settings, rounds);
    }
    let mut system = System::start(settings, WHOLE_TIME)?;
    let mut random = StdRng::seed_from_u64(seed);
    let lease = settings.lease;
    under_load(&mut system, seed, |system, ledger| match end {
        End::Follower => followers(system, ledger, rounds, &mut random),
        End::Rolling => rolling(system, ledger, rounds),
        _ => {
            let times =
                (0..rounds).map(|_| once(system, ledger, end, lease, &mut random)).collect::<Result<Vec<_>>>()?;
            let what = match end {
                End::Decider => "kill -9 of the service that decides",
                End::Zone => "kill -9 of the service that decides and the node that leads, in one zone,",
                _ => "the start of one of two services that were away",
            };
            Ok(format!(
                "from {what} to the first write acknowledged again, lease {} ms: {}",
                lease.as_millis(),
                sum_up(times)
            ))
        }
    })
}

/// Everything is there, and writes are acknowledged. Returns who leads, and who decides.
fn settle(system: &mut System, ledger: &Ledger, random: &mut StdRng) -> Result<(usize, usize)> {
    let leader = system.wait_until_whole(WHOLE_TIME)?;
    system.shard().wait_until_known(leader, WHOLE_TIME)?;
    ledger.wait_for_write(0, Instant::now(), WHOLE_TIME).context("nothing is written")?;
    // Anywhere between two renewals of the lease, and two heartbeats.
    thread::sleep(Duration::from_millis(random.random_range(0..500)));
    Ok((leader, system.services.decider().context("no service decides")?))
}

/// The time from what happens to the first write acknowledged that was sent after it.
fn once(system: &mut System, ledger: &Ledger, end: End, lease: Duration, random: &mut StdRng) -> Result<Duration> {
    let (mut leader, decider) = settle(system, ledger, random)?;
    if end == End::Zone && leader != decider {
        leader = lead_at(system, decider)?;
        settle(system, ledger, random)?;
    }
    let services = &mut system.services.list;
    let mut began = Instant::now();
    services[decider].kill()?;
    match end {
        End::Zone => system.shard().nodes[leader].kill()?,
        End::Two => {
            let other = (decider + 1) % services.len();
            services[other].kill()?;
            thread::sleep(lease * AWAY_LEASES);
            began = Instant::now();
            services[other].start()?;
        }
        _ => {}
    }
    // Nobody that is killed has acknowledged what was sent from now on.
    let since = if end == End::Two { began } else { Instant::now() };
    let written = ledger.wait_for_write(0, since, WHOLE_TIME).context("nothing is acknowledged again")?;
    system.services.start_all()?;
    if end == End::Zone {
        system.shard().start_node(leader)?;
    }
    Ok(written - began)
}

/// Has a certain node lead.
fn lead_at(system: &mut System, node: usize) -> Result<usize> {
    let started = Instant::now();
    let leader = system.wait_until_whole(WHOLE_TIME)?;
    if leader == node {
        return Ok(node);
    }
    loop {
        // It may have to hear first how far the other one is.
        let asked = system.shard().nodes[leader].command("DURABILITY.FAILOVER", &["TO", &format!("n{node}")]);
        match (asked, system.shard().leader()) {
            (_, Some(now)) if now == node => break,
            (Err(error), _) if started.elapsed() > WHOLE_TIME => return Err(error.context("DURABILITY.FAILOVER")),
            _ => thread::sleep(POLL * 10),
        }
        ensure!(started.elapsed() < WHOLE_TIME, "n{node} does not come to lead");
    }
    system.wait_until_whole(WHOLE_TIME)
}

/// Times of writes in the second before another service dies, and in the one after.
fn followers(system: &mut System, ledger: &Ledger, rounds: u32, random: &mut StdRng) -> Result<String> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (_, decider) = settle(system, ledger, random)?;
        thread::sleep(WINDOW);
        let service = &mut system.services.list[(decider + random.random_range(1..3)) % 3];
        let moment = Instant::now();
        service.kill()?;
        thread::sleep(WINDOW + WINDOW / 4);
        service.start()?;
        for answer in ledger.answers() {
            let took = answer.answered - answer.invoked;
            if answer.invoked < moment && answer.invoked + WINDOW > moment && answer.answered < moment {
                before.push(took);
            } else if answer.answered > moment && answer.invoked < moment + WINDOW {
                after.push(took);
            }
        }
    }
    let (p99_before, p99_after) = (percentile(&mut before, 99), percentile(&mut after, 99));
    Ok(format!(
        "writes in the second before kill -9 of another service: p99 {p99_before:.2?} of {}; in the second after: p99 {p99_after:.2?}, max \
         {:.2?} of {}; {:.2} times",
        before.len(),
        percentile(&mut after, 100),
        after.len(),
        p99_after.as_secs_f64() / p99_before.as_secs_f64()
    ))
}

fn rolling(system: &mut System, ledger: &Ledger, rounds: u32) -> Result<String> {
    let leader = system.wait_until_whole(WHOLE_TIME)?;
    let epoch = system.shard().state(leader).context("the leader does not answer")?.epoch();
    let mut pauses = Vec::new();
    for round in 0..rounds {
        for number in 0..NODES {
            let began = Instant::now();
            let service = &mut system.services.list[number];
            service.terminate()?;
            while service.process.is_running()? {
                ensure!(began.elapsed() < WHOLE_TIME, "log{number} does not end");
                thread::sleep(POLL);
            }
            service.start()?;
            system.services.wait_until_well(MOST_LAG, WHOLE_TIME)?;
            let mut times: Vec<Instant> =
                ledger.answers().iter().map(|answer| answer.answered).filter(|at| *at + POLL > began).collect();
            times.sort_unstable();
            pauses.push(times.windows(2).map(|pair| pair[1] - pair[0]).max().context("nothing is acknowledged")?);
        }
        let state = system.shard().state(leader).context("the leader does not answer")?;
        ensure!(state.epoch() == epoch && state.role() == "leader", "round {round}: the lease was lost");
        ensure!(state.suspensions() == Some(0), "round {round}: the leader was suspended");
    }
    Ok(format!(
        "the longest time without an acknowledged write for each planned restart of a service: {}; the leader was never suspended and \
         kept epoch {epoch}",
        sum_up(pauses)
    ))
}

/// The time of a SET, one at a time, when the service that decides is in the zone of the node that leads, and when it is not.
fn distance(settings: &Settings, rounds: u32) -> Result<String> {
    let mut parts = Vec::new();
    for distance in [Duration::ZERO, DISTANCE] {
        let ports = settings.base_port + if distance.is_zero() { 0 } else { 100 };
        let directory = settings.directory.join(format!("{distance:?}"));
        std::fs::create_dir(&directory)?;
        let own = Settings { distance, directory, base_port: ports, ..settings.clone() };
        let mut system = System::start(&own, WHOLE_TIME)?;
        let (mut same, mut other) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (after, times) in [(0, &mut same), (1, &mut other)] {
                system.wait_until_whole(WHOLE_TIME)?;
                let decider = system.services.decider().context("no service decides")?;
                let leader = lead_at(&mut system, (decider + after) % NODES)?;
                let mut connection = Connection::open(&system.shard().nodes[leader].url, SET_TIME)?;
                for number in 0..SETS {
                    let began = Instant::now();
                    connection.command("SET", &["key", &number.to_string()])?;
                    times.push(began.elapsed());
                }
                ensure!(system.services.decider() == Some(decider), "another service decides now");
            }
        }
        parts.push(format!(
            "zones {distance:.1?} apart each way, SET p50 {:.2?} (p99 {:.2?}) if the service that decides is in the leader's zone, {:.2?} \
             (p99 {:.2?}) if not",
            percentile(&mut same, 50),
            percentile(&mut same, 99),
            percentile(&mut other, 50),
            percentile(&mut other, 99)
        ));
    }
    Ok(parts.join("; "))
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}
