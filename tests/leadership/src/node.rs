//! A node: what it holds, and whether it follows or leads.

use durability_leadership::{Decision, Election, Lease, Pacing, Standing, View};

use crate::ledger::{name, Ledger};
use crate::network::{NodeId, Process};
use crate::search::Rules;
use crate::time::{moment, Ticks, LEASE, LEASE_TICKS, TICK};

/// A node that stands still is one that is not given a step; its clock goes on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Who it is.
    pub process: Process,
    /// Its monotonic clock.
    pub clock: Ticks,
    /// Ticks that its clock counted since it lost one, up to [`LEASE_TICKS`].
    since_slow: Ticks,
    /// What it has applied: entries as in the log.
    pub data: Vec<u8>,
    /// How often it asked for the lease.
    asked: u8,
    /// Whether it waits for an answer to the last time.
    is_waiting: bool,
    /// None while it follows the log.
    pub leading: Option<Leading>,
    /// A reply to a read that is computed and not sent.
    pub reply: Option<Reply>,
}

/// What a leader knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leading {
    /// Its epoch.
    pub epoch: u8,
    /// Its lease.
    pub lease: Lease,
    /// What the log has acknowledged.
    pub durable: u8,
    /// It found its lease over and closed its clients.
    pub is_suspended: bool,
    /// It released the lease.
    has_given_up: bool,
}

/// A reply to a read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The state that it shows.
    pub shows: Vec<u8>,
    /// What had been acknowledged to anybody when it was asked for.
    pub asked_after: Vec<u8>,
}

impl Node {
    /// A process that has just started.
    pub fn new(node: NodeId) -> Self {
        let process = Process { node, life: 0 };
        Node {
            process,
            clock: 0,
            since_slow: LEASE_TICKS,
            data: Vec::new(),
            asked: 0,
            is_waiting: false,
            leading: None,
            reply: None,
        }
    }

    /// Whether its clock may lose a tick now.
    pub fn may_be_slow(&self) -> bool {
        self.since_slow == LEASE_TICKS
    }

    /// Nothing that it has or waits for counts from any time.
    pub fn forget_time(&mut self) {
        (self.clock, self.since_slow) = (0, LEASE_TICKS);
    }

    /// Time passes.
    pub fn tick(&mut self, is_slow: bool) {
        if is_slow {
            self.since_slow = 0;
        } else {
            self.clock += 1;
            self.since_slow = (self.since_slow + 1).min(LEASE_TICKS);
        }
    }

    /// Whether a reply that is due would be sent now.
    pub fn may_answer(&self, rules: &Rules) -> bool {
        let is_valid = |leading: &Leading| !rules.checks_lease || leading.lease.is_valid(moment(self.clock));
        self.leading.as_ref().is_some_and(is_valid)
    }

    /// As [`Node::may_answer`], by the node itself: what it finds stays.
    pub fn observe(&mut self, rules: &Rules) -> bool {
        let now = moment(self.clock);
        self.leading.as_mut().is_some_and(|leading| leading.lease.observe(now) || !rules.checks_lease)
    }

    /// Whether an answer to its request of that number would count.
    pub fn waits_for(&self, number: u8, rules: &Rules) -> bool {
        !rules.takes_last_answer || self.is_waiting && self.asked == number
    }

    /// A follower's decision: the number of its request for the lease and the log's end at which it asks, if it does.
    pub fn elect(&mut self, ledger: &Ledger, service_clock: Ticks, rules: &Rules) -> Option<(u8, u8)> {
        let end = u64::from(ledger.end());
        let applied = if rules.acquires_at_end { self.data.len() as u64 } else { end };
        let node = Standing { node_id: name(self.process.node, rules), priority: 1, applied, is_connected: true };
        let now = moment(self.clock);
        let holder = ledger.holder(self.process, service_clock, rules);
        // How long it gives way to others decides over speed alone: any node may ask at any moment at which the lease is free.
        let view = View { answered: now, holder, reserved_for: None, end, peers: &[] };
        match Election::new().decide(now, &node, &view, &Pacing::default(), 0) {
            Decision::Acquire { expected_end } => {
                self.is_waiting = true;
                self.asked += 1;
                Some((self.asked, expected_end as u8))
            }
            _ => None,
        }
    }

    /// A process that does not lead frees the lease that an earlier life of its own holds. No answer counts any more to what was
    /// asked before, as that may be what it frees. False if it is not held by one.
    pub fn frees_earlier_life(&mut self, ledger: &Ledger) -> bool {
        let frees = self.leading.is_none() && ledger.is_led_by_earlier_life_of(self.process);
        self.is_waiting &= !frees;
        frees
    }

    /// The log service has granted the lease at `end`, as was asked for at `sent`.
    pub fn acquired(&mut self, epoch: u8, end: u8, sent: Ticks, rules: &Rules) {
        self.acquired_for(LEASE_TICKS, epoch, end, sent, rules);
    }

    /// As [`Node::acquired`], with a lease of that length.
    pub fn acquired_for(&mut self, length: Ticks, epoch: u8, end: u8, sent: Ticks, rules: &Rules) {
        // What it applied since belongs to another leader.
        let is_at_end = self.data.len() as u8 == end || !rules.acquires_at_end;
        if self.leading.is_some() || !is_at_end {
            return;
        }
        self.is_waiting = false;
        let lease = Lease::acquired(moment(self.counts_from(sent, rules)), TICK * u32::from(length));
        let durable = self.data.len() as u8;
        self.leading = Some(Leading { epoch, lease, durable, is_suspended: false, has_given_up: false });
    }

    /// The log service has renewed the lease; the request was sent at `sent`. A leader whose lease had passed, and which
    /// closed its clients then, goes on.
    pub fn renewed(&mut self, epoch: u8, sent: Ticks, rules: &Rules) {
        let sent = moment(self.counts_from(sent, rules));
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.epoch == epoch) else { return };
        if !leading.lease.renewed(sent) && leading.is_suspended && !leading.has_given_up {
            *leading = Leading { lease: Lease::acquired(sent, LEASE), is_suspended: false, ..*leading };
        }
    }

    fn counts_from(&self, sent: Ticks, rules: &Rules) -> Ticks {
        if rules.counts_from_sending {
            sent
        } else {
            self.clock
        }
    }

    /// A renewal is sent if it is time. The epoch to renew.
    pub fn renew(&mut self) -> Option<u8> {
        let now = moment(self.clock);
        let is_due = |leading: &&mut Leading| {
            leading.lease.next_renewal() <= now || leading.is_suspended && !leading.has_given_up
        };
        let leading = self.leading.as_mut().filter(is_due)?;
        leading.lease.renewal_sent(now, LEASE);
        Some(leading.epoch)
    }

    /// A client writes: the entry's epoch and offset.
    pub fn write(&mut self) -> Option<(u8, u8)> {
        let epoch = self.leading.as_ref()?.epoch;
        let offset = self.data.len() as u8;
        self.data.push(epoch);
        Some((epoch, offset))
    }

    /// The log holds everything below `durable`.
    pub fn appended(&mut self, epoch: u8, durable: u8) {
        if let Some(leading) = self.leading.as_mut().filter(|leading| leading.epoch == epoch) {
            leading.durable = leading.durable.max(durable);
        }
    }

    /// A leader that found its lease over closes its clients, so nothing that was computed is ever sent. False if it has
    /// done so before.
    pub fn suspend(&mut self, rules: &Rules) -> bool {
        if rules.closes_clients {
            self.reply = None;
        }
        self.leading.as_mut().is_some_and(|leading| !std::mem::replace(&mut leading.is_suspended, true))
    }

    /// A leader that found its lease over, or that was told of another leader, attaches to the log again: it goes on if it
    /// holds a beginning of the log, or takes all of it anew.
    pub fn step_down(&mut self, log: &[u8], rules: &Rules) {
        self.suspend(rules);
        self.leading = None;
        if !log.starts_with(&self.data) {
            self.data.clear();
        }
    }

    /// A leader hands over. The epoch that it releases.
    pub fn release(&mut self, rules: &Rules) -> Option<u8> {
        let leading = self.leading.as_mut()?;
        if rules.gives_up_before_release {
            leading.lease.give_up();
        }
        leading.has_given_up = true;
        Some(leading.epoch)
    }

    /// The log service says that its lease is being taken away: it closes its clients and answers nobody any more. The epoch that it
    /// then releases.
    pub fn fenced(&mut self, epoch: u8, rules: &Rules) -> Option<u8> {
        self.leading.as_mut().filter(|leading| leading.epoch == epoch)?.lease.give_up();
        self.suspend(rules);
        self.release(rules)
    }

    /// The process dies and is started anew.
    pub fn restart(&mut self) {
        let Node { process, clock, since_slow, .. } = *self;
        *self = Node { clock, since_slow, ..Node::new(process.node) };
        self.process.life += 1;
    }
}
