//! The log service stands still for so long that writes are refused, and then goes on: under a load of writes and reads
//! at fixed rates, whose answers are kept.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::load::Times;
use crate::numbered::{Progress, Reads, Write, Writes};
use crate::paced::{self, Course, Pace};
use crate::processes::{wait_closely, wait_until, Durable};
use crate::Result;

/// 20,000 a second.
const WRITES: Pace = Pace { connections: 4, tick: Duration::from_millis(1), per_tick: 20 };
/// 5,000 a second.
const READS: Pace = Pace { connections: 4, tick: Duration::from_micros(200), per_tick: 1 };
/// What is measured begins so long after the load.
const WARM_UP: Duration = Duration::from_secs(1);
/// For so long writes are refused before the log goes on.
const REFUSING: Duration = Duration::from_secs(3);
/// What must happen at a known moment is waited for this much longer.
const GRACE: Duration = Duration::from_secs(10);
/// A log that goes on is looked at this often.
const POLL: Duration = Duration::from_millis(1);
/// For the log to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// What happened when, counted from the load's start.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// The log service was stopped.
    pub stopped: Duration,
    /// It was told to go on.
    pub continued: Duration,
    /// The lag was seen to be half of the limit, or less.
    pub half: Duration,
    /// The log was seen to have all that waited for it when it went on.
    pub caught_up: Duration,
    /// The load ended.
    pub ended: Duration,
}

/// What was seen.
pub struct Seen {
    /// When the log stopped, went on, and caught up.
    pub moments: Moments,
    /// The writes of each connection, in order.
    pub writes: Vec<Vec<Write>>,
    /// The reads that were answered with their key's value.
    pub reads: Vec<Course>,
    /// How many were answered otherwise.
    pub failed_reads: u64,
    /// The first such answer.
    pub first_failure: Option<String>,
    /// Bytes that waited for the log when it went on.
    pub backlog_bytes: u64,
}

impl Seen {
    /// When the first write was refused.
    pub fn refused(&self) -> Option<Duration> {
        self.all_writes().filter(|write| !write.is_accepted).map(|write| write.course.answered).min()
    }

    /// When the first write was accepted again.
    pub fn resumed(&self) -> Option<Duration> {
        let accepted = self.all_writes().filter(|write| write.is_accepted).map(|write| write.course.answered);
        accepted.filter(|answered| *answered > self.moments.continued).min()
    }

    /// How many writes were accepted after the first refusal, before the log went on: those that follow a refused one on
    /// their connection, and those that were sent after a refusal was seen on any.
    pub fn accepted_while_refused(&self) -> usize {
        let Some(refused) = self.refused() else { return 0 };
        let of_connection = |writes: &Vec<Write>| {
            let first = writes.iter().position(|write| !write.is_accepted).unwrap_or(writes.len());
            let is_late = |(index, write): &(usize, &Write)| *index > first || write.course.sent > refused;
            let accepted = writes.iter().enumerate().filter(|(_, write)| write.is_accepted);
            accepted.filter(is_late).filter(|(_, write)| write.course.answered <= self.moments.continued).count()
        };
        self.writes.iter().map(of_connection).sum()
    }

    /// How many writes were refused that were sent after one was accepted again.
    pub fn refused_after_resumption(&self) -> usize {
        let Some(resumed) = self.resumed() else { return 0 };
        self.all_writes().filter(|write| !write.is_accepted && write.course.sent > resumed).count()
    }

    /// How many writes that were sent at that time were accepted, and how many refused.
    pub fn answers(&self, sent: Range<Duration>) -> (usize, usize) {
        let (accepted, refused): (Vec<&Write>, Vec<&Write>) =
            self.all_writes().filter(|write| sent.contains(&write.course.sent)).partition(|write| write.is_accepted);
        (accepted.len(), refused.len())
    }

    /// That time of each of the reads that were due in that phase.
    pub fn read_times(&self, phase: Range<Duration>, time: fn(&Course) -> Duration) -> Times {
        let mut times = Times::default();
        self.reads.iter().filter(|read| phase.contains(&read.due)).for_each(|read| times.record(time(read)));
        times
    }

    /// The time before the log stopped that counts.
    pub fn before(&self) -> Range<Duration> {
        WARM_UP..self.moments.stopped
    }

    fn all_writes(&self) -> impl Iterator<Item = &Write> {
        self.writes.iter().flatten()
    }
}

/// Stops the log after `before` of normal load, has it go on when writes have been refused for a while, and ends the load
/// when they could have been refused again. `limit` is the server's limit of the lag.
pub fn run(durable: &Durable, limit: Duration, before: Duration) -> Result<Seen> {
    let progress = Progress::new(WRITES.connections);
    let (mut writes, mut reads) = (Writes::new(&progress), Reads::new(READS.connections, &progress));
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let (course, loads) = thread::scope(|scope| {
        let loads = [
            scope.spawn(|| paced::run(&durable.server, WRITES, &mut writes, start, &is_over)),
            scope.spawn(|| paced::run(&durable.server, READS, &mut reads, start, &is_over)),
        ];
        let course = stop_and_go_on(durable, limit, before, &progress, start);
        is_over.store(true, Ordering::Relaxed);
        (course, loads.map(|load| load.join().unwrap_or_else(|_| Err("a load panicked".into()))))
    });
    // A load that failed is why what was waited for did not happen.
    loads.into_iter().collect::<Result<()>>()?;
    let (moments, backlog_bytes) = course?;
    Ok(Seen {
        moments,
        writes: writes.answered,
        reads: reads.answered,
        failed_reads: reads.failed,
        first_failure: reads.first_failure,
        backlog_bytes,
    })
}

fn stop_and_go_on(
    durable: &Durable,
    limit: Duration,
    before: Duration,
    progress: &Progress,
    start: Instant,
) -> Result<(Moments, u64)> {
    let mut admin = durable.server.connect()?;
    sleep(WARM_UP + before);
    let stopped = start.elapsed();
    durable.log.stop()?;
    wait_until("writes are refused", limit + GRACE, || Ok(progress.is_refused()))?;
    sleep(REFUSING);
    let backlog_bytes = admin.durability("pending_bytes")?;
    let backlog_end = admin.durability("current_offset")?;
    let continued = start.elapsed();
    durable.log.go_on()?;
    let half_ms = (limit / 2).as_millis() as u64;
    wait_for(&mut admin, "lag_ms", |lag_ms| lag_ms <= half_ms)?;
    let half = start.elapsed();
    wait_for(&mut admin, "durable_offset", |offset| offset >= backlog_end)?;
    let caught_up = start.elapsed();
    wait_until("writes are accepted again", GRACE, || Ok(!progress.is_refused()))?;
    // A log that does not keep up would be at the limit again by the end of this.
    sleep(limit + before);
    let ended = start.elapsed();
    Ok((Moments { stopped, continued, half, caught_up, ended }, backlog_bytes))
}

fn wait_for(admin: &mut Client, figure: &str, is_so: impl Fn(u64) -> bool) -> Result<()> {
    wait_closely(&format!("the log catches up ({figure})"), CATCH_UP_TIMEOUT, POLL, || {
        Ok(is_so(admin.durability(figure)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// On each connection a write is sent every 10 ms and answered after 5. `runs` tells how many are accepted, refused,
    /// accepted and so on. The log stands still from 100 to 300 ms.
    fn seen(runs: &[&[usize]]) -> Seen {
        let write = |(index, is_accepted): (usize, bool)| {
            let sent = ms(index as u64 * 10);
            Write { course: Course { due: sent, sent, answered: sent + ms(5) }, is_accepted }
        };
        let writes = |runs: &&[usize]| {
            let answers = runs.iter().enumerate().flat_map(|(index, count)| vec![index % 2 == 0; *count]);
            answers.enumerate().map(write).collect()
        };
        Seen {
            moments: Moments {
                stopped: ms(100),
                continued: ms(300),
                half: ms(320),
                caught_up: ms(330),
                ended: ms(400),
            },
            writes: runs.iter().map(writes).collect(),
            reads: Vec::new(),
            failed_reads: 0,
            first_failure: None,
            backlog_bytes: 0,
        }
    }

    #[test]
    fn the_first_refusal_and_the_resumption_are_those_of_any_connection() {
        let seen = seen(&[&[20, 13, 4], &[19, 15, 3]]);
        assert_eq!((seen.refused(), seen.resumed()), (Some(ms(195)), Some(ms(335))));
        assert_eq!((seen.accepted_while_refused(), seen.refused_after_resumption()), (0, 0));
        assert_eq!(seen.answers(ms(300)..ms(400)), (7, 7));
    }

    #[test]
    fn a_write_that_is_sent_after_a_refusal_must_not_be_accepted_on_any_connection() {
        assert_eq!(seen(&[&[21, 12, 4], &[19, 15, 3]]).accepted_while_refused(), 1);
    }

    #[test]
    fn a_write_behind_a_refused_one_must_not_be_accepted_until_the_log_goes_on() {
        assert_eq!(seen(&[&[20, 1, 1, 1, 1, 10, 4]]).accepted_while_refused(), 2);
    }

    #[test]
    fn a_refusal_after_the_resumption_is_seen() {
        let seen = seen(&[&[20, 13, 1, 2, 1, 1]]);
        assert_eq!((seen.accepted_while_refused(), seen.refused_after_resumption()), (0, 3));
    }

    #[test]
    fn what_never_happened_has_no_moment() {
        let seen = seen(&[&[10]]);
        assert_eq!((seen.refused(), seen.resumed()), (None, None));
    }
}
