//! How long a shard is without a leader: from kill -9 of the leader, or from `DURABILITY.FAILOVER`, to the first write that
//! is acknowledged by another node. What is measured of log services is in `measure_services.rs`.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::journal::{self, Place};
use crate::ledger::Ledger;
use crate::measure_services;
use crate::system::{Mode, Settings, System};
use crate::verdict;

const WRITERS: usize = 3;
const PACE: Duration = Duration::from_millis(5);
const FIND_RETRY: Duration = Duration::from_millis(5);
pub(crate) const WHOLE_TIME: Duration = Duration::from_secs(30);
/// For a read at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// kill -9 of the node that leads
    Kill,
    /// DURABILITY.FAILOVER
    Plan,
    /// kill -9 of the service that decides over the log; this and all that follows takes --services 3
    Decider,
    /// kill -9 of another service
    Follower,
    /// kill -9 of the service that decides and of the node that leads, in the same zone
    Zone,
    /// Two services are killed, and one of them comes back
    Two,
    /// All services are restarted, as planned, one after the other
    Rolling,
    /// The time of a SET if zones are 0.5 ms apart
    Distance,
}

/// Measures so many times, and says in a line what came of it.
///
/// # Errors
/// Nobody takes over, or nothing is acknowledged again.
pub fn measure(settings: &Settings, end: End, rounds: u32, seed: u64) -> Result<String> {
    let lease_ms = settings.lease.as_millis();
    let what = match end {
        End::Kill => "kill -9 of the leader",
        End::Plan => "DURABILITY.FAILOVER",
        _ => return measure_services::measure(settings, end, rounds, seed),
    };
    let mut system = System::start(settings, WHOLE_TIME)?;
    let mut random = StdRng::seed_from_u64(seed);
    let times = under_load(&mut system, seed, |system, ledger| {
        (0..rounds).map(|_| once(system, ledger, end, settings.lease, &mut random)).collect::<Result<Vec<_>>>()
    })?;
    Ok(format!("from {what} to the first write acknowledged elsewhere, lease {lease_ms} ms: {}", sum_up(times)))
}

/// Clients write while something is measured. Nothing that was acknowledged is missing in the end.
///
/// # Errors
/// Those of the measurement, or a client's.
pub fn under_load<T>(
    system: &mut System,
    seed: u64,
    measure: impl FnOnce(&mut System, &Ledger) -> Result<T>,
) -> Result<T> {
    system.wait_until_whole(WHOLE_TIME)?;
    let finder = system.finder(FIND_RETRY);
    let place = Place { tag: "0".to_owned(), ..Place::default() };
    let (measured, written) = thread::scope(|scope| {
        let (finder, place) = (&finder, &place);
        let writers: Vec<_> = (0..WRITERS)
            // Those that push, so that each write is answered by one command.
            .map(|writer| scope.spawn(move || journal::write(finder, place, 3 * writer, PACE, seed)))
            .collect();
        let measured = measure(system, &place.ledger);
        finder.end();
        let joined = writers.into_iter().map(|writer| writer.join().map_err(|_| anyhow!("a client panicked"))?);
        (measured, joined.collect::<Result<Vec<_>>>())
    });
    let (measured, written) = (measured?, written?);
    system.wait_until_whole(WHOLE_TIME)?;
    let finder = system.finder(FIND_RETRY);
    let mut leader = finder.find(&place.tag, LAST_PATIENCE).context("nobody ended this search")?;
    let found = journal::find(&mut leader, &place.tag, 3 * WRITERS)?;
    verdict::judge(&written, &found, Mode::Sync, Duration::MAX)?;
    Ok(measured)
}

fn once(system: &mut System, ledger: &Ledger, end: End, lease: Duration, random: &mut StdRng) -> Result<Duration> {
    let leader = system.wait_until_whole(WHOLE_TIME)?;
    let shard = system.shard();
    shard.wait_until_known(leader, WHOLE_TIME)?;
    let epoch = shard.state(leader).context("the leader does not answer")?.epoch();
    ledger.wait_for_write(epoch - 1, Instant::now(), WHOLE_TIME).context("nothing is written")?;
    // Anywhere between two renewals of the lease.
    thread::sleep(lease.mul_f64(random.random_range(0.0..0.5)));
    let began = Instant::now();
    match end {
        End::Kill => shard.nodes[leader].kill()?,
        _ => drop(shard.nodes[leader].command("DURABILITY.FAILOVER", &[])?),
    }
    let written = ledger.wait_for_write(epoch, began, WHOLE_TIME).context("nobody takes over")?;
    if end == End::Kill {
        shard.start_node(leader)?;
    }
    Ok(written - began)
}

/// Median and maximum.
pub fn sum_up(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let (median, most) = (times.get(times.len() / 2), times.last());
    format!(
        "p50 {} ms, max {} ms of {}",
        median.copied().unwrap_or_default().as_millis(),
        most.copied().unwrap_or_default().as_millis(),
        times.len()
    )
}
