//! A group of clients, lap by lap: in each they work on keys that nobody else uses, and record what they see. A lap is short
//! enough to be judged for linearizability, and goes on through all faults.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, Context, Result};
use durability_histories::connection::Reply;
use durability_histories::draw::{draw, keys, KEYS, MOST_OPERATIONS};
use durability_histories::history::Recorder;
use durability_histories::operation::Operation;
use durability_histories::reference::MAX_OPERATIONS;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::leader::{Finder, Leader};
use crate::ledger::Ledger;
use crate::notes::Notes;
use crate::pipelined::{self, MOST_READS};

/// Clients of a group that wait for each answer. There is another one that does not (`pipelined.rs`).
pub const CLIENTS: usize = 4;
/// Laps of a group are numbered from its own number on.
const LAPS: u32 = 1_000_000;
/// A lap ends when so many of its writes were never answered: each makes it harder to judge.
const MOST_UNKNOWN: usize = 8;
/// Mean times between operations of a client. Some laps are over soon, some last for several leases.
const PACES_MS: [u64; 5] = [2, 10, 30, 100, 250];
/// For how long clients wait for an answer.
const PATIENCE_MS: [u64; 4] = [200, 600, 2000, 6000];
const RETRY: Duration = Duration::from_millis(10);
const _: () = assert!(CLIENTS * MOST_OPERATIONS + MOST_READS + KEYS.len() <= MAX_OPERATIONS);

/// What all clients share.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Who leads.
    pub finder: &'a Finder,
    /// Takes all answers.
    pub ledger: &'a Ledger,
    /// Told of each lap.
    pub notes: &'a Notes,
}

/// A lap that is over.
pub struct Lap {
    /// Of its keys.
    pub round: u32,
    /// What was seen.
    pub recorder: Arc<Recorder>,
}

/// A lap that goes on.
pub(crate) struct Course<'a> {
    pub(crate) world: World<'a>,
    pub(crate) round: u32,
    pub(crate) recorder: &'a Recorder,
    pub(crate) pace: Duration,
    unknown: AtomicUsize,
    /// All clients that wait for answers are done.
    pub(crate) is_over: AtomicBool,
}

impl Course<'_> {
    /// What decides in which slot the lap's keys are.
    pub(crate) fn tag(&self) -> String {
        tag(self.round)
    }
}

fn tag(round: u32) -> String {
    round.to_string()
}

/// Runs laps until all is over.
///
/// # Errors
/// A client is answered what it should not be.
pub fn run(world: World, group: u32, seed: u64) -> Result<Vec<Lap>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut laps = Vec::new();
    let mut leaders: [Option<Leader>; CLIENTS] = [const { None }; CLIENTS];
    while !world.finder.is_over() {
        let round = group * LAPS + laps.len() as u32;
        let recorder = Arc::new(Recorder::default());
        world.notes.tell(&recorder);
        world.finder.begin_use(&tag(round));
        let done = lap(world, round, &recorder, &mut leaders, &mut random);
        world.finder.end_use(&tag(round));
        world.notes.forget(&recorder);
        laps.push(Lap { round, recorder });
        done?;
    }
    Ok(laps)
}

fn lap(
    world: World,
    round: u32,
    recorder: &Recorder,
    leaders: &mut [Option<Leader>; CLIENTS],
    random: &mut StdRng,
) -> Result<()> {
    let course = Course {
        world,
        round,
        recorder,
        pace: Duration::from_millis(*PACES_MS.choose(random).expect("there are some")),
        unknown: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let course = &course;
        let reader_random = StdRng::seed_from_u64(random.random());
        let reader = scope.spawn(move || pipelined::read(course, reader_random));
        let clients: Vec<_> = leaders
            .iter_mut()
            .enumerate()
            .map(|(number, leader)| {
                let operations: Vec<_> = (0..MOST_OPERATIONS).map(|n| draw_own(round, number, n, random)).collect();
                let random = StdRng::seed_from_u64(random.random());
                scope.spawn(move || client(course, &operations, leader, random))
            })
            .collect();
        let panicked = || Err(anyhow!("a client panicked"));
        let done: Result<()> = clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| panicked()));
        course.is_over.store(true, Ordering::Relaxed);
        done.and(reader.join().unwrap_or_else(|_| panicked()))
    })
}

/// One that leaves the keys of others alone.
fn draw_own(round: u32, client: usize, n: usize, random: &mut StdRng) -> Operation {
    loop {
        match draw(round, client, n, random) {
            Operation::Flush(_) => {}
            operation => return operation,
        }
    }
}

fn client(course: &Course, operations: &[Operation], leader: &mut Option<Leader>, mut random: StdRng) -> Result<()> {
    let Course { world, recorder, .. } = course;
    let mut session = recorder.begin_session();
    for operation in operations {
        thread::sleep(course.pace.mul_f64(random.random_range(0.0..2.0)));
        loop {
            if course.unknown.load(Ordering::Relaxed) >= MOST_UNKNOWN {
                return Ok(());
            }
            if leader.is_none() {
                let patience = PATIENCE_MS.choose(&mut random).expect("there are some");
                *leader = world.finder.find(&course.tag(), Duration::from_millis(*patience));
            }
            let Some(Leader { connection, term }) = leader else { return Ok(()) };
            let invoked = Instant::now();
            let call = recorder.invoked(session, operation);
            match connection.call(operation)? {
                Reply::Answer(value) => {
                    recorder.answered(call, value);
                    world.ledger.add(*term, invoked, !operation.is_read());
                    break;
                }
                Reply::Refused => {
                    recorder.refused(call);
                    *leader = None;
                    thread::sleep(RETRY);
                }
                Reply::Unknown | Reply::Silence => {
                    *leader = None;
                    session = recorder.begin_session();
                    course.unknown.fetch_add(usize::from(!operation.is_read()), Ordering::Relaxed);
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Reads what a lap has left, when all is over, so that its history ends with that.
///
/// # Errors
/// There is no answer.
pub fn read_at_the_end(lap: &Lap, finder: &Finder, patience: Duration) -> Result<()> {
    let mut leader = finder.find(&tag(lap.round), patience).context("nobody ended this search")?;
    let session = lap.recorder.begin_session();
    for key in keys(lap.round) {
        let read = Operation::Get(key);
        let call = lap.recorder.invoked(session, &read);
        match leader.connection.call(&read)? {
            Reply::Answer(value) => lap.recorder.answered(call, value),
            other => return Err(anyhow!("without faults, {read} came to {other:?}")),
        }
    }
    Ok(())
}
