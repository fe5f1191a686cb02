//! Takes connections of a port. Whoever comes is a stranger at first: see [`crate::strangers`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::network::Network;
use crate::strangers::{Ending, Guest, Strangers};
use crate::throttle::LineThrottle;

/// After a failed accept (out of file descriptors, most likely).
const RETRY: Duration = Duration::from_millis(100);

/// A port that takes connections.
pub struct Acceptor {
    listener: TcpListener,
    strangers: Arc<Strangers>,
    lines: LineThrottle,
}

/// A connection that has just come.
pub struct Newcomer {
    /// The connection.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// What counts it.
    pub guest: Guest,
    /// What ends its task, which is to be bound to it.
    pub ending: Arc<Ending>,
}

impl Acceptor {
    /// Takes as many as come; `strangers` ends those for whom there is no room.
    pub fn new(listener: TcpListener, strangers: Arc<Strangers>) -> Self {
        Acceptor { listener, strangers, lines: LineThrottle::new() }
    }

    /// The next connection. May be dropped while it waits.
    pub async fn next(&self) -> Newcomer {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let ending = Arc::new(Ending::default());
                    let guest = self.strangers.enter(Network::of(peer.ip()), ending.clone());
                    return Newcomer { stream, peer, guest, ending };
                }
                Err(error) => {
                    if let Some(others) = self.lines.pass() {
                        tracing::warn!("cannot accept a connection: {error} ({others} more such lines left out)");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
