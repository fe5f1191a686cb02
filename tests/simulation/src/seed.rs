//! One seed, from its beginning until all is well again.

use crate::promises::Seen;
use crate::rules::NodeRule;
use crate::runner::{violation_of, Played, SelfCheck, Simulation};
use crate::world::World;

/// A shard and its nodes.
pub struct ShardSimulation;

impl Simulation for ShardSimulation {
    const PACKAGE: &'static str = "durability-simulation";
    #[cfg(feature = "self-check")]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = Some(crate::self_check::run);
    #[cfg(not(feature = "self-check"))]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = None;
    type Seen = Seen;

    fn play(seed: u64, steps: u64, is_traced: bool) -> Played<Seen> {
        play(seed, steps, None, is_traced)
    }
}

/// Plays a seed. `broken` is a rule that no node keeps.
pub fn play(seed: u64, steps: u64, broken: Option<NodeRule>, is_traced: bool) -> Played<Seen> {
    let mut world = World::new(seed, broken, is_traced);
    let violation = violation_of(|| world.run(steps).and_then(|()| world.get_well()));
    Played { seen: world.promises.seen, violation }
}
