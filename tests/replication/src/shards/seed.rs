//! One seed, from its beginning until all is well again, and through a power failure of all machines.

use durability_simulation::promises::Seen;
use durability_simulation::runner::{violation_of, Played, SelfCheck, Simulation};
use logservice::store::file_store::files::Step;

use super::world::World;

/// A replicated shard and its nodes.
pub struct ShardsSimulation;

impl Simulation for ShardsSimulation {
    const PACKAGE: &'static str =
        "durability-replication-simulation --features files --bin durability-replicated-shard-simulation";
    #[cfg(feature = "self-check")]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = Some(crate::self_check::run_on_shards);
    #[cfg(not(feature = "self-check"))]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = None;
    type Seen = Seen;

    fn play(seed: u64, steps: u64, is_traced: bool) -> Played<Seen> {
        play(seed, steps, None, is_traced)
    }
}

/// Plays a seed. `lie` is a step on files that no machine does, though it says so.
pub fn play(seed: u64, steps: u64, lie: Option<Step>, is_traced: bool) -> Played<Seen> {
    let mut seen = Seen::default();
    let violation = violation_of(|| {
        let mut world = World::new(seed, lie, is_traced)?;
        let played = world.run(3 * steps).and_then(|()| world.get_well()).and_then(|()| world.lose_power());
        seen = world.promises.seen;
        played
    });
    Played { seen, violation }
}
