//! Verifies what a shard's directory holds, for `logservice check`. Changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::open::{self, Found};
use crate::encryption::KeyRing;
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
    /// Bytes of a record behind the end that a crash has torn; they were never acknowledged.
    pub torn_bytes: u64,
    /// The ids of the keys with which segments are encrypted, in order.
    pub key_ids: BTreeSet<String>,
    /// How many segments are not encrypted.
    pub plain_segments: usize,
}

/// Verifies the manifest and every record of the log. `None` if nothing was ever stored there. Without any keys, records are not
/// decrypted: their checksums are verified all the same.
pub fn check(directory: &Path, shard: &str, keys: &KeyRing) -> Result<Option<Sound>, OpenError> {
    let found = open::verify(directory, shard, keys.has_keys().then_some(keys))?;
    let Some(Found { manifest, segments, end, running_checksum, torn_bytes, .. }) = found else {
        return Ok(None);
    };
    let envelopes = segments.iter().filter_map(|segment| segment.header.envelope.as_ref());
    let key_ids = envelopes.map(|envelope| envelope.key_id.clone()).collect();
    let plain_segments = segments.iter().filter(|segment| segment.header.envelope.is_none()).count();
    let segments = segments.len();
    Ok(Some(Sound { manifest, end, segments, running_checksum, torn_bytes, key_ids, plain_segments }))
}
