//! How shards come and go.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::{Client, Reply, Service};
use crate::common::pattern;
use crate::process::Process;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SOON: Duration = Duration::from_secs(30);

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All files and directories below.
fn everything(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.expect("entry").path();
        found.extend(everything(&path));
        found.push(path);
    }
    found
}

/// Waits until nothing is left of dropped shards, and of all but the shards that are named.
pub fn wait_until_only(directory: &Path, shards: &[&str]) {
    wait_until("something is left of a dropped shard", || {
        let names = |below: &str| {
            let entries = std::fs::read_dir(directory.join(below)).into_iter().flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
            names.sort();
            names
        };
        let is_of = |name: &String| shards.iter().any(|shard| name.starts_with(&format!("{shard}-")));
        names("shards") == shards && names("snapshots").iter().all(is_of)
    });
}

fn send(client: &mut Client, arguments: &[&str]) {
    client.send(&arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
}

/// Expects an error that begins like that, then the end of the connection.
fn assert_ended(client: &mut Client, start: &str) {
    match client.reply() {
        Reply::Error(text) => assert!(text.starts_with(start), "{text}"),
        other => panic!("{other:?}"),
    }
    client.assert_closed();
}

pub fn log_id(service: &Service, shard: &str) -> String {
    service.connect().status(shard, "log_id")
}

#[test]
fn questions_create_nothing_and_the_first_node_does() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command", "--max-shards", "1"]).expect("starts");
    let mut client = service.connect();
    let commands: [&[&str]; 16] = [
        &["LOG.STATUS", "typo"],
        &["LOG.SNAPSHOT", "typo"],
        &["LOG.RELEASE", "typo", "1", "FORCE"],
        &["LOG.RESIGN", "typo", "1"],
        &["LOG.RENEW", "typo", "1", "0"],
        &["LOG.BEGIN", "typo", "1", A, "0"],
        &["LOG.APPEND", "typo", "1", "0", "x"],
        &["LOG.ACCEPT", "typo", "id"],
        &["LOG.NODE", "typo", "n1", "host:1", "follower", "100", "0", "0", "10000"],
        &["LOG.AUDIT", "typo"],
        &["LOG.AUDIT-RESULT", "typo", "1", "1", "x"],
        &["LOG.DEBUG", "FREEZE-ACKS", "typo"],
        &["LOG.DROP", "typo", "id"],
        &["LOG.DROP", "typo", "-", "FORCE"],
        &["LOG.DROP", "typo", "id", "FORCE"],
        &["LOG.STATUS", "typo"],
    ];
    for command in commands {
        client.refused(command, "NOSHARD shard 'typo' does not exist");
    }
    send(&mut client, &["LOG.ACQUIRE", "typo", "n1", "host:1", "0", "0"]);
    assert_eq!(client.reply(), Reply::Error("NOSHARD shard 'typo' does not exist".to_owned()));
    let seed = format!("PUT /shards/typo/snapshot?epoch=1&offset=1&replid={A} HTTP/1.1");
    assert_eq!(service.http(&seed, b"REDIS"), (404, "NOSHARD shard 'typo' does not exist\n".to_owned()));
    // In a form after which a server keeps what it holds.
    let mut replica = service.connect();
    assert_eq!(replica.psync("typo", A, 10), "-NOMASTERLINK NOSHARD shard 'typo' does not exist");
    assert_eq!(client.call(&["LOG.SHARDS"]), Reply::Array(vec![]));
    send(&mut client, &["SENTINEL", "GET-PRIMARY-ADDR-BY-NAME", "typo"]);
    assert_eq!(client.line(), "*-1");
    client.refused(&["SENTINEL", "PRIMARY", "typo"], "ERR No such master with that name");
    assert_eq!(everything(&directory.path().join("shards")), Vec::<PathBuf>::new());
    client.refused(&["LOG.CHECK", "../typo", "n1", "host:1", "-"], "ERR not a valid shard name");
    for wrong in ["LOG.CHECK typo n1 host:1", "LOG.CHECK typo n1 host:1 - WHAT", "LOG.CHECK typo n1 host:1 x"] {
        assert!(matches!(client.call(&wrong.split(' ').collect::<Vec<_>>()), Reply::Error(_)), "{wrong}");
        assert_eq!(client.call(&["LOG.SHARDS"]), Reply::Array(vec![]), "{wrong}");
    }
    assert!(matches!(client.call(&["LOG.CHECK", "s1", "n1", "host:1", "-"]), Reply::Text(_)));
    assert_eq!(client.status("s1", "end"), "0");
    client.refused(&["LOG.CHECK", "s2", "n1", "host:1", "-"], "ERR there are 1 shards, as many as --max-shards allows");
    assert_eq!(client.call(&["LOG.SHARDS"]), Reply::Array(vec![Reply::Text("s1".to_owned())]));
    // A node that knows another log of that name is not told that all is well with an empty one.
    let known = format!("LOG.CHECK s1 n2 host:2 0123456789abcdef:1:{A}:10");
    client.refused(&known.split(' ').collect::<Vec<_>>(), "OTHERLOG ");
    service.stop();
}

#[test]
fn a_shard_is_dropped_for_good_and_its_place_is_free() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--max-shards", "1"]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let seed = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=100&replid={A} HTTP/1.1");
    assert_eq!(service.http(&seed, b"REDIS").0, 200);
    assert_eq!(leader.append("s1", epoch, 100, &pattern(100, 50)), Reply::Integer(150));
    let own = log_id(&service, "s1");
    assert!(everything(directory.path()).iter().any(|path| path.extension().is_some_and(|end| end == "rdb")));
    let mut operator = service.connect();
    operator.refused(
        &["LOG.DROP", "s1", "0123456789abcdef"],
        &format!("OTHERLOG {own} is the id of the log of shard 's1'"),
    );
    operator.refused(&["LOG.DROP", "s1", "0123456789abcdef", "FORCE"], "OTHERLOG ");
    operator.refused(&["LOG.DROP", "s1", "-", "FORCE"], "OTHERLOG ");
    operator.refused(&["LOG.DROP", "s1"], "ERR usage");
    operator.refused(&["LOG.DROP", "s1", &own, "NOW"], "ERR usage");
    operator
        .refused(&["LOG.DROP", "s1", &own], "ERR shard 's1' is in use: node n1 at host:1 leads; stop its nodes first");
    assert_eq!(leader.append("s1", epoch, 150, b"x"), Reply::Integer(151), "it goes on");
    leader.ok(&["LOG.RESIGN", "s1", &epoch.to_string()]);
    operator.ok(&["LOG.DROP", "s1", &own]);
    operator.refused(&["LOG.STATUS", "s1"], "NOSHARD shard 's1' does not exist");
    operator.refused(&["LOG.DROP", "s1", &own], "NOSHARD ");
    assert_eq!(operator.call(&["LOG.SHARDS"]), Reply::Array(vec![]));
    wait_until_only(directory.path(), &[]);
    let (mut other, epoch, end) = service.lead("s2", "n1", A);
    assert_eq!((epoch, end), (1, 0));
    assert_eq!(other.append("s2", epoch, 0, b"abc"), Reply::Integer(3));
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("starts again");
    let mut client = service.connect();
    client.refused(&["LOG.STATUS", "s1"], "NOSHARD ");
    assert_eq!(client.status("s2", "end"), "3");
    // The name may be used again, for another log.
    let (mut leader, epoch, end) = service.lead("s1", "n1", A);
    assert_eq!((epoch, end), (1, 0));
    assert_eq!(leader.append("s1", epoch, 0, b"new"), Reply::Integer(3));
    assert_ne!(leader.status("s1", "log_id"), own);
    service.stop();
}

#[test]
fn a_shard_that_somebody_uses_is_dropped_by_force_only() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut operator = service.connect();
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, b"abc"), Reply::Integer(3));
    leader.ok(&["LOG.RESIGN", "s1", &epoch.to_string()]);
    let own = log_id(&service, "s1");
    let mut replica = service.connect();
    assert!(replica.psync("s1", "?", -1).starts_with("+FULLRESYNC"));
    wait_until("the replica is attached", || operator.status("s1", "replicas") == "1");
    operator.refused(&["LOG.DROP", "s1", &own], "ERR shard 's1' is in use: 1 replicas follow its stream");
    drop(replica);
    wait_until("the replica is gone", || operator.status("s1", "replicas") == "0");
    let mut node = service.connect();
    let known = format!("0123456789abcdef:1:{A}:10");
    node.refused(&["LOG.CHECK", "s1", "n7", "host:7", &known], "OTHERLOG ");
    operator.refused(
        &["LOG.DROP", "s1", &own],
        "ERR shard 's1' is in use: a node knows another log of that name: n7 at host:7",
    );
    let poll = ["LOG.NODE", "s1", "n2", "host:2", "follower", "100", "0", "0", "0"];
    assert!(matches!(node.call(&poll), Reply::Array(_)));
    operator.refused(&["LOG.DROP", "s1", &own], "ERR shard 's1' is in use: node n2 at host:2 (follower) was heard of ");
    // It is not heard of any more.
    wait_until("it is still in use", || match operator.call(&["LOG.DROP", "s1", &own]) {
        Reply::Text(text) => text == "OK",
        _ => false,
    });
    operator.refused(&["LOG.STATUS", "s1"], "NOSHARD ");
    service.stop();
}

#[test]
fn users_of_a_dropped_shard_are_told_and_disconnected() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &["--enable-debug-command"]).expect("starts");
    let mut operator = service.connect();
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, 0, &pattern(0, 100)), Reply::Integer(100));
    let (mut idle, mut keeper) = (service.connect(), service.connect());
    assert_eq!(idle.append("s1", epoch, 0, &pattern(0, 100)), Reply::Integer(100));
    assert!(matches!(keeper.call(&["LOG.CHECK", "s1", "n1", "host:1", "-"]), Reply::Text(_)));
    keeper.ok(&["LOG.RENEW", "s1", &epoch.to_string(), "0"]);
    let mut replica = service.connect();
    assert!(replica.psync("s1", A, 101).starts_with("+CONTINUE"));
    let mut poller = service.connect();
    let poll = |version: &str, wait_ms: &str| {
        ["LOG.NODE", "s1", "n2", "host:2", "follower", "100", "100", version, wait_ms].map(str::to_owned)
    };
    let Reply::Array(answer) = poller.call(&poll("0", "0").each_ref().map(String::as_str)) else { panic!("no answer") };
    let Reply::Text(version) = &answer[1] else { panic!("no version") };
    send(&mut poller, &poll(version, "10000").each_ref().map(String::as_str));
    operator.ok(&["LOG.DEBUG", "FREEZE-ACKS", "s1"]);
    leader.send_append("s1", epoch, 100, &pattern(100, 100));
    leader.send_append("s1", epoch, 200, &pattern(200, 100));
    wait_until("accepted", || operator.status("s1", "durable_end") == "300");
    let mut second = service.connect();
    assert!(second.psync("s1", A, 101).starts_with("+CONTINUE"));
    wait_until("followed", || operator.status("s1", "replicas") == "2");
    let own = log_id(&service, "s1");
    operator.refused(&["LOG.DROP", "s1", &own], "ERR shard 's1' is in use: ");
    operator.ok(&["LOG.DROP", "s1", &own, "FORCE"]);
    let dropped = "NOSHARD shard 's1' was dropped";
    match leader.reply() {
        Reply::Error(text) => assert_eq!(text, dropped),
        other => panic!("{other:?}"),
    }
    assert_ended(&mut leader, dropped);
    assert_ended(&mut poller, dropped);
    idle.assert_closed();
    replica.assert_closed();
    second.assert_closed();
    wait_until_only(directory.path(), &[]);
    // What a connection has compared with the log that is gone says nothing of the one that takes its name.
    let (mut other, epoch, _) = service.lead("s1", "n2", A);
    assert_eq!(epoch, 1);
    send(&mut keeper, &["LOG.RENEW", "s1", "1", "0"]);
    assert_ended(&mut keeper, "NOSHARD shard 's1' is another one since this connection compared it");
    assert_eq!(other.append("s1", epoch, 0, b"new"), Reply::Integer(3));
    service.stop();
}

#[test]
fn a_release_that_waits_ends_with_its_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, mut releasing) = (service.connect(), service.connect());
    leader.acquire("s1", "n1", 0, 60_000).expect("acquired");
    send(&mut releasing, &["LOG.RELEASE", "s1", "1"]);
    wait_until("revoked", || matches!(leader.call(&["LOG.RENEW", "s1", "1", "60000"]), Reply::Error(_)));
    let own = log_id(&service, "s1");
    service.connect().ok(&["LOG.DROP", "s1", &own, "FORCE"]);
    assert_eq!(releasing.reply(), Reply::Error("NOSHARD shard 's1' was dropped".to_owned()));
    service.stop();
}

#[test]
fn a_seed_that_is_being_sent_ends_with_its_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let (mut leader, epoch, _) = service.lead("s1", "n1", A);
    let own = leader.status("s1", "log_id");
    let mut upload = std::net::TcpStream::connect(service.http_address()).expect("connected");
    let head = format!(
        "PUT /shards/s1/snapshot?epoch={epoch}&offset=100&replid={A} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nREDIS"
    );
    std::io::Write::write_all(&mut upload, head.as_bytes()).expect("sent");
    let drafts = directory.path().join(format!("snapshots/s1-{own}"));
    wait_until("a draft", || !everything(&drafts).is_empty());
    service.connect().ok(&["LOG.DROP", "s1", &own, "FORCE"]);
    upload.set_read_timeout(Some(SOON)).expect("set");
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut upload, &mut answer);
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("NOSHARD shard 's1' was dropped"), "{answer}");
    wait_until_only(directory.path(), &[]);
    service.stop();
}

/// Damages a shard with 6 bytes of log, of which the manifest is sound if so told.
fn damage(directory: &Path, shard: &str, manifest_too: bool) {
    let shard = directory.join("shards").join(shard);
    let log = shard.join("log/000000-00000000000000000000.log");
    let mut bytes = std::fs::read(&log).expect("read");
    bytes[4096 + 64] ^= 1;
    std::fs::write(&log, bytes).expect("written");
    if manifest_too {
        std::fs::write(shard.join("MANIFEST"), b"no manifest").expect("written");
    }
}

#[test]
fn a_damaged_shard_can_be_dropped() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    for shard in ["s1", "s2", "s3"] {
        let (mut leader, epoch, _) = service.lead(shard, "n1", A);
        for offset in [0, 3] {
            assert_eq!(leader.append(shard, epoch, offset, b"abc"), Reply::Integer(offset + 3));
        }
    }
    let own = log_id(&service, "s1");
    service.stop();
    damage(directory.path(), "s1", false);
    damage(directory.path(), "s2", true);
    let service = Service::start(directory.path(), &[]).expect("starts again");
    let mut operator = service.connect();
    for shard in ["s1", "s2"] {
        operator.refused(&["LOG.STATUS", shard], "LOGFAILED ");
        operator.refused(&["LOG.CHECK", shard, "n1", "host:1", "-"], "LOGFAILED ");
    }
    let info = |operator: &mut Client| match operator.call(&["INFO"]) {
        Reply::Text(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(info(&mut operator).contains("\r\ns1:state=damaged,error="), "{}", info(&mut operator));
    assert!(info(&mut operator).contains(&format!("log_id={own}")));
    operator.refused(&["LOG.DROP", "s1", "-", "FORCE"], &format!("OTHERLOG {own} "));
    operator.ok(&["LOG.DROP", "s1", &own]);
    operator.refused(
        &["LOG.DROP", "s2", &own],
        "ERR the log_id of shard 's2' cannot be read: drop it with LOG.DROP s2 - FORCE",
    );
    operator.refused(&["LOG.DROP", "s2", "-"], "ERR the log_id of shard 's2' cannot be read");
    operator.ok(&["LOG.DROP", "s2", "-", "FORCE"]);
    assert_eq!(operator.call(&["LOG.SHARDS"]), Reply::Array(vec![Reply::Text("s3".to_owned())]));
    wait_until_only(directory.path(), &["s3"]);
    assert_eq!(operator.status("s3", "end"), "6");
    let (_leader, epoch, end) = service.lead("s1", "n1", A);
    assert_eq!((epoch, end), (1, 0));
    service.stop();
}

#[test]
fn only_who_has_a_shards_token_drops_it() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 one\ns2 two\nnot-yet three\n").expect("written");
    let service = Service::start(&directory.path().join("data"), &["--tokens", tokens.to_str().expect("text")]);
    let service = service.expect("starts");
    let mut client = service.connect();
    client.ok(&["AUTH", "s1", "one"]);
    assert!(matches!(client.call(&["LOG.CHECK", "s1", "n1", "host:1", "-"]), Reply::Text(_)));
    let own = client.status("s1", "log_id");
    let mut other = service.connect();
    other.ok(&["AUTH", "s2", "two"]);
    other.refused(&["LOG.DROP", "s1", &own], "NOAUTH ");
    other.refused(&["LOG.STATUS", "s2"], "NOSHARD ");
    client.ok(&["LOG.DROP", "s1", &own]);
    service.stop();
}

#[test]
fn an_idle_shard_owns_no_thread() {
    const SHARDS: usize = 150;
    const BUSY: usize = 40;
    /// One that writes, one that makes segments ready, one that verifies.
    const LEFT: usize = 3;
    let directory = tempfile::tempdir().expect("tempdir");
    let program = Process::start(directory.path());
    let names: Vec<_> = (0..SHARDS).map(|number| format!("s{number}")).collect();
    let mut client = Client::connect(program.address);
    for name in &names {
        client.make(name);
    }
    for name in &names[..BUSY] {
        assert_eq!(client.acquire(name, "n1", 0, 0), Ok((1, 0)));
        client.ok(&["LOG.BEGIN", name, "1", A, "0"]);
    }
    for name in &names[..BUSY] {
        client.send_append(name, 1, 0, b"abc");
    }
    for name in &names[..BUSY] {
        assert_eq!(client.reply(), Reply::Integer(3), "{name}");
    }
    assert!(program.threads() <= 64 + 4 + 4, "{} threads", program.threads());
    wait_until("idle threads stay", || program.threads() <= LEFT);
    assert_eq!(client.append(&names[0], 1, 3, b"def"), Reply::Integer(6));
    drop(program);
    let program = Process::start(directory.path());
    assert!(program.threads() <= LEFT, "{} threads", program.threads());
    let mut client = Client::connect(program.address);
    assert_eq!((client.status(&names[0], "end"), client.status(&names[1], "end")), ("6".into(), "3".into()));
}
