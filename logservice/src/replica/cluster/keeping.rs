//! Looks after the copies once a second: one that was full is opened again, one that is damaged is fetched anew from the other services, and
//! services tell each other of theirs (`reports.rs`).
//!
//! A damaged copy is given up only when both others use theirs and one of them decides over its log: until then it is the best that there is
//! here, and stays on the disk as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{interval, timeout, MissedTickBehavior};

use super::forming::Request;
use super::reports::{judge, no_space, CopyReport, Report};
use super::state::ShardRecord;
use super::{lock, DrivenGroup, GroupHandle, Replicas, SERVICES};
use crate::replica::driver::FailureKind;

/// How often copies are looked after.
const EVERY: Duration = Duration::from_secs(1);
/// Copies that are told of in one request: well below what a request may have.
const COPIES_AT_ONCE: usize = 1000;
/// How long telling another service takes at most.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

/// What is known of copies that are not as they should be, by the names of groups.
#[derive(Default)]
pub(super) struct Ailing {
    /// Copies that could not be opened as they are damaged, and why.
    pub unopened: BTreeMap<String, String>,
    /// Why a copy could not be decrypted.
    pub locked: Option<String>,
    /// Copies that are damaged and not used any more, and since when.
    pub damaged_since: BTreeMap<String, Instant>,
    /// Copies that are being fetched anew.
    pub fetched: BTreeSet<String>,
    /// How often each copy was fetched anew since the service started.
    pub repairs: BTreeMap<String, u64>,
}

impl Replicas {
    /// Looks after the copies from now on. Must run within the runtime.
    pub(super) fn keep_copies(&self) {
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(replicas) = this.upgrade() else { return };
                let keeper = replicas.clone();
                match tokio::task::spawn_blocking(move || keeper.look_after()).await {
                    Ok(report) => replicas.tell(report).await,
                    Err(error) => tracing::error!("looking after copies did not finish: {error}"),
                }
            }
        });
    }

    /// Tells the other services.
    async fn tell(&self, report: Report) {
        let others: Vec<String> = {
            let peers = self.peers().into_iter().map(|(name, _)| name);
            peers.filter(|name| *name != self.options.name).collect()
        };
        let Report { member, copies } = report;
        for peer in others {
            for copies in copies.chunks(COPIES_AT_ONCE) {
                let report = Report { member, copies: copies.to_vec() };
                // One that is away hears it when it is back.
                let _ = timeout(TOLD_WITHIN, self.ask(&peer, &Request::Report(report))).await;
            }
        }
    }

    /// Does what is to be done for the copies. Returns what is to be told of them. Blocks on I/O.
    pub(super) fn look_after(&self) -> Report {
        let changing = lock(&self.changing_copies);
        let records = self.state.borrow().as_ref().map(|state| state.shards.clone()).unwrap_or_default();
        for (shard, record) in &records {
            if let Err(reason) = self.mend(shard, record) {
                tracing::error!("the copy of shard '{shard}' is not mended, and that is tried again: {reason}");
            }
        }
        drop(changing);
        let mut groups: Vec<Arc<DrivenGroup>> = lock(&self.shards).values().cloned().collect();
        groups.extend(lock(&self.cluster_group).clone());
        let copies = groups.iter().filter_map(|group| self.compare(group)).collect();
        Report { member: self.member, copies }
    }

    /// Opens the copy of a shard again, or has it fetched anew, if that is what it needs.
    fn mend(&self, shard: &str, record: &ShardRecord) -> Result<(), String> {
        let group = lock(&self.shards).get(shard).cloned().filter(|group| group.group() == record.group(shard));
        let Some(group) = group else {
            let unopened = lock(&self.ailing).unopened.get(&record.group(shard)).cloned();
            return match unopened {
                Some(reason) => self.fetch_anew(shard, record, &reason),
                None => Ok(()),
            };
        };
        if lock(&self.ailing).fetched.contains(group.group()) && group.view().failed.is_none() {
            lock(&self.ailing).fetched.remove(group.group());
            tracing::warn!("shard '{shard}': this service's copy is whole again, fetched from the other services");
            self.note_appeared(shard);
        }
        match group.failure().filter(|_| group.is_stopped()) {
            Some(failure) if failure.kind == FailureKind::Full => {
                self.driver.close(&group);
                let opened = self.driver.open_after(&*self.options.disks, group.group(), true);
                let opened = opened.map_err(|error| error.to_string())?.ok_or("it is gone")?;
                tracing::warn!(
                    "shard '{shard}': the disk of this service is full; it goes on to vote, and takes what it lacks when there is space"
                );
                self.note_opened(shard, record, opened, false);
                Ok(())
            }
            Some(failure) if failure.kind == FailureKind::Damaged && self.can_fetch(group.group()) => {
                self.driver.close(&group);
                self.fetch_anew(shard, record, &failure.reason)
            }
            _ => Ok(()),
        }
    }

    /// Whether this one's copy of a group, which is damaged and not used any more, may be given up: two others use theirs, have lost nothing, and
    /// one of them decides. What they told before this copy was out of use does not count, nor what may have been on its way for long: of two
    /// that are damaged at a time neither hears the other one any more, so both stay as they are.
    fn can_fetch(&self, group: &str) -> bool {
        let since = *lock(&self.ailing).damaged_since.entry(group.to_owned()).or_insert_with(Instant::now);
        let others = self.reports.of_after(group, since + TOLD_WITHIN);
        others.len() >= SERVICES - 1
            && others.iter().any(|(_, report)| report.decides)
            && others.iter().all(|(_, report)| report.lost_in.is_none())
    }

    /// Has the copy of a shard, which nobody has open, fetched anew from the other services.
    fn fetch_anew(&self, shard: &str, record: &ShardRecord, reason: &str) -> Result<(), String> {
        let name = record.group(shard);
        if !self.can_fetch(&name) {
            return Ok(());
        }
        tracing::error!(
            "shard '{shard}': this service's copy is given up and fetched anew from the other services: {reason}"
        );
        let install = self.beginning_of(record)?;
        self.options.disks.begin_anew(&name, &install).map_err(|error| error.to_string())?;
        let opened = self.driver.open(&*self.options.disks, &name).map_err(|error| error.to_string())?;
        let group = opened.ok_or("it is gone")?;
        {
            let mut ailing = lock(&self.ailing);
            ailing.unopened.remove(&name);
            ailing.damaged_since.remove(&name);
            *ailing.repairs.entry(name).or_default() += 1;
        }
        self.note_opened(shard, record, group, false);
        Ok(())
    }

    /// Compares a copy with what the others have told, and does what follows. Returns what is to be told of it; none if it has stopped.
    fn compare(&self, group: &DrivenGroup) -> Option<CopyReport> {
        let status = group.status()?;
        let others = self.reports.of(group.group());
        if group.failure().is_none() {
            if let Some((kind, reason)) = judge(&status, &others) {
                tracing::error!("'{}': this service's copy is not as the others': {reason}", group.group());
                group.condemn(kind, reason);
            }
        }
        let is_needed_later = |report: &CopyReport| report.lost_in.is_some_and(|lost_in| lost_in >= status.term);
        if status.is_leader && others.iter().any(|(_, report)| is_needed_later(report)) {
            let is_fit = |member: u64| {
                let told = others.iter().find(|(of, _)| *of == member);
                told.is_none_or(|(_, report)| report.lost_in.is_none() && !report.is_full)
            };
            let fit = status.successors(self.member).filter(|&(member, _)| is_fit(member));
            if let Some((member, _)) = fit.max_by_key(|&(_, matched)| matched) {
                tracing::info!(
                    "'{}': another service decides, so that a copy that was damaged can be fetched anew",
                    group.group()
                );
                group.transfer_to(member);
            }
        }
        let reason = if status.is_leader { no_space(self.member, &status, &others) } else { None };
        group.set_no_space(reason);
        Some(CopyReport::new(group.group(), &status, group.awaits_room()))
    }
}
