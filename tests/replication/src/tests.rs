//! A few hundred seeds for `cargo test`.

use durability_simulation::runner::{assert_promises_hold, assert_seeds_repeat};

use crate::seed::CopiesSimulation;

#[test]
fn the_promises_hold_and_all_kinds_of_trouble_are_seen() {
    assert_promises_hold::<CopiesSimulation>();
}

#[test]
fn a_seed_gives_the_same_steps_each_time() {
    assert_seeds_repeat::<CopiesSimulation>();
}

#[cfg(feature = "files")]
mod on_files {
    use super::*;
    use crate::files_seed::FilesSimulation;

    #[test]
    fn the_promises_hold_and_all_kinds_of_trouble_are_seen() {
        assert_promises_hold::<FilesSimulation>();
    }

    #[test]
    fn a_seed_gives_the_same_steps_each_time() {
        assert_seeds_repeat::<FilesSimulation>();
    }
}
