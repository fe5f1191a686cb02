//! Connections of both ports before anything is known of them: accepting them, TLS, and how many there may be.
//!
//! - [`listen`]: opening a port; [`port`]: the accept loop.
//! - [`tls`]: certificates and handshakes; [`handshake_turns`] says whose handshake is next. [`tls_client`] is for
//!   connections that the service makes itself.
//! - [`strangers`]: connections that have not logged in, counted by [`network`]; [`lingering`] keeps a crowd of them from coming back at once.
//! - [`places`]: connections that have, and the share that is kept for nodes.
//! - [`limits`]: every number and time that bounds a client.

mod handshake_turns;
pub mod limits;
mod lingering;
pub mod listen;
pub mod network;
pub mod places;
pub mod port;
pub mod strangers;
pub mod tls;
mod tls_client;
