//! Which step comes next, and how far time moves.

use std::time::Duration;

use crate::message::{NodeIndex, Request};
use crate::world::World;

/// The longest that a node stands still, in nanoseconds.
pub(crate) const STANDS_AT_MOST: u64 = 3_000_000_000;

/// A step that can be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Task,
    Work,
    /// The same, of a disk that is slow.
    SlowWork,
    Store,
    /// The same, of a disk that is slow.
    SlowStore,
    Deliver,
    Node,
    Time,
    CrashService,
    StartService,
    CrashNode,
    StandStill,
    Snapshot,
    Operator,
    CloneAppends,
    FullDisk,
    SlowDisk,
}

impl Step {
    /// Whether it can change what the service says of the shard.
    pub(crate) fn is_services(self) -> bool {
        match self {
            Step::Task | Step::Work | Step::SlowWork | Step::Store | Step::SlowStore => true,
            Step::Time | Step::CrashService | Step::StartService => true,
            Step::Deliver | Step::Node | Step::CrashNode | Step::StandStill | Step::Snapshot | Step::Operator => false,
            Step::CloneAppends | Step::FullDisk | Step::SlowDisk => false,
        }
    }
}

impl World {
    /// Draws the next step of those that can be taken.
    pub(crate) fn choose(&mut self) -> Step {
        let profile = &self.profile;
        let (ready, work, store, is_failed) = self.service.as_ref().map_or((0, 0, 0, false), |service| {
            let is_failed = service.shard.check_not_failed().is_err();
            let store = u32::from(service.store.as_ref().is_some_and(|store| store.has_work()));
            (service.ready_tasks().len(), service.environment.waiting_work(), store, is_failed)
        });
        let is_up = self.service.is_some();
        let up = |weight: u32| if is_up { weight } else { 0 };
        let fast = |is_slow: bool, weight: u32| if is_slow { 0 } else { weight };
        // The more waits, the sooner it comes: nothing piles up.
        let many = |count: usize| u32::try_from(count.min(32)).unwrap_or(32);
        let steps = [
            (2 * many(ready), Step::Task),
            (fast(self.has_slow_changes, 4 * many(work)), Step::Work),
            (2 * many(work), Step::SlowWork),
            (fast(self.has_slow_appends, 3 * store), Step::Store),
            (2 * store, Step::SlowStore),
            (2 * many(self.deliverable()), Step::Deliver),
            (12, Step::Node),
            (profile.time, Step::Time),
            (up(profile.crashes + 2 * u32::from(is_failed)), Step::CrashService),
            (if is_up { 0 } else { 3 }, Step::StartService),
            (profile.node_crashes, Step::CrashNode),
            (profile.standstills, Step::StandStill),
            (up(profile.snapshots), Step::Snapshot),
            (up(profile.releases), Step::Operator),
            (up(profile.clones), Step::CloneAppends),
            (profile.full_disks, Step::FullDisk),
            (profile.slow_disks, Step::SlowDisk),
        ];
        // Troubles are rarer than ordinary steps by far.
        let rare = |step: Step| {
            matches!(
                step,
                Step::SlowWork
                    | Step::SlowStore
                    | Step::CrashService
                    | Step::CrashNode
                    | Step::StandStill
                    | Step::Snapshot
                    | Step::Operator
                    | Step::CloneAppends
                    | Step::FullDisk
                    | Step::SlowDisk
            )
        };
        let steps = steps.map(|(weight, step)| (if rare(step) { weight } else { 24 * weight }, step));
        self.draw.weighted(&steps).unwrap_or(Step::Time)
    }

    /// Time passes: a little, or up to when something happens by itself, or just before or after that.
    pub(crate) fn pass_time(&mut self) {
        let now = self.clock.elapsed_ns();
        let ms = Duration::from_millis(1);
        let wakes = self.service.as_ref().and_then(|service| service.environment.next_wake());
        let leases = self.nodes.iter().filter_map(|node| {
            let ends = node.leading.as_ref()?.lease.valid_until();
            let left = (ends != durability_leadership::Moment::NEVER).then(|| node.until(ends, now))?;
            (left > 0).then(|| Duration::from_nanos(left))
        });
        let next = wakes.into_iter().chain(leases).min();
        let time = match (self.draw.below(16), next) {
            (0 | 1, Some(next)) => next,
            (2, Some(next)) => next.saturating_sub(ms),
            (3, Some(next)) => next + ms,
            (4, _) => ms * self.draw.within(1..500) as u32,
            (5..=10, _) => ms * self.draw.within(0..3) as u32,
            _ => ms * self.draw.within(0..20) as u32,
        };
        self.clock.advance(time);
        if let Some(service) = &self.service {
            service.environment.wake_due();
        }
        self.trace(|world| format!("it is {} us", world.clock.elapsed_ns() / 1000));
    }

    /// Trouble comes more often when a leader has just changed: then it does most harm.
    pub(crate) fn make_trouble(&mut self, index: NodeIndex, request: &Request, is_done: bool) {
        match request {
            Request::Acquire { .. } if is_done && self.profile.slow_disks > 0 => {
                self.has_slow_changes |= self.draw.chance(300);
            }
            Request::Begin { .. } if is_done && self.profile.standstills > 0 && self.draw.chance(300) => {
                let now = self.clock.elapsed_ns();
                self.nodes[index].stands_until = now + self.draw.within(0..STANDS_AT_MOST);
                self.has_slow_changes = false;
            }
            _ => {}
        }
    }
}
