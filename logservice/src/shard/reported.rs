//! What the service that decides over a log tells the others of the shard: its nodes, and whether one leads. The others show that to clients.
//! It is told every half second, and kept in memory only. Nothing that is stored, and no lease, rests on it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::nodes::NodeReport;
use super::{LeaseLeft, Shard};

/// A service that was not told anything for so long does not know any more whether anybody leads.
pub const DECIDER_SILENT_AFTER: Duration = Duration::from_secs(2);

/// An operator has chosen which service decides over the log (`LOG.CLUSTER MOVE`). Of two choices the greater one is the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Chosen {
    /// The epoch that it was made in, and that it is for.
    pub epoch: u64,
    /// Which choice in that epoch it is.
    pub number: u64,
    /// The service.
    pub member: u64,
}

/// Where the decision over a log was put, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// How long ago it was last handed to the zone of the leader; none if it was not.
    pub moved_ago: Option<Duration>,
    /// The last choice of an operator.
    pub chosen: Option<Chosen>,
}

/// What the service that decides over a log knows of the shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Name of the shard.
    pub shard: String,
    /// The consensus term in which that service decides.
    pub term: u64,
    /// The newest epoch.
    epoch: u64,
    /// Whether a node leads in it, and its lease has not passed.
    leads: bool,
    /// Milliseconds since the decision was last handed to the zone of the leader; none if it was not, as far as is known.
    moved_ago_ms: Option<u64>,
    /// The last choice of an operator. A version that does not know of choices tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<Chosen>,
    nodes: Vec<NodeReport>,
}

impl ShardReport {
    /// Where the decision was put.
    pub fn placed(&self) -> Placed {
        Placed { moved_ago: self.moved_ago_ms.map(Duration::from_millis), chosen: self.chosen }
    }
}

/// What a service that follows was told last.
#[derive(Debug, Clone)]
pub(super) struct Reported {
    /// When; at first, when the shard was opened.
    at: Instant,
    term: u64,
    epoch: u64,
    leads: bool,
    /// Why the decision is not where the leader is; empty if it is, or zones are not known.
    placement: String,
}

impl Reported {
    /// Nothing was told yet.
    pub fn new(now: Instant) -> Self {
        Reported { at: now, term: 0, epoch: 0, leads: true, placement: String::new() }
    }
}

impl Shard {
    /// What this service, which decides in `term`, tells the others.
    pub fn report(&self, term: u64, placed: Placed) -> ShardReport {
        let now = self.environment.now();
        let (epoch, leads) = {
            let accepting = self.accepting();
            let left = accepting.epochs.lease_left(now);
            (accepting.epochs.epoch(), !matches!(left, LeaseLeft::Nobody | LeaseLeft::For(Duration::ZERO)))
        };
        ShardReport {
            shard: self.name.clone(),
            term,
            epoch,
            leads,
            moved_ago_ms: placed.moved_ago.map(|ago| ago.as_millis() as u64),
            chosen: placed.chosen,
            nodes: self.nodes().report(now),
        }
    }

    /// Takes what the service that decides has told. False if this service decides itself, or has heard from one that decides later.
    pub fn hear_report(&self, report: ShardReport) -> bool {
        let now = self.environment.now();
        let ShardReport { term, epoch, leads, nodes, .. } = report;
        if !self.acceptance.follows {
            return false;
        }
        let mut reported = self.reported();
        if term < reported.term {
            return false;
        }
        *reported = Reported { at: now, term, epoch, leads, placement: std::mem::take(&mut reported.placement) };
        drop(reported);
        self.nodes().take_report(nodes, now);
        true
    }

    /// The shard was opened before as `old`: what was known then is not forgotten.
    pub fn continue_from(&self, old: &Shard) {
        let now = self.environment.now();
        let before = old.reported().clone();
        // Who decided itself has known until now.
        let at = if old.acceptance.follows { before.at } else { now };
        *self.reported() = Reported { at, placement: String::new(), ..before };
        let nodes = old.nodes().clone();
        *self.nodes() = nodes;
    }

    /// For how long this service was told nothing by one that decides; zero if it decides itself.
    pub fn decider_silent(&self) -> Duration {
        match self.acceptance.follows {
            true => self.environment.now().saturating_duration_since(self.reported().at),
            false => Duration::ZERO,
        }
    }

    /// Whether the leader of `epoch` still has the lease, as far as a service knows that does not decide.
    pub(super) fn leads_by_report(&self, epoch: u64) -> bool {
        if !self.acceptance.follows {
            return true;
        }
        // A report of an earlier epoch says nothing of this one, which is in the log.
        let reported = self.reported();
        let says_not = reported.epoch == epoch && !reported.leads;
        !says_not && self.environment.now().saturating_duration_since(reported.at) < DECIDER_SILENT_AFTER
    }

    /// The epoch in which a node leads and may answer its clients, and the zone of that node, which is empty if it tells none. Of the service
    /// that decides.
    pub fn leading_zone(&self) -> Option<(u64, String)> {
        let primary = self.primary().filter(|primary| primary.leads)?;
        Some((primary.epoch, self.nodes().zone(&primary.node_id).to_owned()))
    }

    /// The newest epoch that this service knows.
    pub fn newest_epoch(&self) -> u64 {
        self.accepting().epochs.epoch()
    }

    /// Why the decision is not where the leader is, for its status; empty if it is.
    pub fn show_placement(&self, why: &str) {
        let mut reported = self.reported();
        if reported.placement != why {
            why.clone_into(&mut reported.placement);
        }
    }

    pub(super) fn placement(&self) -> String {
        self.reported().placement.clone()
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
