//! Looks after the copies once a second: one that was full is opened again, one that is damaged is fetched anew from the other services, and
//! services tell each other of theirs (`copy_reports.rs`).
//!
//! A damaged copy is given up only when both others use theirs and one of them decides over its log: until then it is the best that there is
//! here, and stays on the disk as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{interval, MissedTickBehavior};

use super::copy_reports::{judge, no_space, CopyReport, Report};
use super::state::ShardRecord;
use super::telling::TOLD_WITHIN;
use super::{lock, DrivenGroup, GroupHandle, Replicas, SERVICES};
use crate::replica::copy::Install;
use crate::replica::driver::FailureKind;

/// How often copies are looked after.
const EVERY: Duration = Duration::from_secs(1);

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
    /// Why a copy was not opened again, or not fetched anew, when that was last tried.
    pub not_mended: BTreeMap<String, String>,
}

/// A copy that is looked after.
pub(super) struct Patient<'a> {
    /// Whose log it is, for people.
    pub title: &'a str,
    /// The group's name.
    pub name: &'a str,
    /// None if it could not be opened.
    pub open: Option<Arc<DrivenGroup>>,
    /// Where it begins if it has to begin anew.
    pub beginning: &'a dyn Fn() -> Result<Install, String>,
}

/// What was done for a copy.
pub(super) enum Care {
    /// Nothing was to be done, or could be.
    Nothing,
    /// It was opened again: it was full, or begins anew.
    Opened(Arc<DrivenGroup>),
    /// It has all again that it may have acknowledged.
    Whole,
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

    /// Does what is to be done for the copies. Returns what is to be told of them. Blocks on I/O.
    pub(super) fn look_after(&self) -> Report {
        let changing = lock(&self.changing_copies);
        self.mend_own_log();
        let records = self.state.borrow().as_ref().map(|state| state.shards.clone()).unwrap_or_default();
        for (shard, record) in &records {
            self.mend_shard(shard, record);
        }
        drop(changing);
        let mut groups: Vec<Arc<DrivenGroup>> = lock(&self.shards).values().cloned().collect();
        groups.extend(lock(&self.cluster_group).clone());
        // One that arrives is told of only if it needs a leader of a later term: it is none by which others may judge.
        let has_lost = |group: &&Arc<DrivenGroup>| group.status().is_some_and(|status| status.lost_in.is_some());
        let arriving: Vec<Arc<DrivenGroup>> = lock(&self.arriving).values().cloned().collect();
        groups.extend(arriving.iter().filter(has_lost).cloned());
        let copies = groups.iter().filter_map(|group| self.compare(group)).collect();
        Report { member: self.member, copies }
    }

    fn mend_shard(&self, shard: &str, record: &ShardRecord) {
        let name = &*record.group(shard);
        let is_it = |group: &Arc<DrivenGroup>| group.group() == name;
        let known = lock(&self.shards).get(shard).cloned().filter(is_it);
        let arriving = lock(&self.arriving).get(shard).cloned().filter(is_it);
        let arrives = known.is_none() && arriving.is_some();
        let (title, beginning) = (format!("shard '{shard}'"), || self.beginning_of(record));
        let patient = Patient { title: &title, name, open: known.or(arriving), beginning: &beginning };
        match self.mend(&patient) {
            Care::Nothing => {}
            Care::Opened(group) if arrives => drop(lock(&self.arriving).insert(shard.to_owned(), group)),
            Care::Opened(group) => self.note_opened(shard, record, group, false),
            Care::Whole => self.note_appeared(shard),
        }
    }

    /// Opens a copy again, or has it fetched anew, if that is what it needs. Blocks on I/O.
    pub(super) fn mend(&self, patient: &Patient<'_>) -> Care {
        let Patient { title, name, .. } = patient;
        let failed = match self.try_to_mend(patient) {
            Ok(care) => {
                lock(&self.ailing).not_mended.remove(*name);
                return care;
            }
            Err(reason) => reason,
        };
        // It is tried again and again, and said once.
        if lock(&self.ailing).not_mended.insert((*name).to_owned(), failed.clone()).as_ref() != Some(&failed) {
            tracing::error!("{title}: this service's copy is not mended, and that is tried again: {failed}");
        }
        Care::Nothing
    }

    fn try_to_mend(&self, patient: &Patient<'_>) -> Result<Care, String> {
        let Patient { title, name, open, .. } = patient;
        let Some(group) = open else {
            let unopened = lock(&self.ailing).unopened.get(*name).cloned();
            return match unopened {
                Some(reason) => self.fetch_anew(patient, &reason),
                None => Ok(Care::Nothing),
            };
        };
        if lock(&self.ailing).fetched.contains(*name) && group.view().failed.is_none() {
            lock(&self.ailing).fetched.remove(*name);
            tracing::warn!("{title}: this service's copy is whole again, fetched from the other services");
            return Ok(Care::Whole);
        }
        match group.failure().filter(|_| group.is_stopped()) {
            Some(failure) if failure.kind == FailureKind::Full => {
                self.driver.close(group);
                let opened = self.driver.open_after(&*self.options.disks, name, true);
                let opened = opened.map_err(|error| error.to_string())?.ok_or("it is gone")?;
                tracing::warn!(
                    "{title}: the disk of this service is full; it goes on to vote, and takes what it lacks when there is space"
                );
                Ok(Care::Opened(opened))
            }
            Some(failure) if failure.kind == FailureKind::Damaged && self.can_fetch(name) => {
                self.driver.close(group);
                self.fetch_anew(patient, &failure.reason)
            }
            _ => Ok(Care::Nothing),
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

    /// Has a copy, which nobody has open, fetched anew from the other services.
    fn fetch_anew(&self, patient: &Patient<'_>, reason: &str) -> Result<Care, String> {
        let Patient { title, name, beginning, .. } = patient;
        if !self.can_fetch(name) {
            return Ok(Care::Nothing);
        }
        tracing::error!("{title}: this service's copy is given up and fetched anew from the other services: {reason}");
        let install = beginning()?;
        self.options.disks.begin_anew(name, &install).map_err(|error| error.to_string())?;
        let opened = self.driver.open(&*self.options.disks, name).map_err(|error| error.to_string())?;
        let group = opened.ok_or("it is gone")?;
        let mut ailing = lock(&self.ailing);
        ailing.unopened.remove(*name);
        ailing.damaged_since.remove(*name);
        *ailing.repairs.entry((*name).to_owned()).or_default() += 1;
        Ok(Care::Opened(group))
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
