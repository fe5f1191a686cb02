//! Services are replaced, and one goes on alone.

use bytes::Bytes;

use super::state::CLUSTER_GROUP;
use super::tests::{first_state, refusal, until, Cluster, Machine};
use super::*;
use crate::replica::group::are_members;
use crate::replica::groups::Groups;
use crate::store::Append;

const SHARD: &str = "s1";

impl Cluster {
    /// The service that decides over the shard.
    async fn decider(&self) -> usize {
        let leads = |node: &usize| {
            self.is_up(*node) && self.service(*node).group(SHARD).is_some_and(|group| group.view().leads_in.is_some())
        };
        until("a service decides over the shard", || (0..3).any(|node| leads(&node))).await;
        (0..3).find(leads).expect("one did a moment ago")
    }

    /// Appends to the shard's log, and waits until that is acknowledged. The end.
    async fn append(&self, offset: u64, bytes: &'static [u8]) -> u64 {
        let end = offset + bytes.len() as u64;
        loop {
            let group = self.service(self.decider().await).group(SHARD).expect("there");
            let Some(term) = group.view().leads_in else { continue };
            if group.view().end < end {
                let append = Append { epoch: 0, offset, payload: Bytes::from_static(bytes) };
                group.append(term, append).expect("taken");
            }
            let done = || group.view().end >= end || group.view().leads_in != Some(term);
            until("it is acknowledged", done).await;
            if group.view().end >= end {
                return end;
            }
        }
    }

    /// Whether all services that are up have whole copies, and the members of both groups are the cluster's services.
    fn is_whole(&self, end: u64) -> bool {
        (0..3).filter(|&node| self.is_up(node)).all(|node| {
            let service = self.service(node);
            let wanted: BTreeSet<u64> = service.services().iter().map(|service| service.member).collect();
            let is_whole = |group: Option<Arc<dyn GroupHandle>>| {
                group.and_then(|group| group.status()).is_some_and(|status| are_members(&status.members, &wanted))
            };
            wanted.len() == 3
                && wanted.contains(&service.member())
                && is_whole(service.cluster_group())
                && is_whole(service.group(SHARD))
                && service.group(SHARD).is_some_and(|group| group.view().end == end)
        })
    }

    /// The service and its disk are lost, and another one is started in its place.
    async fn lose_and_start_another(&mut self, node: usize) {
        self.kill(node).await;
        self.machines[node] = Machine::new(true);
        self.start(node);
    }

    /// Says it at whoever decides over the cluster, until it is done.
    async fn replace(&self, name: &str) {
        for _ in 0..100 {
            match self.service(self.leader().await).replace(name, name).await {
                Ok(()) => return,
                Err(ClusterError::NotLeader { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nobody decides");
    }
}

async fn cluster_with_a_shard() -> Cluster {
    let cluster = Cluster::new();
    cluster.service(0).init().await.expect("made");
    let leader = cluster.leader().await;
    cluster.service(leader).create(SHARD, first_state(SHARD)).await.expect("made");
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_is_replaced_after_the_other_and_nothing_is_lost() {
    let mut cluster = cluster_with_a_shard().await;
    let mut end = cluster.append(0, b"hello").await;
    for node in 0..3 {
        let old = cluster.service(node).member();
        cluster.lose_and_start_another(node).await;
        let new = cluster.service(node).member();
        assert_ne!(new, old);
        cluster.replace(["a", "b", "c"][node]).await;
        let (old, new) = (format!("{old:016x}"), format!("{new:016x}"));
        let leader = cluster.service(cluster.leader().await);
        assert!(!matches!(leader.replace(&old, &new).await, Err(ClusterError::Refused(_))), "it is so already");
        end = cluster.append(end, b", and more").await;
        until("all copies are whole", || cluster.is_whole(end)).await;
        let groups: &dyn Groups = &**cluster.service((node + 1) % 3);
        let ids: Vec<_> = groups.services().iter().map(|service| format!("{:016x}", service.member)).collect();
        assert!(ids.contains(&new) && !ids.contains(&old), "{ids:?}");
    }
    // None of the first three disks is left: each copy has come from others.
    for node in 0..3 {
        let group = cluster.service(node).group(SHARD).expect("there");
        let mut reader = group.reader(0).expect("a reader");
        let mut read = Vec::new();
        while reader.offset() < end {
            read.extend_from_slice(&reader.read(end, usize::MAX).expect("bytes"));
        }
        assert_eq!(read, b"hello, and more, and more, and more");
    }
    // It starts again as what it is.
    cluster.kill(1).await;
    cluster.start(1);
    until("all copies are whole", || cluster.is_whole(end)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_not_started_to_join_takes_no_place() {
    let mut cluster = cluster_with_a_shard().await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let name = ["a", "b", "c"][other];
    let text = refusal(cluster.service(leader).replace(name, name).await);
    assert!(text.contains("has a place already"), "{text}");
    cluster.kill(other).await;
    cluster.machines[other] = Machine::new(false);
    cluster.start(other);
    let leader = cluster.leader().await;
    let text = refusal(cluster.service(leader).replace(name, name).await);
    assert!(text.contains("without --join"), "{text}");
    assert_eq!(cluster.service(other).cluster(), None);
    let record = ClusterRecord {
        id: 5,
        initiator: 1,
        members: vec![cluster.service(other).own_record()],
        is_formed: false,
        is_older: true,
        has_shards: false,
    };
    let text = cluster.service(other).admit(record).expect_err("refused");
    assert!(text.contains("without --join"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_is_handed_to_whom_it_is_to_be_handed() {
    let cluster = cluster_with_a_shard().await;
    let end = cluster.append(0, b"hello").await;
    until("all copies are whole", || cluster.is_whole(end)).await;
    let decider = cluster.decider().await;
    let other = (decider + 1) % 3;
    let service = cluster.service(decider);
    service.move_decision(SHARD, ["a", "b", "c"][other]).await.expect("handed over");
    assert_eq!(cluster.decider().await, other);
    let text = refusal(cluster.service(other).move_decision(SHARD, "nobody").await);
    assert!(text.contains("no service of the cluster"), "{text}");
    let text = refusal(cluster.service(other).move_decision("s2", "a").await);
    assert!(text.contains("no shard"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_service_goes_on_alone_when_it_is_told_to_and_gets_others() {
    let mut cluster = cluster_with_a_shard().await;
    let mut end = cluster.append(0, b"hello").await;
    until("all copies are whole", || cluster.is_whole(end)).await;
    let text = refusal(cluster.service(0).force("a", "ACCEPT-LOSS").await);
    assert!(text.contains("nothing is lost"), "{text}");
    cluster.kill(1).await;
    cluster.kill(2).await;
    let group = |cluster: &Cluster| cluster.service(0).cluster_group().expect("there");
    let is_alone = || group(&cluster).view().leads_in.is_none() && group(&cluster).view().leader.is_none();
    until("it has noticed that it is alone", is_alone).await;
    let text = refusal(cluster.service(0).force("a", "please").await);
    assert!(text.contains("will be lost") && text.contains("ACCEPT-LOSS"), "{text}");
    let text = refusal(cluster.service(0).force("b", "ACCEPT-LOSS").await);
    assert!(text.contains("this is service a"), "{text}");
    cluster.service(0).force("a", "ACCEPT-LOSS").await.expect("it goes on");
    end = cluster.append(end, b" alone").await;
    let names: Vec<_> = cluster.service(0).services().into_iter().map(|service| service.name).collect();
    assert_eq!(names, ["a"]);
    cluster.kill(0).await;
    cluster.start(0);
    assert_eq!(cluster.append(end, b"!").await, end + 1);
    end += 1;
    for node in [1, 2] {
        cluster.machines[node] = Machine::new(true);
        cluster.start(node);
        cluster.replace(["a", "b", "c"][node]).await;
    }
    until("all copies are whole", || cluster.is_whole(end)).await;
    assert!(cluster.service(0).cluster_group().is_some_and(|group| group.name() == CLUSTER_GROUP));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_replacement_is_refused_while_the_first_has_no_place_in_all_logs() {
    let mut cluster = cluster_with_a_shard().await;
    let end = cluster.append(0, b"hello").await;
    until("all copies are whole", || cluster.is_whole(end)).await;
    let leader = cluster.leader().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let name = |node: usize| ["a", "b", "c"][node];
    cluster.lose_and_start_another(first).await;
    // It never has any log on its disk until that answers.
    cluster.machines[first].disks.freeze();
    cluster.replace(name(first)).await;
    let machine = Machine::new(true);
    let guest = cluster.start_guest(&machine, "d");
    let ask = async || loop {
        match cluster.service(cluster.leader().await).replace(name(second), "d").await {
            Err(ClusterError::NotLeader { .. }) => {}
            answer => return answer,
        }
    };
    let text = refusal(ask().await);
    assert!(text.contains("is kept by") && text.contains("whole=1"), "{text}");
    assert_eq!(guest.cluster(), None, "nothing was asked of it");
    cluster.machines[first].disks.thaw();
    until("the first is there", || cluster.is_whole(end)).await;
    ask().await.expect("it is its turn");
    assert!(guest.cluster().is_some());
    guest.stop();
}
