use std::collections::BTreeSet;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::{self, ThreadId};

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// Tells which thread does it, and goes on when it is let.
struct Held {
    begun: Sender<ThreadId>,
    go_on: Mutex<Receiver<()>>,
}

fn held(begun: &Sender<ThreadId>) -> (Arc<Held>, Sender<()>) {
    let (let_go, go_on) = channel();
    (Arc::new(Held { begun: begun.clone(), go_on: Mutex::new(go_on) }), let_go)
}

impl Job for Held {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        self.begun.send(thread::current().id()).expect("heard");
        let _ = self.go_on.lock().expect("lock").recv_timeout(SOON);
        false
    }
}

fn workers(most: usize) -> Workers {
    Workers::start("test", most, false).expect("starts")
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_job_after_the_other_is_done_by_the_same_thread() {
    let workers = workers(8);
    let (begun, is_begun) = channel();
    // Two threads, of which one is the warmer.
    let (jobs, let_go): (Vec<_>, Vec<_>) = (0..2).map(|_| held(&begun)).unzip();
    jobs.into_iter().for_each(|job| assert!(workers.run(job)));
    let all: BTreeSet<_> = (0..2).map(|_| format!("{:?}", is_begun.recv_timeout(SOON).expect("begun"))).collect();
    assert_eq!(all.len(), 2, "below the maximum no job waits for another");
    drop(let_go);
    wait_until("all idle", || !workers.is_busy());
    let mut threads = BTreeSet::new();
    for _ in 0..100 {
        let (job, _let_go) = held(&begun);
        drop(_let_go);
        assert!(workers.run(job));
        threads.insert(format!("{:?}", is_begun.recv_timeout(SOON).expect("begun")));
        wait_until("idle again", || !workers.is_busy());
    }
    assert_eq!(threads.len(), 1);
}

#[test]
fn there_are_no_more_threads_than_told_and_all_but_one_end_when_there_is_no_work() {
    const JOBS: usize = 12;
    const MOST: usize = 3;
    let workers = workers(MOST);
    let (begun, is_begun) = channel();
    let (jobs, let_go): (Vec<_>, Vec<_>) = (0..JOBS).map(|_| held(&begun)).unzip();
    let has_thread = jobs.into_iter().map(|job| workers.run(job)).filter(|has_thread| *has_thread).count();
    // The first thread may not have come to wait yet.
    assert!(has_thread == MOST || has_thread == MOST - 1, "{has_thread}");
    assert_eq!(workers.shared.lock().threads, MOST);
    drop(let_go);
    let threads: BTreeSet<_> =
        (0..JOBS).map(|_| format!("{:?}", is_begun.recv_timeout(SOON).expect("begun"))).collect();
    assert!(threads.len() <= MOST, "{threads:?}");
    wait_until("one is left", || workers.shared.lock().threads == 1);
    let (job, _let_go) = held(&begun);
    assert!(workers.run(job));
    assert!(is_begun.recv_timeout(SOON).is_ok());
}

/// Always has more to do, until it is told to end.
struct Endless {
    parts: AtomicUsize,
    ends: std::sync::atomic::AtomicBool,
}

impl Job for Endless {
    fn run(&self, others_wait: &dyn Fn() -> bool) -> bool {
        while !self.ends.load(Ordering::Relaxed) {
            self.parts.fetch_add(1, Ordering::Relaxed);
            if others_wait() {
                return true;
            }
            thread::yield_now();
        }
        false
    }
}

#[test]
fn at_the_maximum_busy_jobs_take_turns() {
    let workers = workers(1);
    let jobs: Vec<_> =
        (0..3).map(|_| Arc::new(Endless { parts: AtomicUsize::new(0), ends: Default::default() })).collect();
    for job in &jobs {
        workers.run(job.clone());
    }
    for job in &jobs {
        wait_until("each gets on", || job.parts.load(Ordering::Relaxed) > 1000);
    }
    jobs.iter().for_each(|job| job.ends.store(true, Ordering::Relaxed));
    wait_until("all have ended", || jobs.iter().all(|job| Arc::strong_count(job) == 1));
}

struct Panics;

impl Job for Panics {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        panic!("as the test wants it");
    }
}

#[test]
fn a_job_that_panics_costs_no_place() {
    let workers = workers(1);
    let (begun, is_begun) = channel();
    for _ in 0..3 {
        workers.run(Arc::new(Panics));
        wait_until("its thread has ended", || workers.shared.lock().threads == 0);
    }
    let (job, _let_go) = held(&begun);
    assert!(workers.run(job));
    assert!(is_begun.recv_timeout(SOON).is_ok());
}

#[test]
fn what_was_given_is_done_before_the_threads_end() {
    let workers = workers(1);
    let (begun, is_begun) = channel();
    let (jobs, let_go): (Vec<_>, Vec<_>) = (0..5).map(|_| held(&begun)).unzip();
    jobs.into_iter().for_each(|job| {
        workers.run(job);
    });
    let shared = workers.shared.clone();
    drop(workers);
    drop(let_go);
    for _ in 0..5 {
        assert!(is_begun.recv_timeout(SOON).is_ok());
    }
    wait_until("all have ended", || shared.lock().threads == 0);
}
