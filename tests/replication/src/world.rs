//! Everything together: which step comes next is drawn, and the promises are checked after it.

use bytes::Bytes;
use durability_simulation::draw::Draw;
use logservice::replica::copy::{Base, Checkpoint, CopyDisk, Install, Position, Vote};
use logservice::replica::group::ELECTION_TICKS;
use raft::eraftpb::ConfState;

use crate::client::state_of;
use crate::disk::Disk;
use crate::member::{Member, Report};
use crate::network::{Network, MEMBERS};
use crate::profile::Profile;
use crate::promises::{Promises, Violation};
use crate::replacing::Replacing;
use crate::rules::DiskRule;

/// Any time after 1970: nothing depends on it.
const UNIX_MS: u64 = 1_735_689_600_000;

/// The services, their copies and what is between them.
pub struct World {
    seed: u64,
    pub(crate) draw: Draw,
    pub(crate) profile: Profile,
    pub(crate) members: Vec<Member>,
    pub(crate) network: Network,
    /// What was promised.
    pub promises: Promises,
    /// The replacement that the seed sees, if it sees one.
    pub(crate) replacing: Option<Replacing>,
    /// A rule that no disk keeps.
    pub(crate) broken: Option<DiskRule>,
    /// How each copy began.
    pub(crate) beginning: Install,
    /// How copies stand in files, if they do.
    #[cfg(feature = "files")]
    pub(crate) files: Option<crate::files_seed::OnFiles>,
    next_id: u64,
    is_traced: bool,
}

impl World {
    /// The beginning of a seed. `broken` is a rule that no disk keeps.
    pub fn new(seed: u64, steps: u64, broken: Option<DiskRule>, is_traced: bool) -> Self {
        let mut draw = Draw::new(seed);
        let profile = Profile::draw(&mut draw);
        let install = beginning(draw.within(0..100));
        let replacing = Replacing::draw(&mut draw, steps);
        let members = (1..=MEMBERS as u64).map(|id| Member {
            id,
            disk: Disk::new(&install, broken, draw.fork()),
            life: None,
            applied: install.base.position.index,
            told: Vote::default(),
            pauses_until: 0,
            has_slow_disk: false,
            is_gone: false,
        });
        let members = members.collect();
        let promises = Promises::new(&install);
        let network = Network::default();
        let next_id = 1;
        let world = World {
            seed,
            draw,
            profile,
            members,
            network,
            promises,
            replacing,
            broken,
            beginning: install,
            #[cfg(feature = "files")]
            files: None,
            next_id,
            is_traced,
        };
        world.trace(|world| format!("{:?}", world.profile));
        world
    }

    /// Takes so many steps.
    pub fn run(&mut self, steps: u64) -> Result<(), Violation> {
        (0..MEMBERS).try_for_each(|index| self.start(index))?;
        for _ in 0..steps {
            self.promises.seen.steps += 1;
            self.replace_when_due()?;
            let step = self.choose();
            self.take(step)?;
            self.bury();
            self.promises.check(&self.members)?;
        }
        Ok(())
    }

    /// A disk with a copy that was just made.
    pub(crate) fn new_disk(&mut self, install: &Install) -> Result<Disk, Violation> {
        #[cfg(feature = "files")]
        if let Some(files) = &mut self.files {
            return files.new_disk(install);
        }
        Ok(Disk::new(install, self.broken, self.draw.fork()))
    }

    /// A number that was not used yet.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Starts a service.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), Violation> {
        let cached_bytes = self.profile.cached_bytes;
        self.trace(|world| {
            let medium = &world.members[index].disk.lock().medium;
            let (base, last, vote) = (medium.base.position.index, medium.last(), medium.vote);
            format!("{index} starts with entries from {base} to {last}, and {vote:?}")
        });
        self.members[index].start(cached_bytes)?;
        self.settle(index)
    }

    /// Services whose disks have failed die.
    pub(crate) fn bury(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].disk.lock().has_failed() {
                self.crash(index);
            }
        }
    }

    /// A service dies.
    pub(crate) fn crash(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.life.take().is_none() && !member.disk.lock().has_failed() {
            return;
        }
        member.disk.lock().crash(member.applied);
        self.promises.seen.crashes += 1;
        self.trace(|_| format!("{index} dies"));
    }

    /// Time passes at a service.
    pub(crate) fn tick(&mut self, index: usize) -> Result<(), Violation> {
        let (seed, step, id) = (self.seed, self.promises.seen.steps, self.members[index].id);
        let Some(life) = self.members[index].awake(step) else { return Ok(()) };
        // The consensus crate draws anew whenever its term changes; so does this, but by the seed.
        let drawn = Draw::new(seed ^ (id << 56) ^ (life.status().term << 32)).below(ELECTION_TICKS);
        life.group.set_election_ticks(ELECTION_TICKS + drawn);
        life.group.tick();
        self.promises.check_elected(id, life)?;
        self.settle_later(index)
    }

    /// The next message arrives.
    pub(crate) fn deliver(&mut self) -> Result<(), Violation> {
        let step = self.promises.seen.steps;
        let hears = |to: usize| self.members.get(to).is_some_and(|member| member.pauses_until <= step);
        let Some((index, message)) = self.network.take(hears, &self.profile, &mut self.draw) else { return Ok(()) };
        self.trace(|_| {
            let (kind, last) = (message.get_msg_type(), message.entries.last().map(|entry| entry.index));
            let (from, term, reject) = (message.from - 1, message.term, message.reject);
            let (at, commit) = (message.index, message.commit);
            format!("{index} hears {kind:?} of {from} in term {term}: at {at}, up to {last:?}, commit {commit}, reject {reject}")
        });
        let member = &mut self.members[index];
        let id = member.id;
        let Some(life) = &mut member.life else { return self.lose_connection(index, message.from as usize - 1) };
        life.group.step(message);
        self.promises.check_elected(id, life)?;
        self.settle_later(index)
    }

    /// A message has come to a service that is down: its sender notices, as a rule.
    fn lose_connection(&mut self, down: usize, sender: usize) -> Result<(), Violation> {
        let (step, id) = (self.promises.seen.steps, self.members[down].id);
        let is_noticed = self.draw.chance(700);
        let Some(life) = self.members[sender].awake(step).filter(|_| is_noticed) else { return Ok(()) };
        life.group.unreachable(id);
        self.settle_later(sender)
    }

    /// A disk writes what waits, from the oldest on.
    pub(crate) fn sync(&mut self, index: usize) {
        let member = &mut self.members[index];
        let mut disk = member.disk.lock();
        let most = disk.waiting().min(4) as u64;
        if most == 0 {
            return;
        }
        let number = disk.sync(self.draw.within(1..most + 1) as usize);
        drop(disk);
        if let Some(life) = &mut member.life {
            life.reports.extend(number.map(Report::Persisted));
        }
        self.trace(|world| {
            format!("{index} has persisted {number:?}, up to {}", world.members[index].disk.lock().medium.last())
        });
    }

    /// A copy hears what its disk has done.
    pub(crate) fn report(&mut self, index: usize) -> Result<(), Violation> {
        let (step, id) = (self.promises.seen.steps, self.members[index].id);
        let Some(life) = self.members[index].awake(step) else { return Ok(()) };
        match life.reports.pop_front() {
            None => return Ok(()),
            Some(Report::Persisted(number)) => life.group.persisted(number),
            Some(Report::Trimmed(base)) => life.group.trimmed(base),
            Some(Report::Fetched(fetch, read)) => {
                self.promises.seen.fetches += 1;
                life.group.fetched(fetch, read);
            }
        }
        self.promises.check_elected(id, life)?;
        self.settle_later(index)
    }

    /// The store on a copy that leads does something.
    pub(crate) fn act(&mut self, index: usize) -> Result<(), Violation> {
        let (step, next_id, elected) = (self.promises.seen.steps, self.next_id(), self.promises.newest_term());
        let Some(life) = self.members[index].awake(step) else { return Ok(()) };
        let Some(client) = &mut life.client else { return Ok(()) };
        let seen = &mut self.promises.seen;
        let text = client.act(&mut life.group, &self.profile, &mut self.draw, elected, next_id, seen);
        self.trace(|_| format!("{index} {text}"));
        self.settle_later(index)
    }

    /// Does a copy's work, unless more is gathered before.
    pub(crate) fn settle_later(&mut self, index: usize) -> Result<(), Violation> {
        match self.draw.chance(self.profile.gathered) {
            true => Ok(()),
            false => self.settle(index),
        }
    }

    /// Does what a copy says is to be done, and checks it.
    pub(crate) fn settle(&mut self, index: usize) -> Result<(), Violation> {
        let member = &mut self.members[index];
        let Some(life) = &mut member.life else { return Ok(()) };
        let id = member.id;
        let work = life.group.work(UNIX_MS).map_err(|divergence| format!("member {id}: {divergence}"))?;
        self.promises.check_elected(id, life)?;
        for message in work.messages {
            self.promises.check_message(&message, &member.disk.lock().medium, &mut member.told)?;
            let to = message.to as usize - 1;
            self.network.send(index, to, message, &self.profile, &mut self.draw);
        }
        for persist in work.persists {
            CopyDisk::persist(&member.disk, persist);
        }
        for fetch in work.fetches {
            let read = CopyDisk::entries(&member.disk, fetch.low, fetch.high, fetch.max_bytes);
            if let Some(life) = &mut member.life {
                life.reports.push_back(Report::Fetched(fetch, read));
            }
        }
        self.promises.check_copy(member)?;
        let applied = member.life.as_ref().map_or(0, |life| life.status().applied.index);
        let is_removed = work.is_removed;
        for event in work.events {
            self.trace(|_| format!("{index} at {applied}: {event:?}"));
            let Some(life) = &mut self.members[index].life else { return Ok(()) };
            self.promises.hear(id, life, &event, applied)?;
        }
        match &self.members[index].life {
            Some(life) if life.view.end != life.status().applied.end => {
                Err(format!("member {id} was told of {}, and stands at {:?}", life.view.end, life.status().applied))
            }
            _ if is_removed => self.remove(index),
            _ => Ok(()),
        }
    }

    pub(crate) fn trace(&self, text: impl FnOnce(&World) -> String) {
        if self.is_traced {
            println!("{:6} {}", self.promises.seen.steps, text(self));
        }
    }
}

/// How all copies begin.
pub(crate) fn beginning(end: u64) -> Install {
    let members = ConfState { voters: (1..=MEMBERS as u64).collect(), ..ConfState::default() };
    let position = Position { index: 1, term: 1, end, checksum: 0 };
    let state: Bytes = state_of(1, 0);
    let checkpoint =
        Checkpoint { position, revision: 1, epoch: 1, state, state_index: 1, members: vec![(1, members.clone())] };
    Install { base: Base { position, members }, checkpoint }
}
