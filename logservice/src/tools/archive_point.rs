//! Where in an archive a restore begins and ends.

use std::sync::Arc;

use super::restore::{written_time, RestoreError, RestorePoint};
use super::until_time::UntilTime;
use crate::archive::{covered_from, logs, Archive, ArchivedSnapshot, PieceName, PieceReader, SnapshotName};
use crate::engine::Start;
use crate::snapshots::SnapshotStore;

/// What is restored, and from what.
#[derive(Debug)]
pub(super) struct Found {
    /// The snapshot to start from.
    pub base: ArchivedSnapshot,
    /// The end (exclusive) of the log that is applied.
    pub end: u64,
    /// When the last of that was written; none if that is not known.
    pub time_ms: Option<u64>,
    /// The pieces that hold the log from the snapshot on.
    pub pieces: Vec<PieceName>,
}

/// The archive of a shard. `log_id` says of which log, if several had that name.
///
/// # Errors
/// There is none, or there are several.
pub(super) async fn archive_of(
    snapshots: Arc<SnapshotStore>,
    shard: &str,
    log_id: Option<&str>,
) -> Result<Archive, RestoreError> {
    let of_shard = |place: &String| {
        let (of, id) = place.rsplit_once('-')?;
        (of == shard && log_id.is_none_or(|log_id| log_id == id)).then(|| id.to_owned())
    };
    let ids: Vec<_> = logs(&snapshots).await?.iter().filter_map(of_shard).collect();
    match &ids[..] {
        [] => Err(RestoreError::NoArchive { shard: shard.to_owned() }),
        [id] => Ok(Archive::new(snapshots, format!("{shard}-{id}"))),
        _ => Err(RestoreError::SeveralLogs { shard: shard.to_owned(), ids: ids.join(", ") }),
    }
}

/// The named backup of that name.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) async fn named(archive: &Archive, name: &str) -> Result<Found, RestoreError> {
    let backups = archive.backups().await?;
    let no_backup = || RestoreError::NoBackup { name: name.to_owned(), log: archive.place().to_owned() };
    let backup = backups.iter().find(|backup| backup.name == name).ok_or_else(no_backup)?;
    let base = archive.backup(backup).await?;
    let (end, time_ms) = (base.offset, Some(base.time_ms));
    Ok(Found { base, end, time_ms, pieces: Vec::new() })
}

/// Finds what is needed to restore to `asked`.
///
/// # Errors
/// The archive does not reach there, or cannot be read.
pub(super) async fn find(archive: &Archive, asked: RestorePoint) -> Result<Found, RestoreError> {
    let snapshots = archive.snapshots().await?;
    let pieces = archive.pieces(None).await?;
    let generation = generation_at(&snapshots, asked).ok_or_else(|| earlier(archive, &snapshots, asked))?;
    let of_log: Vec<_> = snapshots.iter().filter(|name| name.generation == generation).collect();
    let pieces: Vec<_> = pieces.into_iter().filter(|piece| piece.generation == generation).collect();
    let (end, time_ms) = match asked {
        RestorePoint::Offset(offset) => (offset, None),
        RestorePoint::TimeMs(time_ms) => end_at(archive, &of_log, &pieces, time_ms).await?.end(asked)?,
    };
    let base = of_log.iter().rev().find(|name| name.offset <= end);
    let base = base.ok_or_else(|| earlier(archive, &snapshots, asked))?;
    let covered = covered_from(&pieces, generation, base.offset);
    let next = of_log.iter().find(|name| name.offset > covered.max(base.offset));
    match (asked, next) {
        // What was written between may be before that time.
        (RestorePoint::TimeMs(time_ms), Some(next)) if end >= covered && next.time_ms > time_ms => {
            return Err(gap(asked, covered, next));
        }
        (_, Some(next)) if end > covered => return Err(gap(asked, covered, next)),
        (_, None) if end > covered => {
            return Err(RestoreError::Later { asked, end: covered });
        }
        _ => {}
    }
    let is_needed = |piece: &PieceName| piece.end > base.offset && piece.start < end;
    let pieces = pieces.into_iter().filter(is_needed).collect();
    let base = archive.snapshot(base).await?;
    Ok(Found { base, end, time_ms, pieces })
}

/// The generation of the log at that point: the last that had begun.
fn generation_at(snapshots: &[SnapshotName], asked: RestorePoint) -> Option<u64> {
    let mut begun = None;
    let mut seen = None;
    for first in snapshots {
        if seen.replace(first.generation) == Some(first.generation) {
            continue;
        }
        let has_begun = match asked {
            RestorePoint::Offset(offset) => first.offset <= offset,
            // When a log began without data is not recorded.
            RestorePoint::TimeMs(time_ms) => first.number.is_none() || first.time_ms <= time_ms,
        };
        if has_begun {
            begun = Some(first.generation);
        }
    }
    begun
}

/// What was written until a time. Only pieces are read that hold records of before and after it.
async fn end_at(
    archive: &Archive,
    snapshots: &[&SnapshotName],
    pieces: &[PieceName],
    time_ms: u64,
) -> Result<UntilTime, RestoreError> {
    let mut until = UntilTime::new(time_ms);
    let mut covered = snapshots.first().map_or(0, |first| first.offset);
    let skip = |until: &mut UntilTime, from: u64, to: u64| {
        // A snapshot holds what was written before it was made.
        for name in snapshots.iter().filter(|name| from <= name.offset && name.offset <= to && name.number.is_some()) {
            until.skip_to(name.offset, name.time_ms);
        }
    };
    skip(&mut until, covered, covered);
    for piece in pieces {
        if piece.end <= covered {
            continue;
        }
        if piece.start > covered {
            skip(&mut until, covered, piece.start);
        }
        if piece.first_ms <= time_ms && time_ms < piece.last_ms {
            for record in archive.piece(piece).await?.records {
                let end = record.offset + record.payload.len() as u64;
                if end > covered {
                    until.add(record.offset, end, record.time_ms);
                }
            }
        } else {
            until.add(piece.start, piece.end, piece.last_ms);
        }
        covered = piece.end;
    }
    skip(&mut until, covered + 1, u64::MAX);
    Ok(until)
}

fn earlier(archive: &Archive, snapshots: &[SnapshotName], asked: RestorePoint) -> RestoreError {
    let log = archive.place().to_owned();
    match snapshots.first() {
        None => RestoreError::EmptyArchive { log },
        Some(first) => {
            RestoreError::BeforeArchive { asked, log, offset: first.offset, since: written_time(first.time_ms) }
        }
    }
}

fn gap(asked: RestorePoint, from: u64, next: &SnapshotName) -> RestoreError {
    RestoreError::Gap { asked, from, until: next.offset, until_time: written_time(next.time_ms) }
}

impl Found {
    /// How long the snapshot is that it starts from, and the log that is applied, in bytes.
    pub(super) fn start(&self, archive: &Archive) -> Start {
        let offset = self.base.offset;
        let log = (self.end > offset).then(|| PieceReader::new(archive.clone(), self.pieces.clone(), offset));
        let log = log.map(|log| Box::new(log) as Box<dyn crate::store::LogReader>);
        let id = archive.place().rsplit_once('-').map_or("", |(_, id)| id);
        Start {
            replid: replid(id),
            offset,
            snapshot: None,
            log,
            end: self.end,
            engine: self.base.engine,
            epochs: Vec::new(),
        }
    }
}

/// A replication id of its own, as a server that starts from what is restored does not share the shard's later history.
pub(super) fn replid(id: &str) -> String {
    id.repeat(3).chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use object_store::memory::InMemory;

    use super::*;
    use crate::archive::PieceBuilder;
    use crate::store::Record;

    fn archive() -> Archive {
        let snapshots = SnapshotStore::over(Arc::new(InMemory::new()), PathBuf::from("drafts"));
        Archive::new(Arc::new(snapshots), "s1-abc".to_owned())
    }

    async fn snapshot(archive: &Archive, generation: u64, offset: u64, time_ms: u64) {
        let record = crate::store::SnapshotRecord {
            offset,
            file: format!("s1-abc/{offset:020}-00000001.rdb"),
            bytes: 1,
            crc32c: 0,
            blocks: None,
            replid: "r".repeat(40),
            engine: None,
            time_ms,
            contents: None,
            encrypt_key: None,
        };
        let snapshot = ArchivedSnapshot::new(generation, offset, time_ms, Some(record));
        archive.put_snapshot(&snapshot.name().expect("a name"), &snapshot).await.expect("stored");
    }

    /// A piece with records of ten bytes, of these times.
    async fn piece(archive: &Archive, generation: u64, start: u64, times: &[u64]) {
        let mut builder = PieceBuilder::new(generation, start);
        for (number, time_ms) in times.iter().enumerate() {
            let payload = vec![b'x'; 10].into();
            builder.add(&Record { epoch: 1, offset: start + 10 * number as u64, time_ms: *time_ms, payload });
        }
        let name = builder.name().expect("records");
        let bytes = builder.finish(&name, archive.place(), archive.keys()).expect("made");
        archive.put_piece(&name, bytes).await.expect("stored");
    }

    async fn found(archive: &Archive, asked: RestorePoint) -> Result<(u64, u64, Vec<u64>), String> {
        let found = find(archive, asked).await.map_err(|error| error.to_string())?;
        Ok((found.base.offset, found.end, found.pieces.iter().map(|piece| piece.start).collect()))
    }

    #[tokio::test]
    async fn a_moment_is_found_by_names_and_by_the_piece_that_holds_it() {
        let archive = archive();
        snapshot(&archive, 0, 100, 1000).await;
        piece(&archive, 0, 100, &[1100, 1200]).await;
        piece(&archive, 0, 120, &[1300, 1400, 1500]).await;
        snapshot(&archive, 0, 150, 1600).await;
        // Another service has cut it otherwise.
        piece(&archive, 0, 110, &[1200, 1300]).await;
        piece(&archive, 0, 150, &[1700, 1800]).await;
        let at = |time_ms| found(&archive, RestorePoint::TimeMs(time_ms));
        assert_eq!(at(1000).await, Ok((100, 100, vec![])));
        assert_eq!(at(1250).await, Ok((100, 120, vec![100, 110])));
        assert_eq!(at(1450).await, Ok((100, 140, vec![100, 110, 120])));
        assert_eq!(at(1650).await, Ok((150, 150, vec![])));
        assert_eq!(at(9999).await, Ok((150, 170, vec![150])));
        assert!(at(999).await.expect_err("before").contains("is before what"));
        let to = |offset| found(&archive, RestorePoint::Offset(offset));
        assert_eq!(to(135).await, Ok((100, 135, vec![100, 110, 120])));
        assert!(to(171).await.expect_err("after").contains("after the end"));
        // What is read through the pieces is the log.
        let found = find(&archive, RestorePoint::Offset(145)).await.expect("found");
        let mut log = found.start(&archive).log.expect("log");
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = 0;
            while log.offset() < 145 {
                bytes += log.read(145, 7).expect("bytes").len();
            }
            (bytes, log.read(146, 7).map(|bytes| bytes.len()).unwrap_or(0))
        });
        assert_eq!(read.await.expect("read"), (45, 1));
    }

    #[tokio::test]
    async fn a_gap_is_told_and_not_passed_over() {
        let archive = archive();
        snapshot(&archive, 0, 100, 1000).await;
        piece(&archive, 0, 100, &[1100, 1200]).await;
        snapshot(&archive, 0, 200, 2000).await;
        piece(&archive, 0, 200, &[2100]).await;
        let at = |time_ms| found(&archive, RestorePoint::TimeMs(time_ms));
        assert_eq!(at(1150).await, Ok((100, 110, vec![100])));
        let text = at(1500).await.expect_err("in the gap");
        assert!(text.contains("offset 120 to 200") && text.contains("--to 120"), "{text}");
        assert_eq!(at(2000).await, Ok((200, 200, vec![])));
        assert_eq!(at(2500).await, Ok((200, 210, vec![200])));
        let to = |offset| found(&archive, RestorePoint::Offset(offset));
        assert!(to(150).await.is_err());
        assert_eq!(to(120).await, Ok((100, 120, vec![100])));
    }

    #[tokio::test]
    async fn a_log_that_was_begun_anew_is_another_one_from_then_on() {
        let archive = archive();
        let beginning = ArchivedSnapshot::new(0, 0, 500, None);
        archive.put_snapshot(&beginning.name().expect("a name"), &beginning).await.expect("stored");
        piece(&archive, 0, 0, &[100, 200]).await;
        snapshot(&archive, 1, 20, 1000).await;
        piece(&archive, 1, 20, &[1100]).await;
        let at = |time_ms| found(&archive, RestorePoint::TimeMs(time_ms));
        assert_eq!(at(50).await, Ok((0, 0, vec![])));
        assert_eq!(at(150).await, Ok((0, 10, vec![0])));
        assert_eq!(at(999).await, Ok((0, 20, vec![0])));
        assert_eq!(at(1000).await, Ok((20, 20, vec![])));
        assert_eq!(at(1100).await, Ok((20, 30, vec![20])));
    }
}
