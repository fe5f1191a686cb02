//! Many connections at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, Service};
use crate::process::Process;
use crate::witness::Witness;

const CROWD: usize = 5000;
/// Memory of the service for each connection without a command. It is 5 to 6 KB in a debug build.
const MAX_IDLE_BYTES: u64 = 8 << 10;
const SOON: Duration = Duration::from_secs(10);
/// A connection of a crowd is closed 10 s after it is over, and seen to be on a busy machine later.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

/// On several threads: on a busy machine each connection waits for its turn on a processor.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    const THREADS: usize = 20;
    let some = |count| move || (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect::<Vec<_>>();
    let shares = (0..THREADS).map(|thread| (count + thread) / THREADS);
    let threads: Vec<_> = shares.map(|share| std::thread::spawn(some(share))).collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("connected")).collect()
}

/// What came before the end, once that has come.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(CLOSED_WITHIN)).expect("timeout");
    let mut got = Vec::new();
    if let Err(error) = stream.read_to_end(&mut got) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    got
}

#[test]
fn thousands_of_idle_connections_cost_little_and_disturb_nobody() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Process::start(directory.path());
    let witness = Witness::start_at(service.address, None);
    let before = service.resident_bytes();
    let crowd = connect(service.address, CROWD);
    // Connections are accepted in order, so all the others are served when this one is.
    let mut last = Client::connect(service.address);
    assert_eq!(last.call(&["PING"]), Reply::Text("PONG".into()));
    let silent = service.resident_bytes().saturating_sub(before) / CROWD as u64;
    for mut stream in &crowd {
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").expect("sent");
    }
    for mut stream in &crowd {
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"+PONG\r\n");
    }
    assert!(silent < MAX_IDLE_BYTES, "{silent} bytes");
    witness.assert_served();
}

#[test]
fn thousands_of_strangers_are_told_to_log_in_and_closed() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "witness two\n").expect("written");
    // Room for all of them, who come from one address.
    let flags = ["--tokens", tokens.to_str().expect("text"), "--max-connections", "100", "--max-strangers", "10000"];
    let service = Service::start_patient(&directory.path().join("data"), &flags, |patience| {
        patience.login = Duration::from_secs(2);
    });
    let witness = Witness::start(&service, Some("two"));
    let mut crowd = connect(service.listen_address(), CROWD);
    for stranger in &mut crowd {
        assert_eq!(rest(stranger), b"-NOAUTH no login within 2 s\r\n");
    }
    witness.assert_served();
    service.stop();
}

#[test]
fn a_connection_beyond_the_bound_is_refused_with_a_reason_until_there_is_room() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--max-connections", "50"]).expect("starts");
    let witness = Witness::start(&service, None);
    let crowd = connect(service.listen_address(), 49);
    for mut one in &crowd {
        one.write_all(b"*1\r\n$4\r\nPING\r\n").expect("sent");
        one.read_exact(&mut [0; 7]).expect("it has its place");
    }
    for mut one in connect(service.listen_address(), 500) {
        assert_eq!(rest(&mut one), b"-ERR too many connections\r\n");
    }
    drop(crowd);
    let deadline = Instant::now() + SOON;
    loop {
        let mut client = service.connect();
        client.send(&[b"PING"]);
        if client.line() == "+PONG" {
            break;
        }
        assert!(Instant::now() < deadline, "there is no room although all have gone");
    }
    witness.assert_served();
    service.stop();
}

/// Of this many connections, 16 are kept for nodes.
const PLACES: usize = 50;
const CLIENTS_PLACES: usize = PLACES - 16;
const NO_ROOM: &str = "ERR too many connections: as many as --max-connections allows to clients are open";

/// A service for whose clients there is no more room, and these, which have logged in and asked where the leader is.
fn service_full_of_clients(directory: &std::path::Path, trial: Duration) -> (Service, Vec<Client>) {
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, "s1 one\ns1 watches observe\ns1 looks discover\ns1 operates operate\n").expect("written");
    let flags = ["--max-connections", &PLACES.to_string(), "--tokens", tokens.to_str().expect("text")];
    let service = Service::start_patient(&directory.join("data"), &flags, |patience| patience.login = trial);
    let clients = (0..CLIENTS_PLACES).map(|_| {
        let mut client = service.connect();
        client.ok(&["AUTH", "s1", "one"]);
        assert!(matches!(client.call(&["SENTINEL", "PRIMARIES"]), Reply::Array(_)));
        client
    });
    let clients = clients.collect();
    (service, clients)
}

#[test]
fn a_node_is_served_while_clients_hold_all_connections_that_they_may() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut clients) = service_full_of_clients(directory.path(), SOON);
    for command in [&["SENTINEL", "PRIMARIES"][..], &["ROLE"], &["SUBSCRIBE", "+switch-master"], &["psubscribe", "*"]] {
        let mut newcomer = service.connect();
        newcomer.ok(&["AUTH", "s1", "one"]);
        newcomer.refused(command, NO_ROOM);
        newcomer.assert_closed();
    }
    // As many nodes as places are kept for; each has asked as one when the next comes.
    let mut nodes = Vec::new();
    while nodes.len() < PLACES - CLIENTS_PLACES - 1 {
        let mut node = service.connect();
        node.ok(&["AUTH", "s1", "one"]);
        let (id, text) = (format!("n{}", nodes.len()), "-");
        assert!(matches!(node.call(&["LOG.CHECK", "s1", &id, "host:1", text]), Reply::Text(_)));
        nodes.push(node);
    }
    let (epoch, end) = nodes[0].acquire("s1", "n0", 0, 60_000).expect("it leads");
    nodes[0].ok(&["LOG.BEGIN", "s1", &epoch.to_string(), &"f".repeat(40), &end.to_string()]);
    assert_eq!(nodes[0].append("s1", epoch, end, b"x"), Reply::Integer(end + 1));
    let mut replica = service.connect();
    replica.ok(&["AUTH", "s1", "one"]);
    replica.send(&[b"PSYNC", "f".repeat(40).as_bytes(), b"1"]);
    assert!(replica.line().starts_with('+'), "it is served");
    let mut last = service.connect();
    last.refused(&["AUTH", "s1", "one"], "ERR too many connections");
    last.assert_closed();
    // The clients that were there before have lost nothing, and who goes makes room for another one.
    assert!(matches!(clients[0].call(&["SENTINEL", "PRIMARIES"]), Reply::Array(_)));
    clients.pop();
    let deadline = Instant::now() + SOON;
    loop {
        let mut client = service.connect();
        client.send(&[b"AUTH", b"s1", b"one"]);
        if client.line() == "+OK" {
            assert!(matches!(client.call(&["SENTINEL", "PRIMARIES"]), Reply::Array(_)));
            break;
        }
        assert!(Instant::now() < deadline, "there is no room although a client has gone");
    }
    service.stop();
}

#[test]
fn monitoring_and_clients_get_no_place_that_is_kept_for_nodes() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, clients) = service_full_of_clients(directory.path(), Duration::from_secs(2));
    // More than there are such places.
    for _ in clients.len()..PLACES {
        for token in ["watches", "looks"] {
            let mut newcomer = service.connect();
            newcomer.refused(&["AUTH", "s1", token], NO_ROOM);
            newcomer.assert_closed();
        }
    }
    let mut operator = service.connect();
    operator.ok(&["AUTH", "s1", "operates"]);
    assert_eq!(operator.call(&["LOG.SHARDS"]), Reply::Array(Vec::new()));
    // One that logs in again as less, so that it is not refused at once, shows nothing by what all may ask who watch.
    let mut turncoat = service.connect();
    turncoat.ok(&["AUTH", "s1", "operates"]);
    turncoat.ok(&["AUTH", "s1", "watches"]);
    assert_eq!(turncoat.call(&["LOG.SHARDS"]), Reply::Array(Vec::new()));
    let Reply::Error(text) = turncoat.reply() else { panic!("it keeps its place") };
    assert!(text.starts_with(NO_ROOM), "{text}");
    turncoat.assert_closed();
    assert_eq!(operator.call(&["PING"]), Reply::Text("PONG".into()));
    service.stop();
}

#[test]
fn a_silent_client_loses_a_place_that_is_kept_for_nodes() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut clients) = service_full_of_clients(directory.path(), Duration::from_secs(2));
    let mut idle = service.connect();
    idle.ok(&["AUTH", "s1", "one"]);
    let mut node = service.connect();
    node.ok(&["AUTH", "s1", "one"]);
    assert!(matches!(node.call(&["LOG.CHECK", "s1", "n0", "host:1", "-"]), Reply::Text(_)));
    assert_eq!(idle.call(&["PING"]), Reply::Text("PONG".into()));
    let Reply::Error(text) = idle.reply() else { panic!("it keeps its place") };
    assert!(text.starts_with(NO_ROOM), "{text}");
    idle.assert_closed();
    assert_eq!(node.call(&["PING"]), Reply::Text("PONG".into()));
    assert_eq!(clients[0].call(&["PING"]), Reply::Text("PONG".into()));
    service.stop();
}
