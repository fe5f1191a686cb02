//! Bounds how many wrong tokens are judged, per network and in total.
//!
//! An attempt that tells a guesser nothing does not count: the same wrong token again (hundreds of clients behind one address may hold an
//! old one), or a token that was right before from the same network. So the guesses of others never keep out a client that has logged in.
//!
//! Nor does a token count that is too long to be guessed. It is always judged, so they do not keep out either who has such a token and logs in
//! for the first time. It is not remembered, and judging it takes no more than a digest.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};

use crate::connections::network::Network;

/// How many wrong tokens of a network are judged at once, and how often one more is.
const OF_NETWORK: (u32, Duration) = (100, Duration::from_secs(1));
/// The same for all networks together.
const OF_ALL: (u32, Duration) = (1000, Duration::from_millis(100));
/// Networks whose wrong tokens are remembered. Those that have been silent for longest are forgotten first.
const MAX_NETWORKS: usize = 4096;
/// Wrong tokens of a network that are recognised, the latest ones: more than there are clients behind one address that each try an old one
/// of their own. All together they take at most 8 MiB.
const MAX_WRONG: usize = 256;
/// Right tokens that are recognised, with the networks from which they came.
const MAX_RIGHT: usize = 65_536;

/// Tokens of so many bytes cannot be guessed, however often somebody tries: half of what `openssl rand -hex 32` makes.
const UNGUESSABLE_BYTES: usize = 32;

/// What counts as one guess: a shard with a token.
#[derive(Debug, Clone, Default)]
pub struct Credential {
    bytes: Vec<u8>,
    is_unguessable: bool,
}

impl Credential {
    /// A token that was sent for `shard`, which is empty where none is named.
    pub fn new(shard: &str, token: &[u8]) -> Self {
        let is_unguessable = token.len() >= UNGUESSABLE_BYTES;
        // Nothing looks at what does not count.
        let bytes = if is_unguessable { Vec::new() } else { [shard.as_bytes(), b" ", token].concat() };
        Credential { bytes, is_unguessable }
    }
}

/// The tokens that were tried, wrong and right.
#[derive(Debug, Default)]
pub struct Guesses {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: Count,
    networks: HashMap<Network, OfNetwork>,
    /// Right tokens, with the network that each came from and when it last did.
    right: HashMap<(Network, u64), Instant>,
}

#[derive(Debug, Default)]
struct OfNetwork {
    count: Count,
    wrong: VecDeque<u64>,
}

/// Guesses that still count.
#[derive(Debug, Default)]
struct Count {
    guesses: u32,
    since: Option<Instant>,
}

impl Count {
    /// How many still count at `now`, when one is forgotten every `each`.
    fn settle(&mut self, each: Duration, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        let over = now.saturating_duration_since(since).as_millis() / each.as_millis();
        if over >= u128::from(self.guesses) {
            *self = Count { guesses: 0, since: Some(now) };
        } else {
            self.guesses -= over as u32;
            self.since = Some(since + each * over as u32);
        }
        self.guesses
    }

    /// How long until one more is judged; `None` if it is judged now.
    fn wait(&mut self, (most, each): (u32, Duration), now: Instant) -> Option<Duration> {
        let guesses = self.settle(each, now);
        (guesses >= most).then(|| each * (guesses - most + 1))
    }
}

impl Guesses {
    /// Whether `credential` is judged now.
    ///
    /// # Errors
    /// It is not; the error is the time until the next one is.
    pub fn may_try(&self, network: Network, credential: &Credential) -> Result<(), Duration> {
        if credential.is_unguessable {
            return Ok(());
        }
        self.may_try_at(network, &credential.bytes, Instant::now())
    }

    fn may_try_at(&self, network: Network, credential: &[u8], now: Instant) -> Result<(), Duration> {
        let hash = self.hasher.hash_one(credential);
        let mut state = self.lock();
        let State { all, networks, right } = &mut *state;
        let of_network = networks.get_mut(&network);
        let is_known_wrong = of_network.as_ref().is_some_and(|of_network| of_network.wrong.contains(&hash));
        if is_known_wrong || right.contains_key(&(network, hash)) {
            return Ok(());
        }
        let wait = of_network.and_then(|of_network| of_network.count.wait(OF_NETWORK, now));
        match wait.max(all.wait(OF_ALL, now)) {
            Some(wait) => Err(wait),
            None => Ok(()),
        }
    }

    /// Records that `credential` was judged.
    pub fn note(&self, network: Network, credential: &Credential, is_right: bool) {
        if !credential.is_unguessable {
            self.note_at(network, &credential.bytes, is_right, Instant::now());
        }
    }

    fn note_at(&self, network: Network, credential: &[u8], is_right: bool, now: Instant) {
        let hash = self.hasher.hash_one(credential);
        let mut state = self.lock();
        if is_right {
            make_room(&mut state.right, &(network, hash), MAX_RIGHT, |at| Some(*at));
            state.right.insert((network, hash), now);
            return;
        }
        make_room(&mut state.networks, &network, MAX_NETWORKS, |of_network| of_network.count.since);
        let of_network = state.networks.entry(network).or_default();
        if let Some(at) = of_network.wrong.iter().position(|wrong| *wrong == hash) {
            // A token that comes again is forgotten later than one that does not.
            of_network.wrong.remove(at);
            of_network.wrong.push_front(hash);
            return;
        }
        of_network.wrong.truncate(MAX_WRONG - 1);
        of_network.wrong.push_front(hash);
        of_network.count.settle(OF_NETWORK.1, now);
        of_network.count.guesses += 1;
        state.all.settle(OF_ALL.1, now);
        state.all.guesses += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The answer to a client whose token is not judged for so long.
pub fn too_many_guesses(wait: Duration) -> Refusal {
    let seconds = wait.as_secs() + 1;
    Refusal::new(Code::NoAuth, format!("too many wrong tokens, none is looked at now: try again in {seconds} s"))
}

/// Removes the oldest half when one more would be too many. Half, so that this search is rare.
fn make_room<K: Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    key: &K,
    most: usize,
    age: impl Fn(&V) -> Option<Instant>,
) {
    if map.len() < most || map.contains_key(key) {
        return;
    }
    let mut ages: Vec<_> = map.values().map(&age).collect();
    let (_, middle, _) = ages.select_nth_unstable(most / 2);
    let middle = *middle;
    map.retain(|_, value| age(value) > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u32) -> Network {
        Network::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    /// Guesses at `now` until it is refused; answers how many were judged and how long the wait is.
    fn guess(guesses: &Guesses, of: u32, from: u32, now: Instant) -> (u32, Duration) {
        for number in from.. {
            let credential = number.to_be_bytes();
            match guesses.may_try_at(network(of), &credential, now) {
                Ok(()) => guesses.note_at(network(of), &credential, false, now),
                Err(wait) => return (number - from, wait),
            }
        }
        unreachable!("it is refused before");
    }

    #[test]
    fn a_network_has_a_hundred_guesses_and_another_one_each_second() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(guess(&guesses, 1, 0, now), (100, Duration::from_secs(1)));
        assert_eq!(guess(&guesses, 1, 1000, now + Duration::from_millis(999)).0, 0);
        assert_eq!(guess(&guesses, 1, 1000, now + Duration::from_secs(3)).0, 3);
        assert_eq!(guess(&guesses, 2, 0, now).0, 100, "another one has its own");
        assert_eq!(guess(&guesses, 1, 2000, now + Duration::from_secs(1000)).0, 100);
    }

    #[test]
    fn all_together_have_a_thousand() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let judged: u32 = (0..50).map(|of| guess(&guesses, of, 0, now).0).sum();
        assert_eq!(judged, 1000);
        assert_eq!(guess(&guesses, 99, 0, now), (0, Duration::from_millis(100)));
    }

    #[test]
    fn a_token_that_is_too_long_to_be_guessed_is_always_judged_and_takes_nothing_from_others() {
        let guesses = Guesses::default();
        for number in 0..2000 {
            let long = Credential::new("s1", format!("{number:032}").as_bytes());
            assert_eq!(guesses.may_try(network(1), &long), Ok(()));
            guesses.note(network(1), &long, false);
        }
        assert!(guesses.lock().networks.is_empty(), "nothing of them is kept");
        for number in 0..100 {
            let short = Credential::new("s1", format!("{number:031}").as_bytes());
            assert_eq!(guesses.may_try(network(1), &short), Ok(()), "{number}");
            guesses.note(network(1), &short, false);
        }
        assert!(guesses.may_try(network(1), &Credential::new("s1", &[b'x'; 31])).is_err());
        assert_eq!(guesses.may_try(network(1), &Credential::new("s1", &[b'x'; 32])), Ok(()));
    }

    #[test]
    fn right_and_repeated_tokens_are_judged_whatever_others_guess() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        guesses.note_at(network(1), b"right", true, now);
        for of in 0..50 {
            guess(&guesses, of, 0, now);
        }
        assert_eq!(guesses.may_try_at(network(1), b"right", now), Ok(()));
        assert!(guesses.may_try_at(network(2), b"right", now).is_err(), "it may have been guessed");
        let last = 99_u32.to_be_bytes();
        assert_eq!(guesses.may_try_at(network(1), &last, now), Ok(()));
        for _ in 0..1000 {
            guesses.note_at(network(1), &last, false, now);
        }
        assert_eq!(guess(&guesses, 1, 1000, now).1, Duration::from_secs(1), "it counts once");
    }

    #[test]
    fn many_clients_of_one_address_with_different_old_tokens_count_once_each() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        // Each has been judged at some time, and all go on to try while somebody guesses.
        for second in 0..20 {
            let now = now + Duration::from_secs(second * 1000);
            for old in 0..99_u32 {
                assert_eq!(guesses.may_try_at(network(1), &old.to_be_bytes(), now), Ok(()), "{second}: {old}");
                guesses.note_at(network(1), &old.to_be_bytes(), false, now);
            }
            let judged = guess(&guesses, 1, 1000 * (second as u32 + 1), now).0;
            assert_eq!(judged, if second == 0 { 1 } else { 100 }, "{second}: they count anew");
        }
        assert!(guesses.lock().networks[&network(1)].wrong.len() <= MAX_WRONG);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for of in 0..10_000 {
            let at = now + Duration::from_millis(u64::from(of));
            guesses.note_at(network(of), b"wrong", false, at);
        }
        for number in 0..200_000_u32 {
            guesses.note_at(network(1), &number.to_be_bytes(), true, now + Duration::from_micros(u64::from(number)));
        }
        let state = guesses.lock();
        assert!(state.networks.len() <= MAX_NETWORKS && state.networks.contains_key(&network(9_999)));
        assert!(state.right.len() <= MAX_RIGHT);
        drop(state);
        assert_eq!(guess(&guesses, 20_000, 0, now).0, 0, "that they are forgotten is no way around the count of all");
    }
}
