//! Why there is no connection, or no answer.

use std::io;
use std::time::Duration;

use super::token::PeerTokenError;
use crate::replica::wire::Malformed;

/// The options cannot be used. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// No file with a token, or no token in it.
    #[error(transparent)]
    Token(#[from] PeerTokenError),
    /// Data would cross a network without TLS.
    #[error("peer {name} at {address} is on another machine, and its connection would be without TLS: give --tls-cert and --tls-key with a CA for peers, or accept the risk with --insecure")]
    Plain {
        /// The peer's name.
        name: String,
        /// Its address.
        address: String,
    },
    /// There is TLS, but nothing says which certificates of peers are good.
    #[error("with --tls-cert, peers are verified by their certificates: say with --peer-ca or --tls-client-ca which CA issued them")]
    NoCa,
    /// An address has another form.
    #[error("peer {name}: {address} is no address: write host:port")]
    Address {
        /// The peer's name.
        name: String,
        /// What was given.
        address: String,
    },
    /// Two have one name.
    #[error("there are two peers named {0}: give each service a name of its own")]
    Twice(String),
    /// The operating system refused something.
    #[error("cannot connect to peers: {0}")]
    System(#[from] io::Error),
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no such peer.
    #[error("there is no peer named {0}")]
    Unknown(String),
    /// It cannot be reached.
    #[error("peer {name} cannot be reached: {why}")]
    NotConnected {
        /// Its name.
        name: String,
        /// What came of the last attempt.
        why: String,
    },
    /// The connection ended. The request may have been done.
    #[error("the connection to peer {0} was lost before it answered")]
    Lost(String),
    /// It did not answer in time. The request may have been done.
    #[error("peer {0} did not answer in time")]
    Late(String),
    /// The request, or too many others.
    #[error("the request to peer {0} is too long, or too many wait")]
    TooMuch(String),
}

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There was no connection.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No TLS.
    #[error("no TLS connection: {0}")]
    Tls(io::Error),
    /// It took too long.
    #[error("no connection within {} ms", .0.as_millis())]
    Late(Duration),
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The other end has ended it without a word.
    #[error("the other end has closed the connection")]
    Closed,
    /// Something else speaks there, or a network has changed bytes.
    #[error("what came is not from a peer: {0}")]
    Malformed(#[from] Malformed),
    /// Nothing came.
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    /// Nothing could be sent.
    #[error("the other end has taken nothing for {} ms", .0.as_millis())]
    Stalled(Duration),
    /// The other end does not want it.
    #[error("refused by the other end: {0}")]
    Refused(String),
    /// This end does not want it.
    #[error("refused: {0}")]
    Refuse(String),
    /// There is a newer one of the same process.
    #[error("there is a newer connection")]
    Replaced,
}
