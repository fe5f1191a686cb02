//! Every metric, declared once: its name, its type, its labels, what it means, and how its value is read. `docs/metrics.md` shows this list; a
//! test compares them.

use durability_protocol::{NodeFigures, SlotRanges};

use super::metric::{Kind, Metric, Of, Sink};
use crate::service::overview::Overview;
use crate::shard::{LogState, NodeStatus, Role, Status};
use crate::store::RECORD_SYNCS;

const fn gauge(name: &'static str, of: Of, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, of, help }
}

/// `name` ends with `_total`.
const fn counter(name: &'static str, of: Of, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, of, help }
}

const fn histogram(name: &'static str, of: Of, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, of, help }
}

/// All metrics, in the order in which they are shown.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    // The service.
    gauge("logservice_build_info", Of::Labelled(&["version"], build_info), "Version of the log service; always 1"),
    gauge("logservice_start_time_seconds", Of::Service(|it| Some(seconds(it.started_ms))), "When the log service started, in seconds since 1970"),
    gauge("logservice_ready", Of::Service(|it| Some(flag(it.not_ready.is_none()))), "1 if the service takes requests: it is alone, or in a cluster and connected with most of its services"),
    gauge("logservice_shards", Of::Service(|it| Some(it.shards.len() as f64)), "Shards that the token of the scrape may observe"),
    histogram("logservice_sync_duration_seconds", Of::ServiceTimes(|_| RECORD_SYNCS.counts()), "Time of the syncs that made records of logs durable on this service's disk, of all shards"),
    gauge("logservice_peer_connected", Of::Peer(|it| Some(flag(it.is_connected))), "1 while that service of the cluster is connected with this one; always 1 for this one"),

    // Shards.
    gauge("logservice_shard_writable", Of::Shard(|it| Some(flag(it.state == LogState::Ok))), "1 if the log here takes writes, or copies of them"),
    gauge("logservice_shard_state", Of::Labelled(&["shard", "state"], states), "1 for the state of the log here, 0 for the others: ok, nospace, failed, damaged, locked"),
    gauge("logservice_shard_decides", Of::Shard(|it| Some(flag(decides(it)))), "1 if this service decides over the log, or is alone; 0 if it follows"),
    gauge("logservice_shard_decider_silent_seconds", Of::Shard(|it| Some(seconds(it.decider_silent_ms))), "Time since the service that decides was heard here; 0 if this one decides"),
    gauge("logservice_shard_misplaced", Of::Shard(|it| Some(flag(!it.placement.is_empty()))), "1 if this service decides although the node that leads is in another zone"),
    gauge("logservice_shard_has_leader", Of::Shard(has_leader), "1 if a node leads and its lease has not passed. Only at the service that decides"),
    gauge("logservice_shard_lease_remaining_seconds", Of::Shard(|it| (decides(it) && it.lease_remaining_ms >= 0).then(|| it.lease_remaining_ms as f64 / 1000.0)), "Time until another node may lead. Only at the service that decides, while a node has a lease that expires"),
    counter("logservice_shard_leader_changes_total", Of::Shard(|it| Some(it.epoch as f64)), "Times that a node began to lead since the log began: the newest epoch"),
    gauge("logservice_shard_contradicted", Of::Shard(|it| Some(flag(!it.contradicted_by.is_empty()))), "1 while a node refuses the log because it knows another one"),
    gauge("logservice_shard_lag_seconds", Of::Shard(|it| Some(seconds(leader_figures(it)?.lag_ms))), "Age of the oldest write that the log has not acknowledged, as the leader reported last"),
    counter("logservice_shard_written_bytes_total", Of::Shard(|it| Some(it.durable_end as f64)), "Bytes of the replication stream that are durable here since the stream began: the durable end of the log"),
    gauge("logservice_shard_unsynced_bytes", Of::Shard(|it| Some(it.accepted_end.saturating_sub(it.durable_end) as f64)), "Bytes that were accepted and are not durable yet"),
    gauge("logservice_shard_kept_bytes", Of::Shard(|it| Some(it.durable_end.saturating_sub(it.base) as f64)), "Bytes of the stream that the log holds"),
    gauge("logservice_shard_log_bytes", Of::Shard(|it| Some(it.log_bytes as f64)), "Bytes that the log takes on the disk here, preallocated space included"),
    gauge("logservice_shard_log_limit_bytes", Of::Shard(|it| (it.max_log_bytes > 0).then_some(it.max_log_bytes as f64)), "The most bytes that the log may take. Only with --max-log-mb"),
    gauge("logservice_shard_segments", Of::Shard(|it| Some(it.segments as f64)), "Segment files of the log"),
    gauge("logservice_shard_unverified_bytes", Of::Shard(|it| Some(it.unverified_bytes as f64)), "Bytes of the log that were not verified yet since the service started"),
    counter("logservice_shard_repairs_total", Of::Shard(|it| Some(it.repaired as f64)), "Times that the copy here was damaged and fetched anew from other services"),
    counter("logservice_shard_appends_total", Of::Shard(|it| Some(it.appends as f64)), "Appends that became durable here"),
    counter("logservice_shard_syncs_total", Of::Shard(|it| Some(it.fsyncs as f64)), "Times that appends were made durable here: fewer than appends when several share a sync"),
    histogram("logservice_append_duration_seconds", Of::ShardTimes(|it| it.appends.clone()), "Time from the arrival of an append to its acknowledgement. Only at the service that decides"),
    gauge("logservice_shard_slot_migrations", Of::Labelled(&["shard", "step"], migrations), "Migrations of slots that wait for a leader at that step: granted (another shard may claim them), importing (this one is to claim them or has), claimed (another one has). Absent outside of cluster mode"),
    gauge("logservice_shard_replicas", Of::Shard(|it| Some(it.replicas as f64)), "Servers that follow the stream of the log from here"),
    gauge("logservice_shard_acks_held", Of::Shard(|it| Some(flag(!matches!(it.acks, "" | "running")))), "1 while LOG.DEBUG holds acknowledgements back"),
    gauge("logservice_shard_slots", Of::Shard(|it| is_of_cluster(it).then(|| f64::from(slot_count(it)))), "Slots that the shard serves in a Valkey cluster, as its leader has stored them. Absent outside of cluster mode"),
    gauge("logservice_shard_config_epoch", Of::Shard(|it| is_of_cluster(it).then_some(it.config_epoch as f64)), "Config epoch of the shard's primary in a Valkey cluster, as its leader has stored it. Absent outside of cluster mode"),
    gauge("logservice_shard_full_copy_waiting", Of::Shard(|it| Some(flag(!it.full_copy_error.is_empty()))), "1 while a node waits for a full copy that cannot be given"),

    // Snapshots and audits.
    gauge("logservice_snapshots", Of::Shard(|it| Some(it.snapshots as f64)), "Snapshots that are kept"),
    gauge("logservice_snapshots_missing", Of::Shard(|it| Some(it.snapshots_missing as f64)), "Snapshots that are kept and not at this service yet"),
    gauge("logservice_snapshot_timestamp_seconds", Of::Shard(|it| some_seconds(it.snapshot_time_ms)), "When the newest snapshot was recorded, in seconds since 1970. Absent without one"),
    gauge("logservice_snapshot_bytes", Of::Shard(|it| (it.snapshots > 0).then_some(it.snapshot_bytes as f64)), "Length of the newest snapshot. Absent without one"),
    gauge("logservice_snapshot_behind_bytes", Of::Shard(|it| Some(it.behind_snapshot_bytes() as f64)), "Bytes of log behind the newest snapshot: what a node that recovers replays"),
    gauge("logservice_snapshot_running", Of::Shard(|it| Some(f64::from(it.snapshot_running))), "1 while a snapshot is being made"),
    gauge("logservice_snapshot_failures", Of::Shard(|it| Some(it.snapshot_failures as f64)), "Failed attempts since the last snapshot was made, or the service started"),
    gauge("logservice_snapshot_failing_since_timestamp_seconds", Of::Shard(|it| some_seconds(it.snapshot_failing_since_ms)), "When the first of these failed, in seconds since 1970. Absent if none failed"),
    gauge("logservice_archive_end_bytes", Of::Shard(|it| archived(it).map(|end| end as f64)), "End of the log that --keep has brought to the place for snapshots. Only with --keep, at the service that decides"),
    gauge("logservice_archive_behind_bytes", Of::Shard(|it| archived(it).map(|end| it.durable_end.saturating_sub(end) as f64)), "Bytes of the log that are not there yet"),
    gauge("logservice_archive_behind_seconds", Of::Shard(|it| it.archive.as_ref().map(|archive| seconds(archive.behind_ms))), "Age of the oldest byte of the log that is not there yet; up to a minute while all is well"),
    gauge("logservice_archive_failures", Of::Shard(|it| it.archive.as_ref().map(|archive| archive.failures as f64)), "Attempts to bring log there that have failed since the last one that did not"),
    counter("logservice_archive_gaps_total", Of::Shard(|it| it.archive.as_ref().map(|archive| archive.gaps as f64)), "Times since the shard was opened that log was given up before it was there"),
    gauge("logservice_audit_timestamp_seconds", Of::Shard(|it| some_seconds(it.audit.time_ms)), "When the last audit ended, in seconds since 1970. Absent if there was none since the service started"),
    gauge("logservice_audit_differences", Of::Shard(|it| (it.audit.time_ms > 0).then_some(it.audit.differences as f64)), "Differences between the leader and its log that the last audit found. Absent without one"),

    // Copies of a log, at the service that decides over it.
    gauge("logservice_copy_heard", Of::Copy(|it| Some(flag(it.is_heard))), "1 if the service with that copy of the log was heard a moment ago. Only at the service that decides"),
    gauge("logservice_copy_votes", Of::Copy(|it| Some(flag(it.votes))), "1 if that copy counts for what is acknowledged; 0 while a new service gets the log"),
    gauge("logservice_copy_behind_entries", Of::Copy(|it| Some(it.lag as f64)), "Entries of the log that the copy is behind"),

    // Nodes, as they report themselves.
    gauge("valkey_durability_node_info", Of::Labelled(&["shard", "node", "address", "zone", "role", "mode"], node_info), "What a node is: leader, follower or attaching, and its durability.mode; always 1"),
    gauge("valkey_durability_node_contact_seconds", Of::Node(|it| Some(seconds(it.contact_ms))), "Time since the node was heard of. A node that was not heard of for an hour is forgotten"),
    gauge("valkey_durability_leads", Of::Node(|it| Some(flag(it.role == Role::Leader))), "1 if the node said that it leads when it was heard of last"),
    gauge("valkey_durability_applied_lag_seconds", Of::Node(|it| Some(seconds(it.lag_ms))), "Age of the oldest byte of the log that the node has not applied; 0 for a leader"),
    gauge("valkey_durability_applied_lag_bytes", Of::Node(|it| Some(it.lag_bytes as f64)), "Bytes of the log that the node has not applied"),
    gauge("valkey_durability_differing_settings", Of::Node(|it| Some(it.differences.len() as f64)), "Settings that matter at a failover, users among them, which the node has otherwise than the leader"),
    gauge("valkey_durability_figures_age_seconds", Of::Figure(|it| Some(seconds(it.age_ms))), "Age of the figures below when the node reported them"),
    gauge("valkey_durability_lag_seconds", Of::Figure(|it| Some(seconds(it.lag_ms))), "Age of the oldest write of the node that the log has not acknowledged"),
    gauge("valkey_durability_lag_limit_seconds", Of::Figure(|it| Some(seconds(it.max_lag_ms))), "The age at which the node refuses writes: durability.max-lag-ms"),
    gauge("valkey_durability_pending_bytes", Of::Figure(|it| Some(it.pending_bytes as f64)), "Bytes that the node wrote and the log has not acknowledged"),
    gauge("valkey_durability_held_clients", Of::Figure(|it| Some(it.held_clients as f64)), "Clients whose replies wait for the log"),
    gauge("valkey_durability_held_bytes", Of::Figure(|it| Some(it.held_bytes as f64)), "Bytes of replies and of messages to other nodes of a cluster that wait in the module's memory"),
    gauge("valkey_durability_dirty_keys", Of::Figure(|it| Some(it.dirty_keys as f64)), "Keys that were written and that the log has not acknowledged"),
    gauge("valkey_durability_refusing_writes", Of::Figure(|it| Some(it.refusing_writes as f64)), "1 while the node refuses writes because the log is too far behind"),
    counter("valkey_durability_refusals_total", Of::Figure(|it| Some(it.refusals as f64)), "Times that the node began to refuse writes"),
    counter("valkey_durability_refused_seconds_total", Of::Figure(|it| Some(seconds(it.refused_time_ms))), "Time in which the node refused writes"),
    gauge("valkey_durability_expected_lag_seconds", Of::Figure(|it| Some(seconds(it.expected_lag_ms))), "How long the log will take for what it lacks, at its pace of late"),
    gauge("valkey_durability_throttling", Of::Figure(|it| Some(it.throttling as f64)), "1 while the node slows writers down to the pace of the log"),
    gauge("valkey_durability_throttled_clients", Of::Figure(|it| Some(it.throttled_clients as f64)), "Clients whose replies wait because of that"),
    counter("valkey_durability_throttled_writes_total", Of::Figure(|it| Some(it.throttled_writes as f64)), "Writes whose replies waited because of that"),
    counter("valkey_durability_throttles_total", Of::Figure(|it| Some(it.throttles as f64)), "Times that the node began to slow writers down"),
    counter("valkey_durability_throttled_seconds_total", Of::Figure(|it| Some(seconds(it.throttled_time_ms))), "Time in which the node slowed writers down"),
    counter("valkey_durability_refused_commands_total", Of::Figure(|it| Some(it.refused_commands as f64)), "Commands that the node refused, for any reason"),
    counter("valkey_durability_sync_timeouts_total", Of::Figure(|it| Some(it.sync_timeouts as f64)), "Clients that were closed because of durability.sync-timeout-ms"),
    counter("valkey_durability_unlogged_writes_total", Of::Figure(|it| Some(it.unlogged_writes as f64)), "Writes that were found not to be in the replication stream"),
    gauge("valkey_durability_suspended", Of::Figure(|it| Some(it.suspended as f64)), "1 while the node leads and its lease has passed"),
    counter("valkey_durability_suspensions_total", Of::Figure(|it| Some(it.suspensions as f64)), "Times that the lease of the node passed without being renewed"),
    counter("valkey_durability_depositions_total", Of::Figure(|it| Some(it.depositions as f64)), "Times that another node took over from this one"),
    counter("valkey_durability_discarded_bytes_total", Of::Figure(|it| Some(it.discarded_bytes as f64)), "The most bytes that the node may have written and given up because another node took over"),
    counter("valkey_durability_log_reconnects_total", Of::Figure(|it| Some(it.log_reconnects as f64)), "Times that the node's connection to the log was made anew"),
    gauge("valkey_durability_acks", Of::Figure(|it| Some(it.acks as f64)), "Acknowledgements by the log in the last minute: groups of writes that became durable together"),
    gauge("valkey_durability_ack_p50_seconds", Of::Figure(|it| ack(it, it.ack_p50_us)), "Median time of the last minute from a group of writes to its acknowledgement, as the node's main thread sees it. Absent without acknowledgements"),
    gauge("valkey_durability_ack_p99_seconds", Of::Figure(|it| ack(it, it.ack_p99_us)), "Time that 99 % of them took at most. Absent without acknowledgements"),
    gauge("valkey_durability_ack_max_seconds", Of::Figure(|it| ack(it, it.ack_max_us)), "The longest of them. Absent without acknowledgements"),
    gauge("valkey_durability_sees_majority", Of::Figure(|it| it.sees_majority().map(flag)), "1 if the node sees the majority of its cluster's primaries, 0 if not. Absent outside of cluster mode"),
];

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// A moment in milliseconds since 1970, where 0 is none.
fn some_seconds(ms: u64) -> Option<f64> {
    (ms > 0).then(|| seconds(ms))
}

fn ack(figures: &NodeFigures, us: u64) -> Option<f64> {
    (figures.acks > 0).then(|| us as f64 / 1e6)
}

/// Whether a leader has stored what the shard is in a Valkey cluster.
fn is_of_cluster(status: &Status) -> bool {
    status.config_epoch > 0 || !status.slots.is_empty()
}

fn slot_count(status: &Status) -> u16 {
    status.slots.parse().map_or(0, |slots: SlotRanges| slots.count())
}

fn decides(status: &Status) -> bool {
    matches!(status.standing, "alone" | "decides")
}

/// The end of what is in the archive, if that is known.
fn archived(status: &Status) -> Option<u64> {
    u64::try_from(status.archive.as_ref()?.end).ok()
}

fn has_leader(status: &Status) -> Option<f64> {
    // -1: nobody leads; 0: the lease has passed; -2: it never does.
    decides(status).then(|| flag(!matches!(status.lease_remaining_ms, -1 | 0)))
}

fn leader_figures(status: &Status) -> Option<&NodeFigures> {
    let leader = status.nodes.iter().find(|node| node.id == status.leader)?;
    leader.figures.as_ref()
}

fn build_info(_: &Overview, sink: &mut Sink<'_>) {
    sink(&[env!("CARGO_PKG_VERSION")], 1.0);
}

fn states(overview: &Overview, sink: &mut Sink<'_>) {
    for Status { shard, state, .. } in overview.shards.iter().map(|shard| &shard.status) {
        LogState::ALL.into_iter().for_each(|each| sink(&[shard, each.word()], flag(each == *state)));
    }
}

fn migrations(overview: &Overview, sink: &mut Sink<'_>) {
    let of_cluster = overview.shards.iter().map(|shard| &shard.status).filter(|status| status.config_epoch > 0);
    for Status { shard, migrations, .. } in of_cluster {
        sink(&[shard, "granted"], flag(migrations.grant.is_some()));
        sink(&[shard, "importing"], migrations.imports.len() as f64);
        sink(&[shard, "claimed"], migrations.moved.len() as f64);
    }
}

fn node_info(overview: &Overview, sink: &mut Sink<'_>) {
    for Status { shard, nodes, .. } in overview.shards.iter().map(|shard| &shard.status) {
        for NodeStatus { id, address, zone, role, figures, .. } in nodes {
            let mode = figures.as_ref().map_or("", |figures| figures.mode.word());
            sink(&[shard, id, address, zone, role.word(), mode], 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;

    use super::*;

    /// `docs/metrics.md` holds this table. With `UPDATE_DOCS` in the environment the test writes it there.
    #[test]
    fn every_metric_is_documented_as_it_is_declared() {
        let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for Metric { name, kind, of, help } in METRICS {
            let labels = of.labels().iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            writeln!(table, "| `{name}` | {} | {labels} | {help}. |", kind.word()).expect("text");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let page = std::fs::read_to_string(path).expect("docs/metrics.md");
        let (begin, end) = ("<!-- metrics -->\n", "<!-- end of metrics -->");
        let (before, rest) = page.split_once(begin).expect("the mark before the table");
        let (shown, after) = rest.split_once(end).expect("the mark after the table");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, [before, begin, &table, end, after].concat()).expect("written");
        } else {
            assert_eq!(shown, table, "run this test with UPDATE_DOCS=1");
        }
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = HashSet::new();
        for Metric { name, kind, help, .. } in METRICS {
            assert!(names.insert(name), "{name} is declared twice");
            assert!(name.starts_with("logservice_") || name.starts_with("valkey_durability_"), "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(*kind == Kind::Histogram, name.ends_with("_duration_seconds"), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: a full stop is added to the text");
            for unit in ["_ms", "_us", "_kb", "_mb", "_minutes"] {
                assert!(!name.contains(unit), "{name}: base units only");
            }
        }
    }

    #[test]
    fn every_figure_of_a_node_is_a_metric() {
        let figures = |bit: usize| {
            let numbers = NodeFigures::NAMES.iter().enumerate();
            // Acknowledgements have times only if there are any.
            let text: Vec<_> = numbers.map(|(at, name)| format!("{name}={}", 1 + u8::from(at == bit))).collect();
            NodeFigures::parse(&text.join(",")).expect("figures")
        };
        let read = |figures: &NodeFigures| -> Vec<Option<u64>> {
            let of_figures = METRICS.iter().filter_map(|metric| match metric.of {
                Of::Figure(value) => Some(value(figures).map(f64::to_bits)),
                _ => None,
            });
            of_figures.collect()
        };
        let none_set = read(&figures(usize::MAX));
        for (at, name) in NodeFigures::NAMES.iter().enumerate() {
            let differing = read(&figures(at)).iter().zip(&none_set).filter(|(one, other)| one != other).count();
            assert_eq!(differing, 1, "{name} is not shown by one metric");
        }
    }
}
