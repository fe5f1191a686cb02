use std::io::Write;
use std::time::{Duration, Instant};

use logservice::program::lifecycle::StartError;
use logservice::service::DirectoryError;

use crate::client::{Reply, Service};
use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn with_tokens_a_client_reaches_only_what_its_token_opens() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 one\ns2 two\n* all\n").expect("written");
    let data = directory.path().join("data");
    let flags = ["--tokens", tokens.to_str().expect("text")];
    let service = Service::start_patient(&data, &flags, |patience| patience.failed_login_delay = Duration::ZERO);
    let mut client = service.connect();
    let append = ["LOG.APPEND", "s1", "1", "0", "x"];
    let node = ["LOG.NODE", "s1", "n1", "a", "follower", "1", "0", "0", "10000"];
    for command in
        [&["LOG.STATUS", "s1"][..], &["LOG.ACQUIRE", "s1", "n1", "a", "0", "0"], &append, &node, &["PSYNC", "?", "-1"]]
    {
        client.refused(command, "NOAUTH ");
    }
    for command in [&["LOG.SHARDS"][..], &["INFO"], &["COMMAND"], &["HELLO", "2"], &["REPLCONF", "ack", "1"], &["X"]] {
        client.refused(command, "NOAUTH ");
    }
    assert_eq!(client.call(&["PING"]), Reply::Text("PONG".into()));
    assert_eq!(std::fs::read_dir(data.join("shards")).expect("listed").count(), 0, "a stranger made a shard");
    client.refused(&["AUTH", "s1", "two"], "NOAUTH wrong shard or token");
    client.refused(&["AUTH", "one"], "NOAUTH ");
    client.ok(&["AUTH", "s1", "one"]);
    client.make("s1");
    assert_eq!(client.status("s1", "state"), "ok");
    client.refused(&["LOG.STATUS", "s2"], "NOAUTH ");
    assert!(matches!(client.call(&node), Reply::Array(_)));
    client.refused(&["LOG.NODE", "s2", "n1", "a", "follower", "1", "0", "0", "10000"], "NOAUTH ");
    let mut all = service.connect();
    all.ok(&["AUTH", "all"]);
    all.make("s2");
    assert_eq!(all.status("s2", "state"), "ok");
    let names = vec![Reply::Text("s1".into()), Reply::Text("s2".into())];
    assert_eq!(all.call(&["LOG.SHARDS"]), Reply::Array(names));
    all.refused(&["PSYNC", "?", "-1"], "NOMASTERLINK NOAUTH name the shard with primaryuser and primaryauth");
    assert!(matches!(client.call(&["HELLO", "2", "AUTH", "s2", "two"]), Reply::Array(_)));
    assert_eq!(client.status("s2", "state"), "ok");
    client.refused(&["HELLO", "4"], "NOPROTO ");
    let seed = format!("PUT /shards/s1/snapshot?epoch=1&offset=1&replid={A} HTTP/1.1");
    assert_eq!(service.http(&seed, b"REDIS").0, 401);
    assert_eq!(service.http(&format!("{seed}\r\nAuthorization: Bearer two"), b"REDIS").0, 401);
    assert_eq!(service.http(&format!("{seed}\r\nAuthorization: Bearer one"), b"REDIS").0, 409, "nobody leads");
    for token in ["", "\r\nAuthorization: Bearer three", "\r\nAuthorization: Basic one"] {
        let answer = service.http(&format!("GET /shards HTTP/1.1{token}"), b"");
        assert_eq!(answer, (401, "NOAUTH send the shard's token as Authorization: Bearer\n".to_owned()));
    }
    assert!(service.http("GET /shards HTTP/1.1\r\nAuthorization: Bearer one", b"").1.contains("\"shard\":\"s1\""));
    assert_eq!(service.http("GET /healthz HTTP/1.1", b"").0, 200);
    service.stop();
}

#[test]
fn a_directory_serves_one_process_at_a_time() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    match Service::start(directory.path(), &[]).map(|_| ()) {
        Err(error @ StartError::Directory(DirectoryError::InUse { .. })) => {
            assert!(error.to_string().contains("LOCK"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    service.stop();
    Service::start(directory.path(), &[]).expect("starts again").stop();
}

#[test]
fn a_start_that_cannot_work_says_why() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let other = tempfile::tempdir().expect("tempdir");
    let fails = |flags: &[&str], expected: &str| {
        let error = Service::start(other.path(), flags).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected) && !error.contains('\n'), "{flags:?}: {error}");
    };
    let used = service.listen_address().to_string();
    fails(&["--max-shards", "1", "--listen", &used], "choose another address");
    fails(&["--http", "0.0.0.0:0"], "--insecure");
    fails(&["--tokens", "/nowhere/tokens"], "cannot read the tokens file");
    let malformed = other.path().join("tokens");
    std::fs::write(&malformed, "s1 secret-token extra\n").expect("written");
    fails(&["--tokens", malformed.to_str().expect("text")], "line 1");
    service.stop();
}

#[test]
fn a_damaged_shard_is_refused_by_name_and_place_while_others_go_on() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    for shard in ["s1", "s2"] {
        let (mut leader, epoch, _) = service.lead(shard, "n1", A);
        assert_eq!(leader.append(shard, epoch, 0, b"one"), Reply::Integer(3));
        assert_eq!(leader.append(shard, epoch, 3, b"two"), Reply::Integer(6));
    }
    service.stop();
    let log = directory.path().join("shards/s1/log/000000-00000000000000000000.log");
    let mut bytes = std::fs::read(&log).expect("read");
    bytes[4096 + 64] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    let at_place = format!("LOGFAILED {} at byte 4096: ", log.display());
    client.refused(&["LOG.STATUS", "s1"], &at_place);
    client.refused(&["LOG.ACQUIRE", "s1", "n1", "a", "6", "0"], &at_place);
    client.refused(&["LOG.APPEND", "s1", "1", "6", "x"], &at_place);
    assert_eq!(client.status("s2", "end"), "6");
    assert!(service.http("GET /shards HTTP/1.1", b"").1.contains("\"state\":\"damaged\""));
    service.stop();
}

#[test]
fn a_shard_whose_older_log_is_damaged_stops_by_name_and_place_while_others_go_on() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    const RECORD_BYTES: u64 = 1 << 20;
    for shard in ["s1", "s2"] {
        let (mut leader, epoch, _) = service.lead(shard, "n1", A);
        for number in 0..3 {
            let offset = number * RECORD_BYTES;
            let payload = pattern(offset, RECORD_BYTES as usize);
            assert_eq!(leader.append(shard, epoch, offset, &payload), Reply::Integer(offset + RECORD_BYTES));
        }
    }
    service.stop();
    let log = directory.path().join("shards/s1/log/000000-00000000000000000000.log");
    let mut bytes = std::fs::read(&log).expect("read");
    bytes[4096 + 64] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.status("s1", "state") != "damaged" || client.status("s2", "unverified_bytes") != "0" {
        assert!(Instant::now() < deadline, "{}", client.status("s1", "state"));
    }
    let at_place = format!("{} at byte 4096: ", log.display());
    assert!(client.status("s1", "error").starts_with(&at_place));
    assert!(client.status("s1", "unverified_bytes") != "0");
    assert!(service.http("GET /shards HTTP/1.1", b"").1.contains("\"state\":\"damaged\""));
    let refused = format!("LOGFAILED {at_place}");
    client.refused(&["LOG.ACQUIRE", "s1", "n1", "a", "3145728", "0"], &refused);
    client.refused(&["LOG.APPEND", "s1", "1", "3145728", "x"], &refused);
    let mut replica = service.connect();
    assert!(replica.psync("s1", "?", -1).starts_with(&format!("-NOMASTERLINK {refused}")));
    let (mut leader, epoch, end) = service.lead("s2", "n1", A);
    assert_eq!(leader.append("s2", epoch, end, b"x"), Reply::Integer(end + 1));
    service.stop();
}

#[test]
fn what_clients_send_when_they_connect_is_answered() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    assert_eq!(client.call(&["PING"]), Reply::Text("PONG".into()));
    assert!(matches!(client.call(&["HELLO"]), Reply::Array(items) if items.len() == 12));
    assert_eq!(client.call(&["COMMAND", "DOCS"]), Reply::Array(vec![]));
    assert!(matches!(client.call(&["CLIENT", "ID"]), Reply::Integer(_)));
    client.ok(&["CLIENT", "SETINFO", "LIB-NAME", "x"]);
    assert_eq!(client.call(&["CLIENT", "GETNAME"]), Reply::Null);
    client.ok(&["CLIENT", "SETNAME", "app"]);
    assert_eq!(client.call(&["CLIENT", "GETNAME"]), Reply::Text("app".into()));
    client.refused(&["CLIENT", "SETNAME", "a b"], "ERR a name has at most 128 printable characters");
    client.ok(&["SELECT", "0"]);
    client.refused(&["SELECT", "1"], "ERR ");
    client.refused(&["SET", "k", "v"], "ERR unknown command");
    for capability in [&["REPLCONF", "listening-port", "6379"][..], &["REPLCONF", "capa", "eof", "capa", "psync2"]] {
        client.ok(capability);
    }
    client.refused(&["LOG.STATUS", "../etc"], "ERR not a valid shard name");
    assert!(matches!(client.call(&["INFO"]), Reply::Text(text) if text.contains("# Shards")));
    client.ok(&["QUIT"]);
    client.assert_closed();
    let mut broken = service.connect();
    broken.stream.write_all(b"*1\r\n$99999999\r\n").expect("sent");
    assert!(matches!(broken.reply(), Reply::Error(text) if text.starts_with("ERR Protocol error")));
    broken.assert_closed();
    service.stop();
}
