//! What happens in a round, drawn at random. The same seed draws the same.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::Rng;

use crate::operation::{Key, Kind, Operation};
use crate::reference::MAX_OPERATIONS;

/// How many clients there are.
pub const CLIENTS: usize = 5;

const OPERATIONS_PER_CLIENT: std::ops::RangeInclusive<usize> = 8..=20;
const KEYS: [(Kind, u8); 3] = [(Kind::Text, 0), (Kind::Text, 1), (Kind::Number, 0)];
const LAST_OPERATIONS: usize = 2 * KEYS.len() + 1;
const _: () = assert!(CLIENTS * *OPERATIONS_PER_CLIENT.end() + LAST_OPERATIONS <= MAX_OPERATIONS);

/// How long processes stay as they are between the steps of a crash.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 0..=30;

/// Numbers are set this far apart, so that increments of different ones stay apart.
const NUMBER_STEP: usize = 1000;

/// A way to kill processes and start them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing is killed.
    Nothing,
    /// The server.
    Server,
    /// The log service.
    Log,
    /// The log service, and a little later the server.
    LogThenServer,
    /// The server and the log service; the server starts again first.
    ServerThenLog,
    /// The server, while the log service stands still; what is on its way to the log arrives afterwards.
    ServerBesideStalledLog,
    /// Both, after the log service stood still for a little.
    StalledLogThenBoth,
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
    /// Draws a round.
    pub fn draw(round: u32, random: &mut StdRng) -> Self {
        let count = random.random_range(OPERATIONS_PER_CLIENT);
        let operations: Vec<Vec<Operation>> =
            (0..CLIENTS).map(|client| (0..count).map(|n| draw(round, client, n, random)).collect()).collect();
        let crashes = [
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

fn keys(round: u32) -> Vec<Key> {
    KEYS.into_iter().map(|(kind, number)| Key { round, kind, number }).collect()
}

/// The `n`th operation of a client.
pub fn draw(round: u32, client: usize, n: usize, random: &mut StdRng) -> Operation {
    let drawn: Vec<Key> = keys(round).choose_multiple(random, 2).copied().collect();
    let (first, second) = (drawn[0], drawn[1]);
    match random.random_range(0..50) {
        0 => Operation::Flush(keys(round)),
        1..=15 => Operation::Get(first),
        16..=35 => draw_write(first, client, n, random),
        36..=44 => {
            let writes = [draw_write(first, client, n, random), draw_write(second, client, n, random)];
            let [write_first, write_second] = writes;
            Operation::Transaction(vec![Operation::Get(first), write_first, write_second, Operation::Get(second)])
        }
        _ => {
            let to = if second.kind == Kind::Text { second } else { first };
            let from = if to == second { first } else { second };
            Operation::Script { from, to, token: token(client, n, random) }
        }
    }
}

fn draw_write(key: Key, client: usize, n: usize, random: &mut StdRng) -> Operation {
    match (key.kind, random.random_bool(0.4)) {
        (Kind::Text, true) => Operation::Set(key, token(client, n, random)),
        (Kind::Text, false) => Operation::Append(key, token(client, n, random)),
        (Kind::Number, true) => {
            Operation::Set(key, ((client * OPERATIONS_PER_CLIENT.end() + n + 1) * NUMBER_STEP).to_string())
        }
        (Kind::Number, false) => Operation::Incr(key),
    }
}

/// A piece of text that no other operation of the round writes. Lengths differ, so that the length which APPEND answers tells
/// what was appended to.
fn token(client: usize, n: usize, random: &mut StdRng) -> String {
    format!("{client}.{n}{}", ",".repeat(random.random_range(1..=12)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| format!("{:?}", Plan::draw(1, &mut StdRng::seed_from_u64(seed)));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
