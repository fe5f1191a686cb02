use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::{Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn put(shard: &str, epoch: u64, offset: u64, replid: &str) -> String {
    format!("PUT /shards/{shard}/snapshot?epoch={epoch}&offset={offset}&replid={replid} HTTP/1.1")
}

/// The files of all snapshots, whole or not.
pub fn snapshots(directory: &Path) -> Vec<PathBuf> {
    let list = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.map(|entry| entry.expect("entry").path()).collect::<Vec<_>>()
    };
    list(&directory.join("snapshots")).iter().flat_map(|shard| list(shard)).collect()
}

#[test]
fn a_seed_replaces_the_log_and_is_what_replicas_get() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    leader.append("s1", epoch, 0, &pattern(0, 100));
    let mut attached = service.connect();
    attached.psync("s1", A, 101);
    let rdb = pattern(7, 600_000);
    let (status, text) = service.http(&put("s1", epoch, 5000, B), &rdb);
    assert_eq!(status, 200, "{text}");
    attached.assert_closed();
    for (field, value) in [("base", "5000"), ("end", "5000"), ("snapshot_offset", "5000"), ("replid", B)] {
        assert_eq!(leader.status("s1", field), value, "{field}");
    }
    assert_eq!(leader.append("s1", epoch, 50, &pattern(50, 50)), Reply::Integer(100), "below the seed");
    leader.ok(&["LOG.BEGIN", "s1", "1", B, "5000"]);
    assert_eq!(leader.append("s1", epoch, 5000, &pattern(5000, 70)), Reply::Integer(5070));
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    for (replid, next) in [("?", -1), (A, 101), (A, 5001)] {
        let mut replica = service.connect();
        assert_eq!(replica.psync("s1", replid, next), format!("+FULLRESYNC {B} 5000"));
        assert_eq!(replica.line(), "$600000");
        assert!(replica.bytes(600_000) == rdb);
        assert!(replica.bytes(70) == pattern(5000, 70), "the stream follows the copy at once");
    }
    let mut replica = service.connect();
    assert_eq!(replica.psync("s1", B, 5051), format!("+CONTINUE {B}"));
    assert!(replica.bytes(20) == pattern(5050, 20));
    service.stop();
}

#[test]
fn a_seed_of_a_stranger_or_into_the_past_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    leader.append("s1", epoch, 0, &pattern(0, 100));
    for (head, expected, start) in [
        (put("s1", epoch + 1, 5000, B), 409, "FENCED "),
        (put("s1", epoch, 99, B), 409, "GAP 100 "),
        (put("s1", epoch, 5000, "short"), 400, "ERR "),
        (put("..", epoch, 5000, B), 400, "ERR "),
    ] {
        let (status, text) = service.http(&head, b"REDIS");
        assert!(status == expected && text.starts_with(start), "{head}: {status} {text}");
    }
    assert_eq!(service.http(&put("s1", epoch, 5000, B), b"").0, 400, "empty");
    assert_eq!((leader.status("s1", "base"), leader.status("s1", "replid")), ("0".into(), A.into()));
    assert_eq!(leader.append("s1", epoch, 100, b"x"), Reply::Integer(101));
    service.stop();
}

#[test]
fn an_upload_that_breaks_off_changes_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut upload = TcpStream::connect(service.http_address()).expect("connected");
    let head = format!("{}\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", put("s1", epoch, 5000, B));
    upload.write_all(head.as_bytes()).expect("sent");
    upload.write_all(&pattern(0, 300_000)).expect("sent");
    let files = || snapshots(directory.path()).len();
    let deadline = Instant::now() + Duration::from_secs(5);
    while files() == 0 {
        assert!(Instant::now() < deadline, "the upload never began");
    }
    drop(upload);
    while files() > 0 {
        assert!(Instant::now() < deadline, "the partial file stays");
    }
    assert_eq!(leader.status("s1", "snapshot_offset"), "-1");
    assert_eq!(leader.append("s1", epoch, 0, b"x"), Reply::Integer(1));
    service.stop();
}

#[test]
fn a_snapshot_that_has_rotted_is_never_handed_out_whole() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (_leader, epoch, _) = service.lead("s1", "n1", A);
    const BYTES: usize = 5 << 19;
    assert_eq!(service.http(&put("s1", epoch, 10, A), &pattern(0, BYTES)).0, 200);
    let path = snapshots(directory.path()).remove(0);
    let sound = std::fs::read(&path).expect("read");
    let rot = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
    };
    let full_copy = |service: &Service| {
        let mut replica = service.connect();
        assert_eq!(replica.psync("s1", "?", -1), format!("+FULLRESYNC {A} 10"));
        assert_eq!(replica.line(), format!("${BYTES}"));
        replica
    };
    let refused = |service: &Service, text: &str| {
        let answer = service.connect().psync("s1", "?", -1);
        assert!(answer.starts_with("-NOMASTERLINK the snapshot at offset 10 cannot be read: "), "{answer}");
        assert!(answer.contains(text), "{answer}");
        assert!(answer.ends_with(&service.connect().status("s1", "full_copy_error")), "{answer}");
    };
    // Nothing of the block in which it has rotted.
    rot(2_500_000);
    let mut got = Vec::new();
    let _ = std::io::Read::read_to_end(&mut full_copy(&service).replies, &mut got);
    assert!(got == sound[..2 << 20], "{}", got.len());
    refused(&service, "does not match its checksum, between bytes 2097152 and 2621440");
    std::fs::write(&path, &sound).expect("written");
    assert!(full_copy(&service).bytes(BYTES) == sound);
    assert_eq!(service.connect().status("s1", "full_copy_error"), "");
    service.stop();
    // What can be seen at once begins to look like a copy to nobody.
    let start = || Service::start(directory.path(), &[]).expect("starts");
    let service = start();
    rot(0);
    refused(&service, "does not match its checksum, between bytes 0 and 1048576");
    service.stop();
    let service = start();
    std::fs::write(&path, &sound[1..]).expect("written");
    refused(&service, "has 2621439 bytes instead of 2621440");
    service.stop();
    let service = start();
    std::fs::remove_file(&path).expect("removed");
    refused(&service, "cannot open");
    service.stop();
}
