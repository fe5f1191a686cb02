use std::time::{Duration, Instant};

use crate::client::{Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

#[test]
fn appends_are_acknowledged_in_order_and_are_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, start) = service.lead("s1", "n1", A);
    assert_eq!((epoch, start), (1, 0));
    let mut offset = 0;
    let mut ends = Vec::new();
    for bytes in [1, 500, 1 << 20, 10, 300_000, 1 << 20, 1 << 20, 3].into_iter().chain([40; 200]) {
        leader.send_append("s1", epoch, offset, &pattern(offset, bytes));
        offset += bytes as u64;
        ends.push(offset);
    }
    leader.send(&[b"PING"]);
    for end in ends {
        assert_eq!(leader.reply(), Reply::Integer(end));
    }
    assert_eq!(leader.reply(), Reply::Text("PONG".into()), "behind the appends");
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    assert_eq!(client.status("s1", "end"), offset.to_string());
    assert_eq!(client.psync("s1", A, 1), format!("+CONTINUE {A}"));
    assert!(client.bytes(offset as usize) == pattern(0, offset as usize));
    service.stop();
}

#[test]
fn an_append_sent_again_is_acknowledged_and_not_written_twice() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, 100)), Reply::Integer(100));
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, 100)), Reply::Integer(100));
    assert_eq!(leader.append("s1", epoch, 50, &pattern(50, 100)), Reply::Integer(150), "only the new half");
    leader.send_append("s1", epoch, 151, b"x");
    assert!(matches!(leader.reply(), Reply::Error(text) if text.starts_with("GAP 150 ")));
    assert_eq!(leader.status("s1", "appends"), "2");
    let mut replica = service.connect();
    assert_eq!(replica.psync("s1", A, 1), format!("+CONTINUE {A}"));
    assert!(replica.bytes(150) == pattern(0, 150));
    service.stop();
}

#[test]
fn bytes_that_are_not_those_of_the_log_are_not_taken_for_such_that_were_sent_before() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    // More than one segment.
    let bytes = 5 << 20;
    for offset in (0..bytes).step_by(1 << 20) {
        leader.send_append("s1", epoch, offset, &pattern(offset, 1 << 20));
    }
    assert_eq!((0..5).map(|_| leader.reply()).last(), Some(Reply::Integer(bytes)));
    let mut changed = pattern(0, 1 << 20);
    changed[(1 << 20) - 1] ^= 1;
    let mut overlapping = pattern(bytes - 10, 20);
    overlapping[9] ^= 1;
    for (offset, other) in [(0, &changed[..]), (bytes - 10, &overlapping[..]), (bytes - 10, &overlapping[..10])] {
        leader.send_append("s1", epoch, offset, other);
        let Reply::Error(text) = leader.reply() else { panic!("acknowledged") };
        assert!(text.starts_with(&format!("GAP {bytes} ")) && text.contains("other bytes"), "{text}");
    }
    assert_eq!(leader.status("s1", "end"), bytes.to_string(), "nothing of that was written");
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, 1 << 20)), Reply::Integer(1 << 20));
    assert_eq!(leader.append("s1", epoch, bytes - 10, &pattern(bytes - 10, 20)), Reply::Integer(bytes + 10));
    service.stop();
}

/// What was sent before can be compared only once it is durable, whether or not that may be told.
#[test]
fn bytes_sent_again_while_nothing_is_acknowledged_are_acknowledged_with_the_rest() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command"]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    service.connect().ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 0, &pattern(0, 100));
    let mut again = service.connect();
    again.send_append("s1", epoch, 0, &pattern(0, 100));
    again.send_append("s1", epoch, 100, &pattern(100, 100));
    again.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    assert!(std::io::Read::read(&mut again.stream, &mut [0]).is_err(), "acknowledged");
    again.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    service.connect().ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    assert_eq!((again.reply(), again.reply()), (Reply::Integer(100), Reply::Integer(200)));
    assert_eq!(leader.reply(), Reply::Integer(100));
    service.stop();
}

/// What an answer says holds of all appends before it on that connection: a leader counts on that.
#[test]
fn answers_do_not_overtake_each_other_whatever_becomes_of_the_appends() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command"]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    service.connect().ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 0, &pattern(0, 100));
    // Compared on disk, and refused while the one before waits.
    leader.send_append("s1", epoch, 50, &[b'x'; 50]);
    leader.send_append("s1", epoch, 100, &pattern(100, 10));
    leader.send(&[b"PING"]);
    let mut other = service.connect();
    let limit = Instant::now() + Duration::from_secs(10);
    while other.status("s1", "durable_end") != "110" {
        assert!(Instant::now() < limit, "not durable");
    }
    leader.stream.set_nonblocking(true).expect("set");
    assert!(std::io::Read::read(&mut leader.stream, &mut [0]).is_err(), "answered before the first append");
    leader.stream.set_nonblocking(false).expect("set");
    other.ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    assert_eq!(leader.reply(), Reply::Integer(100));
    assert!(matches!(leader.reply(), Reply::Error(text) if text.starts_with("GAP ") && text.contains("other bytes")));
    assert_eq!((leader.reply(), leader.reply()), (Reply::Integer(110), Reply::Text("PONG".into())));
    service.stop();
}

#[test]
fn a_second_leader_fences_the_first() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut first = service.connect();
    let (epoch, end) = first.acquire("s1", "n1", 0, 1000).expect("acquired");
    assert_eq!(
        first.append("s1", epoch, end, b"x"),
        Reply::Error(format!("ERR epoch {epoch} has not begun: send LOG.BEGIN first"))
    );
    first.ok(&["LOG.BEGIN", "s1", "1", A, "0"]);
    assert_eq!(first.append("s1", epoch, 0, b"first"), Reply::Integer(5));
    let mut second = service.connect();
    let leased = second.acquire("s1", "n2", 5, 60_000).expect_err("leased");
    assert!(leased.starts_with("LEASED n1 host:1 "), "{leased}");
    first.ok(&["LOG.RENEW", "s1", "1", "1000"]);
    std::thread::sleep(Duration::from_millis(1100));
    let gap = second.acquire("s1", "n2", 4, 60_000).expect_err("gap");
    assert!(gap.starts_with("GAP 5 "), "{gap}");
    assert_eq!(first.append("s1", epoch, 5, b"!"), Reply::Integer(6), "nobody has taken over");
    assert_eq!(second.acquire("s1", "n2", 6, 60_000), Ok((2, 6)));
    for refused in [first.append("s1", epoch, 6, b"late"), first.append("s1", epoch, 0, b"first")] {
        assert!(matches!(refused, Reply::Error(text) if text.starts_with("FENCED ")));
    }
    first.refused(&["LOG.RENEW", "s1", "1", "1000"], "FENCED");
    first.refused(&["LOG.BEGIN", "s1", "1", A, "6"], "FENCED");
    first.refused(&["LOG.RESIGN", "s1", "1"], "FENCED");
    second.ok(&["LOG.BEGIN", "s1", "2", B, "6"]);
    assert_eq!(second.append("s1", 2, 6, b"second"), Reply::Integer(12));
    service.stop();
}

#[test]
fn of_many_who_acquire_at_once_one_leads() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let results: Vec<_> = std::thread::scope(|scope| {
        let service = &service;
        let race = move |node: usize| service.connect().acquire("s1", &format!("n{node}"), 0, 60_000);
        let racers: Vec<_> = (0..8).map(|node| scope.spawn(move || race(node))).collect();
        racers.into_iter().map(|racer| racer.join().expect("answered")).collect()
    });
    assert_eq!(results.iter().filter(|result| **result == Ok((1, 0))).count(), 1, "{results:?}");
    let refused = |result: &&Result<_, String>| matches!(result, Err(text) if text.starts_with("LEASED n"));
    assert_eq!(results.iter().filter(refused).count(), 7, "{results:?}");
    service.stop();
}

#[test]
fn epoch_and_lease_survive_a_restart_and_a_release_frees_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.acquire("s1", "n1", 0, 0).expect("acquired");
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("restarts");
    let mut client = service.connect();
    assert_eq!((client.status("s1", "epoch"), client.status("s1", "lease_remaining_ms")), ("1".into(), "-2".into()));
    let leased = client.acquire("s1", "n2", 0, 0).expect_err("leased");
    assert!(leased.starts_with("LEASED n1 host:1 -1 ") && leased.contains("LOG.RELEASE s1 1 FORCE"), "{leased}");
    client.ok(&["LOG.RESIGN", "s1", "1"]);
    assert_eq!(client.status("s1", "lease_remaining_ms"), "-1");
    assert_eq!(client.acquire("s1", "n2", 0, 0), Ok((2, 0)));
    assert_eq!(client.acquire("s1", "n2", 0, 0), Ok((3, 0)), "an earlier life of the same node");
    service.stop();
}

#[test]
fn frozen_and_delayed_acknowledgements() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command"]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut control = service.connect();
    control.ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 0, &pattern(0, 100));
    let deadline = Instant::now() + Duration::from_secs(5);
    while control.status("s1", "durable_end") != "100" {
        assert!(Instant::now() < deadline);
    }
    assert_eq!((control.status("s1", "end"), control.status("s1", "acks")), ("0".into(), "frozen".into()));
    leader.stream.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let mut byte = [0];
    assert!(leader.stream.peek(&mut byte).is_err(), "acknowledged although frozen");
    leader.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    assert_eq!(control.acquire("s1", "n1", 100, 0), Ok((2, 100)), "leadership goes by what is durable");
    control.ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    assert_eq!(leader.reply(), Reply::Integer(100));
    control.ok(&["LOG.BEGIN", "s1", "2", B, "100"]);
    control.ok(&["LOG.DEBUG", "DELAY-ACKS", "s1", "50.5"]);
    let start = Instant::now();
    assert_eq!(control.append("s1", 2, 100, b"x"), Reply::Integer(101));
    assert!(start.elapsed() >= Duration::from_micros(50_500));
    service.stop();
}

#[test]
fn the_debug_command_is_off_unless_asked_for() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    service
        .connect()
        .refused(&["LOG.DEBUG", "FREEZE-ACKS", "s1"], "ERR LOG.DEBUG is off: start logservice with --enable");
    service.stop();
}
