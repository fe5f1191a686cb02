//! What a shard is in a Valkey cluster: slots and config epoch, and the slots that move to it and from it. Its leader has them stored here
//! before anybody is told of them, and asks for them when it begins to lead.
//!
//! `migration.rs` has the rules by which slots move.

mod migration;

use durability_protocol::{Code, Refusal, SlotRanges};

pub use self::migration::{Aborted, Claimed, Outcome};
use super::rule_switches::{self, Rule};
use super::Shard;
use crate::base::log_throttle::say;
use crate::store::{ClusterSlots, Migrations, SlotMove};

impl Shard {
    /// What is stored. The leader of `epoch` asks.
    ///
    /// # Errors
    /// `epoch` is over or was released; another service may decide; or it is not known what a restart would find.
    pub async fn cluster_slots(&self, epoch: u64) -> Result<ClusterSlots, Refusal> {
        let stored = {
            // What is being stored is stored by then, or it is known that this is not known.
            let _changing = self.changing.lock().await;
            self.check_slots_of(epoch)?;
            self.store.manifest().cluster.unwrap_or_default()
        };
        self.confirm().await?;
        Ok(stored)
    }

    /// Stores `next`, of the leader of `next.epoch`; the migrations stay as they are. It is durable when this returns. Must not be dropped
    /// half-way.
    ///
    /// # Errors
    /// That epoch is over or was released, the config epoch is lower than what is stored, a later one of that leader is stored already, it
    /// holds slots that the shard has given away or lacks some that it has granted, or it could not be stored.
    pub async fn set_cluster_slots(&self, next: ClusterSlots) -> Result<(), Refusal> {
        let line = format!("slots '{}' in config epoch {}", next.slots, next.config_epoch);
        let epoch = next.epoch;
        self.change_slots(Some(epoch), line, |stored| {
            let next = ClusterSlots { migrations: stored.migrations.clone(), ..next };
            check_follows(stored, &next)?;
            *stored = next;
            Ok(())
        })
        .await
    }

    /// The leader of `epoch` lets the shard `asked.shard` claim slots of this one. Durable when this returns, and must not be dropped
    /// half-way, as all that follow.
    ///
    /// # Errors
    /// As [`Shard::set_cluster_slots`], or the slots cannot be granted.
    pub async fn grant_slots(&self, epoch: u64, asked: SlotMove) -> Result<(), Refusal> {
        let line = format!("slots '{}' are granted to shard {} by job {}", asked.slots, asked.shard, asked.job);
        self.change_slots(Some(epoch), line, |stored| migration::grant(stored, &self.name, epoch, asked)).await
    }

    /// The leader of `epoch` takes back what it has granted, or learns that it is claimed.
    ///
    /// # Errors
    /// As [`Shard::set_cluster_slots`].
    pub async fn abort_grant(&self, epoch: u64, job: &str, slots: &SlotRanges) -> Result<Aborted, Refusal> {
        let line = format!("job {job} is aborted");
        self.change_slots(Some(epoch), line, |stored| Ok(migration::abort(stored, job, slots))).await
    }

    /// The leader of `epoch` is about to claim slots of the shard `asked.shard`, of which its log holds all.
    ///
    /// # Errors
    /// As [`Shard::set_cluster_slots`], or the slots cannot be imported.
    pub async fn import_slots(&self, epoch: u64, asked: SlotMove) -> Result<(), Refusal> {
        let line = format!("slots '{}' of shard {} are to be claimed by job {}", asked.slots, asked.shard, asked.job);
        self.change_slots(Some(epoch), line, |stored| migration::import(stored, &self.name, asked)).await
    }

    /// A leader of the shard `target` claims slots of this one.
    ///
    /// # Errors
    /// [`Code::NoGrant`] if they are not granted and never will be. Otherwise it is not known, or another service decides.
    pub async fn claim_slots(&self, job: &str, target: &str) -> Result<Claimed, Refusal> {
        let line = format!("the slots of job {job} are claimed by shard {target}");
        let leads = |epoch| self.accepting().epochs.check_leading(epoch).is_ok();
        self.change_slots(None, line, |stored| migration::claim(stored, job, target, leads)).await
    }

    /// The leader of `epoch` has the answer to its claim.
    ///
    /// # Errors
    /// As [`Shard::set_cluster_slots`].
    pub async fn settle_import(
        &self,
        epoch: u64,
        config_epoch: u64,
        job: &str,
        outcome: Outcome,
    ) -> Result<(), Refusal> {
        let line = match outcome {
            Outcome::Taken => format!("the slots of job {job} are taken in config epoch {config_epoch}"),
            Outcome::Void => format!("the import of job {job} has failed"),
        };
        self.change_slots(Some(epoch), line, |stored| migration::settle(stored, job, outcome, config_epoch)).await
    }

    /// The shard `target` has stored that the slots of that job are its own.
    ///
    /// # Errors
    /// It could not be stored, or another service decides.
    pub async fn forget_moved(&self, job: &str, target: &str) -> Result<(), Refusal> {
        let line = format!("shard {target} has stored the slots of job {job}");
        self.change_slots(None, line, |stored| {
            migration::forget(stored, job, target);
            Ok(())
        })
        .await
    }

    /// Changes what is stored as `change` does it, and answers what that answers when the change is durable: also a refusal, which may have
    /// changed something as well. The leader of `epoch` asks, or whoever may do so of another shard. `line` says what was done.
    async fn change_slots<T>(
        &self,
        epoch: Option<u64>,
        line: String,
        change: impl FnOnce(&mut ClusterSlots) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let changing = self.changing.lock().await;
        match epoch {
            Some(epoch) => self.check_slots_of(epoch)?,
            None => self.check_slots_known()?,
        }
        let mut manifest = self.store.manifest().next();
        let stored = manifest.cluster.unwrap_or_default();
        let mut changed = stored.clone();
        let answer = change(&mut changed);
        if changed == stored {
            drop(changing);
            self.confirm().await?;
            return answer;
        }
        manifest.cluster = Some(changed);
        let store = self.store.clone();
        self.change_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await?;
        match &answer {
            Ok(_) => say!(self.lines, info, "shard {}: {line}", self.name),
            Err(refusal) => say!(self.lines, info, "shard {}: {}", self.name, refusal.detail),
        }
        answer
    }

    /// Refuses who does not lead in `epoch`, as an append is refused, and while it is not known what is stored.
    fn check_slots_of(&self, epoch: u64) -> Result<(), Refusal> {
        self.check_slots_known()?;
        if !rule_switches::holds(Rule::FencesSlots) {
            return Ok(());
        }
        self.accepting().epochs.check_leading(epoch).map(drop)
    }

    /// Refuses while it is not known what is stored, or if another service decides.
    fn check_slots_known(&self) -> Result<(), Refusal> {
        self.check_not_failed()?;
        self.check_decides()
    }
}

/// Refuses `next`, which a leader sets, if it takes something back of what is stored.
fn check_follows(stored: &ClusterSlots, next: &ClusterSlots) -> Result<(), Refusal> {
    // The number of the stored one, with something else: slots were taken since.
    let is_late = |next_sent, stored_sent| next_sent < stored_sent || next_sent == stored_sent && next != stored;
    let is_late = next.sent.zip(stored.sent).is_some_and(|(next, stored)| is_late(next, stored));
    if stored.epoch == next.epoch && is_late && rule_switches::holds(Rule::OrdersSlots) {
        return Err(Refusal::new(Code::Err, "these slots come late: those that were sent after them are stored"));
    }
    check_config_epoch(stored.config_epoch, next.config_epoch)?;
    let Migrations { given, grant, .. } = &stored.migrations;
    if next.slots.overlaps(given) && rule_switches::holds(Rule::KeepsGiven) {
        let text =
            "some of these slots were claimed by another shard: ask with LOG.SLOTS GET, and leave out what is given";
        return Err(Refusal::new(Code::Err, text));
    }
    let lacks_granted = |granted: &SlotRanges| !next.slots.contains_all(granted);
    if grant.as_ref().is_some_and(|grant| grant.epoch == next.epoch && lacks_granted(&grant.moving.slots)) {
        return Err(Refusal::new(
            Code::Err,
            "some slots are left out that are granted to another shard: abort that first",
        ));
    }
    Ok(())
}

fn check_config_epoch(stored: u64, next: u64) -> Result<(), Refusal> {
    if next >= stored || !rule_switches::holds(Rule::RaisesConfigEpochs) {
        return Ok(());
    }
    let text = format!(
        "config epoch {next} is lower than {stored}, which is stored: ask with LOG.SLOTS GET, and set a higher one"
    );
    Err(Refusal::new(Code::Err, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SlotGrant;

    fn set(epoch: u64, sent: Option<u64>, config_epoch: u64) -> ClusterSlots {
        ClusterSlots { config_epoch, epoch, sent, ..ClusterSlots::default() }
    }

    #[test]
    fn a_config_epoch_never_gets_lower_whoever_sets_it() {
        for epoch in [3, 4] {
            assert_eq!(check_follows(&set(3, None, 7), &set(epoch, None, 7)), Ok(()));
            assert_eq!(check_follows(&set(3, None, 7), &set(epoch, None, 8)), Ok(()));
            let refusal = check_follows(&set(3, None, 7), &set(epoch, None, 6)).expect_err("lower");
            assert_eq!(refusal.code, Code::Err);
            assert!(refusal.detail.starts_with("config epoch 6 is lower than 7"), "{refusal}");
        }
    }

    #[test]
    fn what_was_sent_earlier_in_the_same_epoch_comes_late() {
        let late = check_follows(&set(3, Some(5), 7), &set(3, Some(4), 7)).expect_err("late");
        assert!(late.detail.starts_with("these slots come late"), "{late}");
        for (epoch, sent) in [(3, Some(5)), (3, Some(6)), (3, None), (4, Some(1))] {
            assert_eq!(check_follows(&set(3, Some(5), 7), &set(epoch, sent, 7)), Ok(()), "{epoch} {sent:?}");
        }
        assert_eq!(check_follows(&set(3, None, 7), &set(3, Some(1), 7)), Ok(()));
        // A copy of the last one, after an import was settled.
        let settled = ClusterSlots { slots: "5".parse().expect("slots"), ..set(3, Some(5), 7) };
        let late = check_follows(&settled, &set(3, Some(5), 7)).expect_err("late");
        assert!(late.detail.starts_with("these slots come late"), "{late}");
    }

    #[test]
    fn slots_that_were_given_away_or_are_granted_stay_so() {
        let slots = |slots: &str| slots.parse::<SlotRanges>().expect("slots");
        let given = Migrations { given: slots("5"), ..Migrations::default() };
        let stored = ClusterSlots { slots: slots("0-4"), migrations: given, ..set(3, None, 7) };
        let next = |epoch, set_slots: &str| ClusterSlots { slots: slots(set_slots), epoch, ..stored.clone() };
        for epoch in [3, 4] {
            assert_eq!(check_follows(&stored, &next(epoch, "0-4,6")), Ok(()));
            let refusal = check_follows(&stored, &next(epoch, "0-5")).expect_err("given");
            assert!(refusal.detail.contains("claimed by another shard"), "{refusal}");
        }
        let moving = SlotMove { job: "1".repeat(40), slots: slots("4"), shard: "t".to_owned() };
        let granted = Migrations { grant: Some(SlotGrant { moving, epoch: 3 }), ..Migrations::default() };
        let stored = ClusterSlots { migrations: granted, ..stored.clone() };
        let refusal = check_follows(&stored, &next(3, "0-3")).expect_err("granted");
        assert!(refusal.detail.contains("granted to another shard"), "{refusal}");
        // The grant of an epoch that is over is void.
        assert_eq!(check_follows(&stored, &next(4, "0-3")), Ok(()));
    }
}
