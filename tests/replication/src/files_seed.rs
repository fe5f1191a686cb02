//! One seed of copies in real files. It ends with a power failure of all machines, after which each finds what it had.

use durability_simulation::draw::Draw;
use durability_simulation::runner::{violation_of, Played, SelfCheck, Simulation};
use logservice::replica::copy::Install;
use logservice::store::file_store::files::Step;

use crate::disk::Disk;
use crate::promises::Violation;
use crate::seed::count;
use crate::seen::Seen;
use crate::world::World;

/// The three copies of a log, in real files.
pub struct FilesSimulation;

impl Simulation for FilesSimulation {
    const PACKAGE: &'static str =
        "durability-replication-simulation --features files --bin durability-copy-files-simulation";
    #[cfg(feature = "self-check")]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = Some(crate::self_check::run_on_files);
    #[cfg(not(feature = "self-check"))]
    const SELF_CHECK: Option<fn(&mut SelfCheck)> = None;
    type Seen = Seen;

    fn play(seed: u64, steps: u64, is_traced: bool) -> Played<Seen> {
        play(seed, steps, None, is_traced)
    }
}

/// Plays a seed. `lie` is a step that no machine does, though it says so.
pub fn play(seed: u64, steps: u64, lie: Option<Step>, is_traced: bool) -> Played<Seen> {
    let mut world = World::new(seed, steps, None, is_traced);
    let violation = violation_of(|| {
        world.use_files(seed, lie)?;
        world.run(steps)?;
        world.get_well()?;
        world.lose_power()
    });
    Played { seen: count(&world), violation }
}

/// How copies stand in files.
pub struct OnFiles {
    /// A step that no machine does, though it says so.
    lie: Option<Step>,
    /// A thousandth part of what is done to files to which something happens.
    faults: u32,
    draw: Draw,
}

impl OnFiles {
    /// A disk with a copy that was just made.
    pub fn new_disk(&mut self, install: &Install) -> Result<Disk, Violation> {
        let disk = Disk::on_files(install, self.lie, self.draw.fork())?;
        disk.lock().faults = self.faults;
        Ok(disk)
    }
}

impl World {
    /// Puts the copies, which were just made, into files.
    fn use_files(&mut self, seed: u64, lie: Option<Step>) -> Result<(), Violation> {
        let mut draw = Draw::new(seed ^ 0xf11e);
        let faults = draw.pick(&[0, 5, 20, 60]);
        self.profile.append_bytes = draw.pick(&[40, 600, 600, 2500]);
        let mut files = OnFiles { lie, faults, draw };
        for member in &mut self.members {
            member.disk = files.new_disk(&self.beginning)?;
        }
        self.files = Some(files);
        Ok(())
    }

    /// All machines stop at a time, and start again.
    fn lose_power(&mut self) -> Result<(), Violation> {
        let left: Vec<usize> = (0..self.members.len()).filter(|&index| !self.members[index].is_gone).collect();
        left.iter().for_each(|&index| self.crash(index));
        left.into_iter().try_for_each(|index| self.start(index))?;
        self.promises.check(&self.members)
    }
}
