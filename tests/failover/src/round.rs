//! One round: clients at work on shards that are broken again and again, and at the end a look at all that is there.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use durability_histories::judge::{judge, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cluster;
use crate::faults::{self, Counts};
use crate::journal::{self, Found, Place, Written};
use crate::laps::{self, Lap, World};
use crate::leader::Finder;
use crate::ledger::{self, Answer};
use crate::lone_copy;
use crate::notes::Notes;
use crate::plan::Plan;
use crate::system::{Mode, Settings, System, NODES};
use crate::verdict::{self, Loss};
use crate::views::{self, View};

/// Groups of clients that run laps, in sync mode.
const GROUPS: u32 = 3;
/// Clients that write numbers. All in all a shard that is alone has 20 clients.
const WRITERS_SYNC: usize = 2;
const WRITERS_ASYNC: usize = 17;
/// A cluster has a place for them in each shard in the beginning, with so many clients each. It has as many groups as a shard that is alone.
const WRITERS_OF_PLACE_SYNC: usize = 2;
const WRITERS_OF_PLACE_ASYNC: usize = 5;
const _: () =
    assert!(GROUPS as usize * (laps::CLIENTS + 1) + WRITERS_SYNC + NODES == 20 && WRITERS_ASYNC + NODES == 20);
/// Mean time between two writes of one of those.
const WRITER_PACE: Duration = Duration::from_millis(8);
const FIND_RETRY: Duration = Duration::from_millis(30);
/// For everything to be whole when nothing is broken any more. The bus of a cluster waits several times, each time for its own timeout.
const WHOLE_TIME: Duration = Duration::from_secs(30);
const WHOLE_TIME_OF_CLUSTER: Duration = Duration::from_secs(60);
/// For a read at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// Threads that judge laps.
const JUDGES: usize = 2;

/// What came of a round.
#[derive(Debug, Default)]
pub struct Report {
    /// What was done.
    pub counts: Counts,
    /// When clients began.
    pub began: Option<Instant>,
    /// Answers of leaders, by place.
    pub answers: Vec<Vec<Answer>>,
    /// What is missing, in async mode.
    pub loss: Loss,
    /// Histories that were judged.
    pub laps: usize,
    /// What is wrong.
    pub violation: Option<String>,
}

impl Report {
    /// All answers.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.concat()
    }

    /// How often a leader followed another one.
    pub fn takeovers(&self) -> usize {
        ledger::takeovers(&self.answers())
    }

    /// The longest time without an acknowledged write of a place, and when it began.
    pub fn longest_gap(&self) -> (Duration, Option<Instant>) {
        let gaps = self.answers.iter().map(|of_place| ledger::longest_gap(of_place));
        gaps.max_by_key(|(gap, _)| *gap).unwrap_or_default()
    }
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    laps: Vec<Lap>,
    /// By place.
    written: Vec<Vec<Written>>,
    views: Vec<View>,
}

/// Plays a round.
///
/// # Errors
/// It could not be begun.
pub fn play(settings: &Settings, plan: &Plan, seed: u64) -> Result<Report> {
    let mut system = System::start(settings, whole_time(settings)).context("at the beginning")?;
    let tags = if settings.is_cluster() { cluster::tags(&system)? } else { vec![String::from("0")] };
    let places: Vec<Place> = tags.into_iter().map(|tag| Place { tag, ..Place::default() }).collect();
    let finder = system.finder(FIND_RETRY);
    let notes = Notes::new(&settings.directory.join("faults"))?;
    let clients = Clients { finder: &finder, places: &places, notes: &notes };
    let began = Some(Instant::now());
    let (seen, harmed) = work(clients, settings.mode, seed, || harm(&mut system, plan, settings, clients));
    let answers = places.iter().map(|place| place.ledger.answers()).collect();
    let mut report = Report { answers, laps: seen.laps.len(), began, ..Report::default() };
    let judged = harmed
        .map(|counts| report.counts = counts)
        .and_then(|()| look_at_the_end(&mut system, settings, &seen, &places))
        .and_then(|found| judge_all(settings, &seen, &found, &report.answers));
    match judged {
        Ok(loss) => report.loss = loss,
        Err(error) => report.violation = Some(format!("{error:#}")),
    }
    Ok(report)
}

fn whole_time(settings: &Settings) -> Duration {
    if settings.is_cluster() {
        WHOLE_TIME_OF_CLUSTER
    } else {
        WHOLE_TIME
    }
}

/// What clients have of their world.
#[derive(Clone, Copy)]
struct Clients<'a> {
    finder: &'a Finder,
    places: &'a [Place],
    notes: &'a Notes,
}

/// Groups of clients that run laps, and writers of each place.
fn counts(mode: Mode, is_cluster: bool) -> (u32, usize) {
    match (mode, is_cluster) {
        (Mode::Sync, false) => (GROUPS, WRITERS_SYNC),
        (Mode::Async, false) => (0, WRITERS_ASYNC),
        (Mode::Sync, true) => (GROUPS, WRITERS_OF_PLACE_SYNC),
        (Mode::Async, true) => (0, WRITERS_OF_PLACE_ASYNC),
    }
}

/// Clients work while `harm` is done. Returns what they have seen, and its result, or what a client found wrong.
fn work(clients: Clients, mode: Mode, seed: u64, harm: impl FnOnce() -> Result<Counts>) -> (Seen, Result<Counts>) {
    let mut random = StdRng::seed_from_u64(seed);
    let Clients { finder, places, notes } = clients;
    let (groups, writers) = counts(mode, finder.is_cluster());
    thread::scope(|scope| {
        let groups: Vec<_> = (0..groups)
            .map(|group| (group, random.random()))
            .map(|(group, seed)| {
                let world = World { finder, ledger: &places[group as usize % places.len()].ledger, notes };
                scope.spawn(move || ended(finder, laps::run(world, group, seed)))
            })
            .collect();
        let mut write = |place, writer| {
            let seed = random.random();
            scope.spawn(move || ended(finder, journal::write(finder, place, writer, WRITER_PACE, seed)))
        };
        let writers: Vec<Vec<_>> =
            places.iter().map(|place| (0..writers).map(|writer| write(place, writer)).collect()).collect();
        let watchers: Vec<_> = (0..finder.nodes())
            .map(|node| scope.spawn(move || ended(finder, views::watch(finder, places, node))))
            .collect();
        let harmed = harm();
        finder.end();
        let mut seen = Seen::default();
        let mut failed = Ok(());
        for group in groups {
            collect(group.join(), &mut failed, |laps| seen.laps.extend(laps));
        }
        for of_place in writers {
            let mut written = Vec::new();
            for writer in of_place {
                collect(writer.join(), &mut failed, |of_writer| written.push(of_writer));
            }
            seen.written.push(written);
        }
        for watcher in watchers {
            collect(watcher.join(), &mut failed, |views| seen.views.extend(views));
        }
        // If a client has failed, the rest was ended for that.
        (seen, failed.and(harmed))
    })
}

/// If a client failed, there is no need for the others to go on.
fn ended<T>(finder: &Finder, result: Result<T>) -> Result<T> {
    if result.is_err() {
        finder.end();
    }
    result
}

fn collect<T>(joined: thread::Result<Result<T>>, failed: &mut Result<()>, take: impl FnOnce(T)) {
    match joined.unwrap_or_else(|_| Err(anyhow!("a client panicked"))) {
        Ok(value) => take(value),
        Err(error) if failed.is_ok() => *failed = Err(error),
        Err(_) => {}
    }
}

/// Does what is planned, and waits until all is well again.
fn harm(system: &mut System, plan: &Plan, settings: &Settings, clients: Clients) -> Result<Counts> {
    let counts = faults::inflict(system, plan, clients.finder, clients.notes)?;
    clients.notes.add("nothing is broken any more");
    if !clients.finder.is_over() {
        let whole_time = whole_time(settings);
        system.wait_until_whole(whole_time)?;
        let since = Instant::now();
        for place in clients.places {
            let written = place.ledger.wait_for_write(0, since, whole_time);
            ensure!(written.is_some(), "there are leaders, and no write is acknowledged for {whole_time:?}");
        }
    }
    Ok(counts)
}

/// All clients have stopped: nodes are to become equal, and what is there is read from the leaders. Of three services, it is what one of
/// them has. Returns it by place.
fn look_at_the_end(system: &mut System, settings: &Settings, seen: &Seen, places: &[Place]) -> Result<Vec<Found>> {
    let whole_time = whole_time(settings);
    system.wait_until_whole(whole_time)?;
    system.wait_until_equal(whole_time)?;
    if let Some(survivor) = settings.survivor {
        lone_copy::keep_only(system, survivor, whole_time)?;
    }
    system.services.check_output()?;
    let finder = system.finder(FIND_RETRY);
    seen.laps.iter().try_for_each(|lap| laps::read_at_the_end(lap, &finder, LAST_PATIENCE))?;
    let find = |(place, written): (&Place, &Vec<Written>)| {
        let mut leader = finder.find(&place.tag, LAST_PATIENCE).context("nobody ended this search")?;
        journal::find(&mut leader, &place.tag, written.len())
    };
    places.iter().zip(&seen.written).map(find).collect()
}

fn judge_all(settings: &Settings, seen: &Seen, found: &[Found], answers: &[Vec<Answer>]) -> Result<Loss> {
    // What is cheap to judge and easy to understand comes first.
    if let Some(overlap) = ledger::overlap(&answers.concat()) {
        bail!("two leaders answered at the same time: {overlap}");
    }
    let mut loss = Loss::default();
    for (place, (written, found)) in seen.written.iter().zip(found).enumerate() {
        let of_place = verdict::judge(written, found, settings.mode, settings.limit)
            .with_context(|| format!("the journal and the sets of place {place}"))?;
        loss = Loss { writes: loss.writes + of_place.writes, span: loss.span.max(of_place.span) };
    }
    verdict::judge_views(&seen.views, found, settings.mode)?;
    judge_laps(&seen.laps)?;
    Ok(loss)
}

fn judge_laps(laps: &[Lap]) -> Result<()> {
    let share = laps.len().div_ceil(JUDGES).max(1);
    let judged: Vec<Result<()>> = thread::scope(|scope| {
        let judges: Vec<_> =
            laps.chunks(share).map(|laps| scope.spawn(|| laps.iter().try_for_each(judge_lap))).collect();
        judges.into_iter().map(|judge| judge.join().unwrap_or_else(|_| Err(anyhow!("a judge panicked")))).collect()
    });
    judged.into_iter().collect()
}

fn judge_lap(lap: &Lap) -> Result<()> {
    let history = lap.recorder.history();
    match judge(&history)? {
        Verdict::Linearizable => Ok(()),
        Verdict::Violation { unexplained } => bail!(
            "NOT LINEARIZABLE\n{}no order explains all answers; the one that explains most leaves those marked * out",
            history.describe(&unexplained)
        ),
        Verdict::Undecided => bail!("the search for an order takes too long\n{}", history.describe(&[])),
    }
}
