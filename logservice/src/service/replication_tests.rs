//! A service whose shards several services keep.

use std::time::Instant;

use durability_protocol::NO_LOG_ID;
use object_store::memory::InMemory;
use object_store::ObjectStoreExt;
use tempfile::TempDir;

use super::*;
use crate::replica::memory_group::MemoryGroups;
use crate::replica::store_factory::ReplicatedStores;
use crate::service::ServiceOptions;
use crate::snapshots::SnapshotStore;
use crate::store::Append;

struct Tested {
    service: Arc<Service>,
    groups: Arc<MemoryGroups>,
    objects: Arc<InMemory>,
    _directory: TempDir,
}

fn start(groups: Arc<MemoryGroups>) -> Tested {
    let directory = tempfile::tempdir().expect("a directory");
    let objects = Arc::new(InMemory::new());
    let (engine_requests, _) = tokio::sync::mpsc::channel(1);
    let options = ServiceOptions {
        archive: None,
        directory: directory.path().to_owned(),
        stores: Arc::new(ReplicatedStores::new(groups.clone())),
        groups: Some(groups.clone()),
        files: None,
        snapshots: Arc::new(SnapshotStore::over(objects.clone(), directory.path().join("drafts"))),
        engine_requests,
        max_shards: 2,
        snapshot_log_bytes: 0,
        debug_command: false,
        http_port: 1,
    };
    let service = Service::open(options, None).expect("opens");
    Tested { service, groups, objects, _directory: directory }
}

/// Waits until `is_so`.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn decides(service: &Service) -> bool {
    service.served_shard("s1").is_some_and(|shard| shard.decides())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_opened_anew_whenever_who_decides_over_its_log_changes() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    let Tested { service, _directory, .. } = start(groups);
    let following = service.shard("s1").await.expect("served");
    assert_eq!(following.check_decides().expect_err("it follows").code, Code::NotLeader);
    group.lead(2);
    until("it decides", async || decides(&service)).await;
    let deciding = service.shard("s1").await.expect("served");
    assert_eq!(deciding.check_decides(), Ok(()));
    assert_eq!(following.check_not_ended().expect_err("it is another").code, Code::NotLeader);
    // Deposed and decides again, faster than it is opened.
    group.follow(Some(2), 0);
    group.lead(5);
    let is_another = async || service.served_shard("s1").is_some_and(|shard| !Arc::ptr_eq(&shard, &deciding));
    until("it is opened anew", is_another).await;
    until("it decides again", async || decides(&service)).await;
    group.follow(Some(3), 0);
    until("it follows", async || !decides(&service)).await;
    until("it is served", async || service.shard("s1").await.is_ok_and(|shard| !shard.has_ended())).await;
    let shard = service.shard("s1").await.expect("served");
    assert_eq!(shard.decider().as_deref(), Some("10.0.0.3:7379"));
    assert_eq!(service.names(), ["s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_could_not_be_opened_is_opened_once_its_copy_is_well() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    group.lead(1);
    group.settle();
    group.fail_writes(true);
    let append = Append { epoch: 0, offset: 0, payload: Bytes::from_static(b"what cannot be written") };
    group.append(1, append).expect("taken");
    group.settle();
    assert!(group.view().failed.is_some());
    let Tested { service, _directory, .. } = start(groups);
    assert!(service.shard("s1").await.is_err_and(|refusal| refusal.code == Code::LogFailed));
    // Nobody tells of it: that was said before.
    group.fail_writes(false);
    until("it is served", async || service.shard("s1").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_serve_a_shard_does_not_decide_over_its_log() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    group.receive_state(&Manifest::new("another", "a".repeat(40), "id".to_owned()).next(), None);
    group.settle();
    let Tested { service, _directory, .. } = start(groups);
    assert!(service.shard("s1").await.is_err_and(|refusal| refusal.code == Code::LogFailed));
    group.lead(1);
    until("another one is to decide", async || !group.transfers().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_made_by_all_services_or_by_none() {
    let Tested { service, groups, _directory, .. } = start(Arc::default());
    let shard = service.shard_or_new("s1").await.expect("made");
    assert!(!shard.decides(), "who decides is elected afterwards");
    assert_eq!((groups.names(), shard.log_id().len()), (vec!["s1".to_owned()], 16));
    assert_eq!(service.shard_or_new("s1").await.expect("there").log_id(), shard.log_id());
    // Another service makes one.
    groups.create("s2", first_state("s2").expect("a state")).await.expect("made");
    until("it is served", async || service.served_shard("s2").is_some()).await;
    assert!(service.shard_or_new("s3").await.is_err_and(|refusal| refusal.detail.contains("--max-shards")));
    let refused = service.drop_shard("s1", NO_LOG_ID, true).await.expect_err("another id");
    assert_eq!(refused.code, Code::OtherLog);
    // Whether somebody uses it is known where it is decided over; here nobody decides.
    let refused = service.drop_shard("s1", &shard.log_id(), false).await.expect_err("it follows");
    assert_eq!(refused.code, Code::NotLeader);
    service.drop_shard("s1", &shard.log_id(), true).await.expect("dropped");
    assert_eq!((groups.names(), service.names()), (vec!["s2".to_owned()], vec!["s2".to_owned()]));

    let Tested { service, groups, _directory, .. } = start(Arc::default());
    groups.refuse(ClusterError::NotLeader { address: Some("10.0.0.3:7379".to_owned()) });
    let refusal = service.shard_or_new("s1").await.map(|_| ()).expect_err("refused");
    assert_eq!(refusal.code, Code::NotLeader);
    assert!(refusal.detail.starts_with("10.0.0.3:7379 "), "{refusal}");
    assert!(service.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_over_to_the_service_that_has_most_of_the_log_and_is_connected() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    group.lead(1);
    let Tested { service, groups, _directory, .. } = start(groups);
    let copies = service.copies(&service.shard("s1").await.expect("served")).await;
    let shown: Vec<_> =
        copies.iter().map(|copy| (copy.service.name.as_str(), copy.decides, copy.matched, copy.lag)).collect();
    assert_eq!(shown, [("a", true, 9, 0), ("b", false, 9, 0), ("c", false, 7, 2)]);
    let handing_over = tokio::spawn({
        let service = service.clone();
        async move { service.hand_over().await }
    });
    until("it was asked", async || !group.transfers().is_empty()).await;
    assert!(!handing_over.is_finished(), "nobody decides yet");
    group.follow(Some(2), 0);
    handing_over.await.expect("no panic");
    assert_eq!((group.transfers(), groups.handed_over()), (vec![2], 1), "with the decision over the cluster");
    // Nothing is left to hand over.
    service.hand_over().await;
    assert_eq!(group.transfers(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_service_that_decides_removes_snapshots_and_only_if_it_still_does_after_it_listed_them() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    let Tested { service, objects, _directory, .. } = start(groups);
    let path = object_store::path::Path::from("s1-id-of-s1/00000000000000000000-0000002a.rdb");
    objects.put(&path, "a snapshot".into()).await.expect("stored");
    let is_there = async || objects.head(&path).await.is_ok();
    let following = service.shard("s1").await.expect("served");
    following.clean_up_snapshots().await;
    assert!(is_there().await, "it follows");
    group.hold(true);
    group.lead(1);
    until("it decides", async || decides(&service)).await;
    until("it has listed them", async || group.waiting() > 0).await;
    assert!(is_there().await, "it is not confirmed");
    group.follow(Some(2), 0);
    until("it follows", async || !decides(&service)).await;
    assert!(is_there().await, "it did not decide any more");
    group.hold(false);
    group.lead(3);
    until("it is removed", async || !is_there().await).await;
}

/// The state of a shard that a node at `address` leads in `epoch`.
fn led_in(manifest: &Manifest, epoch: u64, address: &str) -> Manifest {
    let entry = crate::store::Epoch {
        epoch,
        node_id: "n1".to_owned(),
        address: address.to_owned(),
        replid: Some("c".repeat(40)),
        first_offset: Some(0),
        engine: None,
        databases: None,
    };
    let mut next = Manifest { seeded: true, ..manifest.next() };
    next.epochs.push(entry);
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_told_once_and_in_order_however_often_the_shard_is_opened_anew() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    let Tested { service, _directory, .. } = start(groups);
    let mut switches = service.switches();
    let mut manifest = service.shard("s1").await.expect("served").store().manifest();
    let mut change = |epoch, address: &str| {
        manifest = led_in(&manifest, epoch, address);
        group.receive_state(&manifest, None);
    };
    change(1, "a:1");
    group.lead(2);
    until("it decides", async || decides(&service)).await;
    // Deposed; the primary moves before the shard is opened anew.
    group.follow(Some(2), 0);
    change(2, "b:1");
    until("it follows", async || service.served_shard("s1").is_some_and(|shard| !shard.has_ended())).await;
    change(3, "c:1");
    group.lead(5);
    until("it decides again", async || decides(&service)).await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let switch = tokio::time::timeout(Duration::from_secs(20), switches.recv()).await.expect("told").expect("all");
        told.push((switch.from.clone(), switch.to.clone()));
    }
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(told, [pair("", "a:1"), pair("a:1", "b:1"), pair("b:1", "c:1")]);
    assert!(switches.try_recv().is_err(), "none is told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_tell_each_other_what_they_know_of_the_shards_over_which_they_decide() {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(1);
    let Tested { service, groups, _directory, .. } = start(groups);
    let shard = service.shard("s1").await.expect("served");
    let heard = crate::shard::Heard {
        node_id: "n1",
        address: "a:1",
        role: crate::shard::Role::Follower,
        priority: 1,
        applied: 0,
        wait: Duration::ZERO,
        zone: "z1",
        figures: None,
        settings: None,
    };
    drop(shard.poll(heard, 0).expect("heard"));
    let told = std::cell::RefCell::new(None);
    let has_told = async || {
        let with_node = groups.reports().into_iter().find(|(_, report)| report.contains("\"n1\""));
        with_node.is_some_and(|report| told.replace(Some(report)).is_none())
    };
    until("it has told", has_told).await;
    let (to, report) = told.take().expect("told");
    assert_eq!(to, "b", "the one that is connected");

    // Another service hears it.
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").follow(Some(2), 0);
    let Tested { service, groups, _directory: _other, .. } = start(groups);
    let following = service.shard("s1").await.expect("served");
    assert!(following.status().nodes.is_empty());
    groups.hear("nonsense");
    groups.hear(&report);
    assert_eq!(following.status().nodes[0].zone, "z1");
    assert!(groups.reports().is_empty(), "who follows tells nothing");
}
