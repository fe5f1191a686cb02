//! Whether a log is the one that its nodes know.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn check(client: &mut Client, known: &str) -> Reply {
    client.call(&["LOG.CHECK", "s1", "n1", "host:1", known])
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_log_has_an_id_for_life_and_another_log_has_another() {
    let (directory, other) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let service = Service::start(directory.path(), &[]).expect("starts");
    let Reply::Text(id) = check(&mut service.connect(), "-") else { panic!("refused") };
    assert_eq!(service.connect().status("s1", "log_id"), id);
    service.connect().make("s2");
    assert_ne!(service.connect().status("s2", "log_id"), id);
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    assert_eq!(check(&mut service.connect(), &format!("{id}:0::0")), Reply::Text(id.clone()));
    service.stop();
    let service = Service::start(other.path(), &[]).expect("starts");
    // Which makes the shard.
    let Reply::Error(text) = check(&mut service.connect(), &format!("{id}:0::0")) else { panic!("taken") };
    let own = service.connect().status("s1", "log_id");
    assert!(text.starts_with(&format!("OTHERLOG {own} ")) && text.contains(&id), "{text}");
    for bad in ["", "x", "x:y::0"] {
        service.connect().refused(&["LOG.CHECK", "s1", "n1", "host:1", bad], "ERR not what a node knows");
    }
    service.connect().refused(&["LOG.CHECK", "s1", "n1", "host:1"], "ERR usage: LOG.CHECK");
    service.connect().refused(&["LOG.CHECK", "s1", "n/1", "host:1", "-"], "ERR not a valid node id");
    service.stop();
}

/// A copy of the directory, started after more was written to the original.
#[test]
fn an_older_copy_is_refused_by_who_knows_more_and_led_by_nobody_meanwhile() {
    let (directory, older) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    leader.append("s1", epoch, 0, &pattern(0, 100));
    let id = leader.status("s1", "log_id");
    service.stop();
    copy(directory.path(), older.path());
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let (mut leader, epoch) = (service.connect(), epoch);
    assert_eq!(leader.append("s1", epoch, 100, &pattern(100, 50)), Reply::Integer(150));
    let known = format!("{id}:1:{A}:150");
    assert_eq!(check(&mut leader, &known), Reply::Text(id.clone()));
    service.stop();

    let service = Service::start(older.path(), &[]).expect("starts");
    let mut client = service.connect();
    assert_eq!(check(&mut client, &format!("{id}:1:{A}:100")), Reply::Text(id.clone()));
    assert_eq!(client.status("s1", "contradicted_by"), "");
    let Reply::Error(text) = check(&mut client, &known) else { panic!("taken") };
    assert!(text.starts_with("GAP 100 ") && text.contains("lost"), "{text}");
    assert!(client.status("s1", "contradicted_by").starts_with("n1 at host:1: GAP 100 "));
    // Its server asks for the stream in the same way, and is not given another.
    for (user, replid, next) in [
        (format!("s1/{known}"), "?", "-1"),
        (format!("s1/{id}:0::0/whole"), A, "151"),
        (format!("s1/{id}:0::0/whole"), B, "151"),
        ("s1/other:0::0".to_owned(), A, "101"),
    ] {
        let mut replica = service.connect();
        replica.ok(&["AUTH", &user, "any"]);
        replica.refused(&["PSYNC", replid, next], "NOMASTERLINK ");
    }
    for (user, replid, next, answer) in [
        ("s1".to_owned(), A, "151", "+FULLRESYNC "),
        (format!("s1/{id}:0::0"), A, "151", "+FULLRESYNC "),
        (format!("s1/{id}:0::0/whole"), A, "101", "+CONTINUE "),
    ] {
        let mut replica = service.connect();
        replica.ok(&["AUTH", &user, "any"]);
        replica.send(&[b"PSYNC", replid.as_bytes(), next.as_bytes()]);
        assert!(replica.line().starts_with(answer), "{user} {replid} {next}");
    }
    service.connect().refused(&["AUTH", "s1/x", "any"], "NOAUTH the user is not what a node knows");

    client.ok(&["LOG.RELEASE", "s1", "1", "FORCE"]);
    let refused = client.acquire("s1", "n2", 100, 0).expect_err("contradicted");
    assert!(
        refused.starts_with(&format!("OTHERLOG {id} ")) && refused.contains(&format!("LOG.ACCEPT s1 {id}")),
        "{refused}"
    );
    client.refused(&["LOG.ACCEPT", "s1", "other"], &format!("OTHERLOG {id} "));
    client.refused(&["LOG.ACCEPT", "s1"], "ERR usage: LOG.ACCEPT");
    client.ok(&["LOG.ACCEPT", "s1", &id]);
    client.acquire("s1", "n2", 100, 0).expect("accepted");
    service.stop();
}

#[test]
fn a_node_that_does_not_compare_does_not_lead() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    service.connect().make("s1");
    let acquire: [&[u8]; 6] = [b"LOG.ACQUIRE", b"s1", b"n1", b"host:1", b"0", b"0"];
    client.send(&acquire);
    assert!(matches!(client.reply(), Reply::Error(text) if text.contains("different builds")));
    assert!(matches!(client.call(&["LOG.CHECK", "s2", "n1", "host:1", "-"]), Reply::Text(_)));
    client.send(&acquire);
    assert!(
        matches!(client.reply(), Reply::Error(text) if text.contains("different builds")),
        "that was another shard"
    );
    service.stop();
}

#[test]
fn a_seed_for_another_log_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let id = leader.status("s1", "log_id");
    let put = |log: &str| format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=10&replid={A}&log={log} HTTP/1.1");
    let (status, text) = service.http(&put("other"), b"REDIS");
    assert!(status == 409 && text.starts_with("OTHERLOG "), "{status} {text}");
    assert_eq!(service.http(&put(&id), b"REDIS").0, 200);
    service.stop();
}

/// A leader that lives may answer its clients: until it has resigned, or its lease has passed, nobody else is granted it.
#[test]
fn a_lease_that_is_taken_away_is_free_when_its_holder_resigns_or_it_has_passed() {
    const LEASE_MS: u64 = 600;
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut operator, mut other) = (service.connect(), service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    leader.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    operator.send(&[b"LOG.RELEASE", b"s1", b"1"]);
    let node = ["LOG.NODE", "s1", "n1", "host:1", "leader", "100", "0", "0", "0"];
    let began = Instant::now();
    while !matches!(leader.call(&node), Reply::Error(text) if text.starts_with("FENCED ")) {
        assert!(began.elapsed() < Duration::from_secs(5), "it is not told");
    }
    leader.refused(&["LOG.RENEW", "s1", "1", "60000"], "FENCED ");
    leader.refused(&["LOG.APPEND", "s1", "1", "0", "x"], "FENCED ");
    assert!(other.acquire("s1", "n2", 0, LEASE_MS).expect_err("leased").starts_with("LEASED n1 "));
    leader.ok(&["LOG.RESIGN", "s1", "1"]);
    assert_eq!(operator.reply(), Reply::Text("OK".into()));
    let granted = Instant::now();
    assert_eq!(other.acquire("s1", "n2", 0, LEASE_MS), Ok((2, 0)));
    operator.ok(&["LOG.RELEASE", "s1", "2", "TO", "n3", "60000"]);
    assert!(granted.elapsed() >= Duration::from_millis(LEASE_MS), "its holder has not resigned");
    assert!(other.acquire("s1", "n2", 0, LEASE_MS).expect_err("reserved").contains("reserved for n3"));
    operator.ok(&["LOG.RELEASE", "s1", "2", "FORCE"]);
    let granted = Instant::now();
    assert_eq!(other.acquire("s1", "n2", 0, 60_000), Ok((3, 0)));
    operator.ok(&["LOG.RELEASE", "s1", "3", "force"]);
    assert!(granted.elapsed() < Duration::from_secs(30));
    operator.refused(&["LOG.RELEASE", "s1", "2"], "FENCED ");
    operator.refused(&["LOG.RELEASE", "s1", "3", "NOW"], "ERR usage: LOG.RELEASE");
    service.stop();
}

/// The leader's resignation frees the lease; nobody else comes in between.
#[test]
fn a_lease_that_is_taken_for_a_node_is_left_to_it_by_the_resignation_itself() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut operator) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    operator.send(&[b"LOG.RELEASE", b"s1", b"1", b"TO", b"n3", b"60000"]);
    let began = Instant::now();
    while !matches!(leader.call(&["LOG.RENEW", "s1", "1", "60000"]), Reply::Error(text) if text.starts_with("FENCED "))
    {
        assert!(began.elapsed() < Duration::from_secs(5), "it is not told");
    }
    assert_eq!(check(&mut leader, "-"), Reply::Text(leader.status("s1", "log_id")));
    // Both are there before the operator's command goes on.
    leader.send(&[b"LOG.RESIGN", b"s1", b"1"]);
    leader.send(&[b"LOG.ACQUIRE", b"s1", b"n2", b"host:2", b"0", b"0"]);
    assert_eq!(leader.reply(), Reply::Text("OK".into()));
    assert!(matches!(leader.reply(), Reply::Error(text) if text.contains("reserved for n3")));
    assert_eq!(operator.reply(), Reply::Text("OK".into()));
    assert_eq!(leader.acquire("s1", "n3", 0, 0), Ok((2, 0)));
    service.stop();
}

#[test]
fn an_operator_who_takes_a_lease_is_answered_when_another_node_has_taken_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut operator) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    operator.send(&[b"LOG.RELEASE", b"s1", b"1"]);
    let began = Instant::now();
    while !matches!(leader.call(&["LOG.RENEW", "s1", "1", "60000"]), Reply::Error(text) if text.starts_with("FENCED "))
    {
        assert!(began.elapsed() < Duration::from_secs(5), "it is not told");
    }
    leader.send(&[b"LOG.RESIGN", b"s1", b"1"]);
    leader.send(&[b"LOG.ACQUIRE", b"s1", b"n2", b"host:2", b"0", b"0"]);
    assert_eq!(operator.reply(), Reply::Text("OK".into()));
    service.stop();
}

#[test]
fn a_node_that_has_seen_other_bytes_says_so_and_keeps_others_from_the_lease() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.make("s1");
    let id = client.status("s1", "log_id");
    let known = format!("{id}:0::0");
    client.refused(&["LOG.CHECK", "s1", "n1", "host:1", &known, "OTHER"], "ERR usage: LOG.CHECK");
    for known in [&known, "-"] {
        client.refused(
            &["LOG.CHECK", "s1", "n1", "host:1", known, "differs"],
            "GAP 0 is the end of the log, which holds other bytes",
        );
        assert!(client.acquire("s1", "n2", 0, 0).expect_err("contradicted").contains("so says node n1"));
    }
    assert_eq!(check(&mut client, &known), Reply::Text(id));
    assert_eq!(client.acquire("s1", "n2", 0, 0), Ok((1, 0)), "it has taken it back");
    service.stop();
}

#[test]
fn how_many_databases_a_node_has_can_be_told_without_its_version() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 0, 0).expect("acquired");
    client.ok(&["LOG.RESIGN", "s1", "1"]);
    let granted = client.call(&["LOG.ACQUIRE", "s1", "n1", "host:1", "0", "0", "DATABASES", "20"]);
    assert!(matches!(granted, Reply::Array(_)), "{granted:?}");
    client.ok(&["LOG.BEGIN", "s1", "2", A, "0"]);
    assert_eq!(client.status("s1", "databases"), "20");
    service.stop();
}
