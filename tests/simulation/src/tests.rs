//! A few hundred seeds for `cargo test`.

use crate::runner::{assert_promises_hold, assert_seeds_repeat};
use crate::seed::ShardSimulation;

#[test]
fn the_promises_hold_and_all_kinds_of_trouble_are_seen() {
    assert_promises_hold::<ShardSimulation>();
}

#[test]
fn a_seed_gives_the_same_steps_each_time() {
    assert_seeds_repeat::<ShardSimulation>();
}
