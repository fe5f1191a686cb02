//! Places for connections of known clients, some of which may be reserved.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of a port.
pub struct Places {
    /// Places for any client, which are taken first.
    common: Arc<Semaphore>,
    /// Reserved places.
    kept: Arc<Semaphore>,
}

/// Counts a connection until it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    is_kept: bool,
}

impl Place {
    /// Whether the place is reserved: a client that has no right to it must leave.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }
}

impl Places {
    /// `most` places, of which the last `kept` are reserved.
    pub fn new(most: u32, kept: u32) -> Self {
        let semaphore = |places: u32| Arc::new(Semaphore::new(places as usize));
        Places { common: semaphore(most.saturating_sub(kept)), kept: semaphore(kept.min(most)) }
    }

    /// A place, if there is one.
    pub fn take(&self) -> Option<Place> {
        let place = |places: &Arc<Semaphore>, is_kept| {
            places.clone().try_acquire_owned().ok().map(|permit| Place { _permit: permit, is_kept })
        };
        place(&self.common, false).or_else(|| place(&self.kept, true))
    }
}
