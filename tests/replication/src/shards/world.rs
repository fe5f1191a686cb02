//! Three services, the nodes, and what is between them. Which step comes next is drawn (`steps.rs`), and the promises are checked after it.

use std::collections::HashMap;
use std::sync::Arc;

use durability_simulation::connection::Connections;
use durability_simulation::disk::Disk as CommittedLog;
use durability_simulation::draw::Draw;
use durability_simulation::environment::Clock;
use durability_simulation::message::{Caller, NodeIndex};
use durability_simulation::node::Node;
use durability_simulation::profile::Profile as NodesProfile;
use durability_simulation::promises::Promises;
use durability_simulation::service::{Answered, SHARD};
use durability_simulation::store::LOG_ID;
use logservice::replica::copy::{Base, Checkpoint, Install, Position};
use logservice::replica::entry::Content;
use logservice::store::file_store::files::Step as FileStep;
use logservice::store::Manifest;
use object_store::memory::InMemory;
use raft::eraftpb::{ConfState, Entry};

use super::service::{Common, One};
use crate::disk::Disk;
use crate::network::{Network, MEMBERS};
use crate::profile::Profile;
use crate::promises::Violation;
use crate::truth::Truth;

/// Where a node's connection leads: to which service, in which of the lives of its shard.
pub(crate) type Route = (usize, u32);

/// Everything.
pub struct World {
    pub(crate) seed: u64,
    pub(crate) draw: Draw,
    /// The trouble of the services.
    pub(crate) profile: Profile,
    /// The trouble of the nodes.
    pub(crate) nodes_profile: NodesProfile,
    pub(crate) common: Common,
    pub(crate) services: Vec<One>,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) connections: Connections,
    pub(crate) routes: HashMap<u64, Route>,
    /// What was committed, entry by entry.
    pub(crate) truth: Truth,
    /// The end of the log after each committed entry.
    ends: Vec<(u64, u64)>,
    /// The last entry that any service has applied.
    stated: u64,
    /// What was promised to nodes and clients.
    pub promises: Promises,
    /// The newest term in which any service was elected.
    elected: u64,
    pub(crate) is_traced: bool,
}

impl World {
    /// The beginning of a seed. `lie` is a step on files that no machine does, though it says so.
    pub fn new(seed: u64, lie: Option<FileStep>, is_traced: bool) -> Result<Self, Violation> {
        let mut draw = Draw::new(seed);
        let profile = Profile { append_bytes: 0, ..Profile::draw(&mut draw) };
        let mut nodes_profile = NodesProfile::draw(&mut draw);
        // Whoever makes snapshots and writes in another's name is not here.
        (nodes_profile.seeds, nodes_profile.snapshots, nodes_profile.clones) = (0, 0, 0);
        let truth = CommittedLog::new(draw.fork());
        let install = beginning(&mut draw, &truth);
        let faults = draw.pick(&[0, 5, 20]);
        let service = |index: usize| -> Result<One, Violation> {
            let disk = Disk::on_files(&install, lie, Draw::new(seed ^ ((index as u64) << 40)))?;
            disk.lock().faults = faults;
            let (id, applied) = (index as u64 + 1, install.base.position.index);
            Ok(One { id, disk, life: None, applied, stands_until: 0 })
        };
        let services = (0..MEMBERS).map(service).collect::<Result<Vec<_>, _>>()?;
        let nodes = (0..nodes_profile.nodes).map(|index| Node::new(index, &mut draw, &nodes_profile)).collect();
        let common = Common { clock: Clock::new(), truth, objects: Arc::new(InMemory::new()), opened: 0 };
        let mut world = World {
            seed,
            draw,
            profile,
            nodes_profile,
            common,
            services,
            network: Network::default(),
            nodes,
            connections: Connections::default(),
            routes: HashMap::new(),
            truth: Truth::new(&install),
            ends: vec![(install.base.position.index, 0)],
            stated: install.base.position.index,
            promises: Promises::of_several_services(),
            elected: 0,
            is_traced,
        };
        world.trace(|world| format!("{:?} {:?}", world.profile, world.nodes_profile));
        (0..MEMBERS).try_for_each(|index| world.start(index))?;
        Ok(world)
    }

    pub(crate) fn now(&self) -> u64 {
        self.common.clock.elapsed_ns()
    }

    pub(crate) fn start(&mut self, index: usize) -> Result<(), Violation> {
        let cached_bytes = self.profile.cached_bytes;
        self.services[index].start(&mut self.common, cached_bytes)?;
        self.trace(|world| format!("service {index} starts: {}", world.services[index].life.is_some()));
        self.work(index)
    }

    pub(crate) fn crash(&mut self, index: usize) {
        self.services[index].die();
        self.promises.seen.service_crashes += 1;
        // What it has answered may still arrive; nothing more is sent to it.
        let gone: Vec<u64> =
            self.routes.iter().filter(|(_, route)| route.0 == index).map(|(&number, _)| number).collect();
        for number in gone {
            self.connections.cut(number);
            while self.connections.take_request(number, 0).is_some() {}
            self.routes.remove(&number);
        }
        self.trace(|_| format!("service {index} dies"));
    }

    /// The driver of a service works.
    pub(crate) fn work(&mut self, index: usize) -> Result<(), Violation> {
        let Some(life) = &mut self.services[index].life else { return Ok(()) };
        // The clock that may be set jumps: nothing depends on it.
        life.by_hand.work(self.draw.pick(&[0, 1_735_689_600_000, 4_000_000_000_000]));
        for message in life.outbox.take() {
            let to = message.to as usize - 1;
            self.network.send(index, to, message, &self.profile, &mut self.draw);
        }
        self.learn(index)
    }

    /// Takes over what a service has applied, and compares it with what others have.
    fn learn(&mut self, index: usize) -> Result<(), Violation> {
        let service = &mut self.services[index];
        let Some(life) = &mut service.life else { return Ok(()) };
        let Some(status) = life.by_hand.groups().next().map(|group| group.status()) else { return Ok(()) };
        if status.is_leader {
            self.elected = self.elected.max(status.term);
        }
        let mut disk = service.disk.lock();
        if let Some(violation) = &disk.violation {
            return Err(format!("service {index}: {violation}"));
        }
        disk.committed = disk.committed.max(status.committed);
        // Clients may be told that it is durable before this service's own disk has it.
        for at in self.truth.last() + 1..=status.committed {
            let Some(entry) = disk.newest_entry(at) else {
                return Err(format!("service {index} knows that entry {at} is committed, and does not have it"));
            };
            extend(&mut self.truth, &mut self.common, entry)?;
            self.ends.push((at, self.common.truth.lock().end()));
        }
        let applied = status.applied;
        for at in (service.applied + 1).max(status.base.index + 1)..=applied.index {
            let Some(entry) = disk.medium.entry(at) else {
                return Err(format!("service {index} has applied entry {at}, which it has not persisted"));
            };
            if at > self.stated {
                self.stated = at;
                if let Content::State(state) = Content::decode(entry).map_err(|error| error.to_string())? {
                    self.common.truth.lock().put_manifest(&Manifest::parse(&state.bytes)?, false);
                }
            }
            if self.truth.entry(at) != Some(entry) {
                return Err(format!("service {index} has applied another entry {at} than others"));
            }
        }
        service.applied = service.applied.max(applied.index);
        match self.truth.sum(applied.index).is_some_and(|sum| sum.position == applied) {
            true => Ok(()),
            false => Err(format!("service {index} stands at {applied:?}, where no other stood")),
        }
    }

    /// The service that was elected last, if it still leads and its shard decides.
    pub(crate) fn decider(&mut self) -> Option<usize> {
        let elected = self.elected;
        self.services.iter_mut().position(|service| {
            let Some(life) = &mut service.life else { return false };
            let leads = life.by_hand.groups().any(|group| {
                let status = group.status();
                status.is_leader && status.term == elected
            });
            leads && life.shard().shard.decides()
        })
    }

    /// A command was answered.
    pub(crate) fn answered(&mut self, index: usize, answered: Answered) -> Result<(), Violation> {
        // What another service has decided since need not be what this answer says.
        if self.decider() == Some(index) {
            self.promises.check_answer(&answered, &self.common.truth.lock())?;
        }
        let Answered { connection, caller, request, answer } = answered;
        self.trace(|_| format!("service {index} answers {request:?} with {answer:?}"));
        if let Caller::Node { .. } = caller {
            self.answer(connection, (request, answer));
        }
        Ok(())
    }

    /// What has to hold after every step.
    pub(crate) fn check(&mut self) -> Result<(), Violation> {
        let now = self.now();
        self.promises.check(&self.common.truth, &self.nodes, now)?;
        self.check_kept_lease(now)?;
        // What leaders were told is on two disks.
        let logged = self.promises.logged_bytes();
        let at = self.ends.partition_point(|&(_, end)| end < logged);
        let Some(&(index, _)) = self.ends.get(at) else { return Err(format!("{logged} was acknowledged")) };
        let Some(term) = self.truth.sum(index).map(|sum| sum.position.term) else { return Ok(()) };
        let holders = self.services.iter().filter(|service| service.disk.lock().medium.holds(index, term)).count();
        match holders >= 2 {
            true => Ok(()),
            false => Err(format!("{logged} was acknowledged, up to entry {index}, which {holders} services have")),
        }
    }

    /// The service that decides keeps others from the lease for as long as its leader counts it, however the renewals were answered, and by
    /// whichever service.
    fn check_kept_lease(&mut self, now: u64) -> Result<(), Violation> {
        let leader = self.nodes.iter().find_map(|node| Some((node.index, node.lease_left_ms(now)?)));
        let (Some((node, (epoch, left_ms))), Some(index)) = (leader, self.decider()) else { return Ok(()) };
        let Some(life) = &mut self.services[index].life else { return Ok(()) };
        let kept = life.shard().shard.status();
        let is_kept = match kept.lease_remaining_ms {
            -2 => true,
            -1 => false,
            kept_ms => left_ms.is_some_and(|left_ms| i64::try_from(left_ms).is_ok_and(|left_ms| left_ms <= kept_ms)),
        };
        match is_kept && kept.epoch == epoch {
            true => Ok(()),
            false => Err(format!(
                "leader {node} of epoch {epoch} counts {left_ms:?} ms of its lease, and service {index}, which decides, keeps epoch {} for \
                 {} ms",
                kept.epoch, kept.lease_remaining_ms
            )),
        }
    }

    /// A node: the leader half of the time, as it has more to do.
    pub(crate) fn draw_node(&mut self) -> NodeIndex {
        let leader = self.nodes.iter().position(|node| node.leading.is_some()).filter(|_| self.draw.chance(500));
        leader.unwrap_or_else(|| self.draw.below(self.nodes.len()))
    }

    pub(crate) fn trace(&self, text: impl FnOnce(&World) -> String) {
        if self.is_traced {
            println!("{:6} {:9} us {}", self.promises.seen.steps, self.now() / 1000, text(self));
        }
    }
}

/// The next entry is committed.
fn extend(truth: &mut Truth, common: &mut Common, entry: &Entry) -> Result<(), Violation> {
    truth.extend(entry)?;
    let mut log = common.truth.lock();
    match Content::decode(entry).map_err(|error| error.to_string())? {
        Content::Append(append) => {
            log.history.extend_from_slice(&append.payload);
            log.log.extend_from_slice(&append.payload);
        }
        // It counts when somebody has applied it: before that nobody acts on it.
        Content::State(_) | Content::Nothing | Content::Members(_) => {}
    }
    Ok(())
}

/// How all copies begin.
fn beginning(draw: &mut Draw, truth: &CommittedLog) -> Install {
    let manifest = Manifest::new(SHARD, draw.replid(), LOG_ID.to_owned());
    truth.lock().put_manifest(&manifest, false);
    let members = ConfState { voters: (1..=MEMBERS as u64).collect(), ..ConfState::default() };
    let position = Position { index: 1, term: 1, end: manifest.base, checksum: 0 };
    let checkpoint = Checkpoint {
        position,
        revision: manifest.revision,
        epoch: 0,
        state: serde_json::to_vec(&manifest).unwrap_or_default().into(),
        state_index: 1,
        members: vec![(1, members.clone())],
    };
    Install { base: Base { position, members }, checkpoint }
}
