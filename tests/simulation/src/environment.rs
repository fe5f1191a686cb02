//! What a simulated shard runs in: a clock that only the simulation moves, and blocking work that waits until it is chosen.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use logservice::shard::{Environment, Sleep, Work};

/// True time, in nanoseconds since the simulation began. The log service's clock runs by it.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    elapsed_ns: Arc<AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Time begins.
    pub fn new() -> Self {
        Clock { start: Instant::now(), elapsed_ns: Arc::default() }
    }

    /// Nanoseconds since it began.
    pub fn elapsed_ns(&self) -> u64 {
        self.elapsed_ns.load(Ordering::Relaxed)
    }

    /// Time passes.
    pub fn advance(&self, time: Duration) {
        self.elapsed_ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.elapsed_ns())
    }
}

/// The environment of one life of the service.
pub struct SimulatedEnvironment {
    clock: Clock,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    sleepers: BTreeMap<u64, (Instant, Waker)>,
    work: Vec<Work>,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl SimulatedEnvironment {
    /// Nothing waits.
    pub fn new(clock: Clock) -> Self {
        SimulatedEnvironment { clock, waiting: Arc::default() }
    }

    /// How much blocking work waits to be done.
    pub fn waiting_work(&self) -> usize {
        lock(&self.waiting).work.len()
    }

    /// Does the work at that place. The lock is not held meanwhile.
    pub fn do_work(&self, at: usize) {
        let work = lock(&self.waiting).work.swap_remove(at);
        work();
    }

    /// Takes the work at that place, which is done elsewhere.
    pub fn take_work(&self, at: usize) -> Work {
        lock(&self.waiting).work.swap_remove(at)
    }

    /// How long until the next sleeper is to be woken.
    pub fn next_wake(&self) -> Option<Duration> {
        let now = self.clock.now();
        lock(&self.waiting).sleepers.values().map(|(deadline, _)| deadline.saturating_duration_since(now)).min()
    }

    /// Wakes those whose time has come.
    pub fn wake_due(&self) {
        let now = self.clock.now();
        for (deadline, waker) in lock(&self.waiting).sleepers.values() {
            if *deadline <= now {
                waker.wake_by_ref();
            }
        }
    }
}

impl Environment for SimulatedEnvironment {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn unix_ms(&self) -> u64 {
        // 2025-01-01, and on from there.
        1_735_689_600_000 + self.clock.elapsed_ns() / 1_000_000
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(Sleeper { clock: self.clock.clone(), waiting: self.waiting.clone(), deadline, number: None })
    }

    fn spawn_blocking(&self, work: Work) {
        lock(&self.waiting).work.push(work);
    }
}

struct Sleeper {
    clock: Clock,
    waiting: Arc<Mutex<Waiting>>,
    deadline: Instant,
    number: Option<u64>,
}

impl Future for Sleeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut waiting = lock(&self.waiting);
        let number = self.number.unwrap_or(waiting.next);
        waiting.next = waiting.next.max(number + 1);
        waiting.sleepers.insert(number, (self.deadline, context.waker().clone()));
        drop(waiting);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            lock(&self.waiting).sleepers.remove(&number);
        }
    }
}

/// Whether a task is to be polled.
#[derive(Debug)]
pub struct Ready(AtomicBool);

impl Ready {
    /// A task that was not polled yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Ready(AtomicBool::new(true)))
    }

    /// Whether somebody has woken it.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is polled now.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets anything else happen before it goes on.
pub async fn pause() {
    let mut has_paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
