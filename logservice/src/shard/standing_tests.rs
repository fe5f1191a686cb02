//! A shard of which several services keep the log, when another one decides or comes to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use durability_protocol::{Code, Known, Refusal};
use object_store::memory::InMemory;

use crate::replica::memory_group::{MemoryGroup, MemoryGroups};
use crate::replica::store_factory::ReplicatedStores;
use crate::shard::{Held, Node, Placed, Position, Renewal, Shard, Submitted, Switches};
use crate::snapshots::SnapshotStore;
use crate::store::{ClusterSlots, Epoch, Leader, Manifest, StoreFactory};

const REPLID: &str = "cccccccccccccccccccccccccccccccccccccccc";

fn open(groups: &Arc<MemoryGroups>, switches: &Switches) -> (Arc<Shard>, Arc<MemoryGroup>) {
    let snapshots = Arc::new(SnapshotStore::over(Arc::new(InMemory::new()), PathBuf::from("/nowhere")));
    let (stores, group) = (ReplicatedStores::new(groups.clone()), groups.get_or_make("s1"));
    let shard = Shard::open("s1", snapshots, switches.clone(), |events| stores.open("s1", events)).expect("opens");
    (Arc::new(shard), group)
}

/// A shard over whose log this service decides, and which n1 leads in epoch 1.
async fn led() -> (Arc<Shard>, Arc<MemoryGroup>) {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(3);
    let (shard, group) = open(&groups, &Switches::new(1));
    let node = Node { node_id: "n1", address: "a:1", engine: None, process: None, databases: None };
    assert_eq!(shard.acquire(node, Held { end: 0, replid: None, seen: None }, 3000).await, Ok((1, 0)));
    shard.begin(1, REPLID, 0).await.expect("begins");
    (shard, group)
}

/// Waits until so many appends, replacements and questions wait.
async fn wait_for(group: &MemoryGroup, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while group.waiting() < count {
        assert!(Instant::now() < deadline, "only {} wait", group.waiting());
        tokio::task::yield_now().await;
    }
}

fn renewal() -> Renewal {
    Renewal { epoch: 1, lease_ms: 3000, sent: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_answered_once_this_service_is_known_to_decide_since_it_came() {
    let (shard, group) = led().await;
    assert_eq!(shard.renew(renewal()).await, Ok(()));
    group.hold(true);
    let renew = || {
        let shard = shard.clone();
        tokio::spawn(async move { shard.renew(renewal()).await })
    };
    let first = renew();
    wait_for(&group, 1).await;
    let second = renew();
    wait_for(&group, 2).await;
    assert!(!first.is_finished() && !second.is_finished(), "answered although nothing is confirmed");
    group.hold(false);
    assert_eq!((first.await.expect("no panic"), second.await.expect("no panic")), (Ok(()), Ok(())));
    // One that is not confirmed is not granted, although the lease was this service's to renew.
    group.hold(true);
    let third = renew();
    wait_for(&group, 1).await;
    group.follow(Some(2), 0);
    let refusal = third.await.expect("no panic").expect_err("not confirmed");
    assert_eq!(refusal.code, Code::NotLeader);
    assert!(refusal.detail.starts_with("10.0.0.2:7379 "), "{refusal}");
    assert_eq!(shard.renew(renewal()).await.expect_err("it does not decide").code, Code::NotLeader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_being_granted_cannot_be_taken_by_the_number_that_it_will_have() {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(3);
    let (shard, group) = open(&groups, &Switches::new(1));
    group.hold(true);
    let granting = {
        let shard = shard.clone();
        tokio::spawn(async move {
            let node = Node { node_id: "n1", address: "a:1", engine: None, process: None, databases: None };
            shard.acquire(node, Held { end: 0, replid: None, seen: None }, 60_000).await
        })
    };
    wait_for(&group, 1).await;
    assert_eq!(shard.status().epoch, 0);
    // Nobody can mean a leader that nobody has been told of.
    let taken = shard.release(1, None, std::future::pending()).await;
    assert_eq!(taken.expect_err("there is no such epoch").code, Code::Fenced);
    assert_eq!(shard.force_release(1, None).await.expect_err("there is no such epoch").code, Code::Fenced);
    group.hold(false);
    assert_eq!(granting.await.expect("no panic"), Ok((1, 0)));
    assert_eq!(shard.renew(renewal()).await, Ok(()));
    shard.force_release(1, None).await.expect("it leads");
    assert_eq!(shard.renew(renewal()).await.expect_err("the lease was taken").code, Code::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_stored_and_told_once_this_service_is_known_to_decide() {
    let (shard, group) = led().await;
    let slots = |config_epoch| ClusterSlots { config_epoch, epoch: 1, ..ClusterSlots::default() };
    let set = |config_epoch| {
        let shard = shard.clone();
        tokio::spawn(async move { shard.set_cluster_slots(slots(config_epoch)).await })
    };
    assert_eq!(set(5).await.expect("no panic"), Ok(()));
    assert_eq!(shard.cluster_slots(1).await, Ok(slots(5)));
    // The same ones again: nothing is stored, and it is confirmed all the same.
    group.hold(true);
    let again = set(5);
    wait_for(&group, 1).await;
    let get = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.cluster_slots(1).await })
    };
    wait_for(&group, 2).await;
    assert!(!again.is_finished() && !get.is_finished(), "answered although nothing is confirmed");
    group.hold(false);
    assert_eq!((again.await.expect("no panic"), get.await.expect("no panic")), (Ok(()), Ok(slots(5))));
    // Another service may have begun to decide before any of these came.
    group.hold(true);
    let get = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.cluster_slots(1).await.map(drop) })
    };
    wait_for(&group, 1).await;
    let again = set(5);
    wait_for(&group, 2).await;
    let next = set(6);
    wait_for(&group, 3).await;
    group.follow(Some(2), 0);
    for asked in [get, again, next] {
        assert_eq!(asked.await.expect("no panic").expect_err("not confirmed").code, Code::NotLeader);
    }
    assert_eq!(shard.cluster_slots(1).await.expect_err("it does not decide").code, Code::NotLeader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_has_just_come_to_decide_does_not_shorten_the_lease_before_it_is_over() {
    const LEASE_MS: u64 = 300;
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(3);
    let (shard, _) = open(&groups, &Switches::new(1));
    let node = Node { node_id: "n1", address: "a:1", engine: None, process: None, databases: None };
    assert_eq!(shard.acquire(node, Held { end: 0, replid: None, seen: None }, 3000).await, Ok((1, 0)));
    let renewal = |lease_ms| Renewal { lease_ms, ..renewal() };
    assert_eq!(shard.renew(renewal(LEASE_MS)).await, Ok(()), "the one that granted it may shorten it");
    let stored = |shard: &Shard| shard.store().manifest().leader.map(|leader| leader.lease_ms);
    assert_eq!(stored(&shard), Some(LEASE_MS));
    // The next one over the same log.
    let (next, _) = open(&groups, &Switches::new(1));
    let began = Instant::now();
    assert_eq!(next.renew(renewal(100)).await, Ok(()));
    assert_eq!(stored(&next), Some(LEASE_MS), "it may be a late one");
    assert_eq!(next.renew(renewal(400)).await, Ok(()), "a longer one is none");
    assert_eq!(stored(&next), Some(400));
    while stored(&next) != Some(100) {
        assert_eq!(next.renew(renewal(100)).await, Ok(()));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(LEASE_MS), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_decided_over_elsewhere_answers_all_that_waits_with_that() {
    let (shard, group) = led().await;
    group.hold(true);
    let append = |offset, bytes: &'static [u8]| match shard.append(1, offset, Bytes::from_static(bytes)) {
        Ok(Submitted::Accepted(ticket)) => ticket,
        other => panic!("{other:?}"),
    };
    let (first, second) = (append(0, b"first"), append(5, b"second"));
    let heard = crate::shard::Heard {
        zone: "",
        node_id: "n2",
        address: "b:1",
        role: crate::shard::Role::Follower,
        priority: 1,
        applied: 0,
        wait: Duration::from_secs(60),
        figures: None,
        settings: None,
    };
    let mut poll = shard.poll(heard, shard.status().version).expect("polls");
    let polling = tokio::spawn(async move {
        poll.due().await;
        poll.shard().check_not_ended()
    });
    let replacing = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.resign(1, None).await })
    };
    wait_for(&group, 3).await;
    group.follow(None, 1);
    let progress = shard.notifier().progress();
    assert_eq!(progress.visible, 5, "what was committed before counts");
    let not_leader = |refusal: durability_protocol::Refusal| {
        assert_eq!(refusal.code, Code::NotLeader);
        assert!(refusal.detail.starts_with("- "), "{refusal}");
    };
    not_leader(first.outcome(&progress).expect("an answer").expect_err("not told in time"));
    not_leader(second.outcome(&progress).expect("an answer").expect_err("not in the log"));
    not_leader(polling.await.expect("no panic").expect_err("the poll ends"));
    not_leader(replacing.await.expect("no panic").expect_err("the outcome is unknown"));
    not_leader(shard.append(1, 11, Bytes::from_static(b"late")).map(|_| ()).expect_err("it takes nothing"));
    not_leader(shard.notifier().ended().await);
    assert!(!shard.decides());
}

fn epoch(epoch: u64, address: &str, replid: &str, first_offset: u64) -> Epoch {
    Epoch {
        epoch,
        node_id: format!("n{epoch}"),
        address: address.to_owned(),
        replid: Some(replid.to_owned()),
        first_offset: Some(first_offset),
        engine: None,
        databases: None,
    }
}

fn led_by(manifest: &Manifest, entry: Epoch) -> Manifest {
    let leader = Leader { node_id: entry.node_id.clone(), address: entry.address.clone(), lease_ms: 1, process: None };
    let mut next = Manifest { leader: Some(leader), seeded: true, ..manifest.next() };
    next.epochs.push(entry);
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_follows_shows_what_the_service_that_decides_does() {
    let groups = Arc::new(MemoryGroups::default());
    let switches = Switches::new(8);
    let mut told = switches.subscribe();
    let (shard, group) = open(&groups, &switches);
    group.follow(Some(2), 0);
    assert!(!shard.decides() && shard.is_replicated());
    let first = led_by(&shard.store().manifest(), epoch(1, "a:1", REPLID, 0));
    group.receive_state(&first, None);
    group.receive(vec![7; 100]);
    assert_eq!((shard.notifier().durable(), shard.accepted().until), (100, 100));
    // Its lease of a millisecond is renewed where this service does not hear of it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let primary = shard.primary().expect("a primary");
    assert_eq!((primary.address.as_str(), primary.epoch, primary.leads), ("a:1", 1, true));
    let status = shard.status();
    assert_eq!((status.standing, status.decider.as_str()), ("follows", "10.0.0.2:7379"));
    assert_eq!((status.end, status.accepted_end, status.epoch, status.stream_epoch), (100, 100, 1, 1));
    assert_eq!(shard.judge_known(&Known::new(shard.log_id())), Ok(()));
    assert!(matches!(shard.position_of(REPLID, Some(50)), Ok(Position::Continue { offset: 50, .. })));

    let stream = shard.notifier().progress().stream;
    let other = "d".repeat(40);
    let second = led_by(&first, epoch(2, "b:1", &other, 100));
    group.receive_state(&second, None);
    assert_eq!(shard.primary().map(|primary| primary.address).as_deref(), Some("b:1"));
    let switched: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let to: Vec<_> = switched.iter().map(|switch| (switch.from.as_str(), switch.to.as_str())).collect();
    assert_eq!(to, [("", "a:1"), ("a:1", "b:1")]);
    assert!(shard.notifier().progress().stream > stream, "replicas ask again under the other replication id");

    let mut bases = shard.followed_base();
    bases.mark_unchanged();
    let stream = shard.notifier().progress().stream;
    let seeded = Manifest { base: 900, epochs: vec![epoch(2, "b:1", &other, 900)], ..second.next() };
    group.receive_state(&seeded, Some(900));
    assert_eq!((shard.notifier().durable(), shard.accepted().until), (900, 900));
    assert!(shard.notifier().progress().stream > stream && *bases.borrow() == 900);
    assert!(matches!(shard.position_of(REPLID, Some(50)), Ok(Position::Full)));
    assert_eq!(shard.check_decides().expect_err("it follows").code, Code::NotLeader);
    assert_eq!(
        shard.renew(Renewal { epoch: 2, lease_ms: 1, sent: None }).await.map_err(|refusal| refusal.code),
        Err(Code::NotLeader)
    );
}

#[tokio::test]
async fn nobody_is_given_anything_while_the_log_ends_below_where_that_of_the_others_begins() {
    let groups = Arc::new(MemoryGroups::default());
    let (shard, group) = open(&groups, &Switches::new(1));
    let ahead = Manifest { base: 500, ..shard.store().manifest().next() };
    group.receive_state(&ahead, None);
    assert!(shard.position_of(REPLID, None).is_err_and(|refusal| refusal.detail.contains("catching up")));
    assert!(shard.full_copy().await.is_err());
    group.receive(vec![1; 500]);
    assert!(matches!(shard.position_of(REPLID, None), Ok(Position::Full)));
}

#[tokio::test]
async fn a_shard_that_is_alone_decides_and_is_confirmed_at_once() {
    let snapshots = Arc::new(SnapshotStore::over(Arc::new(InMemory::new()), PathBuf::from("/nowhere")));
    let stores = crate::store::memory_store::MemoryStores::threaded();
    let opened = Shard::open("s1", snapshots, Switches::new(1), |events| stores.open("s1", events));
    let shard = opened.expect("opens");
    assert!(shard.decides() && !shard.is_replicated());
    let confirmed = futures_util::FutureExt::now_or_never(shard.confirm());
    assert_eq!(confirmed, Some(Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contradiction_counts_only_if_this_service_certainly_decides() {
    let (shard, group) = led().await;
    let ahead = Known { epoch: 1, replid: REPLID.to_owned(), durable: 100, ..Known::new(shard.log_id()) };
    let check = |known: &Known, differs| {
        let (shard, known) = (shard.clone(), known.clone());
        tokio::spawn(async move { shard.check_node("n1", "a:1", Some(&known), differs).await })
    };
    let code = |result: Result<String, Refusal>| result.expect_err("refused").code;
    assert_eq!(code(check(&ahead, false).await.expect("no panic")), Code::Gap, "it decides");
    group.hold(true);
    let waits = check(&ahead, false);
    wait_for(&group, 1).await;
    let agrees = check(&Known::new(shard.log_id()), false).await.expect("no panic");
    assert_eq!(agrees, Ok(shard.log_id()), "an agreement waits for nobody");
    let differs = check(&Known::new(shard.log_id()), true);
    wait_for(&group, 2).await;
    assert!(!waits.is_finished() && !differs.is_finished(), "answered although nothing is confirmed");
    // Another service decided when it was asked, and may have had what the node knows.
    group.follow(Some(2), 0);
    assert_eq!(code(waits.await.expect("no panic")), Code::NotLeader);
    assert_eq!(code(differs.await.expect("no panic")), Code::NotLeader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_follows_shows_what_the_one_that_decides_reports_until_it_hears_nothing_for_a_while() {
    let groups = Arc::new(MemoryGroups::default());
    let (shard, group) = open(&groups, &Switches::new(8));
    group.follow(Some(2), 0);
    let first = led_by(&shard.store().manifest(), epoch(1, "a:1", REPLID, 0));
    group.receive_state(&first, None);
    let (leader, other) = led().await;
    for (node_id, zone) in [("n1", "z1"), ("n2", "z2")] {
        let heard = crate::shard::Heard {
            node_id,
            address: "host:1",
            role: crate::shard::Role::Follower,
            priority: 100,
            applied: 0,
            wait: Duration::ZERO,
            zone,
            figures: None,
            settings: None,
        };
        drop(leader.poll(heard, 0).expect("heard"));
    }
    assert!(shard.hear_report(leader.report(3, Placed::default())));
    let nodes = |shard: &Shard| shard.status().nodes.into_iter().map(|node| (node.id, node.zone)).collect::<Vec<_>>();
    assert_eq!(nodes(&shard), nodes(&leader));
    assert_eq!(nodes(&shard).len(), 2);
    assert!(shard.primary().expect("a primary").leads);
    assert_eq!(leader.leading_zone(), Some((1, "z1".to_owned())), "by the node's name");

    leader.resign(1, None).await.expect("resigns");
    let free = leader.report(4, Placed::default());
    assert!(shard.hear_report(free.clone()));
    assert!(!shard.primary().expect("a primary").leads, "nobody leads");
    let mut late = free.clone();
    late.term = 3;
    assert!(!shard.hear_report(late), "of who decides no more");
    // The next leader is in the log before it is reported.
    let second = led_by(&first, epoch(2, "b:1", REPLID, 100));
    group.receive_state(&second, None);
    assert!(shard.primary().expect("a primary").leads);
    assert!(!leader.hear_report(free), "it decides itself");

    // Opened anew it knows what it knew.
    let (again, _) = open(&groups, &Switches::new(8));
    again.continue_from(&shard);
    assert_eq!(nodes(&again), nodes(&shard));
    let since = Instant::now();
    while again.primary().expect("a primary").leads {
        assert!(since.elapsed() < Duration::from_secs(20), "it is silent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(since.elapsed() > crate::shard::DECIDER_SILENT_AFTER / 2, "{:?}", since.elapsed());
    let silent_ms = again.status().decider_silent_ms;
    assert!(silent_ms >= crate::shard::DECIDER_SILENT_AFTER.as_millis() as u64, "{silent_ms}");
    drop(other);
}
