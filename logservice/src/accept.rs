//! Takes connections of a port. Whoever comes is a stranger at first: see [`crate::strangers`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep_until, Instant};

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
            let (due, waits_until) = {
                let lingering = self.strangers.lingering();
                (lingering.next_due(), lingering.waits_until(Instant::now()))
            };
            if let Some(until) = waits_until {
                sleep_until(until).await;
            }
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.strangers.lingering().close_due(Instant::now());
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => return self.take_in(stream, peer),
                Err(error) => {
                    if let Some(others) = self.lines.pass() {
                        tracing::warn!("cannot accept a connection: {error} ({others} more such lines left out)");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn take_in(&self, stream: TcpStream, peer: SocketAddr) -> Newcomer {
        let ending = Arc::new(self.ending_of(&stream));
        let guest = self.strangers.enter(Network::of(peer.ip()), ending.clone());
        Newcomer { stream, peer, guest, ending }
    }

    fn ending_of(&self, stream: &TcpStream) -> Ending {
        if !self.strangers.lingering().has_room() {
            return Ending::default();
        }
        // Without a second handle, as there are no more open files, it hears at once that it has lost its place.
        rustix::io::fcntl_dupfd_cloexec(stream, 0).map_or_else(|_| Ending::default(), Ending::lingering)
    }
}
