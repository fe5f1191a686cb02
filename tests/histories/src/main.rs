//! Checks that a durable Valkey is linearizable: what its clients see, through kills of the server and the log service, is
//! what one server that never dies would have shown them.
//!
//! Round by round, clients do reads, writes, transactions and scripts on a few keys while acknowledgements of the log come
//! late and processes are killed. Everything that was asked and answered is recorded, and then an order of the operations is
//! searched for that explains all answers. If there is none, the history is printed.
//!
//! The seed decides what clients do and what is killed when; how threads and processes are scheduled differs in each run.

mod choices;
mod client;
mod delays;
mod processes;
mod round;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rand::rngs::StdRng;
use rand::SeedableRng;
use tempfile::TempDir;

use crate::choices::{Crash, Plan, CLIENTS};
use crate::delays::Delays;
use crate::processes::Cluster;
use durability_histories::history::History;
use durability_histories::judge::{judge, Verdict};

/// Checks histories of a durable Valkey under crashes. The last line is "N passed, N failed", where N are rounds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds to play
    #[arg(long, conflicts_with = "seconds")]
    rounds: Option<u32>,
    /// Begin no round after that time
    #[arg(long)]
    seconds: Option<u64>,
    /// Decides what clients do and what is killed when; how threads and processes are scheduled differs in each run
    #[arg(long, default_value_t = rand::random())]
    seed: u64,
    /// Log services: 1, or 3 that keep the log together
    #[arg(long, default_value_t = 1)]
    services: usize,
    /// Succeed only if a violation is found: for a server that is broken on purpose
    #[arg(long)]
    expect_violation: bool,
}

const DEFAULT_ROUNDS: u32 = 50;

/// Sums over all rounds.
#[derive(Debug, Default)]
struct Totals {
    rounds: u32,
    operations: usize,
    unknown: usize,
    crashes: u32,
    slowest_search: Duration,
}

/// How a run ended.
#[derive(Debug, PartialEq)]
enum End {
    /// All rounds were played, and nothing was found.
    Clean,
    /// A violation, which has been printed.
    Violation,
    /// A round could not be finished or judged.
    Failure,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut directory = tempfile::Builder::new().prefix("histories.").tempdir().context("no temporary directory")?;
    directory.disable_cleanup(true);
    println!("seed {}, {CLIENTS} clients, logs and data in {}", arguments.seed, directory.path().display());
    let started = Instant::now();
    let mut totals = Totals::default();
    let end = play_rounds(&arguments, &directory, started, &mut totals)?;
    println!(
        "{} operations, {} of them without an answer, {} crashes, slowest search {} ms, {:.1} s in all",
        totals.operations,
        totals.unknown,
        totals.crashes,
        totals.slowest_search.as_millis(),
        started.elapsed().as_secs_f64()
    );
    let succeeded = match (arguments.expect_violation, &end) {
        (false, End::Clean) => {
            println!("{} passed, 0 failed", totals.rounds);
            totals.rounds > 0
        }
        (false, _) => {
            println!("{} passed, 1 failed", totals.rounds - 1);
            false
        }
        (true, End::Violation) => {
            println!(
                "the violation was found after {:.1} s, in round {}",
                started.elapsed().as_secs_f64(),
                totals.rounds
            );
            println!("1 passed, 0 failed");
            true
        }
        (true, _) => {
            println!("the server is broken on purpose, and no violation was found");
            println!("0 passed, 1 failed");
            false
        }
    };
    // Where something failed, what the processes have said is worth reading.
    directory.disable_cleanup(!succeeded);
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play_rounds(arguments: &Arguments, directory: &TempDir, started: Instant, totals: &mut Totals) -> Result<End> {
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let mut cluster = Cluster::start(directory.path(), arguments.services)?;
    let log_urls = cluster.services.list.iter().map(|service| service.url.clone()).collect();
    let _delays = Delays::start(log_urls, arguments.seed);
    println!("{:>5}  {:<24} {:>10} {:>9} {:>10}", "round", "crash", "operations", "unknown", "search ms");
    let is_over = |rounds: u32| match (arguments.rounds, arguments.seconds) {
        (_, Some(seconds)) => started.elapsed() >= Duration::from_secs(seconds),
        (rounds_wanted, None) => rounds >= rounds_wanted.unwrap_or(DEFAULT_ROUNDS),
    };
    while !is_over(totals.rounds) {
        totals.rounds += 1;
        let plan = Plan::draw(totals.rounds, &mut random, arguments.services);
        let (history, played) = round::play(&mut cluster, &plan);
        if let Err(error) = played {
            println!("round {} FAILED: {error:#}\n{}", plan.round, history.describe(&[]));
            return Ok(End::Failure);
        }
        let search = Instant::now();
        let verdict = judge(&history)?;
        totals.add(&plan, &history, search.elapsed());
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Violation { unexplained } => {
                println!("round {}, seed {}: NOT LINEARIZABLE", plan.round, arguments.seed);
                println!("{}", history.describe(&unexplained));
                println!("no order explains all answers; the one that explains most leaves those marked * out");
                return Ok(End::Violation);
            }
            Verdict::Undecided => {
                println!("round {}: FAILED, the search takes too long\n{}", plan.round, history.describe(&[]));
                return Ok(End::Failure);
            }
        }
    }
    Ok(End::Clean)
}

impl Totals {
    fn add(&mut self, plan: &Plan, history: &History, search: Duration) {
        self.operations += history.operations();
        self.unknown += history.unknown();
        self.crashes += u32::from(plan.crash != Crash::Nothing);
        self.slowest_search = self.slowest_search.max(search);
        println!(
            "{:>5}  {:<24} {:>10} {:>9} {:>10}",
            plan.round,
            format!("{:?}", plan.crash),
            history.operations(),
            history.unknown(),
            search.as_millis()
        );
    }
}
