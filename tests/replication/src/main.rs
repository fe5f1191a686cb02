//! Plays seeds, and says how to play a failing one again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use durability_replication_simulation::seed::{play, STEPS};
use durability_replication_simulation::seen::Seen;

const USAGE: &str = "usage: durability-replication-simulation [--seeds N] [--from S] [--seconds T] [--steps N] | --trace S [--steps N] | --self-check [--rule R] [--from S] [--seeds N]

  --seeds N      plays N seeds, 1000 unless told
  --from S       the first of them, 1 unless told
  --seconds T    ends after T seconds, however many seeds there are
  --steps N      steps of trouble in each
  --trace S      plays one seed and prints each step
  --rule R       that rule alone
  --self-check   takes out each rule, and looks for it in at most N seeds; needs a build with --features self-check";

struct Options {
    seeds: Option<u64>,
    from: u64,
    seconds: Option<u64>,
    steps: u64,
    trace: Option<u64>,
    is_self_check: bool,
    rule: Option<String>,
}

fn parse() -> Option<Options> {
    let mut options =
        Options { seeds: None, from: 1, seconds: None, steps: STEPS, trace: None, is_self_check: false, rule: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        if flag == "--self-check" {
            options.is_self_check = true;
            continue;
        }
        if flag == "--rule" {
            options.rule = Some(arguments.next()?);
            continue;
        }
        let value = arguments.next()?.parse().ok()?;
        match flag.as_str() {
            "--seeds" => options.seeds = Some(value),
            "--from" => options.from = value,
            "--seconds" => options.seconds = Some(value),
            "--steps" => options.steps = value,
            "--trace" => options.trace = Some(value),
            _ => return None,
        }
    }
    Some(options)
}

fn main() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let failed = match options.trace {
        Some(seed) => trace(seed, options.steps),
        None if options.is_self_check => self_check(&options),
        None => play_all(&options),
    };
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn trace(seed: u64, steps: u64) -> usize {
    match play(seed, steps, None, true).violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            1
        }
        None => 0,
    }
}

/// Plays seeds until they are over, or the time is. How many have failed.
fn play_all(options: &Options) -> usize {
    let began = Instant::now();
    let limit = options.seconds.map(Duration::from_secs);
    let seeds = options.seeds.unwrap_or(if limit.is_some() { u64::MAX - options.from } else { 1000 });
    let (mut seen, mut played, mut failed) = (Seen::default(), 0_u64, 0);
    for seed in options.from..options.from + seeds {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let outcome = play(seed, options.steps, None, false);
        played += 1;
        seen.add(&outcome.seen);
        if let Some(violation) = outcome.violation {
            failed += 1;
            println!("FAILED: seed {seed}: {violation}");
            println!(
                "  reproduce: cargo run --release -p durability-replication-simulation -- --trace {seed} --steps {}",
                options.steps
            );
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = played as f64 / seconds;
    println!("{played} seeds in {seconds:.1} s, {rate:.0} a second, {:.0} steps a second", seen.steps as f64 / seconds);
    let seen: Vec<String> = seen.all().iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("seen: {}", seen.join(", "));
    println!("{} passed, {failed} failed", played - failed as u64);
    failed
}

#[cfg(feature = "self-check")]
fn self_check(options: &Options) -> usize {
    let most = options.seeds.unwrap_or(20_000);
    let (found, missed) =
        durability_replication_simulation::self_check::run(options.rule.as_deref(), options.from, most, options.steps);
    println!("{found} passed, {missed} failed");
    missed
}

#[cfg(not(feature = "self-check"))]
fn self_check(_: &Options) -> usize {
    eprintln!("no rule can be taken out in this build: build it with --features self-check");
    1
}
