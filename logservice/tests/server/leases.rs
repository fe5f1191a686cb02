//! For how long a lease keeps others out, and whom it is left to.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, Service};
use crate::nodes::{wait_for_expiry, SOON};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const LEASE_MS: u64 = 300;
/// A twentieth more, and 10 ms.
const KEPT: Duration = Duration::from_millis(325);

/// Asks for the lease until `node` has it. Every refusal must be `LEASED`.
fn acquire_in_time(client: &mut Client, node: &str, end: u64) -> (u64, u64) {
    let begun = Instant::now();
    loop {
        match client.acquire("s1", node, end, LEASE_MS) {
            Ok(acquired) => return acquired,
            Err(text) => assert!(text.starts_with("LEASED "), "{text}"),
        }
        assert!(begun.elapsed() < SOON, "the lease is not given to another");
    }
}

#[test]
fn another_node_leads_no_sooner_than_after_lease_and_margin() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut first, mut second) = (service.connect(), service.connect());
    first.acquire("s1", "n1", 0, LEASE_MS).expect("acquired");
    let left_ms: u64 = first.status("s1", "lease_remaining_ms").parse().expect("a number");
    assert!(left_ms <= KEPT.as_millis() as u64, "{left_ms}");
    assert_eq!(first.status("s1", "lease_ms"), LEASE_MS.to_string());
    let renewed = Instant::now();
    first.ok(&["LOG.RENEW", "s1", "1", &LEASE_MS.to_string()]);
    assert_eq!(acquire_in_time(&mut second, "n2", 0), (2, 0));
    assert!(renewed.elapsed() >= KEPT, "after {:?}", renewed.elapsed());
    service.stop();
}

#[test]
fn after_a_restart_another_node_waits_for_a_whole_lease_and_margin() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    service.connect().acquire("s1", "n1", 0, LEASE_MS).expect("acquired");
    service.stop();
    // The lease is over by the clock of whoever remembers when it began; the service does not.
    std::thread::sleep(KEPT);
    let restarted = Instant::now();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    assert_eq!(acquire_in_time(&mut client, "n2", 0), (2, 0));
    assert!(restarted.elapsed() >= KEPT, "after {:?}", restarted.elapsed());
    service.stop();
}

#[test]
fn a_process_of_the_same_name_waits_and_one_that_saw_the_other_end_does_not() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    let acquire = ["LOG.ACQUIRE", "s1", "n1", "host:1", "0", "60000", "9.1.2", "boot/1/77"];
    assert_eq!(client.call(&acquire), Reply::Array(vec![Reply::Integer(1), Reply::Integer(0)]));
    for bad in ["", "a b", "a,b"] {
        let bad = [&acquire[..7], &[bad]].concat();
        client.refused(&bad, "ERR not a valid process");
    }
    client.refused(&[&acquire[..], &[A, "more"]].concat(), "ERR usage: LOG.ACQUIRE ");
    client.refused(&[&acquire[..], &["short"]].concat(), "ERR not a valid replication id");
    client.refused(&acquire[..5], "ERR usage: LOG.ACQUIRE ");
    let leased = client.acquire("s1", "n1", 0, 60_000).expect_err("leased");
    assert!(leased.starts_with("LEASED n1 host:1 "), "{leased}");
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    assert_eq!(client.status("s1", "leader_process"), "boot/1/77", "kept over a restart");
    assert_eq!(client.status("s1", "client_ip"), "127.0.0.1");
    client.ok(&["LOG.RESIGN", "s1", "1"]);
    assert_eq!(client.status("s1", "leader_process"), "");
    assert_eq!(client.acquire("s1", "n1", 0, 0), Ok((2, 0)));
    assert_eq!(client.acquire("s1", "n1", 0, 0), Ok((3, 0)), "a lease that never expires passes to the same node");
    service.stop();
}

#[test]
fn a_node_that_holds_other_data_up_to_the_same_offset_is_not_granted_the_lease() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 0, 60_000).expect("acquired");
    client.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    client.ok(&["LOG.RESIGN", "s1", "1"]);
    let acquire = |process, replid| ["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000", "9.1.2", process, replid];
    let other = format!("GAP 0 is the end of the log under replication id {A}, not {B}");
    assert_eq!(client.call(&acquire("boot/1/78", B)), Reply::Error(other));
    assert_eq!(client.status("s1", "leader"), "");
    client.refused(&acquire("a b", A), "ERR not a valid process");
    assert_eq!(client.call(&acquire("boot/1/78", A)), Reply::Array(vec![Reply::Integer(2), Reply::Integer(0)]));
    assert_eq!(client.status("s1", "leader_process"), "boot/1/78");
    client.ok(&["LOG.RESIGN", "s1", "2"]);
    assert_eq!(client.call(&acquire("", A)), Reply::Array(vec![Reply::Integer(3), Reply::Integer(0)]));
    assert_eq!(client.status("s1", "leader_process"), "", "not told");
    service.stop();
}

#[test]
fn a_late_renewal_takes_back_nothing_that_was_granted_after_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut given_up) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 1000).expect("acquired");
    let left_ms = |client: &mut Client| client.status("s1", "lease_remaining_ms").parse::<i64>().expect("a number");
    leader.ok(&["LOG.RENEW", "s1", "1", "60000", "20"]);
    given_up.refused(&["LOG.RENEW", "s1", "1", "1000", "19"], "ERR this renewal comes late");
    given_up.refused(&["LOG.RENEW", "s1", "1", "60000", "19"], "ERR this renewal comes late");
    assert!(left_ms(&mut leader) > 50_000);
    leader.ok(&["LOG.RENEW", "s1", "1", "0", "21"]);
    given_up.refused(&["LOG.RENEW", "s1", "1", "1000", "20"], "ERR this renewal comes late");
    assert_eq!(left_ms(&mut leader), -2, "it never expires");
    leader.ok(&["LOG.RENEW", "s1", "1", "1000", "22"]);
    assert!((0..=1060).contains(&left_ms(&mut leader)), "a shorter one that is asked for in time ends sooner");
    // A later epoch counts from anywhere, and one that is not led says nothing.
    given_up.refused(&["LOG.RENEW", "s1", "9", "1000", "1000"], "FENCED ");
    leader.ok(&["LOG.RESIGN", "s1", "1"]);
    leader.acquire("s1", "n2", 0, 1000).expect("acquired");
    leader.ok(&["LOG.RENEW", "s1", "2", "1000", "1"]);
    leader.refused(&["LOG.RENEW", "s1", "2", "1000", "1", "1"], "ERR usage: LOG.RENEW ");
    service.stop();
}

#[test]
fn a_leader_whom_nobody_replaced_renews_a_lease_that_has_expired() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut other) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 1).expect("acquired");
    leader.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    wait_for_expiry(&mut other, "s1");
    leader.ok(&["LOG.RENEW", "s1", "1", "60000"]);
    assert_eq!(leader.append("s1", 1, 0, b"still the leader"), Reply::Integer(16));
    let leased = other.acquire("s1", "n2", 16, 60_000).expect_err("leased");
    assert!(leased.starts_with("LEASED n1 host:1 "), "{leased}");
    service.stop();
}

#[test]
fn a_lease_is_left_to_one_node() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut other) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    for (command, start) in [
        (&["LOG.RESIGN", "s1", "1", "TO", "n2"][..], "ERR usage: LOG.RESIGN shard epoch [TO node-id reserve-ms]"),
        (&["LOG.RESIGN", "s1", "1", "FOR", "n2", "1"], "ERR usage: "),
        (&["LOG.RESIGN", "s1", "1", "TO", "n/2", "1"], "ERR not a valid node id"),
        (&["LOG.RESIGN", "s1", "1", "TO", "n2", "-1"], "ERR reserve-ms is not a number"),
        (&["LOG.RESIGN", "s1", "2", "TO", "n2", "1"], "FENCED "),
    ] {
        leader.refused(command, start);
    }
    assert_eq!((leader.status("s1", "leader"), leader.status("s1", "reserved_for")), ("n1".into(), String::new()));
    let node = ["LOG.NODE", "s1", "n2", "10.0.0.2:6379", "follower", "1", "0", "0", "0"];
    assert!(matches!(other.call(&node), Reply::Array(_)));
    leader.ok(&["LOG.RESIGN", "s1", "1", "to", "n2", "9223372036854775807"]);
    assert_eq!((other.status("s1", "reserved_for"), other.status("s1", "lease_ms")), ("n2".into(), "0".into()));
    for node in ["n1", "n3"] {
        let leased = other.acquire("s1", node, 0, 60_000).expect_err("reserved");
        let words: Vec<_> = leased.split(' ').collect();
        assert_eq!(words[..3], ["LEASED", "n2", "10.0.0.2:6379"], "{leased}");
        assert!((1..=60_000).contains(&words[3].parse().expect("a number")) && leased.contains("reserved for n2"));
    }
    assert_eq!(other.acquire("s1", "n2", 0, 60_000), Ok((2, 0)));
    assert_eq!(other.status("s1", "reserved_for"), "");
    let released = Instant::now();
    other.ok(&["LOG.RESIGN", "s1", "2", "TO", "unheard-of", "100"]);
    // Who has not told an address has none, and the others get the lease in the end.
    match leader.acquire("s1", "n1", 0, LEASE_MS) {
        Err(leased) => assert!(leased.starts_with("LEASED unheard-of - "), "{leased}"),
        Ok(_) => assert!(released.elapsed() >= Duration::from_millis(100), "given to another"),
    }
    acquire_in_time(&mut leader, "n1", 0);
    service.stop();
}

#[test]
fn a_restart_ends_a_reservation() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 0, 60_000).expect("acquired");
    client.ok(&["LOG.RESIGN", "s1", "1", "TO", "n2", "60000"]);
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    assert_eq!(service.connect().acquire("s1", "n3", 0, 60_000), Ok((2, 0)));
    service.stop();
}

#[test]
fn an_operator_who_hangs_up_while_a_lease_is_taken_keeps_no_connection_and_the_lease_stays_taken() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut leader = service.connect();
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    let mut operator = service.connect();
    operator.send(&[b"LOG.RELEASE", b"s1", b"1"]);
    let begun = Instant::now();
    while leader.call(&["LOG.RENEW", "s1", "1", "60000"]) == Reply::Text("OK".into()) {
        assert!(begun.elapsed() < SOON, "the lease is not taken");
    }
    operator.stream.shutdown(Shutdown::Write).expect("its half is closed");
    assert_eq!(operator.line(), "-ERR nobody waits for the release any more");
    operator.assert_closed();
    leader.refused(&["LOG.RENEW", "s1", "1", "60000"], "FENCED ");
    service.stop();
}
