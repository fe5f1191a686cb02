//! One seed, from its beginning until all is well again.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::promises::{Seen, Violation};
use crate::rules::NodeRule;
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

/// Plays a seed. `broken` is a rule that no node keeps.
pub fn play(seed: u64, steps: u64, broken: Option<NodeRule>, is_traced: bool) -> Played {
    let mut world = World::new(seed, broken, is_traced);
    let played = catch_unwind(AssertUnwindSafe(|| world.run(steps).and_then(|()| world.get_well())));
    let violation = match played {
        Ok(result) => result.err(),
        Err(panic) => Some(format!("a panic: {}", text_of(&*panic))),
    };
    Played { seen: world.promises.seen, violation }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
