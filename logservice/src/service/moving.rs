//! `LOG.CLUSTER MOVE`: an operator says which service decides over a shard's log. Its word counts more than zones (`placement.rs`): the service
//! that is chosen hears so before it decides, and keeps the decision until another node leads.

use std::sync::Arc;

use super::Service;
use crate::replica::groups::{ClusterError, Groups};
use crate::shard::Shard;

impl Service {
    /// Has the service `to`, by name or id, decide over a shard's log. Of the service that decides now.
    ///
    /// # Errors
    /// It does not; or that service cannot be told, or does not come to decide.
    pub async fn move_decision(&self, groups: &Arc<dyn Groups>, name: &str, to: &str) -> Result<(), ClusterError> {
        // What is wrong with names, and where else it is to be said, is told below.
        if let Some(shard) = self.served_shard(name).filter(|shard| shard.decides()) {
            self.choose(groups, &shard, to).await?;
        }
        groups.move_decision(name, to).await
    }

    async fn choose(&self, groups: &Arc<dyn Groups>, shard: &Shard, to: &str) -> Result<(), ClusterError> {
        let is_meant = |name: &str, member: u64| name == to || to == format!("{member:016x}");
        let services = groups.services();
        let Some(chosen) = services.into_iter().find(|service| is_meant(&service.name, service.member)) else {
            return Ok(());
        };
        let Some(term) = groups.group(shard.name()).and_then(|group| group.view().leads_in) else { return Ok(()) };
        self.note_chosen(shard.name(), shard.newest_epoch(), chosen.member);
        if chosen.member != groups.member() {
            let told = self.tell(groups, &chosen.name, shard.report(term, self.placed(shard.name()))).await;
            told.map_err(|why| ClusterError::Refused(format!("service {} does not answer: {why}", chosen.name)))?;
        }
        Ok(())
    }
}
