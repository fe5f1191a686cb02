use std::collections::BTreeMap;

use super::*;
use crate::shard::AuditStatus;

const AROUND: Circumstances<'_> = Circumstances { own_name: "log0", now_ms: 2_000_000, snapshot_log_bytes: 1 << 20 };

/// A shard of which all is well.
fn well() -> Status {
    let leader = node(|node| node.role = Role::Leader);
    Status {
        shard: "s".to_owned(),
        standing: "decides",
        lease_remaining_ms: 900,
        leader: "n1".to_owned(),
        acks: "running",
        snapshot_offset: -1,
        snapshot_error: "no engine".to_owned(),
        nodes: vec![leader],
        ..Status::default()
    }
}

fn node(change: impl FnOnce(&mut NodeStatus)) -> NodeStatus {
    let figures = NodeFigures { max_lag_ms: 10_000, ..NodeFigures::default() };
    let mut node = NodeStatus {
        id: "n1".to_owned(),
        address: "host:1".to_owned(),
        role: Role::Follower,
        priority: 100,
        applied: 0,
        lag_bytes: 0,
        lag_ms: 0,
        contact_ms: 100,
        silent_ms: 0,
        zone: String::new(),
        figures: Some(figures),
        differences: Vec::new(),
    };
    change(&mut node);
    node
}

fn difference() -> Difference {
    let [setting, value, other_node, other_value] = ["maxmemory", "7", "n1", "0"].map(str::to_owned);
    Difference { setting, value, other_node, other_value }
}

fn copy(lag: u64, is_heard: bool) -> CopyStatus {
    let service = ServiceStatus { name: "log2".to_owned(), ..ServiceStatus::default() };
    CopyStatus { service, decides: false, votes: true, matched: 0, lag, is_heard }
}

fn problems(change: impl FnOnce(&mut Status)) -> Vec<Problem> {
    let mut status = well();
    change(&mut status);
    of_shard(&status, &[copy(0, true)], AROUND)
}

fn of_figures(change: impl FnOnce(&mut NodeFigures)) -> Vec<Problem> {
    problems(|status| change(status.nodes[0].figures.as_mut().expect("figures")))
}

/// One example of each problem.
fn examples() -> Vec<(Level, Vec<Problem>)> {
    use Level::{Amber, Red};
    vec![
        (Red, problems(|it| it.state = LogState::NoSpace)),
        (Red, problems(|it| it.lease_remaining_ms = 0)),
        (Red, problems(|it| (it.standing, it.decider_silent_ms) = ("follows", 2000))),
        (Red, problems(|it| it.contradicted_by = "n2: 5".to_owned())),
        (Red, problems(|it| it.full_copy_error = "no engine".to_owned())),
        (
            Red,
            problems(|it| it.audit = AuditStatus { state: AuditState::Done, differences: 2, ..AuditStatus::default() }),
        ),
        (Amber, problems(|it| it.acks = "frozen")),
        (Amber, problems(|it| (it.max_log_bytes, it.log_bytes) = (1000, 801))),
        (Red, of_shard(&well(), &[copy(0, false)], AROUND)),
        (Amber, of_shard(&well(), &[copy(1001, true)], AROUND)),
        (Red, problems(|it| it.nodes[0].contact_ms = 30_001)),
        (Amber, problems(|it| it.nodes.push(node(|node| (node.id, node.contact_ms) = ("n2".to_owned(), 30_001))))),
        (Amber, problems(|it| it.nodes.push(node(|node| node.lag_ms = 10_001)))),
        (Amber, problems(|it| it.nodes.push(node(|node| node.differences = vec![difference()])))),
        (Red, of_figures(|it| (it.refusing_writes, it.lag_ms) = (1, 10_000))),
        (Amber, of_figures(|it| it.lag_ms = 5001)),
        (Amber, of_figures(|it| (it.acks, it.ack_p99_us) = (1, 100_001))),
        (Amber, of_figures(|it| it.mode = durability_protocol::NodeMode::Off)),
        (Amber, problems(|it| it.snapshot_failing_since_ms = AROUND.now_ms - 900_000)),
        (Red, problems(|it| it.snapshot_failing_since_ms = AROUND.now_ms - 900_001)),
        (
            Amber,
            problems(|it| (it.snapshot_failing_since_ms, it.snapshot_error) = (AROUND.now_ms, "it ended: ".to_owned())),
        ),
        (Red, problems(|it| it.durable_end = (4 << 20) + 1)),
        (Red, of_service("log0", Some("1 of 3 services are connected here"), &[])),
        (Red, of_service("log0", None, &[copy(0, true).service])),
    ]
}

#[test]
fn each_fault_is_one_problem_and_what_is_within_bounds_is_none() {
    for (at, (level, found)) in examples().into_iter().enumerate() {
        assert_eq!(found.iter().map(|problem| problem.level).collect::<Vec<_>>(), [level], "{at}: {found:?}");
    }
    for well in [
        problems(|_| {}),
        problems(|it| it.lease_remaining_ms = -2),
        problems(|it| (it.standing, it.decider_silent_ms, it.lease_remaining_ms) = ("follows", 1999, -2)),
        problems(|it| (it.max_log_bytes, it.log_bytes) = (1000, 800)),
        problems(|it| it.nodes[0].contact_ms = 30_000),
        problems(|it| it.nodes.push(node(|node| node.lag_ms = 10_000))),
        problems(|it| it.durable_end = 4 << 20),
        problems(|it| (it.durable_end, it.snapshot_bytes) = (8 << 20, 2 << 20)),
        problems(|it| (it.durable_end, it.snapshot_offset) = (5 << 20, 1 << 20)),
        of_figures(|it| it.lag_ms = 5000),
        of_figures(|it| it.ack_p99_us = 1_000_000),
        of_shard(&well(), &[copy(1000, true)], AROUND),
        of_service("log0", None, &[ServiceStatus { is_connected: true, ..copy(0, true).service }]),
    ] {
        assert_eq!(well, []);
    }
}

#[test]
fn what_an_away_node_told_is_not_used() {
    let found = problems(|it| {
        it.nodes[0].contact_ms = 30_001;
        it.nodes[0].figures = Some(NodeFigures { refusing_writes: 1, ..NodeFigures::default() });
    });
    assert_eq!(found.iter().map(|problem| problem.alert).collect::<Vec<_>>(), ["NodeAway"]);
}

#[test]
fn the_worst_comes_first() {
    let found = problems(|it| (it.acks, it.state) = ("frozen", LogState::Failed));
    let alerts: Vec<_> = found.iter().map(|problem| problem.alert).collect();
    assert_eq!(alerts, ["ShardLogNotServed", "ShardAcknowledgementsHeld"]);
}

#[test]
fn a_log_without_automatic_snapshots_is_overdue_as_well() {
    let status = Status { durable_end: 1 << 30, ..well() };
    let overdue = |bytes| {
        let status = Status { durable_end: status.durable_end + bytes, ..status.clone() };
        of_shard(&status, &[], Circumstances { snapshot_log_bytes: 0, ..AROUND })
    };
    assert_eq!(overdue(0), []);
    assert!(overdue(1)[0].text.contains("is 1.0 GiB of log old: there is none yet."), "{:?}", overdue(1));
}

/// The summary of each alert in the file of rules, as its fixed parts.
fn summaries() -> BTreeMap<String, Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/durability.rules.yml");
    let rules = std::fs::read_to_string(path).expect("the rules");
    let mut found = BTreeMap::new();
    let mut alert = "";
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alert = name;
        }
        if let Some(summary) = line.strip_prefix("summary: ") {
            let parts = summary.split("{{").map(|part| part.split_once("}}").map_or(part, |(_, fixed)| fixed));
            found.insert(alert.to_owned(), parts.map(|part| part.trim_matches([' ', '.']).to_owned()).collect());
        }
    }
    found
}

#[test]
fn a_problem_is_told_in_the_words_of_its_alert() {
    let summaries = summaries();
    for Problem { alert, text, .. } in examples().into_iter().flat_map(|(_, found)| found) {
        let parts = summaries.get(alert).unwrap_or_else(|| panic!("there is no alert {alert}"));
        let mut rest = &text[..];
        for part in parts {
            let (_, after) =
                rest.split_once(&part[..]).unwrap_or_else(|| panic!("{alert}: '{part}' is not in '{text}'"));
            rest = after;
        }
        assert!(text.ends_with('.') && ![": .", ":.", ".."].iter().any(|end| text.contains(end)), "{text}");
    }
}

#[test]
fn amounts_are_for_people() {
    assert_eq!((ms(1999), ms(2999), ms(83_400)), ("1s 999ms".to_owned(), "2s".to_owned(), "1m 23s".to_owned()));
    assert_eq!((bytes(1023), bytes(1536), bytes(5 << 30)), ("1023 B".into(), "1.5 KiB".into(), "5.0 GiB".into()));
}
