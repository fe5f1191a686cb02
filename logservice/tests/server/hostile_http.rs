//! What a wrong or hostile client of the HTTP port gets.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::client::Service;
use crate::common::pattern;
use crate::seeding::snapshots;
use crate::witness::Witness;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SHORT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(30);

pub fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.http_address()).expect("connected");
    stream.set_read_timeout(Some(SOON)).expect("timeout");
    stream
}

/// Everything that comes until the connection ends.
pub fn answer(mut stream: &TcpStream) -> String {
    let mut got = Vec::new();
    if let Err(error) = stream.read_to_end(&mut got) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "still connected");
    }
    String::from_utf8_lossy(&got).into_owned()
}

fn start(directory: &std::path::Path, flags: &[&str]) -> Service {
    Service::start_patient(directory, flags, |patience| {
        patience.http_head = SHORT;
        patience.http_stalled = SHORT;
        patience.upload_bytes = 5;
    })
}

#[test]
fn malformed_and_oversized_requests_are_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let witness = Witness::start(&service, None);
    let huge = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(100));
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    for (request, statuses) in [
        (pattern(0, 5000), &["400"][..]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &["400"]),
        (b"*1\r\n$4\r\nPING\r\n".to_vec(), &["400"]),
        (huge.into_bytes(), &["431"]),
        (many.into_bytes(), &["431"]),
        (long.into_bytes(), &["414", "431"]),
        (b"PUT /shards/s1/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec(), &["400"]),
        (
            b"PUT /shards/s1/snapshot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
            &["400"],
        ),
        (b"GET /shards/../../etc HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &["404"]),
    ] {
        let mut client = connect(&service);
        // The service may have gone before all of it is written.
        let _ = client.write_all(&request);
        let got = answer(&client);
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        // What was sent and not read makes the system forget the answer.
        let is_refused = statuses.iter().any(|status| got.starts_with(&format!("HTTP/1.1 {status} ")));
        assert!(is_refused || (got.is_empty() && request.len() > 4096), "{shown:?}: {got:?}");
    }
    witness.assert_served();
    service.stop();
}

#[test]
fn a_head_that_does_not_end_or_begin_is_not_waited_for() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    for half in ["", "GET /healthz HTT", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = connect(&service);
        client.write_all(half.as_bytes()).expect("sent");
        let begun = Instant::now();
        let got = answer(&client);
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 408 "), "{half:?}: {got:?}");
        assert!(begun.elapsed() < SOON, "{half:?}");
    }
    let mut kept = connect(&service);
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    assert!(answer(&kept).starts_with("HTTP/1.1 200 "), "and closed when no other request comes");
    service.stop();
}

#[test]
fn an_upload_that_stands_still_is_given_up_and_removed() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let witness = Witness::start(&service, None);
    let (_leader, epoch, _) = service.lead("s1", "n1", A);
    let mut client = connect(&service);
    let head = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=10&replid={A} HTTP/1.1\r\nHost: x\r\n");
    client.write_all(format!("{head}Content-Length: 1000000\r\n\r\n").as_bytes()).expect("sent");
    client.write_all(&pattern(0, 300_000)).expect("sent");
    let got = answer(&client);
    assert!(got.starts_with("HTTP/1.1 400 ") && got.contains("stood still for 0.3 s after 300000 bytes"), "{got}");
    assert_eq!(snapshots(directory.path()), Vec::<PathBuf>::new());
    // One that is slow, but comes, is taken.
    let mut slow = connect(&service);
    slow.write_all(format!("{head}Connection: close\r\nContent-Length: 10\r\n\r\n").as_bytes()).expect("sent");
    for _ in 0..10 {
        slow.write_all(b"x").expect("sent");
        std::thread::sleep(SHORT / 15);
    }
    assert!(answer(&slow).starts_with("HTTP/1.1 200 "));
    // One that drips, each byte in time, is not.
    let mut dripping = connect(&service);
    dripping.write_all(format!("{head}Content-Length: 1000000\r\n\r\n").as_bytes()).expect("sent");
    let deadline = Instant::now() + SOON;
    while dripping.write_all(b"x").is_ok() {
        assert!(Instant::now() < deadline, "it may drip");
        std::thread::sleep(SHORT * 2 / 3);
    }
    witness.assert_served();
    service.stop();
}

#[test]
fn a_body_without_a_token_is_not_read() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 one\n").expect("written");
    let data = directory.path().join("data");
    let service = start(&data, &["--tokens", tokens.to_str().expect("text")]);
    let mut client = connect(&service);
    let head = format!("PUT /shards/s2/snapshot?epoch=1&offset=1&replid={A} HTTP/1.1\r\nHost: x\r\n");
    client.write_all(format!("{head}Content-Length: 100000000000\r\n\r\n").as_bytes()).expect("sent");
    let got = answer(&client);
    assert!(got.starts_with("HTTP/1.1 401 "), "{got}");
    assert_eq!(std::fs::read_dir(data.join("shards")).expect("listed").count(), 0, "a stranger made a shard");
    service.stop();
}

#[test]
fn a_client_that_does_not_read_its_answers_is_sent_away() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    for shard in 0..50 {
        service.connect().make(&format!("s{shard}"));
    }
    let mut client = connect(&service);
    client.set_write_timeout(Some(Duration::from_millis(100))).expect("timeout");
    let requests = "GET /shards HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let deadline = Instant::now() + SOON;
    loop {
        match client.write(requests.as_bytes()) {
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "still connected");
    }
    service.stop();
}

#[test]
fn a_request_beyond_the_bound_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("tempdir");
    // One place for questions, and one for uploads.
    let service = Service::start(directory.path(), &["--max-http-connections", "2"]).expect("starts");
    let witness = Witness::start(&service, None);
    let ((_first, epoch, _), (_second, other_epoch, _)) = (service.lead("s1", "n1", A), service.lead("s2", "n1", A));
    let put = |shard, epoch| format!("PUT /shards/{shard}/snapshot?epoch={epoch}&offset=10&replid={A} HTTP/1.1");
    let mut half = connect(&service);
    half.write_all(format!("{}\r\nHost: x\r\nContent-Length: 10\r\n\r\nx", put("s1", epoch)).as_bytes()).expect("sent");
    let deadline = Instant::now() + SOON;
    while snapshots(directory.path()).is_empty() {
        assert!(Instant::now() < deadline, "it does not begin");
    }
    let (status, text) = service.http(&put("s2", other_epoch), b"x");
    let too_many = "too many requests at a time, see --max-http-connections; send it again later\n";
    assert_eq!((status, &text[..]), (503, too_many));
    assert_eq!(service.http("GET /shards HTTP/1.1", b"").0, 200, "questions have their own");
    half.write_all(b"123456789").expect("sent");
    let mut answered = [0; 12];
    half.read_exact(&mut answered).expect("answered");
    assert_eq!(&answered, b"HTTP/1.1 200");
    // Its place is free a moment after it was answered.
    let deadline = Instant::now() + SOON;
    while service.http(&put("s2", other_epoch), b"x").0 != 200 {
        assert!(Instant::now() < deadline, "there is no room although it is done");
    }
    witness.assert_served();
    service.stop();
}
