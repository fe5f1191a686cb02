//! The rules by which slots move from one shard to another. The source's record alone decides: its leader grants, the target's leader
//! claims, and whichever of claim, abort and the end of the source's epoch is stored first is what has happened.

use durability_protocol::{Code, Refusal, SlotRanges};

use super::super::rule_switches::{self, Rule};
use crate::store::{ClusterSlots, SlotGrant, SlotMove};

/// Most claims of a shard's slots of which their targets have not said that they are stored.
const MAX_MOVED: usize = 256;
/// Most imports of a shard.
const MAX_IMPORTS: usize = 64;
/// How many jobs that have ended a shard remembers. A copy of a grant that comes after so many others has lain in a connection that its
/// sender has long given up.
const MAX_ENDED: usize = 256;

/// What became of a job that its source wanted to abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aborted {
    /// It can be claimed no more.
    Aborted,
    /// It was claimed: the slots are the target's.
    Claimed,
}

/// What a target has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The config epoch that is stored of the source: the target has to go above it.
    pub config_epoch: u64,
    /// The slots, which are the target's now.
    pub slots: SlotRanges,
}

/// How the leader of a target ends an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The claim was granted: the slots are this shard's.
    Taken,
    /// The claim can never be granted.
    Void,
}

fn refuse<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Code::Err, text))
}

/// The leader of `epoch` of the shard `own` lets another claim `asked`.
pub fn grant(record: &mut ClusterSlots, own: &str, epoch: u64, asked: SlotMove) -> Result<(), Refusal> {
    let SlotMove { job, slots, shard } = &asked;
    let state = &record.migrations;
    let is_void = |before: &SlotGrant| before.epoch < epoch;
    match state.grant.as_ref().filter(|before| !is_void(before)) {
        Some(before) if before.moving == asked => return Ok(()),
        Some(before) => return refuse(format!("job {} has a grant: one at a time, abort it first", before.moving.job)),
        None => {}
    }
    if shard == own {
        return refuse("a shard cannot grant slots to itself");
    }
    if state.moved.iter().any(|moved| moved.job == *job) {
        return refuse(format!("the slots of job {job} are claimed already"));
    }
    let is_again = state.grant.as_ref().is_some_and(|before| before.moving.job == *job);
    if (is_again || state.ended.contains(job)) && rule_switches::holds(Rule::EndsJobs) {
        return refuse(format!("job {job} has ended: it is granted no more"));
    }
    if !record.slots.contains_all(slots) {
        return refuse(format!("slots '{}' are not this shard's", slots.without(&record.slots)));
    }
    if state.moved.len() >= MAX_MOVED {
        return refuse(format!("{MAX_MOVED} claims are not known to be stored by their targets: see LOG.STATUS"));
    }
    let void = record.migrations.grant.replace(SlotGrant { moving: asked, epoch });
    if let Some(void) = void {
        end(record, void.moving.job);
    }
    Ok(())
}

/// The source's leader gives the job up, or asks what became of it.
pub fn abort(record: &mut ClusterSlots, job: &str, slots: &SlotRanges) -> Aborted {
    let state = &mut record.migrations;
    let are_given = !slots.is_empty() && state.given.contains_all(slots);
    if are_given || state.moved.iter().any(|moved| moved.job == job) {
        return Aborted::Claimed;
    }
    state.grant.take_if(|grant| grant.moving.job == job);
    // Also if there was none: it may be on its way.
    end(record, job.to_owned());
    Aborted::Aborted
}

/// The leader of the shard `own` holds all of `asked` in its log, and is about to claim it.
pub fn import(record: &mut ClusterSlots, own: &str, asked: SlotMove) -> Result<(), Refusal> {
    let SlotMove { job, slots, shard } = &asked;
    let imports = &mut record.migrations.imports;
    if imports.contains(&asked) {
        return Ok(());
    }
    if record.migrations.ended.contains(job) && rule_switches::holds(Rule::EndsJobs) {
        return refuse(format!("job {job} has ended: it is imported no more"));
    }
    if shard == own {
        return refuse("a shard cannot import slots of itself");
    }
    if let Some(other) = imports.iter().find(|other| other.job == *job || other.slots.overlaps(slots)) {
        return refuse(format!("job {} imports slots '{}': settle that first", other.job, other.slots));
    }
    if record.slots.overlaps(slots) {
        return refuse("some of these slots are this shard's already");
    }
    if imports.len() >= MAX_IMPORTS {
        return refuse(format!("{MAX_IMPORTS} imports are open: settle some first"));
    }
    imports.push(asked);
    Ok(())
}

/// The shard `target` claims what was granted to it. `leads` says whether an epoch of the source leads.
///
/// # Errors
/// [`Code::NoGrant`] if it was not granted, and never will be.
pub fn claim(
    record: &mut ClusterSlots,
    job: &str,
    target: &str,
    leads: impl Fn(u64) -> bool,
) -> Result<Claimed, Refusal> {
    let config_epoch = record.config_epoch;
    let state = &mut record.migrations;
    let is_asked = |moving: &SlotMove| moving.job == job && moving.shard == target;
    if let Some(moved) = state.moved.iter().find(|moved| is_asked(moved)) {
        return Ok(Claimed { config_epoch, slots: moved.slots.clone() });
    }
    let Some(SlotGrant { moving, epoch }) = state.grant.take_if(|grant| is_asked(&grant.moving)) else {
        return Err(Refusal::new(Code::NoGrant, format!("job {job} has no grant for shard '{target}'")));
    };
    let is_in_force = leads(epoch) || !rule_switches::holds(Rule::ClaimsInEpoch);
    if !is_in_force || !record.slots.contains_all(&moving.slots) {
        // So that nobody is granted it who was told that it never will be.
        end(record, moving.job);
        let text = format!("the grant of job {job} is void: epoch {epoch}, which gave it, does not lead any more");
        return Err(Refusal::new(Code::NoGrant, text));
    }
    record.slots = record.slots.without(&moving.slots);
    state.given = state.given.union(&moving.slots);
    let slots = moving.slots.clone();
    state.moved.push(moving);
    Ok(Claimed { config_epoch, slots })
}

/// The target's leader ends an import, whose claim was answered. If there is none of that job, that was done before, or it comes too late.
///
/// # Errors
/// The config epoch is lower than the one that is stored.
pub fn settle(record: &mut ClusterSlots, job: &str, outcome: Outcome, config_epoch: u64) -> Result<(), Refusal> {
    let Some(at) = record.migrations.imports.iter().position(|import| import.job == job) else {
        end(record, job.to_owned());
        return Ok(());
    };
    if outcome == Outcome::Taken {
        super::check_config_epoch(record.config_epoch, config_epoch)?;
        let slots = &record.migrations.imports[at].slots;
        record.slots = record.slots.union(slots);
        record.migrations.given = record.migrations.given.without(slots);
        record.config_epoch = config_epoch;
        // Who has given a slot back had stored that it was its own. A late claim of its must not be answered once more.
        let slots = slots.clone();
        let come_back: Vec<_> = record.migrations.moved.extract_if(.., |moved| moved.slots.overlaps(&slots)).collect();
        come_back.into_iter().for_each(|moved| end(record, moved.job));
    }
    record.migrations.imports.remove(at);
    // A late copy of the import must not be claimed when the slots have left again.
    end(record, job.to_owned());
    Ok(())
}

/// The shard `target` has stored what it claimed. If nothing is known of that, it was said before.
pub fn forget(record: &mut ClusterSlots, job: &str, target: &str) {
    let moved = &mut record.migrations.moved;
    if let Some(at) = moved.iter().position(|moved| moved.job == job && moved.shard == target) {
        let moved = moved.remove(at);
        end(record, moved.job);
    }
}

/// The job is granted and imported no more.
fn end(record: &mut ClusterSlots, job: String) {
    let ended = &mut record.migrations.ended;
    if !ended.contains(&job) && rule_switches::holds(Rule::EndsJobs) {
        ended.push(job);
        ended.drain(..ended.len().saturating_sub(MAX_ENDED));
    }
}

#[cfg(test)]
#[path = "migration_tests.rs"]
mod tests;
