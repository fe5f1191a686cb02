//! Changes of leadership while the manifest is slow, or cannot be written.

use std::sync::mpsc::{sync_channel, Receiver};
use std::time::Duration;

use fail::{FailGuard, FailScenario};
use logservice::store::file_store::files::Step;

use crate::client::{Client, Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Makes a manifest fail after it may have taken the place of the one before.
const UNKNOWN: [(Step, &str); 2] = [(Step::ManifestDirectorySync, "return(eio)"), (Step::ManifestSync, "panic")];

pub fn configure(step: Step, action: &str) {
    fail::cfg(step.name(), action).expect("configured");
}

pub fn word(reply: Reply) -> String {
    match reply {
        Reply::Text(text) | Reply::Error(text) => text.split(' ').next().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// What a leader whose lease has passed is answered that renews it after somebody has tried `change`, which fails as told.
fn renewal_after(change: &[&str], step: Step, fault: &str) -> (String, String) {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut other) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 1).expect("acquired");
    wait_until_passed(&mut leader);
    configure(step, fault);
    let changed = word(other.call(change));
    fail::remove(step.name());
    let renewed = word(leader.call(&["LOG.RENEW", "s1", "1", "1"]));
    service.stop();
    (changed, renewed)
}

const CHANGES: [&[&str]; 4] = [
    &["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000"],
    &["LOG.RESIGN", "s1", "1"],
    &["LOG.BEGIN", "s1", "1", A, "0"],
    &["LOG.RENEW", "s1", "1", "60000"],
];

#[test]
fn no_lease_is_renewed_when_a_restart_may_find_another_leader() {
    for change in CHANGES {
        for (step, fault) in UNKNOWN {
            let failed = ("LOGFAILED".to_owned(), "LOGFAILED".to_owned());
            assert_eq!(renewal_after(change, step, fault), failed, "{change:?}, {step:?}");
        }
    }
}

#[test]
fn a_lease_is_renewed_when_a_change_had_no_space() {
    for change in CHANGES {
        let refused = ("NOSPACE".to_owned(), "OK".to_owned());
        assert_eq!(renewal_after(change, Step::ManifestWrite, "return(enospc)"), refused, "{change:?}");
    }
}

#[test]
fn a_lease_is_renewed_after_a_failed_append() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    configure(Step::RecordSync, "return(eio)");
    assert_eq!(word(leader.append("s1", epoch, 0, b"x")), "LOGFAILED");
    fail::remove(Step::RecordSync.name());
    // Nor is anything in doubt after changes that were not even tried.
    leader.refused(&["LOG.RESIGN", "s1", "1"], "LOGFAILED ");
    leader.refused(&["LOG.RENEW", "s1", "1", "1000"], "LOGFAILED ");
    leader.ok(&["LOG.RENEW", "s1", "1", "0"]);
    service.stop();
}

/// Holds the next change of the manifest before it is durable, until the guard is dropped. The receiver is told when it got there.
pub fn hold_manifest() -> (FailGuard, Receiver<()>) {
    let (reached, is_reached) = sync_channel(1);
    fail::cfg_callback(Step::ManifestWrite.name(), move || {
        let _ = reached.try_send(());
    })
    .expect("configured");
    (FailGuard::new(Step::ManifestSync.name(), "pause").expect("configured"), is_reached)
}

pub fn send(client: &mut Client, arguments: &[&str]) {
    client.send(&arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
}

fn lease_left_ms(client: &mut Client) -> u64 {
    client.status("s1", "lease_remaining_ms").parse().expect("a number")
}

fn wait_until_passed(client: &mut Client) {
    while lease_left_ms(client) > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub const SOON: Duration = Duration::from_secs(10);

/// Nothing is answered for a while.
pub fn assert_silent(client: &mut Client) {
    client.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let early = std::io::BufRead::fill_buf(&mut client.replies).map(<[u8]>::to_vec);
    assert!(early.is_err(), "{early:?}");
    client.stream.set_read_timeout(Some(SOON)).expect("set");
}

#[test]
fn a_renewal_does_not_wait_for_the_disk_and_is_not_forgotten() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut other) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 20_000).expect("acquired");
    let (held, is_reached) = hold_manifest();
    send(&mut other, &["LOG.BEGIN", "s1", "1", A, "0"]);
    is_reached.recv_timeout(SOON).expect("stores");
    std::thread::sleep(Duration::from_millis(1000));
    leader.ok(&["LOG.RENEW", "s1", "1", "20000"]);
    drop(held);
    assert_eq!(other.reply(), Reply::Text("OK".to_owned()));
    assert!(lease_left_ms(&mut leader) > 20_510);
    service.stop();
}

#[test]
fn a_renewal_does_not_overtake_one_that_changes_the_length_of_the_lease() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut before, mut after) = (service.connect(), service.connect());
    before.acquire("s1", "n1", 0, 20_000).expect("acquired");
    let (held, is_reached) = hold_manifest();
    send(&mut before, &["LOG.RENEW", "s1", "1", "5000", "10"]);
    is_reached.recv_timeout(SOON).expect("stores");
    // Were it granted now, the one before would make it shorter.
    send(&mut after, &["LOG.RENEW", "s1", "1", "20000", "20"]);
    assert_silent(&mut after);
    drop(held);
    for client in [&mut before, &mut after] {
        assert_eq!(client.reply(), Reply::Text("OK".to_owned()));
    }
    assert!(lease_left_ms(&mut after) > 19_000);
    assert_eq!(after.status("s1", "lease_ms"), "20000");
    service.stop();
}

#[test]
fn a_renewal_does_not_wait_for_a_seed_and_is_not_forgotten() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut leader = service.connect();
    leader.acquire("s1", "n1", 0, 20_000).expect("acquired");
    let (held, is_reached) = hold_manifest();
    let seed = format!("PUT /shards/s1/snapshot?epoch=1&offset=100&replid={A} HTTP/1.1");
    let (http, rdb) = (service.http_address(), b"REDIS".to_vec());
    let seeding = std::thread::spawn(move || Service::http_at(http, &seed, &rdb));
    is_reached.recv_timeout(SOON).expect("stores");
    std::thread::sleep(Duration::from_millis(1000));
    leader.ok(&["LOG.RENEW", "s1", "1", "20000"]);
    drop(held);
    let (status, text) = seeding.join().expect("ends");
    assert_eq!(status, 200, "{text}");
    assert!(lease_left_ms(&mut leader) > 20_510);
    assert_eq!(leader.status("s1", "base"), "100");
    service.stop();
}

#[test]
fn a_renewal_waits_for_the_grant_to_another_node_and_is_fenced_by_it() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut first, mut second) = (service.connect(), service.connect());
    first.acquire("s1", "n1", 0, 1).expect("acquired");
    wait_until_passed(&mut first);
    let (held, is_reached) = hold_manifest();
    let _ = second.call(&["LOG.CHECK", "s1", "n2", "host:2", "-"]);
    send(&mut second, &["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000"]);
    is_reached.recv_timeout(SOON).expect("stores");
    send(&mut first, &["LOG.RENEW", "s1", "1", "1"]);
    assert_silent(&mut first);
    drop(held);
    assert_eq!(second.reply(), Reply::Array(vec![Reply::Integer(2), Reply::Integer(0)]));
    assert_eq!(first.reply(), Reply::Error("FENCED epoch 1 is over: n2 leads in epoch 2".to_owned()));
    service.stop();
}

#[test]
fn a_renewal_that_waited_for_a_grant_that_failed_is_granted() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut first, mut second) = (service.connect(), service.connect());
    first.acquire("s1", "n1", 0, 1).expect("acquired");
    wait_until_passed(&mut first);
    let (reached, is_reached) = sync_channel(1);
    fail::cfg_callback(Step::ManifestCreate.name(), move || {
        let _ = reached.try_send(());
        std::thread::sleep(Duration::from_millis(300));
    })
    .expect("configured");
    configure(Step::ManifestWrite, "return(enospc)");
    let _ = second.call(&["LOG.CHECK", "s1", "n2", "host:2", "-"]);
    send(&mut second, &["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000"]);
    is_reached.recv_timeout(SOON).expect("stores");
    first.ok(&["LOG.RENEW", "s1", "1", "1"]);
    assert_eq!(word(second.reply()), "NOSPACE");
    service.stop();
}

#[test]
fn a_lease_that_an_operator_takes_while_its_leader_begins_stays_taken_and_its_own() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut operator, mut other) = (service.connect(), service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    let (held, is_reached) = hold_manifest();
    send(&mut leader, &["LOG.BEGIN", "s1", "1", A, "0"]);
    is_reached.recv_timeout(SOON).expect("stores");
    send(&mut operator, &["LOG.RELEASE", "s1", "1"]);
    assert_silent(&mut operator);
    drop(held);
    assert_eq!(leader.reply(), Reply::Text("OK".to_owned()));
    assert_silent(&mut operator);
    leader.refused(&["LOG.APPEND", "s1", "1", "0", "x"], "FENCED ");
    leader.refused(&["LOG.RENEW", "s1", "1", "60000"], "FENCED ");
    assert!(other.acquire("s1", "n2", 0, 60_000).expect_err("leased").starts_with("LEASED n1 "));
    leader.ok(&["LOG.RESIGN", "s1", "1"]);
    assert_eq!(operator.reply(), Reply::Text("OK".to_owned()));
    assert_eq!(other.acquire("s1", "n2", 0, 60_000), Ok((2, 0)));
    service.stop();
}

#[test]
fn a_contradiction_that_comes_while_a_grant_waits_is_not_passed_over() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut other, mut witness) = (service.connect(), service.connect(), service.connect());
    witness.make("s1");
    let known = format!("{}:0::1", witness.status("s1", "log_id"));
    leader.acquire("s1", "n1", 0, 1).expect("acquired");
    wait_until_passed(&mut leader);
    let (held, is_reached) = hold_manifest();
    send(&mut leader, &["LOG.BEGIN", "s1", "1", A, "0"]);
    is_reached.recv_timeout(SOON).expect("stores");
    let _ = other.call(&["LOG.CHECK", "s1", "n2", "host:2", "-"]);
    send(&mut other, &["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000"]);
    assert_silent(&mut other);
    witness.refused(&["LOG.CHECK", "s1", "n3", "host:3", &known], "GAP 0 ");
    drop(held);
    assert_eq!(leader.reply(), Reply::Text("OK".to_owned()));
    assert_eq!(word(other.reply()), "OTHERLOG");
    assert_eq!(witness.status("s1", "epoch"), "1");
    service.stop();
}
