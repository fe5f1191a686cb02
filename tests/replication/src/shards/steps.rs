//! Which step comes next, and what it is.

use std::time::Duration;

use durability_simulation::draw::Draw;
use durability_simulation::leader::Outcome;
use logservice::replica::driver::TICK;
use logservice::replica::group::ELECTION_TICKS;

use super::blocking::Waiting;
use super::world::World;
use crate::network::MEMBERS;
use crate::promises::Violation;

/// How long each step takes at least.
const STEP: Duration = Duration::from_micros(1);
/// The longest that anything stands still, in nanoseconds.
const STANDS_AT_MOST: u64 = 4_000_000_000;
/// When all is well, clients are served within so many steps.
const WELL_WITHIN: u64 = 60_000;

/// A step.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read,
    Peer,
    Sync,
    Report,
    Task,
    Work,
    Reopen,
    Deliver,
    Node,
    Time,
    Crash,
    Start,
    CrashNode,
    StandNode,
    Stand,
    Cut,
    Mend,
    Transfer,
}

impl World {
    /// Takes so many steps.
    pub fn run(&mut self, steps: u64) -> Result<(), Violation> {
        (0..steps).try_for_each(|_| self.step())
    }

    /// Ends all trouble, and waits until clients are told of new writes again.
    pub fn get_well(&mut self) -> Result<(), Violation> {
        self.trace(|_| "all is well from now on".to_owned());
        self.profile = crate::profile::Profile {
            crashes: 0,
            pauses: 0,
            cuts: 0,
            transfers: 0,
            slow_disks: 0,
            ..self.profile.calm()
        };
        self.nodes_profile = self.nodes_profile.calm();
        self.network.mend();
        for service in &mut self.services {
            service.stands_until = 0;
            service.disk.lock().calm();
        }
        self.nodes.iter_mut().for_each(|node| node.stands_until = 0);
        let before = self.common.truth.lock().history.len();
        self.nodes.iter_mut().for_each(|node| node.max_bytes = node.data.len().max(before) + 1000);
        let acknowledged = self.promises.seen.acknowledged_bytes;
        for _ in 0..WELL_WITHIN {
            self.step()?;
            let last = self.truth.last();
            let is_equal = self.services.iter().all(|service| service.applied == last);
            if self.promises.seen.acknowledged_bytes > acknowledged && is_equal {
                return Ok(());
            }
        }
        let applied: Vec<u64> = self.services.iter().map(|service| service.applied).collect();
        Err(format!("all is well, and no client is told that anything is durable: entries {applied:?} are applied"))
    }

    /// All machines stop at a time, and start again.
    pub fn lose_power(&mut self) -> Result<(), Violation> {
        (0..MEMBERS).for_each(|index| self.crash(index));
        (0..MEMBERS).try_for_each(|index| self.start(index))?;
        self.check()
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.promises.seen.steps += 1;
        self.common.clock.advance(STEP);
        let step = self.choose();
        self.take(step)?;
        for index in 0..MEMBERS {
            if self.services[index].disk.lock().has_failed() {
                self.crash(index);
            }
        }
        self.check()
    }

    fn choose(&mut self) -> Step {
        let now = self.now();
        let (mut reads, mut syncs, mut reports, mut tasks, mut works, mut reopens, mut down) = (0, 0, 0, 0, 0, 0, 0);
        for service in &mut self.services {
            syncs += u32::from(service.disk.lock().waiting() > 0);
            let Some(life) = service.awake(now) else {
                down += u32::from(service.life.is_none());
                continue;
            };
            reads += life.by_hand.waiting().min(8) as u32;
            reports += u32::from(!life.reports.is_empty());
            tasks += life.shards.iter().map(|shard| shard.ready_tasks().len().min(8) as u32).sum::<u32>();
            works += life.shards.iter().map(|shard| shard.environment.waiting_work() as u32).sum::<u32>();
            works += life.waiting.iter().filter(|waiting| waiting.is_ready()).count() as u32;
            reopens += u32::from(life.shard().shard.notifier().is_superseded());
        }
        let peers =
            self.network.waiting(|to| self.services.get(to).is_some_and(|service| service.stands_until <= now)).min(24)
                as u32;
        let (profile, nodes) = (&self.profile, &self.nodes_profile);
        let steps = [
            (24 * 4 * reads, Step::Read),
            (24 * 4 * peers, Step::Peer),
            (24 * 8 * syncs, Step::Sync),
            (24 * 8 * reports, Step::Report),
            (24 * 3 * tasks, Step::Task),
            (24 * 6 * works, Step::Work),
            (24 * 4 * reopens, Step::Reopen),
            (24 * 3 * (self.deliverable().len().min(24) as u32), Step::Deliver),
            (24 * 14, Step::Node),
            (24 * 2 * nodes.time, Step::Time),
            (2 * profile.crashes, Step::Crash),
            (24 * down, Step::Start),
            (nodes.node_crashes, Step::CrashNode),
            (nodes.standstills, Step::StandNode),
            (2 * profile.pauses, Step::Stand),
            (2 * profile.cuts, Step::Cut),
            (if self.network.has_cuts() { 3 } else { 0 }, Step::Mend),
            (3 * profile.transfers, Step::Transfer),
        ];
        self.draw.weighted(&steps).unwrap_or(Step::Time)
    }

    fn take(&mut self, step: Step) -> Result<(), Violation> {
        let (now, from) = (self.now(), self.draw.below(MEMBERS));
        let others = (0..MEMBERS).map(|next| (from + next) % MEMBERS);
        match step {
            Step::Read => {
                let reads = |world: &mut World, index: usize| {
                    world.services[index].awake(now).is_some_and(|life| life.by_hand.waiting() > 0)
                };
                let Some(index) = others.clone().find(|&index| reads(self, index)) else { return Ok(()) };
                let most = self.draw.pick(&[1, 2, 100]);
                self.services[index].life.iter_mut().for_each(|life| life.by_hand.read(most));
                return self.work(index);
            }
            Step::Peer => {
                let hears = |to: usize| self.services.get(to).is_some_and(|service| service.stands_until <= now);
                let taken = self.network.take(hears, &self.profile, &mut self.draw);
                let Some((index, message)) = taken else { return Ok(()) };
                match &self.services[index].life {
                    Some(life) => life.driver.message(message.from, durability_simulation::service::SHARD, message),
                    None => {
                        let sender = &self.services[message.from as usize - 1].life;
                        sender.iter().for_each(|life| life.driver.unreachable(index as u64 + 1));
                    }
                }
            }
            Step::Sync => {
                let Some(index) = others.clone().find(|&index| self.services[index].disk.lock().waiting() > 0) else {
                    return Ok(());
                };
                let number = self.services[index].disk.lock().sync(1);
                if let Some(life) = &mut self.services[index].life {
                    life.reports.extend(number);
                }
                self.trace(|_| format!("service {index} has persisted {number:?}"));
            }
            Step::Report => {
                for index in others {
                    let Some(life) = self.services[index].awake(now) else { continue };
                    let Some(number) = life.reports.pop_front() else { continue };
                    life.events.persisted(number);
                    break;
                }
            }
            Step::Task => return self.go_on_with_task(from, now),
            Step::Work => self.go_on_with_work(from, now),
            Step::Reopen => {
                for index in others {
                    let Some(life) = self.services[index].awake(now) else { continue };
                    if life.shard().shard.notifier().is_superseded() {
                        life.open_shard(&mut self.common)?;
                        self.trace(|_| format!("service {index} opens its shard anew"));
                        break;
                    }
                }
            }
            Step::Deliver => self.deliver(),
            Step::Node => return self.node_step(),
            Step::Time => return self.pass_time(),
            Step::Crash => self.crash(from),
            Step::Start => {
                let Some(index) = others.clone().find(|&index| self.services[index].life.is_none()) else {
                    return Ok(());
                };
                return self.start(index);
            }
            Step::CrashNode => {
                let index = self.draw.below(self.nodes.len());
                self.nodes[index].restart(&mut self.draw);
                self.connections.process_ended(index);
                self.promises.seen.node_crashes += 1;
                self.trace(|_| format!("node {index} dies"));
            }
            Step::StandNode => {
                let index = self.draw_node();
                self.nodes[index].stands_until = now + self.draw.within(0..STANDS_AT_MOST);
                self.trace(|_| format!("node {index} stands still"));
            }
            Step::Stand => {
                self.services[from].stands_until = now + self.draw.within(0..STANDS_AT_MOST);
                self.trace(|_| format!("service {from} stands still"));
            }
            Step::Cut => {
                let to = (from + 1 + self.draw.below(MEMBERS - 1)) % MEMBERS;
                self.network.cut(from, to, true);
                let is_both = self.draw.chance(500);
                self.network.cut(to, from, is_both);
                self.trace(|_| format!("cut from {from} to {to}, both ways: {is_both}"));
            }
            Step::Mend => self.network.mend(),
            Step::Transfer => {
                let life = self.services[from].awake(now);
                let to = self.draw.within(1..MEMBERS as u64 + 1);
                life.into_iter().flat_map(|life| life.by_hand.groups()).for_each(|group| group.transfer_to(to));
                return self.work(from);
            }
        }
        Ok(())
    }

    fn go_on_with_task(&mut self, from: usize, now: u64) -> Result<(), Violation> {
        for index in (0..MEMBERS).map(|next| (from + next) % MEMBERS) {
            let Some(life) = self.services[index].awake(now) else { continue };
            let Some(shard) = life.shards.iter_mut().find(|shard| !shard.ready_tasks().is_empty()) else { continue };
            let ready = shard.ready_tasks();
            let answered = shard.go_on(self.draw.pick(&ready));
            let last = life.shards.len() - 1;
            let mut at = 0;
            life.shards.retain(|shard| {
                at += 1;
                at > last || shard.busy_with() > 0 || shard.environment.waiting_work() > 0
            });
            return answered.map_or(Ok(()), |answered| self.answered(index, answered));
        }
        Ok(())
    }

    fn go_on_with_work(&mut self, from: usize, now: u64) {
        for index in (0..MEMBERS).map(|next| (from + next) % MEMBERS) {
            let Some(life) = self.services[index].awake(now) else { continue };
            if let Some(at) = life.waiting.iter().position(Waiting::is_ready) {
                let waiting = life.waiting.remove(at);
                life.waiting.extend(waiting.go_on());
                return;
            }
            let Some(shard) = life.shards.iter().find(|shard| shard.environment.waiting_work() > 0) else { continue };
            let work = shard.environment.take_work(self.draw.below(shard.environment.waiting_work()));
            life.waiting.extend(Waiting::begin(work));
            return;
        }
    }

    fn node_step(&mut self) -> Result<(), Violation> {
        let (now, count, index) = (self.now(), self.nodes.len(), self.draw_node());
        let node = &mut self.nodes[index];
        if node.stands_until > now {
            return Ok(());
        }
        let life = node.life;
        if node.leading.is_some() {
            match node.lead_step(now, &mut self.draw, &self.nodes_profile, count, None) {
                Outcome::Nothing => {}
                Outcome::Sends(request) => self.ask(index, life, request),
                Outcome::SendsBoth(requests) => requests.into_iter().for_each(|request| self.ask(index, life, request)),
                Outcome::Acknowledges(until) => {
                    self.promises.acknowledge(&self.nodes[index].data[..until as usize])?;
                    self.trace(|_| format!("node {index} acknowledges up to {until}"));
                }
            }
            return Ok(());
        }
        let from = self.draw.below(MEMBERS);
        if self.draw.chance(600) {
            let Some(life) = self.services[from].awake(now) else { return Ok(()) };
            let readable = life.readable_end();
            node.follow(life.shard(), readable, &mut self.draw)?;
            let (held, log) = (&node.data, self.common.truth.lock());
            return match node.session.is_none() || log.history.starts_with(held) {
                true => Ok(()),
                false => Err(format!("follower {index} shows what is not in the log")),
            };
        }
        if let Some(request) = node.follow_step(now, &mut self.draw, &self.nodes_profile) {
            self.ask(index, life, request);
        }
        Ok(())
    }

    fn pass_time(&mut self) -> Result<(), Violation> {
        let ms = Duration::from_millis(1);
        self.common.clock.advance(match self.draw.below(16) {
            0 => ms * self.draw.within(1..400) as u32,
            1..=9 => ms * self.draw.within(0..3) as u32,
            _ => ms * self.draw.within(0..20) as u32,
        });
        let now = self.now();
        for index in 0..MEMBERS {
            let (seed, id) = (self.seed, self.services[index].id);
            let Some(life) = self.services[index].awake(now) else { continue };
            life.shards.iter().for_each(|shard| shard.environment.wake_due());
            if life.next_tick > now {
                continue;
            }
            // One that is late is not made up for.
            life.next_tick = now + TICK.as_nanos() as u64;
            for group in life.by_hand.groups() {
                let drawn = Draw::new(seed ^ (id << 56) ^ (group.status().term << 32)).below(ELECTION_TICKS);
                group.set_election_ticks(ELECTION_TICKS + drawn);
            }
            life.by_hand.tick();
            self.work(index)?;
        }
        self.trace(|_| "time passes".to_owned());
        Ok(())
    }
}
