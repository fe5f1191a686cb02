//! A shard that is dropped while a step fails, or the machine stops before it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fail::FailScenario;
use logservice::store::file_store::files::Step;

use crate::client::{Reply, Service};
use crate::common::pattern;
use crate::image::Image;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SOON: Duration = Duration::from_secs(30);

const STEPS: [Step; 3] = [Step::DropRename, Step::DropDirectorySync, Step::DropRemove];

fn configure(step: Step, action: &str) {
    fail::cfg(step.name(), action).expect("configured");
}

/// A service with a shard that has a snapshot and a log behind it, and the log's id.
fn start_with_shard(directory: &Path) -> (Service, String) {
    let service = Service::start(directory, &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let seed = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=100&replid={A} HTTP/1.1");
    assert_eq!(service.http(&seed, b"REDIS").0, 200);
    assert_eq!(leader.append("s1", epoch, 100, &pattern(100, 50)), Reply::Integer(150));
    leader.ok(&["LOG.RESIGN", "s1", &epoch.to_string()]);
    let log_id = leader.status("s1", "log_id");
    (service, log_id)
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().next().is_none()
}

fn wait_until_gone(directory: &Path, what: &str) {
    let deadline = Instant::now() + SOON;
    while !is_empty(&directory.join("shards")) || !is_empty(&directory.join("snapshots")) {
        let shards: Vec<_> = std::fs::read_dir(directory.join("shards")).expect("listed").collect();
        assert!(Instant::now() < deadline, "{what}: left are {shards:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The shard is all there, or nothing of it is.
fn assert_whole_or_gone(directory: &Path, may_be_whole: bool, what: &str) {
    let service = Service::start(directory, &[]).expect("starts again");
    let mut client = service.connect();
    match client.call(&["LOG.STATUS", "s1"]) {
        Reply::Error(text) => {
            assert!(text.starts_with("NOSHARD "), "{what}: {text}");
            wait_until_gone(directory, what);
        }
        _ => {
            assert!(may_be_whole, "{what}: it is back");
            assert_eq!(client.status("s1", "end"), "150", "{what}");
            let mut replica = service.connect();
            assert_eq!(replica.psync("s1", "?", -1), format!("+FULLRESYNC {A} 100"), "{what}");
            assert_eq!((replica.line(), replica.bytes(5)), ("$5".to_owned(), b"REDIS".to_vec()), "{what}");
            assert_eq!(replica.bytes(50), pattern(100, 50), "{what}");
        }
    }
    service.stop();
}

#[test]
fn a_machine_that_stops_leaves_all_of_a_shard_or_nothing() {
    for step in STEPS {
        let _scenario = FailScenario::setup();
        let directory = tempfile::tempdir().expect("tempdir");
        let (service, log_id) = start_with_shard(directory.path());
        let images: Arc<Mutex<Vec<Image>>> = Arc::default();
        let (taken, live) = (images.clone(), directory.path().to_owned());
        fail::cfg_callback(step.name(), move || taken.lock().expect("lock").push(Image::take(&live)))
            .expect("configured");
        service.connect().ok(&["LOG.DROP", "s1", &log_id]);
        wait_until_gone(directory.path(), "not stopped");
        fail::remove(step.name());
        service.stop();
        let images = std::mem::take(&mut *images.lock().expect("lock"));
        assert!(!images.is_empty(), "{step:?} was never reached");
        for (number, image) in images.into_iter().enumerate() {
            let crashed = tempfile::tempdir().expect("tempdir");
            image.write(crashed.path());
            assert_whole_or_gone(crashed.path(), step == Step::DropRename, &format!("{step:?}, time {number}"));
        }
    }
}

#[test]
fn a_shard_whose_directory_cannot_be_renamed_is_served_as_before() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    let mut operator = service.connect();
    configure(Step::DropRename, "return(eio)");
    operator.refused(&["LOG.DROP", "s1", &log_id], "ERR shard 's1' is not dropped: cannot rename ");
    fail::remove(Step::DropRename.name());
    let (mut leader, epoch, end) = service.lead("s1", "n1", A);
    assert_eq!(end, 150);
    assert_eq!(leader.append("s1", epoch, 150, b"x"), Reply::Integer(151));
    leader.ok(&["LOG.RESIGN", "s1", &epoch.to_string()]);
    operator.ok(&["LOG.DROP", "s1", &log_id]);
    wait_until_gone(directory.path(), "dropped at last");
    service.stop();
}

#[test]
fn if_it_is_not_known_whether_a_shard_is_dropped_there_is_none_of_its_name_until_a_restart() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    let mut operator = service.connect();
    configure(Step::DropDirectorySync, "return(eio)");
    let unknown = "LOGFAILED whether shard 's1' is dropped shows when the service is restarted: ";
    operator.refused(&["LOG.DROP", "s1", &log_id], unknown);
    fail::remove(Step::DropDirectorySync.name());
    operator.refused(&["LOG.CHECK", "s1", "n1", "host:1", "-"], unknown);
    operator.refused(&["LOG.DROP", "s1", "-", "FORCE"], unknown);
    operator.refused(&["LOG.CHECK", "s1", "n1", "host:1", "-"], unknown);
    service.stop();
    assert_whole_or_gone(directory.path(), false, "renamed");
}

#[test]
fn what_cannot_be_removed_at_once_is_removed_later_and_belongs_to_no_new_shard() {
    let _scenario = FailScenario::setup();
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    configure(Step::DropRemove, "return(eio)");
    let mut operator = service.connect();
    operator.ok(&["LOG.DROP", "s1", &log_id]);
    let (mut leader, epoch, end) = service.lead("s1", "n1", A);
    assert_eq!((epoch, end), (1, 0));
    assert_eq!(leader.append("s1", epoch, 0, b"abc"), Reply::Integer(3));
    assert_eq!(leader.status("s1", "snapshot_offset"), "-1");
    assert!(directory.path().join(format!("snapshots/s1-{log_id}")).is_dir());
    fail::remove(Step::DropRemove.name());
    let deadline = Instant::now() + SOON;
    while directory.path().join(format!("snapshots/s1-{log_id}")).is_dir()
        || std::fs::read_dir(directory.path().join("shards")).expect("listed").count() > 1
    {
        assert!(Instant::now() < deadline, "something is left");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(leader.append("s1", epoch, 3, b"def"), Reply::Integer(6));
    service.stop();
}
