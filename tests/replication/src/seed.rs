//! One seed, from its beginning until all is well again.

use durability_simulation::runner::{violation_of, Played, SelfCheck, Simulation};

use crate::rules::DiskRule;
use crate::seen::Seen;
use crate::world::World;

/// The three copies of a log.
pub struct CopiesSimulation;

impl Simulation for CopiesSimulation {
    const PACKAGE: &'static str = "durability-replication-simulation";
    #[cfg(feature = "self-check")]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = Some(crate::self_check::run);
    #[cfg(not(feature = "self-check"))]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = None;
    type Seen = Seen;

    fn play(seed: u64, steps: u64, is_traced: bool) -> Played<Seen> {
        play(seed, steps, None, is_traced)
    }
}

/// Plays a seed. `broken` is a rule that no disk keeps.
pub fn play(seed: u64, steps: u64, broken: Option<DiskRule>, is_traced: bool) -> Played<Seen> {
    let mut world = World::new(seed, steps, broken, is_traced);
    let violation = violation_of(|| world.run(steps).and_then(|()| world.get_well()));
    Played { seen: count(&world), violation }
}

/// What a world has seen, with what its disks have.
pub(crate) fn count(world: &World) -> Seen {
    let mut seen = world.promises.seen;
    for member in &world.members {
        let disk = member.disk.lock();
        seen.torn += disk.torn;
        seen.unawaited += disk.unawaited;
        seen.truncations += disk.truncations;
        seen.reads += disk.reads;
    }
    seen
}
