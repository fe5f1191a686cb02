//! What a shard is in a Valkey cluster.

use crate::client::{Client, Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const ID: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the leader of `epoch` is told.
fn get(client: &mut Client, epoch: &str) -> [String; 3] {
    let Reply::Array(items) = client.call(&["LOG.SLOTS", "s1", "GET", epoch]) else { panic!("no array") };
    let text = |reply: &Reply| match reply {
        Reply::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let names: Vec<_> = items.iter().step_by(2).map(text).collect();
    assert_eq!(names, ["config_epoch", "slots", "cluster_node_id"]);
    [1, 3, 5].map(|at| text(&items[at]))
}

fn manifest(directory: &std::path::Path) -> String {
    std::fs::read_to_string(directory.join("shards/s1/MANIFEST")).expect("read")
}

#[test]
fn slots_are_stored_before_the_answer_and_found_by_the_next_leader() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    // Before it begins to write.
    client.acquire("s1", "n1", 0, 0).expect("acquired");
    assert_eq!(get(&mut client, "1"), ["0", "", ""]);
    assert!(manifest(directory.path()).contains("\"format\": 1"), "an older build can go on with it");
    client.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0-5460,7000", ID]);
    let stored = manifest(directory.path());
    assert!(stored.contains("\"slots\": \"0-5460,7000\"") && stored.contains("\"format\": 3"), "{stored}");
    assert_eq!(get(&mut client, "1"), ["5", "0-5460,7000", ID]);
    client.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    assert_eq!(client.append("s1", 1, 0, &pattern(0, 100)), Reply::Integer(100));
    // Of a connection that has not sent LOG.CHECK.
    let mut another = service.connect();
    assert_eq!(get(&mut another, "1"), ["5", "0-5460,7000", ID]);
    another.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0-5460,7000", ID]);
    assert!(
        manifest(directory.path()).contains("\"revision\": 3"),
        "nothing was stored anew: {}",
        manifest(directory.path())
    );
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 100, 0).expect("acquired");
    assert_eq!(get(&mut client, "2"), ["5", "0-5460,7000", ID]);
    assert_eq!([client.status("s1", "config_epoch"), client.status("s1", "slots")], ["5", "0-5460,7000"]);
    // Without an id, that of the primary before is forgotten.
    client.ok(&["LOG.SLOTS", "s1", "SET", "2", "5", ""]);
    assert_eq!(get(&mut client, "2"), ["5", "", ""]);
    service.stop();
}

#[test]
fn an_epoch_that_is_over_neither_sets_nor_asks() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut client, ..) = service.lead("s1", "n1", A);
    client.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0"]);
    client.acquire("s1", "n1", 0, 0).expect("acquired");
    for epoch in ["0", "1", "3"] {
        client.refused(&["LOG.SLOTS", "s1", "SET", epoch, "6", "1"], "FENCED ");
        client.refused(&["LOG.SLOTS", "s1", "GET", epoch], "FENCED ");
    }
    assert_eq!(get(&mut client, "2"), ["5", "0", ""]);
    client.ok(&["LOG.RESIGN", "s1", "2"]);
    client.refused(&["LOG.SLOTS", "s1", "SET", "2", "6", "1"], "FENCED epoch 2 was released");
    assert_eq!(client.status("s1", "slots"), "0");
    let mut nobody = service.connect();
    nobody.refused(&["LOG.SLOTS", "s2", "GET", "1"], "NOSHARD ");
    service.stop();
}

#[test]
fn what_would_take_something_back_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut client, ..) = service.lead("s1", "n1", A);
    client.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0", ID, "10"]);
    client.refused(&["LOG.SLOTS", "s1", "SET", "1", "4", "1", ID, "11"], "ERR config epoch 4 is lower than 5");
    client.refused(&["LOG.SLOTS", "s1", "SET", "1", "6", "1", ID, "9"], "ERR these slots come late");
    client.refused(&["LOG.SLOTS", "s1", "SET", "1", "5", "0,1", ID, "11"], "ERR slots: '1' does not fit");
    assert_eq!(get(&mut client, "1"), ["5", "0", ID]);
    service.stop();
    // What came late is known after a restart, and to the next leader a config epoch is one as well.
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    client.refused(&["LOG.SLOTS", "s1", "SET", "1", "6", "1", ID, "9"], "ERR these slots come late");
    client.acquire("s1", "n1", 0, 0).expect("acquired");
    client.refused(&["LOG.SLOTS", "s1", "SET", "2", "4", "1", ID, "1"], "ERR config epoch 4 is lower than 5");
    client.ok(&["LOG.SLOTS", "s1", "SET", "2", "5", "1", ID, "1"]);
    service.stop();
}

#[test]
fn a_log_that_begins_anew_from_a_seed_keeps_them() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut client, ..) = service.lead("s1", "n1", A);
    client.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0-5460", ID]);
    let head = format!("PUT /shards/s1/snapshot?epoch=1&offset=5000&replid={B} HTTP/1.1");
    let (status, text) = service.http(&head, &pattern(7, 6000));
    assert_eq!(status, 200, "{text}");
    assert_eq!(get(&mut client, "1"), ["5", "0-5460", ID]);
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 5000, 0).expect("acquired");
    assert_eq!(get(&mut client, "2"), ["5", "0-5460", ID]);
    service.stop();
}
