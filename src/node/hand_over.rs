//! Planned failovers that somebody asks for. Main thread only.

use std::time::Duration;

use durability_leadership::Handover;
use valkey_module::logging::{log_notice, log_warning};

use crate::exchange::lease_clock;
use crate::lead::planned_failover::FailoverRequest;
use crate::node::{Module, Role};
use crate::server::cluster::membership::Membership;
use crate::server::cluster::messages;

/// How long a planned failover may take unless something else is asked for.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Has this node hand over, if it leads. In a cluster, a node that follows asks the leader to hand over to it.
///
/// # Errors
/// What is wrong already, for the user to read.
pub fn begin(module: &mut Module, request: FailoverRequest) -> Result<(), String> {
    if module.role != Role::Leader {
        if asks_for_itself(module, &request) {
            return Ok(());
        }
        let role = module.role.name();
        let leader = module.shared.view().map(|view| format!(" ({} at {})", view.leader, view.leader_address));
        let leader = leader.unwrap_or_default();
        return Err(format!("the role of this node is {role}: ask the leader{leader} to hand over"));
    }
    let Some(view) = module.shared.view() else {
        return Err("the log service has not reported any nodes yet".to_owned());
    };
    // Answers at once what is wrong already.
    let node_id = module.shared.node_id();
    Handover::begin(lease_clock::now(), &node_id, request.to.as_deref(), request.timeout, &view.peers())
        .map_err(|why| why.to_string())?;
    module.shared.failover_ended("");
    module.keeper.hand_over(request);
    Ok(())
}

/// In a cluster: asks the leader to hand over to this node, if that is what the request is. Returns whether it was asked.
fn asks_for_itself(module: &Module, request: &FailoverRequest) -> bool {
    let own = module.shared.node_id();
    let is_for_itself = module.role == Role::Follower && request.to.as_deref() == Some(own.as_str());
    let leader = Membership::get().and_then(|cluster| cluster.primary_id()).filter(|_| is_for_itself);
    leader.is_some_and(|leader| messages::ask_to_hand_over(&module.ctx, &leader, &own))
}

/// A node of the cluster asks this one to hand over to it.
pub fn asked_by_node(module: &mut Module, node_id: &str) {
    log_notice(format!("durability: {node_id} asks for leadership"));
    let request = FailoverRequest { to: Some(node_id.to_owned()), asked: lease_clock::now(), timeout: DEFAULT_TIMEOUT };
    if let Err(why) = begin(module, request) {
        log_warning(format!("durability: not handing over to {node_id}: {why}"));
        module.shared.failover_ended(&why);
    }
}
