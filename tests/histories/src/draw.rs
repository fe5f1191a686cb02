//! Operations drawn at random, on the few keys of a round.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::Rng;

use crate::operation::{Key, Kind, Operation};

/// The most operations that a client does in a round.
pub const MOST_OPERATIONS: usize = 20;

/// The keys that each round has of its own.
pub const KEYS: [(Kind, u8); 3] = [(Kind::Text, 0), (Kind::Text, 1), (Kind::Number, 0)];

/// Numbers are set this far apart, so that increments of different ones stay apart.
const NUMBER_STEP: usize = 1000;

/// The keys of a round.
pub fn keys(round: u32) -> Vec<Key> {
    KEYS.into_iter().map(|(kind, number)| Key { round, kind, number }).collect()
}

/// The `n`th operation of a client, with `n` less than [`MOST_OPERATIONS`].
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
        (Kind::Number, true) => Operation::Set(key, ((client * MOST_OPERATIONS + n + 1) * NUMBER_STEP).to_string()),
        (Kind::Number, false) => Operation::Incr(key),
    }
}

/// A piece of text that no other operation of the round writes. Lengths differ, so that the length which APPEND answers tells
/// what was appended to.
fn token(client: usize, n: usize, random: &mut StdRng) -> String {
    format!("{client}.{n}{}", ",".repeat(random.random_range(1..=12)))
}
