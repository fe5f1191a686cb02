//! How a simulation is run: many seeds, one that is traced, or one rule after the other taken out. Shared by all simulations, with what
//! each tells of itself ([`Simulation`]).

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Steps of trouble that a seed sees unless told.
pub const STEPS: u64 = 1500;
/// Seeds that `cargo test` plays.
const TESTED_SEEDS: u64 = 1000;
/// Seeds that the self-check looks at for a rule unless told.
const SELF_CHECK_SEEDS: u64 = 20_000;

/// Something happened that must not.
pub type Violation = String;

/// How often something happened. [`seen!`](crate::seen) makes a type of it.
pub trait Seen: Default {
    /// Adds what another seed has seen.
    fn add(&mut self, other: &Self);
    /// All of it, by name.
    fn all(&self) -> Vec<(&'static str, u64)>;
    /// The steps.
    fn steps(&self) -> u64;
}

/// What became of a seed.
pub struct Played<S> {
    /// What happened.
    pub seen: S,
    /// What must not have happened, if anything; a panic as well.
    pub violation: Option<Violation>,
}

/// A simulation.
pub trait Simulation {
    /// The package whose program plays it.
    const PACKAGE: &'static str;
    /// Takes out each rule that is wanted, and has a seed looked for that shows it; none if no rule can be taken out in this build.
    const SELF_CHECK: Option<fn(&mut SelfCheck)>;
    /// What it counts.
    type Seen: Seen;
    /// Plays a seed with all rules.
    fn play(seed: u64, steps: u64, is_traced: bool) -> Played<Self::Seen>;
}

/// Declares a type that counts how often something happened. One of its fields has to be `steps`.
#[macro_export]
macro_rules! seen {
    ($($field:ident: $name:literal,)*) => {
        /// How often something happened.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub struct Seen {
            $(pub $field: u64,)*
        }

        impl $crate::runner::Seen for Seen {
            fn add(&mut self, other: &Seen) {
                $(self.$field += other.$field;)*
            }

            fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field),)*]
            }

            fn steps(&self) -> u64 {
                self.steps
            }
        }
    };
}

/// What `run` finds that must not happen; a panic as well.
pub fn violation_of(run: impl FnOnce() -> Result<(), Violation>) -> Option<Violation> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("a panic: {}", text_of(&*panic))),
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

struct Options {
    seeds: Option<u64>,
    from: u64,
    seconds: Option<u64>,
    steps: u64,
    trace: Option<u64>,
    is_self_check: bool,
    rule: Option<String>,
}

fn usage(package: &str) -> String {
    format!(
        "usage: {package} [--seeds N] [--from S] [--seconds T] [--steps N] | --trace S [--steps N] | --self-check [--rule R] [--from S] [--seeds N]

  --seeds N      plays N seeds, 1000 unless told
  --from S       the first of them, 1 unless told
  --seconds T    ends after T seconds, however many seeds there are
  --steps N      steps of trouble in each
  --trace S      plays one seed and prints each step
  --rule R       that rule alone
  --self-check   takes out each rule, and looks for it in at most N seeds; needs a build with --features self-check"
    )
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

/// The program of a simulation: does what its command line asks for.
pub fn run<S: Simulation>() -> ExitCode {
    let Some(options) = parse() else {
        eprintln!("{}", usage(S::PACKAGE));
        return ExitCode::from(2);
    };
    let failed = match options.trace {
        Some(seed) => trace::<S>(seed, options.steps),
        None if options.is_self_check => self_check::<S>(options),
        None => play_all::<S>(&options),
    };
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn trace<S: Simulation>(seed: u64, steps: u64) -> usize {
    match S::play(seed, steps, true).violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            1
        }
        None => 0,
    }
}

/// Plays seeds until they are over, or the time is. How many have failed.
fn play_all<S: Simulation>(options: &Options) -> usize {
    let began = Instant::now();
    let limit = options.seconds.map(Duration::from_secs);
    let seeds = options.seeds.unwrap_or(if limit.is_some() { u64::MAX - options.from } else { 1000 });
    let (mut seen, mut played, mut failed) = (S::Seen::default(), 0_u64, 0);
    for seed in options.from..options.from + seeds {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let outcome = S::play(seed, options.steps, false);
        played += 1;
        seen.add(&outcome.seen);
        if let Some(violation) = outcome.violation {
            failed += 1;
            println!("FAILED: seed {seed}: {violation}");
            println!("  reproduce: {} --steps {}", how_to_trace::<S>(seed), options.steps);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let rate = played as f64 / seconds;
    println!(
        "{played} seeds in {seconds:.1} s, {rate:.0} a second, {:.0} steps a second",
        seen.steps() as f64 / seconds
    );
    let seen: Vec<String> = seen.all().iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("seen: {}", seen.join(", "));
    println!("{} passed, {failed} failed", played - failed as u64);
    failed
}

fn how_to_trace<S: Simulation>(seed: u64) -> String {
    format!("cargo run --release -p {} -- --trace {seed}", S::PACKAGE)
}

/// Looks for rules that are taken out.
pub struct SelfCheck {
    options: Options,
    found: usize,
    missed: usize,
}

impl SelfCheck {
    /// Whether the rule of that name is to be taken out: all are, unless one is named.
    pub fn wants(&self, rule: &str) -> bool {
        self.options.rule.as_deref().is_none_or(|only| only == rule)
    }

    /// Looks for a seed that shows that a rule is taken out, and prints what was found. `play` is given the seed and the steps.
    pub fn look<S>(&mut self, label: &str, play: impl Fn(u64, u64) -> Played<S>) {
        let Options { seeds, from, steps, .. } = self.options;
        let most = seeds.unwrap_or(SELF_CHECK_SEEDS);
        let began = Instant::now();
        let found = (from..from + most).find_map(|seed| Some((seed, play(seed, steps).violation?)));
        let seconds = began.elapsed().as_secs_f64();
        match &found {
            Some((seed, violation)) => println!("| {label} | {} | {seconds:.1} | {violation} |", seed - from + 1),
            None => println!("| {label} | NOT FOUND in {most} | {seconds:.1} | |"),
        }
        *(if found.is_some() { &mut self.found } else { &mut self.missed }) += 1;
    }
}

/// How many rules were not found.
fn self_check<S: Simulation>(options: Options) -> usize {
    let Some(take_out) = S::SELF_CHECK else {
        eprintln!("no rule can be taken out in this build: build it with --features self-check");
        return 1;
    };
    let mut check = SelfCheck { options, found: 0, missed: 0 };
    // What a rule keeps from happening may well be a panic.
    std::panic::set_hook(Box::new(|_| {}));
    println!("| taken out | seeds until it is found | s | what was found |\n|---|---|---|---|");
    take_out(&mut check);
    drop(std::panic::take_hook());
    println!("{} passed, {} failed", check.found, check.missed);
    check.missed
}

/// For tests: a few hundred seeds keep all promises, and see all kinds of trouble.
///
/// # Panics
/// They do not.
pub fn assert_promises_hold<S: Simulation>() {
    let mut seen = S::Seen::default();
    for seed in 1..=TESTED_SEEDS {
        let played = S::play(seed, STEPS, false);
        if let Some(violation) = played.violation {
            panic!("seed {seed}: {violation}\nreproduce: {}", how_to_trace::<S>(seed));
        }
        seen.add(&played.seen);
    }
    for (what, count) in seen.all() {
        assert!(count > 0, "no {what} in {TESTED_SEEDS} seeds");
    }
}

/// For tests: a seed gives the same steps each time.
///
/// # Panics
/// One does not.
pub fn assert_seeds_repeat<S: Simulation>() {
    for seed in 1..=20 {
        let [once, again] = [(), ()].map(|()| S::play(seed, STEPS, false));
        assert_eq!((once.seen.all(), once.violation), (again.seen.all(), again.violation), "seed {seed}");
    }
}
