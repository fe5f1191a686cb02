//! In some seeds a service is replaced by a new one, as by `LOG.CLUSTER REPLACE`, and then another one loses its disk for good.

use std::collections::BTreeSet;

use durability_simulation::draw::Draw;
use logservice::replica::copy::{Base, Checkpoint, Install, Position, Vote};
use logservice::replica::group::{are_members, MembersStep};
use raft::eraftpb::ConfState;

use crate::disk::Disk;
use crate::member::Member;
use crate::network::MEMBERS;
use crate::promises::Violation;
use crate::rules::DiskRule;
use crate::world::{beginning, World};

/// A replacement.
pub struct Replacing {
    /// Who is replaced.
    pub old: usize,
    /// Whether that one has lost its disk. If not, it goes on until it hears that it is no member any more.
    loses_disk: bool,
    /// The step at which that happens.
    begins_at: u64,
    has_begun: bool,
    /// From when on the members are those that are wanted.
    done_at: Option<u64>,
    /// Steps after that until another one loses its disk, if one does, and who.
    then: Option<(u64, usize)>,
}

impl Replacing {
    /// What the seed of `draw` sees.
    pub fn draw(draw: &mut Draw, steps: u64) -> Option<Self> {
        if draw.chance(500) {
            return None;
        }
        let old = draw.below(MEMBERS);
        let other = (old + draw.within(1..MEMBERS as u64) as usize) % MEMBERS;
        let then = draw.chance(500).then(|| (draw.within(1..steps / 3 + 2), other));
        let begins_at = draw.within(1..steps / 2 + 2);
        Some(Replacing { old, loses_disk: draw.chance(700), begins_at, has_begun: false, done_at: None, then })
    }

    /// Whether steps towards other members are to be taken.
    pub fn is_under_way(&self) -> bool {
        self.has_begun && self.done_at.is_none()
    }
}

impl World {
    /// Begins a replacement, or takes the second disk, when that is due.
    pub(crate) fn replace_when_due(&mut self) -> Result<(), Violation> {
        let step = self.promises.seen.steps;
        let Some(replacing) = &mut self.replacing else { return Ok(()) };
        if !replacing.has_begun && step >= replacing.begins_at {
            replacing.has_begun = true;
            let (old, loses_disk) = (replacing.old, replacing.loses_disk);
            return self.begin_to_replace(old, loses_disk);
        }
        let Some(done_at) = replacing.done_at else { return Ok(()) };
        if let Some((_, other)) = replacing.then.take_if(|(after, _)| step >= done_at + *after) {
            self.promises.seen.second_losses += 1;
            self.lose_disk(other);
        }
        Ok(())
    }

    fn begin_to_replace(&mut self, old: usize, loses_disk: bool) -> Result<(), Violation> {
        self.trace(|_| format!("{old} is to be replaced; it has lost its disk: {loses_disk}"));
        self.promises.seen.replacements += 1;
        if loses_disk {
            self.lose_disk(old);
        }
        let (disk, new) = (self.new_disk(&with_nothing())?, self.members.len());
        self.members.push(Member {
            id: new as u64 + 1,
            disk,
            life: None,
            applied: 0,
            told: Vote::default(),
            pauses_until: 0,
            has_slow_disk: false,
            is_gone: false,
        });
        self.start(new)
    }

    /// A service and its disk are gone. A service that comes back on an empty disk has another id, unless that rule is broken.
    fn lose_disk(&mut self, index: usize) {
        self.crash(index);
        self.trace(|_| format!("the disk of {index} is lost"));
        if self.broken == Some(DiskRule::HasAnIdOfItsOwn) {
            let install = beginning(0);
            self.members[index].disk = Disk::new(&install, self.broken, self.draw.fork());
            (self.members[index].told, self.members[index].applied) = (Vote::default(), install.base.position.index);
            return;
        }
        self.members[index].is_gone = true;
    }

    /// The members that are wanted now.
    pub(crate) fn wanted(&self) -> BTreeSet<u64> {
        let old = self.replacing.as_ref().filter(|replacing| replacing.has_begun).map(|replacing| replacing.old);
        let all = self.members.iter().enumerate().filter(|(index, _)| Some(*index) != old);
        all.map(|(_, member)| member.id).collect()
    }

    /// One that leads takes a step towards the members that are wanted.
    pub(crate) fn step_members(&mut self, index: usize) -> Result<(), Violation> {
        let (step, wanted) = (self.promises.seen.steps, self.wanted());
        let Some(life) = self.members[index].awake(step) else { return Ok(()) };
        let Some(term) = life.client.as_ref().map(|client| client.term) else { return Ok(()) };
        let came = life.group.step_members(term, &wanted);
        let members = life.status().members;
        if came == MembersStep::Done {
            if !are_members(&members, &wanted) {
                return Err(format!("member {index} says that all is done, and has {members:?}"));
            }
            if let Some(replacing) = self.replacing.as_mut().filter(|replacing| replacing.is_under_way()) {
                replacing.done_at = Some(step);
                self.promises.seen.replaced += 1;
            }
        }
        self.trace(|_| format!("{index} has {members:?}: {came:?}"));
        self.settle_later(index)
    }

    /// A copy says that it is no member any more.
    pub(crate) fn remove(&mut self, index: usize) -> Result<(), Violation> {
        let is_old = self.replacing.as_ref().is_some_and(|replacing| replacing.has_begun && replacing.old == index);
        if !is_old {
            return Err(format!("member {index} stops, and was not replaced"));
        }
        self.trace(|_| format!("{index} is no member any more"));
        self.promises.seen.removed += 1;
        self.crash(index);
        self.members[index].is_gone = true;
        Ok(())
    }

    /// Whether a replacement has begun, and is not done.
    pub(crate) fn is_replacing(&self) -> bool {
        self.replacing.as_ref().is_some_and(Replacing::is_under_way)
    }
}

/// How a copy begins that has come later.
fn with_nothing() -> Install {
    let (position, members) = (Position::default(), ConfState::default());
    let checkpoint =
        Checkpoint { position, state_index: 1, members: vec![(0, members.clone())], ..Checkpoint::default() };
    Install { base: Base { position, members }, checkpoint }
}
