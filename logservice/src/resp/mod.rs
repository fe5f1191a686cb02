//! The RESP port: translates commands into calls on shards. Each connection is one task. Acknowledgements leave on the thread that made
//! the append durable.
//!
//! Read `command_roles.rs` first: every command, and the least role for it; `deciding.rs` says which of them take the service that decides over
//! the log. `connection/` is one connection, and `connection/dispatch.rs` what
//! becomes of a command. A file per group of commands carries them out: `append.rs`, `leadership_commands.rs`, `node.rs`, `slots.rs`, `audit.rs`, `cluster.rs` and
//! `admin.rs` are the `LOG.*` commands, `replica/` is the log as a Valkey primary, and `sentinel/` is how clients find the leader.
//! `input.rs` takes what arrives, within a budget that all connections share; `output.rs` and `socket.rs` are the way out. `clock.rs`
//! ends connections that take too long, and `trial.rs` those that use a node's place without being a node's.

mod admin;
mod append;
mod arguments;
mod audit;
mod backup;
mod clock;
mod cluster;
pub mod command_roles;
mod connection;
pub mod deciding;
#[cfg(test)]
mod deciding_tests;
#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod fuzz_replica;
mod identity;
mod input;
mod leadership_commands;
mod node;
mod output;
mod replica;
mod reply;
mod sentinel;
mod slots;
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

use self::connection::{Connection, PortState};
use self::input::InputBudget;
use self::socket::Socket;
use crate::connections::limits::Limits;
use crate::connections::places::Places;
use crate::connections::port::{Newcomer, Port};
use crate::connections::strangers::Strangers;
use crate::connections::tls::TlsPort;
use crate::service::Service;

/// How long a peer may be silent before the kernel probes whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// Sent to a client that speaks without TLS to a port with TLS.
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
    tls: Option<Arc<TlsPort>>,
    shutdown: watch::Receiver<bool>,
) {
    let most = limits.max_strangers;
    let strangers = Strangers::new(most, limits.lingering(most), "a connection");
    let budget = Arc::new(InputBudget::new(limits.max_input_mb));
    let places = Places::new(limits.max_connections, limits.kept_for_nodes());
    let common = Arc::new(PortState { service, limits, budget, places });
    let next_id = Arc::new(AtomicU64::new(1));
    let stopping = shutdown.clone();
    let serve = move |Newcomer { transport, peer, guest }: Newcomer| {
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        Connection::new(&common, Socket::from(transport), peer.to_string(), id, guest).serve(stopping.clone())
    };
    Port { listener, strangers, tls, configure }.serve(shutdown, serve).await;
}
