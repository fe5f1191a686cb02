//! One state of everything, and what can happen next.

use std::collections::BTreeSet;

use crate::ledger::Ledger;
use crate::log_leader::{Circumstances, LogLeader, Served, Service};
use crate::network::{Message, Process};
use crate::node::{Node, Reply};
use crate::search::{Bounds, Rules};
use crate::time::Ticks;

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The log services' clock.
    pub clock: Ticks,
    /// The log service, or the one that was elected last to decide over the log: what it knows is what is committed.
    pub elected: LogLeader,
    /// The one that decided before, as long as it does not know better.
    pub deposed: Option<LogLeader>,
    /// The nodes.
    pub nodes: [Node; 2],
    /// Messages under way.
    pub network: BTreeSet<Message>,
    /// What may still happen.
    pub left: Bounds,
    /// What outsiders have seen.
    pub seen: Seen,
}

/// What clients know, which nobody in the model does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The longest state of which all was acknowledged, or shown to a leader's client.
    pub acknowledged: Vec<u8>,
    /// The longest state that a follower showed.
    pub followed: Vec<u8>,
    /// By which nodes something was acknowledged.
    pub by: [bool; 2],
    /// Two states were acknowledged of which neither is a beginning of the other.
    pub is_forked: bool,
    /// A read did not show what had been acknowledged before it was asked for.
    pub is_stale: bool,
}

/// One step. Whoever stands still takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Time passes. Clocks of nodes marked slow do not notice.
    Tick { slow: [bool; 2] },
    /// A message arrives, and perhaps will again; a request at that log service.
    Deliver { message: Message, again: bool, at: Service },
    /// A follower asks for the lease, after that log service has told it who has it.
    Elect(usize, Service),
    /// A node that was started again frees the lease that it held before, as that log service says.
    Free(usize, Service),
    /// A leader asks for more time.
    Renew(usize),
    /// A leader executes a write.
    Write(usize),
    /// A leader executes a read.
    Read(usize),
    /// A leader looks at its lease, and sends the replies that are due or closes its clients.
    Answer(usize),
    /// A leader that has done so attaches anew.
    StepDown(usize),
    /// A leader hands over.
    Release(usize),
    /// An operator takes the lease from who leads.
    Revoke,
    /// A follower applies and shows the next entry of the log.
    Follow(usize),
    /// A node dies and comes back.
    Restart(usize),
    /// The log service dies and comes back.
    RestartService,
    /// Another log service is elected to decide over the log. The one before does not know.
    ElectService,
    /// What a log service waits for comes: a quorum has confirmed that it decided when it asked.
    EndRound(Service),
}

impl World {
    /// Both nodes hold the empty log, and the first one leads.
    pub fn new(left: Bounds, rules: &Rules) -> Self {
        let mut ledger = Ledger::new();
        let mut nodes = [Node::new(0), Node::new(1)];
        let first = left.first_lease;
        let epoch = ledger.acquire_for(first, nodes[0].process, 0, 0, rules).expect("the lease is free");
        nodes[0].acquired_for(first, epoch, 0, 0, rules);
        World {
            clock: 0,
            elected: LogLeader::new(ledger),
            deposed: None,
            nodes,
            network: BTreeSet::new(),
            left,
            seen: Seen::default(),
        }
    }

    /// What can happen next.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        let left = &self.left;
        for (at, log_leader) in self.services() {
            for message in self.network.iter().copied().filter(|message| at == Service::Elected || message.is_request())
            {
                actions.push(Action::Deliver { message, again: false, at });
                if left.duplicates > 0 {
                    actions.push(Action::Deliver { message, again: true, at });
                }
            }
            actions.extend(log_leader.is_confirming().then_some(Action::EndRound(at)));
            for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.leading.is_none()) {
                let is_heard = at == Service::Elected || left.has_stale_views;
                actions.extend((is_heard && left.acquires > 0).then_some(Action::Elect(index, at)));
                let frees = is_heard && log_leader.ledger.is_led_by_earlier_life_of(node.process);
                actions.extend(frees.then_some(Action::Free(index, at)));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let mut offer = |is_possible: bool, action: Action| actions.extend(is_possible.then_some(action));
            let leads = node.leading.is_some();
            offer(leads && left.renewals > 0, Action::Renew(index));
            offer(leads && left.writes > 0, Action::Write(index));
            offer(leads && left.reads > 0 && node.reply.is_none(), Action::Read(index));
            let is_suspended = node.leading.as_ref().is_some_and(|leading| leading.is_suspended);
            offer(leads, Action::Answer(index));
            offer(is_suspended, Action::StepDown(index));
            offer(leads && left.releases > 0, Action::Release(index));
            offer(!leads && node.data.len() < self.elected.ledger.log.len(), Action::Follow(index));
            offer(left.restarts > 0, Action::Restart(index));
        }
        if left.revocations > 0 && self.elected.ledger.is_led() {
            actions.push(Action::Revoke);
        }
        if left.service_restarts > 0 {
            actions.push(Action::RestartService);
        }
        if left.elections > 0 {
            actions.push(Action::ElectService);
        }
        if left.ticks > 0 {
            let may_be_slow = |index: usize| left.is_drifting && self.nodes[index].may_be_slow();
            for slow in [[false, false], [true, false], [false, true], [true, true]] {
                if (0..2).all(|index| !slow[index] || may_be_slow(index)) {
                    actions.push(Action::Tick { slow });
                }
            }
        }
    }

    /// The log services that believe that they decide.
    fn services(&self) -> impl Iterator<Item = (Service, &LogLeader)> {
        let deposed = self.deposed.iter().map(|deposed| (Service::Deposed, deposed));
        std::iter::once((Service::Elected, &self.elected)).chain(deposed)
    }

    /// Nothing is asked of a deposed service when there is none. Beside it the nodes, who ask.
    fn service_and_nodes(&mut self, service: Service) -> (&mut LogLeader, &mut [Node; 2]) {
        let log_leader = match service {
            Service::Elected => &mut self.elected,
            Service::Deposed => self.deposed.as_mut().expect("one is deposed"),
        };
        (log_leader, &mut self.nodes)
    }

    /// Takes a step. False if it changes nothing.
    pub fn step(&mut self, action: Action, rules: &Rules) -> bool {
        let is_change = self.take(action, rules);
        self.forget(rules);
        is_change
    }

    fn take(&mut self, action: Action, rules: &Rules) -> bool {
        let service_clock = self.clock;
        match action {
            Action::Tick { slow } => {
                self.clock += 1;
                self.left.ticks -= 1;
                for (node, is_slow) in self.nodes.iter_mut().zip(slow) {
                    node.tick(is_slow);
                }
                true
            }
            Action::Deliver { message, again, at } => {
                if again {
                    self.left.duplicates -= 1;
                } else {
                    self.network.remove(&message);
                }
                self.deliver(message, at, rules)
            }
            Action::Elect(index, by) => {
                let (log_leader, nodes) = self.service_and_nodes(by);
                let asks = nodes[index].elect(&log_leader.ledger, service_clock, rules);
                let Some((number, expected_end)) = asks else { return false };
                self.left.acquires -= 1;
                let Node { process: from, clock: sent, .. } = self.nodes[index];
                self.network.insert(Message::Acquire { from, number, expected_end, sent })
            }
            Action::Free(index, by) => {
                let (log_leader, nodes) = self.service_and_nodes(by);
                let epoch = log_leader.ledger.epoch();
                nodes[index].frees_earlier_life(&log_leader.ledger) && self.network.insert(Message::Release { epoch })
            }
            Action::Renew(index) => {
                let Some(epoch) = self.nodes[index].renew() else { return false };
                self.left.renewals -= 1;
                let Node { process: from, clock: sent, .. } = self.nodes[index];
                self.network.insert(Message::Renew { from, epoch, sent })
            }
            Action::Write(index) => {
                let Some((epoch, offset)) = self.nodes[index].write() else { return false };
                self.left.writes -= 1;
                self.network.insert(Message::Append { from: self.nodes[index].process, epoch, offset })
            }
            Action::Read(index) => {
                self.left.reads -= 1;
                let shows = self.nodes[index].data.clone();
                self.nodes[index].reply = Some(Reply { shows, asked_after: self.seen.acknowledged.clone() });
                true
            }
            Action::Answer(index) => self.answer(index, rules),
            Action::StepDown(index) => {
                self.nodes[index].step_down(&self.elected.ledger.log, rules);
                true
            }
            Action::Release(index) => {
                let Some(epoch) = self.nodes[index].release(rules) else { return false };
                self.left.releases -= 1;
                self.network.insert(Message::Release { epoch })
            }
            Action::Revoke => {
                self.left.revocations -= 1;
                self.elected.ledger.revoke(rules);
                true
            }
            Action::Follow(index) => {
                let data = &mut self.nodes[index].data;
                data.push(self.elected.ledger.log[data.len()]);
                if !self.seen.followed.starts_with(data) {
                    self.seen.followed.clone_from(data);
                }
                true
            }
            Action::Restart(index) => {
                self.left.restarts -= 1;
                self.nodes[index].restart();
                true
            }
            Action::RestartService => {
                self.left.service_restarts -= 1;
                self.elected.restart(service_clock, rules);
                true
            }
            Action::ElectService => {
                self.left.elections -= 1;
                let elected = self.elected.successor(service_clock, rules);
                // Who was deposed before forgets what it knew: it is the one that is elected, or has learned of this election.
                self.deposed = Some(std::mem::replace(&mut self.elected, elected));
                true
            }
            Action::EndRound(service) => {
                let answers = self.service_and_nodes(service).0.end_round();
                self.network.extend(answers);
                true
            }
        }
    }

    /// False if nothing comes of it.
    fn deliver(&mut self, message: Message, at: Service, rules: &Rules) -> bool {
        let answer = match message {
            Message::Acquire { .. } | Message::Renew { .. } | Message::Append { .. } | Message::Release { .. } => {
                let (now, is_replicated) = (self.clock, self.left.is_replicated);
                let by = Circumstances { service: at, is_replicated, now, rules };
                match self.service_and_nodes(at).0.serve(message, by) {
                    Served::NotYet => return false,
                    Served::Taken(answer) => answer,
                }
            }
            Message::Fenced { to, epoch } => {
                let released = self.receiver(to).and_then(|node| node.fenced(epoch, rules));
                released.map(|epoch| Message::Release { epoch })
            }
            Message::Acquired { to, number, epoch, end, sent } => {
                if let Some(node) = self.receiver(to).filter(|node| node.waits_for(number, rules)) {
                    node.acquired(epoch, end, sent, rules);
                }
                None
            }
            Message::Renewed { to, epoch, sent } => {
                if let Some(node) = self.receiver(to) {
                    node.renewed(epoch, sent, rules);
                }
                None
            }
            Message::Appended { to, epoch, durable } => {
                if let Some(node) = self.receiver(to) {
                    node.appended(epoch, durable);
                }
                None
            }
        };
        self.network.extend(answer);
        true
    }

    fn receiver(&mut self, to: Process) -> Option<&mut Node> {
        Some(&mut self.nodes[usize::from(to.node)]).filter(|node| node.process == to)
    }

    /// A leader sends what is due: acknowledgements of writes that are durable, and a reply that shows nothing else. If its
    /// lease is over it closes its clients instead.
    fn answer(&mut self, index: usize, rules: &Rules) -> bool {
        let node = &mut self.nodes[index];
        if !node.observe(rules) {
            return node.suspend(rules);
        }
        let durable = node.leading.as_ref().map_or(0, |leading| usize::from(leading.durable));
        // A leader that acquired without having everything may not even hold it.
        let state = &node.data[..durable.min(node.data.len())];
        let Seen { acknowledged, by, is_forked, is_stale, .. } = &mut self.seen;
        let mut is_news = false;
        if !acknowledged.starts_with(state) {
            is_news = true;
            *is_forked |= !state.starts_with(acknowledged);
            by[index] = true;
            *acknowledged = state.to_vec();
        }
        if let Some(reply) = node.reply.take_if(|reply| reply.shows.len() <= durable) {
            is_news = true;
            *is_stale |= !reply.shows.starts_with(&reply.asked_after);
        }
        is_news
    }

    /// Takes away what makes states differ and has no consequences any more.
    fn forget(&mut self, rules: &Rules) {
        let World { elected, deposed, nodes, network, left, .. } = self;
        // What a deposed service does nothing with matters only to the one that is elected.
        let deciding = || std::iter::once(&*elected).chain(deposed.iter().filter(|_| rules.deposed_decides()));
        let end = deciding().map(|service| service.ledger.end()).min().unwrap_or_default();
        let newest = deciding().map(|service| service.ledger.epoch()).min().unwrap_or_default();
        // Whether `node` may yet be granted the lease: in that epoch, or in any.
        let is_asked = |network: &BTreeSet<Message>, node: &Node, of: Option<u8>| {
            network.iter().any(|message| match *message {
                Message::Acquire { from, number, .. } => {
                    of.is_none() && from == node.process && node.waits_for(number, rules)
                }
                Message::Acquired { to, number, epoch, .. } => {
                    of.is_none_or(|of| of == epoch) && to == node.process && node.waits_for(number, rules)
                }
                _ => false,
            })
        };
        let can_matter = |network: &BTreeSet<Message>, message: &Message| match *message {
            // Also one that nobody waits for, as the log service does not know.
            Message::Acquire { expected_end, .. } => expected_end >= end,
            Message::Renew { epoch, .. } | Message::Release { epoch } => epoch >= newest,
            Message::Append { epoch, .. } => epoch >= newest || !rules.fences_appends,
            Message::Acquired { to, number, .. } => {
                let node = &nodes[usize::from(to.node)];
                node.process == to && node.waits_for(number, rules)
            }
            Message::Renewed { to, epoch, .. }
            | Message::Appended { to, epoch, .. }
            | Message::Fenced { to, epoch } => {
                let node = &nodes[usize::from(to.node)];
                let leads = node.leading.as_ref().is_some_and(|leading| leading.epoch == epoch);
                node.process == to && (leads || is_asked(network, node, Some(epoch)))
            }
        };
        let dead: Vec<Message> = network.iter().filter(|message| !can_matter(network, message)).copied().collect();
        for message in dead {
            network.remove(&message);
        }
        for service in std::iter::once(elected).chain(deposed.as_mut()) {
            service.forget(|answer| can_matter(network, answer));
        }
        deposed.take_if(|deposed| !deposed.is_confirming() && !left.has_stale_views && !rules.deposed_decides());
        for node in nodes {
            if node.leading.is_none() && !is_asked(network, node, None) {
                node.forget_time();
            }
        }
    }
}
