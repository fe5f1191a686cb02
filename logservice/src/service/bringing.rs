//! Shards that this service has kept alone are brought into the cluster that it makes, one after the other, while they are served:
//! `replica/cluster/bringing.rs` has the steps.
//!
//! What a shard has at the moment in which it is closed is what was made durable by then. Nobody was told that anything else is in the log. So
//! that, and the manifest that is in force then, is what the group goes on with.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use durability_protocol::{Code, Refusal};
use tokio::time::timeout;

use super::replication::refusal;
use super::{Service, Slot};
use crate::replica::bringing::{Bringing, Brought};
use crate::shard::{Pin, Shard};
use crate::store::{Manifest, ReadError, RecordReader};

/// What is read and written at a time.
const PART_BYTES: usize = 1 << 20;
/// So much may be missing when the shard stops to take anything: it is copied in the time of a few syncs.
const REST_BYTES: u64 = 256 << 10;
/// When so many parts were copied and no less was missing, the shard stops all the same: it is written to as fast as it is copied.
const MOST_PARTS_IN_VAIN: u32 = 64;
/// How long after a failure it is tried again: at first, and at most.
const RETRY_FROM: Duration = Duration::from_secs(1);
const RETRY_TO: Duration = Duration::from_secs(60);

/// A shard that is being brought.
#[derive(Default)]
pub(super) struct Underway {
    /// Up to where its log is copied (exclusive).
    copied: u64,
    /// What is finished when the shard is closed.
    rest: Option<Rest>,
}

/// What is to be finished of a shard.
struct Rest {
    /// The shard as it was when it was begun.
    of: Arc<Shard>,
    generation: u64,
    brought: Brought,
    /// None while there was nothing to read.
    records: Option<Box<dyn RecordReader>>,
    /// Keeps the log that is not copied yet.
    pin: Pin,
}

/// How a shard that this service keeps alone is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AloneStatus {
    /// The end of its log (exclusive).
    pub end: u64,
    /// Bytes of the log that are not copied for the cluster yet.
    pub left_bytes: u64,
}

impl Service {
    fn bringing(&self) -> Option<&dyn Bringing> {
        self.groups()?.bringing()
    }

    /// Whether this service was given peers, and is of no cluster yet: it keeps shards alone.
    pub(super) fn is_alone(&self) -> bool {
        self.bringing().is_some_and(|bringing| bringing.is_alone())
    }

    /// Makes a cluster of this service and those that it was configured with, and brings the shards that it keeps alone.
    ///
    /// # Errors
    /// It is not made; or one of those shards cannot be brought as it is.
    pub async fn init_cluster(self: &Arc<Self>) -> Result<(), Refusal> {
        let Some(groups) = self.groups() else {
            return Err(Refusal::new(Code::Err, "this log service is alone: it was started without --peers"));
        };
        if self.is_alone() {
            for name in self.names() {
                if let Err(refused) = self.shard(&name).await.and_then(|shard| shard.check_not_failed()) {
                    let text = format!(
                        "shard '{name}' cannot be brought into a cluster as it is not served: mend or drop it first; {}",
                        refused.detail
                    );
                    return Err(Refusal::new(Code::Err, text));
                }
            }
        }
        groups.init().await.map_err(refusal)
    }

    /// How a shard is shown that this service keeps alone although it has peers; none if it does not.
    pub fn alone_status(&self, name: &str) -> Option<AloneStatus> {
        self.bringing()?;
        let shard = self.served_shard(name).filter(|shard| !shard.is_replicated())?;
        let (end, base) = (shard.notifier().durable(), shard.store().manifest().base);
        let copied = self.lock_brought().get(name).map_or(base, |underway| underway.copied.max(base));
        Some(AloneStatus { end, left_bytes: end.saturating_sub(copied) })
    }

    /// Refuses what cannot be done with a shard while it is being brought.
    pub(super) async fn check_not_alone(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        let (service, of) = (self.clone(), name.to_owned());
        let keeps_alone = move || service.bringing().is_some_and(|bringing| bringing.keeps_alone(&of));
        match tokio::task::spawn_blocking(keeps_alone).await {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text = format!(
                    "shard '{name}' is being brought into the cluster: ask again when LOG.CLUSTER STATUS shows it without alone=1"
                );
                Err(Refusal::new(Code::Err, text))
            }
            Err(error) => Err(Refusal::new(Code::Err, format!("not known whether the shard is kept alone: {error}"))),
        }
    }

    /// Brings the shards that are kept alone from when the cluster expects them. Must run within the runtime.
    pub(super) fn bring_shards(&self) {
        let Some(mut changes) = self.bringing().map(|bringing| bringing.changes()) else { return };
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut wait = RETRY_FROM;
            loop {
                // First, so that no change goes unnoticed.
                changes.mark_unchanged();
                let Some(service) = this.upgrade() else { return };
                let is_done = service.bring_all().await;
                drop(service);
                wait = if is_done { RETRY_FROM } else { (wait * 2).min(RETRY_TO) };
                let changed = match is_done {
                    true => changes.changed().await,
                    false => timeout(wait, changes.changed()).await.unwrap_or(Ok(())),
                };
                if changed.is_err() {
                    return;
                }
            }
        });
    }

    /// Brings all shards that are expected. Returns whether none is left for which it has to be tried again.
    async fn bring_all(self: &Arc<Self>) -> bool {
        if self.bringing().is_some_and(|bringing| bringing.is_awaited()) {
            if let Err(error) = self.announce().await {
                tracing::warn!("the cluster is not told yet which shards this service brings: {error}");
                return false;
            }
        }
        let service = self.clone();
        let expected = move || service.bringing().map_or(Ok(Vec::new()), |bringing| bringing.expected());
        let expected = match tokio::task::spawn_blocking(expected).await {
            Ok(Ok(expected)) => expected,
            Ok(Err(error)) => {
                tracing::error!("not known which shards are to be brought into the cluster: {error}");
                return false;
            }
            Err(error) => {
                tracing::error!("looking for shards to be brought did not finish: {error}");
                return false;
            }
        };
        let mut is_done = true;
        for name in expected {
            if let Err(reason) = self.bring(&name).await {
                tracing::error!("shard {name} is not brought into the cluster yet: {reason}");
                is_done = false;
            }
            self.lock_brought().remove(&name);
        }
        is_done
    }

    /// Tells the cluster which shards this service brings. None is made alone any more.
    async fn announce(self: &Arc<Self>) -> Result<(), Refusal> {
        let slots: Vec<(String, Arc<Slot>)> =
            self.lock().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        let mut shards = Vec::new();
        for (name, slot) in slots {
            let log_id = match self.opened(&name, slot).await {
                Ok(shard) if shard.is_replicated() => continue,
                Ok(shard) => shard.log_id(),
                Err(unserved) => unserved.log_id,
            };
            shards.push((name, log_id));
        }
        let Some(bringing) = self.bringing() else { return Ok(()) };
        tracing::info!("{} shards are brought into the cluster", shards.len());
        bringing.announce(&shards).await.map_err(refusal)
    }

    /// Brings one shard.
    async fn bring(self: &Arc<Self>, name: &str) -> Result<(), String> {
        let shard = self.shard(name).await.map_err(|refusal| refusal.to_string())?;
        shard.check_not_failed().map_err(|refusal| refusal.to_string())?;
        if shard.is_replicated() {
            return Ok(());
        }
        let (service, of) = (self.clone(), shard.clone());
        let copied = tokio::task::spawn_blocking(move || service.copy(&of)).await;
        let rest = copied.map_err(|error| error.to_string())??;
        self.lock_brought().entry(name.to_owned()).or_default().rest = Some(rest);
        tracing::info!("shard {name} is handed to the group that keeps it from now on");
        shard.hand_to_group();
        let (service, of) = (self.clone(), shard.clone());
        let reopened = tokio::task::spawn_blocking(move || service.reopen(&of)).await;
        reopened.map_err(|error| error.to_string())?;
        match self.served_shard(name) {
            Some(shard) if shard.is_replicated() => Ok(()),
            _ => Err("see above".to_owned()),
        }
    }

    /// Copies the log of a shard, which goes on, until little of it is missing. Blocks on I/O.
    fn copy(&self, shard: &Arc<Shard>) -> Result<Rest, String> {
        let bringing = self.bringing().ok_or("this service keeps nothing alone")?;
        let (Manifest { base, generation, .. }, pin) = shard.pin_base();
        let brought = bringing.begin(shard.name(), base).map_err(|error| error.to_string())?;
        let mut rest = Rest { of: shard.clone(), generation, brought, records: None, pin };
        let (mut least, mut parts_in_vain) = (u64::MAX, 0);
        loop {
            let end = shard.notifier().durable();
            let missing = end.saturating_sub(rest.brought.end());
            if missing <= REST_BYTES || parts_in_vain >= MOST_PARTS_IN_VAIN {
                return Ok(rest);
            }
            shard.check_not_failed().map_err(|refusal| refusal.to_string())?;
            parts_in_vain = if missing < least { 0 } else { parts_in_vain + 1 };
            least = least.min(missing);
            rest.copy_part(end)?;
            self.lock_brought().entry(shard.name().to_owned()).or_default().copied = rest.brought.end();
        }
    }

    /// Does what is left to do to bring a shard, of which the store is closed. If that fails, the shard goes on as it was. Blocks on I/O.
    pub(super) fn finish_bringing(&self, old: &Arc<Shard>) {
        let rest = self.lock_brought().get_mut(old.name()).and_then(|underway| underway.rest.take());
        let Some(rest) = rest.filter(|rest| Arc::ptr_eq(&rest.of, old)) else { return };
        match self.bringing().ok_or("this service keeps nothing alone".to_owned()).and_then(|to| rest.finish(to)) {
            Ok(()) => tracing::info!("shard {} is kept by a group from now on", old.name()),
            Err(reason) => tracing::error!("shard {} is not brought into the cluster yet: {reason}", old.name()),
        }
    }

    fn lock_brought(&self) -> MutexGuard<'_, BTreeMap<String, Underway>> {
        self.brought.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Rest {
    /// Copies up to `end` (exclusive), which lies beyond what is copied, or as much as is done at a time.
    fn copy_part(&mut self, end: u64) -> Result<(), String> {
        let text = |error: ReadError| error.to_string();
        let records = match &mut self.records {
            Some(records) => records,
            None => self.records.insert(self.of.store().records(self.brought.end()).map_err(text)?),
        };
        let (mut part, mut bytes) = (Vec::new(), 0);
        while bytes < PART_BYTES && records.offset() < end {
            let record = records.next(end).map_err(text)?;
            bytes += record.payload.len();
            part.push(record);
        }
        self.brought.append(part).map_err(|error| error.to_string())?;
        self.pin.advance(self.brought.end());
        Ok(())
    }

    fn finish(mut self, bringing: &dyn Bringing) -> Result<(), String> {
        let shard = self.of.clone();
        let (manifest, end) = (shard.store().manifest(), shard.notifier().durable());
        if manifest.generation != self.generation {
            return Err("its log was begun anew meanwhile".to_owned());
        }
        while self.brought.end() < end {
            self.copy_part(end)?;
        }
        bringing.finish(shard.name(), self.brought, &manifest)
    }
}
