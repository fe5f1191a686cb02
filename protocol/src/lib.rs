//! What the durability module and the log service say to each other: command names, error codes, framing.
//!
//! # Offsets
//! An offset counts bytes of a shard's replication stream. Every offset in this protocol is *exclusive*: it names
//! the position after the last byte it covers, so "the log's end is 100" means that bytes 0 to 99 are there, and
//! an append at offset 100 brings byte 100 next. It equals what Valkey shows as `master_repl_offset`. The one
//! exception is `PSYNC`, Valkey's own command, which asks for the *next* byte counted from one: `offset + 1`.

mod append;
mod engine;
mod refusal;

pub use append::append_header;
pub use engine::{EngineVersion, NotAVersion};
pub use refusal::{Code, Refusal};

/// `LOG.ACQUIRE shard node-id address expected-end lease-ms [engine-version]` → `[epoch, end]`.
/// Refused with [`Code::Leased`], [`Code::Gap`], or [`Code::OldEngine`].
pub const ACQUIRE: &str = "LOG.ACQUIRE";
/// `LOG.RENEW shard epoch lease-ms` → `+OK`. Refused with [`Code::Fenced`].
pub const RENEW: &str = "LOG.RENEW";
/// `LOG.RELEASE shard epoch` → `+OK`. Refused with [`Code::Fenced`].
pub const RELEASE: &str = "LOG.RELEASE";
/// `LOG.BEGIN shard epoch replid offset` → `+OK`: the leader of `epoch` continues the stream at `offset`, the log's
/// end, under replication id `replid`. Comes once before the first append of an epoch and is durable when answered;
/// sent again with the same replid and offset it is answered again. Refused with [`Code::Fenced`] or [`Code::Gap`].
pub const BEGIN: &str = "LOG.BEGIN";
/// `LOG.APPEND shard epoch offset bytes` → `:durable-offset`, once everything up to `offset + len` is durable.
/// Refused with [`Code::Fenced`], [`Code::Gap`], [`Code::NoSpace`] or [`Code::LogFailed`].
pub const APPEND: &str = "LOG.APPEND";
/// `LOG.STATUS shard` → a flat array of names and values.
pub const STATUS: &str = "LOG.STATUS";
/// `LOG.SNAPSHOT shard` → `[offset, bytes]` of a snapshot made now, off the leader, once it is stored and the log below the
/// oldest snapshot that is kept is dropped.
pub const SNAPSHOT: &str = "LOG.SNAPSHOT";
/// `LOG.SHARDS` → an array of shard names.
pub const SHARDS: &str = "LOG.SHARDS";
/// `LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms`: for tests; refused unless the service was
/// started for them.
pub const DEBUG: &str = "LOG.DEBUG";

/// The largest payload of one append, in bytes. Kept at what any log engine takes as one message.
pub const MAX_APPEND_BYTES: usize = 1 << 20;

/// Longest shard name and node id, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Whether `name` can name a shard or a node: 1 to [`MAX_NAME_BYTES`] of `A-Z a-z 0-9 . _ : -`, not starting with a dot.
/// Such a name is safe as a file name.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Whether `replid` has the form of a Valkey replication id: 40 lower-case hexadecimal digits.
pub fn is_valid_replid(replid: &str) -> bool {
    replid.len() == 40 && replid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_not_valid() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\0b", &"x".repeat(65)] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
        for good in ["a", "shard-1", "host.example:6379", &"x".repeat(64)] {
            assert!(is_valid_name(good), "{good:?}");
        }
    }
}
