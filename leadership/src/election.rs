//! A follower's decision: when to try to lead.
//!
//! Nothing here keeps two nodes from leading; the log service does, which grants one lease at a time, at the log's end.
//! This is about who asks first: the best candidate almost at once, and the others only if it does not.

use std::time::Duration;

use crate::{Moment, Peer};

/// After a refusal a node waits at least this long: what the log service said just before was not so any more.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// How nodes that could all lead give way to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// For each better node that was heard of, a node waits this long: more than the best one needs to learn that the lease
    /// is free and to acquire it, a few round trips and syncs on a bad day.
    pub step: Duration,
    /// Each node waits a random part of this in addition, as two may both believe to be the best.
    pub jitter: Duration,
    /// Nodes that were not heard of for so long do not count.
    pub heard_within: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Pacing { step: Duration::from_millis(150), jitter: Duration::from_millis(50), heard_within: Peer::HEARD_WITHIN }
    }
}

/// The node that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Its name.
    pub node_id: &'a str,
    /// Its priority; 0 never leads.
    pub priority: u32,
    /// The offset up to which (exclusive) it has applied the log.
    pub applied: u64,
    /// Whether its link to the log is up. Otherwise what it knows of the log may be long past.
    pub is_connected: bool,
}

/// Who holds the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// Nobody.
    Nobody,
    /// An earlier life of the node that decides, which is over for certain, or whose lease does not expire.
    EarlierLife,
    /// A node, or another process that goes by the same name as the one that decides.
    Node {
        /// Its name.
        node_id: &'a str,
        /// For how long the log service keeps others out, from its answer on: zero when that has passed, none if the lease
        /// does not expire.
        left: Option<Duration>,
    },
}

/// The log service's last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View<'a> {
    /// When it arrived.
    pub answered: Moment,
    /// Who holds the lease.
    pub holder: Holder<'a>,
    /// For whom the lease is reserved at the time, by a leader that handed over.
    pub reserved_for: Option<&'a str>,
    /// The end of the log (exclusive).
    pub end: u64,
    /// The nodes that the log service knows. The one that decides may be among them.
    pub peers: &'a [Peer<'a>],
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet. Ask the log service, so that an answer is there at `until` at the latest, and decide again.
    Wait {
        /// Never more than half of [`Pacing::heard_within`] ahead, so that asking keeps this node known.
        until: Moment,
    },
    /// Send `LOG.ACQUIRE` now. If that is refused, call [`Election::refused`], ask, and decide again.
    Acquire {
        /// What this node has applied, which is to be the log's end.
        expected_end: u64,
    },
    /// The lease could be had, but this node does not stand at the log's end. Apply what is missing, or ask again if the
    /// answer is older than what was applied, and decide again.
    CatchUp,
    /// This node never leads: its priority is 0.
    Never,
}

/// What a follower remembers between its decisions. The agent's thread owns it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Election {
    /// Since when this node knows that it could have the lease, and the random part of its delay, drawn then: one that
    /// was drawn anew for each decision would soon be small.
    free: Option<(Moment, Duration)>,
}

impl Election {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Election { free: None }
    }

    /// What `node` does at `now`, knowing `view`. `draw` is a random number, of which all 64 bits count.
    ///
    /// A node whose own earlier life holds the lease does not wait, as nobody else can have it. That this life is over is for
    /// the caller to know.
    pub fn decide(
        &mut self,
        now: Moment,
        node: &Standing<'_>,
        view: &View<'_>,
        pacing: &Pacing,
        draw: u64,
    ) -> Decision {
        if node.priority == 0 {
            return Decision::Never;
        }
        let look_again = now.plus(pacing.heard_within / 2);
        if !node.is_connected {
            self.free = None;
            return Decision::Wait { until: look_again };
        }
        match (view.holder, view.reserved_for) {
            (Holder::EarlierLife, _) => {}
            (Holder::Node { left: None, .. }, _) => {
                self.free = None;
                return Decision::Wait { until: look_again };
            }
            (Holder::Node { left: Some(left), .. }, _) if !left.is_zero() => {
                self.free = None;
                return Decision::Wait { until: view.answered.plus(left).clamp(now, look_again) };
            }
            (_, Some(reserved_for)) if reserved_for == node.node_id => {}
            (_, Some(_)) => {
                self.free = None;
                return Decision::Wait { until: now.plus(pacing.step).min(look_again) };
            }
            (_, None) => {
                let (since, jitter) = *self.free.get_or_insert((now, part_of(pacing.jitter, draw)));
                let until = since.plus(delay(node, view, pacing, jitter));
                if now < until && node.applied == view.end {
                    return Decision::Wait { until: until.min(look_again) };
                }
            }
        }
        if node.applied != view.end {
            return Decision::CatchUp;
        }
        Decision::Acquire { expected_end: node.applied }
    }

    /// The log service refused what was tried (`-GAP`, `-LEASED`): the same rules again, counted from `now` on.
    pub fn refused(&mut self, now: Moment, pacing: &Pacing, draw: u64) {
        self.free = Some((now.plus(RETRY_AFTER), part_of(pacing.jitter, draw)));
    }
}

impl Default for Election {
    fn default() -> Self {
        Self::new()
    }
}

/// How long `node` leaves a free lease to others.
fn delay(node: &Standing<'_>, view: &View<'_>, pacing: &Pacing, jitter: Duration) -> Duration {
    let own =
        Peer { node_id: node.node_id, priority: node.priority, applied: node.applied, silent_for: Duration::ZERO };
    let is_other = |peer: &&Peer<'_>| peer.node_id != own.node_id && peer.can_lead(pacing.heard_within);
    let others = view.peers.iter().filter(is_other);
    if others.clone().next().is_none() {
        // Nobody to give way to: a node alone leads at once.
        return Duration::ZERO;
    }
    let rank = others.filter(|peer| peer.compare(&own).is_lt()).count();
    pacing.step.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX)).saturating_add(jitter)
}

/// A part of `whole`, from nothing to all of it, chosen by a random number.
fn part_of(whole: Duration, draw: u64) -> Duration {
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos.checked_add(1).map_or(draw, |count| draw % count))
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
