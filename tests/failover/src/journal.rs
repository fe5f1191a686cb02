//! Clients that write numbers in order and record what they did. Most write into one list, the journal, so that the order is seen in
//! which leaders executed them; the others write sets of their own.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use durability_histories::connection::{Connection, Reply};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use redis::{cmd, Value};

use crate::leader::{Finder, Leader, Term};
use crate::ledger::Ledger;

const PATIENCE_MS: [u64; 3] = [200, 1000, 4000];
const RETRY: Duration = Duration::from_millis(5);

/// How a client writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Into the journal.
    Push,
    /// Into the journal and two sets of its own, in one transaction.
    Transaction,
    /// Into a set of its own.
    Add,
}

const MANNERS: [Manner; 3] = [Manner::Push, Manner::Transaction, Manner::Add];

/// One number that was sent, and was not refused.
#[derive(Debug, Clone)]
pub struct Write {
    /// Sent by this client once.
    pub number: u64,
    /// Of the leader to which it was sent.
    pub term: Term,
    /// Before it was sent.
    pub invoked: Instant,
    /// When it was acknowledged.
    pub answered: Option<Instant>,
    /// The place in the journal that the answer tells, from 1.
    pub position: Option<usize>,
}

/// Where a number of clients write.
#[derive(Debug, Default)]
pub struct Place {
    /// Decides in which slot everything of it is.
    pub tag: String,
    /// Takes all answers.
    pub ledger: Ledger,
}

/// What one client wrote.
#[derive(Debug)]
pub struct Written {
    /// Tells it from others.
    pub writer: usize,
    /// How it wrote.
    pub manner: Manner,
    /// In order.
    pub writes: Vec<Write>,
}

/// What is there in the end of what the clients of a place wrote.
#[derive(Debug, Default)]
pub struct Found {
    /// Writers and numbers.
    pub journal: Vec<(usize, u64)>,
    /// Of each writer, what is in its two sets. Those that write into the journal only have none.
    pub sets: Vec<[HashSet<u64>; 2]>,
}

/// The text by which the journal tells a write.
pub fn entry(writer: usize, number: u64) -> String {
    format!("{writer} {number}")
}

/// Reads it.
pub fn parse_entry(entry: &str) -> Option<(usize, u64)> {
    let (writer, number) = entry.split_once(' ')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// The list that most clients of a place write into. What they write is in one slot, if there are slots: that of the tag.
pub fn journal(tag: &str) -> String {
    format!("{{{tag}}}:journal")
}

fn set(tag: &str, writer: usize, which: char) -> String {
    format!("{{{tag}}}:set:{writer}:{which}")
}

/// Writes in that place until all is over, with about `pace` between two writes.
///
/// # Errors
/// A write is answered as it should not be.
pub fn write(finder: &Finder, place: &Place, writer: usize, pace: Duration, seed: u64) -> Result<Written> {
    let mut random = StdRng::seed_from_u64(seed);
    let manner = MANNERS[writer % MANNERS.len()];
    let mut written = Written { writer, manner, writes: Vec::new() };
    let Place { tag, ledger } = place;
    finder.begin_use(tag);
    let mut number = 1;
    while !finder.is_over() {
        let patience = PATIENCE_MS.choose(&mut random).expect("there are some");
        let Some(mut leader) = finder.find(tag, Duration::from_millis(*patience)) else { break };
        while !finder.is_over() {
            thread::sleep(pace.mul_f64(random.random_range(0.0..2.0)));
            let invoked = Instant::now();
            let (reply, term) = (written.send(&mut leader.connection, tag, number)?, leader.term);
            let mut write = Write { number, term, invoked, answered: None, position: None };
            match reply {
                Reply::Answer(answer) => {
                    ledger.add(term, invoked, true);
                    write.answered = Some(Instant::now());
                    write.position = written.position(answer)?;
                    written.writes.push(write);
                    number += 1;
                }
                // The same number is tried again, so that it is seen if it was written all the same.
                Reply::Refused => {
                    thread::sleep(RETRY);
                    break;
                }
                Reply::Unknown | Reply::Silence => {
                    written.writes.push(write);
                    number += 1;
                    break;
                }
            }
        }
    }
    Ok(written)
}

impl Written {
    fn send(&self, connection: &mut Connection, tag: &str, number: u64) -> Result<Reply> {
        let writer = self.writer;
        let push = cmd("RPUSH").arg(journal(tag)).arg(entry(writer, number)).take();
        let add = |which| cmd("SADD").arg(set(tag, writer, which)).arg(number).take();
        let commands = match self.manner {
            Manner::Push => vec![push],
            Manner::Transaction => {
                vec![cmd("MULTI"), add('a'), push, add('b'), cmd("EXEC")]
            }
            Manner::Add => vec![add('a')],
        };
        connection.exchange(&commands).with_context(|| format!("writer {writer}, number {number}"))
    }

    /// What the answer says of the place in the journal.
    fn position(&self, answer: Value) -> Result<Option<usize>> {
        let position = match (self.manner, answer) {
            (Manner::Add, Value::Int(1)) => return Ok(None),
            (Manner::Push, Value::Int(position)) => position,
            (Manner::Transaction, Value::Array(parts)) => match parts[..] {
                [Value::Int(1), Value::Int(position), Value::Int(1)] => position,
                _ => bail!("writer {}: EXEC answered {parts:?}", self.writer),
            },
            (_, answer) => bail!("writer {}: answered {answer:?}", self.writer),
        };
        Ok(Some(usize::try_from(position)?))
    }
}

/// Reads what `writers` clients have left in a place, when all is over.
///
/// # Errors
/// There is no answer.
pub fn find(leader: &mut Leader, tag: &str, writers: usize) -> Result<Found> {
    let mut read = |command: &str, arguments: &[&str]| -> Result<Vec<String>> {
        Ok(redis::from_redis_value(leader.connection.command(command, arguments)?)?)
    };
    let mut found = Found::default();
    for text in read("LRANGE", &[&journal(tag), "0", "-1"])? {
        found.journal.push(parse_entry(&text).with_context(|| format!("'{text}' is in the journal"))?);
    }
    for writer in 0..writers {
        let mut members = |which| -> Result<HashSet<u64>> {
            let members = read("SMEMBERS", &[&set(tag, writer, which)])?;
            Ok(members.iter().map(|member| member.parse()).collect::<Result<_, _>>()?)
        };
        found.sets.push([members('a')?, members('b')?]);
    }
    Ok(found)
}
