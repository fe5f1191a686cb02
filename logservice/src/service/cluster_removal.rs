//! `LOG.DROP` of a shard that several services keep: the one that decides over its log ends it, and has the cluster drop it.

use std::sync::Arc;

use durability_protocol::{Code, Refusal};

use super::removal::check_id;
use super::replication::refusal;
use super::{Service, Slot};
use crate::replica::groups::Groups;

impl Service {
    /// Drops a shard at all services. Only the service that decides over its log knows whether somebody uses it; if none decides, it can be
    /// dropped with `force` at any.
    pub(super) async fn drop_in_cluster(
        self: &Arc<Self>,
        groups: &Arc<dyn Groups>,
        name: &str,
        log_id: &str,
        force: bool,
    ) -> Result<(), Refusal> {
        let slot = self.lock().get(name).cloned();
        let Some(slot) = slot else {
            return match groups.elsewhere(name) {
                // Nobody has it but a service that is gone.
                Some(_) if force && groups.is_lost(name) => groups.drop_shard(name, log_id).await.map_err(refusal),
                Some(elsewhere) => Err(refusal(elsewhere)),
                None => Err(Refusal::no_shard(name)),
            };
        };
        self.check_not_alone(name).await?;
        if let Ok(shard) = self.opened(name, slot).await {
            check_id(name, &shard.log_id(), log_id)?;
            if !shard.decides() && (!force || shard.decider().is_some()) {
                return Err(shard.not_leader());
            }
            shard.confirm_unless(force).await?;
            shard.retire(force).await?;
        } else if !force {
            let text = format!(
                "this service's copy of shard '{name}' is not served, so it does not know whether the shard is used: ask the service that \
                 decides over its log, or drop it with FORCE"
            );
            return Err(Refusal::new(Code::Err, text));
        }
        let dropped = groups.drop_shard(name, log_id).await;
        if dropped.is_ok() {
            // Unless one of that name has been made meanwhile.
            let is_gone =
                |slot: &Arc<Slot>| slot.get().is_some_and(|open| open.as_ref().map_or(true, |open| open.has_ended()));
            let mut slots = self.lock();
            if slots.get(name).is_some_and(is_gone) {
                slots.remove(name);
            }
        } else if groups.group(name).is_some() {
            // It has ended here, and is there still, as far as is known: the next command on it opens it again.
            self.lock().insert(name.to_owned(), Arc::default());
        }
        dropped.map_err(refusal)
    }
}
