//! What nodes and the log service say to each other.

use bytes::Bytes;
use durability_leadership::Moment;
use durability_protocol::SlotRanges;
use logservice::store::ClusterSlots;

/// The place of a node among all.
pub type NodeIndex = usize;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process of a node.
    Node {
        /// Which node.
        index: NodeIndex,
        /// Which of its processes.
        life: u32,
    },
    /// An operator, or the part of the service that makes snapshots.
    Operator,
    /// A clone of the leader's machine: it has the leader's epoch, and other bytes.
    Clone,
}

/// A command.
#[derive(Debug, Clone)]
pub enum Request {
    /// `LOG.NODE`
    Poll {
        /// Whether the node says that it leads.
        leads: bool,
        /// How much it is wanted as a leader.
        priority: u16,
        /// Exclusive end of what it has applied.
        applied: u64,
        /// The version of leadership that it knows.
        seen: u64,
        /// How long it waits.
        wait_ms: u64,
    },
    /// `LOG.ACQUIRE`
    Acquire {
        /// How often the node has asked, this time included.
        number: u64,
        /// When, by its clock.
        sent: Moment,
        /// Exclusive end of what it holds.
        expected_end: u64,
        /// How long the lease is to be.
        lease_ms: u64,
        /// The replication id of what it holds.
        replid: String,
        /// The newest epoch that it has heard of; 0 if it has heard of none.
        seen: u64,
    },
    /// `LOG.RENEW`
    Renew {
        /// The leader's epoch.
        epoch: u64,
        /// How long the lease is to be.
        lease_ms: u64,
        /// When it was sent, by the leader's clock.
        sent: Moment,
    },
    /// `LOG.BEGIN`
    Begin {
        /// The leader's epoch.
        epoch: u64,
        /// Under which replication id it writes.
        replid: String,
        /// Where it begins.
        offset: u64,
    },
    /// `LOG.APPEND`
    Append {
        /// The leader's epoch.
        epoch: u64,
        /// Position of the first byte.
        offset: u64,
        /// The bytes.
        payload: Bytes,
    },
    /// `LOG.SLOTS GET`
    GetSlots {
        /// The leader's epoch.
        epoch: u64,
        /// Which slots were promised when the service took this in.
        after: SlotsKey,
    },
    /// `LOG.SLOTS SET`
    SetSlots {
        /// The leader's epoch.
        epoch: u64,
        /// The config epoch.
        config_epoch: u64,
        /// The slots.
        slots: SlotRanges,
        /// When it was sent, by the leader's clock.
        sent: Moment,
    },
    /// `LOG.RESIGN`
    Resign {
        /// The epoch that is over.
        epoch: u64,
        /// Who is to lead next.
        to: Option<NodeIndex>,
    },
    /// `LOG.RELEASE`
    Release {
        /// The epoch whose lease is taken.
        epoch: u64,
        /// Who is to lead next.
        to: Option<NodeIndex>,
        /// Whether the leader is gone.
        force: bool,
    },
    /// A leader's whole data set.
    Seed {
        /// The leader's epoch.
        epoch: u64,
        /// Under which replication id the log goes on.
        replid: String,
        /// Where it stands.
        offset: u64,
        /// The data set: all bytes up to there.
        content: Bytes,
    },
    /// `LOG.SNAPSHOT`
    Snapshot {
        /// How many snapshots are kept.
        keep: usize,
    },
}

/// Which slots those are: of which epoch, and when its leader has sent them. Later ones are greater.
pub type SlotsKey = (u64, Option<u64>);

/// An answer that is no refusal.
#[derive(Debug, Clone)]
pub enum Answer {
    /// `+OK`
    Done,
    /// The lease was granted.
    Acquired {
        /// The new epoch.
        epoch: u64,
        /// The log's end.
        end: u64,
    },
    /// Everything below (exclusive) is durable.
    Appended(u64),
    /// What is stored.
    Slots(ClusterSlots),
    /// What a node learns.
    View(View),
}

/// What the log service says of a shard.
#[derive(Debug, Clone)]
pub struct View {
    /// The version of leadership.
    pub version: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// Who leads; empty if nobody does.
    pub leader: String,
    /// As in `LOG.NODE`.
    pub lease_remaining_ms: i64,
    /// For whom the lease is reserved; empty if for nobody.
    pub reserved_for: String,
    /// The log's end.
    pub end: u64,
    /// The other nodes: name, priority, what they have applied, milliseconds since they were heard of.
    pub peers: Vec<(String, u16, u64, u64)>,
}
