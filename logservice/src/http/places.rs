//! How many requests the HTTP port answers at a time. A connection counts as a stranger's except while a request is answered that a token
//! allows, until its answer is sent. Such requests take places for as long. Queries, streams of events and uploads have places of their own,
//! so that none keeps out another.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::upload_places::{Upload, Uploads};
use crate::connections::network::Network;
use crate::connections::strangers::Guest;

/// One of so many places is for queries.
const QUESTIONS_SHARE: u32 = 4;
/// One of so many places is for streams of events.
const STREAMS_SHARE: u32 = 8;

/// The places of the port.
pub struct HttpPlaces {
    questions: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    uploads: Arc<Uploads>,
}

/// All places for such requests are taken.
#[derive(Debug)]
pub struct TooMany;

/// The client of a connection.
pub struct Visitor {
    standing: Mutex<Standing>,
    places: Arc<HttpPlaces>,
    network: Network,
}

/// What a connection counts as.
struct Standing {
    guest: Guest,
    /// The place of a request whose answer is on its way.
    unsent: Option<Box<dyn Send>>,
}

/// The place of a stream of events, until it is dropped.
pub struct Streaming {
    _permit: OwnedSemaphorePermit,
}

/// A request that is being answered. When this is dropped, the answer is ready: it is sent next.
pub struct Admitted<T: Send + 'static> {
    visitor: Arc<Visitor>,
    /// Until it is dropped.
    place: Option<T>,
}

impl HttpPlaces {
    /// `most` in total, but at least one for queries, one for streams and one for uploads.
    pub fn new(most: u32) -> Self {
        let (questions, streams) = ((most / QUESTIONS_SHARE).max(1), (most / STREAMS_SHARE).max(1));
        let uploads = Uploads::new(most.saturating_sub(questions + streams).max(1));
        let semaphore = |places: u32| Arc::new(Semaphore::new(places as usize));
        HttpPlaces { questions: semaphore(questions), streams: semaphore(streams), uploads }
    }
}

impl Visitor {
    /// The client at the other end of a connection.
    pub fn new(guest: Guest, places: Arc<HttpPlaces>) -> Self {
        Visitor { network: guest.network(), standing: Mutex::new(Standing { guest, unsent: None }), places }
    }

    /// Where it comes from.
    pub fn network(&self) -> Network {
        self.network
    }

    /// Takes a place for a query that a token allows.
    pub fn ask(self: &Arc<Self>) -> Result<Admitted<OwnedSemaphorePermit>, TooMany> {
        self.admit(self.places.questions.clone().try_acquire_owned().ok())
    }

    /// Takes a place for a stream of events that a token allows.
    pub fn stream(self: &Arc<Self>) -> Result<Admitted<Streaming>, TooMany> {
        let permit = self.places.streams.clone().try_acquire_owned().ok();
        self.admit(permit.map(|permit| Streaming { _permit: permit }))
    }

    /// Takes a place for an upload of `shard`, which a token allows, by the shard's leader. It displaces an earlier upload of that shard.
    pub fn upload(self: &Arc<Self>, shard: &str) -> Result<Admitted<Upload>, TooMany> {
        self.admit(self.places.uploads.begin(shard))
    }

    fn admit<T: Send + 'static>(self: &Arc<Self>, place: Option<T>) -> Result<Admitted<T>, TooMany> {
        let place = place.ok_or(TooMany)?;
        let mut standing = self.standing();
        // The connection may have been ended as a stranger's at this moment.
        if !standing.guest.leave() {
            return Err(TooMany);
        }
        // A client may ask again before it has taken its answer. It has one place then, and no more answers than fit on the connection.
        standing.unsent = None;
        drop(standing);
        Ok(Admitted { visitor: self.clone(), place: Some(place) })
    }

    /// Everything that was written is sent. If an answer was among it, the connection counts as a stranger's again.
    pub fn all_is_sent(&self) {
        let mut standing = self.standing();
        if standing.unsent.take().is_some() {
            standing.guest.enter_again();
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Admitted<Upload> {
    /// Waits until another upload of the same shard begins.
    pub async fn displaced(&mut self) {
        if let Some(place) = &mut self.place {
            place.displaced().await;
        }
    }
}

impl<T: Send + 'static> Drop for Admitted<T> {
    fn drop(&mut self) {
        self.visitor.standing().unsent = self.place.take().map(|place| Box::new(place) as Box<dyn Send>);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    use super::*;
    use crate::connections::strangers::{Ending, Strangers};
    use crate::http::serve_connection;
    use crate::resp::fuzz::shared;

    /// More than the connection takes at once.
    const ANSWER_BYTES: usize = 64 << 10;

    #[tokio::test]
    async fn a_client_is_no_stranger_before_its_answer_is_sent() {
        let peer: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        // Another stranger of its network takes its place if it counts as one.
        let strangers = Strangers::new(2, 0, "a connection");
        let (ending, network) = (Arc::new(Ending::default()), Network::of(peer.ip()));
        let places = Arc::new(HttpPlaces::new(1));
        let visitor = Arc::new(Visitor::new(strangers.enter(network, ending.clone()), places.clone()));
        let answer = |Extension(visitor): Extension<Arc<Visitor>>| async move {
            let _place = visitor.ask().expect("room");
            "x".repeat(ANSWER_BYTES)
        };
        let router = Router::new().route("/", get(answer));
        let (mut client, server) = duplex(1024);
        let port = shared(None);
        let limits = port.limits.clone();
        let (_shutdown, stopping) = watch::channel(false);
        let serving =
            tokio::spawn(async move { serve_connection(server, peer, (router, visitor), &limits, stopping).await });
        ending.bind(serving.abort_handle());
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut answer = vec![0; 512];
        client.read_exact(&mut answer).await.expect("it begins");
        let other = Arc::new(Ending::default());
        let _guest = strangers.enter(network, other.clone());
        let waiting = tokio::spawn(std::future::pending::<()>());
        other.bind(waiting.abort_handle());
        assert_eq!(places.questions.available_permits(), 0, "the answer takes a place");
        while answer.iter().rev().take_while(|byte| **byte == b'x').count() < ANSWER_BYTES {
            assert!(client.read_buf(&mut answer).await.expect("a pipe") > 0, "ended after {} bytes", answer.len());
        }
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
        assert!(ended.is_ok_and(|ended| ended.is_err()), "it is the youngest stranger now");
        assert_eq!(places.questions.available_permits(), 1);
        serving.abort();
        std::fs::remove_dir_all(port.service.directory()).expect("removed");
    }
}
