//! Verifies what a shard's directory holds, for `logservice check`. Changes nothing.

use std::path::Path;

use super::open::{self, Found};
use crate::store::{Manifest, OpenError};

/// What a sound shard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Its manifest.
    pub manifest: Manifest,
    /// Where the log ends (exclusive).
    pub end: u64,
    /// Its segments.
    pub segments: usize,
    /// The running checksum at its end.
    pub running_checksum: u32,
    /// Bytes of a record behind the end that a crash has torn; nobody was told of them.
    pub torn_bytes: u64,
}

/// Verifies manifest and every record of the log. `None` if nothing was ever stored there.
pub fn check(directory: &Path, shard: &str) -> Result<Option<Sound>, OpenError> {
    let Some(Found { manifest, segments, end, running_checksum, torn_bytes, .. }) = open::verify(directory, shard)?
    else {
        return Ok(None);
    };
    Ok(Some(Sound { manifest, end, segments: segments.len(), running_checksum, torn_bytes }))
}
