//! Log that is still needed although a newer snapshot stands above it: somebody is being sent an older one, or is behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{watch, Notify};

use super::Environment;

/// How long those who are cut may take to be gone: they end at once, if they get a core.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The offsets from which somebody still has to read.
#[derive(Debug, Default)]
pub struct Pins {
    held: Mutex<Held>,
    /// Goes up when somebody leaves.
    left: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// By offset and number.
    pins: BTreeMap<(u64, u64), Option<Bound>>,
}

/// How much is kept for somebody alone.
#[derive(Debug)]
struct Bound {
    bytes: u64,
    cut: Cut,
}

/// Tells somebody that its log is kept no longer.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Notify>);

impl Cut {
    /// Waits until that is so.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// Keeps the log from an offset on, until it is dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    offset: u64,
    number: u64,
}

impl Pins {
    /// Keeps the log from an offset on that `find` tells, with what else it tells. Log is not dropped while it looks.
    pub fn pin<T>(self: &Arc<Self>, find: impl FnOnce() -> (u64, T)) -> (Pin, T) {
        let mut held = self.lock();
        let (offset, found) = find();
        let number = held.next;
        held.next += 1;
        held.pins.insert((offset, number), None);
        drop(held);
        (Pin { pins: self.clone(), offset, number }, found)
    }

    /// Where dropping has to end that would go up to `offset`. Whoever is pinned later sees a manifest that was there before.
    pub fn limit(&self, offset: u64) -> u64 {
        self.lock().pins.keys().next().map_or(offset, |&(lowest, _)| lowest.min(offset))
    }

    /// Cuts those for whom more is kept below `offset` than their bound and than `bytes`, and waits until they are gone.
    pub async fn cut(&self, environment: &dyn Environment, offset: u64, bytes: u64) {
        self.cut_if(environment, offset, |kept, bound| kept > bound.max(bytes)).await;
    }

    /// Cuts all that have a bound for whom anything is kept below `offset`, and waits until they are gone.
    pub async fn cut_bounded(&self, environment: &dyn Environment, offset: u64) {
        self.cut_if(environment, offset, |_, _| true).await;
    }

    async fn cut_if(&self, environment: &dyn Environment, offset: u64, is_cut: impl Fn(u64, u64) -> bool) {
        let mut left = self.left.subscribe();
        let numbers = self.cut_now(offset, is_cut);
        let gone = async { while self.has_any(&numbers) && left.changed().await.is_ok() {} };
        // Whoever stays is waited for by the next.
        let _ = environment.timeout(GONE_WITHIN, gone).await;
    }

    /// The numbers of those that were cut.
    fn cut_now(&self, offset: u64, is_cut: impl Fn(u64, u64) -> bool) -> Vec<u64> {
        let held = self.lock();
        let mut numbers = Vec::new();
        for (&(pinned, number), bound) in held.pins.range(..(offset, 0)) {
            if let Some(bound) = bound.as_ref().filter(|bound| is_cut(offset - pinned, bound.bytes)) {
                bound.cut.0.notify_one();
                numbers.push(number);
            }
        }
        numbers
    }

    fn has_any(&self, numbers: &[u64]) -> bool {
        self.lock().pins.keys().any(|(_, number)| numbers.contains(number))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Pin {
    /// What lies below `offset` is not needed any more.
    pub fn advance(&mut self, offset: u64) {
        debug_assert!(offset >= self.offset);
        let mut held = self.pins.lock();
        let bound = held.pins.remove(&(self.offset, self.number)).flatten();
        held.pins.insert((offset, self.number), bound);
        self.offset = offset;
    }

    /// When more than `bytes` (0: without a bound) are kept for this one alone, `cut` tells it to go.
    pub fn cut_beyond(&mut self, bytes: u64, cut: &Cut) {
        let bound = (bytes > 0).then(|| Bound { bytes, cut: cut.clone() });
        self.pins.lock().pins.insert((self.offset, self.number), bound);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock().pins.remove(&(self.offset, self.number));
        self.pins.left.send_modify(|times| *times += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::SystemEnvironment;
    use super::*;

    #[test]
    fn nothing_is_dropped_that_the_slowest_still_needs() {
        let pins = Arc::new(Pins::default());
        assert_eq!(pins.limit(100), 100);
        let (mut slow, ()) = pins.pin(|| (10, ()));
        let (also, ()) = pins.pin(|| (10, ()));
        let (_fast, ()) = pins.pin(|| (90, ()));
        assert_eq!(pins.limit(100), 10);
        slow.advance(50);
        assert_eq!(pins.limit(100), 10);
        drop(also);
        assert_eq!((pins.limit(100), pins.limit(20)), (50, 20));
        drop(slow);
        assert_eq!(pins.limit(100), 90);
    }

    /// One for whom so much may be kept, which goes when it is cut, and its task.
    fn reader(pins: &Arc<Pins>, offset: u64, bytes: u64) -> tokio::task::JoinHandle<()> {
        let (mut pin, ()) = pins.pin(|| (offset, ()));
        let cut = Cut::default();
        pin.cut_beyond(bytes, &cut);
        // It reads on, and has its bound still.
        pin.advance(offset + 1);
        tokio::spawn(async move {
            cut.wait().await;
            drop(pin);
        })
    }

    #[tokio::test]
    async fn who_keeps_more_than_its_bound_is_cut_and_nobody_else() {
        let pins = Arc::new(Pins::default());
        let (_engine, ()) = pins.pin(|| (500, ()));
        let (far, near, unbounded) = (reader(&pins, 600, 99), reader(&pins, 850, 150), reader(&pins, 600, 0));
        pins.cut(&SystemEnvironment, 1000, 400).await;
        assert!(!far.is_finished(), "the snapshot is larger");
        pins.cut(&SystemEnvironment, 1000, 0).await;
        far.await.expect("it goes");
        assert!(!near.is_finished() && !unbounded.is_finished());
        assert_eq!(pins.limit(1000), 500);
        unbounded.abort();
        pins.cut(&SystemEnvironment, 1002, 0).await;
        near.await.expect("it goes");
    }

    #[tokio::test]
    async fn for_a_log_that_is_full_all_are_cut_that_have_a_bound_and_read_what_is_to_go() {
        let pins = Arc::new(Pins::default());
        let (_engine, ()) = pins.pin(|| (500, ()));
        let (behind, unbounded, there) = (reader(&pins, 600, 4096), reader(&pins, 600, 0), reader(&pins, 999, 4096));
        pins.cut(&SystemEnvironment, 1000, 0).await;
        assert!(!behind.is_finished());
        pins.cut_bounded(&SystemEnvironment, 1000).await;
        behind.await.expect("it goes");
        assert!(!unbounded.is_finished() && !there.is_finished());
        assert_eq!(pins.limit(1000), 500);
    }
}
