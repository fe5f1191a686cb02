//! Takes connections of a port: only so many at a time, and with a line in the log for those that are turned away.

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
    permits: Arc<Semaphore>,
    most: u32,
    /// The flag that says so.
    flag: &'static str,
    /// What a client reads that is turned away; nothing if it would not understand.
    too_many: &'static [u8],
    lines: LineThrottle,
}

impl Acceptor {
    /// Takes at most `most` connections at a time, as `flag` says.
    pub fn new(listener: TcpListener, most: u32, flag: &'static str, too_many: &'static [u8]) -> Self {
        let permits = Arc::new(Semaphore::new(most as usize));
        Acceptor { listener, permits, most, flag, too_many, lines: LineThrottle::new() }
    }

    /// The next connection, and what counts it until it is dropped. May be dropped while it waits.
    pub async fn next(&self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
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
            match self.permits.clone().try_acquire_owned() {
                Ok(permit) => return (stream, peer, permit),
                Err(_) => {
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
