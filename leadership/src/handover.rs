//! The planned failover: a leader gives its lease to a node that has everything, so that nobody waits for a lease to pass.
//!
//! Writes are paused, what was written becomes durable, the target applies it, and only then the lease is released, for
//! the target alone. Until the release everything can be taken back: writes go on as if nothing had been asked.

use std::time::Duration;

use crate::{Moment, Peer};

/// A node that lives is heard of ten times a second.
const FRESH: Duration = Duration::from_millis(150);

/// What the leader does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Pause writes, and whatever else moves the stream, then tell its end in [`Observed::stream_end`].
    PauseWrites,
    /// Wait until the log has all of the stream.
    WaitDurable,
    /// Wait until the target has applied it.
    WaitTarget,
    /// Give the lease up ([`crate::Lease::give_up`]), then send `LOG.RELEASE` with the lease reserved for this node. Told
    /// once; there is no way back.
    Release {
        /// Who is to lead.
        to: String,
    },
    /// The release is on its way. Follow the log, whether or not an answer comes: without one the target waits until the
    /// lease has passed.
    Done,
    /// Take writes again: nothing happened.
    Abort(Aborted),
}

/// Why there is no failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aborted {
    /// No node was named, and none can lead.
    NoCandidate,
    /// The log service does not know the target.
    Unknown,
    /// The target leads already.
    Leads,
    /// The target has priority 0.
    NeverLeads,
    /// The target was not heard of for [`Peer::HEARD_WITHIN`].
    Silent,
    /// The leader's lease is over: it does not lead any more.
    LeaseLost,
    /// It took too long.
    TimedOut,
}

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Aborted::NoCandidate => "no other node of this shard could lead",
            Aborted::Unknown => "the log service does not know that node",
            Aborted::Leads => "that node leads already",
            Aborted::NeverLeads => "that node has priority 0: it never leads",
            Aborted::Silent => "nothing was heard of that node lately",
            Aborted::LeaseLost => "this node does not lead any more",
            Aborted::TimedOut => "it took too long, so this node goes on leading",
        })
    }
}

impl std::error::Error for Aborted {}

/// What the leader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed<'a> {
    /// When.
    pub now: Moment,
    /// Whether the lease is valid at `now`.
    pub lease_is_valid: bool,
    /// The end of the leader's stream (exclusive), once writes are paused. It may still move by what no client asked for.
    pub stream_end: Option<u64>,
    /// The offset up to which (exclusive) the log has acknowledged the stream.
    pub durable: u64,
    /// The nodes that the log service knows.
    pub peers: &'a [Peer<'a>],
}

/// A planned failover that is under way. The agent's thread owns it, and asks it again whenever something it observes has
/// changed, and at [`Handover::deadline`].
#[derive(Debug, Clone)]
pub struct Handover {
    target: String,
    deadline: Moment,
    outcome: Option<Step>,
}

impl Handover {
    /// The leader `node_id` hands over to `wanted`, or, if nobody is named, to the best node that was heard of. It takes
    /// back everything if the lease is not released within `timeout`.
    ///
    /// # Errors
    /// There is no such node, or it cannot lead. Nothing was begun.
    pub fn begin(
        now: Moment,
        node_id: &str,
        wanted: Option<&str>,
        timeout: Duration,
        peers: &[Peer<'_>],
    ) -> Result<Self, Aborted> {
        let target = match wanted {
            Some(wanted) if wanted == node_id => return Err(Aborted::Leads),
            Some(wanted) => find(peers, wanted)?,
            None => {
                let can_lead = |peer: &&Peer<'_>| peer.node_id != node_id && peer.can_lead(Peer::HEARD_WITHIN);
                peers.iter().filter(can_lead).min_by(|one, other| one.compare(other)).ok_or(Aborted::NoCandidate)?
            }
        };
        Ok(Handover { target: target.node_id.to_owned(), deadline: now.plus(timeout), outcome: None })
    }

    /// Who is to lead.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether the target was heard of a moment ago. What it told longer ago, it may have told just before it died, so writes need
    /// not be paused, and the lease is not released, until it was.
    pub fn has_heard(&self, peers: &[Peer<'_>]) -> bool {
        find(peers, &self.target).is_ok_and(|target| target.silent_for < FRESH)
    }

    /// When it is given up.
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// What to do next. [`Step::Release`] is told once and [`Step::Done`] ever after; [`Step::Abort`] stays.
    pub fn step(&mut self, observed: &Observed<'_>) -> Step {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let step = self.weigh(observed).unwrap_or_else(Step::Abort);
        self.outcome = match &step {
            Step::Release { .. } => Some(Step::Done),
            Step::Abort(_) => Some(step.clone()),
            _ => None,
        };
        step
    }

    fn weigh(&self, observed: &Observed<'_>) -> Result<Step, Aborted> {
        if !observed.lease_is_valid {
            return Err(Aborted::LeaseLost);
        }
        let target = find(observed.peers, &self.target)?;
        if observed.now >= self.deadline {
            return Err(Aborted::TimedOut);
        }
        // The end as it is now, not as it was when writes were paused: a ping in between would make the target late.
        let Some(end) = observed.stream_end else { return Ok(Step::PauseWrites) };
        Ok(if observed.durable < end {
            Step::WaitDurable
        } else if target.applied < end || !self.has_heard(observed.peers) {
            Step::WaitTarget
        } else {
            Step::Release { to: self.target.clone() }
        })
    }
}

/// The node of that name, if it can lead.
fn find<'a, 'b>(peers: &'a [Peer<'b>], node_id: &str) -> Result<&'a Peer<'b>, Aborted> {
    let peer = peers.iter().find(|peer| peer.node_id == node_id).ok_or(Aborted::Unknown)?;
    if peer.priority == 0 {
        return Err(Aborted::NeverLeads);
    }
    if !peer.can_lead(Peer::HEARD_WITHIN) {
        return Err(Aborted::Silent);
    }
    Ok(peer)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
