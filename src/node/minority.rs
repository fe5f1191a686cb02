//! A leader that the majority of its cluster's primaries does not see answers no client of the cluster, although its log does not mind. If it
//! stays so for longer than a lease, it hands over to a node of its shard that says to the log that it sees the majority. If there is none,
//! nothing would be better with another leader, and it goes on. Main thread only.

use std::time::Instant;

use durability_leadership::Peer;
use valkey_module::logging::log_warning;

use crate::decide::minority::{better_off, Found};
use crate::exchange::lease_clock;
use crate::lead::planned_failover::FailoverRequest;
use crate::node::hand_over::{self, DEFAULT_TIMEOUT};
use crate::node::{Module, Role};
use crate::server::cluster::is_enabled;
use crate::server::cluster::membership::Membership;
use crate::settings;

/// Whether this node sees the majority of its cluster's primaries; none outside of cluster mode, and while that is not known yet.
pub fn sees_majority() -> Option<bool> {
    if is_enabled() {
        Membership::get()?.sees_majority()
    } else {
        None
    }
}

/// Hands over if it is time for that. Before the server sleeps.
#[inline]
pub fn look(module: &mut Module) {
    if !is_enabled() {
        return;
    }
    if module.role != Role::Leader || sees_majority() != Some(false) {
        module.minority.is_over();
        return;
    }
    let now = Instant::now();
    if module.minority.is_time_to_look(now, settings::lease()) {
        look_for_better(module, now);
    }
}

#[cold]
fn look_for_better(module: &mut Module, now: Instant) {
    let Some(view) = module.shared.view() else { return };
    let sees = view.nodes.iter().map(|node| node.sees_majority);
    let own = module.shared.node_id();
    let peers: Vec<(Peer<'_>, Option<bool>)> = view.peers().into_iter().zip(sees).collect();
    let target = better_off(&own, peers.into_iter());
    let (found, lasts) =
        (module.minority.found(now, target, DEFAULT_TIMEOUT), module.minority.lasts(now).as_secs_f64());
    let sees_none =
        format!("durability: this leader has not seen the majority of the cluster's primaries for {lasts:.1} s");
    let target = match (found, target) {
        (Found::HandsOver, Some(target)) => target,
        (Found::SaysNone, _) => {
            log_warning(format!("{sees_none}, and no other node of the shard says that it does: going on"));
            return;
        }
        _ => return,
    };
    log_warning(format!("{sees_none}: handing over to {target}, which does"));
    let request = FailoverRequest { to: Some(target.to_owned()), asked: lease_clock::now(), timeout: DEFAULT_TIMEOUT };
    if let Err(why) = hand_over::begin(module, request) {
        log_warning(format!("durability: not handing over: {why}"));
        module.shared.failover_ended(&why);
    }
}
