//! Has a service that follows make a snapshot. The one that decides stores it as well, where each keeps its own, and records it.

use std::time::Duration;

use durability_protocol::{Code, Refusal};

use crate::base::printable::printable;
use crate::service::Service;
use crate::shard::Shard;
use crate::store::SnapshotRecord;

/// What the other service may take besides, for its other work.
const BESIDES: Duration = Duration::from_secs(60);

/// Why there is no snapshot.
pub(super) enum Failed {
    /// It would be the same here, or it must not count.
    ForGood(Refusal),
    /// No other service has made one.
    MadeHereNext(String),
}

/// Has a snapshot made of what is in the log now, and records it. The other service may take twice `time`, and a minute.
pub(super) async fn make(
    service: &Service,
    shard: &Shard,
    keep: usize,
    time: Duration,
) -> Result<SnapshotRecord, Failed> {
    let made_of = shard.store().manifest();
    if let Some(newest) = made_of.newest_snapshot() {
        if newest.offset == shard.notifier().progress().visible {
            // Nothing was written since, so the last one is up to date.
            return Ok(newest.clone());
        }
    }
    let at_most = 2 * time + BESIDES;
    let made = tokio::time::timeout(at_most, service.have_snapshot_made(shard)).await;
    let made = made.map_err(|_| Failed::MadeHereNext(format!("none was made within {} s", at_most.as_secs())))?;
    let elsewhere = made.map_err(|error| match error.is_final {
        true => Failed::ForGood(Refusal::new(Code::Err, printable(&format!("no snapshot was made: {error}")))),
        false => Failed::MadeHereNext(error.to_string()),
    })?;
    let (record, by) = (elsewhere.made.record, elsewhere.by);
    if made_of.snapshots.iter().any(|known| known.file == record.file) {
        return Ok(record);
    }
    if elsewhere.made.generation != made_of.generation {
        let text = "no snapshot was made: the log was begun anew while the snapshot was made; make another";
        return Err(Failed::ForGood(Refusal::new(Code::Err, text)));
    }
    // From before it is here until it is recorded, nothing removes it.
    let stored = shard.snapshots().hold(&record.file);
    let fetched = shard.snapshots().fetch(&record).await;
    fetched.map_err(|error| Failed::MadeHereNext(format!("service {by} has made one, and {error}")))?;
    let (offset, bytes) = (record.offset, record.bytes);
    let recorded = shard.keep_stored(&made_of, record, stored, keep).await;
    let record = recorded.map_err(Failed::ForGood)?;
    tracing::info!("shard {}: snapshot at offset {offset}, {bytes} bytes, made by service {by}", shard.name());
    Ok(record)
}
