//! Changes of leadership while the manifest is slow, or cannot be written.

use std::time::Duration;

use fail::FailScenario;
use logservice::store::file_store::files::Step;

use crate::client::{Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Makes a manifest fail after it may have taken the place of the one before.
const UNKNOWN: [(Step, &str); 2] = [(Step::ManifestDirectorySync, "return(eio)"), (Step::ManifestSync, "panic")];

fn configure(step: Step, action: &str) {
    fail::cfg(step.name(), action).expect("configured");
}

fn word(reply: Reply) -> String {
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
    while leader.status("s1", "lease_remaining_ms") != "0" {
        std::thread::sleep(Duration::from_millis(1));
    }
    configure(step, fault);
    let changed = word(other.call(change));
    fail::remove(step.name());
    let renewed = word(leader.call(&["LOG.RENEW", "s1", "1", "1"]));
    service.stop();
    (changed, renewed)
}

const CHANGES: [&[&str]; 4] = [
    &["LOG.ACQUIRE", "s1", "n2", "host:2", "0", "60000"],
    &["LOG.RELEASE", "s1", "1"],
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
    leader.refused(&["LOG.RELEASE", "s1", "1"], "LOGFAILED ");
    leader.refused(&["LOG.RENEW", "s1", "1", "1000"], "LOGFAILED ");
    leader.ok(&["LOG.RENEW", "s1", "1", "60000"]);
    service.stop();
}
