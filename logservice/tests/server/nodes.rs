//! Nodes tell of themselves and wait for leadership to change.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{command, Client, Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The longest that a poll waits.
const LONG_MS: &str = "10000";
/// Well before a poll of [`LONG_MS`] ends by itself.
pub const SOON: Duration = Duration::from_secs(8);

/// A service with a shard `s1`, in which nothing but a poll's own timer and leadership wakes a connection that waits.
fn start(directory: &Path, flags: &[&str]) -> Service {
    let service = Service::start_patient(directory, flags, |patience| patience.idle_buffer = Duration::from_secs(60));
    // Without a connection, of which some tests allow few.
    service.runtime().block_on(service.server().service().shard_or_new("s1")).expect("made");
    service
}

type Answer = BTreeMap<String, String>;

fn send_poll(client: &mut Client, node: &str, applied: u64, version: &str, wait_ms: &str) {
    let applied = applied.to_string();
    let arguments = ["LOG.NODE", "s1", node, "host:1", "follower", "100", &applied, version, wait_ms];
    client.send(&arguments.map(str::as_bytes));
}

fn answer(client: &mut Client) -> Answer {
    let Reply::Array(items) = client.reply() else { panic!("no answer") };
    let text = |item: &Reply| match item {
        Reply::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    items.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn poll(client: &mut Client, version: &str, wait_ms: &str) -> Answer {
    send_poll(client, "n9", 0, version, wait_ms);
    answer(client)
}

fn number(answer: &Answer, field: &str) -> i64 {
    answer[field].parse().expect("a number")
}

/// A figure of a node, as a status or an answer shows it.
fn figure<'a>(line: &'a str, name: &str) -> &'a str {
    let value = |field: &'a str| field.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value);
    line.split(',').find_map(value).expect("the figure")
}

/// Waits until another node may have the lease of `shard`. Who holds it may still renew it.
pub fn wait_for_expiry(client: &mut Client, shard: &str) {
    let begun = Instant::now();
    while client.status(shard, "lease_remaining_ms") != "0" {
        assert!(begun.elapsed() < SOON, "the lease does not expire");
    }
}

static POLLS: AtomicU64 = AtomicU64::new(1);

/// A poll that waits already, of a node that has seen the current version.
fn waiting(service: &Service, node: &str) -> Client {
    let (mut client, mut control) = (service.connect(), service.connect());
    let version = poll(&mut control, "0", "0")["version"].clone();
    // Told apart by it from what the node said before.
    let applied = POLLS.fetch_add(1, Ordering::Relaxed);
    send_poll(&mut client, node, applied, &version, LONG_MS);
    let begun = Instant::now();
    let has_come = |answer: &Answer| {
        let told = answer.iter().filter(|(name, _)| name.starts_with("node")).map(|(_, line)| line);
        told.into_iter().any(|line| figure(line, "id") == node && figure(line, "applied") == applied.to_string())
    };
    while !has_come(&poll(&mut control, "0", "0")) {
        assert!(begun.elapsed() < SOON, "the poll has not come");
    }
    client
}

#[test]
fn a_poll_is_answered_at_once_if_the_node_has_not_seen_this_version() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut leader = service.connect();
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    leader.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    assert_eq!(leader.append("s1", 1, 0, b"x"), Reply::Integer(1));
    let begun = Instant::now();
    let mut client = service.connect();
    let answer = poll(&mut client, "0", LONG_MS);
    let stale = (number(&answer, "version") - 1).to_string();
    assert_eq!(poll(&mut client, &stale, LONG_MS)["version"], answer["version"]);
    assert!(begun.elapsed() < SOON);
    let shown = |names: &[&str]| names.iter().map(|name| answer[*name].clone()).collect::<Vec<_>>().join(" ");
    assert_eq!(shown(&["epoch", "leader", "leader_address", "lease_ms", "base", "end"]), "1 n1 host:1 60000 0 1");
    assert_eq!((&answer["reserved_for"][..], &answer["state"][..]), ("", "ok"));
    assert!((1..=63_010).contains(&number(&answer, "lease_remaining_ms")));
    service.stop();
}

#[test]
fn all_polls_are_answered_when_leadership_changes_and_each_change_has_its_version() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut control = service.connect();
    let mut version = number(&poll(&mut control, "0", "0"), "version");
    let mut expect = |change: &dyn Fn(&mut Client), field: &str, value: &str| {
        let begun = Instant::now();
        let mut nodes = [waiting(&service, "n2"), waiting(&service, "n3")];
        change(&mut control);
        for node in &mut nodes {
            let mut seen = version;
            let mut told = answer(node);
            assert!(number(&told, "version") > seen, "{told:?}");
            // While the lease is being granted, nobody leads.
            while told[field] != value {
                seen = number(&told, "version");
                told = poll(node, &seen.to_string(), LONG_MS);
                assert!(number(&told, "version") > seen, "not told of {field} {value}: {told:?}");
            }
        }
        assert!(begun.elapsed() < SOON, "not told of {field} {value}");
        version = number(&poll(&mut control, "0", "0"), "version");
    };
    expect(&|control| assert_eq!(control.acquire("s1", "n1", 0, 60_000), Ok((1, 0))), "lease_ms", "60000");
    expect(&|control| control.ok(&["LOG.BEGIN", "s1", "1", A, "0"]), "epoch", "1");
    expect(&|control| control.ok(&["LOG.RESIGN", "s1", "1", "TO", "n1", "60000"]), "reserved_for", "n1");
    expect(&|control| control.ok(&["LOG.RESIGN", "s1", "1"]), "lease_remaining_ms", "-1");
    service.stop();
}

#[test]
fn a_poll_learns_that_a_lease_expires_and_a_reservation_ends() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut control = service.connect();
    let wait_for = |change: &dyn Fn(&mut Client), control: &mut Client, field: &str, value: &str, kept_ms: u64| {
        let begun = Instant::now();
        change(control);
        loop {
            let mut answer = poll(control, "0", "0");
            if answer[field] != value {
                answer = poll(control, &answer["version"], LONG_MS);
            }
            assert!(begun.elapsed() < SOON, "not told of {field} {value}");
            if answer[field] == value {
                assert!(begun.elapsed() >= Duration::from_millis(kept_ms), "too early");
                return answer;
            }
        }
    };
    let acquire = |control: &mut Client| assert_eq!(control.acquire("s1", "n1", 0, 1000), Ok((1, 0)));
    let answer = wait_for(&acquire, &mut control, "lease_remaining_ms", "0", 1060);
    assert_eq!((&answer["leader"][..], &answer["lease_ms"][..]), ("n1", "1000"), "it may renew");
    let expired = number(&answer, "version");
    control.ok(&["LOG.RENEW", "s1", "1", "60000"]);
    assert!(number(&poll(&mut control, "0", "0"), "version") > expired);
    let release = |control: &mut Client| control.ok(&["LOG.RESIGN", "s1", "1", "TO", "n2", "1000"]);
    wait_for(&release, &mut control, "reserved_for", "", 1000);
    service.stop();
}

#[test]
fn a_poll_ends_with_its_time_or_when_the_node_sends_anything_else() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut client = service.connect();
    let version = poll(&mut client, "0", "0")["version"].clone();
    let begun = Instant::now();
    assert_eq!(poll(&mut client, &version, "100")["version"], version);
    assert!(begun.elapsed() >= Duration::from_millis(100), "answered early");
    assert!(begun.elapsed() < SOON);
    let begun = Instant::now();
    let mut waiting = waiting(&service, "n2");
    waiting.send(&[b"PING"]);
    assert_eq!(answer(&mut waiting)["version"], version);
    assert_eq!(waiting.reply(), Reply::Text("PONG".into()));
    // All in one packet, with more time than there is.
    let node = ["LOG.NODE", "s1", "n2", "a", "follower", "0", "0", &version, "9223372036854775807"];
    let polls = command(&node.map(str::as_bytes)).repeat(3);
    client.stream.write_all(&[polls, command(&[b"PING"])].concat()).expect("sent");
    for _ in 0..3 {
        assert_eq!(answer(&mut client)["version"], version);
    }
    assert_eq!(client.reply(), Reply::Text("PONG".into()));
    assert!(begun.elapsed() < SOON, "the others waited for the poll");
    service.stop();
}

#[test]
fn appends_are_acknowledged_while_their_connection_waits_in_a_poll() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--enable-debug-command"]);
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut control = service.connect();
    let version = poll(&mut control, "0", "0")["version"].clone();
    control.ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 0, b"abc");
    send_poll(&mut leader, "n1", 0, &version, LONG_MS);
    let begun = Instant::now();
    control.ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    assert_eq!(leader.reply(), Reply::Integer(3));
    control.ok(&["LOG.RESIGN", "s1", "1"]);
    assert_eq!(answer(&mut leader)["leader"], "");
    assert!(begun.elapsed() < SOON);
    service.stop();
}

#[test]
fn a_poll_whose_node_has_gone_takes_no_place() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--max-connections", "2"]);
    // Of its two connections one is left, so nobody else finds room as long as it waits.
    let waiting = waiting(&service, "n2");
    drop(waiting);
    let begun = Instant::now();
    let mut clients = Vec::new();
    while clients.len() < 2 {
        let mut client = service.connect();
        client.send(&[b"PING"]);
        if client.line() == "+PONG" {
            clients.push(client);
        }
        assert!(begun.elapsed() < SOON, "there is no room although it has gone");
    }
    assert_ne!(figure(&clients[0].status("s1", "node0"), "contact_ms"), "", "it is not forgotten");
    service.stop();
}

#[test]
fn a_stopping_service_answers_polls_and_does_not_wait_for_them() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut node = waiting(&service, "n2");
    // Were it waited for, it would be cut off after seconds without an answer.
    service.stop();
    assert_eq!(answer(&mut node)["state"], "ok");
    node.assert_closed();
}

#[test]
fn versions_of_a_later_life_of_the_service_are_others() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let before = poll(&mut service.connect(), "0", "0");
    service.stop();
    let service = start(directory.path(), &[]);
    let begun = Instant::now();
    let after = poll(&mut service.connect(), &before["version"], LONG_MS);
    assert!(begun.elapsed() < SOON && number(&after, "version") > number(&before, "version"));
    service.stop();
}

#[test]
fn nodes_are_shown_with_how_far_they_are_behind() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, &[7; 100]), Reply::Integer(100));
    let tell = |client: &mut Client, node: &str, role: &str, priority: &str, applied: &str| {
        let command = ["LOG.NODE", "s1", node, "10.0.0.5:6379", role, priority, applied, "0", "0"];
        assert!(matches!(client.call(&command), Reply::Array(_)));
    };
    let mut client = service.connect();
    tell(&mut client, "n2", "follower", "100", "40");
    tell(&mut client, "n3", "attaching", "0", "0");
    tell(&mut client, "n1", "leader", "1000", "120");
    drop(client);
    let shown = |service: &Service| ["node0", "node1", "node2"].map(|node| service.connect().status("s1", node));
    for (line, expected) in shown(&service).iter().zip([
        "id=n1,address=10.0.0.5:6379,role=leader,priority=1000,applied=120,lag_bytes=0,lag_ms=0,contact_ms=",
        "id=n2,address=10.0.0.5:6379,role=follower,priority=100,applied=40,lag_bytes=60,lag_ms=",
        "id=n3,address=10.0.0.5:6379,role=attaching,priority=0,applied=0,lag_bytes=100,lag_ms=",
    ]) {
        assert!(line.starts_with(expected), "{line}");
        assert!(figure(line, "contact_ms").parse::<u64>().is_ok(), "{line}");
    }
    let begun = Instant::now();
    // Behind, and not heard of: both become more.
    let more = |line: &String| {
        ["lag_ms", "contact_ms"].iter().all(|name| figure(line, name).parse::<u64>().is_ok_and(|ms| ms >= 20))
    };
    while !shown(&service)[1..].iter().all(more) {
        assert!(begun.elapsed() < SOON, "{:?}", shown(&service));
    }
    assert_eq!(figure(&shown(&service)[0], "lag_ms"), "0", "it has everything");
    assert_eq!(figure(&shown(&service)[1], "zone"), "", "it tells none");
    let mut client = service.connect();
    let in_zone = ["LOG.NODE", "s1", "n2", "10.0.0.5:6379", "follower", "100", "40", "0", "0", "zone", "z-2"];
    assert!(matches!(client.call(&in_zone), Reply::Array(_)));
    assert_eq!(figure(&shown(&service)[1], "zone"), "z-2");
    for (wrong, why) in [(&["ZONE", "a,b"][..], "not a valid zone"), (&["ZONE"], "usage"), (&["ZONES", "z"], "usage")] {
        let command: Vec<_> = in_zone[..9].iter().chain(wrong).copied().collect();
        let refusal = client.call(&command);
        assert!(matches!(&refusal, Reply::Error(text) if text.contains(why)), "{wrong:?}: {refusal:?}");
    }
    drop(client);
    let json = service.http("GET /shards HTTP/1.1", b"").1;
    assert!(
        json.contains(r#""nodes":[{"id":"n1","address":"10.0.0.5:6379","role":"leader","priority":1000,"#),
        "{json}"
    );
    assert!(service.connect().status("s1", "version").parse::<u64>().is_ok());
    service.stop();
}

#[test]
fn a_malformed_report_of_a_node_is_refused_and_not_kept() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let mut client = service.connect();
    let sound = ["LOG.NODE", "s1", "n1", "host:1", "follower", "100", "0", "0", LONG_MS];
    for (at, bad, start) in [
        (1, "s/1", "ERR not a valid shard name"),
        (2, "n 1", "ERR not a valid node id"),
        (3, "", "ERR not a valid address"),
        (3, "a,role=leader", "ERR not a valid address: 1 to 256 of A-Z a-z 0-9 . _ - : [ ] %"),
        (3, "a b", "ERR not a valid address"),
        (3, "a=b", "ERR not a valid address"),
        (3, "a\nb", "ERR not a valid address"),
        (3, "\u{1b}[2J", "ERR not a valid address"),
        (4, "LEADER", "ERR role must be leader, follower or attaching"),
        (5, "1001", "ERR priority must be 0 to 1000"),
        (5, "65637", "ERR priority must be 0 to 1000"),
        (5, "-1", "ERR priority is not a number"),
        (6, "9223372036854775808", "ERR applied-offset is not a number"),
        (7, "x", "ERR version is not a number"),
        (8, "", "ERR wait-ms is not a number"),
    ] {
        let mut command = sound;
        command[at] = bad;
        client.refused(&command, start);
    }
    for count in [2, 8] {
        client.refused(
            &sound[..count],
            "ERR usage: LOG.NODE shard node-id address role priority applied-offset version wait-ms",
        );
    }
    client.refused(&sound[..1], "ERR which shard?");
    let known = poll(&mut client, "0", "0");
    assert!(known.contains_key("node0") && !known.contains_key("node1"), "{known:?}");
    service.stop();
}
