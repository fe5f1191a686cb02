//! Plays seeds of a whole replicated shard, and says how to play a failing one again.

fn main() -> std::process::ExitCode {
    durability_simulation::runner::run::<durability_replication_simulation::shards::seed::ShardsSimulation>()
}
