//! Everything together: which step comes next is drawn, and the promises are checked after it.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use crate::connection::Connections;
use crate::disk::Disk;
use crate::draw::Draw;
use crate::environment::Clock;
use crate::leader::Outcome;
use crate::message::{Caller, NodeIndex, Request};
use crate::node::Node;
use crate::profile::Profile;
use crate::promises::{check_recoverable, Promises, Violation};
use crate::rules::NodeRule;
use crate::service::{process, Service};
use crate::steps::{Step, STANDS_AT_MOST};

/// How long each step takes at least.
const STEP: Duration = Duration::from_micros(1);
/// When all is well, clients are served within so many steps.
const WELL_WITHIN: u64 = 20_000;

/// The service, the nodes and what is between them.
pub struct World {
    pub(crate) draw: Draw,
    pub(crate) profile: Profile,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) objects: Arc<InMemory>,
    pub(crate) service: Option<Service>,
    pub(crate) lives: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) connections: Connections,
    /// What was promised.
    pub promises: Promises,
    pub(crate) broken: Option<NodeRule>,
    /// Whether the disk takes its time to make appends durable.
    pub(crate) has_slow_appends: bool,
    /// Whether it takes its time to replace the manifest.
    pub(crate) has_slow_changes: bool,
    /// Whether each step is printed.
    pub(crate) is_traced: bool,
}

impl World {
    /// The beginning of a seed. `broken` is a rule that no node keeps.
    pub fn new(seed: u64, broken: Option<NodeRule>, is_traced: bool) -> Self {
        let mut draw = Draw::new(seed);
        let profile = Profile::draw(&mut draw);
        let disk = Disk::new(draw.fork());
        disk.lock().faults = profile.faults;
        let nodes = (0..profile.nodes).map(|index| Node::new(index, &mut draw, &profile)).collect();
        let mut world = World {
            draw,
            profile,
            clock: Clock::new(),
            disk,
            objects: Arc::new(InMemory::new()),
            service: None,
            lives: 0,
            nodes,
            connections: Connections::default(),
            promises: Promises::default(),
            broken,
            has_slow_appends: false,
            has_slow_changes: false,
            is_traced,
        };
        world.trace(|world| format!("{:?}", world.profile));
        world.start_service();
        world
    }

    /// Takes so many steps.
    pub fn run(&mut self, steps: u64) -> Result<(), Violation> {
        for _ in 0..steps {
            self.step()?;
        }
        self.check_recoverable()
    }

    /// Ends all trouble, and waits until clients are told of new writes again.
    pub fn get_well(&mut self) -> Result<(), Violation> {
        self.trace(|_| "all is well from now on".to_owned());
        self.profile = self.profile.calm();
        self.disk.lock().faults = self.profile.faults;
        (self.has_slow_appends, self.has_slow_changes) = (false, false);
        self.nodes.iter_mut().for_each(|node| node.stands_until = 0);
        let before = self.promises.acknowledged.len();
        self.nodes.iter_mut().for_each(|node| node.max_bytes = node.data.len().max(before) + 1000);
        for _ in 0..WELL_WITHIN {
            if self.service.as_ref().is_some_and(|service| service.shard.check_not_failed().is_err()) {
                self.crash_service();
            }
            if self.promises.acknowledged.len() > before {
                return self.check_recoverable();
            }
            self.step()?;
        }
        Err("all is well, and no client is told that anything is durable".to_owned())
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.promises.seen.steps += 1;
        // No two things happen at the same time, so no two renewals are sent at the same time by one clock.
        self.clock.advance(STEP);
        let step = self.choose();
        self.take(step)?;
        let now = self.clock.elapsed_ns();
        self.promises.check(&self.disk, &self.nodes, now)?;
        if let Some(service) = &self.service {
            if step.is_services() {
                let end = self.disk.lock().end();
                self.promises.check_status(service, end)?;
            }
            self.promises.check_known(service, &self.nodes)?;
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Task => return self.go_on_with_task(),
            Step::Work | Step::SlowWork => {
                let Some(service) = &self.service else { return Ok(()) };
                let at = self.draw.below(service.environment.waiting_work());
                service.environment.do_work(at);
                self.trace(|_| "blocking work is done".to_owned());
            }
            Step::Store | Step::SlowStore => {
                let Some(store) = self.service.as_ref().and_then(|service| service.store.as_ref()) else {
                    return Ok(());
                };
                let done = store.step();
                self.promises.seen.refused_for_space += u64::from(done.starts_with("no space"));
                self.promises.seen.failed += u64::from(done.contains("failed"));
                self.trace(|_| done);
            }
            Step::Deliver => self.deliver(),
            Step::Node => return self.node_step(),
            Step::Time => self.pass_time(),
            Step::CrashService => self.crash_service(),
            Step::StartService => self.start_service(),
            Step::CrashNode => {
                let index = self.draw.below(self.nodes.len());
                self.nodes[index].restart(&mut self.draw);
                self.connections.process_ended(index);
                self.promises.seen.node_crashes += 1;
                self.trace(|world| format!("node {index} dies, and comes back with {}", world.nodes[index].data.len()));
            }
            Step::StandStill => {
                let index = self.draw_node();
                let until = self.clock.elapsed_ns() + self.draw.within(0..STANDS_AT_MOST);
                self.nodes[index].stands_until = until;
                self.trace(|_| format!("node {index} stands still until {} ms", until / 1_000_000));
            }
            Step::Snapshot => {
                let keep = self.draw.pick(&[1, 1, 2, 3]);
                self.ask(Caller::Operator, Request::Snapshot { keep });
            }
            Step::Operator => self.take_lease(),
            Step::CloneAppends => self.clone_appends(),
            Step::SlowDisk => {
                let (appends, changes) = (self.has_slow_appends, self.has_slow_changes);
                (self.has_slow_appends, self.has_slow_changes) =
                    if self.draw.chance(500) { (!appends, changes) } else { (appends, !changes) };
                self.trace(|world| {
                    format!("slow appends: {}, slow changes: {}", world.has_slow_appends, world.has_slow_changes)
                });
            }
            Step::FullDisk => {
                let mut disk = self.disk.lock();
                disk.faults.is_full = !disk.faults.is_full;
            }
        }
        self.check_recoverable()
    }

    fn go_on_with_task(&mut self) -> Result<(), Violation> {
        let Some(service) = &mut self.service else { return Ok(()) };
        let ready = service.ready_tasks();
        if ready.is_empty() {
            return Ok(());
        }
        let Some(answered) = service.go_on(self.draw.pick(&ready)) else { return Ok(()) };
        let checked = self.promises.check_answer(&answered, &self.disk.lock());
        let (connection, request, answer) = (answered.connection, answered.request, answered.answer);
        self.trace(|_| format!("answered: {request:?} -> {answer:?}"));
        checked?;
        if let Caller::Node { index, .. } = answered.caller {
            self.make_trouble(index, &request, answer.is_ok());
            self.answer(connection, (request, answer));
        }
        self.check_recoverable()
    }

    fn node_step(&mut self) -> Result<(), Violation> {
        let (now, count) = (self.clock.elapsed_ns(), self.nodes.len());
        let index = self.draw_node();
        let node = &mut self.nodes[index];
        if node.stands_until > now {
            return Ok(());
        }
        let life = node.life;
        if node.leading.is_some() {
            match node.lead_step(now, &mut self.draw, &self.profile, count, self.broken) {
                Outcome::Nothing => {}
                Outcome::Sends(request) => {
                    let is_append = matches!(request, Request::Append { .. });
                    self.ask(Caller::Node { index, life }, request);
                    // It goes on from the same moment as the leader, so it writes when that writes.
                    if is_append && self.profile.clones > 0 && self.draw.chance(100) {
                        self.clone_appends();
                    }
                }
                Outcome::SendsBoth(requests) => {
                    requests.into_iter().for_each(|request| self.ask(Caller::Node { index, life }, request));
                }
                Outcome::Acknowledges(until) => {
                    self.promises.acknowledge(&self.nodes[index].data[..until as usize])?;
                    self.trace(|_| format!("node {index} acknowledges up to {until}"));
                }
            }
            return Ok(());
        }
        if let Some(service) =
            self.service.as_ref().filter(|_| self.draw.chance(if self.profile.careless > 0 { 150 } else { 600 }))
        {
            node.follow(service, u64::MAX, &mut self.draw)?;
            let (held, disk) = (&self.nodes[index].data, self.disk.lock());
            return match self.nodes[index].session.is_none() || disk.history.starts_with(held) {
                true => Ok(()),
                false => Err(format!("follower {index} shows what is not in the log")),
            };
        }
        if let Some(request) = node.follow_step(now, &mut self.draw, &self.profile) {
            self.ask(Caller::Node { index, life }, request);
        }
        Ok(())
    }

    /// A node: the leader half of the time, as it has more to do.
    fn draw_node(&mut self) -> NodeIndex {
        let leader = self.nodes.iter().position(|node| node.leading.is_some()).filter(|_| self.draw.chance(500));
        leader.unwrap_or_else(|| self.draw.below(self.nodes.len()))
    }

    fn crash_service(&mut self) {
        if self.service.take().is_none() {
            return;
        }
        let mut disk = self.disk.lock();
        disk.crash();
        self.connections.cut_all();
        [self.promises.seen.torn, self.promises.seen.unawaited] = disk.torn;
        drop(disk);
        self.promises.seen.service_crashes += 1;
        self.trace(|world| format!("the service dies; the log ends at {}", world.disk.lock().end()));
    }

    fn start_service(&mut self) {
        self.lives += 1;
        self.service = Some(Service::start(self.lives, &self.clock, &self.disk, &self.objects, self.broken));
        self.trace(|world| format!("the service starts, for the {}. time", world.lives));
    }

    /// An operator takes the lease: by force only if its process is gone.
    fn take_lease(&mut self) {
        let Some(status) = self.service.as_ref().map(|service| service.shard.status()) else { return };
        let is_alive = self.nodes.iter().any(|node| process(node.index, node.life) == status.leader_process);
        let to = self.draw.chance(500).then(|| self.draw.below(self.nodes.len()));
        let is_gone = !status.leader.is_empty() && !is_alive;
        let force = is_gone && self.draw.chance(700);
        self.ask(Caller::Operator, Request::Release { epoch: status.epoch, to, force });
    }

    /// A clone of the leader's machine writes in its epoch.
    fn clone_appends(&mut self) {
        let leaders: Vec<NodeIndex> =
            self.nodes.iter().filter(|node| node.leading.is_some()).map(|node| node.index).collect();
        if leaders.is_empty() {
            return;
        }
        let node = &self.nodes[self.draw.pick(&leaders)];
        let Some(leading) = node.leading.as_ref().filter(|leading| leading.has_begun) else { return };
        let length = node.data.len() as u64;
        let (epoch, acknowledged, in_flight) =
            (leading.epoch, leading.acknowledged, leading.shipped - leading.acknowledged);
        // In the place of what the leader has in flight: its next append fits behind either. Or anywhere.
        let (offset, bytes) = match in_flight > 0 && self.draw.chance(500) {
            true => (acknowledged, in_flight),
            false => {
                (acknowledged + self.draw.within(0..length.saturating_sub(acknowledged) + 1), self.draw.within(1..20))
            }
        };
        let payload = self.draw.bytes(bytes as usize).into();
        self.ask(Caller::Clone, Request::Append { epoch, offset, payload });
    }

    fn check_recoverable(&self) -> Result<(), Violation> {
        check_recoverable(&self.disk.lock(), &self.objects)
    }

    pub(crate) fn trace(&self, text: impl FnOnce(&World) -> String) {
        if self.is_traced {
            println!("{:6} {}", self.promises.seen.steps, text(self));
        }
    }
}
