//! What of an archive is not needed any more.

use super::SnapshotName;

/// The snapshot from which on everything is needed to restore any moment since `begin_ms`: `snapshots` before it, and log below it, are not.
/// `snapshots` are sorted. None if all is needed.
///
/// A snapshot goes only when the one after it, and all before that, were recorded before that moment. So the newest that is older stays, and
/// so does what a clock that was set back has recorded with earlier times: as long as anything before it is within the time.
pub fn needed_from(snapshots: &[SnapshotName], begin_ms: u64) -> Option<&SnapshotName> {
    let mut oldest = None;
    for snapshot in snapshots {
        if snapshot.time_ms > begin_ms {
            break;
        }
        oldest = Some(snapshot);
    }
    oldest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshots(times: &[u64]) -> Vec<SnapshotName> {
        let name = |(at, time_ms): (usize, &u64)| SnapshotName {
            generation: 0,
            offset: at as u64,
            time_ms: *time_ms,
            number: Some(1),
        };
        times.iter().enumerate().map(name).collect()
    }

    fn oldest(times: &[u64], begin_ms: u64) -> Option<u64> {
        needed_from(&snapshots(times), begin_ms).map(|snapshot| snapshot.offset)
    }

    #[test]
    fn the_newest_snapshot_that_is_older_than_the_time_stays() {
        assert_eq!(oldest(&[], 100), None);
        assert_eq!(oldest(&[10, 20, 30], 5), None);
        assert_eq!(oldest(&[10, 20, 30], 10), Some(0));
        assert_eq!(oldest(&[10, 20, 30], 29), Some(1));
        assert_eq!(oldest(&[10, 20, 30], 1000), Some(2));
    }

    #[test]
    fn a_clock_that_was_set_back_has_nothing_removed_early() {
        // Between the first and the third, moments up to 90 can be asked for.
        assert_eq!(oldest(&[10, 90, 40, 50], 60), Some(0));
        assert_eq!(oldest(&[10, 90, 40, 50], 90), Some(3));
    }
}
