//! A few hundred seeds for `cargo test`.

use crate::seed::{play, STEPS};
use crate::seen::Seen;

const SEEDS: u64 = 300;

#[test]
fn the_promises_hold_and_all_kinds_of_trouble_are_seen() {
    let mut seen = Seen::default();
    for seed in 1..=SEEDS {
        let played = play(seed, STEPS, None, false);
        if let Some(violation) = played.violation {
            panic!(
                "seed {seed}: {violation}\nreproduce: cargo run --release -p durability-replication-simulation -- --trace {seed}"
            );
        }
        seen.add(&played.seen);
    }
    for (what, count) in seen.all() {
        assert!(count > 0, "no {what} in {SEEDS} seeds");
    }
}

#[test]
fn a_seed_gives_the_same_steps_each_time() {
    for seed in 1..=20 {
        let [once, again] = [(), ()].map(|()| play(seed, STEPS, None, false));
        assert_eq!((once.seen.all(), once.violation), (again.seen.all(), again.violation), "seed {seed}");
    }
}
