//! What leaders were told of the shard's slots, and whether it still holds.

use durability_leadership::Moment;
use durability_protocol::SlotRanges;
use logservice::store::ClusterSlots;

use crate::message::{Request, SlotsKey};
use crate::promises::Violation;

/// The newest slots that a leader was told of: that they are stored, or what is.
#[derive(Debug, Default)]
pub struct SlotsPromise {
    told: ClusterSlots,
    /// The newest epoch whose leader was told. No earlier one sets anything from then on.
    told_to: u64,
}

fn key(slots: &ClusterSlots) -> SlotsKey {
    (slots.epoch, slots.sent)
}

impl SlotsPromise {
    /// The service takes in `request`: what was promised by then is what it is answered with, or something later.
    pub fn is_asked(&self, request: &mut Request) {
        if let Request::GetSlots { after, .. } = request {
            *after = key(&self.told);
        }
    }

    /// The leader of `epoch` is told that `stored` is what is stored. `after` was promised when it asked.
    pub fn tell(&mut self, epoch: u64, stored: &ClusterSlots, after: SlotsKey) -> Result<(), Violation> {
        if key(stored) < after {
            return Err(format!("slots of {:?} were told, and those of {after:?} were promised before", key(stored)));
        }
        self.promise(epoch, stored.clone());
        Ok(())
    }

    /// The leader of `epoch` is told that its slots are stored.
    pub fn take(&mut self, epoch: u64, config_epoch: u64, slots: &SlotRanges, sent: Moment) {
        let (slots, cluster_node_id, sent) = (slots.clone(), String::new(), Some(sent.0));
        self.promise(
            epoch,
            ClusterSlots { config_epoch, slots, cluster_node_id, epoch, sent, ..ClusterSlots::default() },
        );
    }

    fn promise(&mut self, epoch: u64, told: ClusterSlots) {
        self.told_to = self.told_to.max(epoch);
        // The answer to what was sent earlier may come later.
        if key(&told) > key(&self.told) {
            self.told = told;
        }
    }

    /// What is stored is what was promised, or something later of a leader that nobody has followed.
    pub fn check(&self, stored: Option<&ClusterSlots>) -> Result<(), Violation> {
        let nothing = ClusterSlots::default();
        let (stored, told) = (stored.unwrap_or(&nothing), &self.told);
        if stored == told {
            return Ok(());
        }
        if stored.config_epoch < told.config_epoch {
            return Err(format!("config epoch {} is stored after {}", stored.config_epoch, told.config_epoch));
        }
        if stored.epoch < self.told_to {
            return Err(format!("slots of epoch {} are stored after epoch {} was told", stored.epoch, self.told_to));
        }
        match key(stored) > key(told) {
            true => Ok(()),
            false => Err(format!("slots of {:?} are stored, and those of {:?} were promised", key(stored), key(told))),
        }
    }
}
