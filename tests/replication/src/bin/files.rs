//! Plays seeds of copies in real files, and says how to play a failing one again.

fn main() -> std::process::ExitCode {
    durability_simulation::runner::run::<durability_replication_simulation::files_seed::FilesSimulation>()
}
