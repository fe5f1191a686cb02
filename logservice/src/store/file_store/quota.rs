//! How much of the disk the log of one shard may take.

/// Another segment would exceed the log's bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log of shard {shard} takes {taken_mb} MiB of disk, and --max-log-mb {most_mb} allows no further segment: it goes on when a \
     snapshot lets some of it go (snapshot_error in LOG.STATUS says why none is made)"
)]
pub struct OverQuota {
    shard: String,
    taken_mb: u64,
    most_mb: u64,
}

/// Checks that a log of `segments` segments that take `log_bytes` may have another one of `segment_bytes`. With a single segment it may,
/// however long that is: it may date from a time of longer segments, and can only be dropped once there is another.
///
/// # Errors
/// It would take more than `max_log_bytes`.
pub fn check(
    max_log_bytes: Option<u64>,
    (segments, log_bytes): (u64, u64),
    segment_bytes: u64,
    shard: &str,
) -> Result<(), OverQuota> {
    match max_log_bytes.filter(|most| segments > 1 && log_bytes.saturating_add(segment_bytes) > *most) {
        Some(most) => {
            let shard = shard.to_owned();
            Err(OverQuota { shard, taken_mb: log_bytes >> 20, most_mb: most >> 20 })
        }
        None => Ok(()),
    }
}
