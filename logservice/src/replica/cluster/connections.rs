//! The connections to peers, as the groups use them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use raft::eraftpb::Message;
use tokio::sync::watch;

use super::peering::{PeerInfo, Peering};
use super::Replicas;
use crate::replica::driver::Network;
use crate::replica::files::{FilePeers, SnapshotFiles};
use crate::replica::groups::{Answer, Groups};
use crate::replica::peers::{Hello, PeerAddress, PeerEvents, PeerReply, PeerRequest, Peers, PeersError, PeersOptions};

/// A service is made one of a cluster soon after its peers are.
const JOINS_WITHIN: Duration = Duration::from_secs(3);

/// The connections to peers. Until [`PeerConnections::open`] there are none.
pub struct PeerConnections {
    peers: OnceLock<Peers>,
    hello: watch::Sender<Hello>,
}

impl PeerConnections {
    /// No connections yet. `hello` is what this service tells of itself.
    pub fn new(hello: Hello) -> Self {
        PeerConnections { peers: OnceLock::new(), hello: watch::Sender::new(hello) }
    }

    /// Takes and makes connections from now on, for `replicas` and `files`. Must run within the runtime.
    ///
    /// # Errors
    /// The options cannot be used.
    pub fn open(
        &self,
        options: PeersOptions,
        replicas: &Arc<Replicas>,
        files: &Arc<SnapshotFiles>,
    ) -> Result<(), PeersError> {
        let inbound = Arc::new(Inbound {
            replicas: Arc::downgrade(replicas),
            files: Arc::downgrade(files),
            is_left_out: AtomicBool::new(false),
        });
        let peers = Peers::start(options, self.hello.subscribe(), inbound)?;
        // They are opened once.
        let _ = self.peers.set(peers);
        replicas.tell_peers();
        Ok(())
    }
}

impl Network for PeerConnections {
    fn send(&self, group: &str, message: Message) {
        if let Some(peers) = self.peers.get() {
            peers.queue(group, message);
        }
    }

    fn flush(&self) {
        if let Some(peers) = self.peers.get() {
            peers.flush();
        }
    }
}

impl Peering for PeerConnections {
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let peers = self.peers.get().ok_or("the service is starting")?;
            peers.ask(peer, request).await.map_err(|error| error.to_string())
        })
    }

    fn known(&self) -> Vec<PeerInfo> {
        let info = |hello: Hello| PeerInfo {
            member: hello.member,
            name: hello.name,
            zone: hello.zone,
            client_address: hello.client_address,
            http_address: hello.http_address,
            peer_address: hello.peer_address,
            joins: hello.joins,
        };
        self.peers.get().map(|peers| peers.known().into_iter().map(info).collect()).unwrap_or_default()
    }

    fn is_connected(&self, member: u64) -> bool {
        self.peers.get().is_some_and(|peers| peers.is_connected(member))
    }

    fn set_peers(&self, peers: &[(String, String)]) -> Result<(), String> {
        let Some(open) = self.peers.get() else { return Ok(()) };
        let peer = |(name, address): &(String, String)| PeerAddress { name: name.clone(), address: address.clone() };
        let peers: Vec<_> = peers.iter().map(peer).collect();
        open.set(peers).map_err(|error| error.to_string())
    }

    fn retire(&self, members: BTreeSet<u64>) {
        if let Some(peers) = self.peers.get() {
            peers.retire(members);
        }
    }

    fn set_cluster(&self, cluster: u64) {
        self.hello.send_if_modified(|hello| hello.cluster.replace(cluster) != Some(cluster));
    }
}

impl FilePeers for PeerConnections {
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let peers = self.peers.get().ok_or("the service is starting")?;
            peers.ask_for_files(peer, request).await.map_err(|error| error.to_string())
        })
    }

    fn names(&self) -> Vec<String> {
        let known = self.known();
        let is_connected =
            |name: &&String| known.iter().any(|peer| peer.name == **name && self.is_connected(peer.member));
        let (connected, away): (Vec<_>, Vec<_>) =
            self.peers.get().map(Peers::names).unwrap_or_default().into_iter().partition(|name| is_connected(&name));
        connected.into_iter().chain(away).collect()
    }
}

/// Passes on what comes from peers.
struct Inbound {
    replicas: Weak<Replicas>,
    files: Weak<SnapshotFiles>,
    /// A peer is of a cluster, and this service was not when it heard that.
    is_left_out: AtomicBool,
}

impl Inbound {
    /// Says so if this service stays without a cluster while its peers have one: its directory may have been lost.
    fn look_for_cluster(&self, hello: &Hello) {
        let is_of_none = |replicas: &Arc<Replicas>| replicas.cluster().is_none();
        if hello.cluster.is_none() || !self.replicas.upgrade().is_some_and(|replicas| is_of_none(&replicas)) {
            return;
        }
        if self.is_left_out.swap(true, Ordering::Relaxed) {
            return;
        }
        let (replicas, peer) = (self.replicas.clone(), hello.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(JOINS_WITHIN).await;
            let Some(replicas) = replicas.upgrade().filter(is_of_none) else { return };
            if replicas.options.joins {
                tracing::warn!("this service has no place in the cluster yet: say LOG.CLUSTER REPLACE at {peer}");
            } else {
                tracing::error!(
                    "this service is of no cluster, and its peer {peer} is: nothing is served. If it was one of that cluster, start it with \
                     the directory that it had. If that is lost, start it with --join, and say LOG.CLUSTER REPLACE at {peer}"
                );
            }
        });
    }
}

impl PeerEvents for Inbound {
    fn hello(&self, hello: &Hello) {
        tracing::debug!("peer {} is connected", hello.name);
        self.look_for_cluster(hello);
    }

    fn message(&self, from: u64, group: &str, message: Message) {
        if let Some(replicas) = self.replicas.upgrade() {
            replicas.message_and_go_on(from, group, message);
        }
    }

    fn delivered(&self) {
        if let Some(replicas) = self.replicas.upgrade() {
            replicas.go_on();
        }
    }

    fn request(&self, _from: &Hello, request: PeerRequest) -> PeerReply {
        self.replicas.upgrade().map(|replicas| replicas.request(&request)).unwrap_or_default()
    }

    fn file_request(&self, from: &Hello, request: PeerRequest) -> PeerReply {
        self.files.upgrade().map(|files| files.answer(&from.name, &request)).unwrap_or_default()
    }

    fn unreachable(&self, member: u64) {
        if let Some(replicas) = self.replicas.upgrade() {
            replicas.unreachable(member);
        }
    }
}
