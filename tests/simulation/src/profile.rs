//! How much of which trouble a seed sees. Each seed has some of it, so that what needs quiet in other respects is found as well.

use crate::disk::Faults;
use crate::draw::Draw;

/// Weights are against those of ordinary steps, which have about 30 together.
#[derive(Debug, Clone)]
pub struct Profile {
    /// How many nodes there are.
    pub nodes: usize,
    /// The slowest clock of a node against the service's, in millionths: what the service's margin allows for.
    pub slowest_clock_ppm: u64,
    /// Lengths of leases that leaders ask for, in milliseconds; 0 does not expire.
    leases_ms: Vec<u64>,
    /// Weight of renewals that are not due.
    pub early_renewals: u32,
    /// Weight of a leader's slots, which it asks for and sets.
    pub slots: u32,
    /// Weight of planned failovers among a leader's deeds.
    pub handovers: u32,
    /// Weight of seeds among a leader's deeds.
    pub seeds: u32,
    /// A thousandth part of messages that is lost, and the connection with it.
    pub lost: u32,
    /// A thousandth part of questions that goes out on a new connection, though the one before works.
    pub reconnects: u32,
    /// A thousandth part of questions that is asked again on a new connection.
    pub asked_again: u32,
    /// Weight of a crash of the service.
    pub crashes: u32,
    /// Weight of a crash of a node.
    pub node_crashes: u32,
    /// Weight of a node that stands still.
    pub standstills: u32,
    /// Weight of a snapshot.
    pub snapshots: u32,
    /// Weight of an operator who takes the lease.
    pub releases: u32,
    /// Weight of a clone's appends.
    pub clones: u32,
    /// Weight of a disk that fills up, or has space again.
    pub full_disks: u32,
    /// Weight of a disk that becomes slow, or fast again.
    pub slow_disks: u32,
    /// A thousandth part of followers' steps in which one asks for the lease without a look at what it knows.
    pub careless: u32,
    /// Weight of time that passes.
    pub time: u32,
    /// How the disk misbehaves.
    pub faults: Faults,
}

impl Profile {
    /// What the seed of `draw` sees.
    pub fn draw(draw: &mut Draw) -> Self {
        // Apart from the others, which are the same with and without.
        let slots = draw.clone().fork().pick(&[2, 0, 0]);
        // Each kind of trouble is there in some seeds, and rare or frequent then.
        let mut some = |weights: &[u32]| draw.pick(weights);
        let (lost, reconnects, asked_again) = (some(&[0, 20, 100]), some(&[20, 300, 800]), some(&[0, 30, 150]));
        let (crashes, node_crashes, standstills) = (some(&[0, 0, 1, 1, 2]), some(&[0, 0, 1]), some(&[0, 1, 2]));
        let (snapshots, seeds, releases) = (some(&[0, 1, 2]), some(&[0, 0, 0, 1, 2]), some(&[0, 0, 1]));
        let (handovers, early_renewals, full_disks) = (some(&[0, 1]), some(&[0, 1, 4]), some(&[0, 0, 0, 1, 2]));
        let clones = some(&[0, 0, 0, 0, 0, 0, 0, 3]);
        let faults = Faults {
            is_full: false,
            failing: some(&[0, 0, 0, 20]),
            manifest_no_space: some(&[0, 0, 50]),
            manifest_unknown: some(&[0, 0, 0, 60]),
            busy: some(&[0, 10]),
        };
        let (time, nodes) = (some(&[1, 2, 5]), some(&[2, 3, 3, 4]) as usize);
        let (slow_disks, careless) = (draw.pick(&[0, 1, 2]), draw.pick(&[0, 0, 0, 50]));
        let leases_ms = match draw.below(6) {
            0 => vec![100],
            1 => vec![1000],
            2 => vec![4000],
            3 => vec![50, 1000],
            4 => vec![60, 2000, 200],
            _ => vec![0, 500],
        };
        let profile = Profile {
            nodes,
            slowest_clock_ppm: 955_000,
            leases_ms,
            early_renewals,
            slots,
            handovers,
            seeds,
            lost,
            reconnects,
            asked_again,
            crashes,
            node_crashes,
            standstills,
            snapshots,
            releases,
            clones,
            full_disks,
            slow_disks,
            careless,
            time,
            faults,
        };
        if clones == 0 {
            return profile;
        }
        // Bytes below a snapshot that were dropped cannot be compared, see `shard/overlap.rs`; a clone may have written them.
        let profile = Profile { snapshots: 0, seeds: 0, ..profile };
        if draw.chance(300) {
            return profile;
        }
        // A leader that lives for long has more that its clone can contradict.
        let (crashes, node_crashes, standstills) = (0, 0, 0);
        let (releases, handovers, careless, time, leases_ms) = (0, 0, 0, 1, vec![4000]);
        Profile { crashes, node_crashes, standstills, releases, handovers, careless, time, leases_ms, ..profile }
    }

    /// All is well from now on.
    pub fn calm(&self) -> Self {
        Profile {
            slots: 0,
            handovers: 0,
            seeds: 0,
            early_renewals: 0,
            lost: 0,
            reconnects: 0,
            asked_again: 0,
            crashes: 0,
            node_crashes: 0,
            standstills: 0,
            snapshots: 0,
            releases: 0,
            clones: 0,
            full_disks: 0,
            slow_disks: 0,
            careless: 0,
            time: 2,
            leases_ms: vec![1000],
            faults: Faults::default(),
            ..self.clone()
        }
    }

    /// The length of a lease that is asked for.
    pub fn lease_ms(&self, draw: &mut Draw) -> u64 {
        draw.pick(&self.leases_ms)
    }
}
