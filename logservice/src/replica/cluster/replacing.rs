//! Gives a service that was lost a successor: `LOG.CLUSTER REPLACE`.
//!
//! The successor is a service that was started with `--join` on an empty directory. The service that decides over the cluster asks it to take
//! the place, and then proposes the state that says so. From then on each log gets its members changed (`reconciling.rs`). If this is cut off,
//! it is repeated: a successor that was asked does so again without a change, and has no part in anything until the state names it.
//!
//! While too few of a log's members would stay, a further replacement is refused: the log would never come to the new ones. As to who the
//! members are, this service goes by its own copies, which tell it late at most. One that has stopped tells nothing, and holds nothing up: this
//! service may be the one that is to be replaced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::eraftpb::ConfState;

use super::forming::{refused, Reply, Request};
use super::identity::{ClusterRecord, Identity, MemberRecord};
use super::state::{ClusterState, CLUSTER_GROUP};
use super::{lock, Replicas};
use crate::replica::driver::{DrivenGroup, TICK};
use crate::replica::group::Outcome;
use crate::replica::group_name::shard_of;
use crate::replica::groups::ClusterError;
use crate::replica::handle::GroupHandle;

/// How long a replacement waits for the one before. What members do that are there takes less.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(1);

/// A service that takes the place of another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    /// The member whose place it is.
    pub old: u64,
    /// Who takes it.
    pub new: MemberRecord,
}

impl Replicas {
    /// Puts the service `new` in the place of `old`; each is told by its name or its id in hexadecimal. Repeating that changes nothing.
    pub(super) async fn replace_service(&self, old: &str, new: &str) -> Result<(), ClusterError> {
        let group = self.own_group()?;
        let _one_at_a_time = self.creating.lock().await;
        loop {
            let view = group.view();
            let Some(term) = view.leads_in else { return Err(self.not_leader(&view)) };
            let state = ClusterState::parse(&view.state).map_err(refused)?;
            let known = self.options.peering.known();
            let offered: Vec<_> = known
                .into_iter()
                .filter(|peer| !state.has_member(peer.member))
                .map(|peer| {
                    let (member, name, zone, address) = (peer.member, peer.name, peer.zone, peer.peer_address);
                    (MemberRecord { member, name, zone, address }, peer.joins)
                })
                .collect();
            let Some(Replacement { old, new }) = plan(&state, &offered, old, new).map_err(refused)? else {
                return Ok(());
            };
            self.check_may_go(&state, old).await?;
            let next = state.with_replaced(old, new.clone());
            self.wait_until_enough_stay(&state, &next).await?;
            if let Err(error) = self.have_admitted(&next, &new).await {
                self.tell_peers();
                return Err(error);
            }
            match self.propose_state(&group, term, &view, &next, "the service is replaced").await? {
                Outcome::Done => {
                    tracing::info!(
                        "service {} ({:016x}) has the place of {old:016x} from now on",
                        new.name,
                        new.member
                    );
                    return Ok(());
                }
                // Another change came first.
                _ => continue,
            }
        }
    }

    /// Waits a moment until most of those who keep each log are to keep it on: the others get it from them.
    ///
    /// # Errors
    /// They are too few, as a replacement is under way.
    async fn wait_until_enough_stay(&self, state: &ClusterState, next: &ClusterState) -> Result<(), ClusterError> {
        let until = Instant::now() + FOLLOWED_WITHIN;
        loop {
            let groups = self.all_groups();
            let statuses = tokio::task::spawn_blocking(move || {
                let members = |group: Arc<DrivenGroup>| group.status().map(|status| status.members);
                groups.into_iter().filter_map(|(name, group)| Some((name, members(group)?))).collect::<Vec<_>>()
            });
            let statuses = statuses.await.map_err(|error| refused(error.to_string()))?;
            let Some((group, members)) = statuses.iter().find(|(_, members)| !do_enough_stay(members, next)) else {
                return Ok(());
            };
            if Instant::now() >= until {
                return Err(refused(self.too_few_stay(state, group, members)));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn too_few_stay(&self, state: &ClusterState, group: &str, members: &ConfState) -> String {
        let known = || state.services.iter().chain(state.retired.iter().rev());
        let name = |member: &u64| match known().find(|service| service.member == *member) {
            Some(service) => format!("{} ({member:016x})", service.name),
            None => format!("{member:016x}"),
        };
        let voters: BTreeSet<u64> = members.voters.iter().chain(&members.voters_outgoing).copied().collect();
        let keepers: Vec<String> = voters.iter().map(name).collect();
        let log = match group {
            CLUSTER_GROUP => "the cluster's own log".to_owned(),
            group => format!("the log of shard '{}'", shard_of(group)),
        };
        format!(
            "{log} is kept by {}, and too few of them would stay: wait until LOG.CLUSTER STATUS shows whole=1 for each log, at the service \
             that decides over it, and ask again then",
            keepers.join(", ")
        )
    }

    /// Refuses while the service to be replaced has shards that no other service has. One that is lost has none any more.
    pub(super) async fn check_may_go(&self, state: &ClusterState, old: u64) -> Result<(), ClusterError> {
        let place = state.services.iter().find(|service| service.member == old);
        let Some(place) = place.filter(|place| place.member != self.member) else { return Ok(()) };
        if !self.options.peering.is_connected(old) {
            return Ok(());
        }
        match self.ask(&place.name, &Request::Identify).await {
            Ok(Reply::Identity { has_shards: Some(true), record, .. }) if record.member == old => {
                Err(refused(format!(
                    "service {} has shards that no other service has: wait until LOG.CLUSTER STATUS shows whole=1 for all of them",
                    place.name
                )))
            }
            _ => Ok(()),
        }
    }

    /// Has a service take its place, before anybody counts on it.
    async fn have_admitted(&self, next: &ClusterState, new: &MemberRecord) -> Result<(), ClusterError> {
        let mut peers = self.peers();
        peers.retain(|(name, _)| *name != new.name);
        peers.push((new.name.clone(), new.address.clone()));
        self.options.peering.set_peers(&peers).map_err(refused)?;
        let members = next.services.clone();
        let record = ClusterRecord {
            id: next.cluster,
            initiator: self.member,
            members,
            is_formed: false,
            is_older: true,
            has_shards: false,
        };
        match self.ask(&new.name, &Request::Admit(record)).await? {
            Reply::Joined => Ok(()),
            Reply::Refused(reason) => Err(refused(reason)),
            _ => Err(refused(format!("service {} did not say whether it takes the place", new.name))),
        }
    }

    /// Takes a place in a cluster, or does so again. Blocks on I/O.
    pub(super) fn admit(&self, record: ClusterRecord) -> Result<(), String> {
        let mut identity = lock(&self.identity);
        let own = &self.options.name;
        if !identity.is_in(&record.members) || !record.is_older {
            return Err(format!("service {own} was asked to take a place that is another one's"));
        }
        match &identity.cluster {
            Some(cluster) if cluster.id == record.id && cluster.is_older => {}
            Some(_) => return Err(format!("service {own} is of a cluster already: give it an empty --dir")),
            None if !self.options.joins => {
                return Err(format!("service {own} was started without --join, and takes no place without"));
            }
            None => {
                let next = Identity { cluster: Some(record), ..identity.clone() };
                next.store(&self.options.directory).map_err(|error| error.to_string())?;
                *identity = next;
            }
        }
        self.finish_joining(&mut identity)
    }
}

/// Whether most of the members of a group stay if the services of `next` are to keep its log: new ones need somebody to get it from who goes
/// on to keep it. Of one that is to have its second service replaced while the first is not there yet, they do not.
fn do_enough_stay(members: &ConfState, next: &ClusterState) -> bool {
    let leaving = |voters: &[u64]| voters.iter().filter(|voter| !next.has_member(**voter)).count();
    [&members.voters, &members.voters_outgoing].into_iter().all(|voters| 2 * leaving(voters) <= voters.len())
}

/// Who takes whose place; none if that is so already. `offered` are the services that are known here and have no place, and whether each was
/// started to be given one.
fn plan(
    state: &ClusterState,
    offered: &[(MemberRecord, bool)],
    old: &str,
    new: &str,
) -> Result<Option<Replacement>, String> {
    let is = |text: &str, record: &MemberRecord| text == record.name || text == format!("{:016x}", record.member);
    let place = state.services.iter().find(|service| is(old, service));
    let given_up = state.retired.iter().rev().find(|service| is(old, service));
    let Some((new, joins)) = offered.iter().find(|(service, _)| is(new, service)) else {
        return match state.services.iter().find(|service| is(new, service)) {
            // By one name for both it cannot be told whether it is meant again.
            Some(_) if given_up.is_some() && place.is_none() => Ok(None),
            Some(has) => Err(format!(
                "service {} ({:016x}) has a place already, and no other one of that name is connected here",
                has.name, has.member
            )),
            None => Err(format!(
                "no service {new} is connected here: start it with an empty --dir, --join, and --peers that name itself and the services of \
                 the cluster"
            )),
        };
    };
    let is_short = state.services.len() < super::SERVICES;
    let unknown = || format!("no service of the cluster is called '{old}': LOG.CLUSTER STATUS lists them");
    let old = place.or_else(|| given_up.filter(|_| is_short)).ok_or_else(unknown)?.member;
    if state.retired.iter().any(|service| service.member == new.member) {
        return Err(format!("service {} was replaced before: give it an empty --dir", new.name));
    }
    if !joins {
        return Err(format!("service {} was started without --join, and takes no place without", new.name));
    }
    let names: BTreeSet<&str> =
        state.services.iter().filter(|service| service.member != old).map(|service| &*service.name).collect();
    if names.contains(&*new.name) {
        return Err(format!("another service of the cluster is named {}: give each a --name of its own", new.name));
    }
    Ok(Some(Replacement { old, new: new.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(member: u64, name: &str) -> MemberRecord {
        MemberRecord { member, name: name.to_owned(), zone: String::new(), address: format!("{name}:1") }
    }

    fn state() -> ClusterState {
        ClusterState::new(9, vec![service(1, "a"), service(2, "b"), service(3, "c")])
    }

    #[test]
    fn a_place_is_given_to_another_service_of_any_name() {
        let offered = [(service(4, "c"), true), (service(5, "d"), true), (service(6, "e"), false)];
        let planned =
            |old: &str, new: &str| plan(&state(), &offered, old, new).map(|planned| planned.expect("a change"));
        assert_eq!(planned("c", "c"), Ok(Replacement { old: 3, new: service(4, "c") }));
        assert_eq!(planned("0000000000000003", "0000000000000005"), Ok(Replacement { old: 3, new: service(5, "d") }));
        let error = |old: &str, new: &str| plan(&state(), &offered, old, new).expect_err("refused");
        assert!(error("b", "c").contains("another service of the cluster is named c"));
        assert!(error("x", "d").contains("no service of the cluster is called 'x'"));
        assert!(error("c", "e").contains("without --join"));
        assert!(error("c", "x").contains("no service x is connected here"));
        assert!(error("c", "b").contains("has a place already"));
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        let next = state().with_replaced(3, service(4, "c"));
        assert_eq!(plan(&next, &[], "0000000000000003", "0000000000000004"), Ok(None));
        for state in [&state(), &next] {
            let error =
                plan(state, &[], "c", "c").expect_err("it may be lost again, and its successor not be here yet");
            assert!(error.contains("no other one of that name"), "{error}");
        }
        // The one that was replaced is no successor.
        let error = plan(&next, &[(service(3, "z"), true)], "b", "z").expect_err("refused");
        assert!(error.contains("was replaced before"), "{error}");
    }

    #[test]
    fn most_members_of_a_log_stay() {
        let voters = |voters: &[u64]| ConfState { voters: voters.to_vec(), ..ConfState::default() };
        let first = state().with_replaced(3, service(4, "c"));
        let all = voters(&[1, 2, 3]);
        assert!(do_enough_stay(&all, &first), "one is replaced");
        let second = first.with_replaced(2, service(5, "b"));
        assert!(!do_enough_stay(&all, &second), "the first has no place in this log yet");
        assert!(do_enough_stay(&voters(&[1, 2, 4]), &second));
        let joint = ConfState { voters_outgoing: vec![1, 2, 3], ..voters(&[1, 2, 4]) };
        assert!(!do_enough_stay(&joint, &second), "the change is not over");
        assert!(
            do_enough_stay(&all, &first.with_replaced(4, service(6, "c"))),
            "the successor was lost before it had the log"
        );
        let alone = state().without_others(1);
        assert!(do_enough_stay(&voters(&[1]), &alone.with_replaced(2, service(5, "b"))));
        assert!(!do_enough_stay(&voters(&[1]), &alone.with_replaced(1, service(5, "b"))), "nobody else has it");
    }

    #[test]
    fn a_place_that_was_given_up_is_taken() {
        let mut short = state();
        short.retired = short.services.split_off(1);
        let planned = plan(&short, &[(service(4, "d"), true)], "b", "d").expect("planned").expect("a change");
        let next = short.with_replaced(planned.old, planned.new);
        assert_eq!(next.services, [service(1, "a"), service(4, "d")]);
        assert_eq!(next.retired, [service(2, "b"), service(3, "c")]);
    }
}
