//! Changes of the cluster's state, by the service that decides over the cluster.

use std::sync::mpsc::sync_channel;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::state::ClusterState;
use super::{ClusterError, DrivenGroup, Replicas, DECISION_AT_MOST};
use crate::replica::group::Outcome;
use crate::replica::groups::Groups;
use crate::replica::handle::{GroupHandle, Replacement, View};

impl Replicas {
    /// Proposes another state of the cluster in the place of that of `view`: done, or a conflict, with which nothing has happened. `what` says
    /// of it what is not known when nobody answers.
    pub(super) async fn propose_state(
        &self,
        group: &DrivenGroup,
        term: u64,
        view: &View,
        next: &ClusterState,
        what: &str,
    ) -> Result<Outcome, ClusterError> {
        let state = next.encode().map_err(ClusterError::Refused)?;
        let replacement = Replacement { revision: view.revision + 1, epoch: 0, restart_at: None, state };
        let (sender, outcome) = oneshot::channel();
        let done = move |outcome| {
            // Whoever waits may have given up.
            let _ = sender.send(outcome);
        };
        group.replace_state(term, replacement, Box::new(done));
        match timeout(DECISION_AT_MOST, outcome).await {
            Ok(Ok(outcome @ (Outcome::Done | Outcome::Conflict { .. }))) => Ok(outcome),
            Ok(Ok(Outcome::NotLeader)) => Err(self.not_leader(&group.view())),
            Ok(Ok(Outcome::Unknown) | Err(_)) | Err(_) => {
                Err(ClusterError::Refused(format!("not known whether {what}, as too few services answer: ask again")))
            }
        }
    }

    /// Has the cluster's state changed, as often as another change comes first: `change` gives what it is to be, or none if nothing is to be
    /// done. `unknown` says what is not known when nobody answers. Blocks.
    ///
    /// # Errors
    /// This service does not decide over the cluster, `change` refuses, or nobody answers.
    pub(super) fn change_state(
        &self,
        group: &DrivenGroup,
        unknown: &str,
        change: impl Fn(&ClusterState) -> Result<Option<ClusterState>, ClusterError>,
    ) -> Result<(), ClusterError> {
        loop {
            let view = group.view();
            let Some(term) = view.leads_in else { return Err(self.not_leader(&view)) };
            let state = ClusterState::parse(&view.state).map_err(ClusterError::Refused)?;
            let Some(next) = change(&state)? else { return Ok(()) };
            let state = next.encode().map_err(ClusterError::Refused)?;
            let replacement = Replacement { revision: view.revision + 1, epoch: 0, restart_at: None, state };
            let (sender, outcome) = sync_channel(1);
            let done = move |outcome| {
                // Whoever waits may have given up.
                let _ = sender.send(outcome);
            };
            group.replace_state(term, replacement, Box::new(done));
            match outcome.recv_timeout(DECISION_AT_MOST) {
                Ok(Outcome::Done) => return Ok(()),
                // Another change came first.
                Ok(Outcome::Conflict { .. }) => std::thread::yield_now(),
                Ok(Outcome::NotLeader) => return Err(self.not_leader(&group.view())),
                Ok(Outcome::Unknown) | Err(_) => return Err(ClusterError::Refused(unknown.to_owned())),
            }
        }
    }

    pub(super) fn not_leader(&self, view: &View) -> ClusterError {
        let groups: &dyn Groups = self;
        ClusterError::NotLeader { address: view.leader.and_then(|leader| groups.address_of(leader)) }
    }
}
