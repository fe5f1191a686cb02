//! Uploads of data sets: one for each shard, and so many in all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{oneshot, OwnedSemaphorePermit, Semaphore};

/// The uploads that are on their way.
#[derive(Debug)]
pub struct Uploads {
    places: Arc<Semaphore>,
    current: Mutex<HashMap<String, Current>>,
}

#[derive(Debug)]
struct Current {
    /// Dropped, the upload is displaced.
    ends: oneshot::Sender<()>,
    place: Arc<OwnedSemaphorePermit>,
}

/// An upload, until it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    shard: String,
    displaced: oneshot::Receiver<()>,
    /// Shared with the one that takes this one's place while this one ends.
    _place: Arc<OwnedSemaphorePermit>,
}

impl Uploads {
    /// At most `most` at a time.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Uploads { places: Arc::new(Semaphore::new(most as usize)), current: Mutex::default() })
    }

    /// Begins one of `shard`, in the place of the one that is on its way: a leader whose connection was lost comes again, and only
    /// a leader may begin one. `None` if there are too many of other shards.
    pub fn begin(self: &Arc<Self>, shard: &str) -> Option<Upload> {
        let mut current = self.lock();
        let place = match current.get(shard) {
            Some(older) => older.place.clone(),
            None => Arc::new(self.places.clone().try_acquire_owned().ok()?),
        };
        let (ends, displaced) = oneshot::channel();
        current.insert(shard.to_owned(), Current { ends, place: place.clone() });
        Some(Upload { uploads: self.clone(), shard: shard.to_owned(), displaced, _place: place })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Current>> {
        self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Upload {
    /// Waits until another one of the same shard has begun.
    pub async fn displaced(&mut self) {
        // Nothing is sent: the other end is dropped.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.displaced.close();
        let mut current = self.uploads.lock();
        // The newest of the shard holds the other end.
        if current.get(&self.shard).is_some_and(|current| current.ends.is_closed()) {
            current.remove(&self.shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shard_has_one_and_the_newest_goes_on() {
        let uploads = Uploads::new(2);
        let mut first = uploads.begin("a").expect("room");
        let second = uploads.begin("a").expect("its own place");
        first.displaced().await;
        let other = uploads.begin("b").expect("room for another shard");
        assert!(uploads.begin("c").is_none());
        drop(first);
        assert!(uploads.begin("c").is_none(), "the second one has the place");
        let mut third = uploads.begin("a").expect("its own place");
        drop(second);
        let waits = tokio::time::timeout(std::time::Duration::from_millis(1), third.displaced());
        assert!(waits.await.is_err(), "nobody has displaced it");
        drop(third);
        let _last = uploads.begin("c").expect("room again");
        drop(other);
        assert!(uploads.begin("a").is_some());
    }
}
