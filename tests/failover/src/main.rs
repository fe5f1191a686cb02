//! Breaks a shard of three nodes, or a cluster of shards, in all ways that it is to survive, while clients work, and checks what they saw.
//!
//! In sync mode histories are to be linearizable and everything that was acknowledged is to be there in the end; in async mode
//! what is missing is only the youngest of what one leader acknowledged. In both, no two nodes ever answer as leaders at the same
//! time, what followers show is never missing later, and in the end, with nothing broken, all nodes hold the same.
//!
//! The seed decides what is broken when; how processes and threads are scheduled differs in each run.

mod cluster;
mod faults;
mod journal;
mod laps;
mod leader;
mod ledger;
mod link;
mod lone_copy;
mod measure;
mod measure_services;
mod node;
mod notes;
mod peer_links;
mod pipelined;
mod plan;
mod ports;
mod record;
mod round;
mod service_faults;
mod shard;
mod system;
mod verdict;
mod views;

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::plan::{Kind, Plan};
use crate::ports::Claim;
use crate::round::Report;
use crate::system::{Mode, Settings};

/// Limits on the lag of the log in async mode, of which each round has one.
const LIMITS_MS: [u64; 3] = [300, 1000, 10_000];
/// In sync mode nothing is judged by it.
const LIMIT: Duration = Duration::from_secs(10);
const LEASE_MS: u64 = 1000;
/// For which times are measured, unless told.
const MEASURED_LEASES_MS: [u64; 2] = [3000, 1000];

/// Breaks a shard of three nodes, or a cluster, while clients work, and checks what they saw. The last line is "N passed, N failed", where N are
/// rounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds to play, each with nodes of its own; or how often to measure
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// For how long things are broken in a round
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides what is broken when in the first round; the next has the next seed
    #[arg(long, default_value_t = rand::random_range(0..1_000_000_000))]
    seed: u64,
    /// When writes are acknowledged
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// Log services: 1, or 3 that keep the log together
    #[arg(long, default_value_t = 1)]
    services: usize,
    /// Shards: 1 of three nodes outside cluster mode, or up to 4 of two nodes in a cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    shards: u8,
    /// What is broken, separated by commas [default: everything that is to be survived]
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// durability.lease-ms [default: 1000, and 3000 as well to measure]
    #[arg(long)]
    lease_ms: Option<u64>,
    /// Ports from here on are used [default: from 28400 on, those that no other such program uses]
    #[arg(long)]
    base_port: Option<u16>,
    /// Succeed as soon as a violation is found, and only then: for a module that is broken on purpose
    #[arg(long)]
    expect_violation: bool,
    /// Keep what each round leaves: plan, faults, data and logs
    #[arg(long)]
    keep: bool,
    /// Append a line for each round to this file, for `record.sh`
    #[arg(long)]
    record: Option<PathBuf>,
    /// Instead, say what stands above such lines
    #[arg(long)]
    headings: bool,
    /// Instead, measure how long something takes, so often as --rounds says; in most cases until writes are acknowledged again
    #[arg(long, value_enum)]
    measure: Option<measure::End>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.headings {
        println!("{}", record::headings(arguments.services, arguments.shards.into()));
        return Ok(ExitCode::SUCCESS);
    }
    let claim = arguments.base_port.is_none().then(Claim::of_any).transpose()?;
    let base_port = claim.as_ref().map(|claim| claim.first).or(arguments.base_port).unwrap_or_default();
    let is_success = match arguments.measure {
        Some(end) => measure(&arguments, base_port, end)?,
        None => play(&arguments, base_port)?,
    };
    Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn directory() -> Result<TempDir> {
    let mut directory = tempfile::Builder::new().prefix("failover.").tempdir().context("no temporary directory")?;
    // Whoever is killed leaves what the processes have said.
    directory.disable_cleanup(true);
    Ok(directory)
}

fn settings(arguments: &Arguments, base_port: u16, directory: &TempDir, lease_ms: u64) -> Settings {
    let kinds = kinds(arguments);
    Settings {
        directory: directory.path().to_owned(),
        base_port,
        mode: arguments.mode,
        lease: Duration::from_millis(lease_ms),
        limit: LIMIT,
        services: arguments.services,
        shards: arguments.shards.into(),
        has_failpoints: arguments.measure.is_none() && kinds.iter().any(|kind| kind.is_of_disk()),
        distance: Duration::ZERO,
        survivor: None,
    }
}

fn kinds(arguments: &Arguments) -> Vec<Kind> {
    if arguments.faults.is_empty() {
        Kind::all(arguments.services, arguments.shards.into())
    } else {
        arguments.faults.clone()
    }
}

fn play(arguments: &Arguments, base_port: u16) -> Result<bool> {
    let lease_ms = arguments.lease_ms.unwrap_or(LEASE_MS);
    let kinds = kinds(arguments);
    println!(
        "{} s a round, mode {:?}, lease {lease_ms} ms, log services: {}, shards: {}",
        arguments.seconds, arguments.mode, arguments.services, arguments.shards
    );
    let mut failed: Vec<u64> = Vec::new();
    for seed in (arguments.seed..).take(arguments.rounds as usize) {
        let mut directory = directory()?;
        let mut random = StdRng::seed_from_u64(seed);
        let mut settings = settings(arguments, base_port, &directory, lease_ms);
        let limit_ms = LIMITS_MS[random.random_range(0..LIMITS_MS.len())];
        if settings.mode == Mode::Async {
            settings.limit = Duration::from_millis(limit_ms);
        }
        let length = Duration::from_secs(arguments.seconds);
        let plan = Plan::draw(&mut random, length, settings.lease, &kinds, (settings.services, settings.shards));
        // Not drawn: a single service has none, and its rounds are to be what they were.
        settings.survivor = (settings.services > 1).then_some(seed as usize % settings.services);
        let planned: String = plan.0.iter().map(|fault| format!("{fault}\n")).collect();
        fs::write(directory.path().join("plan"), planned)?;
        let report = match round::play(&settings, &plan, random.random()) {
            Ok(report) => report,
            // What could not be begun has shown nothing.
            Err(error) if arguments.expect_violation => {
                println!("{error:#}\n0 passed, 1 failed");
                return Ok(false);
            }
            Err(error) => Report { violation: Some(format!("{error:#}")), ..Report::default() },
        };
        println!("{}", describe(seed, &report));
        if let Some(file) = &arguments.record {
            record::add(file, seed, &settings, &report)?;
        }
        if let Some(violation) = &report.violation {
            failed.push(seed);
            fs::write(directory.path().join("violation"), violation)?;
            if arguments.expect_violation {
                directory.disable_cleanup(false);
                break;
            }
            println!("{violation}\nplan, faults, data and logs are in {}", directory.path().display());
        } else if arguments.keep {
            println!("plan, faults, data and logs are in {}", directory.path().display());
        } else {
            directory.disable_cleanup(false);
        }
    }
    if arguments.expect_violation {
        let is_found = !failed.is_empty();
        println!("the module is broken on purpose, and that was {}found", if is_found { "" } else { "not " });
        println!("{} passed, {} failed", u32::from(is_found), u32::from(!is_found));
        return Ok(is_found);
    }
    if !failed.is_empty() {
        println!("seeds that failed: {failed:?}");
    }
    println!("{} passed, {} failed", arguments.rounds as usize - failed.len(), failed.len());
    Ok(failed.is_empty() && arguments.rounds > 0)
}

/// One line.
fn describe(seed: u64, report: &Report) -> String {
    let mut line = format!("seed {seed}:");
    for (kind, count) in &report.counts {
        let name = kind.words();
        // It cannot fail on a string.
        let _ = write!(line, " {name} {count},");
    }
    let answers = report.answers();
    let writes = answers.iter().filter(|answer| answer.is_write).count();
    let (gap, since) = report.longest_gap();
    let gap_began = since.zip(report.began).map_or(Duration::ZERO, |(since, began)| since - began);
    let _ = write!(
        line,
        " {} operations, {writes} writes acknowledged, {} takeovers, longest time without {:.2} s (from {:.2} s on), {} histories",
        answers.len(),
        report.takeovers(),
        gap.as_secs_f64(),
        gap_began.as_secs_f64(),
        report.laps,
    );
    if report.loss.writes > 0 {
        let _ = write!(line, ", {} writes missing (span {:.0?})", report.loss.writes, report.loss.span);
    }
    let verdict = report.violation.as_ref().map_or("passed", |_| "FAILED");
    let _ = write!(line, ": {verdict}");
    // The first line says what; more of it is told apart.
    if let Some(what) = report.violation.as_ref().and_then(|violation| violation.lines().next()) {
        let _ = write!(line, ", {what}");
    }
    line
}

fn measure(arguments: &Arguments, base_port: u16, end: measure::End) -> Result<bool> {
    let leases = arguments.lease_ms.map_or(MEASURED_LEASES_MS.to_vec(), |lease_ms| vec![lease_ms]);
    for lease_ms in leases {
        let mut directory = directory()?;
        let started = Instant::now();
        let settings = settings(arguments, base_port, &directory, lease_ms);
        let measured = measure::measure(&settings, end, arguments.rounds, arguments.seed)
            .with_context(|| format!("seed {}, logs are in {}", arguments.seed, directory.path().display()))?;
        directory.disable_cleanup(false);
        println!("{measured} (in {:.0?})", started.elapsed());
    }
    Ok(true)
}
