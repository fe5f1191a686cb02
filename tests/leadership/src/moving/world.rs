//! One state of everything, and what can happen next.

use std::collections::BTreeSet;

use super::leader::{Deeds, Leader, Phase};
use super::message::{other, ConfigEpoch, Job, Message, Process, ShardId};
use super::record::Record;
use super::search::{Bounds, Rules};

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// What is stored of each shard.
    pub records: [Record; 2],
    /// All who ever led. One that takes no step any more is dead or cut off.
    pub leaders: Vec<Leader>,
    /// Messages under way.
    pub network: BTreeSet<Message>,
    /// The migrations that have begun.
    jobs: Job,
    /// What may still happen.
    pub left: Bounds,
    /// Writes to the slot that were acknowledged.
    pub acknowledged: u8,
    /// The greatest config epoch under which the cluster was told that somebody has the slot, and who told it first.
    pub told: (ConfigEpoch, Process),
}

/// One step. Whoever stands still takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver(Message),
    /// Another node of the shard comes to lead. The leader before does not know.
    Lead(ShardId),
    /// A leader goes on with what it found when it began to lead.
    GoOn(usize),
    /// The slot begins to move away from the shard.
    Move(ShardId),
    /// A client writes, and is answered.
    Write(usize),
    /// What a leader has imported is in its log.
    Log(usize),
    /// The pause of the source's server ends.
    EndPause(usize),
    /// The source's leader has waited long enough.
    Decide(usize),
    /// The target's server fails the import.
    Fail(usize),
    /// A leader asks once more.
    Resend(usize),
    /// A leader's config epoch is raised.
    Raise(usize),
    /// A leader's lease passes.
    Suspend(usize),
    /// A planned failover begins.
    HandOver(usize),
    /// The lease is renewed in the same epoch, or the planned failover is given up.
    Resume(usize),
}

impl World {
    /// The first shard has the slot.
    pub fn new(left: Bounds) -> Self {
        let records = [Record::new(true, left.config_epochs[0]), Record::new(false, left.config_epochs[1])];
        let first = |shard: ShardId| Leader::first(Process { shard, epoch: 1 }, &records[usize::from(shard)]);
        let leaders = vec![first(0), first(1)];
        let told = (records[0].config_epoch, leaders[0].process);
        World { records, leaders, network: BTreeSet::new(), jobs: 0, left, acknowledged: 0, told }
    }

    /// Whether that leader is the one of its shard's newest epoch.
    pub fn leads(&self, leader: &Leader) -> bool {
        leader.process.epoch == self.record(leader).epoch
    }

    /// What is stored of a leader's shard.
    pub fn record(&self, leader: &Leader) -> &Record {
        &self.records[usize::from(leader.process.shard)]
    }

    /// Who answers what is asked of the slot.
    pub fn answering<'a>(&'a self, rules: &'a Rules) -> impl Iterator<Item = &'a Leader> {
        self.leaders.iter().filter(|leader| self.leads(leader) && leader.answers(rules))
    }

    /// The slot's writes that a leader shows.
    pub fn shown(&self, leader: &Leader) -> u8 {
        leader.unlogged.unwrap_or(self.record(leader).data)
    }

    fn leader_of(&self, shard: ShardId) -> usize {
        let leads = |leader: &Leader| leader.process.shard == shard && self.leads(leader);
        self.leaders.iter().position(leads).expect("each shard has a leader")
    }

    /// What can happen next.
    pub fn actions(&self, rules: &Rules, actions: &mut Vec<Action>) {
        let left = &self.left;
        actions.extend(self.network.iter().copied().map(Action::Deliver));
        for shard in 0..2 {
            actions.extend((left.leads[usize::from(shard)] > 0).then_some(Action::Lead(shard)));
            actions.extend((left.moves > 0).then_some(Action::Move(shard)));
        }
        for (index, leader) in self.leaders.iter().enumerate() {
            let mut offer = |is_possible: bool, action: Action| actions.extend(is_possible.then_some(action));
            let leads = self.leads(leader);
            offer(leads && leader.unlogged.is_some(), Action::Log(index));
            if !leader.serves() {
                offer(leads, Action::Resume(index));
                continue;
            }
            offer(matches!(leader.phase, Phase::Found { .. }), Action::GoOn(index));
            offer(leads && left.writes > 0 && leader.takes_writes(rules), Action::Write(index));
            offer(true, Action::EndPause(index));
            offer(true, Action::Decide(index));
            offer(left.failures > 0, Action::Fail(index));
            offer(left.resends > 0, Action::Resend(index));
            offer(left.raises > 0, Action::Raise(index));
            offer(leads && left.suspensions > 0, Action::Suspend(index));
            offer(leads && left.handovers > 0, Action::HandOver(index));
        }
    }

    /// Takes a step. False if it changes nothing.
    pub fn step(&mut self, action: Action, rules: &Rules) -> bool {
        let is_change = self.take(action, rules);
        self.forget();
        is_change
    }

    fn take(&mut self, action: Action, rules: &Rules) -> bool {
        match action {
            Action::Deliver(message) => {
                let to = message.leader();
                let hearer = self.leaders.iter().position(|leader| Some(leader.process) == to);
                if hearer.is_some_and(|index| !self.leaders[index].serves()) {
                    // Later, or never.
                    return false;
                }
                self.network.remove(&message);
                if let Some(shard) = message.log_service() {
                    let answer = self.records[usize::from(shard)].serve(message, rules);
                    self.network.extend(answer);
                }
                if let Some(index) = hearer {
                    let deeds = self.leaders[index].hear(message, rules);
                    self.do_deeds(index, deeds);
                }
                true
            }
            Action::Lead(shard) => {
                self.left.leads[usize::from(shard)] -= 1;
                let record = &mut self.records[usize::from(shard)];
                let epoch = record.acquire();
                self.leaders.push(Leader::new(Process { shard, epoch }, record));
                self.leaders.sort_by_key(|leader| leader.process);
                true
            }
            Action::GoOn(index) => {
                let deeds = self.leaders[index].go_on(rules);
                self.do_deeds(index, deeds);
                true
            }
            Action::Move(shard) => {
                let (source, target) = (self.leader_of(shard), self.leader_of(other(shard)));
                let has_slot = |index: usize| self.leaders[index].has_slot;
                let is_idle = |leader: &Leader| leader.phase == Phase::Idle && leader.serves();
                let are_idle = [source, target].iter().all(|&index| is_idle(&self.leaders[index]));
                if !are_idle || !has_slot(source) || has_slot(target) {
                    return false;
                }
                let (job, to) = (self.jobs, self.leaders[target].process);
                (self.jobs, self.left.moves) = (self.jobs + 1, self.left.moves - 1);
                let data = self.shown(&self.leaders[source]);
                let message = self.leaders[source].pause(job, to, data);
                self.network.insert(message)
            }
            Action::Write(index) => {
                self.left.writes -= 1;
                self.acknowledged += 1;
                let shard = usize::from(self.leaders[index].process.shard);
                self.records[shard].data += 1;
                true
            }
            Action::Log(index) => {
                let leader = &mut self.leaders[index];
                let shard = usize::from(leader.process.shard);
                self.records[shard].data = leader.unlogged.unwrap_or_default();
                self.network.extend(leader.logged());
                true
            }
            Action::EndPause(index) => self.leaders[index].end_pause(rules),
            Action::Decide(index) => {
                let message = self.leaders[index].decide();
                self.network.extend(message);
                message.is_some()
            }
            Action::Fail(index) => {
                let is_change = self.leaders[index].fail(rules);
                if is_change {
                    self.left.failures -= 1;
                    self.delete(index);
                }
                is_change
            }
            Action::Resend(index) => {
                self.left.resends -= 1;
                let message = self.leaders[index].resend();
                message.is_some_and(|message| self.network.insert(message))
            }
            Action::Raise(index) => {
                self.left.raises -= 1;
                let message = self.leaders[index].raise();
                message.is_some_and(|message| self.network.insert(message))
            }
            Action::Suspend(index) => {
                self.left.suspensions -= 1;
                let deeds = self.leaders[index].suspend(rules);
                let is_change = deeds.is_some();
                self.do_deeds(index, deeds.unwrap_or_default());
                is_change
            }
            Action::HandOver(index) => {
                self.left.handovers -= 1;
                self.leaders[index].begin_to_hand_over(rules)
            }
            Action::Resume(index) => {
                let deeds = self.leaders[index].resume(rules);
                self.do_deeds(index, deeds);
                true
            }
        }
    }

    fn do_deeds(&mut self, index: usize, deeds: Deeds) {
        self.network.extend(deeds.sends);
        if deeds.deletes {
            self.delete(index);
        }
        let leader = &mut self.leaders[index];
        if deeds.reads {
            leader.read(&self.records[usize::from(leader.process.shard)]);
        }
        if deeds.tells && leader.config_epoch > self.told.0 {
            self.told = (leader.config_epoch, leader.process);
        }
    }

    fn delete(&mut self, index: usize) {
        self.leaders[index].unlogged = None;
        let leader = &self.leaders[index];
        if self.leads(leader) {
            let shard = usize::from(leader.process.shard);
            self.records[shard].data = 0;
        }
    }

    /// Takes away what makes states differ and has no consequences any more: what the server of a deposed leader holds beyond its log.
    fn forget(&mut self) {
        let epochs = [0, 1].map(|shard: usize| self.records[shard].epoch);
        let deposed = |leader: &Leader| leader.process.epoch != epochs[usize::from(leader.process.shard)];
        self.leaders.iter_mut().filter(|leader| deposed(leader)).for_each(|leader| leader.unlogged = None);
    }
}
