//! The fields of a shard's status, each declared once: its name, its meaning and how it is read.
//!
//! LOG.STATUS, INFO and `GET /shards` show this list, in this order, and LOG.NODE shows those of [`FOR_NODES`]. A new field is one more line
//! here.

use std::fmt;

use serde::ser::{SerializeMap, Serializer};
use serde::Serialize;

use self::Shown::Http;
use self::Value::{Number, Signed};
use crate::shard::Status;
use crate::store::SlotMove;

/// A field of [`FIELDS`].
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it says, for people. Offsets are exclusive.
    pub meaning: &'static str,
    /// Where it is shown besides LOG.STATUS.
    pub shown: Shown,
    value: fn(&Status) -> Value,
}

/// Where a field is shown besides LOG.STATUS and INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nowhere.
    Status,
    /// By `GET /shards`.
    Http,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Text; empty if there is nothing to tell.
    Text(String),
    /// A number that may be negative, where that has a meaning of its own.
    Signed(i64),
    /// A number.
    Number(u64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Signed(number) => number.fmt(f),
            Value::Number(number) => number.fmt(f),
        }
    }
}

impl Field {
    /// What it says of a shard.
    pub fn value(&self, status: &Status) -> Value {
        (self.value)(status)
    }
}

const fn field(shown: Shown, name: &'static str, value: fn(&Status) -> Value, meaning: &'static str) -> Field {
    Field { name, meaning, shown, value }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Slots on their way, with the other shard.
fn moves(moves: &[SlotMove], way: &str) -> Value {
    let each = moves.iter().map(|SlotMove { job, slots, shard }| format!("{slots} {way} {shard}, job {job}"));
    Value::Text(each.collect::<Vec<_>>().join("; "))
}

/// All fields, in the order in which they are shown.
#[rustfmt::skip]
pub const FIELDS: [Field; 66] = [
    field(Http, "shard", |s| text(&s.shard), "name of the shard"),
    field(Http, "state", |s| text(s.state.word()), "whether it can be written: ok, nospace, failed, damaged or locked"),
    field(Http, "error", |s| text(&s.error), "why it cannot be written; empty if it can"),
    field(Http, "standing", |s| text(s.standing), "whether this service decides over the log: alone (no other service has it), decides or follows"),
    field(Http, "decider", |s| text(&s.decider), "where clients reach the service that decides, if that is another one and known"),
    field(Http, "placement", |s| text(&s.placement), "why this service decides although the node that leads is in another zone; empty if it is not, or zones are not known"),
    field(Http, "decider_silent_ms", |s| Number(s.decider_silent_ms), "time since the service that decides was last heard here; 0 if this one decides"),
    field(Http, "log_id", |s| text(&s.log_id), "id of the log, drawn at random when it began; a copy has the same"),
    field(Http, "contradicted_by", |s| text(&s.contradicted_by), "nodes that know otherwise than this log is, and what; empty if there are none"),
    field(Http, "epoch", |s| Number(s.epoch), "the newest epoch"),
    field(Http, "leader", |s| text(&s.leader), "node id of the leader; empty if nobody leads"),
    field(Http, "leader_address", |s| text(&s.leader_address), "where clients reach the leader"),
    field(Http, "leader_process", |s| text(&s.leader_process), "which process the leader is; empty if it did not report that"),
    field(Http, "lease_remaining_ms", |s| Signed(s.lease_remaining_ms), "time until another node may lead, margin included; 0 expired, -1 nobody leads, -2 never expires, or only the service that decides knows"),
    field(Http, "lease_ms", |s| Number(s.lease_ms), "length of the lease, without the margin; 0 none, or never expires"),
    field(Http, "version", |s| Number(s.version), "version of leadership: grows with each change of who leads or may lead, and begins anew with the service"),
    field(Http, "reserved_for", |s| text(&s.reserved_for), "the only node that may lead next; empty if any may"),
    field(Http, "stream_epoch", |s| Number(s.stream_epoch), "the epoch whose leader began to write last"),
    field(Http, "replid", |s| text(&s.replid), "replication id under which that leader writes"),
    field(Http, "base", |s| Number(s.base), "first offset that the log holds"),
    field(Http, "end", |s| Number(s.end), "durable end as clients see it; behind durable_end only while acknowledgements are held back"),
    field(Http, "durable_end", |s| Number(s.durable_end), "end of what is durable"),
    field(Http, "accepted_end", |s| Number(s.accepted_end), "end once everything that was accepted is durable"),
    field(Http, "seeded", |s| Number(s.seeded.into()), "1 once a leader began to write"),
    field(Http, "segments", |s| Number(s.segments), "segment files of the log"),
    field(Http, "log_bytes", |s| Number(s.log_bytes), "bytes that the log takes, preallocated space included"),
    field(Http, "max_log_bytes", |s| Number(s.max_log_bytes), "most bytes that the log may take; 0 no bound"),
    field(Http, "unverified_bytes", |s| Number(s.unverified_bytes), "bytes of the log that were not verified yet since the service started"),
    field(Http, "repaired", |s| Number(s.repaired), "times that this service's copy was damaged and fetched anew from the other services, since the service started"),
    field(Shown::Status, "keys", |s| text(&s.keys), "ids of the keys that its log and snapshots are encrypted with; empty if they are not"),
    field(Http, "engine_version", |s| text(&s.engine_version), "newest server version that wrote the log; empty if unknown"),
    field(Http, "databases", |s| Number(s.databases.into()), "most databases that a leader of the log could write to; a node needs as many; 0 if unknown"),
    field(Http, "config_epoch", |s| Number(s.config_epoch), "config epoch of the shard's primary in a Valkey cluster, as its leader has stored it; 0 if none has"),
    field(Http, "slots", |s| text(&s.slots), "slots that the shard serves in a Valkey cluster, as its leader has stored them; empty if none has, or it serves none"),
    field(Shown::Status, "cluster_node_id", |s| text(&s.cluster_node_id), "id of that primary in the cluster; empty if it was not told"),
    field(Http, "slots_granted", |s| moves(&s.migrations.grant.iter().map(|grant| grant.moving.clone()).collect::<Vec<_>>(), "to"), "slots that another shard may claim of this one, with that shard and the migration's name; empty if none may"),
    field(Http, "slots_importing", |s| moves(&s.migrations.imports, "from"), "slots that this shard is about to claim of others, or has claimed and not yet added to its own; empty if there are none"),
    field(Http, "slots_claimed", |s| moves(&s.migrations.moved, "by"), "slots that others have claimed of this shard, and have not yet said that they have stored; empty if there are none"),
    field(Http, "snapshots", |s| Number(s.snapshots), "snapshots that are kept"),
    field(Http, "snapshot_offset", |s| Signed(s.snapshot_offset), "offset of the newest snapshot; -1 there is none"),
    field(Http, "snapshot_bytes", |s| Number(s.snapshot_bytes), "length of the newest snapshot"),
    field(Http, "snapshot_time_ms", |s| Number(s.snapshot_time_ms), "when the newest snapshot was recorded, in milliseconds since 1970; 0 there is none"),
    field(Http, "snapshot_running", |s| Number(s.snapshot_running.into()), "1 while a snapshot is being made"),
    field(Http, "snapshot_error", |s| text(&s.snapshot_error), "why the last snapshot was not made, or cannot be read; empty if it was made"),
    field(Http, "snapshot_failures", |s| Number(s.snapshot_failures), "failed attempts since the last snapshot was made, or the service started"),
    field(Http, "snapshot_failing_since_ms", |s| Number(s.snapshot_failing_since_ms), "when the first of these failed, in milliseconds since 1970; 0 none failed"),
    field(Http, "snapshots_missing", |s| Number(s.snapshots_missing), "snapshots that are kept and not at this service: they are being fetched from another one"),
    field(Http, "snapshot_module_types", |s| text(&s.snapshot_module_types), "types of modules that a node must know to load the newest snapshot, as far as they are known"),
    field(Http, "full_copy_error", |s| text(&s.full_copy_error), "why a node that asks for a full copy is given none and waits; empty if the last one was given one"),
    field(Http, "archive_end", |s| Signed(s.archive.as_ref().map_or(-1, |archive| archive.end)), "end of the log that --keep has brought to the place for snapshots; -1 without --keep, not known yet, or another service decides"),
    field(Http, "archive_behind_ms", |s| Number(s.archive.as_ref().map_or(0, |archive| archive.behind_ms)), "age of the oldest byte of the log that is not there yet; 0 all is there"),
    field(Http, "archive_error", |s| text(s.archive.as_ref().map_or("", |archive| &archive.error)), "why the last attempt to bring log there failed; empty if it did not"),
    field(Http, "archive_failures", |s| Number(s.archive.as_ref().map_or(0, |archive| archive.failures)), "attempts that have failed since the last one that did not"),
    field(Http, "archive_failing_since_ms", |s| Number(s.archive.as_ref().map_or(0, |archive| archive.failing_since_ms)), "when the first of these failed, in milliseconds since 1970; 0 none failed"),
    field(Http, "archive_gaps", |s| Number(s.archive.as_ref().map_or(0, |archive| archive.gaps)), "times since the shard was opened that log was given up before it was there"),
    field(Shown::Status, "audit_state", |s| text(s.audit.state.word()), "the last audit since the service started: none, running, done or failed"),
    field(Shown::Status, "audit_time_ms", |s| Number(s.audit.time_ms), "when it ended, in milliseconds since 1970"),
    field(Shown::Status, "audit_keys", |s| Number(s.audit.keys), "keys that it compared"),
    field(Shown::Status, "audit_differences", |s| Number(s.audit.differences), "differences that it found"),
    field(Shown::Status, "audit_first_difference", |s| text(&s.audit.first_difference), "the first of them"),
    field(Shown::Status, "audit_error", |s| text(&s.audit.error), "why it failed"),
    field(Http, "replicas", |s| Number(s.replicas), "replicas that follow the stream"),
    field(Http, "differing_settings", |s| text(&s.differing_settings), "users (acl) and settings that are others at some nodes than at the leader, with commas between the names; empty if the nodes are alike"),
    field(Http, "appends", |s| Number(s.appends), "appends made durable since the service started"),
    field(Http, "fsyncs", |s| Number(s.fsyncs), "syncs that made them durable"),
    field(Http, "acks", |s| text(s.acks), "how acknowledgements are delivered: running, frozen or delayed"),
];

/// The fields that LOG.NODE shows, in its order: what a node needs to decide who leads.
pub const FOR_NODES: [&str; 14] = [
    "version",
    "epoch",
    "leader",
    "leader_address",
    "leader_process",
    "lease_remaining_ms",
    "lease_ms",
    "reserved_for",
    "stream_epoch",
    "replid",
    "base",
    "end",
    "state",
    "differing_settings",
];

/// The names and values of [`FOR_NODES`].
pub fn for_nodes(status: &Status) -> impl Iterator<Item = (&'static str, Value)> + '_ {
    let fields = FOR_NODES.iter().filter_map(|name| FIELDS.iter().find(|field| field.name == *name));
    fields.map(|field| (field.name, field.value(status)))
}

/// A status as `GET /shards` shows it: the fields, and the nodes.
pub struct StatusAsJson<'a>(pub &'a Status);

impl StatusAsJson<'_> {
    /// The same as entries of a map that may hold more.
    pub fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        for field in FIELDS.iter().filter(|field| field.shown != Shown::Status) {
            map.serialize_entry(field.name, &field.value(self.0))?;
        }
        map.serialize_entry("nodes", &self.0.nodes)
    }
}

impl Serialize for StatusAsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.serialize_into(&mut map)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_name_of_its_own_and_says_what_it_means() {
        let mut names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
        assert!(FIELDS.iter().all(|field| !field.meaning.is_empty()));
    }

    #[test]
    fn numbers_are_numbers_in_json_and_what_only_operators_need_is_left_out() {
        let status = Status { shard: "s1".to_owned(), end: u64::MAX, snapshot_offset: -1, ..Status::default() };
        let json = serde_json::to_string(&StatusAsJson(&status)).expect("serializes");
        assert!(json.starts_with(r#"{"shard":"s1","state":"ok","error":"","#), "{json}");
        assert!(json.contains(r#""end":18446744073709551615,"#) && json.contains(r#""snapshot_offset":-1,"#), "{json}");
        assert!(json.ends_with(r#""acks":"","nodes":[]}"#) && !json.contains("audit"), "{json}");
    }

    #[test]
    fn every_field_for_nodes_exists() {
        let names: Vec<_> = for_nodes(&Status::default()).map(|(name, _)| name).collect();
        assert_eq!(names, FOR_NODES);
    }
}
