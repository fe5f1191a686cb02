//! Word of it when clients of a shard have to go to another address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::broadcast;

/// Clients of a shard have to go to another address.
#[derive(Debug, PartialEq, Eq)]
pub struct Switch {
    /// The shard.
    pub shard: String,
    /// Where they went before.
    pub from: String,
    /// Where they go now.
    pub to: String,
}

/// Where the changes of all shards are told. Whoever listens is given each; who is behind by more of them than it holds is told so.
///
/// A shard that several services keep is opened anew when who decides over its log changes. So what was told last is remembered here, and
/// not with the shard: each change is told once, in the order of the epochs, and none is left out that happened between two openings.
#[derive(Debug, Clone)]
pub struct Switches(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<Arc<Switch>>,
    told: Mutex<BTreeMap<String, Told>>,
}

/// Where clients of a shard go, as far as it was told.
#[derive(Debug)]
struct Told {
    log_id: String,
    epoch: u64,
    address: String,
}

impl Switches {
    /// Whoever listens may be behind by so many changes.
    pub fn new(most_behind: usize) -> Self {
        Switches(Arc::new(Inner { sender: broadcast::Sender::new(most_behind), told: Mutex::default() }))
    }

    /// All that is told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Switch>> {
        self.0.sender.subscribe()
    }

    /// Clients of the shard with the log `log_id` go to `address` since `epoch` began to write. Tells of it if they went elsewhere before,
    /// and returns what it tells. An epoch that is older than one that was told of is nothing new.
    pub fn note(&self, shard: &str, log_id: &str, epoch: u64, address: &str) -> Option<Arc<Switch>> {
        let mut all = self.told();
        let next = || Told { log_id: log_id.to_owned(), epoch, address: address.to_owned() };
        let Some(told) = all.get_mut(shard).filter(|told| told.log_id == log_id) else {
            // The first that is known of this log.
            all.insert(shard.to_owned(), next());
            return None;
        };
        if epoch < told.epoch {
            return None;
        }
        let Told { address: from, .. } = std::mem::replace(told, next());
        if from == address {
            return None;
        }
        let switch = Arc::new(Switch { shard: shard.to_owned(), from, to: address.to_owned() });
        // Fails if nobody listens. While what was told is locked, so that all hear it in this order.
        let _ = self.0.sender.send(switch.clone());
        Some(switch)
    }

    /// The shard is gone.
    pub fn forget(&self, shard: &str) {
        self.told().remove(shard);
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<String, Told>> {
        self.0.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_and_in_the_order_of_the_epochs() {
        let switches = Switches::new(8);
        let mut heard = switches.subscribe();
        for (epoch, address) in [(3, "a:1"), (3, "a:1"), (5, "b:1"), (4, "a:1"), (5, "b:1"), (6, "b:1"), (7, "c:1")] {
            switches.note("s1", "log", epoch, address);
        }
        // Another log under the same name begins at an epoch of its own.
        switches.note("s1", "other", 1, "d:1");
        switches.note("s1", "other", 2, "e:1");
        switches.forget("s1");
        switches.note("s1", "other", 1, "f:1");
        let told: Vec<_> =
            std::iter::from_fn(|| heard.try_recv().ok()).map(|one| (one.from.clone(), one.to.clone())).collect();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(told, [pair("a:1", "b:1"), pair("b:1", "c:1"), pair("d:1", "e:1")]);
    }
}
