//! Which step comes next, and the troubles among them.

use logservice::replica::copy::CopyDisk;
use logservice::replica::group::members_at;

use crate::member::Report;
use crate::network::MEMBERS;
use crate::promises::Violation;
use crate::world::World;

/// The longest pause, in steps.
const PAUSE_AT_MOST: u64 = 500;

/// A step that can be taken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Tick,
    Deliver,
    Sync,
    Report,
    Client,
    Settle,
    Rush,
    Crash,
    Start,
    Pause,
    Cut,
    Mend,
    Break,
    SlowDisk,
    Trim,
    Transfer,
    Campaign,
    Members,
    Damage,
    MakeWay,
}

impl World {
    /// Draws the next step of those that can be taken.
    pub(crate) fn choose(&mut self) -> Step {
        let (profile, step) = (&self.profile, self.promises.seen.steps);
        let many = |count: usize| u32::try_from(count.min(24)).unwrap_or(24);
        let hears = |to: usize| self.members.get(to).is_some_and(|member| member.pauses_until <= step);
        let (mut syncs, mut reports, mut leads, mut down) = (0, 0, 0, 0);
        for member in &self.members {
            let waiting = u32::from(member.disk.lock().waiting() > 0);
            syncs += if member.has_slow_disk { waiting } else { 12 * waiting };
            let Some(life) = &member.life else {
                down += u32::from(!member.is_gone);
                continue;
            };
            reports += u32::from(!life.reports.is_empty());
            leads += u32::from(life.leads());
        }
        // The more waits, the sooner it comes: nothing piles up.
        let steps = [
            (24 * profile.ticks, Step::Tick),
            (24 * 3 * many(self.network.waiting(hears)), Step::Deliver),
            (24 * syncs, Step::Sync),
            (24 * 12 * reports, Step::Report),
            (24 * leads * profile.clients, Step::Client),
            (if self.is_replacing() { 24 * 4 * leads } else { 0 }, Step::Members),
            (24 * 4, Step::Settle),
            (4 * profile.rushes, Step::Rush),
            (3 * profile.crashes, Step::Crash),
            (8 * down, Step::Start),
            (2 * profile.pauses, Step::Pause),
            (2 * profile.cuts, Step::Cut),
            (if self.network.has_cuts() { 3 } else { 0 }, Step::Mend),
            (2 * profile.breaks, Step::Break),
            (3 * profile.slow_disks, Step::SlowDisk),
            (10 * profile.trims, Step::Trim),
            (3 * profile.transfers, Step::Transfer),
            (4 * profile.campaigns, Step::Campaign),
            (2 * profile.damages, Step::Damage),
            (if self.members.iter().any(|member| member.lost_in().is_some()) { 12 } else { 0 }, Step::MakeWay),
        ];
        self.draw.weighted(&steps).unwrap_or(Step::Tick)
    }

    /// Takes a step.
    pub(crate) fn take(&mut self, step: Step) -> Result<(), Violation> {
        let index = self.draw.below(self.members.len());
        match step {
            Step::Tick => self.tick(index),
            Step::Deliver => self.deliver(),
            Step::Sync => {
                let busy = |world: &World, index: usize| {
                    let member = &world.members[index];
                    member.disk.lock().waiting() > 0 && !member.has_slow_disk
                };
                let index = self.first_from(index, busy).unwrap_or(index);
                self.sync(index);
                Ok(())
            }
            Step::Report => {
                let has_reports = |world: &World, index: usize| {
                    world.members[index].life.as_ref().is_some_and(|life| !life.reports.is_empty())
                };
                self.first_from(index, has_reports).map_or(Ok(()), |index| self.report(index))
            }
            Step::Members => self.first_from(index, World::leads).map_or(Ok(()), |index| self.step_members(index)),
            Step::Client => self.first_from(index, World::leads).map_or(Ok(()), |index| self.act(index)),
            Step::Settle => match self.members[index].awake(self.promises.seen.steps) {
                Some(_) => self.settle(index),
                None => Ok(()),
            },
            Step::Rush => {
                self.trace(|_| format!("time rushes at {index}"));
                (0..self.draw.within(1..30)).try_for_each(|_| self.tick(index))
            }
            Step::Start => match self.first_from(index, World::can_start) {
                Some(index) => self.start(index),
                None => Ok(()),
            },
            _ => self.trouble(step, index),
        }
    }

    fn trouble(&mut self, step: Step, index: usize) -> Result<(), Violation> {
        let count = self.members.len();
        let other = (index + self.draw.below(count - 1) + 1) % count;
        match step {
            Step::Crash => self.crash(index),
            Step::Pause => {
                let until = self.promises.seen.steps + self.draw.within(1..PAUSE_AT_MOST);
                self.members[index].pauses_until = until;
                self.promises.seen.pauses += 1;
                self.trace(|_| format!("{index} pauses until {until}"));
            }
            Step::Cut => self.cut(index, other),
            Step::Mend => {
                self.network.mend();
                self.trace(|_| "nothing is cut any more".to_owned());
            }
            Step::Break => {
                self.network.break_connection(index, other);
                self.promises.seen.breaks += 1;
                self.trace(|_| format!("the connection of {index} and {other} breaks"));
                for (here, there) in [(index, other), (other, index)] {
                    let id = self.members[there].id;
                    if let Some(life) = self.members[here].awake(self.promises.seen.steps) {
                        life.group.unreachable(id);
                        self.settle_later(here)?;
                    }
                }
            }
            Step::SlowDisk => {
                self.members[index].has_slow_disk ^= true;
                self.trace(|world| format!("{index} has a slow disk: {}", world.members[index].has_slow_disk));
            }
            Step::Trim => self.trim(index),
            Step::Transfer => {
                let (Some(leader), to) = (self.first_from(index, World::leads), self.members[other].id) else {
                    return Ok(());
                };
                let Some(life) = self.members[leader].awake(self.promises.seen.steps) else { return Ok(()) };
                life.group.transfer_to(to);
                self.promises.seen.transfers += 1;
                self.trace(|_| format!("{leader} hands over to {other}"));
                return self.settle_later(leader);
            }
            Step::Campaign => {
                let Some(life) = self.members[index].awake(self.promises.seen.steps) else { return Ok(()) };
                life.group.campaign();
                self.trace(|_| format!("{index} asks for votes"));
                return self.settle_later(index);
            }
            Step::Damage => self.damage(index),
            Step::MakeWay => return self.make_way(),
            _ => {}
        }
        Ok(())
    }

    /// A service finds its copy damaged, and gives it up, as another one decides, and no other has lost anything.
    fn damage(&mut self, index: usize) {
        // One disk is lost already in those seeds.
        if self.replacing.is_some() {
            return;
        }
        let is_lost = |world: &World, index: usize| world.members[index].may_lose().is_some();
        let mut others = (0..MEMBERS).filter(|&other| other != index);
        if others.clone().any(|other| is_lost(self, other)) || !others.any(|other| self.leads(other)) {
            return;
        }
        self.crash(index);
        let member = &mut self.members[index];
        member.disk.lock().begin_anew(&self.beginning);
        member.applied = self.beginning.base.position.index;
        self.promises.seen.damages += 1;
        self.trace(|world| {
            format!("{index} is damaged: it has lost what it acknowledged in {:?}", world.members[index].lost_in())
        });
    }

    /// Who leads in a term in which another copy may have acknowledged what it has lost hands over.
    pub(crate) fn make_way(&mut self) -> Result<(), Violation> {
        let Some(lost_in) = self.members.iter().filter_map(|member| member.lost_in()).max() else { return Ok(()) };
        for index in (0..MEMBERS).filter(|&index| self.leads(index)).collect::<Vec<_>>() {
            let fit = |other: &usize| *other != index && self.members[*other].lost_in().is_none();
            let Some(other) = (0..MEMBERS).find(fit) else { continue };
            let (step, to) = (self.promises.seen.steps, self.members[other].id);
            let Some(life) = self.members[index].awake(step) else { continue };
            if life.status().term > lost_in {
                continue;
            }
            life.group.transfer_to(to);
            self.trace(|_| format!("{index} makes way for {other}"));
            self.settle_later(index)?;
        }
        Ok(())
    }

    fn cut(&mut self, index: usize, other: usize) {
        let others = (0..self.members.len()).filter(|&one| one != index);
        let directions: Vec<(usize, usize)> = match self.draw.below(4) {
            0 => vec![(index, other)],
            1 => vec![(index, other), (other, index)],
            2 => others.map(|other| (index, other)).collect(),
            _ => others.flat_map(|other| [(index, other), (other, index)]).collect(),
        };
        directions.iter().for_each(|&(from, to)| self.network.cut(from, to, true));
        self.promises.seen.cuts += 1;
        self.trace(|_| format!("cut: {directions:?}"));
    }

    /// Drops log of one copy.
    fn trim(&mut self, index: usize) {
        let member = &mut self.members[index];
        let Some(life) = member.life.as_mut().filter(|_| member.pauses_until <= self.promises.seen.steps) else {
            return;
        };
        let (offset, checkpoint) = (self.draw.within(0..life.view.end + 1), life.group.checkpoint());
        let (upto, members) = (checkpoint.position.index, &checkpoint.members);
        let before = member.disk.lock().medium.base.position.index;
        let trimmed = member.disk.trim(offset, upto, &|index| members_at(members, index));
        let Ok(base) = trimmed else { return };
        let to = base.position.index;
        self.promises.seen.trims += u64::from(to > before);
        life.reports.push_back(Report::Trimmed(base));
        self.trace(|_| format!("{index} drops what lies below {offset}: its base was {before}, and is {to}"));
    }

    fn can_start(&self, index: usize) -> bool {
        self.members[index].life.is_none() && !self.members[index].is_gone
    }

    fn leads(&self, index: usize) -> bool {
        self.members[index].life.as_ref().is_some_and(|life| life.leads())
    }

    /// The first member from that one on of which `is` holds.
    fn first_from(&self, index: usize, is: impl Fn(&World, usize) -> bool) -> Option<usize> {
        let count = self.members.len();
        (0..count).map(|next| (index + next) % count).find(|&index| is(self, index))
    }
}
