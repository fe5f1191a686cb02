//! What happens in a round, drawn at random. The same seed draws the same.

use std::time::Duration;

use durability_histories::draw::{draw, keys, KEYS, MOST_OPERATIONS};
use durability_histories::operation::Operation;
use durability_histories::reference::MAX_OPERATIONS;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::Rng;

/// How many clients there are.
pub const CLIENTS: usize = 5;

const OPERATIONS_PER_CLIENT: std::ops::RangeInclusive<usize> = 8..=MOST_OPERATIONS;
const LAST_OPERATIONS: usize = 2 * KEYS.len() + 1;
const _: () = assert!(CLIENTS * *OPERATIONS_PER_CLIENT.end() + LAST_OPERATIONS <= MAX_OPERATIONS);

/// How long processes stay as they are between the steps of a crash.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 0..=30;

/// A way to kill processes and start them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing is killed.
    Nothing,
    /// The server.
    Server,
    /// The log: all services that there are.
    Log,
    /// The log, and a little later the server.
    LogThenServer,
    /// The server and the log; the server starts again first.
    ServerThenLog,
    /// The server, while the log stands still; what is on its way to the log arrives afterwards.
    ServerBesideStalledLog,
    /// Both, after the log stood still for a little.
    StalledLogThenBoth,
    /// Some of three log services.
    Services(Which),
    /// The server and some of three log services.
    ServerAndServices(Which),
}

/// Some of three log services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that decides over the log.
    Decider,
    /// Another one.
    Other,
    /// That and the one that decides.
    Two,
}

/// All that is drawn for one round.
#[derive(Debug)]
pub struct Plan {
    /// The number of the round.
    pub round: u32,
    /// What each client does.
    pub operations: Vec<Vec<Operation>>,
    /// What is killed.
    pub crash: Crash,
    /// How many answers come before that.
    pub answers_before_crash: usize,
    /// How long processes stay as they are between its steps.
    pub pause: Duration,
}

impl Plan {
    /// Draws a round, in which there are so many log services.
    pub fn draw(round: u32, random: &mut StdRng, services: usize) -> Self {
        let count = random.random_range(OPERATIONS_PER_CLIENT);
        let operations: Vec<Vec<Operation>> =
            (0..CLIENTS).map(|client| (0..count).map(|n| draw(round, client, n, random)).collect()).collect();
        let mut crashes = vec![
            Crash::Nothing,
            Crash::Server,
            Crash::Server,
            Crash::Server,
            Crash::Log,
            Crash::LogThenServer,
            Crash::ServerThenLog,
            Crash::ServerBesideStalledLog,
            Crash::StalledLogThenBoth,
        ];
        if services > 1 {
            let some = [Which::Decider, Which::Decider, Which::Other, Which::Two];
            crashes.extend(some.map(Crash::Services));
            crashes.extend(some.map(Crash::ServerAndServices));
        }
        Plan {
            round,
            operations,
            crash: *crashes.choose(random).expect("there are crashes to choose from"),
            // Not in the last third, so that there are clients who see what became of it.
            answers_before_crash: random.random_range(0..CLIENTS * count * 2 / 3),
            pause: Duration::from_millis(random.random_range(PAUSE_MS)),
        }
    }

    /// A look at all keys, before and after they are deleted.
    pub fn last_operations(&self) -> Vec<Operation> {
        let keys = keys(self.round);
        let reads = || keys.iter().copied().map(Operation::Get);
        reads().chain([Operation::Flush(keys.clone())]).chain(reads()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| format!("{:?}", Plan::draw(1, &mut StdRng::seed_from_u64(seed), 3));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
