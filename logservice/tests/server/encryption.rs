//! A service that encrypts what it keeps.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::client::{Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn write_keys(path: &Path, lines: &[(&str, u8)]) {
    let text: String = lines.iter().map(|(id, first)| format!("{id} {first:02x}{}\n", "6d".repeat(31))).collect();
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("changed");
}

fn contains(directory: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(directory).expect("listed").any(|entry| {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => contains(&path, needle),
            false => std::fs::read(path).expect("read").windows(needle.len()).any(|part| part == needle),
        }
    })
}

/// Sends a seed and some log after it.
fn seed(service: &Service) {
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let head = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=5000&replid={B} HTTP/1.1");
    let (status, text) = service.http(&head, &pattern(7, 600_000));
    assert_eq!(status, 200, "{text}");
    leader.ok(&["LOG.BEGIN", "s1", &epoch.to_string(), B, "5000"]);
    assert_eq!(leader.append("s1", epoch, 5000, &pattern(5000, 70)), Reply::Integer(5070));
}

fn assert_replica_gets_all(service: &Service) {
    let mut replica = service.connect();
    assert_eq!(replica.psync("s1", "?", -1), format!("+FULLRESYNC {B} 5000"));
    assert_eq!(replica.line(), "$600000");
    assert!(replica.bytes(600_000) == pattern(7, 600_000));
    assert!(replica.bytes(70) == pattern(5000, 70));
}

#[test]
fn data_is_encrypted_on_disk_and_not_served_without_its_key() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (data, keys, others) =
        (directory.path().join("data"), directory.path().join("keys"), directory.path().join("others"));
    let [flag, key_file, other_file] =
        ["--encrypt-key-file", keys.to_str().expect("text"), others.to_str().expect("text")];
    write_keys(&keys, &[("k1", 1)]);
    write_keys(&others, &[("k2", 2)]);
    let service = Service::start(&data, &[flag, key_file]).expect("starts");
    seed(&service);
    assert_replica_gets_all(&service);
    service.stop();
    assert!(!contains(&data, &pattern(7, 64)) && !contains(&data, &pattern(5000, 64)));

    for (flags, reason) in [(&[][..], "no keys were given"), (&[flag, other_file][..], "is not in the key file")] {
        let service = Service::start(&data, flags).expect("starts");
        let mut client = service.connect();
        let Reply::Error(error) = client.call(&["LOG.STATUS", "s1"]) else { panic!("it is served") };
        assert!(error.contains("'k1'") && error.contains(".log: ") && error.contains(reason), "{error}");
        let refused = client.acquire("s1", "n1", 5070, 0).expect_err("refused");
        assert!(refused.contains("LOGFAILED") && refused.contains("'k1'"), "{refused}");
        assert!(refused.contains("it is served when the service starts with that key"), "{refused}");
        let status = service.server().service().statuses(|_| true).remove(0);
        assert_eq!((status.state.word(), status.log_id.len()), ("locked", 16));
        let Reply::Error(error) = client.call(&["LOG.DROP", "s1", &status.log_id]) else { panic!("it is dropped") };
        assert!(error.contains("lacks nothing but a key") && error.contains("FORCE"), "{error}");
        service.stop();
    }
    let service = Service::start(&data, &[flag, key_file]).expect("starts");
    assert_replica_gets_all(&service);
    service.stop();
}

#[test]
fn a_key_that_is_added_is_used_when_the_service_is_told() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (data, keys) = (directory.path().join("data"), directory.path().join("keys"));
    let flags = ["--encrypt-key-file", keys.to_str().expect("text")];
    write_keys(&keys, &[("first-key", 1)]);
    let service = Service::start(&data, &flags).expect("starts");
    seed(&service);
    write_keys(&keys, &[("second-key", 2), ("first-key", 1)]);
    assert!(!contains(&data, b"second-key"));
    service.server().reload();
    let (mut leader, epoch, end) = service.lead("s1", "n1", B);
    assert_eq!(leader.append("s1", epoch, end, &pattern(end, 10)), Reply::Integer(end + 10));
    assert!(contains(&data, b"second-key"));
    assert_replica_gets_all(&service);
    // The snapshot needs the first still, so neither that nor what else the file says is taken over.
    write_keys(&keys, &[("third-key", 3), ("second-key", 2)]);
    service.server().reload();
    assert_eq!(leader.append("s1", epoch, end + 10, &pattern(end + 10, 10)), Reply::Integer(end + 20));
    assert!(!contains(&data, b"third-key"));
    assert_replica_gets_all(&service);
    service.stop();
    write_keys(&keys, &[("third-key", 3), ("second-key", 2), ("first-key", 1)]);
    let service = Service::start(&data, &flags).expect("starts");
    assert_replica_gets_all(&service);
    service.stop();
}

#[test]
fn a_key_file_that_cannot_be_used_keeps_the_service_from_starting() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (data, keys) = (directory.path().join("data"), directory.path().join("keys"));
    let refused = || {
        let started = Service::start(&data, &["--encrypt-key-file", keys.to_str().expect("text")]);
        started.map(|_| ()).expect_err("refused").to_string()
    };
    assert!(refused().contains("cannot read the key file"));
    write_keys(&keys, &[("k1", 1), ("k1", 1)]);
    let text = refused();
    assert!(text.contains("line 2: there is a key of that id already") && !text.contains("6d6d"), "{text}");
    write_keys(&keys, &[("k1", 1)]);
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o644)).expect("changed");
    let text = refused();
    assert!(text.contains("has mode 0644") && text.contains("chmod 600"), "{text}");
    assert!(!data.join("shards").exists(), "something was created");
}
