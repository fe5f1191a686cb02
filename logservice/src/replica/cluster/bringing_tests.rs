//! A service that keeps shards alone becomes one of three.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;

use super::tests::{first_state, refusal, until, Cluster, Machine};
use super::*;
use crate::replica::bringing::{Bringing, Brought};
use crate::replica::groups::Groups;
use crate::store::{Listed, Manifest, OpenError, Opened, Record, RemoveError, StoreEvents};

/// What a service keeps alone: names. What is in the shards is for the test to know.
#[derive(Default)]
pub(super) struct MemoryAlone {
    shards: Mutex<BTreeSet<String>>,
    aside: AtomicU64,
}

impl MemoryAlone {
    fn of(shards: &[&str]) -> Option<Arc<Self>> {
        let shards = Mutex::new(shards.iter().map(|&shard| shard.to_owned()).collect());
        Some(Arc::new(MemoryAlone { shards, aside: AtomicU64::new(0) }))
    }

    fn names(&self) -> Vec<String> {
        lock(&self.shards).iter().cloned().collect()
    }
}

impl StoreFactory for MemoryAlone {
    fn list(&self) -> Result<Listed, MediumError> {
        Ok(Listed { shards: self.names(), removed: Vec::new() })
    }

    fn open(&self, _shard: &str, _events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        unreachable!("groups open none")
    }

    fn exists(&self, shard: &str) -> bool {
        lock(&self.shards).contains(shard)
    }

    fn manifest(&self, _shard: &str) -> Option<Manifest> {
        None
    }

    fn remove(&self, _shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        unreachable!("groups remove none")
    }

    fn set_aside(&self, shard: &str) -> Result<Option<String>, RemoveError> {
        let was_there = lock(&self.shards).remove(shard);
        Ok(was_there.then(|| format!("aside {}", self.aside.fetch_add(1, Ordering::SeqCst))))
    }
}

fn with_alone(shards: [&[&str]; 3]) -> Cluster {
    let machine = |shards: &[&str]| {
        let mut machine = Machine::new(false);
        machine.alone = MemoryAlone::of(shards);
        machine
    };
    Cluster::of(shards.into_iter().map(machine).collect())
}

/// A manifest as an older version has written it, of a log that begins at 100 and in whose second epoch somebody leads.
fn old_manifest(shard: &str) -> Manifest {
    let epoch = |epoch: u64, offset: u64| {
        format!(
            r#"{{"epoch":{epoch},"node_id":"n1","address":"a:1","replid":"{}","first_offset":{offset},"engine":null}}"#,
            "e".repeat(40)
        )
    };
    let text = format!(
        r#"{{"format":1,"revision":7,"shard":"{shard}","epochs":[{},{}],"leader":{{"node_id":"n1","address":"a:1","lease_ms":3000}},"base":100,"generation":1,"id":"id-{shard}","snapshots":[],"seeded":true}}"#,
        epoch(1, 100),
        epoch(2, 110)
    );
    Manifest::parse(text.as_bytes()).expect("an older version's")
}

fn records() -> Vec<Record> {
    let record = |epoch, offset: u64, payload: &'static [u8]| Record {
        epoch,
        offset,
        time_ms: offset,
        payload: Bytes::from_static(payload),
    };
    vec![record(1, 100, b"0123456789"), record(2, 110, b"abcde"), record(2, 115, b"fghij")]
}

async fn finish(service: &Arc<Replicas>, shard: &str, brought: Brought, manifest: Manifest) -> Result<(), String> {
    let (service, shard) = (service.clone(), shard.to_owned());
    tokio::task::spawn_blocking(move || service.finish(&shard, brought, &manifest)).await.expect("it returns")
}

fn announced(shards: &[&str]) -> Vec<(String, String)> {
    shards.iter().map(|&shard| (shard.to_owned(), format!("id-{shard}"))).collect()
}

fn log_of(service: &Arc<Replicas>, shard: &str) -> Vec<u8> {
    let group = service.group(shard).expect("there");
    let (mut bytes, end) = (Vec::new(), group.view().end);
    let mut reader = group.reader(100).expect("it begins there");
    while reader.offset() < end {
        bytes.extend(reader.read(end, 1000).expect("sound"));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_were_kept_alone_are_kept_by_three() {
    let mut cluster = with_alone([&["s1", "s2"], &[], &[]]);
    let old = cluster.service(0).clone();
    assert!(old.is_alone() && old.keeps_alone("s1") && !old.keeps_alone("s3") && !cluster.service(1).is_alone());
    let text = refusal(cluster.service(1).init().await);
    assert!(text.contains("service a has shards of its own: say LOG.CLUSTER INIT there"), "{text}");
    assert!(old.begin("s1", 100).is_err(), "nobody expects it yet");
    old.init().await.expect("made");
    assert!(!old.is_alone() && old.keeps_alone("s1") && old.is_awaited());
    assert_eq!(old.expected().expect("listed"), [""; 0]);
    until("all know that", || {
        (0..3).all(|node| cluster.service(node).state.borrow().as_ref().is_some_and(|state| state.awaits.is_some()))
    })
    .await;
    let address = Some("a:7379".to_owned());
    for node in [1, 2] {
        let to_old = ClusterError::NotLeader { address: address.clone() };
        assert_eq!(cluster.service(node).create("s1", first_state("s1")).await, Err(to_old), "a name is given once");
    }
    match old.create("s3", first_state("s3")).await.expect_err("none is made yet") {
        ClusterError::Refused(text) => assert!(text.contains("ask again"), "{text}"),
        // Another service decides over the cluster.
        ClusterError::NotLeader { .. } => {}
    }

    old.announce(&announced(&["s1", "s2"])).await.expect("told");
    old.announce(&announced(&["s1", "s2"])).await.expect("told again");
    until("it knows", || old.expected().expect("listed") == ["s1", "s2"]).await;
    assert!(!old.is_awaited() && old.group("s1").is_none(), "no copy is made but of what there is");
    until("the others are told", || {
        let is_told = |node: usize| cluster.service(node).elsewhere("s1");
        [1, 2].into_iter().all(|node| is_told(node) == Some(ClusterError::NotLeader { address: address.clone() }))
    })
    .await;

    let mut brought = old.begin("s1", 100).expect("begun");
    brought.append(records()[..2].to_vec()).expect("copied");
    assert!(brought.append(vec![records()[0].clone()]).is_err(), "it does not follow");
    drop(brought);
    let mut brought = old.begin("s1", 100).expect("begun again");
    brought.append(records()).expect("copied");
    assert_eq!(brought.end(), 120);
    let manifest = old_manifest("s1");
    finish(&old, "s1", brought, manifest.clone()).await.expect("brought");
    let group = old.group("s1").expect("there");
    assert!(group.view().leads_in.is_some() && !old.keeps_alone("s1"));
    assert_eq!(cluster.machines[0].alone.as_ref().expect("it has some").names(), ["s2"], "the other one is as it was");
    assert_eq!(Manifest::parse(&group.view().state), Ok(manifest.clone()));
    for node in 0..3 {
        until("it is at all services", || cluster.service(node).group("s1").is_some()).await;
        let group = cluster.service(node).group("s1").expect("there");
        until("it is whole", || group.view().is_whole && group.view().end == 120).await;
        assert_eq!(log_of(cluster.service(node), "s1"), b"0123456789abcdefghij");
        assert_eq!(Manifest::parse(&group.view().state), Ok(manifest.clone()));
    }
    let are_members =
        || group.status().is_some_and(|status| status.are_members_settled && status.members.voters.len() == 3);
    until("all three vote", are_members).await;
    drop(group);

    // The one that had it is gone for good: the others go on with it.
    drop(old);
    cluster.kill(0).await;
    let leads = |node: usize| cluster.service(node).group("s1").is_some_and(|group| group.view().leads_in.is_some());
    until("another one decides", || leads(1) || leads(2)).await;
    // It comes back: what it has not brought is expected still, also after a restart in the middle.
    cluster.start(0);
    let old = cluster.service(0).clone();
    until("it is expected", || old.expected().expect("listed") == ["s2"]).await;
    assert!(old.keeps_alone("s2") && !old.keeps_alone("s1"));
    let brought = old.begin("s2", 100).expect("begun");
    let empty = Manifest { base: 100, ..Manifest::new("s2", "r".repeat(40), "id-s2".to_owned()) };
    finish(&old, "s2", brought, empty).await.expect("one that was never written to");
    until("it is everywhere", || (0..3).all(|node| cluster.service(node).group("s2").is_some())).await;
    let leader = cluster.leader().await;
    cluster.service(leader).create("s3", first_state("s3")).await.expect("others are made as ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_alone_does_not_come_back() {
    let mut cluster = with_alone([&["s1"], &[], &[]]);
    let old = cluster.service(0).clone();
    old.init().await.expect("made");
    old.announce(&announced(&["s1"])).await.expect("told");
    until("it is expected", || !old.expected().expect("listed").is_empty()).await;
    let mut brought = old.begin("s1", 100).expect("begun");
    brought.append(records()).expect("copied");
    finish(&old, "s1", brought, old_manifest("s1")).await.expect("brought");
    drop(old);
    // It was cut off between the two.
    cluster.kill(0).await;
    let alone = cluster.machines[0].alone.clone().expect("it has some");
    lock(&alone.shards).insert("s1".to_owned());
    cluster.start(0);
    assert!(alone.names().is_empty() && !cluster.service(0).keeps_alone("s1"), "the copy counts");
    // The shard is dropped, and what was kept alone must not be taken for it.
    lock(&alone.shards).insert("s1".to_owned());
    until("it is open", || cluster.service(0).group("s1").is_some()).await;
    cluster.leader().await;
    until("it is dropped", || {
        let drops = (0..3).any(|node| cluster.service(node).propose_drop("s1", "id-s1").is_ok());
        drops && cluster.service(0).group("s1").is_none()
    })
    .await;
    until("its copy is gone", || cluster.machines[0].disks.list().is_ok_and(|copies| copies.len() == 1)).await;
    assert!(alone.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_service_brings_shards() {
    let mut cluster = with_alone([&["s1"], &["s2"], &[]]);
    for node in [0, 1] {
        let text = refusal(cluster.service(node).init().await);
        assert!(text.contains("both have shards of their own") && text.contains("empty --dir"), "{text}");
    }
    let text = refusal(cluster.service(2).init().await);
    assert!(text.contains("say LOG.CLUSTER INIT there"), "{text}");
    let members: Vec<_> = (0..3).map(|node| cluster.service(node).own_record()).collect();
    let initiator = members[0].member;
    let record = ClusterRecord { id: 5, initiator, members, is_formed: false, is_older: false, has_shards: true };
    let text = cluster.service(1).join(record).expect_err("refused");
    assert!(text.contains("service b has shards of its own"), "{text}");
    assert!((0..3).all(|node| cluster.service(node).cluster().is_none()), "nothing is begun");
    // One that is to take a place has to be empty.
    cluster.kill(1).await;
    cluster.machines[1].joins = true;
    let error = cluster.try_start(1).err().expect("it does not start").to_string();
    assert!(error.contains("give --join an empty --dir"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_has_what_nobody_else_has_is_not_replaced() {
    let cluster = with_alone([&["s1"], &[], &[]]);
    let old = cluster.service(0).clone();
    old.init().await.expect("made");
    old.announce(&announced(&["s1"])).await.expect("told");
    assert_eq!(old.has_shards_of_its_own(), Ok(true));
    assert_eq!(cluster.service(1).has_shards_of_its_own(), Ok(false));
    let leader = cluster.leader().await;
    let state = cluster.service(leader).state.borrow().clone().expect("known");
    let checked = cluster.service(leader).check_may_go(&state, old.member).await;
    match leader {
        0 => checked.expect("it does not ask itself"),
        _ => assert!(refusal(checked).contains("has shards that no other service has")),
    }
    let other = if leader == 1 { 2 } else { 1 };
    cluster.service(leader).check_may_go(&state, cluster.service(other).member).await.expect("it has nothing");
}
