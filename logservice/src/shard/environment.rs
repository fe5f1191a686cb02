//! What a shard needs of the process it runs in: the time, and threads that may block. Everything in this folder asks this for them,
//! so that `tests/simulation` can drive a whole shard without threads and without real time.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

/// A future that is over at some time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Work that may block.
pub type Work = Box<dyn FnOnce() + Send>;

/// Time and blocking threads. Called from any thread.
pub trait Environment: Send + Sync {
    /// A monotonic clock. Never goes back.
    fn now(&self) -> Instant;

    /// Milliseconds since 1970, by a clock that may be set.
    fn unix_ms(&self) -> u64;

    /// Is over at `deadline`, or soon after.
    fn sleep_until(&self, deadline: Instant) -> Sleep;

    /// Runs `work`, which may block on I/O, to its end beside the caller, whether or not anybody waits for it.
    fn spawn_blocking(&self, work: Work);
}

/// The operating system's clock, and the threads of the tokio runtime that it is used in.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(deadline.into()))
    }

    fn spawn_blocking(&self, work: Work) {
        drop(tokio::task::spawn_blocking(work));
    }
}

/// Work that may block ended without a result.
#[derive(Debug, thiserror::Error)]
#[error("the thread that did it has panicked, or the process is ending")]
pub struct Unfinished;

impl dyn Environment + '_ {
    /// Runs `work` where it may block, and waits for its result. It goes on if the waiting is given up.
    ///
    /// # Errors
    /// It panicked, or the process is ending.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let (result, finished) = oneshot::channel();
        self.spawn_blocking(Box::new(move || {
            let _ = result.send(work());
        }));
        finished.await.map_err(|_| Unfinished)
    }

    /// The output of `future`, or `None` if `time` passes first.
    pub async fn timeout<T>(&self, time: Duration, future: impl Future<Output = T>) -> Option<T> {
        let deadline = self.now() + time;
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep_until(deadline) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> &'static dyn Environment {
        &SystemEnvironment
    }

    #[test]
    fn versions_of_leadership_fit_the_protocol() {
        // Below 2^63, as every number of the protocol, and after 2020.
        let now = system().unix_ms();
        assert!(now > 1_577_836_800_000 && i64::try_from(now).is_ok());
    }

    #[tokio::test]
    async fn blocking_work_has_a_result_unless_it_panics() {
        assert_eq!(system().run_blocking(|| 7).await.ok(), Some(7));
        assert!(system().run_blocking(|| -> u8 { panic!("on purpose") }).await.is_err());
    }

    #[tokio::test]
    async fn what_is_ready_is_not_too_late() {
        assert_eq!(system().timeout(Duration::ZERO, async { 7 }).await, Some(7));
        assert_eq!(system().timeout(Duration::from_millis(1), std::future::pending::<u8>()).await, None);
    }
}
