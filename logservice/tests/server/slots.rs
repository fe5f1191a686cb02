//! What a shard is in a Valkey cluster.

use crate::client::{Client, Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// What the leader of `epoch` is told.
fn get(client: &mut Client, epoch: &str) -> [String; 3] {
    let Reply::Array(items) = client.call(&["LOG.SLOTS", "s1", "GET", epoch]) else { panic!("no array") };
    let names: Vec<_> = items.iter().step_by(2).map(text).collect();
    assert_eq!(names, ["config_epoch", "slots", "cluster_node_id", "given", "grant", "imports"]);
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
    client.refused(&["LOG.SLOTS", "s1", "SET", "2", "6", "1"], "FENCED epoch 2 is over: its lease was released");
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

const JOB: &str = "1111111111111111111111111111111111111111";
const OTHER_JOB: &str = "2222222222222222222222222222222222222222";

/// What the leader of `shard` in `epoch` is told of slots that move: what is given, granted, and imported.
fn moving(client: &mut Client, shard: &str, epoch: &str) -> (String, Vec<String>, Vec<Vec<String>>) {
    let Reply::Array(items) = client.call(&["LOG.SLOTS", shard, "GET", epoch]) else { panic!("no array") };
    let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (grant, imports) = (text(&items[9]), text(&items[11]));
    let imports = imports.split(';').filter(|import| !import.is_empty()).map(words).collect();
    (text(&items[7]), words(&grant), imports)
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Leaders of s1, which has slots 0 to 9, and of s2, which has slot 20.
fn two_leaders(service: &Service) -> (Client, Client) {
    let (mut source, ..) = service.lead("s1", "n1", A);
    source.ok(&["LOG.SLOTS", "s1", "SET", "1", "5", "0-9", ID, "1"]);
    let (mut target, ..) = service.lead("s2", "n2", B);
    target.ok(&["LOG.SLOTS", "s2", "SET", "1", "8", "20", ID, "1"]);
    (source, target)
}

fn slots_of(client: &mut Client, shard: &str) -> String {
    client.status(shard, "slots")
}

#[test]
fn slots_move_from_one_shard_to_the_other_step_by_step_through_restarts() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut running = Some(Service::start(directory.path(), &[]).expect("starts"));
    drop(running.as_ref().map(two_leaders));
    // Each step is asked twice, as after a lost answer, with a restart after each.
    let mut twice = |arguments: &[&str], expected: &dyn Fn(Reply)| {
        for _ in 0..2 {
            let service = running.take().expect("runs");
            expected(service.connect().call(arguments));
            service.stop();
            running = Some(Service::start(directory.path(), &[]).expect("restarts"));
        }
        running.as_ref().expect("runs").connect()
    };
    let ok = |reply: Reply| assert_eq!(reply, Reply::Text("OK".to_owned()));
    let mut client = twice(&["LOG.SLOTS", "s1", "GRANT", "1", JOB, "3-4", "s2"], &ok);
    assert_eq!(moving(&mut client, "s1", "1"), (String::new(), words(&[JOB, "3-4", "s2", "1"]), vec![]));
    assert_eq!(client.status("s1", "slots_granted"), format!("3-4 to s2, job {JOB}"));
    let mut client = twice(&["LOG.SLOTS", "s2", "IMPORT", "1", JOB, "3-4", "s1"], &ok);
    assert_eq!(client.status("s2", "slots_importing"), format!("3-4 from s1, job {JOB}"));
    assert_eq!(moving(&mut client, "s2", "1"), (String::new(), vec![], vec![words(&[JOB, "3-4", "s1"])]));
    let claimed = |reply: Reply| {
        let Reply::Array(items) = reply else { panic!("{reply:?}") };
        assert_eq!(items.iter().map(text).collect::<Vec<_>>(), ["config_epoch", "5", "slots", "3-4"]);
    };
    let mut client = twice(&["LOG.SLOTS", "s2", "CLAIM", "s1", JOB], &claimed);
    assert_eq!(moving(&mut client, "s1", "1"), ("3-4".to_owned(), vec![], vec![]));
    assert_eq!((slots_of(&mut client, "s1"), slots_of(&mut client, "s2")), ("0-2,5-9".to_owned(), "20".to_owned()));
    assert_eq!(
        [client.status("s1", "slots_granted"), client.status("s1", "slots_claimed")],
        [String::new(), format!("3-4 by s2, job {JOB}")]
    );
    let told = |reply: Reply| assert_eq!(reply, Reply::Text("claimed".to_owned()));
    twice(&["LOG.SLOTS", "s1", "ABORT", "1", JOB, "3-4"], &told);
    let mut client = twice(&["LOG.SLOTS", "s2", "SETTLE", "1", "24", JOB, "taken"], &ok);
    assert_eq!(moving(&mut client, "s2", "1"), (String::new(), vec![], vec![]));
    assert_eq!(
        (slots_of(&mut client, "s2"), client.status("s2", "config_epoch")),
        ("3-4,20".to_owned(), "24".to_owned())
    );
    twice(&["LOG.SLOTS", "s2", "FORGET", "s1", JOB], &ok);
    let mut client = twice(&["LOG.SLOTS", "s1", "ABORT", "1", JOB, "3-4"], &told);
    // A leader that does not know of it yet does not take them back.
    client.refused(&["LOG.SLOTS", "s1", "SET", "1", "6", "0-9", ID, "2"], "ERR some of these slots were claimed");
    client.ok(&["LOG.SLOTS", "s1", "SET", "1", "6", "0-2,5-9", ID, "3"]);
    // Nor does a copy of the target's last one.
    client.refused(&["LOG.SLOTS", "s2", "SET", "1", "8", "20", ID, "1"], "ERR these slots come late");
    let stored = manifest(directory.path());
    assert!(stored.contains("\"format\": 4") && stored.contains("\"given\": \"3-4\""), "{stored}");
    running.take().expect("runs").stop();
}

#[test]
fn what_is_aborted_or_whose_source_has_another_leader_is_never_claimed() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut source, mut target) = two_leaders(&service);
    let claim = |target: &mut Client, job| target.refused(&["LOG.SLOTS", "s2", "CLAIM", "s1", job], "NOGRANT ");
    claim(&mut target, JOB);
    source.ok(&["LOG.SLOTS", "s1", "GRANT", "1", JOB, "3-4", "s2"]);
    source.refused(&["LOG.SLOTS", "s1", "GRANT", "1", OTHER_JOB, "5", "s2"], "ERR job 1111");
    source.refused(&["LOG.SLOTS", "s1", "SET", "1", "6", "0-3", ID, "2"], "ERR some slots are left out");
    // Of another shard than it was granted to.
    target.make("s3");
    target.refused(&["LOG.SLOTS", "s3", "CLAIM", "s1", JOB], "NOGRANT ");
    assert_eq!(source.call(&["LOG.SLOTS", "s1", "ABORT", "1", JOB, "3-4"]), Reply::Text("aborted".to_owned()));
    claim(&mut target, JOB);
    source.refused(&["LOG.SLOTS", "s1", "GRANT", "1", JOB, "3-4", "s2"], "ERR job 1111");
    source.ok(&["LOG.SLOTS", "s1", "GRANT", "1", OTHER_JOB, "5", "s2"]);
    source.acquire("s1", "n1", 0, 0).expect("acquired");
    claim(&mut target, OTHER_JOB);
    for late in [["GRANT", "1", OTHER_JOB, "5", "s2"].as_slice(), &["ABORT", "1", OTHER_JOB, "5"]] {
        source.refused(&[&["LOG.SLOTS", "s1"], late].concat(), "FENCED ");
    }
    source.refused(&["LOG.SLOTS", "s1", "GRANT", "2", OTHER_JOB, "5", "s2"], "ERR job 2222");
    assert_eq!(slots_of(&mut source, "s1"), "0-9");
    // A leader whose lease an operator takes grants nothing any more.
    let third = "3333333333333333333333333333333333333333";
    source.ok(&["LOG.SLOTS", "s1", "GRANT", "2", third, "5", "s2"]);
    service.connect().ok(&["LOG.RELEASE", "s1", "2", "FORCE"]);
    claim(&mut target, third);
    service.stop();
}

#[test]
fn a_shard_whose_slots_another_has_yet_to_store_is_dropped_by_force_only() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut source, mut target) = two_leaders(&service);
    target.ok(&["LOG.SLOTS", "s2", "IMPORT", "1", JOB, "3-4", "s1"]);
    source.ok(&["LOG.SLOTS", "s1", "GRANT", "1", JOB, "3-4", "s2"]);
    target.call(&["LOG.SLOTS", "s2", "CLAIM", "s1", JOB]);
    let log = source.status("s1", "log_id");
    source.ok(&["LOG.RESIGN", "s1", "1"]);
    let mut operator = service.connect();
    operator.refused(
        &["LOG.DROP", "s1", &log],
        "ERR shard 's1' is in use: shard 's2' has claimed slots 3-4 and not stored that yet",
    );
    target.ok(&["LOG.SLOTS", "s2", "SETTLE", "1", "9", JOB, "taken"]);
    target.ok(&["LOG.SLOTS", "s2", "FORGET", "s1", JOB]);
    operator.ok(&["LOG.DROP", "s1", &log]);
    service.stop();
}

#[test]
fn an_import_is_void_if_its_source_says_so() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (_source, mut target) = two_leaders(&service);
    target.ok(&["LOG.SLOTS", "s2", "IMPORT", "1", JOB, "3-4", "s1"]);
    target.refused(&["LOG.SLOTS", "s2", "IMPORT", "1", OTHER_JOB, "4", "s1"], "ERR job 1111");
    target.refused(&["LOG.SLOTS", "s2", "IMPORT", "1", OTHER_JOB, "20", "s1"], "ERR some of these slots are");
    target.refused(&["LOG.SLOTS", "s2", "SETTLE", "1", "7", JOB, "taken"], "ERR config epoch 7 is lower than 8");
    target.refused(&["LOG.SLOTS", "s2", "SETTLE", "2", "9", JOB, "void"], "FENCED ");
    target.acquire("s2", "n2", 0, 0).expect("acquired");
    assert_eq!(moving(&mut target, "s2", "2").2, [words(&[JOB, "3-4", "s1"])]);
    target.refused(&["LOG.SLOTS", "s2", "CLAIM", "s1", JOB], "NOGRANT ");
    target.ok(&["LOG.SLOTS", "s2", "SETTLE", "2", "0", JOB, "void"]);
    target.ok(&["LOG.SLOTS", "s2", "SETTLE", "2", "0", JOB, "void"]);
    assert_eq!((moving(&mut target, "s2", "2").2, slots_of(&mut target, "s2")), (vec![], "20".to_owned()));
    target.refused(&["LOG.SLOTS", "s2", "CLAIM", "s9", JOB], "NOSHARD ");
    // The connection stays, as that is not about its own shard.
    target.ok(&["LOG.RENEW", "s2", "2", "0"]);
    service.stop();
}
