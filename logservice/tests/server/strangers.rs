//! Those who have no token, many at once: proper clients log in all the same. The long version, with nodes, is `tests/strangers`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{command, Client, Reply, Service};
use crate::hostile_http::{answer, connect as connect_http};
use crate::seeding::snapshots;
use crate::witness::Witness;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TOKENS: &str = "s1 one\ns2 two\nwitness two\n* all\n";
/// Far less than a stranger has for its login.
const SOON: Duration = Duration::from_secs(5);

fn start(directory: &std::path::Path, flags: &[&str]) -> Service {
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, TOKENS).expect("written");
    let tokens = ["--tokens", tokens.to_str().expect("text")];
    Service::start_patient(&directory.join("data"), &[&tokens, flags].concat(), |patience| {
        patience.failed_login_delay = Duration::ZERO;
    })
}

/// Strangers that connect, say what is given and wait; whoever is closed connects again.
struct Strangers {
    stop: Arc<AtomicBool>,
    closed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Strangers {
    fn start(address: std::net::SocketAddr, count: usize, says: &'static [u8]) -> Self {
        let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..4).map(|_| {
            let (stop, closed) = (stop.clone(), closed.clone());
            std::thread::spawn(move || {
                let connect = || {
                    let mut stream = TcpStream::connect(address).ok()?;
                    let _ = stream.write_all(says);
                    stream.set_nonblocking(true).ok()?;
                    Some(stream)
                };
                let mut streams: Vec<Option<TcpStream>> = (0..count / 4).map(|_| connect()).collect();
                while !stop.load(Ordering::Relaxed) {
                    for stream in &mut streams {
                        let is_open = stream.as_mut().is_some_and(|open| {
                            open.read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
                        });
                        if !is_open {
                            closed.fetch_add(1, Ordering::Relaxed);
                            *stream = connect();
                        }
                    }
                    // So that a proper client has some time before it is the oldest, also on a machine that is busy.
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        });
        let threads = threads.collect();
        Strangers { stop, closed, threads }
    }

    fn wait_until_some_are_closed(&self) {
        let deadline = Instant::now() + SOON;
        while self.closed.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "there is room for all of them");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("ran"));
    }
}

/// Whether a new connection that says one thing gets the other.
fn answers(address: std::net::SocketAddr, question: &[u8], expected: &[u8]) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(question)?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        Ok::<_, std::io::Error>(answer == expected)
    };
    ask().unwrap_or(false)
}

/// On a machine that is busy one may be the oldest before it was looked at: it comes again, as any client does.
fn assert_almost_all(attempt: impl Fn() -> bool) {
    let succeeded = (0..70).filter(|_| attempt()).count();
    assert!(succeeded >= 60, "{succeeded} of 70");
}

#[test]
fn strangers_that_loop_keep_nobody_from_logging_in() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--max-connections", "20", "--max-strangers", "256"]);
    let witness = Witness::start(&service, Some("two"));
    let strangers = Strangers::start(service.listen_address(), 160, b"*2\r\n$4\r\nAUTH\r\n");
    strangers.wait_until_some_are_closed();
    let login = command(&[b"AUTH", b"s1", b"one"]);
    assert_almost_all(|| answers(service.listen_address(), &login, b"+OK\r\n"));
    strangers.stop();
    witness.assert_served();
    service.stop();
}

#[test]
fn hundreds_of_clients_of_one_address_log_in_at_once() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    let witness = Witness::start(&service, Some("two"));
    // All have connected before the first one logs in.
    let mut clients: Vec<_> = (0..800).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(&[b"AUTH", b"s1", b"one"]);
        client.send(&[b"SENTINEL", b"PRIMARIES"]);
    }
    for client in &mut clients {
        assert_eq!(client.reply(), Reply::Text("OK".into()));
        assert!(matches!(client.reply(), Reply::Array(_)));
    }
    witness.assert_served();
    service.stop();
}

#[test]
fn the_oldest_stranger_goes_first_and_who_has_logged_in_stays() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--max-strangers", "8"]);
    let mut known = service.connect();
    known.ok(&["AUTH", "s1", "one"]);
    // Each is there when it has been answered. Of one address half may be there.
    let mut strangers: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut stranger = service.connect();
        assert_eq!(stranger.call(&["PING"]), Reply::Text("PONG".into()));
        strangers.push(stranger);
    }
    for oldest in &mut strangers[..2] {
        oldest.assert_closed();
    }
    for younger in &mut strangers[2..] {
        younger.ok(&["AUTH", "s1", "one"]);
    }
    assert_eq!(known.call(&["PING"]), Reply::Text("PONG".into()));
    service.stop();
}

#[test]
fn half_heads_keep_nobody_from_asking_or_uploading() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--max-http-connections", "8", "--max-strangers", "512"]);
    let witness = Witness::start(&service, Some("two"));
    let strangers = Strangers::start(service.http_address(), 80, b"GET /shards HTTP/1.1\r\nHost: x\r\n");
    strangers.wait_until_some_are_closed();
    let question = b"GET /shards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer all\r\n\r\n";
    assert_almost_all(|| answers(service.http_address(), question, b"HTTP/1.1 200"));
    strangers.stop();
    witness.assert_served();
    service.stop();
}

fn put(token: &str, shard: &str, epoch: u64, offset: u64) -> String {
    let path = format!("/shards/{shard}/snapshot?epoch={epoch}&offset={offset}&replid={A}");
    format!("PUT {path} HTTP/1.1\r\nAuthorization: Bearer {token}")
}

#[test]
fn uploads_of_one_shard_that_do_not_end_keep_out_no_other_and_the_newest_goes_on() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &["--max-http-connections", "8"]);
    let lead = |shard: &str| {
        let mut client = service.connect();
        client.ok(&["AUTH", "all"]);
        service.lead_by(client, shard, "n1", A)
    };
    let ((_first, epoch, _), (_second, other_epoch, _)) = (lead("s1"), lead("s2"));
    let begin = || {
        let mut stream = connect_http(&service);
        let head = format!("{}\r\nHost: x\r\nContent-Length: 1000\r\n\r\nREDIS", put("one", "s1", epoch, 10));
        stream.write_all(head.as_bytes()).expect("sent");
        stream
    };
    let mut uploads = vec![begin()];
    let deadline = Instant::now() + SOON;
    while snapshots(&directory.path().join("data")).is_empty() {
        assert!(Instant::now() < deadline, "it does not begin");
    }
    for _ in 0..8 {
        uploads.push(begin());
        // Only one is on its way, and that is the newest.
        let older = uploads.remove(0);
        let got = answer(&older);
        assert!(got.starts_with("HTTP/1.1 409 ") && got.contains("another upload for this shard has begun"), "{got}");
    }
    assert_eq!(service.http(&put("two", "s2", other_epoch, 10), b"REDIS"), (200, "ok\n".to_owned()));
    uploads[0].write_all(&[b'x'; 995]).expect("sent");
    let mut status = [0; 12];
    uploads[0].read_exact(&mut status).expect("answered");
    assert_eq!(&status, b"HTTP/1.1 200");
    service.stop();
}

#[test]
fn wrong_tokens_are_not_judged_without_end_and_who_has_logged_in_before_is() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    service.connect().ok(&["AUTH", "s1", "one"]);
    let mut refused = String::new();
    let mut right = service.connect();
    // One guess is made up for each second.
    for guess in 0..1000 {
        let mut client = service.connect();
        let Reply::Error(text) = client.call(&["AUTH", "s1", &format!("guess{guess}")]) else { panic!("guessed") };
        if text.starts_with("NOAUTH too many wrong tokens, none is looked at now: try again in ") {
            refused = text;
            break;
        }
        assert_eq!(text, "NOAUTH wrong shard or token");
    }
    assert!(!refused.is_empty(), "all are judged");
    // A right one is not looked at either, but for who was right before.
    right.refused(&["AUTH", "s2", "two"], "NOAUTH too many wrong tokens");
    service.connect().ok(&["AUTH", "s1", "one"]);
    // By HTTP they are counted together with these.
    let is_refused = |guess: u32| {
        let (status, text) = service.http(&format!("GET /shards HTTP/1.1\r\nAuthorization: Bearer guess{guess}"), b"");
        assert_eq!(status, 401, "{text}");
        text.starts_with("NOAUTH too many wrong tokens")
    };
    assert!((1000..1020).any(is_refused), "all are judged");
    service.stop();
}

#[test]
fn hundreds_of_clients_with_the_same_old_token_keep_nobody_out() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path(), &[]);
    for _ in 0..300 {
        service.connect().refused(&["AUTH", "s1", "old"], "NOAUTH wrong shard or token");
    }
    service.connect().ok(&["AUTH", "s2", "two"]);
    service.stop();
}
