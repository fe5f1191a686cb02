//! What a shard is in a Valkey cluster: slots and config epoch. Its leader has them stored here before anybody is told of them, and asks for
//! them when it begins to lead.

use durability_protocol::{Code, Refusal};

use super::rule_switches::{self, Rule};
use super::Shard;
use crate::base::log_throttle::say;
use crate::store::ClusterSlots;

impl Shard {
    /// What a leader has stored last. The leader of `epoch` asks.
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

    /// Stores `next`, of the leader of `next.epoch`. It is durable when this returns. Must not be dropped half-way.
    ///
    /// # Errors
    /// That epoch is over or was released, the config epoch is lower than what is stored, a later one of that leader is stored already, or it
    /// could not be stored.
    pub async fn set_cluster_slots(&self, next: ClusterSlots) -> Result<(), Refusal> {
        let changing = self.changing.lock().await;
        self.check_slots_of(next.epoch)?;
        let mut manifest = self.store.manifest().next();
        let stored = manifest.cluster.as_ref();
        stored.map_or(Ok(()), |stored| check_follows(stored, &next))?;
        if stored == Some(&next) {
            drop(changing);
            return self.confirm().await;
        }
        let line = format!("slots '{}' in config epoch {}", next.slots, next.config_epoch);
        manifest.cluster = Some(next);
        let store = self.store.clone();
        self.change_manifest(manifest, move |manifest| store.replace_manifest(manifest)).await?;
        say!(self.lines, info, "shard {}: {line}", self.name);
        Ok(())
    }

    /// Refuses who does not lead in `epoch`, as an append is refused, and while it is not known what is stored.
    fn check_slots_of(&self, epoch: u64) -> Result<(), Refusal> {
        self.check_not_failed()?;
        self.check_decides()?;
        if !rule_switches::holds(Rule::FencesSlots) {
            return Ok(());
        }
        self.accepting().epochs.check_leading(epoch).map(drop)
    }
}

/// Refuses `next` if it takes something back of what is stored.
fn check_follows(stored: &ClusterSlots, next: &ClusterSlots) -> Result<(), Refusal> {
    let is_late = stored.epoch == next.epoch && next.sent.zip(stored.sent).is_some_and(|(next, stored)| next < stored);
    if is_late && rule_switches::holds(Rule::OrdersSlots) {
        return Err(Refusal::new(Code::Err, "these slots come late: those that were sent after them are stored"));
    }
    if next.config_epoch < stored.config_epoch && rule_switches::holds(Rule::RaisesConfigEpochs) {
        let (old, new) = (stored.config_epoch, next.config_epoch);
        let text = format!(
            "config epoch {new} is lower than {old}, which is stored: ask with LOG.SLOTS GET, and set a higher one"
        );
        return Err(Refusal::new(Code::Err, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
