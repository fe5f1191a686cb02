//! What a leader knows, and how it takes what it is told.

use std::time::Duration;

use durability_leadership::{Lease, Moment};
use durability_protocol::{Code, Refusal, SlotRanges};

use crate::draw::Draw;
use crate::message::{Answer, NodeIndex, Request};
use crate::node::Node;
use crate::profile::Profile;
use crate::rules::NodeRule;

/// For how long an answer to a seed is waited for.
const SEED_AT_MOST: Duration = Duration::from_millis(500);

/// A leader.
pub struct Leading {
    /// Its epoch.
    pub epoch: u64,
    /// Its lease.
    pub lease: Lease,
    /// The length that it asked for last.
    lease_ms: u64,
    /// When it first asked for that.
    length_since: Moment,
    /// The replication id under which it writes.
    pub replid: String,
    /// Where its epoch begins.
    began_at: u64,
    /// Whether the log knows where it begins.
    pub has_begun: bool,
    /// Everything below is acknowledged by the log.
    pub acknowledged: u64,
    /// Everything below was sent since it connected.
    pub shipped: u64,
    /// Its next append goes out on a new connection, and it hears nothing on the one before.
    pub connects_anew: bool,
    /// Its lease was over, and it closed its clients.
    is_suspended: bool,
    /// It gave the lease back, or is about to.
    has_given_up: bool,
    /// The log is to be begun anew from what this leader holds. Nothing else is sent before it is.
    needs_seed: bool,
    /// Until when an answer to a seed is waited for.
    seeding: Option<Moment>,
    /// It has asked to begin, and was not answered. Then it seldom asks again: on a new connection, the answer to this one is not heard.
    is_beginning: bool,
    /// The same of a renewal.
    is_renewing: bool,
    /// The newest config epoch that it knows to be stored.
    config_epoch: u64,
}

impl Leading {
    /// A leader that was granted the lease.
    pub fn new(epoch: u64, lease: Lease, lease_ms: u64, sent: Moment, replid: String, end: u64) -> Self {
        Leading {
            epoch,
            lease,
            lease_ms,
            length_since: sent,
            replid,
            began_at: end,
            has_begun: false,
            acknowledged: end,
            shipped: end,
            connects_anew: true,
            is_suspended: false,
            has_given_up: false,
            needs_seed: false,
            seeding: None,
            is_beginning: false,
            is_renewing: false,
            config_epoch: 0,
        }
    }

    /// It answers nobody any more. The epoch that is over.
    pub fn give_up(&mut self) -> u64 {
        self.lease.give_up();
        (self.is_suspended, self.has_given_up) = (true, true);
        self.epoch
    }

    /// What is acknowledged is not to be sent again.
    fn acknowledge(&mut self, until: u64) {
        self.acknowledged = self.acknowledged.max(until);
        self.shipped = self.shipped.max(self.acknowledged);
    }

    /// It asks for the slots, or sets others. It may not have asked yet, or not know what became of what it has set.
    fn ask_slots(&self, now: Moment, draw: &mut Draw) -> Request {
        let (epoch, sent) = (self.epoch, now);
        if draw.chance(300) {
            return Request::GetSlots { epoch, after: (0, None) };
        }
        let config_epoch = match draw.below(8) {
            0 => self.config_epoch.saturating_sub(1),
            1..=4 => self.config_epoch,
            _ => self.config_epoch + 1,
        };
        let slots = SlotRanges::of((0..draw.below(4)).map(|_| draw.below(8) as u16).collect::<Vec<_>>());
        Request::SetSlots { epoch, config_epoch, slots, sent }
    }

    /// It gives up the connection of its appends: what is not acknowledged is sent again on another one.
    pub fn connect_anew(&mut self) {
        (self.shipped, self.connects_anew) = (self.acknowledged, true);
    }

    /// It is told what became of a request of its own. True if it leads no more.
    pub fn hear(
        &mut self,
        request: &Request,
        answer: Result<Answer, Refusal>,
        now: Moment,
        counts_from_sending: bool,
    ) -> bool {
        let of_epoch = match request {
            Request::Renew { epoch, .. }
            | Request::Begin { epoch, .. }
            | Request::Append { epoch, .. }
            | Request::GetSlots { epoch, .. }
            | Request::SetSlots { epoch, .. }
            | Request::Seed { epoch, .. } => *epoch,
            _ => return false,
        };
        if of_epoch != self.epoch {
            return false;
        }
        self.is_beginning &= !matches!(request, Request::Begin { .. });
        self.is_renewing &= !matches!(request, Request::Renew { .. });
        match (request, answer) {
            (_, Err(refusal)) if refusal.code == Code::Fenced => return true,
            (Request::Renew { lease_ms, sent, .. }, Ok(_)) => {
                self.renewed(*lease_ms, if counts_from_sending { *sent } else { now });
            }
            (Request::Renew { .. }, Err(_)) => self.lease.renewal_failed(now),
            (Request::Begin { .. }, Ok(_)) => self.has_begun = true,
            (Request::Append { .. }, Ok(Answer::Appended(until))) => self.acknowledge(until),
            // The log has other bytes than this leader wrote: there is a clone of it.
            (Request::Append { .. }, Err(refusal)) if refusal.detail.contains("other bytes") => return true,
            (Request::Append { .. }, Err(_)) => self.connect_anew(),
            (Request::Seed { offset, .. }, Ok(_)) => {
                (self.has_begun, self.needs_seed, self.seeding) = (true, false, None);
                self.acknowledge(*offset);
            }
            (Request::Seed { .. }, Err(_)) => self.seeding = None,
            (Request::GetSlots { .. }, Ok(Answer::Slots(stored))) => {
                self.config_epoch = self.config_epoch.max(stored.config_epoch);
            }
            (Request::SetSlots { config_epoch, .. }, Ok(_)) => {
                self.config_epoch = self.config_epoch.max(*config_epoch);
            }
            _ => {}
        }
        false
    }

    fn renewed(&mut self, lease_ms: u64, sent: Moment) {
        let goes_on = !self.lease.renewed(sent) && self.is_suspended && !self.has_given_up;
        if goes_on && lease_ms == self.lease_ms && sent >= self.length_since {
            self.lease = Lease::acquired(sent, Duration::from_millis(lease_ms));
            self.is_suspended = false;
        }
    }
}

/// What a leader does in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Begin,
    Write,
    Ship,
    ConnectAnew,
    Renew,
    Answer,
    Poll,
    Slots,
    HandOver,
    Seed,
    StepDown,
}

/// What comes of a step of a leader.
pub enum Outcome {
    /// Nothing that anybody else notices.
    Nothing,
    /// It sends this.
    Sends(Request),
    /// It sends one after the other.
    SendsBoth([Request; 2]),
    /// Its clients are told that everything below is durable.
    Acknowledges(u64),
}

impl Node {
    /// A leader's next step.
    pub fn lead_step(
        &mut self,
        true_ns: u64,
        draw: &mut Draw,
        profile: &Profile,
        others: NodeIndex,
        broken: Option<NodeRule>,
    ) -> Outcome {
        let now = self.moment(true_ns);
        let (length, has_room) = (self.data.len() as u64, self.data.len() < self.max_bytes);
        let Some(leading) = self.leading.as_mut() else { return Outcome::Nothing };
        let is_valid = leading.lease.observe(now);
        leading.is_suspended |= !is_valid;
        leading.seeding.take_if(|until| now >= *until);
        let (leads_on, begun) = (!leading.has_given_up, leading.has_begun);
        let is_due = leading.lease.next_renewal() <= now || leading.is_suspended;
        let is_sending = leads_on && !leading.needs_seed;
        let may_ship = is_sending && begun;
        // All that it holds is on its way: if it leads again now, that is what it holds of the log.
        let is_all_in_flight = leading.shipped == length && leading.shipped > leading.acknowledged;
        let comes_back = if is_all_in_flight && profile.careless > 0 { 12 } else { 0 };
        let seeds = if leading.needs_seed { 50 } else { profile.seeds };
        let unless = |is_asking: bool, weight: u32| if is_asking { 1 } else { weight };
        let deeds = [
            (if is_sending && !begun { unless(leading.is_beginning, 6) } else { 0 }, Deed::Begin),
            (if leads_on && begun && has_room { 3 } else { 0 }, Deed::Write),
            (if may_ship && leading.shipped < length { 8 } else { 0 }, Deed::Ship),
            (if may_ship && leading.shipped > leading.acknowledged { 1 } else { 0 }, Deed::ConnectAnew),
            (
                if !leads_on {
                    0
                } else if is_due {
                    unless(leading.is_renewing, 5)
                } else {
                    profile.early_renewals
                },
                Deed::Renew,
            ),
            (if begun { 4 } else { 0 }, Deed::Answer),
            (2, Deed::Poll),
            (if is_sending { profile.slots } else { 0 }, Deed::Slots),
            (if leads_on { profile.handovers } else { 0 }, Deed::HandOver),
            (if leads_on && leading.seeding.is_none() { seeds } else { 0 }, Deed::Seed),
            (if leads_on { 8 * u32::from(leading.is_suspended) } else { 3 } + comes_back, Deed::StepDown),
        ];
        let is_rare = |deed| matches!(deed, Deed::HandOver | Deed::Seed | Deed::StepDown);
        let deeds = deeds.map(|(weight, deed)| (if is_rare(deed) { weight } else { 8 * weight }, deed));
        match draw.weighted(&deeds).unwrap_or(Deed::Poll) {
            Deed::Begin => {
                leading.is_beginning = true;
                let (epoch, replid, offset) = (leading.epoch, leading.replid.clone(), leading.began_at);
                Outcome::Sends(Request::Begin { epoch, replid, offset })
            }
            Deed::Write => {
                self.write(draw);
                Outcome::Nothing
            }
            Deed::Ship => {
                let (epoch, offset) = (leading.epoch, leading.shipped);
                let most = draw.within(1..40) as usize;
                leading.shipped = (offset + most as u64).min(length);
                Outcome::Sends(Request::Append { epoch, offset, payload: self.slice(offset, most) })
            }
            Deed::ConnectAnew => {
                leading.connect_anew();
                Outcome::Nothing
            }
            Deed::Renew => {
                let lease_ms = if draw.chance(150) { profile.lease_ms(draw) } else { leading.lease_ms };
                if lease_ms != leading.lease_ms {
                    (leading.lease_ms, leading.length_since) = (lease_ms, now);
                }
                leading.is_renewing = true;
                leading.lease.renewal_sent(now, Duration::from_millis(lease_ms));
                Outcome::Sends(Request::Renew { epoch: leading.epoch, lease_ms, sent: now })
            }
            Deed::Answer if is_valid => Outcome::Acknowledges(leading.acknowledged.min(length)),
            Deed::Answer => Outcome::Nothing,
            Deed::Poll => Outcome::Sends(self.poll(draw)),
            Deed::Slots => Outcome::Sends(leading.ask_slots(now, draw)),
            Deed::HandOver => {
                if broken != Some(NodeRule::GivesUpBeforeResigning) {
                    leading.lease.give_up();
                }
                leading.has_given_up = true;
                let to = draw.chance(500).then(|| draw.below(others));
                Outcome::Sends(Request::Resign { epoch: leading.epoch, to })
            }
            Deed::Seed => {
                (leading.needs_seed, leading.seeding) = (true, Some(now.plus(SEED_AT_MOST)));
                leading.connect_anew();
                let (epoch, replid) = (leading.epoch, leading.replid.clone());
                Outcome::Sends(Request::Seed { epoch, replid, offset: length, content: self.data.clone().into() })
            }
            Deed::StepDown => {
                let epoch = leading.epoch;
                self.step_down();
                if !draw.chance(10 * profile.careless) {
                    return Outcome::Nothing;
                }
                // It comes back at once, with what it still has on its way.
                let acquire = self.acquire(now, self.data.len() as u64, draw, profile);
                match draw.chance(500) {
                    true => Outcome::SendsBoth([Request::Resign { epoch, to: None }, acquire]),
                    false => Outcome::Sends(acquire),
                }
            }
        }
    }
}
