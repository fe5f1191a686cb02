//! Tokens that are taken away while connections use them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{command, Client, Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const WITHDRAWN: &str = "-NOAUTH the token of this connection was removed, or has another role now: log in anew";

struct Files {
    tokens: PathBuf,
    service: Service,
}

impl Files {
    fn start(directory: &Path, lines: &str) -> Self {
        let tokens = directory.join("tokens");
        std::fs::write(&tokens, lines).expect("written");
        let flags = ["--tokens", tokens.to_str().expect("text")];
        let service = Service::start(&directory.join("data"), &flags).expect("starts");
        Files { tokens, service }
    }

    fn reload(&self, lines: &str) {
        std::fs::write(&self.tokens, lines).expect("written");
        self.service.server().reload();
    }

    fn log_in(&self, token: &str) -> Client {
        let mut client = self.service.connect();
        client.ok(&["AUTH", "s1", token]);
        client
    }
}

fn assert_withdrawn(client: &mut Client) {
    assert_eq!(client.line(), WITHDRAWN);
    client.assert_closed();
}

#[test]
fn a_reload_closes_connections_whose_token_is_gone_or_has_another_role() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = Files::start(directory.path(), "s1 stays\ns1 goes\ns1 changes follow\n* of-all observe\n");
    let mut stays = files.log_in("stays");
    stays.make("s1");
    let mut stranger = files.service.connect();
    let (mut goes, mut changes) = (files.log_in("goes"), files.log_in("changes"));
    let mut of_all = files.service.connect();
    of_all.ok(&["AUTH", "of-all"]);
    let mut subscriber = files.log_in("goes");
    subscriber.call(&["SUBSCRIBE", "+switch-master"]);
    let version = stays.status("s1", "version");
    let mut polls = files.log_in("goes");
    polls.send(&[b"LOG.NODE", b"s1", b"n1", b"host:1", b"follower", b"1", b"0", version.as_bytes(), b"10000"]);
    files.reload("s1 other\ns1 stays node\ns1 changes discover\n* of-all follow\n");
    for client in [&mut goes, &mut changes, &mut of_all, &mut subscriber, &mut polls] {
        assert_withdrawn(client);
    }
    assert_eq!(stays.status("s1", "state"), "ok");
    stranger.ok(&["AUTH", "s1", "other"]);
    files.service.connect().refused(&["AUTH", "s1", "goes"], "NOAUTH ");
    // A file that cannot be used takes nobody's token.
    files.reload("s1 stays who-knows-what\n");
    assert_eq!(stays.status("s1", "state"), "ok");
    files.service.stop();
}

#[test]
fn a_reload_of_the_same_tokens_has_nobody_judged_again() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = Files::start(directory.path(), "s1 one\n");
    let tokens = files.service.server().service().watch_tokens().expect("there are tokens");
    files.reload("# the same\n\ns1 one node\n");
    assert!(!tokens.has_changed().expect("it is served"));
    files.reload("s1 one follow\n");
    assert!(tokens.has_changed().expect("it is served"));
    files.service.stop();
}

#[test]
fn a_token_that_was_taken_away_makes_no_leader_and_appends_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = Files::start(directory.path(), "s1 old\ns1 new\n");
    let (mut leader, epoch, _) = files.service.lead_by(files.log_in("old"), "s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, b"one"), Reply::Integer(3));
    // It has compared the log, so nothing but the token is between it and the lease.
    let mut heir = files.log_in("old");
    heir.make("s1");
    let mut writes_blindly = files.log_in("old");
    writes_blindly.make("s1");
    files.reload("s1 new\n");
    let epoch_text = epoch.to_string();
    // The connection may be closed already, which is as good as an answer.
    let _ = writes_blindly.stream.write_all(&command(&[b"LOG.APPEND", b"s1", epoch_text.as_bytes(), b"3", b"two"]));
    let _ = writes_blindly.stream.write_all(&command(&[b"LOG.RELEASE", b"s1", epoch_text.as_bytes(), b"FORCE"]));
    let _ = heir.stream.write_all(&command(&[b"LOG.ACQUIRE", b"s1", b"n1", b"host:1", b"3", b"0"]));
    for client in [&mut leader, &mut heir, &mut writes_blindly] {
        let mut told = Vec::new();
        // What it had sent was not read, so its system may be told to forget the connection.
        let _ = client.stream.read_to_end(&mut told);
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.is_empty() || told == format!("{WITHDRAWN}\r\n"), "{told}");
    }
    let mut client = files.log_in("new");
    assert_eq!(client.status("s1", "end"), "3");
    assert_eq!(client.status("s1", "epoch"), epoch.to_string());
    assert_eq!(client.status("s1", "leader"), "n1", "its lease is left to it, as it may still answer its clients");
    let (next, end) = client.acquire("s1", "n1", 3, 0).expect("the same node, with a token that holds");
    assert_eq!((next, end), (epoch + 1, 3));
    files.service.stop();
}

#[test]
fn a_replica_is_sent_nothing_more() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = Files::start(directory.path(), "s1 node\ns1 reader follow\n");
    let (mut leader, epoch, _) = files.service.lead_by(files.log_in("node"), "s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, b"one"), Reply::Integer(3));
    let mut replica = files.log_in("reader");
    replica.send(&[b"REPLCONF", b"version", b"9.1.0"]);
    assert_eq!(replica.line(), "+OK");
    replica.send(&[b"PSYNC", A.as_bytes(), b"1"]);
    assert_eq!(replica.line(), format!("+CONTINUE {A}"));
    assert_eq!(replica.bytes(3), b"one");
    files.reload("s1 node\ns1 reader discover\n");
    // Nothing but the stream may stand in it, so it is not told why.
    replica.assert_closed();
    assert_eq!(leader.append("s1", epoch, 3, b"two"), Reply::Integer(6));
    files.service.stop();
}

#[test]
fn an_upload_is_broken_off() {
    let directory = tempfile::tempdir().expect("tempdir");
    let files = Files::start(directory.path(), "s1 uploads\ns1 other\n");
    let mut client = files.log_in("other");
    client.make("s1");
    let (epoch, _) = client.acquire("s1", "n1", 0, 0).expect("acquired");
    let mut upload = TcpStream::connect(files.service.http_address()).expect("connected");
    upload.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let head = format!(
        "PUT /shards/s1/snapshot?epoch={epoch}&offset=1&replid={A} HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer uploads\r\nContent-Length: 100\r\n\r\nREDIS"
    );
    upload.write_all(head.as_bytes()).expect("sent");
    let drafts = || {
        let shards = std::fs::read_dir(directory.path().join("data/snapshots")).into_iter().flatten().flatten();
        shards.flat_map(|shard| std::fs::read_dir(shard.path()).into_iter().flatten()).count()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while drafts() == 0 {
        assert!(std::time::Instant::now() < deadline, "the upload does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    files.reload("s1 other\n");
    let mut answer = [0; 12];
    upload.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 401");
    drop(upload);
    assert_eq!(client.status("s1", "state"), "ok");
    files.service.stop();
}
