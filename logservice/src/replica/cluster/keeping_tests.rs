//! Copies that are dropped, damaged or full, at three services in one process.

use bytes::Bytes;

use super::tests::{first_state, until, Cluster};
use super::*;
use crate::replica::driver::FailureKind;
use crate::replica::groups::Groups;
use crate::store::Append;

fn append(offset: u64, payload: &'static [u8]) -> Append {
    Append { epoch: 0, offset, payload: Bytes::from_static(payload) }
}

/// A cluster with the shard `s1`, at all services. Returns who decides over it.
async fn with_shard() -> (Cluster, usize) {
    let cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let leader = cluster.leader().await;
    cluster.service(leader).create("s1", first_state("s1")).await.expect("made");
    for node in 0..3 {
        until("it is at all services", || cluster.service(node).group("s1").is_some()).await;
    }
    let decider = cluster.decider_of("s1").await;
    (cluster, decider)
}

impl Cluster {
    fn driven(&self, node: usize, shard: &str) -> Option<Arc<DrivenGroup>> {
        lock(&self.service(node).shards).get(shard).cloned()
    }

    /// Who decides over a shard.
    async fn decider_of(&self, shard: &str) -> usize {
        let running = || (0..3).filter(|&node| self.services[node].is_some());
        let decides = |node: &usize| self.driven(*node, shard).is_some_and(|group| group.view().leads_in.is_some());
        until("a service decides", || running().any(|node| decides(&node))).await;
        running().find(decides).expect("one did a moment ago")
    }

    /// Appends at whoever decides, and waits until that is committed at all that run.
    async fn append_at_all(&self, shard: &str, offset: u64, payload: &'static [u8]) {
        let decider = self.decider_of(shard).await;
        let group = self.driven(decider, shard).expect("open");
        let term = group.view().leads_in.expect("it decides");
        group.append(term, append(offset, payload)).expect("taken");
        let end = offset + payload.len() as u64;
        for node in (0..3).filter(|&node| self.services[node].is_some()) {
            until("it is committed", || self.driven(node, shard).is_some_and(|group| group.view().end >= end)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_shard_is_gone_everywhere_and_one_of_its_name_never_meets_its_copies() {
    let (mut cluster, decider) = with_shard().await;
    cluster.append_at_all("s1", 0, b"old").await;
    let text = match cluster.service(decider).drop_shard("s1", "another").await.expect_err("refused") {
        ClusterError::Refused(text) => text,
        error => panic!("{error:?}"),
    };
    assert!(text.contains("not the id of the log"), "{text}");
    let away = (cluster.leader().await + 1) % 3;
    cluster.kill(away).await;
    let leader = cluster.leader().await;
    let other = (0..3).find(|node| ![leader, away].contains(node)).expect("three services");
    // At the service that does not decide over the cluster: it asks the one that does.
    cluster.service(other).drop_shard("s1", "id").await.expect("dropped");
    cluster.service(other).drop_shard("s1", "id").await.expect("it is gone already");
    for node in [leader, other] {
        until("the copy is gone", || cluster.machines[node].disks.list().expect("listed") == [""]).await;
        assert!(cluster.service(node).group("s1").is_none());
        until("it is forgotten", || cluster.service(node).identity().copies_made.is_empty()).await;
    }
    let leader = cluster.leader().await;
    cluster.service(leader).create("s1", first_state("s1")).await.expect("made");
    cluster.append_at_all("s1", 0, b"new bytes").await;
    cluster.start(away);
    let is_new = || cluster.driven(away, "s1").is_some_and(|group| group.group() == "s1#1");
    until("the service that was away has the new one", is_new).await;
    until("and what is in it", || cluster.driven(away, "s1").is_some_and(|group| group.view().end == 9)).await;
    assert_eq!(cluster.driven(away, "s1").expect("open").name(), "s1");
    until("its old copy is gone", || cluster.machines[away].disks.list().expect("listed") == ["", "s1#1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_from_before_a_drop_makes_no_copy_of_what_was_dropped() {
    let (cluster, _) = with_shard().await;
    let service = cluster.service(0);
    let before = service.state.borrow().clone();
    service.drop_shard("s1", "id").await.expect("dropped");
    until("it is forgotten", || service.identity().copies_made.is_empty()).await;
    // As after a crash, until somebody decides over the cluster.
    service.state.send_replace(before);
    service.open_shards();
    assert!(service.group("s1").is_none());
    assert_eq!(cluster.machines[0].disks.list().expect("listed"), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_fetched_anew_and_counted() {
    let (cluster, decider) = with_shard().await;
    cluster.append_at_all("s1", 0, b"what was acknowledged").await;
    let other = (decider + 1) % 3;
    let group = cluster.driven(other, "s1").expect("open");
    group.condemn(FailureKind::Damaged, "damaged: for a test".to_owned());
    let is_anew =
        || cluster.driven(other, "s1").is_some_and(|now| now.usage().repairs == 1 && now.view().failed.is_none());
    until("it is fetched anew", is_anew).await;
    until("it is whole", || cluster.driven(other, "s1").is_some_and(|now| now.view().end == 21)).await;
    let status = cluster.driven(other, "s1").and_then(|now| now.status()).expect("driven");
    assert_eq!(status.lost_in, None);
    assert_eq!(cluster.machines[other].disks.entries_of("s1"), {
        let decider = cluster.decider_of("s1").await;
        cluster.machines[decider].disks.entries_of("s1")
    });
    cluster.append_at_all("s1", 21, b" and more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_of_the_service_that_decides_is_fetched_from_the_next() {
    let (cluster, decider) = with_shard().await;
    cluster.append_at_all("s1", 0, b"bytes").await;
    let group = cluster.driven(decider, "s1").expect("open");
    group.condemn(FailureKind::Damaged, "damaged: for a test".to_owned());
    let is_anew =
        || cluster.driven(decider, "s1").is_some_and(|now| now.usage().repairs == 1 && now.view().failed.is_none());
    until("it is fetched anew", is_anew).await;
    cluster.append_at_all("s1", 5, b" and more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_stays_while_nobody_else_decides() {
    let (mut cluster, decider) = with_shard().await;
    cluster.append_at_all("s1", 0, b"bytes").await;
    let (other, third) = ((decider + 1) % 3, (decider + 2) % 3);
    cluster.kill(third).await;
    cluster.kill(decider).await;
    until("what the others have told counts no more", || cluster.service(other).reports.of("s1").is_empty()).await;
    let group = cluster.driven(other, "s1").expect("open");
    group.condemn(FailureKind::Damaged, "damaged: for a test".to_owned());
    until("it has stopped", || group.is_stopped()).await;
    assert_eq!(cluster.service(other).look_after().copies.len(), 1, "but that of the cluster's own log");
    assert!(!cluster.machines[other].disks.entries_of("s1").is_empty(), "it is the best that there is");
    cluster.start(third);
    cluster.start(decider);
    until("it is fetched anew", || {
        cluster.driven(other, "s1").is_some_and(|now| now.usage().repairs == 1 && now.view().end == 5)
    })
    .await;
}

/// The copy of the cluster's own log at a service, if it is open.
fn own_log(cluster: &Cluster, node: usize) -> Option<Arc<DrivenGroup>> {
    lock(&cluster.service(node).cluster_group).clone()
}

/// How often a service has fetched its copy of the cluster's own log anew.
fn repairs(cluster: &Cluster, node: usize) -> u64 {
    lock(&cluster.service(node).ailing).repairs.get("").copied().unwrap_or(0)
}

/// Makes a shard at whoever decides over the cluster, and waits until it is at all services.
async fn make_at_all(cluster: &Cluster, shard: &str) {
    let made = |result: Result<(), ClusterError>| match result {
        Ok(()) => true,
        Err(ClusterError::NotLeader { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    while !made(cluster.service(cluster.leader().await).create(shard, first_state(shard)).await) {}
    for node in 0..3 {
        until("it is at all services", || cluster.service(node).group(shard).is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_of_the_clusters_own_log_is_fetched_anew_wherever_it_is() {
    let (cluster, _) = with_shard().await;
    let leader = cluster.leader().await;
    for (count, node) in [leader, (leader + 1) % 3].into_iter().enumerate() {
        own_log(&cluster, node).expect("open").condemn(FailureKind::Damaged, "damaged: for a test".to_owned());
        let is_anew =
            || repairs(&cluster, node) == 1 && own_log(&cluster, node).is_some_and(|now| now.view().failed.is_none());
        until("it is fetched anew", is_anew).await;
        make_at_all(&cluster, &format!("made{count}")).await;
    }
    let own = |node: usize| cluster.machines[node].disks.entries_of("");
    until("all have the same", || own(0) == own(1) && own(1) == own(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_finds_its_copy_of_the_clusters_own_log_damaged_starts_and_serves_when_it_is_fetched() {
    let (mut cluster, _) = with_shard().await;
    let node = (cluster.leader().await + 1) % 3;
    cluster.kill(node).await;
    cluster.machines[node].disks.damage("");
    make_at_all_but(&cluster, node, "s2").await;
    let others = [(node + 1) % 3, (node + 2) % 3];
    // While one of the others is away, it is the best that there is here.
    cluster.kill(others[0]).await;
    cluster.start(node);
    cluster.service(node).look_after();
    assert_eq!(repairs(&cluster, node), 0);
    assert!(cluster.service(node).names().is_empty(), "it knows of no shard");
    let text = match cluster.service(node).create("s3", first_state("s3")).await.expect_err("refused") {
        ClusterError::Refused(text) => text,
        error => panic!("{error:?}"),
    };
    assert!(text.contains("is damaged") && text.contains("fetched anew"), "{text}");
    cluster.start(others[0]);
    for shard in ["s1", "s2"] {
        until("it serves again", || cluster.service(node).group(shard).is_some()).await;
    }
    assert_eq!(repairs(&cluster, node), 1);
    make_at_all(&cluster, "s3").await;
}

async fn make_at_all_but(cluster: &Cluster, away: usize, shard: &str) {
    cluster.service(cluster.leader().await).create(shard, first_state(shard)).await.expect("made");
    for node in (0..3).filter(|&node| node != away) {
        until("it is at the others", || cluster.service(node).group(shard).is_some()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_clusters_own_log_that_was_full_goes_on_by_itself() {
    let (cluster, _) = with_shard().await;
    let node = (cluster.leader().await + 1) % 3;
    cluster.machines[node].disks.fill(true);
    make_at_all_but(&cluster, node, "s2").await;
    until("it waits for space", || own_log(&cluster, node).is_some_and(|now| now.awaits_room())).await;
    make_at_all_but(&cluster, node, "s3").await;
    assert!(cluster.service(node).group("s3").is_none());
    cluster.machines[node].disks.fill(false);
    for shard in ["s2", "s3"] {
        until("it has heard of it", || cluster.service(node).group(shard).is_some()).await;
    }
    make_at_all(&cluster, "s4").await;
}
