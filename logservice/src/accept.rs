//! Takes connections of a port: only so many at a time, and with a line in the log for those that are turned away. The last places may
//! be kept for some.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::throttle::LineThrottle;

/// After a failed accept (out of file descriptors, most likely).
const RETRY: Duration = Duration::from_millis(100);
/// How long telling a client that there are too many may take.
const REFUSE_AT_MOST: Duration = Duration::from_secs(1);

/// A port that takes connections.
pub struct Acceptor {
    listener: TcpListener,
    /// Places for anybody, which are taken first.
    common: Arc<Semaphore>,
    /// Places for those for whom they are kept.
    kept: Arc<Semaphore>,
    most: u32,
    /// The flag that says so.
    flag: &'static str,
    /// What a client reads that is turned away; nothing if it would not understand.
    too_many: &'static [u8],
    lines: LineThrottle,
}

/// What counts a connection until it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    is_kept: bool,
}

impl Place {
    /// Whether it is one that is kept for some: whoever has it has to be one of these, or to go.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }
}

impl Acceptor {
    /// Takes at most `most` connections at a time, as `flag` says, of which the last `kept` are kept for some.
    pub fn new(listener: TcpListener, most: u32, kept: u32, flag: &'static str, too_many: &'static [u8]) -> Self {
        let semaphore = |places: u32| Arc::new(Semaphore::new(places as usize));
        let (common, kept) = (semaphore(most.saturating_sub(kept)), semaphore(kept.min(most)));
        Acceptor { listener, common, kept, most, flag, too_many, lines: LineThrottle::new() }
    }

    fn place(&self) -> Option<Place> {
        let place = |places: &Arc<Semaphore>, is_kept| {
            places.clone().try_acquire_owned().ok().map(|permit| Place { _permit: permit, is_kept })
        };
        place(&self.common, false).or_else(|| place(&self.kept, true))
    }

    /// The next connection, and its place. May be dropped while it waits.
    pub async fn next(&self) -> (TcpStream, SocketAddr, Place) {
        loop {
            let (mut stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(others) = self.lines.pass() {
                        tracing::warn!("cannot accept a connection: {error} ({others} more such lines left out)");
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            match self.place() {
                Some(place) => return (stream, peer, place),
                None => {
                    if let Some(others) = self.lines.pass() {
                        let Acceptor { most, flag, .. } = self;
                        tracing::warn!(
                            "{peer} refused: {most} connections are open, as many as {flag} allows ({others} more such lines left out)"
                        );
                    }
                    // Fits into the socket's buffer, which is empty.
                    let _ = tokio::time::timeout(REFUSE_AT_MOST, stream.write_all(self.too_many)).await;
                }
            }
        }
    }
}
