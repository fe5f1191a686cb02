//! What was promised to anybody, and whether it still holds. These are the invariants of ARCHITECTURE.md.

use futures_util::FutureExt;
use logservice::store::Manifest;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::ObjectStoreExt;

use crate::disk::{Contents, Disk};
use crate::message::{Answer, Request};
use crate::node::Node;
use crate::service::{Answered, Service};
use crate::slots::SlotsPromise;

pub use crate::runner::Violation;

/// What was promised so far.
#[derive(Debug, Default)]
pub struct Promises {
    /// What clients were told is durable: these bytes, from offset 0 on.
    pub acknowledged: Vec<u8>,
    /// What leaders were told is durable.
    logged: Vec<u8>,
    /// The newest epoch that was given out.
    pub newest_epoch: u64,
    /// What leaders were told of the shard's slots.
    pub slots: SlotsPromise,
    /// Whether a renewal is answered some time after it was taken, when it is confirmed that the service decided then. Its leader may have been
    /// granted another length since, or have given the lease back; and a service that has just come to decide keeps a longer lease than it
    /// is asked for. So the answer is compared with nothing: what must hold is that no leader counts more than what is stored
    /// ([`Promises::check`]).
    renewals_are_confirmed: bool,
    /// What happened, to show that it did.
    pub seen: Seen,
}

crate::seen! {
    steps: "steps",
    epochs: "epochs",
    renewals: "renewals",
    appends: "appends",
    overlaps: "appends sent again",
    slots_set: "slots stored",
    slots_told: "slots told",
    refused_for_space: "appends refused for space",
    failed: "failed logs",
    snapshots: "snapshots",
    seeds: "seeds",
    releases: "leases taken by an operator",
    service_crashes: "crashes of the service",
    node_crashes: "crashes of nodes",
    torn: "torn records",
    unawaited: "whole records that nobody had waited for",
    cuts: "connections that broke off",
    acknowledged_bytes: "bytes acknowledged to clients",
}

impl Promises {
    /// Of a log that several services keep.
    pub fn of_several_services() -> Self {
        Promises { renewals_are_confirmed: true, ..Promises::default() }
    }

    /// How much leaders were told is durable.
    pub fn logged_bytes(&self) -> u64 {
        self.logged.len() as u64
    }

    /// Clients are told that everything below `until` is durable, of what a leader holds.
    pub fn acknowledge(&mut self, data: &[u8]) -> Result<(), Violation> {
        let known = self.acknowledged.len().min(data.len());
        if data[..known] != self.acknowledged[..known] {
            return Err("clients were told that other bytes are durable before".to_owned());
        }
        if data.len() > known {
            self.seen.acknowledged_bytes += (data.len() - known) as u64;
            self.acknowledged.extend_from_slice(&data[known..]);
        }
        Ok(())
    }

    /// No reply without the store's word.
    pub fn check_answer(&mut self, answered: &Answered, disk: &Contents) -> Result<(), Violation> {
        let Ok(answer) = &answered.answer else { return Ok(()) };
        let Some(manifest) = disk.manifest() else { return Err("there is no manifest".to_owned()) };
        match (&answered.request, answer) {
            (Request::Acquire { lease_ms, .. }, Answer::Acquired { epoch, end }) => {
                self.seen.epochs += 1;
                self.check_granted(*epoch, *end, *lease_ms, manifest, disk)
            }
            (Request::Renew { epoch, lease_ms, .. }, _) => {
                self.seen.renewals += 1;
                if self.renewals_are_confirmed {
                    return Ok(());
                }
                let stored = manifest.leader.as_ref().map(|leader| leader.lease_ms);
                if stored.is_none() && disk.newest_epoch() == *epoch {
                    // Its leader has given it back meanwhile, and answers nobody.
                    return Ok(());
                }
                check_led(manifest, *epoch)?;
                (stored == Some(*lease_ms)).then_some(()).ok_or_else(|| {
                    format!("a renewal for {lease_ms} ms of epoch {epoch} was answered, and {stored:?} is stored")
                })
            }
            (Request::Begin { epoch, replid, offset }, _) => {
                let entry = manifest.epochs.iter().find(|entry| entry.epoch == *epoch);
                let is_stored = entry
                    .is_some_and(|entry| entry.replid.as_ref() == Some(replid) && entry.first_offset == Some(*offset));
                is_stored.then_some(()).ok_or_else(|| format!("the beginning of epoch {epoch} is not stored"))
            }
            (Request::Append { offset, payload, .. }, Answer::Appended(until)) => {
                self.seen.appends += 1;
                self.log(*offset, payload, *until, disk)
            }
            (Request::GetSlots { epoch, after }, Answer::Slots(stored)) => {
                self.seen.slots_told += 1;
                self.slots.tell(*epoch, stored, *after)
            }
            (Request::SetSlots { epoch, config_epoch, slots, sent }, _) => {
                self.seen.slots_set += 1;
                self.slots.take(*epoch, *config_epoch, slots, *sent);
                Ok(())
            }
            (Request::Resign { epoch, .. }, _) => match check_led(manifest, *epoch) {
                Ok(()) => Err(format!("epoch {epoch} was released, and that is not stored")),
                Err(_) => Ok(()),
            },
            (Request::Release { epoch, .. }, _) => {
                self.seen.releases += 1;
                match check_led(manifest, *epoch) {
                    Ok(()) => Err(format!("epoch {epoch} was taken, and that is not stored")),
                    Err(_) => Ok(()),
                }
            }
            (Request::Seed { content, .. }, _) => {
                self.seen.seeds += 1;
                disk.history.starts_with(content).then_some(()).ok_or("a seed is not stored".to_owned())
            }
            (Request::Snapshot { .. }, _) => {
                self.seen.snapshots += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_granted(
        &mut self,
        epoch: u64,
        end: u64,
        lease_ms: u64,
        manifest: &Manifest,
        disk: &Contents,
    ) -> Result<(), Violation> {
        if epoch <= self.newest_epoch {
            return Err(format!("epoch {epoch} was given out after epoch {}", self.newest_epoch));
        }
        self.newest_epoch = epoch;
        check_led(manifest, epoch)?;
        let stored = manifest.leader.as_ref().map(|leader| leader.lease_ms);
        if stored != Some(lease_ms) {
            return Err(format!("epoch {epoch} was granted for {lease_ms} ms, and {stored:?} is stored"));
        }
        if end != disk.end() {
            return Err(format!("epoch {epoch} was granted at {end}, and the log ends at {}", disk.end()));
        }
        Ok(())
    }

    /// A leader is told that everything below `until` is durable.
    fn log(&mut self, offset: u64, payload: &[u8], until: u64, disk: &Contents) -> Result<(), Violation> {
        if until != offset + payload.len() as u64 {
            return Err(format!("an append of {} at {offset} was acknowledged up to {until}", payload.len()));
        }
        match disk.history.get(offset as usize..until as usize) {
            None => return Err(format!("{until} was acknowledged, and the log ends at {}", disk.history.len())),
            Some(stored) if stored != payload => return Err(format!("other bytes were acknowledged at {offset}")),
            Some(_) => {}
        }
        let until = until as usize;
        if until > self.logged.len() {
            self.logged.extend_from_slice(&disk.history[self.logged.len()..until]);
        } else {
            self.seen.overlaps += 1;
        }
        Ok(())
    }

    /// What has to hold after every step.
    pub fn check(&self, disk: &Disk, nodes: &[Node], true_ns: u64) -> Result<(), Violation> {
        let disk = disk.lock();
        if let Some(violation) = disk.violations.first() {
            return Err(violation.clone());
        }
        if disk.end() != disk.history.len() as u64 {
            return Err(format!("the log ends at {} instead of {}", disk.end(), disk.history.len()));
        }
        for (whom, promised) in [("clients", &self.acknowledged), ("leaders", &self.logged)] {
            if !disk.history.starts_with(promised) {
                return Err(format!("the log, up to {}, lacks what {whom} were told is durable", disk.history.len()));
            }
        }
        self.slots.check(disk.manifest().and_then(|manifest| manifest.cluster.as_ref()))?;
        let mut leaders = nodes.iter().filter(|node| node.may_answer(true_ns));
        let Some(leader) = leaders.next() else { return Ok(()) };
        if let Some(other) = leaders.next() {
            return Err(format!("nodes {} and {} have a lease at a time", leader.index, other.index));
        }
        if !leader.data.starts_with(&self.acknowledged) {
            return Err(format!("leader {} lacks what clients were told is durable", leader.index));
        }
        check_stored_lease(leader, disk.manifest(), true_ns)
    }

    /// What has to hold of what the service says.
    pub fn check_status(&self, service: &Service, end: u64) -> Result<(), Violation> {
        let status = service.shard.status();
        if status.durable_end > end || status.end > status.durable_end {
            return Err(format!("LOG.STATUS tells of {} and {}, {end} is durable", status.end, status.durable_end));
        }
        if status.epoch < self.newest_epoch {
            return Err(format!("epoch {} is in force, and {} was given out", status.epoch, self.newest_epoch));
        }
        Ok(())
    }

    /// The log is what its nodes know.
    pub fn check_known(&self, service: &Service, nodes: &[Node]) -> Result<(), Violation> {
        for node in nodes {
            let Some(known) = &node.known else { continue };
            if let Err(refusal) = service.shard.judge_known(known) {
                return Err(format!("node {} knows {known}, which the log contradicts: {refusal}", node.index));
            }
        }
        Ok(())
    }
}

/// A leader counts no more of its lease than whoever comes to decide now, and knows only what is stored, keeps others out for: the length
/// that is stored, and the margin for clocks that drift apart.
fn check_stored_lease(leader: &Node, manifest: Option<&Manifest>, true_ns: u64) -> Result<(), Violation> {
    let Some((epoch, left_ms)) = leader.lease_left_ms(true_ns) else { return Ok(()) };
    let Some(manifest) = manifest else { return Err("there is no manifest".to_owned()) };
    check_led(manifest, epoch)?;
    let stored_ms = manifest.leader.as_ref().map_or(0, |leader| leader.lease_ms);
    match stored_ms == 0 || left_ms.is_some_and(|left_ms| left_ms <= stored_ms + stored_ms / 20 + 10) {
        true => Ok(()),
        false => Err(format!(
            "leader {} of epoch {epoch} counts {left_ms:?} ms of a lease of which {stored_ms} ms are stored",
            leader.index
        )),
    }
}

fn check_led(manifest: &Manifest, epoch: u64) -> Result<(), Violation> {
    let newest = manifest.epochs.last().map_or(0, |entry| entry.epoch);
    match &manifest.leader {
        Some(_) if newest == epoch => Ok(()),
        leader => Err(format!("epoch {epoch} leads, and epoch {newest} is stored with leader {leader:?}")),
    }
}

/// Everything can be had from each snapshot and the log after it, or from the log alone if it goes back to the beginning.
pub fn check_recoverable(disk: &Contents, objects: &InMemory) -> Result<(), Violation> {
    let Some(manifest) = disk.manifest() else { return Ok(()) };
    if manifest.begins_empty() && (manifest.base != 0 || disk.base != 0) {
        return Err(format!("the log begins at {} without a snapshot", disk.base));
    }
    for record in &manifest.snapshots {
        if disk.base > record.offset {
            return Err(format!("the log begins at {}, above the snapshot at {}", disk.base, record.offset));
        }
        let stored = objects.get(&Path::from(record.file.as_str())).now_or_never();
        let stored = stored.and_then(Result::ok).and_then(|found| found.bytes().now_or_never()?.ok());
        let Some(stored) = stored else { return Err(format!("the snapshot at {} is gone", record.offset)) };
        if disk.history.get(..record.offset as usize) != Some(&stored[..]) {
            return Err(format!("the snapshot at {} is not what the log was there", record.offset));
        }
    }
    Ok(())
}
