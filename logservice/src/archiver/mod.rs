//! Brings logs into their [archives](crate::archive), at the service that decides over each: one task for each shard, beside the appends, and
//! never waited for by them. `log.rs` does the work of one shard.

mod log;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{watch, Semaphore};
use tokio::task::JoinHandle;

use self::log::LogArchiver;
use crate::service::Service;
use crate::shard::Shard;

/// How often it is looked for shards that have come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pieces that are read and stored at a time, of all shards together. Each takes up to three times its length in memory.
const PIECES_AT_A_TIME: usize = 4;

/// Archives the logs over which the service decides, until `shutdown`. `keep_snapshots` are left on the service itself.
pub async fn run(service: Arc<Service>, keep_snapshots: usize, mut shutdown: watch::Receiver<bool>) {
    let turns = Arc::new(Semaphore::new(PIECES_AT_A_TIME));
    let mut running: BTreeMap<String, (Weak<Shard>, JoinHandle<()>)> = BTreeMap::new();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An error means that the program ends.
            _ = shutdown.wait_for(|is_stopping| *is_stopping) => break,
            _ = looks.tick() => {}
        }
        running.retain(|_, (_, task)| !task.is_finished());
        for shard in service.open_shards().into_iter().filter(|shard| shard.decides() && !shard.has_ended()) {
            let Some(archive) = shard.archive().cloned() else { continue };
            let is_same = |(of, _): &(Weak<Shard>, JoinHandle<()>)| of.as_ptr() == Arc::as_ptr(&shard);
            if running.get(shard.name()).is_some_and(is_same) {
                continue;
            }
            let (of, name) = (Arc::downgrade(&shard), shard.name().to_owned());
            let archiver = LogArchiver::new(shard, archive, turns.clone(), keep_snapshots);
            if let Some((_, before)) = running.insert(name, (of, tokio::spawn(archiver.run()))) {
                before.abort();
            }
        }
    }
    running.into_values().for_each(|(_, task)| task.abort());
}
