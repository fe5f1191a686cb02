//! What several tests need.

/// Bytes that differ from place to place, for `bytes` bytes of log from `offset` on.
pub fn pattern(offset: u64, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
