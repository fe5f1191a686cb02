use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{judge, Loss};
use crate::journal::{Found, Manner, Write, Written};
use crate::leader::Term;
use crate::system::Mode;

const LIMIT: Duration = Duration::from_millis(500);

/// Writes of one client: number, epoch, when it was sent and answered in ms (0: never), and the place in the journal.
fn written(start: Instant, manner: Manner, writes: &[(u64, u64, u64, u64, usize)]) -> Written {
    let at = |ms| start + Duration::from_millis(ms);
    let write = |&(number, epoch, invoked, answered, position)| Write {
        number,
        term: Term { shard: 0, epoch },
        invoked: at(invoked),
        answered: (answered > 0).then(|| at(answered)),
        position: (position > 0).then_some(position),
    };
    Written { writer: 0, manner, writes: writes.iter().map(write).collect() }
}

fn found(journal: &[u64], set: &[u64]) -> Found {
    let set: HashSet<u64> = set.iter().copied().collect();
    Found { journal: journal.iter().map(|number| (0, *number)).collect(), sets: vec![[set.clone(), set]] }
}

/// The error, if there is one.
fn verdict(written: Written, found: &Found, mode: Mode) -> Result<Loss, String> {
    judge(&[written], found, mode, LIMIT).map_err(|error| format!("{error:#}"))
}

#[test]
fn in_sync_mode_nothing_may_be_missing() {
    let start = Instant::now();
    let pushes = || written(start, Manner::Push, &[(1, 1, 0, 1, 1), (2, 1, 2, 0, 0), (3, 2, 9, 10, 2)]);
    assert_eq!(verdict(pushes(), &found(&[1, 3], &[]), Mode::Sync), Ok(Loss::default()));
    assert!(verdict(pushes(), &found(&[1], &[]), Mode::Sync).is_err());
    assert!(verdict(pushes(), &found(&[3], &[]), Mode::Sync).is_err());
}

#[test]
fn the_youngest_of_each_leader_may_be_missing_in_async_mode() {
    let start = Instant::now();
    let of = [(1, 1, 0, 1, 1), (2, 1, 2, 3, 2), (3, 1, 4, 5, 3), (4, 2, 9, 10, 2), (5, 2, 11, 12, 3)];
    let pushes = || written(start, Manner::Push, &of);
    let loss = |writes, span| Ok(Loss { writes, span: Duration::from_millis(span) });
    assert_eq!(verdict(pushes(), &found(&[1, 4, 5], &[]), Mode::Async), loss(2, 1));
    assert_eq!(verdict(pushes(), &found(&[1, 4], &[]), Mode::Async), loss(3, 1));
    // Not one in the middle, nor what comes after it in the leader's order.
    assert!(verdict(pushes(), &found(&[1, 3, 4], &[]), Mode::Async).is_err());
    assert!(verdict(pushes(), &found(&[3, 4, 5], &[]), Mode::Async).is_err());
}

#[test]
fn across_keys_the_order_is_that_of_real_time() {
    let start = Instant::now();
    let adds = || written(start, Manner::Add, &[(1, 1, 0, 5, 0), (2, 1, 4, 8, 0), (3, 1, 9, 12, 0)]);
    assert!(verdict(adds(), &found(&[], &[1]), Mode::Async).is_ok());
    // 2 was sent before 1 was acknowledged, so it may have run first; 3 may not.
    assert!(verdict(adds(), &found(&[], &[2]), Mode::Async).is_ok());
    assert!(verdict(adds(), &found(&[], &[1, 3]), Mode::Async).is_err());
}

#[test]
fn no_more_than_the_limit_may_be_missing() {
    let start = Instant::now();
    let adds = |last| written(start, Manner::Add, &[(1, 1, 0, 5, 0), (2, 1, last, last + 1, 0)]);
    assert!(verdict(adds(605), &found(&[], &[]), Mode::Async).is_ok());
    assert!(verdict(adds(606), &found(&[], &[]), Mode::Async).is_err());
}

#[test]
fn transactions_are_whole_and_nothing_is_there_twice_or_from_nowhere() {
    let start = Instant::now();
    let transactions = || written(start, Manner::Transaction, &[(1, 1, 0, 1, 1), (2, 1, 2, 0, 0)]);
    assert!(verdict(transactions(), &found(&[1, 2], &[1, 2]), Mode::Sync).is_ok());
    assert!(verdict(transactions(), &found(&[1], &[1]), Mode::Sync).is_ok());
    assert!(verdict(transactions(), &found(&[1, 2], &[1]), Mode::Sync).is_err());
    assert!(verdict(transactions(), &found(&[1, 2, 2], &[1, 2]), Mode::Sync).is_err());
    assert!(verdict(transactions(), &found(&[1, 3], &[1, 3]), Mode::Sync).is_err());
}
