//! A log service of three: its disk, which crashes leave, and its life, which they do not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use durability_simulation::disk::Disk as Truth;
use durability_simulation::environment::{Clock, SimulatedEnvironment};
use durability_simulation::service::{Service, SHARD};
use logservice::replica::copy::CopyEvents;
use logservice::replica::driver::{ByHand, Driver};
use logservice::replica::groups::Groups;
use logservice::replica::handle::GroupHandle;
use logservice::replica::store::ReplicatedStore;
use logservice::shard::{Shard, Switches};
use logservice::snapshots::SnapshotStore;
use object_store::memory::InMemory;

use super::blocking::Waiting;
use super::group::{Group, OneCopy, OneGroup, Outbox};
use crate::disk::Disk;

/// A service.
pub struct One {
    /// The id of the member.
    pub id: u64,
    /// Its disk.
    pub disk: Disk,
    /// Its life; none if it is down.
    pub life: Option<Life>,
    /// The last entry that it has applied, ever.
    pub applied: u64,
    /// It does nothing until then, in true nanoseconds.
    pub stands_until: u64,
}

/// A service that is up.
pub struct Life {
    /// Its driver.
    pub driver: Driver,
    /// What the driver's thread does.
    pub by_hand: ByHand,
    /// What the driver has sent.
    pub outbox: Arc<Outbox>,
    groups: Arc<OneGroup>,
    /// Whom the disk tells.
    pub events: Arc<dyn CopyEvents>,
    /// What the disk has to tell.
    pub reports: VecDeque<u64>,
    /// Its shard, as it was opened each time; commands come to the last.
    pub shards: Vec<Service>,
    /// Work that waits.
    pub waiting: Vec<Waiting>,
    /// When the groups are told next that time passes, in true nanoseconds.
    pub next_tick: u64,
}

/// What all services use.
pub struct Common {
    /// The time.
    pub clock: Clock,
    /// What was committed.
    pub truth: Truth,
    /// Snapshots, of which there are none.
    pub objects: Arc<InMemory>,
    /// How many times a shard was opened.
    pub opened: u32,
}

impl One {
    /// Starts it. It stays down if that ends it, as was drawn.
    pub fn start(&mut self, common: &mut Common, cached_bytes: usize) -> Result<(), String> {
        let outbox = Arc::new(Outbox::default());
        let (driver, mut by_hand) = Driver::by_hand(self.id, outbox.clone());
        let copy = OneCopy { disk: self.disk.clone(), events: Mutex::default() };
        let Some(group) = driver.open(&copy, SHARD).map_err(|error| error.to_string())? else { return Ok(()) };
        by_hand.read(usize::MAX);
        by_hand.groups().for_each(|group| group.set_cached_bytes(cached_bytes));
        let events = copy.events.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let events = events.ok_or("a copy was opened, and tells nobody")?;
        let groups = Arc::new(OneGroup { member: self.id, group: Arc::new(Group(group)) });
        let next_tick = common.clock.elapsed_ns();
        let (reports, shards, waiting) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut life = Life { driver, by_hand, outbox, groups, events, reports, shards, waiting, next_tick };
        life.open_shard(common)?;
        self.life = Some(life);
        Ok(())
    }

    /// Its life, unless it is down or stands still.
    pub fn awake(&mut self, now: u64) -> Option<&mut Life> {
        let is_awake = self.stands_until <= now;
        self.life.as_mut().filter(|_| is_awake)
    }

    /// It dies: nothing of it goes on.
    pub fn die(&mut self) {
        if let Some(Life { by_hand, waiting, shards, driver, .. }) = self.life.take() {
            // Whatever waits is answered that nothing is known, and nobody hears what it makes of that.
            by_hand.stop();
            waiting.into_iter().for_each(|waiting| {
                let mut left = Some(waiting);
                while let Some(waiting) = left {
                    assert!(waiting.is_ready(), "work waits for an answer that nobody gives any more");
                    left = waiting.go_on();
                }
            });
            drop((shards, driver));
        }
        self.disk.lock().crash(self.applied);
    }
}

impl Life {
    /// Opens the shard, or opens it anew.
    pub fn open_shard(&mut self, common: &mut Common) -> Result<(), String> {
        if let Some(old) = self.shards.last() {
            old.shard.store().close();
        }
        let environment = Arc::new(SimulatedEnvironment::new(common.clock.clone()));
        let snapshots = Arc::new(SnapshotStore::over(common.objects.clone(), "/nonexistent".into()));
        let (groups, group) =
            (self.groups.clone() as Arc<dyn Groups>, self.groups.group.clone() as Arc<dyn GroupHandle>);
        let shard = Shard::open_in(environment.clone(), SHARD, snapshots.clone(), Switches::new(16), |events| {
            // Readers do not wait: what they would wait for is done by whoever calls them.
            ReplicatedStore::open_with_patience(groups, group, events, Duration::ZERO)
        });
        let shard = shard.map_err(|error| format!("the shard cannot be opened: {error}"))?;
        common.opened += 1;
        let Common { truth, objects, opened, .. } = common;
        self.shards.push(Service::over(*opened, shard, environment, snapshots, objects, truth));
        Ok(())
    }

    /// The end (exclusive) of what can be read here. More may be acknowledged.
    pub fn readable_end(&self) -> u64 {
        self.groups.group.view().end
    }

    /// The shard as commands find it.
    pub fn shard(&mut self) -> &mut Service {
        let last = self.shards.len() - 1;
        &mut self.shards[last]
    }
}
