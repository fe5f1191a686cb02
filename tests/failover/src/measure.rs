//! How long a shard is without a leader: from kill -9 of the leader, or from `DURABILITY.FAILOVER`, to the first write that
//! is acknowledged by another node.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::journal;
use crate::leader::Finder;
use crate::ledger::Ledger;
use crate::shard::{Settings, Shard};

const WRITERS: usize = 3;
const PACE: Duration = Duration::from_millis(5);
const FIND_RETRY: Duration = Duration::from_millis(5);
const WHOLE_TIME: Duration = Duration::from_secs(30);

/// How a leader ceases to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// kill -9
    Kill,
    /// DURABILITY.FAILOVER
    Plan,
}

/// Measures so many times.
///
/// # Errors
/// Nobody takes over.
pub fn measure(settings: &Settings, end: End, rounds: u32, seed: u64) -> Result<Vec<Duration>> {
    let mut shard = Shard::start(settings)?;
    shard.wait_until_whole(WHOLE_TIME)?;
    let finder = Finder::new(shard.client_urls.clone(), FIND_RETRY);
    let ledger = Ledger::default();
    let mut random = StdRng::seed_from_u64(seed);
    thread::scope(|scope| {
        let (finder, ledger) = (&finder, &ledger);
        let writers: Vec<_> = (0..WRITERS)
            // Those that push, so that each write is answered by one command.
            .map(|writer| scope.spawn(move || journal::write(finder, ledger, 3 * writer, PACE, seed)))
            .collect();
        let measured: Result<Vec<_>> =
            (0..rounds).map(|_| once(&mut shard, ledger, end, settings.lease, &mut random)).collect();
        finder.end();
        for writer in writers {
            writer.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        measured
    })
}

fn once(shard: &mut Shard, ledger: &Ledger, end: End, lease: Duration, random: &mut StdRng) -> Result<Duration> {
    let leader = shard.wait_until_whole(WHOLE_TIME)?;
    shard.wait_until_known(leader, WHOLE_TIME)?;
    let epoch = shard.state(leader).context("the leader does not answer")?.epoch();
    ledger.wait_for_write(epoch - 1, Instant::now(), WHOLE_TIME).context("nothing is written")?;
    // Anywhere between two renewals of the lease.
    thread::sleep(lease.mul_f64(random.random_range(0.0..0.5)));
    let began = Instant::now();
    match end {
        End::Kill => shard.kill_node(leader)?,
        End::Plan => drop(shard.nodes[leader].command("DURABILITY.FAILOVER", &[])?),
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
        "p50 {:.0?}, max {:.0?} of {}",
        median.copied().unwrap_or_default(),
        most.copied().unwrap_or_default(),
        times.len()
    )
}
