//! Threads that read old entries: for members that are behind, and to be applied.

use std::sync::{Arc, Mutex, PoisonError};

use super::inbox::Input;
use super::thread::Turns;
use crate::replica::copy::CopyDisk;
use crate::replica::group::Fetch;
use crate::store::file_store::workers::{Job, Workers};

/// Reads at a time, of all groups.
const MOST_THREADS: usize = 4;

/// The threads; none for tests that drive groups by hand: then whoever drives them reads.
pub(super) struct Fetches(Option<Workers>);

impl Fetches {
    /// Starts the first of them.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn start() -> std::io::Result<Self> {
        // They do not give way to everything else: a member that never catches up is one that the others cannot do without.
        Ok(Fetches(Some(Workers::start("log-fetch", MOST_THREADS, false)?)))
    }

    /// None.
    #[cfg(any(test, feature = "testing"))]
    pub fn by_hand() -> Self {
        Fetches(None)
    }

    /// Has entries of the group of that id read.
    pub fn read(&self, id: u64, fetch: Fetch, disk: Arc<dyn CopyDisk>, turns: Arc<Turns>) {
        let read = Read { id, disk, turns: Mutex::new(Some(turns)), fetch };
        match &self.0 {
            Some(workers) => {
                workers.run(Arc::new(read));
            }
            None => {
                read.run(&|| false);
            }
        }
    }
}

/// One read.
struct Read {
    id: u64,
    disk: Arc<dyn CopyDisk>,
    /// Until it is done.
    turns: Mutex<Option<Arc<Turns>>>,
    fetch: Fetch,
}

impl Job for Read {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        let Some(turns) = self.turns.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
        let Fetch { low, high, max_bytes, .. } = self.fetch;
        let read = self.disk.entries(low, high, max_bytes);
        // If the inbox is closed, the service stops.
        let _ = turns.inbox.push(Input::Fetched { id: self.id, fetch: self.fetch, read });
        false
    }
}
