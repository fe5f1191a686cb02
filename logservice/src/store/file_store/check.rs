//! Verifies what a shard's directory holds, for `logservice check`. Changes nothing.

use std::io::Read;
use std::path::Path;

use super::open::{self, Found};
use super::snapshot;
use crate::store::{OpenError, SnapshotError};

const READ_BYTES: usize = 1 << 20;

/// What a sound shard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Where the log begins.
    pub base: u64,
    /// Where it ends (exclusive).
    pub end: u64,
    /// Its segments.
    pub segments: usize,
    /// The running checksum at its end.
    pub running_checksum: u32,
    /// The newest epoch.
    pub epoch: u64,
    /// Bytes of a record behind the end that a crash has torn; nobody was told of them.
    pub torn_bytes: u64,
    /// Offset and length of the snapshot, if there is one.
    pub snapshot: Option<(u64, u64)>,
}

/// Why a shard is not sound.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Manifest or log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The snapshot cannot be opened.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The snapshot's bytes are not those that were stored.
    #[error("snapshot {file}: {reason}")]
    SnapshotBytes {
        /// Its name.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Verifies manifest, every record of the log, and the snapshot. `None` if nothing was ever stored there.
pub fn check(directory: &Path, shard: &str) -> Result<Option<Sound>, CheckError> {
    let Some(Found { manifest, segments, end, running_checksum, torn_bytes, .. }) = open::verify(directory, shard)?
    else {
        return Ok(None);
    };
    if let Some(record) = &manifest.snapshot {
        let wrong = |reason: String| CheckError::SnapshotBytes { file: record.file.clone(), reason };
        let mut file = snapshot::open(&directory.join("snapshots"), record)?;
        let mut buffer = vec![0; READ_BYTES];
        let mut checksum = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => checksum = crc32c::crc32c_append(checksum, &buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
            }
        }
        if checksum != record.crc32c {
            return Err(wrong(format!("its checksum is {checksum:08x}, and was {:08x}", record.crc32c)));
        }
    }
    Ok(Some(Sound {
        base: manifest.base,
        end,
        segments: segments.len(),
        running_checksum,
        epoch: manifest.epochs.last().map_or(0, |term| term.epoch),
        torn_bytes,
        snapshot: manifest.snapshot.as_ref().map(|record| (record.offset, record.bytes)),
    }))
}
