//! The RESP port: translates commands into calls on shards.

mod admin;
mod append;
mod arguments;
pub mod command;
mod connection;
mod identity;
mod lease;
mod output;
pub mod replica;
mod reply;
mod socket;
#[cfg(test)]
mod socket_tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{watch, Semaphore};
use tokio::task::JoinSet;

use self::connection::Connection;
use self::socket::Socket;
use crate::service::Service;
use crate::tls::{PlainAnswer, Tls};

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 4096;
/// After a failed accept (out of file descriptors, most likely).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// What a client reads that speaks without TLS to a port with TLS.
const NEEDS_TLS: PlainAnswer = b"-ERR this port takes TLS connections only: connect with TLS\r\n";

fn configure(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    Ok(set_tcp_keepidle(stream, KEEPALIVE_AFTER)?)
}

/// Serves connections until `shutdown`, then waits until each has given its replies. Bounding that wait is up to the
/// caller, who may drop this.
pub async fn serve(
    service: Arc<Service>,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let next_id = AtomicU64::new(1);
    let mut connections = JoinSet::new();
    while !*shutdown.borrow() {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.changed() => break,
        };
        let (mut stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!("{peer} refused: {MAX_CONNECTIONS} connections are open already");
            if tls.is_none() {
                let _ = stream.write_all(b"-ERR too many connections\r\n").await;
            }
            continue;
        };
        if let Err(error) = configure(&stream) {
            tracing::debug!("{peer}: {error}");
        }
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        let (service, tls, mut shutdown) = (service.clone(), tls.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            let socket = match tls {
                None => Socket::from(stream),
                Some(tls) => {
                    let accepted = tokio::select! {
                        accepted = tls.accept(stream, peer, NEEDS_TLS) => accepted,
                        _ = shutdown.wait_for(|stopping| *stopping) => None,
                    };
                    let Some(stream) = accepted else { return };
                    Socket::from(stream)
                }
            };
            Connection::new(service, socket, peer.to_string(), id).serve(shutdown).await;
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
