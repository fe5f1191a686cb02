//! One seed of copies in real files. It ends with a power failure of all machines, after which each finds what it had.

use durability_simulation::draw::Draw;
use durability_simulation::runner::{violation_of, Played, SelfCheck, Simulation};
use logservice::replica::copy::Install;
use logservice::store::file_store::files::Step;

use crate::disk::Disk;
use crate::network::MEMBERS;
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
    let mut world = World::new(seed, None, is_traced);
    let violation = violation_of(|| {
        world.use_files(seed, lie)?;
        world.run(steps)?;
        world.get_well()?;
        world.lose_power()
    });
    Played { seen: count(&world), violation }
}

impl World {
    /// Puts the copies, which were just made, into files.
    fn use_files(&mut self, seed: u64, lie: Option<Step>) -> Result<(), Violation> {
        let mut draw = Draw::new(seed ^ 0xf11e);
        let faults = draw.pick(&[0, 5, 20, 60]);
        self.profile.append_bytes = draw.pick(&[40, 600, 600, 2500]);
        for member in &mut self.members {
            let medium = member.disk.lock().medium.clone();
            let install = Install { base: medium.base, checkpoint: medium.checkpoint };
            member.disk = Disk::on_files(&install, lie, draw.fork())?;
            member.disk.lock().faults = faults;
        }
        Ok(())
    }

    /// All machines stop at a time, and start again.
    fn lose_power(&mut self) -> Result<(), Violation> {
        (0..MEMBERS).for_each(|index| self.crash(index));
        (0..MEMBERS).try_for_each(|index| self.start(index))?;
        self.promises.check(&self.members)
    }
}
