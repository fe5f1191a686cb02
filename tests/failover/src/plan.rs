//! What is broken when, drawn at random. The same seed draws the same.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::Rng;

use crate::link::Way;
use crate::system::NODES;

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
    /// The log service is killed and started again; all of them are if there are three.
    LogKill,
    /// DURABILITY.FAILOVER, to the best node or a certain one.
    Handover,
    /// All nodes of a shard are killed at once.
    KillAll,
    /// The log services and all nodes of all shards are killed at once.
    Blackout,
    /// A node is killed, and started again with an RDB that was saved earlier.
    OldRdb,
    /// Of three log services one is killed and started again, as all that follows here.
    ServiceKill,
    /// One stands still (SIGSTOP).
    ServiceStop,
    /// One is asked to end (SIGTERM), and started again.
    ServiceRestart,
    /// That is done to all, one after the other, each when all copies have everything.
    Rolling,
    /// Two are killed at once.
    TwoKill,
    /// All connections between one and another one or both are closed, and no others made; of one way only or of both.
    PeerCut,
    /// Nothing gets through there, one way or both ways, and nothing is closed.
    PeerStall,
    /// What goes there comes late.
    PeerSlow,
    /// Each sync of a service's disk takes long.
    DiskSlow,
    /// Its disk does not come back for a while.
    DiskHang,
    /// Its disk is full or broken: what is written or synced fails. When that is mended, the service is started again.
    DiskFail,
    /// A log service and the node of the same zone are killed at once.
    ZoneKill,
    /// A log service is killed and its disk is lost. Another one, on an empty disk, gets its place.
    Replace,
    /// Of a cluster the leaders of two shards are killed at once, as all that follows here.
    TwoLeaders,
    /// Slots are asked to move from one shard to another one.
    Migrate,
    /// The connections by which other nodes reach one over the bus are closed, and no others made.
    BusCut,
    /// Nothing gets through there, one way or both ways, and nothing is closed.
    BusStall,
    /// What goes there comes late.
    BusSlow,
    /// A node hears nothing from the bus, and is heard.
    BusDeaf,
    /// For the self-check only, as no service can survive it: a service's disk says that it has written something, and has not.
    DiskLie,
}

impl Kind {
    /// Those that so many log services and shards are to survive.
    pub fn all(services: usize, shards: usize) -> Vec<Kind> {
        let is_survived = |kind: &Kind| match *kind {
            Kind::DiskLie => false,
            kind if kind >= Kind::TwoLeaders => shards > 1,
            kind if kind >= Kind::ServiceKill => services > 1,
            _ => true,
        };
        Kind::value_variants().iter().copied().filter(is_survived).collect()
    }

    /// Its name, in words.
    pub fn words(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().replace('-', " "))
    }

    /// Whether it takes a log service whose disk can be made to fail.
    pub fn is_of_disk(self) -> bool {
        matches!(self, Kind::DiskSlow | Kind::DiskHang | Kind::DiskFail | Kind::DiskLie)
    }
}

/// Which node is meant, when the time comes; or which log service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that leads, or decides.
    Leader,
    /// One that does not: the first or the second after that one.
    Other(usize),
}

/// What a fault is about where three services keep the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfServices {
    /// Which service.
    pub target: Target,
    /// Of links between services: to the first after it, the second, or both.
    pub others: Vec<usize>,
    /// Of links between a node and services: only the one to that service, or all.
    pub is_alone: bool,
    /// What a disk that fails says.
    pub error: &'static str,
}

/// What a fault is about in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfCluster {
    /// Which shard.
    pub shard: usize,
    /// Another shard, to which slots move or whose leader is killed as well.
    pub other: usize,
    /// Decides which slots move.
    pub seed: u64,
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
    /// Of links that are slow, and disks.
    pub delay: Duration,
    /// None if there is a single service.
    pub of_services: Option<OfServices>,
    /// None outside cluster mode.
    pub of_cluster: Option<OfCluster>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { at, kind, target, lasts, ways, delay, of_services, of_cluster } = self;
        write!(f, "{:6.3} s  {kind:?} {target:?} for {lasts:.0?}, ways {ways:?}, delay {delay:.0?}", at.as_secs_f64())?;
        of_services.iter().try_for_each(|of_services| write!(f, ", {of_services:?}"))?;
        of_cluster.iter().try_for_each(|of_cluster| write!(f, ", {of_cluster:?}"))
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
/// How many are the first ones.
const FRONT: usize = 8;
/// In leases.
const LONGEST: f64 = 3.0;

impl Plan {
    /// Draws what happens in a run of that length, of those kinds, to so many log services and shards.
    pub fn draw(
        random: &mut StdRng,
        length: Duration,
        lease: Duration,
        kinds: &[Kind],
        (services, shards): (usize, usize),
    ) -> Self {
        let mut faults: Vec<Fault> = Vec::new();
        let mut deck: Vec<Kind> = Vec::new();
        let mut at = FIRST;
        let mut until_quiet = random.random_range(ROW);
        while at + LAST < length && !kinds.is_empty() {
            if deck.is_empty() {
                deck = kinds.to_vec();
                // Those that matter most come twice.
                let most = [Kind::Kill, Kind::Stop, Kind::ServiceKill, Kind::ServiceStop, Kind::Migrate];
                deck.extend(most.iter().filter(|kind| kinds.contains(kind)));
                deck.shuffle(random);
                if faults.is_empty() {
                    put_in_front(&mut deck, Kind::Replace, random);
                }
            }
            let kind = deck.pop().expect("the deck is not empty");
            let fault = draw_fault(random, at, kind, lease);
            let of_services = (services > 1).then(|| draw_of_services(random));
            let of_cluster = (shards > 1).then(|| draw_of_cluster(random, shards));
            faults.push(Fault { of_services, of_cluster, ..fault });
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

/// Brings a kind among the first that are drawn, if it is one: however much of the deck comes about, it is in it.
fn put_in_front(deck: &mut [Kind], kind: Kind, random: &mut StdRng) {
    if let Some(at) = deck.iter().position(|drawn| *drawn == kind) {
        let last = deck.len() - 1;
        deck.swap(at, last - random.random_range(0..FRONT.min(deck.len())));
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
        of_services: None,
        of_cluster: None,
    }
}

/// Drawn apart, so that what is drawn for a single service is what it was before there were three.
fn draw_of_services(random: &mut StdRng) -> OfServices {
    let target = if random.random_bool(0.5) { Target::Leader } else { Target::Other(random.random_range(1..NODES)) };
    let others: [&[usize]; 4] = [&[1], &[2], &[1, 2], &[1, 2]];
    OfServices {
        target,
        others: others.choose(random).expect("there are some").to_vec(),
        is_alone: random.random_bool(0.5),
        error: ["enospc", "eio"].choose(random).expect("there are some"),
    }
}

fn draw_of_cluster(random: &mut StdRng, shards: usize) -> OfCluster {
    let shard = random.random_range(0..shards);
    let other = (shard + random.random_range(1..shards)) % shards;
    OfCluster { shard, other, seed: random.random() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const SIZES: [(usize, usize); 4] = [(1, 1), (3, 1), (1, 3), (3, 3)];

    fn draw(seed: u64, size: (usize, usize)) -> Plan {
        let lease = Duration::from_secs(1);
        let kinds = Kind::all(size.0, size.1);
        Plan::draw(&mut StdRng::seed_from_u64(seed), Duration::from_secs(60), lease, &kinds, size)
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        for size in SIZES {
            assert_eq!(format!("{:?}", draw(7, size)), format!("{:?}", draw(7, size)));
            assert_ne!(format!("{:?}", draw(7, size)), format!("{:?}", draw(8, size)));
        }
    }

    #[test]
    fn in_each_minute_a_disk_is_lost() {
        for seed in 0..100 {
            for size in [(3, 1), (3, 3)] {
                let Plan(faults) = draw(seed, size);
                assert!(faults.iter().any(|fault| fault.kind == Kind::Replace), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_few_minutes_have_every_kind_and_quiet_times() {
        for size in SIZES {
            let Plan(faults) = draw(1, size);
            let more: Vec<Fault> = (2..5).flat_map(|seed| draw(seed, size).0).collect();
            for kind in Kind::all(size.0, size.1) {
                assert!(faults.iter().chain(&more).any(|fault| fault.kind == kind), "{kind:?} is missing");
            }
            let mut mended = Duration::ZERO;
            let mut quiet = 0;
            for fault in &faults {
                assert_eq!((fault.of_services.is_some(), fault.of_cluster.is_some()), (size.0 > 1, size.1 > 1));
                quiet += usize::from(fault.at > mended + Duration::from_millis(*QUIET_MS.start() - 1));
                mended = mended.max(fault.mended());
            }
            assert!(quiet > 3, "{quiet}");
        }
    }
}
