//! The service that decides over a log sits in the zone of the node that leads, if there is one there and all is well: an append crosses
//! zones once then, and not twice. Each service looks after the logs over which it decides, and hands them over.
//!
//! # Rules
//!
//! 1. A decision is handed over only to a service that was heard a moment ago and has nearly all of the log, and only when the node has led,
//!    and this service has decided, for a while: not in the middle of an outage.
//! 2. It is handed over for the sake of zones at most once a minute, by whichever service: each tells the others when it was
//!    ([`Placed`]).
//! 3. A service that an operator has chosen (`moving.rs`) keeps the decision until another node leads, or the same one in another epoch.
//! 4. Nothing that is safe rests on it. A handover that fails leaves the decision where it is, and is tried again after ten seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replication::CopyStatus;
use super::Service;
use crate::replica::groups::Groups;
use crate::shard::{Chosen, Placed, Shard};

/// How often it is looked where decisions are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For how long this service has to have decided, and the node to have led.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// How far apart two handovers of a log are at least.
const MOVED_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// The same after one that has failed: appends have waited in vain.
const TRIED_AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// The most entries that the copy may lack to which a decision is handed over. Appends wait until it has them.
const MOST_LAG: u64 = 256;

/// What is known when it is looked.
struct Facts<'a> {
    /// The member id of this service.
    own: u64,
    /// Its zone.
    own_zone: &'a str,
    /// The consensus term in which it decides.
    term: u64,
    /// The epoch in which a node leads, and the zone of that node.
    leader: Option<(u64, &'a str)>,
    copies: &'a [CopyStatus],
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The decision is in the right zone, or zones are not known.
    InPlace,
    /// It stays, for that reason.
    Stays(String),
    /// It is handed over to the service of that id and name.
    Moves(u64, String),
}

/// Where the decision over one log was when it was last looked. Plain logic: the clock is passed in.
#[derive(Debug, Default)]
struct Placement {
    /// The term in which this service decides, and since when it was seen to.
    decides: Option<(u64, Instant)>,
    /// The epoch in which a node leads, and since when it was seen to.
    led: Option<(u64, Instant)>,
    /// When the decision was handed over last, by whichever service.
    moved: Option<Instant>,
    /// The term in which this service has tried to hand it over last, and when. If it still decides in that term, that has failed.
    tried: Option<(u64, Instant)>,
    /// The last choice of an operator, as far as this service has heard.
    chosen: Option<Chosen>,
}

/// Those of all shards.
#[derive(Debug, Default)]
pub(super) struct Placements(BTreeMap<String, Placement>);

impl Placement {
    fn look(&mut self, facts: &Facts<'_>, now: Instant) -> Verdict {
        let since = |seen: &mut Option<(u64, Instant)>, what: u64| match *seen {
            Some((known, since)) if known == what => since,
            _ => seen.insert((what, now)).1,
        };
        let decides_since = since(&mut self.decides, facts.term);
        let Some((epoch, zone)) = facts.leader else {
            self.led = None;
            return Verdict::InPlace;
        };
        let led_since = since(&mut self.led, epoch);
        if zone.is_empty() || zone == facts.own_zone {
            return Verdict::InPlace;
        }
        if self.chosen.is_some_and(|chosen| chosen.epoch == epoch && chosen.member == facts.own) {
            return Verdict::Stays("LOG.CLUSTER MOVE has chosen this service, until another node leads".to_owned());
        }
        let there = facts.copies.iter().filter(|copy| copy.service.zone == zone && copy.votes);
        let best = there.max_by_key(|copy| (copy.is_heard && copy.service.is_connected, copy.matched));
        let Some(CopyStatus { service, lag, is_heard, .. }) = best else {
            return Verdict::Stays(format!("no log service is in zone {zone}, where the node that leads is"));
        };
        let name = &service.name;
        if !is_heard || !service.is_connected {
            return Verdict::Stays(format!("service {name} in zone {zone} is not heard"));
        }
        if *lag > MOST_LAG {
            return Verdict::Stays(format!("service {name} in zone {zone} is {lag} entries behind"));
        }
        let is_young = |since: Instant| now.saturating_duration_since(since) < SETTLED_AFTER;
        if is_young(decides_since) || is_young(led_since) {
            let settled_s = SETTLED_AFTER.as_secs();
            return Verdict::Stays(format!(
                "who leads or decides has changed within {settled_s} s: soon service {name} decides"
            ));
        }
        let has_failed = self.tried.is_some_and(|(term, at)| term == facts.term && self.moved == Some(at));
        let every = if has_failed { TRIED_AT_MOST_EVERY } else { MOVED_AT_MOST_EVERY };
        if self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < every) {
            let every_s = every.as_secs();
            return Verdict::Stays(format!("handed over within {every_s} s: later service {name} decides"));
        }
        (self.moved, self.tried) = (Some(now), Some((facts.term, now)));
        Verdict::Moves(service.member, name.clone())
    }

    /// An operator chooses a service, for as long as `epoch` is the newest.
    fn choose(&mut self, epoch: u64, member: u64) {
        let number = self.chosen.filter(|chosen| chosen.epoch == epoch).map_or(1, |chosen| chosen.number + 1);
        // A choice in a later epoch would have been heard from who decided then.
        self.chosen = self.chosen.max(Some(Chosen { epoch, number, member }));
    }
}

impl Service {
    /// Looks after the logs over which this service decides, for as long as it is there. Must run within the runtime.
    pub(super) fn keep_placement(&self) {
        let Some(groups) = self.groups().cloned() else { return };
        let this = self.this.clone();
        tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let Some(service) = this.upgrade() else { return };
                for shard in service.open_shards().into_iter().filter(|shard| shard.decides()) {
                    service.place(&groups, &shard).await;
                }
            }
        });
    }

    /// Hands the decision over a log to the zone of the node that leads, if it is to be there.
    async fn place(&self, groups: &Arc<dyn Groups>, shard: &Arc<Shard>) {
        let Some(group) = groups.group(shard.name()) else { return };
        let Some(term) = group.view().leads_in else { return };
        let own_zone = groups.services().into_iter().find(|service| service.member == groups.member());
        let own_zone = own_zone.map(|own| own.zone).unwrap_or_default();
        let leader = shard.leading_zone();
        let is_elsewhere = leader.as_ref().is_some_and(|(_, zone)| !zone.is_empty() && *zone != own_zone);
        let copies = if is_elsewhere { self.copies(shard).await } else { Vec::new() };
        if is_elsewhere && copies.is_empty() {
            // It decides no more.
            return;
        }
        let facts = Facts {
            own: groups.member(),
            own_zone: &own_zone,
            term,
            leader: leader.as_ref().map(|(epoch, zone)| (*epoch, zone.as_str())),
            copies: &copies,
        };
        let verdict = self.placements().0.entry(shard.name().to_owned()).or_default().look(&facts, Instant::now());
        match verdict {
            Verdict::InPlace => shard.show_placement(""),
            Verdict::Stays(why) => shard.show_placement(&why),
            Verdict::Moves(member, name) => {
                let zone = facts.leader.map_or("", |(_, zone)| zone);
                tracing::info!(
                    "shard {}: service {name} is to decide over the log, as it is in zone {zone}, where the node that leads is",
                    shard.name()
                );
                shard.show_placement(&format!("being handed over to service {name}"));
                // First, so that whoever decides next knows when that was. The third service hears it from that one.
                match self.tell(groups, &name, shard.report(term, self.placed(shard.name()))).await {
                    Ok(()) => {
                        groups.address_of(member).into_iter().for_each(|address| shard.hand_over_to(address));
                        group.transfer_to(member);
                    }
                    Err(why) => shard.show_placement(&format!("service {name} in zone {zone} did not answer: {why}")),
                }
            }
        }
    }

    /// Where the decision over a log was put.
    pub(super) fn placed(&self, shard: &str) -> Placed {
        let placements = self.placements();
        let Some(placement) = placements.0.get(shard) else { return Placed::default() };
        Placed { moved_ago: placement.moved.map(|moved| moved.elapsed()), chosen: placement.chosen }
    }

    /// Another service has told where the decision over a log was put.
    pub(super) fn note_placed(&self, shard: &str, placed: Placed) {
        let moved = placed.moved_ago.and_then(|ago| Instant::now().checked_sub(ago));
        if moved.is_none() && placed.chosen.is_none() {
            return;
        }
        let mut placements = self.placements();
        let placement = placements.0.entry(shard.to_owned()).or_default();
        placement.moved = placement.moved.max(moved);
        placement.chosen = placement.chosen.max(placed.chosen);
    }

    /// An operator chooses the service that decides over a log, for as long as `epoch` is the newest.
    pub(super) fn note_chosen(&self, shard: &str, epoch: u64, member: u64) {
        self.placements().0.entry(shard.to_owned()).or_default().choose(epoch, member);
    }

    /// The shard is gone.
    pub(super) fn forget_placement(&self, shard: &str) {
        self.placements().0.remove(shard);
    }

    fn placements(&self) -> std::sync::MutexGuard<'_, Placements> {
        self.placements.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
