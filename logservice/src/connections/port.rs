//! The accept loop of a port. Every connection begins as a stranger's: see [`crate::connections::strangers`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, Instant};
use tokio_rustls::server::TlsStream;

use super::network::Network;
use super::strangers::{Ending, Guest, Strangers};
use super::tls::TlsPort;
use crate::base::log_throttle::LineThrottle;

/// Pause after a failed accept. The process is most likely out of file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A port that takes connections.
pub struct Port {
    /// Where they come in.
    pub listener: TcpListener,
    /// Counts those that have not logged in, and ends the oldest when there are too many.
    pub strangers: Arc<Strangers>,
    /// Every connection begins with a TLS handshake if this is there.
    pub tls: Option<Arc<TlsPort>>,
    /// Sets options of a connection's socket.
    pub configure: fn(&TcpStream) -> io::Result<()>,
}

/// A connection whose TLS handshake is done, if it needs one.
pub enum Transport {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that can be served.
pub struct Newcomer {
    /// The connection.
    pub transport: Transport,
    /// Its other end.
    pub peer: SocketAddr,
    /// Counts it.
    pub guest: Guest,
}

impl Port {
    /// Serves each connection in a task of its own until `shutdown`, then waits until all these tasks have ended. Bounding that wait is
    /// up to the caller, who may drop this.
    pub async fn serve<F, S>(self, mut shutdown: watch::Receiver<bool>, serve: S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Newcomer) -> F + Clone + Send + 'static,
    {
        let throttle = LineThrottle::new();
        let mut connections = JoinSet::new();
        while !*shutdown.borrow() {
            while connections.try_join_next().is_some() {}
            let (stream, peer) = tokio::select! {
                accepted = self.accept(&throttle) => accepted,
                _ = shutdown.changed() => break,
            };
            if let Err(error) = (self.configure)(&stream) {
                tracing::debug!("{peer}: {error}");
            }
            let ending = Arc::new(self.ending_of(&stream));
            let guest = self.strangers.enter(Network::of(peer.ip()), ending.clone());
            let (tls, serve, mut shutdown) = (self.tls.clone(), serve.clone(), shutdown.clone());
            let task = connections.spawn(async move {
                let transport = match tls {
                    None => Transport::Plain(stream),
                    Some(tls) => {
                        let accepted = tokio::select! {
                            accepted = tls.accept(stream, peer) => accepted,
                            _ = shutdown.wait_for(|stopping| *stopping) => None,
                        };
                        let Some(stream) = accepted else { return };
                        Transport::Tls(Box::new(stream))
                    }
                };
                serve(Newcomer { transport, peer, guest }).await;
            });
            ending.bind(task);
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }

    /// The next connection. Closes those that have lingered for long enough meanwhile. May be dropped while it waits.
    async fn accept(&self, throttle: &LineThrottle) -> (TcpStream, SocketAddr) {
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
                Ok(accepted) => return accepted,
                Err(error) => {
                    if let Some(others) = throttle.pass() {
                        tracing::warn!("cannot accept a connection: {error} ({others} more such lines left out)");
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// What ends the connection's task, with a second handle of its socket by which it may linger.
    fn ending_of(&self, stream: &TcpStream) -> Ending {
        if !self.strangers.lingering().has_room() {
            return Ending::default();
        }
        // There is no second handle if open files have run out. The other end then sees at once that it has lost its place.
        rustix::io::fcntl_dupfd_cloexec(stream, 0).map_or_else(|_| Ending::default(), Ending::lingering)
    }
}
