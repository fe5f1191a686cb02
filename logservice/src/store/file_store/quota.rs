//! How much of the disk the log of one shard may take.

/// The log takes as much as it may, and would take more.
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

/// Whether a log that takes `log_bytes` may have another segment of `segment_bytes`.
///
/// # Errors
/// It would take more than `max_log_bytes`.
pub fn check(max_log_bytes: Option<u64>, log_bytes: u64, segment_bytes: u64, shard: &str) -> Result<(), OverQuota> {
    match max_log_bytes.filter(|most| log_bytes + segment_bytes > *most) {
        Some(most) => {
            let shard = shard.to_owned();
            Err(OverQuota { shard, taken_mb: log_bytes >> 20, most_mb: most >> 20 })
        }
        None => Ok(()),
    }
}
