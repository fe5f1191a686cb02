//! Writes that can be told apart: each has a key of its own. What was answered to each is kept, so that all that were
//! accepted can be looked for later. Beside them, reads of the newest.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::client::Client;
use crate::load::{key_name, KEYS, VALUE_BYTES};
use crate::paced::{Course, Load};
use crate::plan::Random;
use crate::resp::{self, Reply};
use crate::Result;

/// With this begins the error that a refused write is answered with.
const REFUSAL: &[u8] = b"CLUSTERDOWN durability: writes are refused";
/// So many keys are asked for before their values are read.
const BATCH: usize = 1000;

/// How far the writes are, for those who run beside them.
#[derive(Debug)]
pub struct Progress {
    /// Of each connection: the number of its newest write that was accepted, or 0.
    accepted: Vec<AtomicU64>,
    /// Whether the newest answer was a refusal.
    is_refused: AtomicBool,
}

impl Progress {
    /// Nothing is written yet.
    pub fn new(connections: usize) -> Self {
        Progress { accepted: (0..connections).map(|_| AtomicU64::new(0)).collect(), is_refused: AtomicBool::new(false) }
    }

    /// Whether the newest answer was a refusal.
    pub fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

/// A write and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// When it was sent and answered.
    pub course: Course,
    /// Whether it was; else it was refused.
    pub is_accepted: bool,
}

/// The writes. Those of a connection have the numbers 1, 2 and so on.
pub struct Writes<'a> {
    progress: &'a Progress,
    /// Of each connection: how many were sent.
    asked: Vec<u64>,
    /// Of each connection, those that were answered.
    pub answered: Vec<Vec<Write>>,
}

impl<'a> Writes<'a> {
    /// On as many connections as `progress` is for.
    pub fn new(progress: &'a Progress) -> Self {
        let connections = progress.accepted.len();
        Writes { progress, asked: vec![0; connections], answered: vec![Vec::new(); connections] }
    }
}

impl Load for Writes<'_> {
    fn ask(&mut self, connection: usize, to: &mut Vec<u8>) {
        self.asked[connection] += 1;
        let number = self.asked[connection];
        resp::encode(to, &[b"SET", &key(connection, number), &value(number)]);
    }

    fn answered(&mut self, connection: usize, course: Course, reply: Reply<'_>) -> Result<()> {
        let is_accepted = match reply {
            Reply::Status(b"OK") => true,
            Reply::Error(error) if error.starts_with(REFUSAL) => false,
            _ => return Err(format!("a write was answered by {reply:?}").into()),
        };
        self.answered[connection].push(Write { course, is_accepted });
        if is_accepted {
            let number = self.answered[connection].len() as u64;
            self.progress.accepted[connection].store(number, Ordering::Relaxed);
        }
        self.progress.is_refused.store(!is_accepted, Ordering::Relaxed);
        Ok(())
    }
}

/// Reads of keys that exist: one half as [`crate::load::fill`] wrote them, the other the newest that were accepted.
pub struct Reads<'a> {
    progress: &'a Progress,
    random: Random,
    /// Of each connection and each read without answer: the number whose value it must be answered with, if it is not
    /// the one that all keys were filled with.
    wanted: Vec<VecDeque<Option<u64>>>,
    /// Those that were answered with the key's value.
    pub answered: Vec<Course>,
    /// How many were answered otherwise.
    pub failed: u64,
    /// The first such answer.
    pub first_failure: Option<String>,
}

impl<'a> Reads<'a> {
    /// On so many connections, beside writes that go on as `progress` tells.
    pub fn new(connections: usize, progress: &'a Progress) -> Self {
        let wanted = vec![VecDeque::new(); connections];
        Reads { progress, random: Random(11), wanted, answered: Vec::new(), failed: 0, first_failure: None }
    }
}

impl Load for Reads<'_> {
    fn ask(&mut self, connection: usize, to: &mut Vec<u8>) {
        let writer = self.random.below(self.progress.accepted.len() as u64) as usize;
        let newest = self.progress.accepted[writer].load(Ordering::Relaxed);
        let is_newest = newest > 0 && self.random.below(2) == 0;
        let name = if is_newest { key(writer, newest) } else { key_name(self.random.below(KEYS)) };
        resp::encode(to, &[b"GET", &name]);
        self.wanted[connection].push_back(is_newest.then_some(newest));
    }

    fn answered(&mut self, connection: usize, course: Course, reply: Reply<'_>) -> Result<()> {
        let wanted = self.wanted[connection].pop_front().ok_or("a reply that nothing asked for")?;
        let is_right = match (wanted, reply) {
            (Some(number), Reply::Bulk(bytes)) => bytes == value(number),
            (None, Reply::Bulk(bytes)) => bytes == [b'x'; VALUE_BYTES],
            _ => false,
        };
        if is_right {
            self.answered.push(course);
        } else {
            self.failed += 1;
            self.first_failure.get_or_insert_with(|| format!("{reply:?}, wanted {wanted:?}"));
        }
        Ok(())
    }
}

/// What a server has of the writes.
#[derive(Debug, Default)]
pub struct Found {
    /// Accepted, and there.
    pub accepted: u64,
    /// Accepted, and not there.
    pub missing: u64,
    /// Refused, and there all the same.
    pub refused: u64,
}

/// Looks for every one of the writes of each connection.
pub fn look_for(client: &mut Client, writes: &[Vec<Write>]) -> Result<Found> {
    let mut found = Found::default();
    let mut requests = Vec::new();
    for (connection, writes) in writes.iter().enumerate() {
        for (batch, writes) in writes.chunks(BATCH).enumerate() {
            let first = (batch * BATCH) as u64 + 1;
            requests.clear();
            let numbers = first..first + writes.len() as u64;
            numbers.clone().for_each(|number| resp::encode(&mut requests, &[b"GET", &key(connection, number)]));
            client.send(&requests)?;
            for (number, write) in numbers.zip(writes) {
                let is_there = client.reply(|reply| match reply {
                    Reply::Nil => Ok(false),
                    Reply::Bulk(bytes) if bytes == value(number) => Ok(true),
                    _ => Err(format!("write {number} of connection {connection} is found as {reply:?}")),
                })??;
                found.accepted += u64::from(write.is_accepted && is_there);
                found.missing += u64::from(write.is_accepted && !is_there);
                found.refused += u64::from(!write.is_accepted && is_there);
            }
        }
    }
    Ok(found)
}

fn key(connection: usize, number: u64) -> Vec<u8> {
    format!("limit:{connection}:{number}").into_bytes()
}

/// As long as the other loads' values.
fn value(number: u64) -> Vec<u8> {
    format!("{number:0>width$}", width = VALUE_BYTES).into_bytes()
}
