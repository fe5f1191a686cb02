//! One seed, from its beginning until all is well again.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::promises::Violation;
use crate::rules::DiskRule;
use crate::seen::Seen;
use crate::world::World;

/// Steps of trouble that a seed sees unless told.
pub const STEPS: u64 = 1500;

/// What became of a seed.
pub struct Played {
    /// What happened.
    pub seen: Seen,
    /// What must not have happened, if anything; a panic as well.
    pub violation: Option<Violation>,
}

/// Plays a seed. `broken` is a rule that no disk keeps.
pub fn play(seed: u64, steps: u64, broken: Option<DiskRule>, is_traced: bool) -> Played {
    let mut world = World::new(seed, broken, is_traced);
    let played = catch_unwind(AssertUnwindSafe(|| world.run(steps).and_then(|()| world.get_well())));
    let violation = match played {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("a panic: {}", text_of(&*panic))),
    };
    let mut seen = world.promises.seen;
    for member in &world.members {
        let disk = member.disk.lock();
        seen.torn += disk.torn;
        seen.unawaited += disk.unawaited;
        seen.truncations += disk.truncations;
        seen.reads += disk.reads;
    }
    Played { seen, violation }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
