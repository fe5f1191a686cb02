//! `GET /metrics`: figures of the service, of its shards, and of their nodes, in the text format of OpenMetrics, which Prometheus reads.
//!
//! `catalogue` declares the metrics and `metric` writes one. Nothing is kept from one scrape to the next: each reads what the service knows.

mod catalogue;
mod metric;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use self::catalogue::METRICS;
use crate::service::overview::Overview;

/// The type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of `overview` as text.
///
/// # Errors
/// Those of the encoder, which writes to memory.
pub fn text(overview: Overview) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(AllMetrics(overview)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct AllMetrics(Overview);

impl Collector for AllMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        METRICS.iter().try_for_each(|metric| metric.encode(&self.0, &mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use durability_protocol::{NodeFigures, SlotRanges};

    use super::*;
    use crate::base::latency::Latency;
    use crate::replica::groups::ServiceStatus;
    use crate::service::overview::ShardOverview;
    use crate::service::replication::CopyStatus;
    use crate::shard::{LogState, NodeStatus, Role, Status};
    use crate::store::{Migrations, SlotMove};

    fn node(id: &str, role: Role, figures: Option<NodeFigures>) -> NodeStatus {
        NodeStatus {
            id: id.to_owned(),
            address: "10.0.0.5:6379".to_owned(),
            role,
            priority: 100,
            applied: 0,
            lag_bytes: 0,
            lag_ms: 0,
            contact_ms: 1500,
            silent_ms: 0,
            zone: "z1".to_owned(),
            figures,
            differences: Vec::new(),
        }
    }

    fn overview() -> Overview {
        let figures =
            NodeFigures::parse("mode=sync,lag_ms=250,refusals=3,majority=2,acks=2,ack_p50_us=600").expect("figures");
        let import = SlotMove { job: "1".repeat(40), slots: SlotRanges::of(0..5), shard: "s2".to_owned() };
        let status = Status {
            shard: "s1".to_owned(),
            state: LogState::NoSpace,
            standing: "alone",
            leader: "n1".to_owned(),
            epoch: 7,
            lease_remaining_ms: -2,
            migrations: Migrations { imports: vec![import.clone(), import], ..Migrations::default() },
            acks: "running",
            config_epoch: 17,
            slots: "0-5460,7000".to_owned(),
            nodes: vec![node("n1", Role::Leader, Some(figures)), node("n2", Role::Follower, None)],
            ..Status::default()
        };
        let appends = Latency::new();
        appends.note(std::time::Duration::from_micros(700));
        let shard = ShardOverview { status, appends: Some(appends.counts()), ..ShardOverview::default() };
        Overview { shards: vec![shard], started_ms: 2000, ..Overview::default() }
    }

    #[test]
    fn what_is_scraped_is_what_the_service_knows() {
        let text = text(overview()).expect("text");
        for line in [
            "# TYPE logservice_shard_leader_changes counter",
            "# HELP logservice_shards Shards that the token of the scrape may observe.",
            "logservice_start_time_seconds 2.0",
            r#"logservice_shard_writable{shard="s1"} 0.0"#,
            r#"logservice_shard_state{shard="s1",state="nospace"} 1.0"#,
            r#"logservice_shard_state{shard="s1",state="ok"} 0.0"#,
            r#"logservice_shard_has_leader{shard="s1"} 1.0"#,
            r#"logservice_shard_leader_changes_total{shard="s1"} 7.0"#,
            r#"logservice_shard_slots{shard="s1"} 5462.0"#,
            r#"logservice_shard_config_epoch{shard="s1"} 17.0"#,
            r#"logservice_shard_lag_seconds{shard="s1"} 0.25"#,
            r#"logservice_shard_slot_migrations{shard="s1",step="granted"} 0.0"#,
            r#"logservice_shard_slot_migrations{shard="s1",step="importing"} 2.0"#,
            r#"logservice_append_duration_seconds_bucket{le="0.0005",shard="s1"} 0"#,
            r#"logservice_append_duration_seconds_bucket{le="0.001",shard="s1"} 1"#,
            r#"logservice_append_duration_seconds_bucket{le="+Inf",shard="s1"} 1"#,
            r#"logservice_append_duration_seconds_count{shard="s1"} 1"#,
            r#"logservice_append_duration_seconds_sum{shard="s1"} 0.0007"#,
            r#"valkey_durability_node_info{shard="s1",node="n1",address="10.0.0.5:6379",zone="z1",role="leader",mode="sync"} 1.0"#,
            r#"valkey_durability_node_info{shard="s1",node="n2",address="10.0.0.5:6379",zone="z1",role="follower",mode=""} 1.0"#,
            r#"valkey_durability_node_contact_seconds{shard="s1",node="n2"} 1.5"#,
            r#"valkey_durability_refusals_total{shard="s1",node="n1"} 3.0"#,
            r#"valkey_durability_sees_majority{shard="s1",node="n1"} 0.0"#,
            r#"valkey_durability_ack_p50_seconds{shard="s1",node="n1"} 0.0006"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn copies_and_other_services_are_shown_where_they_are_known() {
        let service = |name: &str, is_connected| ServiceStatus {
            name: name.to_owned(),
            zone: format!("zone-{name}"),
            is_connected,
            ..ServiceStatus::default()
        };
        let copy = |name, lag, is_heard| CopyStatus {
            service: service(name, is_heard),
            decides: name == "a",
            votes: true,
            matched: 9,
            lag,
            is_heard,
        };
        let mut overview = overview();
        overview.services = vec![service("a", true), service("b", false)];
        overview.shards[0].copies = vec![copy("a", 0, true), copy("b", 7, false)];
        let text = text(overview).expect("text");
        for line in [
            r#"logservice_peer_connected{service="a",zone="zone-a"} 1.0"#,
            r#"logservice_peer_connected{service="b",zone="zone-b"} 0.0"#,
            r#"logservice_copy_heard{shard="s1",service="a",zone="zone-a"} 1.0"#,
            r#"logservice_copy_heard{shard="s1",service="b",zone="zone-b"} 0.0"#,
            r#"logservice_copy_behind_entries{shard="s1",service="b",zone="zone-b"} 7.0"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn what_stands_in_a_label_ends_no_label() {
        let mut overview = overview();
        overview.shards[0].status.nodes[1].address = "a\\b\"c\nd".to_owned();
        let text = text(overview).expect("text");
        assert!(text.contains("address=\"a\\\\b\\\"c\\nd\","), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let text = text(overview()).expect("text");
        for absent in [
            r#"valkey_durability_lag_seconds{shard="s1",node="n2"}"#,
            "logservice_snapshot_timestamp_seconds{",
            "logservice_shard_log_limit_bytes{",
            "logservice_shard_lease_remaining_seconds{",
            "logservice_copy_heard{",
        ] {
            assert!(!text.contains(absent), "{absent}\nis in\n{text}");
        }
    }
}
