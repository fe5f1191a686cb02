//! What the durability module and the log service say to each other: command names, error codes, framing.
//!
//! # Offsets
//! An offset counts bytes of a shard's replication stream. Every offset in this protocol is *exclusive*: it names
//! the position after the last byte it covers, so "the log's end is 100" means that bytes 0 to 99 are there, and
//! an append at offset 100 brings byte 100 next. It equals what Valkey shows as `master_repl_offset`. The one
//! exception is `PSYNC`, Valkey's own command, which asks for the *next* byte counted from one: `offset + 1`.
//!
//! # Leases
//! A lease is counted on both sides. The leader counts from before it sent the last [`ACQUIRE`] or [`RENEW`] that was answered, and stops
//! answering its clients when the lease is over. The log service counts from the arrival of that command, and grants the lease to another
//! node only after its length *and* a margin of `lease-ms / 20 + 10` milliseconds, so that the two clocks may drift apart by 5 % of the
//! lease. When the service starts, both count anew. A lease of 0 ms never expires. A leader that requests a shorter lease than before
//! counts by the shorter one from the moment of the request, answered or not.
//!
//! # Identity
//! A log has an id, drawn at random when it begins (`log_id` in [`STATUS`]). A copy of its files has the same id. A node remembers what it
//! [knows](Known) of the log that it leads or follows, and reports it with [`CHECK`] first on each connection, and in the user name of its
//! server's `PSYNC` connection (see [`replica_user`]). The service refuses a node whose knowledge contradicts the log. The log's identity
//! changes only while the service does not run, or by [`DROP`], which ends the connections that have compared it. So a comparison holds
//! for as long as its connection lasts.
//!
//! # Roles
//! What a client may send depends on the role of its token: see `resp/command_roles.rs` of the log service. Anything else is refused with
//! [`Code::NoPerm`] and has no effect. When the token is removed, the client gets [`Code::NoAuth`] and the connection is closed.
//!
//! # Shards
//! A shard is made by its first node: [`CHECK`], which every node sends first, makes an empty shard if there is none of that name. Every
//! other command on a shard that does not exist is refused with [`Code::NoShard`], and `PSYNC` with [`Code::NoMasterLink`], so that the
//! server keeps its data. Only [`DROP`] removes a shard.

mod append;
pub mod audit;
mod engine;
mod figures;
mod known;
mod logged;
pub mod process;
mod refusal;
mod resp_parser;
mod scanner;
mod settings;
mod slots;

pub use append::append_header;
pub use engine::{EngineVersion, NotAVersion};
pub use figures::{NodeFigures, NodeMode, MAX_FIGURES_BYTES};
pub use known::{replica_user, Known, NotKnown, ReplicaUser};
pub use logged::{is_logged, judge, Judged, Logged};
pub use refusal::{Code, Refusal};
pub use resp_parser::{Grammar, MalformedResp, RespLimits, RespParser};
pub use scanner::{NotLogged, Scanner, Unfit};
pub use settings::{NodeSettings, SettingDifference, SettingsDigest, MAX_SETTINGS_BYTES};
pub use slots::{is_valid_cluster_node_id, is_valid_slot_job, NotSlots, SlotRange, SlotRanges, SLOT_COUNT};

/// `LOG.CHECK shard node-id address known [DIFFERS]` → the log's id, a bulk string: checks that the log is the one that the node knows, and
/// holds what the node knows to be durable in it. `known` is a [`Known`] as text, or `-` from a node that knows none. Refused with
/// [`Code::OtherLog`] if the log is another, and with [`Code::Gap`] if it lacks what was durable. With [`DIFFERS`] always refused: the node
/// has seen that the log holds other bytes than it wrote, which no comparison of `known` shows. If there is no such shard, an empty one with
/// a new id is made and compared. While a node is refused, and for [`CONTRADICTION_MS`] after its last attempt, the lease is granted to
/// nobody; see [`ACCEPT`].
pub const CHECK: &str = "LOG.CHECK";
/// See [`CHECK`].
pub const DIFFERS: &str = "DIFFERS";
/// `LOG.ACCEPT shard log-id` → `+OK`: an operator confirms that the log is right as it is. Until the service restarts, nodes that contradict
/// it no longer keep the lease from others. They themselves still do not follow it. Refused with [`Code::OtherLog`].
pub const ACCEPT: &str = "LOG.ACCEPT";
/// `LOG.ACQUIRE shard node-id address expected-end lease-ms [engine-version [process [replid]]] [DATABASES n] [SEEN epoch]` →
/// `[epoch, end]`.
/// Granted when nobody holds the lease, or the lease and its margin are over. The node id of the last holder does not matter, as two
/// processes may use one node id; only a lease that never expires passes to another process of the same node id at once. The process that holds
/// it has to free it with [`RESIGN`] first, as this may be a request that comes late.
///
/// - `process` says which process will lead ([`process`]). It is shown as `leader_process`, so that a restarted node that sees that its
///   earlier process has ended can free the lease with [`RESIGN`]. Empty before a `replid` if it is unknown.
/// - `replid` is the replication id of what the node holds up to `expected-end`. It must be the log's: otherwise the node holds other data
///   that happens to end at the same offset.
/// - [`DATABASES`] is how many databases the node can write to. `LOG.STATUS` shows the most of any leader, as a node with fewer cannot follow.
/// - [`SEEN`] is the newest epoch that the node has heard of. Refused with [`Code::Leased`] if another one is newer by now: the request comes
///   late, perhaps from a process that is over, and would take a lease that never expires from a later process of the same node id.
///
/// Accepted only on a connection on which [`CHECK`] was answered for that shard. Refused with [`Code::Leased`], [`Code::Gap`],
/// [`Code::OldEngine`], and with [`Code::OtherLog`] while another node contradicts the log.
pub const ACQUIRE: &str = "LOG.ACQUIRE";
/// See [`ACQUIRE`].
pub const DATABASES: &str = "DATABASES";
/// See [`ACQUIRE`].
pub const SEEN: &str = "SEEN";
/// `LOG.RENEW shard epoch lease-ms [sent]` → `+OK`: the lease counts anew, also if it has expired and nobody has taken it. `sent` grows from
/// one renewal of an epoch to the next. A renewal that arrives after one that was sent later is refused: it was delayed in a connection that
/// the leader has given up, and could make the lease shorter than the leader believes. Refused with [`Code::Fenced`], or with
/// [`Code::LogFailed`] while it is unknown whether a change of leader was stored.
pub const RENEW: &str = "LOG.RENEW";
/// `LOG.RESIGN shard epoch [TO node-id reserve-ms]` → `+OK`: nobody leads. Sent by the leader, after it has stopped answering its clients,
/// or by a later process of its node that knows that the earlier one has ended. With `TO`, only that node may lead for `reserve-ms` (at most
/// [`MAX_RESERVE_MS`]); others are refused with [`Code::Leased`]. The reservation ends when that node leads, after its time, by another
/// release of the same epoch, and when the service restarts. Refused with [`Code::Fenced`].
pub const RESIGN: &str = "LOG.RESIGN";
/// `LOG.RELEASE shard epoch [TO node-id reserve-ms] [FORCE]` → `+OK`: the operator takes the lease from a leader that may still run. From
/// then on its appends, its renewals and its [`NODE`] are refused with [`Code::Fenced`]. Nobody else is granted the lease, and this command
/// is not answered, before that leader has sent [`RESIGN`], or its lease and the margin are over. If its lease never expires and it does
/// not resign within [`RELEASE_WAIT_MS`], this command is refused with [`Code::Leased`]. With `FORCE` the lease is free at once, which is
/// safe only if that process has ended. `TO` as in [`RESIGN`]. Refused with [`Code::Fenced`].
pub const RELEASE: &str = "LOG.RELEASE";
/// `LOG.DROP shard log-id [FORCE]` → `+OK`: removes the shard for good, with its log and its snapshots. `log-id` is the log's id, as in
/// [`STATUS`], or [`NO_LOG_ID`] for a shard whose manifest cannot be read, which needs `FORCE`. Refused with [`Code::OtherLog`] if the id is
/// another. Without `FORCE` also refused while a node leads or was heard of within [`IN_USE_MS`], or a replica follows. Appends in flight,
/// polls, and the streams of replicas end with [`Code::NoShard`]. Once this is answered, a shard of the same name can be made, which is
/// another log. The files are removed in the background.
pub const DROP: &str = "LOG.DROP";
/// See [`DROP`].
pub const NO_LOG_ID: &str = "-";
/// `LOG.BEGIN shard epoch replid offset` → `+OK`: the leader of `epoch` continues the stream at `offset`, the log's end, under replication
/// id `replid`. Sent once, before the first append of an epoch; durable when answered. Sent again with the same replid and offset, it is
/// answered again. Refused with [`Code::Fenced`] or [`Code::Gap`].
pub const BEGIN: &str = "LOG.BEGIN";
/// `LOG.SLOTS shard GET epoch` → a flat array of names and values: `config_epoch`, `slots` and `cluster_node_id`, as they were stored last; 0
/// and two empty texts before. Then what [moves](SLOTS#slots-that-move): `given` (slots as text), `grant` (`job slots target epoch`, empty if
/// there is none) and `imports` (`job slots source` of each, oldest first, with `;` between them). `LOG.SLOTS shard SET epoch config-epoch slots [cluster-node-id [sent]]` → `+OK`: stores what the shard is in a Valkey
/// cluster. The leader of `epoch` sends both, from when [`ACQUIRE`] was answered on: before or after [`BEGIN`], on any connection.
///
/// - `config-epoch` is the config epoch of the shard's primary. It never gets lower.
/// - `slots` are the slots that the shard serves: [`SlotRanges`] as text, empty if it serves none.
/// - `cluster-node-id` is the id of that primary in the cluster, see [`is_valid_cluster_node_id`]. Empty, or left out, if it is not told; the
///   one before is forgotten, as each `SET` replaces all three.
/// - `sent` grows from one `SET` of an epoch to the next. One that arrives after one that was sent later is refused: it was delayed in a
///   connection that the leader has given up. A leader that sends `SET` on more than one connection has to give it.
///
/// `+OK` says that they are durable as appends are: a `GET` that is sent later is answered with them, whoever leads and whatever was
/// restarted, until another `SET`, or until slots move. The same ones set again are answered again. A `SET` that is refused with
/// [`Code::Fenced`], [`Code::NoSpace`] or [`Code::Err`] has stored nothing. After any other error, or no answer, it is not known whether it
/// has. All this holds for the subcommands below as well.
///
/// Refused with [`Code::Fenced`] if `epoch` is not the current one or was released, with [`Code::NotLeader`] by a service that does not
/// certainly decide over the log, with [`Code::Err`] if `config-epoch` is lower than the one that is stored, or an argument has not the form
/// that is asked for, or it comes late, and with [`Code::NoSpace`] or [`Code::LogFailed`] as appends are. A `SET` is also refused with
/// [`Code::Err`] if it has slots that another shard has claimed, or lacks some that its own epoch has granted. A `SET` comes late, too, if its
/// `sent` is that of the stored one and slots were settled since. So a leader has each `SET` answered before it settles an import.
///
/// # Slots that move
/// A migration has a `job`, see [`is_valid_slot_job`], which is used once, and one slot at least. The record of its source decides: whichever
/// of claim, abort and the end of the source's epoch is stored first is what has happened. Both logs are kept by the same services.
///
/// - `LOG.SLOTS source GRANT epoch job slots target` → `+OK`: the source's leader lets the shard `target` claim these slots. There is one grant at
///   a time; one of an earlier epoch is void, and is replaced. Refused with [`Code::Err`] if the slots are not all the source's, if the job has
///   ended, or if 256 claims are not forgotten.
/// - `LOG.SLOTS source ABORT epoch job slots` → `+aborted`: the job can be claimed no more, nor granted again, or `+claimed`: it was claimed.
/// - `LOG.SLOTS target IMPORT epoch job slots source` → `+OK`: the target's leader, which has heard of the grant and whose log holds all of the
///   slots, is about to claim them. A later leader finds that in `imports`, and has to claim, settle and forget before it takes slots. Refused
///   with [`Code::Err`] if some of the slots are the target's already, or another import's, if the job has ended, or if 64 imports are open.
/// - `LOG.SLOTS target CLAIM source job` → `[config_epoch, n, slots, ranges]`: the slots are the target's from now on, and no more the source's,
///   whose stored config epoch is told. Asked again, it is answered again, until `FORGET`. Refused with [`Code::NoGrant`] if the job has no grant
///   for the target whose epoch leads the source: then it never has one. That holds for who has heard of the grant before it claims.
/// - `LOG.SLOTS target SETTLE epoch config-epoch job taken|void` → `+OK`: the target's leader ends the import. With `taken` the slots are added to the
///   target's, under that config epoch, which is not lower than the stored one; `config-epoch` is not read with `void`. If there is no such
///   import any more, that is `+OK` as well.
/// - `LOG.SLOTS target FORGET source job` → `+OK`: the target has stored that the slots are its own.
///
/// `CLAIM` and `FORGET` need a role on the target only. [`Code::NotLeader`] and [`Code::NoShard`] of them are about the source, and leave the
/// connection open. [`Code::NoShard`] does not say that nothing was claimed before the source was dropped.
pub const SLOTS: &str = "LOG.SLOTS";
/// `LOG.APPEND shard epoch offset bytes` → `:durable-offset`, which is `offset + len`, once everything up to there is durable.
/// More may be durable, but need not be this leader's. An append that lies below the log's end, wholly or in part, counts as a repeated one
/// only if the log has the same bytes there; otherwise it is refused with [`Code::Gap`].
/// Refused with [`Code::Fenced`], [`Code::Gap`], [`Code::NoSpace`] or [`Code::LogFailed`].
pub const APPEND: &str = "LOG.APPEND";
/// `LOG.NODE shard node-id address role priority applied-offset version wait-ms [ZONE zone] [FIGURES figures] [SETTINGS settings]` → a flat array of names and values: a node
/// reports its state and waits for leadership to change.
///
/// - `address`: where clients reach the node, see [`is_valid_address`].
/// - `role`: `leader`, `follower` or `attaching`.
/// - `priority`: 0 to [`MAX_PRIORITY`]; a node with 0 never leads. The service only passes it on.
/// - `applied-offset`: end of what it has applied (exclusive).
/// - `version`: the last version of leadership that it received on this connection, 0 at first.
/// - `zone`: where the node is, see [`is_valid_name`]. A node without a zone leaves it out: a service of a version that does not know it
///   refuses the command.
/// - `figures`: [`NodeFigures`] as text, for monitoring. Sent only on a connection on which an answer had the field [`TAKES_FIGURES`].
/// - `settings`: [`NodeSettings`] as text, to be compared with those of the other nodes. Sent only on a connection on which an answer had the
///   field [`TAKES_SETTINGS`].
///
/// Answered at once if the version differs, otherwise when it changes, at the latest after `wait-ms` (at most [`MAX_POLL_WAIT_MS`]), or
/// when anything else is sent on the same connection. The version grows with each change of leader, epoch or address, when the leader of
/// an epoch begins to write, and when a lease or reservation ends or counts anew after its end. It begins at another number when the
/// service starts, and at each of several services: compare it for equality only, and only on one connection. While a node is being granted
/// the lease, nobody leads.
///
/// The answer has some of the fields of [`STATUS`], with the same meaning: `version`, `epoch`, `leader`, `leader_address`,
/// `leader_process`, `lease_remaining_ms` (margin included; 0 expired, -1 nobody leads, -2 never expires), `lease_ms`, `reserved_for`,
/// `stream_epoch`, `replid`, `base`, `end`, `state` and `differing_settings`. Then [`TAKES_FIGURES`] and [`TAKES_SETTINGS`]; then `audit`, if one is wanted; then `node0`, `node1` … in order of their ids, with what
/// each reported last, as `id=n1,address=10.0.0.5:6379,role=follower,priority=100,applied=123,lag_bytes=0,lag_ms=0,contact_ms=12,zone=z1`, and
/// with `sees_majority=1` or `=0` if its figures tell that. Read
/// fields by name: later versions may add some before `node0`. A shard remembers [`MAX_NODES`] nodes at most, and forgets a node after an
/// hour without a poll. A leader that is being deprived of the lease by [`RELEASE`] is refused with [`Code::Fenced`].
pub const NODE: &str = "LOG.NODE";
/// See [`NODE`].
pub const ZONE: &str = "ZONE";
/// See [`NODE`].
pub const FIGURES: &str = "FIGURES";
/// The field of the answer to [`NODE`] by which a service says that it takes [`FIGURES`]. One of an earlier version refuses them.
pub const TAKES_FIGURES: &str = "takes_figures";
/// See [`NODE`].
pub const SETTINGS: &str = "SETTINGS";
/// The field of the answer to [`NODE`] by which a service says that it takes [`SETTINGS`]. One of an earlier version refuses them.
pub const TAKES_SETTINGS: &str = "takes_settings";
/// `LOG.STATUS shard` → a flat array of names and values. The log service declares the fields in `service/status_fields.rs`. Two more
/// depend on the connection: `http_port`, to which snapshots are uploaded, and `client_ip`, the address from which the service sees the
/// client, which nodes put into the name of their process. The nodes come last, as with [`NODE`].
pub const STATUS: &str = "LOG.STATUS";
/// `LOG.SNAPSHOT shard` → `[offset, bytes]` of a snapshot that is made now, without the leader. Answered once it is stored and the log below
/// the oldest kept snapshot is dropped.
pub const SNAPSHOT: &str = "LOG.SNAPSHOT";
/// `LOG.BACKUP shard [name]` → `[name, offset, bytes]` of a snapshot that is made now and kept under that name, or under the time, until
/// somebody removes it. The service needs `--keep`.
pub const BACKUP: &str = "LOG.BACKUP";
/// `LOG.AUDIT shard [KEYS n]` → names and values in turn: compares keys of the leader with what the log holds at the same offsets.
/// Answered when it is done; an error says why it failed. It ends if the client closes the connection, or its half of it. See [`audit`].
pub const AUDIT: &str = "LOG.AUDIT";
/// `LOG.AUDIT-RESULT shard audit-id epoch batch` → a flat array of databases and names of keys, at most [`audit::MAX_BATCH_NAMES`]: the
/// leader of `epoch` sends keys for the audit that [`NODE`] requested in the field `audit` ([`audit::AuditOrder`]), and gets names of keys
/// to read as well. `batch` is an [`audit::Batch`]. Refused with [`Code::Err`] when the audit is over, or with [`Code::Fenced`].
pub const AUDIT_RESULT: &str = "LOG.AUDIT-RESULT";
/// `LOG.SHARDS` → an array of shard names.
pub const SHARDS: &str = "LOG.SHARDS";
/// `LOG.CLUSTER INIT` → `+OK`: makes a cluster of the log services that this one was configured with. `LOG.CLUSTER STATUS` → a flat array of
/// names and values.
pub const CLUSTER: &str = "LOG.CLUSTER";
/// `LOG.DEBUG FREEZE-ACKS shard | RESUME-ACKS shard | DELAY-ACKS shard ms`: for tests. Refused unless the service was started with
/// `--enable-debug-command`.
pub const DEBUG: &str = "LOG.DEBUG";

/// The largest payload of one append, in bytes. Small enough for any log engine to take as one message.
pub const MAX_APPEND_BYTES: usize = 1 << 20;

/// The greatest priority of a node.
pub const MAX_PRIORITY: u16 = 1000;

/// The most nodes of a shard that the service remembers.
pub const MAX_NODES: usize = 64;

/// The longest wait of [`NODE`], in milliseconds. Longer ones count as this.
pub const MAX_POLL_WAIT_MS: u64 = 10_000;

/// The longest reservation of a lease, in milliseconds. Longer ones count as this.
pub const MAX_RESERVE_MS: u64 = 60_000;

/// How long [`RELEASE`] waits for a leader whose lease never expires, in milliseconds.
pub const RELEASE_WAIT_MS: u64 = 5_000;

/// How long a node that contradicts the log keeps the lease from others after it was heard of last, in milliseconds.
pub const CONTRADICTION_MS: u64 = 5_000;

/// How long a node keeps its shard from being dropped after it was heard of last, in milliseconds; see [`DROP`].
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

/// Whether `address` has the form of a node's address: 1 to [`MAX_ADDRESS_BYTES`] of the characters of hosts and ports, `A-Z a-z 0-9 . _ - :
/// [ ] %`. Replies show it among other fields, between commas, spaces, colons and line ends, so it must not contain those. Says nothing
/// about whether it can be reached.
pub fn is_valid_address(address: &str) -> bool {
    (1..=MAX_ADDRESS_BYTES).contains(&address.len())
        && address.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]%".contains(&b))
}

/// Whether `replid` has the form of a Valkey replication id: 40 lower-case hexadecimal digits.
pub fn is_valid_replid(replid: &str) -> bool {
    replid.len() == 40 && replid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

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
    fn an_address_that_looks_like_another_field_is_refused() {
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
