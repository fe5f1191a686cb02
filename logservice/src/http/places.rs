//! How many requests the HTTP port answers at a time. A connection counts as a stranger's except while a request is answered that a token
//! allows. Such requests take places. Queries and uploads have places of their own, so that neither keeps out the other.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upload_places::{Upload, Uploads};
use crate::connections::network::Network;
use crate::connections::strangers::Guest;

/// One of so many places is for queries.
const QUESTIONS_SHARE: u32 = 4;

/// The places of the port.
pub struct HttpPlaces {
    questions: Arc<Semaphore>,
    uploads: Arc<Uploads>,
}

/// All places for such requests are taken.
#[derive(Debug)]
pub struct TooMany;

/// The client of a connection.
pub struct Visitor {
    guest: Mutex<Guest>,
    places: Arc<HttpPlaces>,
    network: Network,
}

/// A request that is being answered. Its connection counts as a stranger's again when this is dropped.
pub struct Admitted<T> {
    visitor: Arc<Visitor>,
    place: T,
}

impl HttpPlaces {
    /// `most` in total, but at least one for queries and one for uploads.
    pub fn new(most: u32) -> Self {
        let questions = (most / QUESTIONS_SHARE).max(1);
        let uploads = Uploads::new(most.saturating_sub(questions).max(1));
        HttpPlaces { questions: Arc::new(Semaphore::new(questions as usize)), uploads }
    }
}

impl Visitor {
    /// The client at the other end of a connection.
    pub fn new(guest: Guest, places: Arc<HttpPlaces>) -> Self {
        Visitor { network: guest.network(), guest: Mutex::new(guest), places }
    }

    /// Where it comes from.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Takes a place for a query that a token allows.
    pub fn ask(self: &Arc<Self>) -> Result<Admitted<OwnedSemaphorePermit>, TooMany> {
        self.admit(self.places.questions.clone().try_acquire_owned().ok())
    }

    /// Takes a place for an upload of `shard`, which a token allows, by the shard's leader. It displaces an earlier upload of that shard.
    pub fn upload(self: &Arc<Self>, shard: &str) -> Result<Admitted<Upload>, TooMany> {
        self.admit(self.places.uploads.begin(shard))
    }

    fn admit<T>(self: &Arc<Self>, place: Option<T>) -> Result<Admitted<T>, TooMany> {
        let place = place.ok_or(TooMany)?;
        // The connection may have been ended as a stranger's at this moment.
        if !self.guest().leave() {
            return Err(TooMany);
        }
        Ok(Admitted { visitor: self.clone(), place })
    }

    fn guest(&self) -> MutexGuard<'_, Guest> {
        self.guest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Admitted<Upload> {
    /// Waits until another upload of the same shard begins.
    pub async fn displaced(&mut self) {
        self.place.displaced().await;
    }
}

impl<T> Drop for Admitted<T> {
    fn drop(&mut self) {
        self.visitor.guest().enter_again();
    }
}
