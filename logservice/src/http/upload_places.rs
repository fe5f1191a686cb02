//! Places for uploads: one per shard, and a bounded number in total.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{oneshot, OwnedSemaphorePermit, Semaphore};

/// The uploads that are in progress.
#[derive(Debug)]
pub struct Uploads {
    places: Arc<Semaphore>,
    current: Mutex<HashMap<String, Current>>,
}

#[derive(Debug)]
struct Current {
    /// The upload is displaced when this is dropped.
    ends: oneshot::Sender<()>,
    place: Arc<OwnedSemaphorePermit>,
}

/// An upload, until it is dropped.
#[derive(Debug)]
pub struct Upload {
    uploads: Arc<Uploads>,
    shard: String,
    displaced: oneshot::Receiver<()>,
    /// Shared with the upload that displaces this one, until this one has ended.
    _place: Arc<OwnedSemaphorePermit>,
}

impl Uploads {
    /// At most `most` at a time.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Uploads { places: Arc::new(Semaphore::new(most as usize)), current: Mutex::default() })
    }

    /// Begins an upload of `shard`, and displaces one that is in progress: a leader whose connection was lost uploads again, and only a
    /// leader may begin an upload. `None` if uploads of other shards take all places.
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
    /// Waits until another upload of the same shard begins.
    pub async fn displaced(&mut self) {
        // Nothing is ever sent; the other end is dropped.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.displaced.close();
        let mut current = self.uploads.lock();
        // The shard's newest upload holds the other end.
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
