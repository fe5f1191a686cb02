//! Connections between the services of a cluster.
//!
//! Each service makes three connections to each peer: one for what is short and must not wait, one for entries of logs, one for files
//! (`shared.rs`). Who makes a connection sends on it; who accepts it answers requests, and says that it is there. A service that is alone
//! makes none, and none of this runs.
//!
//! | file | |
//! |---|---|
//! | `options.rs` | what a service is told of its peers |
//! | `token.rs`, `proof.rs`, `greet.rs` | how two services know each other |
//! | `registry.rs` | who is there, and that no two pass for one |
//! | `links.rs` | the peers that this service connects to |
//! | `link.rs`, `queue.rs` | what waits for a peer |
//! | `outgoing.rs`, `incoming.rs` | the connections |
//! | `sending.rs` | who writes to a connection |
//! | `framed.rs` | frames on a connection |
//! | `shared.rs`, `error.rs` | what they have in common |
//!
//! Messages may get lost, and come in order as long as they do not: those of one group that carry entries among themselves, and the others
//! among themselves.

mod error;
mod framed;
mod greet;
mod incoming;
mod link;
mod links;
mod options;
mod outgoing;
mod proof;
mod queue;
mod registry;
mod sending;
mod shared;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeSet;
use std::sync::Arc;

use raft::eraftpb::Message;
use tokio::sync::watch;

pub use self::error::{ConnectionError, PeerError, PeersError};
use self::links::Links;
pub use self::options::{PeerAddress, PeersOptions};
use self::registry::Registry;
pub use self::shared::PeerPatience;
use self::shared::{Lane, Shared};
pub use self::token::{PeerToken, PeerTokenError};
pub use super::wire::Hello;

/// What a peer asks. This code does not look at it.
pub type PeerRequest = Vec<u8>;
/// What it is answered.
pub type PeerReply = Vec<u8>;

/// What comes from peers. Called from the connections' tasks, so all but [`PeerEvents::request`] must return at once.
pub trait PeerEvents: Send + Sync {
    /// A peer is connected, in either direction, or tells something else of itself.
    fn hello(&self, hello: &Hello);
    /// A message of a group has come from the member `from`. It may name another sender, if that one's message was passed on.
    fn message(&self, from: u64, group: &str, message: Message);
    /// A peer asks for something. May block; requests of one peer are answered one after the other.
    fn request(&self, from: &Hello, request: PeerRequest) -> PeerReply;
    /// A peer asks for a part of a file, or for something that is done with files. May block; it is asked beside [`PeerEvents::request`].
    fn file_request(&self, from: &Hello, request: PeerRequest) -> PeerReply;
    /// Messages have come, and no more are there at this moment. Must return soon.
    fn delivered(&self) {}
    /// Messages to `member` were lost, or may have been.
    fn unreachable(&self, member: u64);
}

/// The connections of a service to and from its peers, until this is dropped.
pub struct Peers {
    links: Links,
    shared: Arc<Shared>,
    /// Whether peers may be on other machines.
    may_leave: bool,
    shutdown: watch::Sender<bool>,
}

impl Peers {
    /// Takes and makes connections, in tasks of the runtime in which this is called. `hello` is what this service tells of itself; peers
    /// are told what changes.
    ///
    /// # Errors
    /// The options cannot be used. Nothing has been done then.
    pub fn start(
        options: PeersOptions,
        hello: watch::Receiver<Hello>,
        events: Arc<dyn PeerEvents>,
    ) -> Result<Self, PeersError> {
        options.check()?;
        let PeersOptions { listener, peers, token, tls, insecure, max_strangers, patience } = options;
        let may_leave = tls.is_some() || insecure;
        let mut process = [0; 8];
        getrandom::fill(&mut process).map_err(std::io::Error::other)?;
        let process = u64::from_le_bytes(process);
        let own = hello.borrow().name.clone();
        let others = peers.iter().map(|peer| peer.name.clone()).filter(|name| *name != own);
        let registry = Registry::new(hello, others);
        let shared = Arc::new(Shared { token, tls, process, registry, events, patience });
        let (shutdown, stopping) = watch::channel(false);
        let incoming = incoming::serve(listener, shared.clone(), max_strangers, stopping.clone());
        tokio::spawn(async move {
            if let Err(error) = incoming.await {
                tracing::error!("no connections of peers are taken: {error}");
            }
        });
        let links = Links::new(shared.clone(), stopping);
        links.set(peers);
        Ok(Peers { links, shared, may_leave, shutdown })
    }

    /// Sends a message to the member that it names. Never blocks; any thread may call it. Drops the message if that member is not connected,
    /// or too much waits for it.
    pub fn send(&self, group: &str, message: Message) {
        if let Some(link) = self.links.of(message.to) {
            link.send(group, message, true);
        }
    }

    /// As [`Peers::send`], for who calls [`Peers::flush`] next.
    pub fn queue(&self, group: &str, message: Message) {
        if let Some(link) = self.links.of(message.to) {
            link.send(group, message, false);
        }
    }

    /// Sends what was queued, on this thread as far as connections take it at once. Never blocks; any thread may call it.
    pub fn flush(&self) {
        self.links.send_now();
    }

    /// Asks the peer of that name, and waits for its answer: some seconds at most.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(&self, peer_name: &str, request: PeerRequest) -> Result<PeerReply, PeerError> {
        self.ask_on(Lane::Control, peer_name, request).await
    }

    /// As [`Peers::ask`], for what the peer answers with [`PeerEvents::file_request`].
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask_for_files(&self, peer_name: &str, request: PeerRequest) -> Result<PeerReply, PeerError> {
        self.ask_on(Lane::Files, peer_name, request).await
    }

    async fn ask_on(&self, lane: Lane, peer_name: &str, request: PeerRequest) -> Result<PeerReply, PeerError> {
        let link = self.links.named(peer_name).ok_or_else(|| PeerError::Unknown(peer_name.to_owned()))?;
        link.ask(lane, request, &self.shared.patience).await
    }

    /// The names of the peers to which this service connects.
    pub fn names(&self) -> Vec<String> {
        self.links.names()
    }

    /// What each peer has told last of itself, whether it is connected or not.
    pub fn known(&self) -> Vec<Hello> {
        self.shared.registry.known()
    }

    /// Whether messages to a member can be sent now.
    pub fn is_connected(&self, member: u64) -> bool {
        self.links.of(member).is_some_and(|link| link.is_connected())
    }

    /// Bytes of messages that wait to be sent to a member.
    pub fn waiting_bytes(&self, member: u64) -> usize {
        self.links.of(member).map_or(0, |link| link.waiting_bytes())
    }

    /// Goes on with those peers: connections to the others end. That with this service's own name is passed over. Must run within the runtime.
    ///
    /// # Errors
    /// An address cannot be used. Nothing has changed then.
    pub fn set(&self, peers: Vec<PeerAddress>) -> Result<(), PeersError> {
        options::check_addresses(&peers, self.may_leave)?;
        self.shared.registry.expect(&peers.iter().map(|peer| peer.name.clone()).collect());
        self.links.set(peers);
        Ok(())
    }

    /// Those members were replaced by others, and are let in no more.
    pub fn retire(&self, members: BTreeSet<u64>) {
        self.shared.registry.retire(members);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
    }
}
