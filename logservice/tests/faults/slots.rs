//! Slots that are being stored while the manifest is slow, or cannot be written.

use fail::FailScenario;
use logservice::store::file_store::files::Step;

use crate::client::{Client, Reply, Service};
use crate::leadership::{assert_silent, configure, hold_manifest, send, word, SOON};

const SET: [&str; 6] = ["LOG.SLOTS", "s1", "SET", "1", "5", "0-5460"];
const GET: [&str; 4] = ["LOG.SLOTS", "s1", "GET", "1"];

/// What the leader is told that is stored.
fn slots(reply: Reply) -> String {
    match reply {
        Reply::Array(items) => match &items[3] {
            Reply::Text(slots) => slots.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn led(service: &Service) -> Client {
    let mut leader = service.connect();
    leader.acquire("s1", "n1", 0, 0).expect("acquired");
    leader
}

#[test]
fn slots_are_answered_and_told_when_they_are_on_the_disk() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut asks) = (led(&service), service.connect());
    let (held, is_reached) = hold_manifest();
    send(&mut leader, &SET);
    is_reached.recv_timeout(SOON).expect("stores");
    send(&mut asks, &GET);
    assert_silent(&mut leader);
    assert_silent(&mut asks);
    drop(held);
    assert_eq!(leader.reply(), Reply::Text("OK".to_owned()));
    assert_eq!(slots(asks.reply()), "0-5460");
    service.stop();
}

#[test]
fn slots_of_which_it_is_not_known_whether_they_are_stored_are_told_by_nobody_before_a_restart() {
    for (step, action, may_be_found) in
        [(Step::ManifestDirectorySync, "return(eio)", true), (Step::ManifestSync, "panic", false)]
    {
        let _scenario = FailScenario::setup();
        let directory = tempfile::tempdir().expect("tempdir");
        let service = Service::start(directory.path(), &[]).expect("starts");
        let mut leader = led(&service);
        leader.ok(&["LOG.SLOTS", "s1", "SET", "1", "4", "7"]);
        configure(step, action);
        assert_eq!(word(leader.call(&SET)), "LOGFAILED", "{step:?}");
        fail::remove(step.name());
        for again in [&SET[..], &GET[..]] {
            assert_eq!(word(leader.call(again)), "LOGFAILED", "{step:?}");
        }
        // Who leads is not in doubt.
        leader.ok(&["LOG.RENEW", "s1", "1", "0"]);
        service.stop();
        let service = Service::start(directory.path(), &[]).expect("restarts");
        let mut leader = service.connect();
        let found = slots(leader.call(&GET));
        assert!(found == "7" || may_be_found && found == "0-5460", "{step:?}: {found}");
        leader.ok(&SET);
        assert_eq!(slots(leader.call(&GET)), "0-5460");
        service.stop();
    }
}

#[test]
fn slots_for_which_there_is_no_space_are_not_stored() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut leader = led(&service);
    leader.ok(&["LOG.SLOTS", "s1", "SET", "1", "4", "7"]);
    configure(Step::ManifestWrite, "return(enospc)");
    assert_eq!(word(leader.call(&SET)), "NOSPACE");
    fail::remove(Step::ManifestWrite.name());
    assert_eq!(slots(leader.call(&GET)), "7");
    leader.ok(&SET);
    assert_eq!(slots(leader.call(&GET)), "0-5460");
    service.stop();
}
