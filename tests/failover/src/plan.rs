//! What is broken when, drawn at random. The same seed draws the same.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::Rng;

use crate::link::Way;
use crate::shard::NODES;

/// A way to break something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A node is killed (kill -9), and started again with an empty disk.
    Kill,
    /// A node stands still (SIGSTOP).
    Stop,
    /// All connections between a node and the log are closed, and no others made.
    LogCut,
    /// Nothing gets through between a node and the log, and nothing is closed.
    LogStall,
    /// What goes between a node and the log comes late.
    LogSlow,
    /// As LogCut, between a node and its clients.
    ClientCut,
    /// As LogStall, between a node and its clients.
    ClientStall,
    /// As LogSlow, between a node and its clients.
    ClientSlow,
    /// The log service is killed and started again.
    LogKill,
    /// DURABILITY.FAILOVER, to the best node or a certain one.
    Handover,
    /// All nodes are killed at once.
    KillAll,
    /// The log service and all nodes are killed at once.
    Blackout,
    /// A node is killed, and started again with an RDB that was saved earlier.
    OldRdb,
}

/// Which node is meant, when the time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that leads.
    Leader,
    /// One that does not: the first or the second after the one that leads.
    Other(usize),
}

/// Something that is broken, and mended after a while.
#[derive(Debug, Clone)]
pub struct Fault {
    /// From the beginning of the run.
    pub at: Duration,
    /// What is done.
    pub kind: Kind,
    /// To whom.
    pub target: Target,
    /// Until what is broken is mended; of all nodes, each for itself.
    pub lasts: [Duration; NODES],
    /// Of links.
    pub ways: Vec<Way>,
    /// Of links that are slow.
    pub delay: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { at, kind, target, lasts, ways, delay } = self;
        write!(f, "{:6.3} s  {kind:?} {target:?} for {lasts:.0?}, ways {ways:?}, delay {delay:.0?}", at.as_secs_f64())
    }
}

/// In order of time.
#[derive(Debug)]
pub struct Plan(pub Vec<Fault>);

const FIRST: Duration = Duration::from_secs(1);
/// What is broken ends before that, and so does what follows from it.
const LAST: Duration = Duration::from_secs(1);
/// From one fault to the next: they may overlap.
const APART_MS: std::ops::RangeInclusive<u64> = 200..=2500;
/// Faults until there is a quiet time.
const ROW: std::ops::RangeInclusive<usize> = 2..=5;
const QUIET_MS: std::ops::RangeInclusive<u64> = 1000..=3000;
const DELAY_MS: std::ops::RangeInclusive<u64> = 5..=300;
/// In leases.
const LONGEST: f64 = 3.0;

impl Plan {
    /// Draws what happens in a run of that length, of those kinds.
    pub fn draw(random: &mut StdRng, length: Duration, lease: Duration, kinds: &[Kind]) -> Self {
        let mut faults: Vec<Fault> = Vec::new();
        let mut deck: Vec<Kind> = Vec::new();
        let mut at = FIRST;
        let mut until_quiet = random.random_range(ROW);
        while at + LAST < length && !kinds.is_empty() {
            if deck.is_empty() {
                deck = kinds.to_vec();
                // The two that matter most come twice.
                deck.extend([Kind::Kill, Kind::Stop].iter().filter(|kind| kinds.contains(kind)));
                deck.shuffle(random);
            }
            let kind = deck.pop().expect("the deck is not empty");
            faults.push(draw_fault(random, at, kind, lease));
            at += Duration::from_millis(random.random_range(APART_MS));
            until_quiet -= 1;
            if until_quiet == 0 {
                let mended = faults.iter().map(Fault::mended).max().unwrap_or(at);
                at = at.max(mended) + Duration::from_millis(random.random_range(QUIET_MS));
                until_quiet = random.random_range(ROW);
            }
        }
        Plan(faults)
    }
}

impl Fault {
    /// When all of it is.
    fn mended(&self) -> Duration {
        self.at + self.lasts.into_iter().max().unwrap_or_default()
    }
}

fn draw_fault(random: &mut StdRng, at: Duration, kind: Kind, lease: Duration) -> Fault {
    let target = if random.random_bool(0.65) { Target::Leader } else { Target::Other(random.random_range(1..NODES)) };
    let ways: [&[Way]; 4] = [&[Way::There, Way::Back], &[Way::There, Way::Back], &[Way::There], &[Way::Back]];
    Fault {
        at,
        kind,
        target,
        lasts: std::array::from_fn(|_| lease.mul_f64(random.random_range(0.05..LONGEST))),
        ways: ways.choose(random).expect("there are some").to_vec(),
        delay: Duration::from_millis(random.random_range(DELAY_MS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn draw(seed: u64) -> Plan {
        let lease = Duration::from_secs(1);
        Plan::draw(&mut StdRng::seed_from_u64(seed), Duration::from_secs(60), lease, Kind::value_variants())
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        assert_eq!(format!("{:?}", draw(7)), format!("{:?}", draw(7)));
        assert_ne!(format!("{:?}", draw(7)), format!("{:?}", draw(8)));
    }

    #[test]
    fn a_minute_has_every_kind_and_quiet_times() {
        let Plan(faults) = draw(1);
        for kind in Kind::value_variants() {
            assert!(faults.iter().any(|fault| fault.kind == *kind), "{kind:?} is missing");
        }
        let mut mended = Duration::ZERO;
        let mut quiet = 0;
        for fault in &faults {
            quiet += usize::from(fault.at > mended + Duration::from_millis(*QUIET_MS.start() - 1));
            mended = mended.max(fault.mended());
        }
        assert!(quiet > 3, "{quiet}");
    }
}
