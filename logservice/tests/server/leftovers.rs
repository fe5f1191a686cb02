//! What a shard that is dropped has in its places besides what it should.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::client::Service;
use crate::shards::{log_id, wait_until_only};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A service with a shard that has a snapshot and that nobody uses, and the log's id.
fn start_with_shard(directory: &Path) -> (Service, String) {
    let service = Service::start(directory, &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let seed = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=100&replid={A} HTTP/1.1");
    assert_eq!(service.http(&seed, b"REDIS").0, 200);
    leader.ok(&["LOG.RESIGN", "s1", &epoch.to_string()]);
    let log_id = log_id(&service, "s1");
    (service, log_id)
}

#[test]
fn drafts_that_nobody_writes_any_more_go_with_their_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    let place = directory.path().join(format!("snapshots/s1-{log_id}"));
    for file in ["00000000000000000200-0000abcd.rdb.partial", "00000000000000000200-0000abcd.rdb.rehearsal"] {
        fs::write(place.join(file), b"REDIS").expect("written");
    }
    fs::create_dir(place.join("engine-x")).expect("created");
    fs::write(place.join("engine-x/dump.rdb"), b"REDIS").expect("written");
    service.connect().ok(&["LOG.DROP", "s1", &log_id]);
    wait_until_only(directory.path(), &[]);
    service.stop();
}

#[test]
fn a_shard_whose_directory_was_removed_by_hand_can_be_dropped() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    fs::remove_dir_all(directory.path().join("shards/s1")).expect("removed");
    let mut operator = service.connect();
    operator.ok(&["LOG.DROP", "s1", &log_id]);
    operator.refused(&["LOG.STATUS", "s1"], "NOSHARD ");
    assert_eq!(service.lead("s1", "n1", A).2, 0, "its name is free");
    service.stop();
}

#[test]
fn a_link_to_a_shards_directory_goes_with_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, log_id) = start_with_shard(directory.path());
    service.stop();
    let (shard, elsewhere) = (directory.path().join("shards/s1"), directory.path().join("elsewhere"));
    fs::rename(&shard, &elsewhere).expect("renamed");
    symlink(&elsewhere, &shard).expect("linked");
    let service = Service::start(directory.path(), &[]).expect("starts");
    service.connect().ok(&["LOG.DROP", "s1", &log_id]);
    wait_until_only(directory.path(), &[]);
    assert_eq!(fs::read_dir(&elsewhere).expect("listed").count(), 0);
    service.stop();
}
