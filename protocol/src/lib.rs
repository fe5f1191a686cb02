//! What the durability module and the log service say to each other: command names, error codes, framing.
//!
//! # Offsets
//! An offset counts bytes of a shard's replication stream. Every offset in this protocol is *exclusive*: it names
//! the position after the last byte it covers, so "the log's end is 100" means that bytes 0 to 99 are there, and
//! an append at offset 100 brings byte 100 next. It equals what Valkey shows as `master_repl_offset`. The one
//! exception is `PSYNC`, Valkey's own command, which asks for the *next* byte counted from one: `offset + 1`.
//!
//! # Leases
//! A lease is counted twice. The leader counts its length from before it sent the last [`ACQUIRE`] or [`RENEW`] that was
//! answered, and stops answering its clients when that is over. The log service counts from when that command came, and gives
//! the lease to another node only after its length *and* a margin, `lease-ms / 20 + 10` milliseconds: so the two clocks may
//! drift apart by 5 % of the lease. After a start of the service both begin anew. A lease of 0 ms never expires. A leader that asks
//! for a shorter lease than before has to count by the shorter one from the moment it asks, answered or not.
//!
//! # Identity
//! A log has an id, drawn at random when it begins (`log_id` in [`STATUS`]). A copy of its files has the same. A node remembers
//! what it [knows](Known) of the log that it leads or follows, and says so with [`CHECK`] first on each connection, and in the user name
//! of its server's `PSYNC` connection (see [`replica_user`]). The service refuses what contradicts the log that it has. Its storage
//! changes only while it does not run, or by [`DROP`], which ends the connections that have compared it: so what was compared once on
//! a connection stays true for as long as the connection lasts.
//!
//! # Roles
//! What a connection may send depends on the role of the token with which it logged in: see `resp/commands.rs` of the log service. Anything else is
//! refused with [`Code::NoPerm`], and nothing of it is done. When the token is taken away the connection is told [`Code::NoAuth`] and closed.
//!
//! # Shards
//! A shard is made by its first node: [`CHECK`], which every node sends first, makes an empty one if there is none of that name. Every
//! other command on a shard that there is not is refused with [`Code::NoShard`]; a `PSYNC` with [`Code::NoMasterLink`], so that a
//! server that asks keeps what it holds. Only [`DROP`] removes one.

mod append;
pub mod audit;
mod engine;
mod known;
mod logged;
pub mod process;
mod refusal;
mod scanner;

pub use append::append_header;
pub use engine::{EngineVersion, NotAVersion};
pub use known::{replica_user, Known, NotKnown, ReplicaUser};
pub use logged::{is_logged, judge, Judged, Logged};
pub use refusal::{Code, Refusal};
pub use scanner::{NotLogged, Scanner, Unfit};

/// `LOG.CHECK shard node-id address known [DIFFERS]` → the log's id, a bulk string: whether the log is the one that the node knows and holds what
/// the node knows to be durable in it. `known` is a [`Known`] as text, or `-` from a node that knows none. Refused with
/// [`Code::OtherLog`] if the log is another, with [`Code::Gap`] if it lacks what was durable. With [`DIFFERS`] always refused: the node has
/// seen that the log holds other bytes than it wrote, which no comparison of `known` shows. If there is no such shard an empty one is
/// made, with a new id, and compared. While a node is refused, and for
/// [`CONTRADICTION_MS`] after it asked last, the lease is granted to nobody; see [`ACCEPT`].
pub const CHECK: &str = "LOG.CHECK";
/// See [`CHECK`].
pub const DIFFERS: &str = "DIFFERS";
/// `LOG.ACCEPT shard log-id` → `+OK`: an operator's word that the log is right as it is: nodes that contradict it keep the lease from
/// nobody any more, until the service is restarted. They themselves still do not follow it. Refused with [`Code::OtherLog`].
pub const ACCEPT: &str = "LOG.ACCEPT";
/// `LOG.ACQUIRE shard node-id address expected-end lease-ms [engine-version [process [replid]]] [DATABASES n]` → `[epoch, end]`.
/// Granted when nobody holds the lease, or it and the margin are over, whoever held it: two processes may go by one node id.
/// Only a lease that never expires passes to the same node id at once. `process` says which process will lead
/// ([`process`]); it is shown to all as `leader_process`, so that a node which is started again and sees that its earlier
/// life is over can free the lease with [`RESIGN`]; empty before a `replid`, it is not told. `replid` is the replication id of
/// what the node holds up to `expected-end`: it must be the log's, or the node holds other data that happens to end at the same
/// offset. [`DATABASES`] tells how many databases the node can write to; `LOG.STATUS` shows the most that any leader of the log could, as
/// a node with fewer cannot follow. Taken only on a connection on which [`CHECK`] was answered for that shard. Refused with
/// [`Code::Leased`], [`Code::Gap`], [`Code::OldEngine`], and with [`Code::OtherLog`] while another node contradicts the log.
pub const ACQUIRE: &str = "LOG.ACQUIRE";
/// See [`ACQUIRE`].
pub const DATABASES: &str = "DATABASES";
/// `LOG.RENEW shard epoch lease-ms [sent]` → `+OK`: the lease counts anew, also if it has expired and nobody has taken it. `sent`
/// grows from one renewal of an epoch to the next: one that comes after another that was sent later is refused, as its bytes lay in
/// a connection that the leader has given up, and might make the lease shorter than what the leader counts by. Refused
/// with [`Code::Fenced`], or with [`Code::LogFailed`] while it is not known whether a change of leader was stored.
pub const RENEW: &str = "LOG.RENEW";
/// `LOG.RESIGN shard epoch [TO node-id reserve-ms]` → `+OK`: nobody leads. Sent by the leader itself, which has stopped answering its
/// clients before, or by a later life of its node that knows the earlier one to be over. With `TO`, only that node may lead for
/// `reserve-ms` (at most [`MAX_RESERVE_MS`]); others are refused with [`Code::Leased`]. The reservation ends when that node leads, with
/// its time, by another release of the same epoch, and when the service is restarted. Refused with [`Code::Fenced`].
pub const RESIGN: &str = "LOG.RESIGN";
/// `LOG.RELEASE shard epoch [TO node-id reserve-ms] [FORCE]` → `+OK`: the operator takes the lease from a leader that may live. Its appends
/// and renewals are refused with [`Code::Fenced`] from then on, and so is its [`NODE`]; nobody else is granted the lease before it has
/// answered with [`RESIGN`], or its lease and the margin have passed. That is when this is answered. A leader whose lease never
/// expires and that does not resign within [`RELEASE_WAIT_MS`] is refused with [`Code::Leased`]; with `FORCE` the lease is free at
/// once, which is safe only if that process is gone. `TO` as in [`RESIGN`]. Refused with [`Code::Fenced`].
pub const RELEASE: &str = "LOG.RELEASE";
/// `LOG.DROP shard log-id [FORCE]` → `+OK`: removes the shard for good, with its log and its snapshots. `log-id` is the log's id, as
/// [`STATUS`] tells; [`NO_LOG_ID`] of a shard whose manifest cannot be read, which needs `FORCE`. Refused with [`Code::OtherLog`] if
/// the id is another; without `FORCE` also while a node leads or was heard of within [`IN_USE_MS`], or a replica follows. What is
/// open on the shard is refused with [`Code::NoShard`] and ends: appends in flight, polls, and the streams of replicas. When
/// this is answered a shard of the same name can be made, which is another log; the files are removed meanwhile.
pub const DROP: &str = "LOG.DROP";
/// See [`DROP`].
pub const NO_LOG_ID: &str = "-";
/// `LOG.BEGIN shard epoch replid offset` → `+OK`: the leader of `epoch` continues the stream at `offset`, the log's
/// end, under replication id `replid`. Comes once before the first append of an epoch and is durable when answered;
/// sent again with the same replid and offset it is answered again. Refused with [`Code::Fenced`] or [`Code::Gap`].
pub const BEGIN: &str = "LOG.BEGIN";
/// `LOG.APPEND shard epoch offset bytes` → `:durable-offset`, which is `offset + len`, once everything up to there is durable.
/// More may be, but need not be this leader's. One that lies below the log's end, wholly or in part, is taken for one that was sent
/// before only if the log has the same bytes there; else it is refused with [`Code::Gap`].
/// Refused with [`Code::Fenced`], [`Code::Gap`], [`Code::NoSpace`] or [`Code::LogFailed`].
pub const APPEND: &str = "LOG.APPEND";
/// `LOG.NODE shard node-id address role priority applied-offset version wait-ms` → a flat array of names and values: a node tells
/// of itself and waits for leadership to change.
///
/// - `address`: where clients reach it, see [`is_valid_address`].
/// - `role`: `leader`, `follower` or `attaching`.
/// - `priority`: 0 to [`MAX_PRIORITY`]; 0 never leads. The service only passes it on.
/// - `applied-offset`: what it has applied.
/// - `version`: the version of leadership that it was told last, 0 at first.
///
/// Answered at once if the version is another, else when it becomes another, at the latest after `wait-ms` (at most
/// [`MAX_POLL_WAIT_MS`]); earlier if anything else is sent on the same connection. The version grows with each change of leader,
/// epoch or address, when a term begins to write, when a lease or reservation ends or counts anew after its end. It begins anew,
/// elsewhere, when the service does, so it is compared for equality only. While a node is being granted the lease, nobody leads.
///
/// The answer: `version`; `epoch`; `leader`, `leader_address` and `leader_process`, empty if nobody leads or it is not
/// known; `lease_remaining_ms` until another may lead, margin included (0 expired, -1 nobody leads, -2 never expires); `lease_ms`, its length (0 none, or never expires);
/// `reserved_for`, empty if for nobody; `stream_epoch`, the epoch whose leader began to write last, and `replid`, under
/// which it does; `base` and `end` of the log; `state`; `audit`, if one is wanted; then `node0`, `node1` … in order of their ids, as
/// `id=n1,address=10.0.0.5:6379,role=follower,priority=100,applied=123,lag_bytes=0,lag_ms=0,contact_ms=12`, with what each told
/// last. Names that are added later come before `node0`. A shard knows [`MAX_NODES`] at most, and forgets a node after an hour
/// without a poll. `LOG.STATUS` shows the same. A leader from which the lease is being taken by [`RELEASE`] is refused with
/// [`Code::Fenced`].
pub const NODE: &str = "LOG.NODE";
/// `LOG.STATUS shard` → a flat array of names and values. `client_ip` is the address from which the service sees whoever asks: nodes put
/// it into the name of their process.
pub const STATUS: &str = "LOG.STATUS";
/// `LOG.SNAPSHOT shard` → `[offset, bytes]` of a snapshot made now, off the leader, once it is stored and the log below the
/// oldest snapshot that is kept is dropped.
pub const SNAPSHOT: &str = "LOG.SNAPSHOT";
/// `LOG.AUDIT shard [KEYS n]` → names and values in turn: compares keys of the leader with what the log holds at the same offsets.
/// Answered when it is done; an error says why it could not be. It ends if the connection, or its half of it, does. See [`audit`].
pub const AUDIT: &str = "LOG.AUDIT";
/// `LOG.AUDIT-RESULT shard audit-id epoch batch` → a flat array of databases and names of keys, at most
/// [`audit::MAX_BATCH_NAMES`]: the leader of `epoch` sends keys for the audit that [`NODE`] asked it for in the field `audit`
/// ([`audit::AuditOrder`]), and is told keys that the service wants to know of as well. `batch` is an [`audit::Batch`]. Refused with
/// [`Code::Err`] when the audit is over, or with [`Code::Fenced`].
pub const AUDIT_RESULT: &str = "LOG.AUDIT-RESULT";
/// `LOG.SHARDS` → an array of shard names.
pub const SHARDS: &str = "LOG.SHARDS";
/// `LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms`: for tests; refused unless the service was
/// started for them.
pub const DEBUG: &str = "LOG.DEBUG";

/// The largest payload of one append, in bytes. Kept at what any log engine takes as one message.
pub const MAX_APPEND_BYTES: usize = 1 << 20;

/// The greatest priority of a node.
pub const MAX_PRIORITY: u16 = 1000;

/// The most nodes of a shard that are known at a time.
pub const MAX_NODES: usize = 64;

/// The longest that [`NODE`] waits, in milliseconds. More is taken for this.
pub const MAX_POLL_WAIT_MS: u64 = 10_000;

/// The longest that a lease is reserved, in milliseconds. More is taken for this.
pub const MAX_RESERVE_MS: u64 = 60_000;

/// How long [`RELEASE`] waits for a leader whose lease never expires, in milliseconds.
pub const RELEASE_WAIT_MS: u64 = 5_000;

/// For how long a node that contradicts the log keeps the lease from others after it was heard of last, in milliseconds.
pub const CONTRADICTION_MS: u64 = 5_000;

/// For how long a node keeps its shard from being dropped after it was heard of last, in milliseconds; see [`DROP`].
pub const IN_USE_MS: u64 = 5_000;

/// Longest shard name and node id, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Whether `name` can name a shard or a node: 1 to [`MAX_NAME_BYTES`] of `A-Z a-z 0-9 . _ : -`, not starting with a dot.
/// Such a name is safe as a file name.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Longest address of a node, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;

/// Whether `address` can be where a node is reached: 1 to [`MAX_ADDRESS_BYTES`] of what hosts and ports are made of, `A-Z a-z 0-9 . _ - : [ ] %`.
/// Clients are shown it among other fields, between commas, spaces, colons and line ends, so it must not look like one of them.
/// Nobody can be sure to reach it.
pub fn is_valid_address(address: &str) -> bool {
    (1..=MAX_ADDRESS_BYTES).contains(&address.len())
        && address.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]%".contains(&b))
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

    #[test]
    fn what_would_look_like_another_field_is_no_address() {
        for bad in
            ["", "a,b:1", "a b:1", "a=b:1", "a:1\r", "a:1\n", "\x1b[2J:1", "a\0:1", "é:1", "a\"b:1", &"x".repeat(257)]
        {
            assert!(!is_valid_address(bad), "{bad:?}");
        }
        for good in ["10.0.0.5:6379", "node_1.example:1", "[fe80::1%eth0]:1", "::1:6379", "-", &"x".repeat(256)] {
            assert!(is_valid_address(good), "{good:?}");
        }
    }
}
