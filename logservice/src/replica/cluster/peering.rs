//! What a service needs of the connections to its peers.

use std::collections::BTreeSet;

use crate::replica::driver::Network;
use crate::replica::groups::Answer;

/// What a peer has told of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerInfo {
    /// Its id.
    pub member: u64,
    /// Its name.
    pub name: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// Where clients reach it.
    pub client_address: String,
    /// Where its HTTP port is reached.
    pub http_address: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Whether it was started to be given a place.
    pub joins: bool,
}

/// The connections to peers.
pub trait Peering: Network {
    /// Asks the peer of that name. The error is a text for people.
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>>;

    /// What each peer has told last, whether it is connected or not.
    fn known(&self) -> Vec<PeerInfo>;

    /// Whether messages to a member can be sent now.
    fn is_connected(&self, member: u64) -> bool;

    /// This service is of that cluster from now on, and tells so.
    fn set_cluster(&self, cluster: u64);

    /// The peers are those from now on, this service included: their names, and where they are reached. Must run within the runtime.
    ///
    /// # Errors
    /// An address cannot be used; the text says what to do. Nothing has changed then.
    fn set_peers(&self, peers: &[(String, String)]) -> Result<(), String>;

    /// Those members were replaced by others, and are not let in any more.
    fn retire(&self, members: BTreeSet<u64>);
}
