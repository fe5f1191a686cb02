//! Has the last service that has its disk go on alone: `LOG.CLUSTER FORCE`. What the other two have acknowledged together, and this one has
//! not, is lost.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::forming::refused;
use super::state::{ClusterState, CLUSTER_GROUP};
use super::{lock, Replicas};
use crate::replica::copy::{CopyDisks, CopyEvents, OpenedCopy};
use crate::replica::group::{is_only_member, only_member, Outcome};
use crate::replica::groups::{ClusterError, Groups};
use crate::replica::handle::GroupHandle;
use crate::store::Damage;

/// The word with which whoever asks says that he knows what it means.
const ACCEPTED: &str = "ACCEPT-LOSS";
/// How long the disk may take to store what makes a copy the only one.
const STORED_WITHIN: Duration = Duration::from_secs(30);

impl Replicas {
    /// Has this service, which has to be called `name`, go on without the others. `word` confirms that.
    pub(super) async fn force_alone(&self, name: &str, word: &str) -> Result<(), ClusterError> {
        let _one_at_a_time = self.creating.lock().await;
        let group = self.own_group()?;
        let state = self.state.borrow().clone();
        let state = state
            .ok_or_else(|| refused("this service does not know yet what the cluster's own log says: ask again"))?;
        self.check_may_force(&state, &group.view(), name, word).map_err(refused)?;
        tracing::warn!("this service goes on without the others, as it was told to: what only they have is lost");
        drop(group);
        let this = self.this.upgrade().ok_or_else(|| refused("the service is stopping"))?;
        let forced = tokio::task::spawn_blocking(move || this.force_all(&state)).await;
        let left_out = forced.map_err(|error| refused(error.to_string()))?.map_err(refused)?;
        self.wait_for_leader().await?;
        self.give_up_others().await?;
        match left_out.is_empty() {
            true => Ok(()),
            false => Err(refused(format!("done, but not for all logs: {}", left_out.join("; ")))),
        }
    }

    fn check_may_force(
        &self,
        state: &ClusterState,
        view: &crate::replica::handle::View,
        name: &str,
        word: &str,
    ) -> Result<(), String> {
        if name != self.options.name {
            return Err(format!("this is service {}, not {name}: say it at the one that is left", self.options.name));
        }
        if !word.eq_ignore_ascii_case(ACCEPTED) {
            return Err(format!(
                "what the other two have acknowledged together and this one has not will be lost: say LOG.CLUSTER FORCE {name} {ACCEPTED}"
            ));
        }
        let is_alone = state.services.len() == 1 && state.has_member(self.member);
        if (view.leads_in.is_some() || view.leader.is_some()) && !is_alone {
            return Err("two services of the cluster answer, and nothing is lost: LOG.CLUSTER REPLACE gives the other a successor".into());
        }
        let others = self.services().into_iter().filter(|service| service.member != self.member);
        match others.into_iter().find(|service| service.is_connected) {
            Some(other) => Err(format!(
                "service {} is connected: it has its disk, and the two go on together as soon as it can; see its log",
                other.name
            )),
            None => Ok(()),
        }
    }

    /// Makes this service the only member of all its groups. Returns which it could not, and why. Blocks on I/O.
    fn force_all(&self, state: &ClusterState) -> Result<Vec<String>, String> {
        let _one_at_a_time = lock(&self.changing_copies);
        let own = lock(&self.cluster_group).take();
        if let Some(group) = own {
            self.driver.close(&group);
        }
        self.force_copy(CLUSTER_GROUP)?;
        let opened = self.driver.open(&*self.options.disks, CLUSTER_GROUP).map_err(|error| error.to_string())?;
        let group = opened.ok_or("the copy of the cluster's own log is gone")?;
        group.campaign();
        self.use_own_log(group);
        let mut left_out = Vec::new();
        for (name, record) in &state.shards {
            let open = lock(&self.shards).remove(name).or_else(|| lock(&self.arriving).remove(name));
            let Some(open) = open else {
                left_out.push(format!("shard '{name}': its copy is not open; see the service's log"));
                continue;
            };
            let group_name = record.group(name);
            let listener = lock(&self.listener).clone();
            if let Some(listener) = listener {
                listener.disappeared(name);
            }
            self.driver.close(&open);
            drop(open);
            let forced = self.force_copy(&group_name).and_then(|()| {
                let opened = self.driver.open(&*self.options.disks, &group_name).map_err(|error| error.to_string())?;
                opened.ok_or_else(|| "it is gone".to_owned())
            });
            match forced {
                Ok(group) => {
                    group.campaign();
                    self.note_opened(name, record, group, false);
                }
                Err(reason) => left_out.push(format!("shard '{name}': {reason}")),
            }
        }
        Ok(left_out)
    }

    /// Makes the copy of a group, which is not open, that of the only member.
    fn force_copy(&self, name: &str) -> Result<(), String> {
        let disks = &*self.options.disks;
        let events = Arc::new(Waiting::default());
        let OpenedCopy { disk, found } = open(disks, name, &events)?;
        let persist = only_member(self.member, disk.clone(), &found).map_err(|error| error.to_string());
        let stored = persist.and_then(|persist| {
            let number = persist.number;
            disk.persist(persist);
            events.wait_for(number)
        });
        // The checkpoint is written with this.
        disk.close();
        drop(disk);
        stored?;
        let OpenedCopy { disk, found } = open(disks, name, &Arc::new(Waiting::default()))?;
        disk.close();
        match is_only_member(self.member, &found) {
            true => Ok(()),
            false => Err("it was not stored that this is the only copy: ask again".to_owned()),
        }
    }

    /// Has the cluster's state say that the others are lost.
    async fn give_up_others(&self) -> Result<(), ClusterError> {
        loop {
            let group = self.own_group()?;
            let view = group.view();
            let Some(term) = view.leads_in else {
                self.wait_for_leader().await?;
                tokio::time::sleep(crate::replica::driver::TICK).await;
                continue;
            };
            let state = ClusterState::parse(&view.state).map_err(refused)?;
            let next = state.without_others(self.member);
            if next == state {
                return Ok(());
            }
            let proposed = self.propose_state(&group, term, &view, &next, "the other services are given up").await?;
            if proposed == Outcome::Done {
                return Ok(());
            }
        }
    }
}

fn open(disks: &dyn CopyDisks, name: &str, events: &Arc<Waiting>) -> Result<OpenedCopy, String> {
    let opened = disks.open(name, events.clone()).map_err(|error| error.to_string())?;
    opened.ok_or_else(|| "this service has no copy".to_owned())
}

/// Waits for a disk.
#[derive(Default)]
struct Waiting {
    /// What is persisted, or why nothing is any more.
    state: Mutex<(u64, Option<String>)>,
    changed: Condvar,
}

impl Waiting {
    fn wait_for(&self, number: u64) -> Result<(), String> {
        let waits = |state: &mut (u64, Option<String>)| state.0 < number && state.1.is_none();
        let waited = self.changed.wait_timeout_while(lock(&self.state), STORED_WITHIN, waits);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        match &state.1 {
            Some(reason) => Err(reason.clone()),
            None if state.0 < number => Err("the disk does not answer".to_owned()),
            None => Ok(()),
        }
    }

    fn note(&self, change: impl FnOnce(&mut (u64, Option<String>))) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }
}

impl CopyEvents for Waiting {
    fn persisted(&self, number: u64) {
        self.note(|state| state.0 = state.0.max(number));
    }

    fn failed(&self, reason: &str) {
        self.note(|state| state.1 = Some(reason.to_owned()));
    }

    fn damaged(&self, damage: &Damage) {
        self.note(|state| state.1 = Some(format!("damaged: {damage}")));
    }
}
