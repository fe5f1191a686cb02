//! The RESP port: translates commands into calls on shards.

mod admin;
mod append;
mod arguments;
mod audit;
mod clock;
pub mod command;
pub mod commands;
mod connection;
#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod fuzz_replica;
mod identity;
mod input;
mod lease;
mod life;
mod node;
mod output;
pub mod replica;
mod reply;
mod sentinel;
mod socket;
#[cfg(test)]
mod socket_tests;
mod trial;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::connection::{Connection, Shared};
use self::input::InputBudget;
use self::socket::Socket;
use crate::accept::{Acceptor, Newcomer};
use crate::limits::Limits;
use crate::places::Places;
use crate::service::Service;
use crate::strangers::Strangers;
use crate::tls::Port;

/// How long a peer may be silent before the kernel asks whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// What a client reads that speaks without TLS to a port with TLS.
pub const NEEDS_TLS: &[u8] = b"-ERR this port takes TLS connections only: connect with TLS\r\n";

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
    limits: Arc<Limits>,
    port: Option<Arc<Port>>,
    mut shutdown: watch::Receiver<bool>,
) {
    let strangers = limits.max_strangers;
    let acceptor = Acceptor::new(listener, Strangers::new(strangers, limits.lingering(strangers), "a connection"));
    let budget = Arc::new(InputBudget::new(limits.max_input_mb));
    let places = Places::new(limits.max_connections, limits.kept_for_nodes());
    let shared = Arc::new(Shared { service, limits, budget, places });
    let next_id = AtomicU64::new(1);
    let mut connections = JoinSet::new();
    while !*shutdown.borrow() {
        while connections.try_join_next().is_some() {}
        let Newcomer { stream, peer, guest, ending } = tokio::select! {
            accepted = acceptor.next() => accepted,
            _ = shutdown.changed() => break,
        };
        if let Err(error) = configure(&stream) {
            tracing::debug!("{peer}: {error}");
        }
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        let (shared, port, mut shutdown) = (shared.clone(), port.clone(), shutdown.clone());
        let task = connections.spawn(async move {
            let socket = match port {
                None => Socket::from(stream),
                Some(port) => {
                    let accepted = tokio::select! {
                        accepted = port.accept(stream, peer) => accepted,
                        _ = shutdown.wait_for(|stopping| *stopping) => None,
                    };
                    let Some(stream) = accepted else { return };
                    Socket::from(stream)
                }
            };
            Connection::new(&shared, socket, peer.to_string(), id, guest).serve(shutdown).await;
        });
        ending.bind(task);
    }
    drop(acceptor);
    while connections.join_next().await.is_some() {}
}
