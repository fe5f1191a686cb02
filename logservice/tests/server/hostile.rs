//! What a wrong or hostile client of the RESP port gets, and that others are served meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use logservice::connections::limits::Patience;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::client::{self, Client, Reply, Service};
use crate::common::pattern;
use crate::witness::Witness;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SHORT: Duration = Duration::from_millis(300);
/// The longest that a client waits here for what happens after [`SHORT`].
const SOON: Duration = Duration::from_secs(30);

fn short(patience: &mut Patience) {
    *patience = Patience { login: SHORT, command: SHORT, stalled_output: SHORT, idle_buffer: SHORT, ..*patience };
    patience.failed_login_delay = Duration::from_millis(50);
}

fn with_tokens(directory: &Path, patience: impl FnOnce(&mut Patience)) -> Service {
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, "s1 one\nwitness two\n").expect("written");
    Service::start_patient(&directory.join("data"), &["--tokens", tokens.to_str().expect("text")], patience)
}

/// Expects an error that begins like that, and then the end.
fn assert_sent_away(client: &mut Client, start: &str) {
    match client.reply() {
        Reply::Error(text) => assert!(text.starts_with(start), "{text}"),
        other => panic!("{other:?}"),
    }
    client.assert_closed();
}

/// Writes what `next` gives and reads nothing, until the other side ends the connection. Answers how many bytes were taken.
fn write_until_closed(stream: &mut TcpStream, mut next: impl FnMut() -> Vec<u8>) -> u64 {
    stream.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let deadline = Instant::now() + SOON;
    let (mut bytes, mut written, mut taken) = (next(), 0, 0);
    loop {
        match stream.write(&bytes[written..]) {
            Ok(count) => {
                (written, taken) = (written + count, taken + count as u64);
                if written == bytes.len() {
                    (bytes, written) = (next(), 0);
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return taken,
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "still connected after {taken} bytes");
    }
}

#[test]
fn malformed_commands_are_refused_at_once() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let witness = Witness::start(&service, None);
    let nested = "*1\r\n".repeat(10_000).into_bytes();
    let handshake = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &pattern(0, 500)].concat();
    let (random, zeros) = (pattern(0, 5000), [0; 5000]);
    let inputs: [&[u8]; 14] = [
        &nested,
        &handshake,
        &random,
        &zeros,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PING\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*65\r\n",
        b"*999999999999999999\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$1048577\r\n",
        b"*1\r\n$18446744073709551615\r\n",
        b"*1\r\n$1\r\nab\r\n",
    ];
    for input in inputs {
        let mut client = service.connect();
        // The service may have gone before all of it is written.
        let _ = client.stream.write_all(input);
        let mut got = Vec::new();
        let ended = client.replies.read_to_end(&mut got);
        // What was sent and not read makes the system forget the answer.
        let is_reset = ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        let shown = &input[..input.len().min(40)];
        assert!(got.starts_with(b"-ERR Protocol error: ") || (is_reset && got.is_empty()), "{shown:?}: {got:?}");
        assert!(got.iter().filter(|byte| **byte == b'\n').count() <= 1, "{shown:?}: {got:?}");
    }
    witness.assert_served();
    service.stop();
}

#[test]
fn a_command_that_does_not_end_is_not_waited_for_for_ever() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start_patient(directory.path(), &[], short);
    let witness = Witness::start(&service, None);
    for half in ["*", "*3\r\n$4\r\nAU", "*1\r\n$4\r\nPING\r\n*1\r\n$1048576\r\nxxx"] {
        let mut client = service.connect();
        client.stream.write_all(half.as_bytes()).expect("sent");
        if half.contains("PING") {
            assert_eq!(client.reply(), Reply::Text("PONG".into()));
        }
        assert_sent_away(&mut client, "ERR Protocol error: the command did not end within 0.3 s");
    }
    let mut dripping = service.connect();
    dripping.stream.write_all(b"*1\r\n$1000000\r\n").expect("sent");
    let begun = Instant::now();
    while dripping.stream.write_all(b"x").is_ok() {
        assert!(begun.elapsed() < SOON, "a byte now and then is enough");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut idle = service.connect();
    std::thread::sleep(SHORT * 3);
    assert_eq!(idle.call(&["PING"]), Reply::Text("PONG".into()), "one without a command may stay");
    witness.assert_served();
    service.stop();
}

#[test]
fn a_half_command_is_not_held_against_a_client_that_is_not_read() {
    const APPENDS: u64 = 5000;
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start_patient(directory.path(), &["--enable-debug-command"], |patience| {
        short(patience);
        patience.stalled_output = SOON;
    });
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut control = service.connect();
    control.ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    // More than may wait for their acknowledgement, so that it is not read on.
    for offset in 0..APPENDS {
        leader.send_append("s1", epoch, offset, b"x");
    }
    leader.stream.write_all(b"*1\r\n$4\r\nPI").expect("sent");
    let deadline = Instant::now() + SOON;
    while control.status("s1", "accepted_end") < 4096.to_string() {
        assert!(Instant::now() < deadline, "the appends do not arrive");
    }
    std::thread::sleep(SHORT * 3);
    control.ok(&["LOG.DEBUG", "RESUME-ACKS", "s1"]);
    leader.stream.write_all(b"NG\r\n").expect("sent");
    for offset in 0..APPENDS {
        assert!(matches!(leader.reply(), Reply::Integer(durable) if durable > offset), "offset {offset}");
    }
    assert_eq!(leader.reply(), Reply::Text("PONG".into()));
    service.stop();
}

#[test]
fn a_stranger_has_little_time_and_little_room() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = with_tokens(directory.path(), short);
    let witness = Witness::start(&service, Some("two"));
    let mut silent = service.connect();
    let mut busy = service.connect();
    let begun = Instant::now();
    assert_sent_away(&mut silent, "NOAUTH no login within 0.3 s");
    assert!(begun.elapsed() >= SHORT / 2, "{:?}", begun.elapsed());
    // One that talks all the time, and does not read, is not better off.
    let command = [&b"*2\r\n$4\r\nPING\r\n$3000\r\n"[..], &[b'x'; 3000], b"\r\n"].concat();
    write_until_closed(&mut busy.stream, || command.clone());
    let mut large = service.connect();
    large.stream.write_all(b"*2\r\n$4\r\nAUTH\r\n$4096\r\n").expect("sent");
    assert_sent_away(&mut large, "ERR Protocol error: the command is too large");
    let mut known = service.connect();
    known.ok(&["AUTH", "s1", "one"]);
    known.stream.write_all(b"*2\r\n$4\r\nPING\r\n$4096\r\n").expect("sent");
    known.stream.write_all(&[&[b'x'; 4096][..], b"\r\n"].concat()).expect("sent");
    assert_eq!(known.reply(), Reply::Text("x".repeat(4096)));
    std::thread::sleep(SHORT * 2);
    assert_eq!(known.call(&["PING"]), Reply::Text("PONG".into()), "who has logged in may stay");
    witness.assert_served();
    service.stop();
}

#[test]
fn wrong_tokens_are_answered_late_and_few() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = with_tokens(directory.path(), |patience| patience.failed_login_delay = SHORT);
    let mut client = service.connect();
    let begun = Instant::now();
    client.refused(&["AUTH", "s1", "two"], "NOAUTH wrong shard or token");
    client.refused(&["HELLO", "2", "AUTH", "nowhere", "two"], "NOAUTH wrong shard or token");
    assert!(begun.elapsed() >= SHORT * 2);
    client.send(&[b"AUTH", b"one"]);
    assert_sent_away(&mut client, "NOAUTH wrong token");
    service.stop();
}

#[test]
fn a_client_that_does_not_read_is_sent_away() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start_patient(directory.path(), &[], short);
    let witness = Witness::start(&service, None);
    let mut asking = service.connect();
    let question = [&b"*2\r\n$4\r\nPING\r\n$65536\r\n"[..], &[b'x'; 65536], b"\r\n"].concat();
    write_until_closed(&mut asking.stream, || question.clone());
    // Small ones, which become durable many at a time, so that there are many replies.
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut end = 0;
    let mut appends = || {
        let one = |offset: u64| {
            let (epoch, offset) = (epoch.to_string(), offset.to_string());
            client::command(&[b"LOG.APPEND", b"s1", epoch.as_bytes(), offset.as_bytes(), b"x"])
        };
        end += 1000;
        (end - 1000..end).flat_map(one).collect()
    };
    write_until_closed(&mut leader.stream, &mut appends);
    let mut next = service.connect();
    let accepted: u64 = next.status("s1", "accepted_end").parse().expect("a number");
    assert!(accepted > 0);
    assert_eq!(next.append("s1", epoch, accepted, b"y"), Reply::Integer(accepted + 1), "the shard goes on");
    witness.assert_served();
    service.stop();
}

#[test]
fn a_replica_that_takes_nothing_is_sent_away_whatever_it_says() {
    const APPENDS: u64 = 12;
    const BYTES: usize = 1 << 20;
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start_patient(directory.path(), &[], short);
    let witness = Witness::start(&service, None);
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    for append in 0..APPENDS {
        let offset = append * BYTES as u64;
        leader.append("s1", epoch, offset, &pattern(offset, BYTES));
    }
    let mut replicas = [(); 3].map(|()| service.connect());
    for replica in &mut replicas {
        assert_eq!(replica.psync("s1", A, 1), format!("+CONTINUE {A}"));
    }
    let begun = Instant::now();
    let [_, saying, claiming] = &mut replicas;
    while leader.status("s1", "replicas") != "0" {
        // As a replica does while it loads a snapshot, which this one was not sent.
        let _ = saying.stream.write_all(b"\n");
        // It acknowledges the same again, and what it was not sent.
        for offset in [b"1", &b"99999999999"[..]] {
            let _ = claiming.stream.write_all(&client::command(&[b"REPLCONF", b"ACK", offset]));
        }
        assert!(begun.elapsed() < SOON, "it is there still");
        std::thread::sleep(Duration::from_millis(20));
    }
    let bytes = APPENDS as usize * BYTES;
    for replica in &mut replicas {
        let mut got = Vec::new();
        let _ = replica.replies.read_to_end(&mut got);
        assert!(got.len() < bytes);
    }
    witness.assert_served();
    service.stop();
}

const MIB: usize = 1 << 20;
/// More MiB than sockets hold.
const SNAPSHOT_MIB: usize = 12;

/// Uploads a snapshot of [`SNAPSHOT_MIB`], which is never in memory as a whole, as other tests measure that.
fn upload_snapshot(http: SocketAddr, epoch: u64, offset: u64) {
    let mut stream = TcpStream::connect(http).expect("connected");
    let head = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset={offset}&replid={A} HTTP/1.1\r\nHost: x\r\n");
    let length = SNAPSHOT_MIB * MIB;
    let head = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    for piece in 0..SNAPSHOT_MIB {
        stream.write_all(&pattern((piece * MIB) as u64, MIB)).expect("sent");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// A replica that begins to take the snapshot which stands at `offset`.
fn begin_full_sync(mut replica: Client, offset: u64) -> Client {
    set_socket_recv_buffer_size(&replica.stream, 64 << 10).expect("set");
    assert_eq!(replica.psync("s1", "?", -1), format!("+FULLRESYNC {A} {offset}"));
    assert_eq!(replica.line(), format!("${}", SNAPSHOT_MIB * MIB));
    replica
}

/// Of two replicas that take nothing of their snapshot, the one that sends empty lines gets all of it, and the stream after.
pub fn outlives_a_flush(connect: impl Fn() -> Client, lead: impl Fn() -> (Client, u64, u64), http: SocketAddr) {
    let (mut leader, epoch, _) = lead();
    upload_snapshot(http, epoch, 7);
    let (mut deaf, mut flushing) = (begin_full_sync(connect(), 7), begin_full_sync(connect(), 7));
    let begun = Instant::now();
    while leader.status("s1", "replicas") != "1" || begun.elapsed() < SHORT * 3 {
        flushing.stream.write_all(b"\n").expect("it may stay");
        assert!(begun.elapsed() < SOON, "both are there still");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What has come in part meanwhile is not lost.
    flushing.stream.write_all(b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nAC").expect("sent");
    for piece in 0..SNAPSHOT_MIB {
        assert!(flushing.bytes(MIB) == pattern((piece * MIB) as u64, MIB), "MiB {piece}");
    }
    flushing.stream.write_all(b"K\r\n$1\r\n7\r\n").expect("sent");
    for offset in 7..10 {
        assert_eq!(leader.append("s1", epoch, offset, b"x"), Reply::Integer(offset + 1));
        assert_eq!(flushing.bytes(1), b"x");
        flushing.send(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
    }
    let (mut got, mut piece) = (0, vec![0; MIB]);
    while let Ok(bytes @ 1..) = deaf.replies.read(&mut piece) {
        got += bytes;
    }
    assert!(got < SNAPSHOT_MIB * MIB, "{got} bytes");
}

#[test]
fn a_replica_that_drops_its_old_data_before_it_takes_a_snapshot_may_stay() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start_patient(directory.path(), &[], |patience| {
        patience.stalled_output = SHORT;
        patience.load_bytes_per_s = 1 << 20;
    });
    let witness = Witness::start(&service, None);
    outlives_a_flush(|| service.connect(), || service.lead("s1", "n1", A), service.http_address());
    witness.assert_served();
    service.stop();
}

#[test]
fn a_replica_that_goes_while_it_is_sent_a_snapshot_is_noticed_at_once() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    upload_snapshot(service.http_address(), epoch, 7);
    let replica = begin_full_sync(service.connect(), 7);
    assert_eq!(leader.status("s1", "replicas"), "1");
    replica.stream.shutdown(Shutdown::Write).expect("open");
    let begun = Instant::now();
    while leader.status("s1", "replicas") != "0" {
        assert!(begun.elapsed() < SOON, "it is there still");
    }
    service.stop();
}

#[test]
fn large_commands_that_do_not_end_do_not_keep_others_from_theirs() {
    let directory = tempfile::tempdir().expect("tempdir");
    // Room for one large command at a time.
    let service = Service::start_patient(directory.path(), &["--max-input-mb", "4"], short);
    let witness = Witness::start(&service, None);
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let mut halves: Vec<Client> = (0..6).map(|_| service.connect()).collect();
    for half in &mut halves {
        half.stream.write_all(b"*1\r\n$1048576\r\n").expect("sent");
        half.stream.write_all(&[b'x'; 600 << 10]).expect("sent");
    }
    let begun = Instant::now();
    let bytes = 1 << 20;
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, bytes)), Reply::Integer(bytes as u64));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for half in &mut halves {
        assert_sent_away(half, "ERR Protocol error: the command did not end");
    }
    witness.assert_served();
    service.stop();
}
