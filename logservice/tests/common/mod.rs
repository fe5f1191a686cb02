//! What several tests need.

use std::sync::LazyLock;

/// The beginning of the pattern: more than most tests append.
static BEGINNING: LazyLock<Vec<u8>> = LazyLock::new(|| (0..16 << 20).map(byte).collect());

/// Bytes that differ from place to place, for `bytes` bytes of log from `offset` on.
pub fn pattern(offset: u64, bytes: usize) -> Vec<u8> {
    let end = offset + bytes as u64;
    match BEGINNING.get(offset as usize..end as usize) {
        Some(known) => known.to_vec(),
        None => (offset..end).map(byte).collect(),
    }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

#[allow(dead_code)] // Not for the tests of the service.
/// A directory in memory where there is such a file system: it is not the disk that is tested with so many of them.
pub fn memory_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("tempdir")
}
