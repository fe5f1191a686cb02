//! Three services in one process, over a network and disks in memory.

use std::collections::HashMap;
use std::sync::Weak;

use bytes::Bytes;
use raft::eraftpb::Message;

use super::bringing_tests::MemoryAlone;
use super::*;
use crate::replica::driver::Network;
use crate::replica::groups::{Answer, Groups};
use crate::replica::memory_copy::MemoryDisks;
use crate::store::{Manifest, StoreFactory};

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Default)]
pub(super) struct Net {
    pub services: Mutex<HashMap<String, Weak<Replicas>>>,
    /// Peers that do not answer requests.
    mute: Mutex<Vec<String>>,
}

/// The network, as one service sees it.
pub(super) struct NetOf {
    pub net: Arc<Net>,
}

impl NetOf {
    fn others(&self) -> Vec<Arc<Replicas>> {
        lock(&self.net.services).values().filter_map(Weak::upgrade).collect()
    }
}

impl Network for NetOf {
    fn send(&self, group: &str, message: Message) {
        let to = self.others().into_iter().find(|service| service.member == message.to);
        if let Some(to) = to {
            to.message(message.from, group, message);
        }
    }
}

impl Peering for NetOf {
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let is_mute = lock(&self.net.mute).iter().any(|name| name == peer);
            let service = self.others().into_iter().find(|service| service.options.name == peer && !is_mute);
            let service = service.ok_or_else(|| format!("peer {peer} cannot be reached"))?;
            match tokio::task::spawn_blocking(move || service.request(&request)).await {
                // The runtime is shutting down.
                Err(error) if error.is_cancelled() => Err(format!("peer {peer} cannot be reached")),
                answered => Ok(answered.expect("answered")),
            }
        })
    }

    fn known(&self) -> Vec<PeerInfo> {
        let info = |service: Arc<Replicas>| PeerInfo {
            member: service.member,
            name: service.options.name.clone(),
            zone: service.options.zone.clone(),
            client_address: service.options.client_address.clone(),
            http_address: service.options.http_address.clone(),
            peer_address: format!("{}:7381", service.options.name),
            joins: service.options.joins,
        };
        self.others().into_iter().map(info).collect()
    }

    fn is_connected(&self, member: u64) -> bool {
        self.others().iter().any(|service| service.member == member)
    }

    fn set_cluster(&self, _cluster: u64) {}

    fn set_peers(&self, _peers: &[(String, String)]) -> Result<(), String> {
        Ok(())
    }

    fn retire(&self, _members: BTreeSet<u64>) {}
}

pub(super) struct Machine {
    directory: tempfile::TempDir,
    pub disks: Arc<MemoryDisks>,
    /// What the service keeps alone.
    pub alone: Option<Arc<MemoryAlone>>,
    pub joins: bool,
}

/// The rest of a service whose shards have no snapshots.
struct WithoutSnapshots;

impl GroupsChanged for WithoutSnapshots {
    fn appeared(&self, _shard: &str) {}

    fn disappeared(&self, _shard: &str) {}
}

pub(super) struct Cluster {
    net: Arc<Net>,
    pub machines: Vec<Machine>,
    pub services: Vec<Option<Arc<Replicas>>>,
}

impl Machine {
    /// With an empty disk.
    pub fn new(joins: bool) -> Self {
        Machine { directory: tempfile::tempdir().expect("tempdir"), disks: MemoryDisks::new(), alone: None, joins }
    }
}

impl Cluster {
    pub fn new() -> Self {
        Self::of((0..3).map(|_| Machine::new(false)).collect())
    }

    pub fn of(machines: Vec<Machine>) -> Self {
        let mut cluster = Cluster { net: Arc::default(), machines, services: vec![None; 3] };
        (0..3).for_each(|node| cluster.start(node));
        cluster
    }

    pub fn try_start(&self, node: usize) -> Result<Arc<Replicas>, ReplicasError> {
        self.try_start_on(&self.machines[node], NAMES[node])
    }

    fn try_start_on(&self, machine: &Machine, name: &str) -> Result<Arc<Replicas>, ReplicasError> {
        Replicas::start(ReplicasOptions {
            directory: machine.directory.path().to_owned(),
            name: name.to_owned(),
            zone: format!("z{name}"),
            peers: NAMES.map(|name| (name.to_owned(), format!("{name}:7381"))).to_vec(),
            client_address: format!("{name}:7379"),
            http_address: format!("{name}:7380"),
            joins: machine.joins,
            disks: machine.disks.clone(),
            alone: machine.alone.clone().map(|alone| alone as Arc<dyn StoreFactory>),
            peering: Arc::new(NetOf { net: self.net.clone() }),
        })
    }

    pub fn start(&mut self, node: usize) {
        let service = self.try_start(node).expect("it starts");
        service.on_groups(Arc::new(WithoutSnapshots));
        lock(&self.net.services).insert(NAMES[node].to_owned(), Arc::downgrade(&service));
        self.services[node] = Some(service);
    }

    /// A fourth service, which may be given a place, for as long as it is kept.
    pub fn start_guest(&self, machine: &Machine, name: &str) -> Arc<Replicas> {
        let service = self.try_start_on(machine, name).expect("it starts");
        lock(&self.net.services).insert(name.to_owned(), Arc::downgrade(&service));
        service
    }

    pub async fn kill(&mut self, node: usize) {
        self.machines[node].disks.crash();
        let service = self.services[node].take().expect("it runs");
        lock(&self.net.services).remove(NAMES[node]);
        service.stop();
        let gone = Arc::downgrade(&service);
        drop(service);
        until("all have let go of it", || gone.strong_count() == 0).await;
    }

    pub fn service(&self, node: usize) -> &Arc<Replicas> {
        self.services[node].as_ref().expect("it runs")
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.services[node].is_some()
    }

    /// A service does not answer requests from now on.
    pub fn mute(&self, node: usize) {
        lock(&self.net.mute).push(NAMES[node].to_owned());
    }

    /// The service that decides over the cluster.
    pub async fn leader(&self) -> usize {
        let leads = |node: &usize| {
            let service = self.services[*node].as_ref();
            let group = service.and_then(|service| lock(&service.cluster_group).clone());
            group.is_some_and(|group| group.view().leads_in.is_some())
        };
        until("a service decides", || (0..3).any(|node| leads(&node))).await;
        (0..3).find(leads).expect("one did a moment ago")
    }
}

/// Waits until it is so.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn first_state(shard: &str) -> Bytes {
    serde_json::to_vec(&Manifest::new(shard, "r".repeat(40), "id".to_owned())).expect("json").into()
}

pub(super) fn refusal(result: Result<(), ClusterError>) -> String {
    match result.expect_err("refused") {
        ClusterError::Refused(text) => text,
        error => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_services_become_a_cluster_and_make_shards() {
    let mut cluster = Cluster::new();
    let text = refusal(cluster.service(0).create("s1", first_state("s1")).await);
    assert!(text.contains("LOG.CLUSTER INIT"), "{text}");
    cluster.service(1).init().await.expect("made");
    let id = cluster.service(0).cluster().expect("joined");
    cluster.service(2).init().await.expect("there is nothing left to do");
    assert!((0..3).all(|node| cluster.service(node).cluster() == Some(id)));

    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let heard =
        || lock(&cluster.service(other).cluster_group).as_ref().is_some_and(|group| group.view().leader.is_some());
    until("the others know who decides", heard).await;
    match cluster.service(other).create("s1", first_state("s1")).await {
        Err(ClusterError::NotLeader { address }) => assert_eq!(address, Some(format!("{}:7379", NAMES[leader]))),
        result => panic!("{result:?}"),
    }
    let state = first_state("s1");
    cluster.service(leader).create("s1", state.clone()).await.expect("made");
    cluster.service(leader).create("s1", first_state("other")).await.expect("it is there already");
    for node in 0..3 {
        until("it is at all services", || cluster.service(node).group("s1").is_some()).await;
        let group = cluster.service(node).group("s1").expect("there");
        assert_eq!(group.view().state, state);
    }
    let group = cluster.service(leader).group("s1").expect("there");
    until("whoever made it decides first", || group.view().leads_in.is_some()).await;

    let text = refusal(cluster.service(leader).create("bad", Bytes::from_static(b"no manifest")).await);
    assert!(text.contains("manifest"), "{text}");
    for name in ["", "_cluster", "a/b"] {
        let text = refusal(cluster.service(leader).create(name, first_state(name)).await);
        assert!(text.contains("no name of a shard"), "{text}");
    }

    drop(group);
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    cluster.service(next).create("s2", first_state("s2")).await.expect("two of three suffice");
    cluster.start(leader);
    assert_eq!(cluster.service(leader).cluster(), Some(id));
    let has = |shard| cluster.service(leader).names().iter().any(|name| name == shard);
    assert!(has("s1"), "it is open when the service has started");
    until("what it has missed is made", || has("s2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_cut_off_in_the_middle_is_made_by_a_repetition_at_the_same_service() {
    let cluster = Cluster::new();
    // The first service is asked, and the last does not answer any more when its turn comes.
    let record = ClusterRecord {
        id: 77,
        initiator: cluster.service(1).member,
        members: (0..3).map(|node| cluster.service(node).own_record()).collect(),
        is_formed: false,
        is_older: false,
        has_shards: false,
    };
    cluster.service(0).join(record).expect("joined");
    let text = refusal(cluster.service(2).init().await);
    assert!(text.contains("service b has begun") && text.contains("repeat"), "{text}");
    assert_eq!(cluster.service(2).cluster(), None);
    lock(&cluster.net.mute).push("c".to_owned());
    let text = refusal(cluster.service(1).init().await);
    assert!(text.contains("cannot be reached") && text.contains("all three have to run"), "{text}");
    assert_eq!(cluster.service(1).cluster(), None, "nothing is begun while one is away");
    lock(&cluster.net.mute).clear();
    cluster.service(1).init().await.expect("made");
    assert!((0..3).all(|node| cluster.service(node).cluster() == Some(77)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_make_a_cluster_at_a_time_one_loses() {
    let cluster = Cluster::new();
    let (one, two) = tokio::join!(cluster.service(0).init(), cluster.service(2).init());
    assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
    let ids: Vec<_> = (0..3).map(|node| cluster.service(node).cluster()).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_joins_only_those_that_it_was_configured_with_and_only_once() {
    let cluster = Cluster::new();
    let members: Vec<_> = (0..3).map(|node| cluster.service(node).own_record()).collect();
    let initiator = members[0].member;
    let record = ClusterRecord { id: 5, initiator, members, is_formed: false, is_older: false, has_shards: false };
    let mut stranger = record.clone();
    stranger.members[2].name = "d".to_owned();
    let mut twin = record.clone();
    twin.members[2].member = twin.members[1].member;
    let mut two = record.clone();
    two.members.pop();
    for wrong in [stranger, twin, two] {
        let text = cluster.service(0).join(wrong).expect_err("refused");
        assert!(text.contains("--peers"), "{text}");
    }
    assert_eq!(cluster.service(0).cluster(), None);
    cluster.service(0).join(record.clone()).expect("joined");
    cluster.service(0).join(record.clone()).expect("joined again");
    let text = cluster.service(0).join(ClusterRecord { id: 6, ..record }).expect_err("refused");
    assert!(text.contains("of another cluster"), "{text}");
    assert_eq!(
        cluster.service(0).request(b"\xff"),
        br#"{"Refused":"not a request that this version knows: expected value at line 1 column 1"}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_has_lost_its_copy_of_the_clusters_log_does_not_start() {
    let mut cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    cluster.kill(1).await;
    cluster.machines[1].disks = MemoryDisks::new();
    let error = cluster.try_start(1).err().expect("it does not start").to_string();
    assert!(error.contains("it is gone") && error.contains("voted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shards_copy_that_is_gone_is_not_made_anew() {
    let mut cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let leader = cluster.leader().await;
    cluster.service(leader).create("s1", first_state("s1")).await.expect("made");
    let other = (leader + 1) % 3;
    until("it is at the other service", || cluster.service(other).group("s1").is_some()).await;
    cluster.kill(other).await;
    cluster.machines[other].disks.remove("s1").expect("removed");
    cluster.start(other);
    let leader = cluster.leader().await;
    cluster.service(leader).create("s2", first_state("s2")).await.expect("made");
    until("what is made later is there", || cluster.service(other).group("s2").is_some()).await;
    assert!(cluster.service(other).group("s1").is_none(), "what it had voted is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_does_not_join_a_cluster_that_there_is() {
    let mut cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    cluster.kill(1).await;
    cluster.machines[1] = Machine::new(false);
    cluster.start(1);
    for node in 0..3 {
        let text = refusal(cluster.service(node).init().await);
        assert!(text.contains("there is a cluster already") && text.contains("directories of b"), "{text}");
        assert!(!text.contains("empty"), "data would be lost: {text}");
    }
    assert_eq!(cluster.service(1).cluster(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_tells_who_the_others_are() {
    let cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let services = cluster.service(0).services();
    assert_eq!(services.iter().map(|service| &*service.name).collect::<Vec<_>>(), NAMES);
    assert!(services.iter().all(|service| service.is_connected && service.zone == format!("z{}", service.name)));
    let groups: &dyn Groups = &**cluster.service(0);
    assert_eq!(groups.address_of(cluster.service(2).member), Some("c:7379".to_owned()));
    assert_eq!(groups.address_of(1), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_could_not_be_made_is_tried_again_by_itself() {
    let mut cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    // The file in which the service remembers that the copy was made cannot be written.
    let directory = cluster.machines[other].directory.path().to_owned();
    let in_the_way = directory.join("SERVICE.partial");
    std::fs::create_dir(&in_the_way).expect("made");
    std::fs::write(in_the_way.join("full"), "").expect("written");
    cluster.service(leader).create("s1", first_state("s1")).await.expect("two of three suffice");
    until("it was tried", || lock(&cluster.service(other).unused).contains_key("s1")).await;
    assert!(cluster.service(other).group("s1").is_none());
    std::fs::remove_dir_all(&in_the_way).expect("removed");
    until("it is made", || cluster.service(other).group("s1").is_some()).await;
    assert!(lock(&cluster.service(other).unused).is_empty());
    cluster.kill(other).await;
}
