//! A service that comes to be a member of a log's group stores the snapshots that the log's state names, before it votes: the log below a
//! snapshot is gone, so who has the log alone has not all. A snapshot that the state names later is at two services when it does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{lock, Replicas};
use crate::replica::driver::DrivenGroup;
use crate::replica::group::GroupStatus;
use crate::replica::groups::Groups;
use crate::replica::handle::GroupHandle;

/// How long after a service could not store the snapshots it is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The services that come to be members, by group and member.
#[derive(Default)]
pub(super) struct Holdings(BTreeMap<(String, u64), Holding>);

struct Holding {
    /// The term of the group in which the service was asked. The state may be another in a later one.
    term: u64,
    state: State,
    /// Why it could not store them, as that was told.
    told: String,
}

enum State {
    Underway(JoinHandle<Result<(), String>>),
    Stored,
    NotBefore(Instant),
}

impl Holdings {
    /// Whether the `wanted` services that come to be members of a group, over which this service decides in `term`, have stored the snapshots.
    /// Those that have not are asked to.
    pub async fn are_stored(
        &mut self,
        replicas: &Replicas,
        group: &DrivenGroup,
        (term, status): (u64, &GroupStatus),
        wanted: &BTreeSet<u64>,
    ) -> bool {
        let name = group.group();
        let learners = || status.members.learners.iter().filter(|learner| wanted.contains(learner));
        self.0
            .retain(|(of, member), holding| of != name || holding.term == term && learners().any(|new| new == member));
        let mut are_stored = true;
        for &member in learners() {
            let holding = self.0.entry((name.to_owned(), member)).or_insert_with(|| Holding::new(term));
            holding.look(replicas, group, member).await;
            are_stored &= matches!(holding.state, State::Stored);
        }
        are_stored
    }
}

impl Holding {
    fn new(term: u64) -> Self {
        Holding { term, state: State::NotBefore(Instant::now()), told: String::new() }
    }

    async fn look(&mut self, replicas: &Replicas, group: &DrivenGroup, member: u64) {
        let reason = match &mut self.state {
            State::Underway(underway) if underway.is_finished() => match underway.await {
                Ok(Ok(())) => return self.state = State::Stored,
                Ok(Err(reason)) => reason,
                Err(error) => format!("it did not finish: {error}"),
            },
            State::NotBefore(moment) if Instant::now() >= *moment => match replicas.have_held(group, member) {
                Some(underway) => return self.state = State::Underway(underway),
                None => "it is not connected".to_owned(),
            },
            State::Underway(_) | State::Stored | State::NotBefore(_) => return,
        };
        self.state = State::NotBefore(Instant::now() + AGAIN_AFTER);
        // It is tried again and again, and said once.
        if self.told != reason {
            tracing::warn!(
                "'{}': service {member:016x} comes to keep this log, and has not stored its snapshots yet: {reason}",
                group.group()
            );
            self.told = reason;
        }
    }
}

impl Replicas {
    /// Has a member store what the state of a group's log names besides; none if it is not connected, or this service is starting.
    fn have_held(&self, group: &DrivenGroup, member: u64) -> Option<JoinHandle<Result<(), String>>> {
        let listener = lock(&self.listener).clone()?;
        let mut services = self.services().into_iter();
        let by = services.find(|service| service.member == member && service.is_connected)?.name;
        let shard = group.name().to_owned();
        Some(tokio::spawn(async move { listener.have_held(&shard, &by).await }))
    }
}
