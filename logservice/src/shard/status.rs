//! What a shard tells of itself: the figures of `LOG.STATUS`.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use durability_protocol::NodeFigures;

use super::lease::whole_ms;
use super::{differences, AckMode, AuditStatus, LeaseLeft, NodeStatus, Shard};
use crate::archive::ArchiveStatus;
use crate::store::{Migrations, Standing};

/// What is told of a copy that takes nothing for want of space.
const AWAITS_ROOM: &str =
    "this service's disk is full: its copy falls behind, and catches up by itself when there is space";

/// Whether a shard can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogState {
    /// Yes.
    #[default]
    Ok,
    /// Not for the moment: the disk is full, or the log takes as much of it as it may.
    NoSpace,
    /// Not until the service is restarted: a write or sync failed.
    Failed,
    /// Not until its files are repaired; it is not served.
    Damaged,
    /// Not until the service is restarted with the key that it is encrypted with; it is not served.
    Locked,
}

impl LogState {
    /// All states.
    pub const ALL: [LogState; 5] =
        [LogState::Ok, LogState::NoSpace, LogState::Failed, LogState::Damaged, LogState::Locked];

    /// As it stands in a status.
    pub fn word(self) -> &'static str {
        match self {
            LogState::Ok => "ok",
            LogState::NoSpace => "nospace",
            LogState::Failed => "failed",
            LogState::Damaged => "damaged",
            LogState::Locked => "locked",
        }
    }
}

/// A shard as an operator sees it. Offsets are exclusive ends.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Name of the shard.
    pub shard: String,
    /// Whether it can be written.
    pub state: LogState,
    /// Why not, if it cannot.
    pub error: String,
    /// Whether this service decides over the log: `alone`, `decides` or `follows`.
    pub standing: &'static str,
    /// Where clients reach the service that does, if that is another one and known.
    pub decider: String,
    /// Why this service decides although the node that leads is in another zone; empty if it is not, or zones are not known.
    pub placement: String,
    /// Milliseconds for which no service that decides has told this one anything; 0 if it decides itself.
    pub decider_silent_ms: u64,
    /// The log's id, drawn at random when it began; a copy has the same.
    pub log_id: String,
    /// The nodes that know otherwise than this log is, and what; empty if there is none.
    pub contradicted_by: String,
    /// Number of the newest epoch.
    pub epoch: u64,
    /// Node id of the leader, empty when there is none.
    pub leader: String,
    /// Where it is reached.
    pub leader_address: String,
    /// Which process that is; empty if it did not tell.
    pub leader_process: String,
    /// Milliseconds until another node may have the lease, the margin for drifting clocks included; 0 has expired, -1 no
    /// lease, -2 never expires.
    pub lease_remaining_ms: i64,
    /// Length of the lease, without that margin; 0 none, or never expires.
    pub lease_ms: u64,
    /// Version of leadership: goes up with each change of who leads, or may, and starts anew when the service does.
    pub version: u64,
    /// The only node that may lead next, empty if any may.
    pub reserved_for: String,
    /// The epoch whose leader began to write last.
    pub stream_epoch: u64,
    /// The replication id under which the log continues: that of this leader.
    pub replid: String,
    /// First position that the log holds.
    pub base: u64,
    /// The durable end as it is shown: behind `durable_end` only while acknowledgements are frozen or delayed.
    pub end: u64,
    /// The durable end.
    pub durable_end: u64,
    /// The end when everything that was accepted is durable.
    pub accepted_end: u64,
    /// 1 once any leader began to write.
    pub seeded: u8,
    /// Segment files.
    pub segments: u64,
    /// Bytes they take, preallocated space included.
    pub log_bytes: u64,
    /// The most that they may take; 0 is no bound.
    pub max_log_bytes: u64,
    /// How many of them are not verified yet since the service started; 0 when all are.
    pub unverified_bytes: u64,
    /// Times that this service's copy was fetched anew from other services since the service started.
    pub repaired: u64,
    /// The ids of the keys that its log and its snapshots are encrypted with, with spaces between them.
    pub keys: String,
    /// The newest version of the engine that wrote the log; empty if it is not known.
    pub engine_version: String,
    /// The most databases that a leader of the log could write to: a node needs as many; 0 if it is not known.
    pub databases: u32,
    /// The config epoch of the shard's primary in a Valkey cluster; 0 if no leader has told.
    pub config_epoch: u64,
    /// The slots that the shard serves in a Valkey cluster, as text; empty if no leader has told, or it serves none.
    pub slots: String,
    /// The id of that primary in the cluster; empty if it was not told.
    pub cluster_node_id: String,
    /// Slots that move between it and other shards. Without a grant of an epoch that is over.
    pub migrations: Migrations,
    /// Snapshots that are kept.
    pub snapshots: u64,
    /// Where the newest snapshot stands; -1 there is none.
    pub snapshot_offset: i64,
    /// Its length.
    pub snapshot_bytes: u64,
    /// When it was recorded, in milliseconds since 1970; 0 there is none.
    pub snapshot_time_ms: u64,
    /// 1 while one is being made.
    pub snapshot_running: u8,
    /// Why the last one was not made, or cannot be read; empty if it was made.
    pub snapshot_error: String,
    /// Attempts at one that have failed since the last one was made, or the service started.
    pub snapshot_failures: u64,
    /// When the first of them did, in milliseconds since 1970; 0 there is none.
    pub snapshot_failing_since_ms: u64,
    /// Snapshots that are kept and that are not at this service, when that was last looked at.
    pub snapshots_missing: u64,
    /// Names of the modules' types that a node has to know to load it, as far as that is known, with spaces between them.
    pub snapshot_module_types: String,
    /// Why a node that asks for a full copy is given none, and waits; empty if the last one was given one.
    pub full_copy_error: String,
    /// How its archive goes, at the service that decides; none if its log is not archived.
    pub archive: Option<ArchiveStatus>,
    /// What became of the last audit since the service started.
    pub audit: AuditStatus,
    /// Replicas that follow the stream.
    pub replicas: u64,
    /// Appends made durable since the service started.
    pub appends: u64,
    /// Syncs that made them durable.
    pub fsyncs: u64,
    /// How acknowledgements are delivered: running, frozen or delayed.
    pub acks: &'static str,
    /// Of which users and settings the nodes have different ones, with commas between the names; empty if they are alike.
    pub differing_settings: String,
    /// The nodes that told of themselves, in order of their names.
    pub nodes: Vec<NodeStatus>,
}

impl Status {
    /// Bytes of log behind the newest snapshot, or of all the log if there is none: what a node that recovers replays.
    pub fn behind_snapshot_bytes(&self) -> u64 {
        self.durable_end.saturating_sub(u64::try_from(self.snapshot_offset).unwrap_or(self.base))
    }
}

impl Shard {
    pub(super) fn nodes_at(&self, end: u64) -> Vec<NodeStatus> {
        let mut nodes = self.nodes();
        let now = self.environment.now();
        nodes.list(end, |offset| self.notifier().age(offset, now), now)
    }

    /// What the leader told of itself for monitoring, and how old that is; none if nobody leads, or it tells nothing.
    pub fn leader_figures(&self) -> Option<(NodeFigures, Duration)> {
        let leader = self.accepting().epochs.leader()?.node_id.clone();
        self.nodes().figures(&leader, self.environment.now())
    }

    /// The shard as an operator sees it.
    pub fn status(&self) -> Status {
        let manifest = self.store.manifest();
        let newest = manifest.newest_snapshot();
        let (standing, decider) = match self.store.standing() {
            Standing::Alone => ("alone", None),
            Standing::Decides => ("decides", None),
            Standing::Follows { address } => ("follows", address),
        };
        let of_snapshots = manifest.snapshots.iter().filter_map(|record| record.encrypt_key.clone());
        let keys: BTreeSet<String> = self.store.key_ids().into_iter().chain(of_snapshots).collect();
        let snapshotting = self.snapshotting();
        let usage = self.store.usage();
        let progress = self.notifier().progress();
        let durable_end = self.notifier().durable();
        let nodes = self.nodes_at(progress.visible);
        let contradicted_by = self.contradictions().text(self.environment.now());
        let mut accepting = self.accepting();
        let now = self.environment.now();
        let (state, error) = match (progress.failed, accepting.no_space) {
            (Some(reason), _) if accepting.is_damaged => (LogState::Damaged, reason.to_string()),
            (Some(reason), _) => (LogState::Failed, reason.to_string()),
            (None, true) => (LogState::NoSpace, progress.refused_reason.to_string()),
            (None, false) if usage.awaits_room => (LogState::NoSpace, AWAITS_ROOM.to_owned()),
            (None, false) => (LogState::Ok, String::new()),
        };
        let leader = accepting.epochs.leader().cloned();
        let mut migrations = manifest.cluster.as_ref().map(|cluster| cluster.migrations.clone()).unwrap_or_default();
        migrations.grant.take_if(|grant| accepting.epochs.check_leading(grant.epoch).is_err());
        let lease_remaining_ms = match accepting.epochs.lease_left(now) {
            LeaseLeft::Nobody => -1,
            LeaseLeft::Forever => -2,
            LeaseLeft::For(left) => i64::try_from(whole_ms(left)).unwrap_or(i64::MAX),
        };
        Status {
            shard: self.name.clone(),
            state,
            error,
            standing,
            decider: decider.unwrap_or_default(),
            placement: self.placement(),
            decider_silent_ms: self.decider_silent().as_millis() as u64,
            log_id: manifest.id.clone(),
            contradicted_by,
            epoch: accepting.epochs.epoch(),
            leader: leader.as_ref().map(|leader| leader.node_id.clone()).unwrap_or_default(),
            leader_address: leader.as_ref().map(|leader| leader.address.clone()).unwrap_or_default(),
            leader_process: leader.and_then(|leader| leader.process).unwrap_or_default(),
            lease_remaining_ms,
            lease_ms: accepting.epochs.lease_ms(),
            version: accepting.version(now),
            reserved_for: accepting.epochs.reserved_for(now).unwrap_or_default().to_owned(),
            stream_epoch: accepting.epochs.newest_begun().map_or(0, |entry| entry.epoch),
            replid: accepting.epochs.replid().to_owned(),
            base: manifest.base,
            end: progress.visible,
            durable_end,
            accepted_end: accepting.end,
            seeded: u8::from(manifest.seeded),
            segments: usage.parts,
            log_bytes: usage.log_bytes,
            max_log_bytes: usage.max_log_bytes.unwrap_or(0),
            unverified_bytes: usage.unverified_bytes,
            repaired: usage.repairs,
            keys: Vec::from_iter(keys).join(" "),
            engine_version: manifest.engine().map(|version| version.to_string()).unwrap_or_default(),
            databases: manifest.databases().unwrap_or(0),
            config_epoch: manifest.cluster.as_ref().map_or(0, |cluster| cluster.config_epoch),
            slots: manifest.cluster.as_ref().map_or_else(String::new, |cluster| cluster.slots.to_string()),
            cluster_node_id: manifest
                .cluster
                .as_ref()
                .map_or_else(String::new, |cluster| cluster.cluster_node_id.clone()),
            migrations,
            snapshots: manifest.snapshots.len() as u64,
            snapshot_offset: newest.map_or(-1, |snapshot| snapshot.offset as i64),
            snapshot_bytes: newest.map_or(0, |snapshot| snapshot.bytes),
            snapshot_time_ms: newest.map_or(0, |snapshot| snapshot.time_ms),
            snapshot_running: u8::from(snapshotting.is_running),
            snapshot_failures: snapshotting.failures,
            snapshots_missing: self.missing_snapshots.load(Ordering::Relaxed),
            snapshot_failing_since_ms: snapshotting.failing_since_ms,
            snapshot_error: snapshotting.error.unwrap_or_default(),
            snapshot_module_types: newest
                .and_then(|snapshot| snapshot.contents.as_ref())
                .map_or_else(String::new, |contents| contents.module_types.join(" ")),
            full_copy_error: self.copies().error(self.environment.now()).to_owned(),
            archive: self.archive_status(),
            audit: self.audit_status(),
            replicas: self.replicas.load(Ordering::Relaxed),
            appends: usage.appends,
            fsyncs: usage.commits,
            acks: match self.notifier().ack_mode() {
                AckMode::Running => "running",
                AckMode::Frozen => "frozen",
                AckMode::Delayed(_) => "delayed",
            },
            differing_settings: differences::names(&nodes),
            nodes,
        }
    }
}
