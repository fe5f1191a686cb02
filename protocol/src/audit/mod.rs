//! An audit: keys of the leader at known offsets, to be compared with what the log holds at the same offsets.
//!
//! The leader and the log service's engine read a key by the same commands ([`value_command`]) and fold the replies by the same code
//! ([`facts`]), so any difference is in the data. The leader's main thread reads, so the amount is bounded ([`Parts::of`]): the beginning of
//! a string, list, sorted set or stream, and everything or nothing of a set or hash. Type, length and expire time are always compared.

mod batch;
mod digest;
mod picker;
mod reading;

pub use batch::{AuditOrder, Batch, Sample};
pub use digest::{facts, Digest, Facts, Found};
pub use picker::{parse_keyspace, read_scan, Pick, Picker, SCAN_COUNT};
pub use reading::{value_command, Kind, Parts, Reading, Value};

/// The most keys that an audit picks on each side, the leader's and the log's.
pub const MAX_AUDIT_KEYS: u64 = 100_000;

/// How many keys it picks by default.
pub const DEFAULT_AUDIT_KEYS: u64 = 1000;

/// The most samples of a batch.
pub const MAX_BATCH_SAMPLES: usize = 64;

/// Longest name of a key that is sampled, in bytes.
pub const MAX_KEY_BYTES: usize = 1 << 10;

/// The most names that the service answers a batch with.
pub const MAX_BATCH_NAMES: usize = 32;
