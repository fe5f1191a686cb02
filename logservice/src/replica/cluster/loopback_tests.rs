//! Three services that are connected over loopback, with disks in memory.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpListener;

use super::tests::{first_state, until};
use super::*;
use crate::replica::files::SnapshotFiles;
use crate::replica::groups::Groups;
use crate::replica::memory_copy::MemoryDisks;
use crate::replica::peers::{Hello, PeerAddress, PeerPatience, PeerToken, PeersOptions};
use crate::snapshots::SnapshotStore;
use crate::store::Append;

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Machine {
    directory: tempfile::TempDir,
    disks: Arc<MemoryDisks>,
    address: SocketAddr,
}

impl Machine {
    async fn start(&self, node: usize, listener: TcpListener, all: &[(String, String)]) -> Arc<Replicas> {
        let name = NAMES[node].to_owned();
        let (member, cluster) = Replicas::identify(self.directory.path(), &name).expect("its own");
        let hello = Hello { member, cluster, name: name.clone(), ..Hello::default() };
        let connections = Arc::new(PeerConnections::new(hello));
        let snapshots = SnapshotStore::open(None, self.directory.path()).expect("a directory");
        let files = SnapshotFiles::new(Arc::new(snapshots), connections.clone());
        let replicas = Replicas::start(ReplicasOptions {
            directory: self.directory.path().to_owned(),
            name,
            zone: String::new(),
            peers: all.to_vec(),
            client_address: format!("{}:7379", NAMES[node]),
            http_address: String::new(),
            joins: false,
            disks: self.disks.clone(),
            alone: None,
            peering: connections.clone(),
        });
        let replicas = replicas.expect("it starts");
        let peer = |(name, address): &(String, String)| PeerAddress { name: name.clone(), address: address.clone() };
        let options = PeersOptions {
            listener,
            peers: all.iter().map(peer).collect(),
            token: PeerToken::of("a token that all of them have").expect("long enough"),
            tls: None,
            insecure: false,
            max_strangers: 16,
            patience: PeerPatience::default(),
        };
        connections.open(options, &replicas, &files).expect("connected");
        replicas
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_connected_keep_a_log_and_go_on_without_one() {
    let (mut machines, mut listeners) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        machines.push(Machine { directory: tempfile::tempdir().expect("tempdir"), disks: MemoryDisks::new(), address });
        listeners.push(listener);
    }
    let all: Vec<_> =
        NAMES.iter().zip(&machines).map(|(name, machine)| ((*name).to_owned(), machine.address.to_string())).collect();
    let mut services = Vec::new();
    for (node, listener) in listeners.into_iter().enumerate() {
        services.push(Some(machines[node].start(node, listener, &all).await));
    }
    let service = |services: &[Option<Arc<Replicas>>], node: usize| services[node].clone().expect("it runs");
    service(&services, 0).init().await.expect("made");
    let leads = |services: &[Option<Arc<Replicas>>], node: usize| {
        let group = services[node].as_ref().and_then(|service| lock(&service.cluster_group).clone());
        group.is_some_and(|group| group.view().leads_in.is_some())
    };
    until("a service decides", || (0..3).any(|node| leads(&services, node))).await;
    let first = (0..3).find(|&node| leads(&services, node)).expect("one did a moment ago");
    service(&services, first).create("s1", first_state("s1")).await.expect("made");
    let group = service(&services, first).group("s1").expect("there");
    until("it decides over the shard", || group.view().leads_in.is_some()).await;
    let term = group.view().leads_in.expect("it did a moment ago");
    let payload = Bytes::from_static(b"hello");
    group.append(term, Append { epoch: 0, offset: 0, payload }).expect("taken");
    until("it is acknowledged", || group.view().end == 5).await;
    drop(group);

    let killed = Instant::now();
    let dead = services[first].take().expect("it runs");
    machines[first].disks.crash();
    dead.stop();
    drop(dead);
    let ends = |services: &[Option<Arc<Replicas>>], node: usize| {
        let group = services[node].as_ref().and_then(|service| service.group("s1"));
        group.is_some_and(|group| group.view().leads_in.is_some() && group.view().end == 5)
    };
    until("another one decides, and has it", || (0..3).any(|node| ends(&services, node))).await;
    println!("another service decides after {} ms", killed.elapsed().as_millis());

    let address = machines[first].address;
    let listener = until_bound(address).await;
    services[first] = Some(machines[first].start(first, listener, &all).await);
    let group = service(&services, first).group("s1").expect("there");
    until("it has caught up", || group.view().end == 5 && group.view().leader.is_some()).await;
    let services = service(&services, first).services();
    assert!(services.iter().filter(|service| service.is_connected).count() >= 2, "{services:?}");
}

/// The port of a service that was just stopped.
async fn until_bound(address: SocketAddr) -> TcpListener {
    let since = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(since.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
