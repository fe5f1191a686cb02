//! Latencies of reads beside writes that wait for the log, compared with plain Valkey under the same load.
//!
//! Both servers run all the while, and the rounds are interleaved, so that what else the machine does hits both. The
//! load is offered in two ways. With a closed loop, clients whose writes wait offer less than they offer plain Valkey.
//! At a fixed rate both get the same.

use std::time::Duration;

use crate::load::{fill, Latencies, Times};
use crate::plan::Plan;
use crate::pool::{self, Measured, Pace};
use crate::processes::{Durable, Programs, Server};
use crate::report::Report;
use crate::Result;

const CLIENTS: usize = 50;
const ACK_DELAY: Duration = Duration::from_millis(2);
/// 20,000 requests a second.
const FIXED_RATE: Pace = Pace::PerTick(2);
const MOST: f64 = 1.2;

/// Measures it in `rounds`, each with `seconds` of each load on each server.
pub fn measure(programs: &Programs, seconds: u64, rounds: usize, report: &mut Report) -> Result<()> {
    report.title("GET beside SET (80 % GET, 20 % SET of 100 B, 50 clients), log acknowledging after 2 ms");
    let plain = programs.start_plain(&[])?;
    let mut durable = programs.start_durable(&[])?;
    fill(&mut plain.connect()?)?;
    fill(&mut durable.server.connect()?)?;
    durable.settle()?;
    durable.log.delay(ACK_DELAY)?;
    for (name, pace) in [("closed loop", Pace::Closed), ("20,000/s", FIXED_RATE)] {
        compare(&plain, &durable, name, pace, Duration::from_secs(seconds), rounds, report)?;
    }
    Ok(())
}

fn compare(
    plain: &Server,
    durable: &Durable,
    name: &str,
    pace: Pace,
    duration: Duration,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut of_plain, mut of_sync) = (Vec::new(), Vec::new());
    for round in 0..rounds as u64 {
        let plan = Plan::new(2 + round);
        of_plain.push(pool::run(plain, CLIENTS, pace, &plan, duration)?);
        of_sync.push(pool::run(&durable.server, CLIENTS, pace, &plan, duration)?);
    }
    for (system, measured) in [("plain", &of_plain), ("sync", &of_sync)] {
        remark(report, &format!("{name}, {system}"), measured);
    }
    for percent in [50.0, 99.0] {
        let ratio = median_of_get(&of_sync, percent) / median_of_get(&of_plain, percent);
        report.at_most(&format!("{name}: GET p{percent}, sync to plain"), ratio, MOST, "");
    }
    Ok(())
}

fn remark(report: &Report, name: &str, rounds: &[Measured]) {
    let rates: Vec<_> = rounds.iter().map(|round| format!("{:.0}", round.rate)).collect();
    report.remark(&format!("{name}: requests/s, by round"), &rates.join("  "));
    let (mut all, mut sent_reads) = (Latencies::default(), Times::default());
    for round in rounds {
        all.add(&round.latencies);
        sent_reads.add(&round.sent_reads);
    }
    report.remark(&format!("{name}: GET, all rounds"), &all.get.summary());
    report.remark(&format!("{name}: GET, from its sending"), &sent_reads.summary());
    report.remark(&format!("{name}: SET, all rounds"), &all.set.summary());
    for percent in [50.0, 99.0] {
        let times: Vec<_> = percentiles_of_get(rounds, percent).map(|time| format!("{time:.3}")).collect();
        report.remark(&format!("{name}: GET p{percent} in ms, by round"), &times.join("  "));
    }
}

fn percentiles_of_get(rounds: &[Measured], percent: f64) -> impl Iterator<Item = f64> + '_ {
    rounds.iter().map(move |round| round.latencies.get.percentile(percent))
}

/// The median of the rounds, so that one that was disturbed does not decide.
fn median_of_get(rounds: &[Measured], percent: f64) -> f64 {
    let mut times: Vec<_> = percentiles_of_get(rounds, percent).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
