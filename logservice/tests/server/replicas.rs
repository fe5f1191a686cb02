use crate::client::{Client, Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn follow(service: &Service, replid: &str, next: i64) -> (Client, String) {
    let mut replica = service.connect();
    let answer = replica.psync("s1", replid, next);
    (replica, answer)
}

#[test]
fn a_new_replica_gets_an_empty_data_set_and_the_stream_as_it_grows() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let (mut replica, answer) = follow(&service, "?", -1);
    assert_eq!(answer, format!("+FULLRESYNC {A} 0"));
    assert_eq!(replica.line(), "$18");
    assert_eq!(replica.bytes(18), b"REDIS0011\xff\0\0\0\0\0\0\0\0");
    let mut offset = 0;
    for bytes in [10, 1 << 20, 1, 700_000, 1 << 20] {
        assert_eq!(leader.append("s1", epoch, offset, &pattern(offset, bytes)), Reply::Integer(offset + bytes as u64));
        assert!(replica.bytes(bytes) == pattern(offset, bytes));
        offset += bytes as u64;
        replica.send(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
    }
    assert_eq!(leader.status("s1", "replicas"), "1");
    service.stop();
}

#[test]
fn a_replica_continues_from_its_offset_or_gets_a_full_copy() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    leader.append("s1", epoch, 0, &pattern(0, 100));
    let (mut attached, answer) = follow(&service, A, 61);
    assert_eq!(answer, format!("+CONTINUE {A}"));
    assert!(attached.bytes(40) == pattern(60, 40));
    let (mut leader, epoch, end) = service.lead("s1", "n1", B);
    assert_eq!((epoch, end), (2, 100));
    attached.assert_closed();
    leader.append("s1", epoch, 100, &pattern(100, 50));
    let (mut replica, answer) = follow(&service, A, 101);
    assert_eq!(answer, format!("+CONTINUE {B}"), "the old id up to its end");
    assert!(replica.bytes(50) == pattern(100, 50));
    for (replid, next) in [(A, 102), (B, 152), (&"c".repeat(40)[..], 50), (B, 0), (B, -1)] {
        assert_eq!(follow(&service, replid, next).1, format!("+FULLRESYNC {B} 0"), "{replid} {next}");
    }
    assert_eq!(follow(&service, B, 151).1, format!("+CONTINUE {B}"));
    service.stop();
}

#[test]
fn replicas_never_see_a_byte_that_is_not_acknowledged() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command"]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    leader.append("s1", epoch, 0, &pattern(0, 100));
    let (mut replica, _) = follow(&service, A, 1);
    assert!(replica.bytes(100) == pattern(0, 100));
    let mut control = service.connect();
    control.ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 100, &pattern(100, 50));
    while control.status("s1", "durable_end") != "150" {}
    replica.stream.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("timeout");
    assert!(replica.stream.peek(&mut [0]).is_err(), "shown although not acknowledged");
    assert_eq!(follow(&service, A, 151).1, format!("+FULLRESYNC {A} 0"), "beyond what is shown");
    control.ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    replica.stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
    assert!(replica.bytes(50) == pattern(100, 50));
    service.stop();
}

#[test]
fn a_slow_replica_gets_everything_in_the_end() {
    const BYTES: usize = 1 << 20;
    const APPENDS: u64 = 12;
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let (mut replica, _) = follow(&service, A, 1);
    for append in 0..APPENDS {
        let offset = append * BYTES as u64;
        let end = Reply::Integer(offset + BYTES as u64);
        assert_eq!(leader.append("s1", epoch, offset, &pattern(offset, BYTES)), end, "held up by the replica");
    }
    let bytes = APPENDS as usize * BYTES;
    assert!(replica.bytes(bytes) == pattern(0, bytes));
    service.stop();
}
