//! When a leader that the majority of its cluster does not see looks for a node of its shard that is better off.

use std::time::{Duration, Instant};

use durability_leadership::Peer;

/// Since when this node sees no majority, and what it has found since.
#[derive(Debug, Default)]
pub struct Minority {
    since: Option<Instant>,
    next_look: Option<Instant>,
    /// Who was better off at the last look; none if nobody was.
    better: Option<String>,
    has_found_none: bool,
}

/// What follows from a look at the other nodes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// This node hands over to the one that is better off.
    HandsOver,
    /// No node is better off, which is to be said once.
    SaysNone,
    /// Nothing yet.
    Waits,
}

impl Minority {
    /// This node sees the majority, or does not lead.
    pub fn is_over(&mut self) {
        *self = Minority::default();
    }

    /// This node leads and sees no majority. Whether it is to look at the other nodes now: when that has lasted for `patience`, and again
    /// after a quarter of it.
    pub fn is_time_to_look(&mut self, now: Instant, patience: Duration) -> bool {
        self.since.get_or_insert(now);
        let is_time = now >= *self.next_look.get_or_insert(now + patience);
        if is_time {
            self.next_look = Some(now + patience / 4);
        }
        is_time
    }

    /// That node is better off, or none is. A node has to be at two looks: nodes do not notice at the same time that the majority is there
    /// again. Once this node hands over, it looks again only after `attempt`.
    pub fn found(&mut self, now: Instant, better: Option<&str>, attempt: Duration) -> Found {
        let Some(better) = better else {
            self.better = None;
            return if std::mem::replace(&mut self.has_found_none, true) { Found::Waits } else { Found::SaysNone };
        };
        if self.better.as_deref() == Some(better) {
            self.next_look = Some(now + attempt);
            self.better = None;
            return Found::HandsOver;
        }
        self.better = Some(better.to_owned());
        Found::Waits
    }

    /// How long that has lasted.
    pub fn lasts(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// Of other nodes, each with whether it says that it sees the majority: the one that is to lead. None if none is better off than `own`, a
/// node that sees none.
pub fn better_off<'a>(own: &str, nodes: impl Iterator<Item = (Peer<'a>, Option<bool>)>) -> Option<&'a str> {
    let sees = nodes.filter(|(_, sees_majority)| *sees_majority == Some(true)).map(|(peer, _)| peer);
    let can_lead = sees.filter(|peer| peer.node_id != own && peer.can_lead(Peer::HEARD_WITHIN));
    can_lead.min_by(Peer::compare).map(|peer| peer.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_hands_over_to_a_node_that_stays_better_off() {
        let (mut minority, start) = (Minority::default(), Instant::now());
        let (patience, attempt) = (Duration::from_secs(2), Duration::from_secs(10));
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!minority.is_time_to_look(at(0), patience) && !minority.is_time_to_look(at(1999), patience));
        assert!(minority.is_time_to_look(at(2000), patience));
        assert_eq!(minority.found(at(2000), None, attempt), Found::SaysNone);
        assert!(!minority.is_time_to_look(at(2499), patience) && minority.is_time_to_look(at(2500), patience));
        assert_eq!(minority.found(at(2500), None, attempt), Found::Waits, "it was said");
        assert_eq!(minority.found(at(3000), Some("a"), attempt), Found::Waits);
        assert_eq!(minority.found(at(3500), Some("b"), attempt), Found::Waits);
        assert_eq!(minority.found(at(4000), Some("b"), attempt), Found::HandsOver);
        assert!(!minority.is_time_to_look(at(13_999), patience), "it is under way");
        assert!(minority.is_time_to_look(at(14_000), patience));
        assert_eq!(minority.lasts(at(14_000)), Duration::from_secs(14));
        minority.is_over();
        assert_eq!(minority.lasts(at(14_100)), Duration::ZERO);
        assert!(!minority.is_time_to_look(at(14_100), patience), "it begins anew");
    }

    #[test]
    fn the_best_of_those_that_see_the_majority_is_to_lead() {
        let peer = |node_id, priority, silent_ms| Peer {
            node_id,
            priority,
            applied: 7,
            silent_for: Duration::from_millis(silent_ms),
        };
        let chosen = |nodes: &[(Peer<'static>, Option<bool>)]| better_off("own", nodes.iter().copied());
        let cut_off = [(peer("own", 100, 0), Some(true)), (peer("a", 900, 0), Some(false)), (peer("b", 900, 0), None)];
        assert_eq!(chosen(&cut_off), None, "to hand over would make nothing better");
        let with = |more: &[(Peer<'static>, Option<bool>)]| [&cut_off[..], more].concat();
        assert_eq!(chosen(&with(&[(peer("never", 0, 0), Some(true)), (peer("silent", 1, 2000), Some(true))])), None);
        assert_eq!(chosen(&with(&[(peer("d", 1, 0), Some(true)), (peer("c", 1, 0), Some(true))])), Some("c"));
    }
}
