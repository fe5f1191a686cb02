//! The threads that all file stores of a process share.

use std::sync::Arc;

use super::workers::Workers;

/// The most threads that write, for all shards together: as many shards can be synced at a time. When more are busy, they take turns, one
/// record each. The disk takes the syncs that wait together.
const MAX_WRITERS: usize = 64;
/// The most spares that are made at a time.
const MAX_SPARE_MAKERS: usize = 4;
/// The most shards whose older segments are verified at a time.
const MAX_VERIFIERS: usize = 4;

/// The threads that do the work of all stores of a process.
pub struct Threads {
    pub(crate) writers: Workers,
    pub(crate) spare_makers: Arc<Workers>,
    pub(crate) verifiers: Workers,
}

impl Threads {
    /// Starts the first of each kind.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn start() -> std::io::Result<Arc<Self>> {
        Self::start_with(MAX_WRITERS)
    }

    /// As [`Threads::start`], with at most so many that write.
    pub fn start_with(max_writers: usize) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Threads {
            writers: Workers::start("log-write", max_writers, false)?,
            spare_makers: Arc::new(Workers::start("log-spare", MAX_SPARE_MAKERS, false)?),
            verifiers: Workers::start("log-verify", MAX_VERIFIERS, true)?,
        }))
    }

    /// No threads: whoever calls the `..._turn` functions does the work, on his own thread. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn by_hand() -> Arc<Self> {
        Arc::new(Threads {
            writers: Workers::by_hand("log-write"),
            spare_makers: Arc::new(Workers::by_hand("log-spare")),
            verifiers: Workers::by_hand("log-verify"),
        })
    }

    /// Whether nothing may depend on the time, as whoever tests drives everything.
    pub fn are_by_hand(&self) -> bool {
        self.spare_makers.are_by_hand()
    }

    /// Whether there is something to write. For tests, of [`Threads::by_hand`], as the next ones.
    #[cfg(any(test, feature = "testing"))]
    pub fn has_writes(&self) -> bool {
        self.writers.is_busy()
    }

    /// Does the next part of what is to be written. False if there is nothing.
    #[cfg(any(test, feature = "testing"))]
    pub fn write_turn(&self) -> bool {
        self.writers.turn()
    }

    /// Makes the next spare, writes the next checkpoint, or verifies an older segment. False if there is nothing to do.
    #[cfg(any(test, feature = "testing"))]
    pub fn background_turn(&self) -> bool {
        self.spare_makers.turn() || self.verifiers.turn()
    }

    /// Forgets all that is to be done, as a crash does.
    #[cfg(any(test, feature = "testing"))]
    pub fn forget_jobs(&self) {
        [&self.writers, &*self.spare_makers, &self.verifiers].into_iter().for_each(Workers::forget_jobs);
    }

    /// Whether older segments of any store are being verified, or are to be.
    pub fn is_verifying(&self) -> bool {
        self.verifiers.is_busy()
    }
}
