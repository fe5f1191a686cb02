//! One round: clients at work on a shard that is broken again and again, and at the end a look at all that is there.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use durability_histories::judge::{judge, Verdict};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::faults::{self, Counts};
use crate::journal::{self, Found, Written};
use crate::laps::{self, Lap, World};
use crate::leader::{Finder, Leader};
use crate::ledger::{self, Answer, Ledger};
use crate::lone_copy;
use crate::notes::Notes;
use crate::plan::Plan;
use crate::shard::{Mode, Settings, Shard, NODES};
use crate::verdict::{self, Loss};
use crate::views::{self, View};

/// Groups of clients that run laps, in sync mode.
const GROUPS: u32 = 3;
/// Clients that write numbers. All in all there are 20 clients.
const WRITERS_SYNC: usize = 2;
const WRITERS_ASYNC: usize = 17;
const _: () =
    assert!(GROUPS as usize * (laps::CLIENTS + 1) + WRITERS_SYNC + NODES == 20 && WRITERS_ASYNC + NODES == 20);
/// Mean time between two writes of one of those.
const WRITER_PACE: Duration = Duration::from_millis(8);
const FIND_RETRY: Duration = Duration::from_millis(30);
/// For the shard to be whole when nothing is broken any more.
const WHOLE_TIME: Duration = Duration::from_secs(30);
/// For a read at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// Threads that judge laps.
const JUDGES: usize = 2;

/// What came of a round.
#[derive(Debug, Default)]
pub struct Report {
    /// What was done to the shard.
    pub counts: Counts,
    /// When clients began.
    pub began: Option<Instant>,
    /// Answers of leaders.
    pub answers: Vec<Answer>,
    /// What is missing, in async mode.
    pub loss: Loss,
    /// Histories that were judged.
    pub laps: usize,
    /// What is wrong.
    pub violation: Option<String>,
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    laps: Vec<Lap>,
    written: Vec<Written>,
    views: Vec<View>,
}

/// Plays a round.
///
/// # Errors
/// It could not be begun.
pub fn play(settings: &Settings, plan: &Plan, seed: u64) -> Result<Report> {
    let mut shard = Shard::start(settings)?;
    shard.wait_until_whole(WHOLE_TIME).context("at the beginning")?;
    let finder = Finder::new(shard.client_urls.clone(), FIND_RETRY);
    let ledger = Ledger::default();
    let notes = Notes::new(&settings.directory.join("faults"))?;
    let world = World { finder: &finder, ledger: &ledger, notes: &notes };
    let began = Some(Instant::now());
    let (seen, harmed) = work(world, settings.mode, seed, || harm(&mut shard, plan, world));
    let mut report = Report { answers: ledger.answers(), laps: seen.laps.len(), began, ..Report::default() };
    let judged = harmed
        .map(|counts| report.counts = counts)
        .and_then(|()| look_at_the_end(&mut shard, settings, &seen))
        .and_then(|found| judge_all(settings, &seen, &found, &report.answers));
    match judged {
        Ok(loss) => report.loss = loss,
        Err(error) => report.violation = Some(format!("{error:#}")),
    }
    Ok(report)
}

/// Clients work while `harm` is done. Returns what they have seen, and its result, or what a client found wrong.
fn work(world: World, mode: Mode, seed: u64, harm: impl FnOnce() -> Result<Counts>) -> (Seen, Result<Counts>) {
    let mut random = StdRng::seed_from_u64(seed);
    let (groups, writers) = match mode {
        Mode::Sync => (GROUPS, WRITERS_SYNC),
        Mode::Async => (0, WRITERS_ASYNC),
    };
    let World { finder, ledger, .. } = world;
    thread::scope(|scope| {
        let groups: Vec<_> = (0..groups)
            .map(|group| (group, random.random()))
            .map(|(group, seed)| scope.spawn(move || ended(finder, laps::run(world, group, seed))))
            .collect();
        let writers: Vec<_> = (0..writers)
            .map(|writer| (writer, random.random()))
            .map(|(writer, seed)| {
                scope.spawn(move || ended(finder, journal::write(finder, ledger, writer, WRITER_PACE, seed)))
            })
            .collect();
        let watchers: Vec<_> =
            (0..NODES).map(|node| scope.spawn(move || ended(finder, views::watch(finder, node)))).collect();
        let harmed = harm();
        finder.end();
        let mut seen = Seen::default();
        let mut failed = Ok(());
        for group in groups {
            collect(group.join(), &mut failed, |laps| seen.laps.extend(laps));
        }
        for writer in writers {
            collect(writer.join(), &mut failed, |written| seen.written.push(written));
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
fn harm(shard: &mut Shard, plan: &Plan, world: World) -> Result<Counts> {
    let counts = faults::inflict(shard, plan, world.finder, world.notes)?;
    world.notes.add("nothing is broken any more");
    if !world.finder.is_over() {
        shard.wait_until_whole(WHOLE_TIME)?;
        let written = world.ledger.wait_for_write(0, Instant::now(), WHOLE_TIME);
        ensure!(written.is_some(), "one node leads, and no write is acknowledged for {WHOLE_TIME:?}");
    }
    Ok(counts)
}

/// All clients have stopped: nodes are to become equal, and what is there is read from the leader. Of three services, it is what one of them
/// has.
fn look_at_the_end(shard: &mut Shard, settings: &Settings, seen: &Seen) -> Result<Found> {
    shard.wait_until_whole(WHOLE_TIME)?;
    shard.wait_until_equal(WHOLE_TIME)?;
    if let Some(survivor) = settings.survivor {
        lone_copy::keep_only(shard, survivor, WHOLE_TIME)?;
    }
    shard.services.check_output()?;
    let finder = Finder::new(shard.client_urls.clone(), FIND_RETRY);
    let mut leader: Leader = finder.find(LAST_PATIENCE).context("nobody ended this search")?;
    seen.laps.iter().try_for_each(|lap| laps::read_at_the_end(lap, &mut leader))?;
    journal::find(&mut leader, seen.written.len())
}

fn judge_all(settings: &Settings, seen: &Seen, found: &Found, answers: &[Answer]) -> Result<Loss> {
    // What is cheap to judge and easy to understand comes first.
    if let Some(overlap) = ledger::overlap(answers) {
        bail!("two leaders answered at the same time: {overlap}");
    }
    let loss = verdict::judge(&seen.written, found, settings.mode, settings.limit)?;
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
