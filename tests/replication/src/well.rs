//! The end of a seed: all trouble ends, and then the copies have to become equal and take new writes within a bounded time.

use logservice::replica::group::GroupStatus;

use crate::promises::Violation;
use crate::world::World;

/// When all is well, new writes are acknowledged within so many ticks of each service.
const WRITES_WITHIN: u64 = 100;
/// And all copies are equal within so many. A base that was sent and lost is sent again only after a while.
const EQUAL_WITHIN: u64 = 400;
/// What a tick brings about is over by then.
const ROUNDS_AT_MOST: u64 = 2_000;

impl World {
    /// Ends all trouble.
    pub fn get_well(&mut self) -> Result<(), Violation> {
        self.trace(|_| "all is well from now on".to_owned());
        self.profile = self.profile.calm();
        self.network.mend();
        #[cfg(feature = "files")]
        self.members.iter().for_each(|member| member.disk.lock().calm());
        for index in 0..self.members.len() {
            self.members[index].pauses_until = 0;
            if self.members[index].life.is_none() && !self.members[index].is_gone {
                self.start(index)?;
            }
        }
        let equal_within = EQUAL_WITHIN * if self.is_replacing() { 2 } else { 1 };
        let acknowledged = self.promises.acknowledged;
        for tick in 0..equal_within {
            let all = 0..self.members.len();
            all.clone().try_for_each(|index| self.tick(index))?;
            if self.is_replacing() {
                all.clone().try_for_each(|index| self.step_members(index))?;
            }
            self.make_way()?;
            self.come_to_rest()?;
            let is_writing = self.promises.acknowledged <= acknowledged;
            if is_writing {
                if tick >= WRITES_WITHIN {
                    let copies = self.copies();
                    return Err(format!("all is well for {tick} ticks, and no write is acknowledged: {copies:?}"));
                }
                all.clone().try_for_each(|index| self.act(index))?;
                self.come_to_rest()?;
            } else if !self.is_replacing() && self.is_equal() {
                return Ok(());
            }
        }
        let copies = self.copies();
        Err(format!("all is well for {equal_within} ticks, and the copies differ: {copies:?}"))
    }

    /// What all copies say of themselves, to be told.
    fn copies(&self) -> Vec<(u64, GroupStatus)> {
        self.members.iter().filter_map(|member| Some((member.id, member.life.as_ref()?.status()))).collect()
    }

    /// Everything that can happen without time happens.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        for _ in 0..ROUNDS_AT_MOST {
            for index in 0..self.members.len() {
                self.settle(index)?;
                self.sync(index);
                self.report(index)?;
            }
            self.deliver()?;
            self.promises.check(&self.members)?;
            let is_resting = |world: &World, index: usize| {
                let member = &world.members[index];
                member.disk.lock().waiting() == 0 && member.life.as_ref().is_none_or(|life| life.reports.is_empty())
            };
            if self.network.waiting(|_| true) == 0 && (0..self.members.len()).all(|index| is_resting(self, index)) {
                return Ok(());
            }
        }
        Err("all is well, and there is no end of messages".to_owned())
    }

    /// Whether all copies are the same, in memory and on the media.
    fn is_equal(&self) -> bool {
        let (last, wanted) = (self.promises.truth.last(), self.wanted());
        let mut left = self.members.iter().filter(|member| wanted.contains(&member.id) && !member.is_gone);
        left.all(|member| {
            let Some(life) = &member.life else { return false };
            let (status, medium) = (life.status(), &member.disk.lock().medium);
            let has_entries = |index| medium.entry(index) == self.promises.truth.entry(index);
            (status.applied.index, status.last, medium.last()) == (last, last, last)
                && life.group.is_whole()
                && (medium.base.position.index + 1..=last).all(has_entries)
        })
    }
}
