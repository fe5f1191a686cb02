//! Who may ask the HTTP port for something at a time. A connection counts as a stranger's but while a request is answered that a token
//! allows: such requests have places, questions some and uploads the others, so that neither keep the others out.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::network::Network;
use crate::strangers::Guest;
use crate::uploads::{Upload, Uploads};

/// Of the places a quarter is for questions.
const QUESTIONS_SHARE: u32 = 4;

/// The places of the port.
pub struct HttpPlaces {
    questions: Arc<Semaphore>,
    uploads: Arc<Uploads>,
}

/// There are too many requests of that kind.
#[derive(Debug)]
pub struct TooMany;

/// Who has sent a request.
pub struct Visitor {
    guest: Mutex<Guest>,
    places: Arc<HttpPlaces>,
    network: Network,
}

/// A request that is being answered. Its connection is a stranger's again when this is dropped.
pub struct Admitted<T> {
    visitor: Arc<Visitor>,
    place: T,
}

impl HttpPlaces {
    /// `most` in all, but at least one for questions and one for uploads.
    pub fn new(most: u32) -> Self {
        let questions = (most / QUESTIONS_SHARE).max(1);
        let uploads = Uploads::new(most.saturating_sub(questions).max(1));
        HttpPlaces { questions: Arc::new(Semaphore::new(questions as usize)), uploads }
    }
}

impl Visitor {
    /// Whoever is at the other end of a connection.
    pub fn new(guest: Guest, places: Arc<HttpPlaces>) -> Self {
        Visitor { network: guest.network(), guest: Mutex::new(guest), places }
    }

    /// Where it comes from.
    pub fn network(&self) -> Network {
        self.network
    }

    /// It asks something, and a token allows that.
    pub fn ask(self: &Arc<Self>) -> Result<Admitted<OwnedSemaphorePermit>, TooMany> {
        self.admit(self.places.questions.clone().try_acquire_owned().ok())
    }

    /// It brings the data of `shard`, and a token allows that, and it leads. Another one that does so is sent away.
    pub fn upload(self: &Arc<Self>, shard: &str) -> Result<Admitted<Upload>, TooMany> {
        self.admit(self.places.uploads.begin(shard))
    }

    fn admit<T>(self: &Arc<Self>, place: Option<T>) -> Result<Admitted<T>, TooMany> {
        let place = place.ok_or(TooMany)?;
        // The share of strangers may have ended it in this moment.
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
    /// Waits until another upload of the same shard has begun.
    pub async fn displaced(&mut self) {
        self.place.displaced().await;
    }
}

impl<T> Drop for Admitted<T> {
    fn drop(&mut self) {
        self.visitor.guest().enter_again();
    }
}
