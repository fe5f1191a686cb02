//! Clients find the leader by the Sentinel protocol, in the formats of Valkey 9.1.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use logservice::connections::limits::Patience;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::client::{Client, Reply, Service};
use crate::nodes::{wait_for_expiry, SOON};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

fn array(items: &[&str]) -> Reply {
    Reply::Array(items.iter().map(|item| text(item)).collect())
}

/// `node` takes the lease of `shard`, whose log is empty, and begins to write at once.
fn lead_at(client: &mut Client, shard: &str, node: &str, address: &str, lease_ms: &str) -> String {
    let epoch = acquire_at(client, shard, node, address, lease_ms);
    client.ok(&["LOG.BEGIN", shard, &epoch, A, "0"]);
    epoch
}

fn acquire_at(client: &mut Client, shard: &str, node: &str, address: &str, lease_ms: &str) -> String {
    match client.call(&["LOG.ACQUIRE", shard, node, address, "0", lease_ms]) {
        Reply::Array(items) => match items[0] {
            Reply::Integer(epoch) => epoch.to_string(),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn tell(client: &mut Client, node: &str, address: &str, role: &str) {
    // It has not seen this version, so it is answered at once, and is not silent as long as it would have waited.
    let answer = client.call(&["LOG.NODE", "s1", node, address, role, "100", "0", "0", "10000"]);
    assert!(matches!(answer, Reply::Array(_)));
}

/// Names and values in turn, with `-` for milliseconds since something, which differ.
fn fields(reply: Reply) -> Vec<(String, String)> {
    let Reply::Array(items) = reply else { panic!("{reply:?}") };
    let item = |item: &Reply| match item {
        Reply::Text(text) => text.clone(),
        other => panic!("{other:?}"),
    };
    let pairs = items.chunks(2).map(|pair| (item(&pair[0]), item(&pair[1])));
    let times = [
        "last-ok-ping-reply",
        "last-ping-reply",
        "info-refresh",
        "role-reported-time",
        "s-down-time",
        "o-down-time",
        "master-link-down-time",
    ];
    let hide = |(name, value): (String, String)| match times.contains(&name.as_str()) {
        true if value.parse::<u64>().is_ok() => (name, "-".to_owned()),
        _ => (name, value),
    };
    pairs.map(hide).collect()
}

fn line(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn field(reply: Reply, name: &str) -> String {
    let fields = fields(reply);
    fields.into_iter().find(|(found, _)| found == name).expect("the field").1
}

#[test]
fn no_node_leads_at_an_address_that_would_show_clients_more_than_an_address() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.make("s1");
    for bad in ["a:1,slaves=9,name=s2", "a:1\r\nmaster1:name=s2", "a=b:1", "a b:1", "\u{1b}[2Ja:1"] {
        client.refused(&["LOG.CHECK", "s1", "n1", bad, "-"], "ERR not a valid address");
        client.refused(&["LOG.ACQUIRE", "s1", "n1", bad, "0", "60000"], "ERR not a valid address");
    }
    lead_at(&mut client, "s1", "n1", "10.0.0.1:6379", "60000");
    let Reply::Text(info) = client.call(&["INFO", "sentinel"]) else { panic!("no text") };
    let shards: Vec<_> = info.lines().filter(|line| line.starts_with("master")).collect();
    assert_eq!(shards, ["master0:name=s1,status=ok,address=10.0.0.1:6379,slaves=0,sentinels=1"]);
    service.stop();
}

#[test]
fn a_shard_is_shown_as_sentinel_shows_a_primary_and_its_replicas() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    lead_at(&mut client, "s1", "n1", "10.0.0.1:6379", "60000");
    tell(&mut client, "n1", "10.0.0.1:6379", "leader");
    tell(&mut client, "n2", "node-2.example:6380", "follower");
    tell(&mut client, "n3", "[::3]:6381", "attaching");
    tell(&mut client, "n4", "-", "follower");
    for command in ["GET-MASTER-ADDR-BY-NAME", "get-primary-addr-by-name"] {
        assert_eq!(client.call(&["SENTINEL", command, "s1"]), array(&["10.0.0.1", "6379"]));
    }
    let primary = "name=s1 ip=10.0.0.1 port=6379 runid=n1 flags=master link-pending-commands=0 link-refcount=1 \
        last-ping-sent=0 last-ok-ping-reply=- last-ping-reply=- down-after-milliseconds=3000 info-refresh=- \
        role-reported=master role-reported-time=- config-epoch=1 num-slaves=2 num-other-sentinels=0 quorum=1 \
        failover-timeout=3000 parallel-syncs=1";
    for command in ["MASTER", "primary"] {
        assert_eq!(line(&fields(client.call(&["SENTINEL", command, "s1"]))), primary);
    }
    for command in ["masters", "PRIMARIES"] {
        let Reply::Array(mut shards) = client.call(&["sentinel", command]) else { panic!("no array") };
        assert_eq!((shards.len(), line(&fields(shards.remove(0)))), (1, primary.to_owned()));
    }
    let link = "link-pending-commands=0 link-refcount=1 last-ping-sent=0 last-ok-ping-reply=- last-ping-reply=-";
    let report = "down-after-milliseconds=3000 info-refresh=- role-reported=slave role-reported-time=-";
    let to_primary = "master-host=10.0.0.1 master-port=6379 slave-priority=100 slave-repl-offset=0 replica-announced=1";
    for command in ["SLAVES", "replicas"] {
        let Reply::Array(replicas) = client.call(&["SENTINEL", command, "s1"]) else { panic!("no array") };
        let lines: Vec<_> = replicas.into_iter().map(|replica| line(&fields(replica))).collect();
        let follower = format!(
            "name=node-2.example:6380 ip=node-2.example port=6380 runid=n2 flags=slave {link} {report} \
             master-link-down-time=- master-link-status=ok {to_primary}"
        );
        let attaching = format!(
            "name=[::3]:6381 ip=::3 port=6381 runid=n3 flags=s_down,slave {link} s-down-time=- {report} \
             master-link-down-time=- master-link-status=err {to_primary}"
        );
        assert_eq!(lines, [follower, attaching]);
    }
    assert_eq!(client.call(&["SENTINEL", "SENTINELS", "s1"]), Reply::Array(vec![]));
    let quorum = "OK 1 usable Sentinels. Quorum and failover authorization can be reached";
    assert_eq!(client.call(&["SENTINEL", "CKQUORUM", "s1"]), text(quorum));
    assert_eq!(client.call(&["ROLE"]), Reply::Array(vec![text("sentinel"), array(&["s1"])]));
    let Reply::Text(info) = client.call(&["INFO"]) else { panic!("no text") };
    let lines = "\r\nmaster0:name=s1,status=ok,address=10.0.0.1:6379,slaves=2,sentinels=1\r\n";
    assert!(info.contains(lines) && info.contains("\r\nsentinel_masters:1\r\n"), "{info}");
    assert!(info.contains("redis_mode:sentinel"), "{info}");
    // One whose log has never been written has no primary.
    assert_eq!(acquire_at(&mut client, "s2", "n1", "10.0.0.1:6379", "0"), "1");
    assert_eq!(client.call(&["ROLE"]), Reply::Array(vec![text("sentinel"), array(&["s1"])]));
    service.stop();
}

#[test]
fn a_command_on_a_missing_shard_is_refused_and_creates_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"s1"]);
    assert_eq!(client.line(), "*-1");
    for command in ["MASTER", "PRIMARY", "SLAVES", "REPLICAS", "SENTINELS", "CKQUORUM"] {
        client.refused(&["SENTINEL", command, "s1"], "ERR No such master with that name");
        let arity = format!("ERR wrong number of arguments for 'sentinel|{}' command", command.to_ascii_lowercase());
        client.refused(&["SENTINEL", command], &arity);
        client.refused(&["SENTINEL", command, "s1", "s1"], &arity);
    }
    client.refused(&["SENTINEL", "MASTERS", "s1"], "ERR wrong number of arguments for 'sentinel|masters' command");
    client.refused(&["SENTINEL"], "ERR wrong number of arguments for 'sentinel' command");
    client.refused(&["SENTINEL", "FAILOVER", "s1"], "ERR unknown subcommand 'failover' of SENTINEL");
    assert_eq!(client.call(&["SENTINEL", "MASTERS"]), Reply::Array(vec![]));
    assert_eq!(client.call(&["LOG.SHARDS"]), Reply::Array(vec![]));
    service.stop();
}

#[test]
fn while_nobody_leads_the_last_address_is_told_and_marked_as_down_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    let is_at = |client: &mut Client, port: &str, flags: &str| {
        assert_eq!(client.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "s1"]), array(&["10.0.0.1", port]));
        assert_eq!(field(client.call(&["SENTINEL", "MASTER", "s1"]), "flags"), flags);
    };
    let (up, down) = ("master", "s_down,o_down,master");
    let epoch = lead_at(&mut client, "s1", "n1", "10.0.0.1:1", "500");
    is_at(&mut client, "1", up);
    wait_for_expiry(&mut client, "s1");
    is_at(&mut client, "1", down);
    client.ok(&["LOG.RENEW", "s1", &epoch, "60000"]);
    is_at(&mut client, "1", up);
    client.ok(&["LOG.RESIGN", "s1", &epoch]);
    is_at(&mut client, "1", down);
    // Granted, but does not serve yet.
    let epoch = acquire_at(&mut client, "s1", "n2", "10.0.0.1:2", "60000");
    is_at(&mut client, "1", down);
    client.ok(&["LOG.BEGIN", "s1", &epoch, A, "0"]);
    is_at(&mut client, "2", up);
    client.ok(&["LOG.RESIGN", "s1", &epoch]);
    service.stop();
    let service = Service::start(directory.path(), &[]).expect("starts");
    is_at(&mut service.connect(), "2", down);
    service.stop();
}

#[test]
fn subscribers_are_told_once_when_the_primary_has_another_address_and_begins_to_write() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut control = service.connect();
    let [mut channel, mut pattern] = [service.connect(), service.connect()];
    channel.send(&[b"SUBSCRIBE", b"+switch-master", b"+sdown"]);
    for (name, count) in [("+switch-master", 1), ("+sdown", 2)] {
        assert_eq!(channel.reply(), Reply::Array(vec![text("subscribe"), text(name), Reply::Integer(count)]));
    }
    let subscribed = Reply::Array(vec![text("psubscribe"), text("*"), Reply::Integer(1)]);
    assert_eq!(pattern.call(&["PSUBSCRIBE", "*"]), subscribed);
    let mut three = service.connect();
    three.send(&[b"HELLO", b"3"]);
    assert_eq!(three.line(), "%6");
    // Six names, six values.
    (0..4).for_each(|_| drop(three.reply()));
    assert_eq!((three.reply(), three.reply()), (text("proto"), Reply::Integer(3)));
    (0..6).for_each(|_| drop(three.reply()));
    three.send(&[b"PSUBSCRIBE", b"+switch-*"]);
    assert_eq!(String::from_utf8_lossy(&three.bytes(40)), ">3\r\n$10\r\npsubscribe\r\n$9\r\n+switch-*\r\n:1\r\n");
    // The first one; the same address in another epoch; and one that is only granted the lease.
    lead_at(&mut control, "s1", "n1", "10.0.0.1:1", "0");
    lead_at(&mut control, "s1", "n1", "10.0.0.1:1", "0");
    let epoch = acquire_at(&mut control, "s1", "n1", "[::1]:2", "0");
    control.ok(&["LOG.BEGIN", "s1", &epoch, A, "0"]);
    control.ok(&["LOG.BEGIN", "s1", &epoch, A, "0"]);
    control.ok(&["LOG.RESIGN", "s1", &epoch]);
    lead_at(&mut control, "s1", "n2", "b:3", "0");
    for payload in ["s1 10.0.0.1 1 ::1 2", "s1 ::1 2 b 3"] {
        assert_eq!(channel.reply(), array(&["message", "+switch-master", payload]));
        assert_eq!(pattern.reply(), array(&["pmessage", "*", "+switch-master", payload]));
        let pushed = format!(
            ">4\r\n$8\r\npmessage\r\n$9\r\n+switch-*\r\n$14\r\n+switch-master\r\n${}\r\n{payload}\r\n",
            payload.len()
        );
        assert_eq!(String::from_utf8_lossy(&three.bytes(pushed.len())), pushed);
    }
    // In RESP3 replies are told from messages, so anything may be asked meanwhile.
    three.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"s2"]);
    assert_eq!(three.line(), "_");
    assert_eq!(three.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "s1"]), array(&["b", "3"]));
    three.send(&[b"SENTINEL", b"MASTER", b"s1"]);
    assert!(three.line().starts_with('%'));
    service.stop();
}

#[test]
fn in_resp2_a_subscriber_may_only_subscribe_ping_and_quit() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    let nothing = |kind| Reply::Array(vec![text(kind), Reply::Null, Reply::Integer(0)]);
    assert_eq!(client.call(&["UNSUBSCRIBE"]), nothing("unsubscribe"));
    assert_eq!(client.call(&["PUNSUBSCRIBE"]), nothing("punsubscribe"));
    client.call(&["SUBSCRIBE", "a"]);
    client.call(&["PSUBSCRIBE", "b*"]);
    assert_eq!(client.call(&["PING"]), array(&["pong", ""]));
    assert_eq!(client.call(&["PING", "x"]), array(&["pong", "x"]));
    for command in [&["SENTINEL", "MASTERS"][..], &["LOG.STATUS", "s1"], &["PSYNC", "?", "-1"], &["HELLO", "3"]] {
        client.refused(command, "ERR only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT are allowed");
    }
    let left = |kind, name, count| Reply::Array(vec![text(kind), text(name), Reply::Integer(count)]);
    assert_eq!(client.call(&["UNSUBSCRIBE", "a"]), left("unsubscribe", "a", 1));
    assert_eq!(client.call(&["PUNSUBSCRIBE"]), left("punsubscribe", "b*", 0));
    assert_eq!(client.call(&["SENTINEL", "MASTERS"]), Reply::Array(vec![]));
    client.call(&["SUBSCRIBE", "a"]);
    client.ok(&["QUIT"]);
    client.assert_closed();
    service.stop();
}

#[test]
fn subscriptions_are_bounded() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = Service::start(directory.path(), &[]).expect("starts");
    let mut client = service.connect();
    client.refused(&["SUBSCRIBE"], "ERR wrong number of arguments for 'subscribe' command");
    client.refused(&["PSUBSCRIBE", &"x".repeat(129)], "ERR a channel has at most 128 bytes");
    let names: Vec<String> = (0..33).map(|number| format!("c{number}")).collect();
    let all = |kind, count: usize| -> Vec<&str> {
        std::iter::once(kind).chain(names.iter().map(String::as_str)).take(count + 1).collect()
    };
    client.refused(&all("SUBSCRIBE", 33), "ERR one connection subscribes to at most 32");
    client.call(&all("SUBSCRIBE", 20));
    (1..20).for_each(|_| drop(client.reply()));
    client.refused(&all("PSUBSCRIBE", 13), "ERR one connection subscribes to at most 32");
    client.call(&all("PSUBSCRIBE", 12));
    (1..12).for_each(|_| drop(client.reply()));
    // Not another one.
    let again = Reply::Array(vec![text("subscribe"), text("c0"), Reply::Integer(32)]);
    assert_eq!(client.call(&["SUBSCRIBE", "c0"]), again);
    client.refused(&["SUBSCRIBE", "c20"], "ERR one connection subscribes to at most 32");
    service.stop();
}

#[test]
fn a_subscriber_that_does_not_read_is_disconnected_and_others_miss_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let patience = |patience: &mut Patience| patience.stalled_output = Duration::from_millis(300);
    let service = Service::start_patient(directory.path(), &[], patience);
    let (mut control, mut reader) = (service.connect(), service.connect());
    reader.call(&["SUBSCRIBE", "+switch-master"]);
    let mut slow = service.connect();
    set_socket_recv_buffer_size(&slow.stream, 4096).expect("set");
    // As much for each message as there can be.
    let patterns: Vec<String> = (0..32).map(|stars| format!("+switch-master{}", "*".repeat(113 - stars))).collect();
    slow.send(
        &std::iter::once("PSUBSCRIBE")
            .chain(patterns.iter().map(String::as_str))
            .map(str::as_bytes)
            .collect::<Vec<_>>(),
    );
    let host = "h".repeat(240);
    let begun = Instant::now();
    slow.stream.set_nonblocking(true).expect("set");
    let mut last = format!("{host}-0");
    lead_at(&mut control, "s1", "n1", &format!("{last}:1"), "0");
    for number in 1.. {
        let next = format!("{host}-{number}");
        lead_at(&mut control, "s1", "n1", &format!("{next}:1"), "0");
        let message = format!("s1 {last} 1 {next} 1");
        assert_eq!(reader.reply(), array(&["message", "+switch-master", &message]));
        last = next;
        // Whether it is still connected is seen by writing, as reading would make room.
        let gone =
            std::io::Write::write(&mut slow.stream, b"\n").is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
        if gone {
            break;
        }
        assert!(begun.elapsed() < SOON * 4, "still connected after {number} messages");
    }
    let mut rest = Vec::new();
    let _ = slow.stream.read_to_end(&mut rest);
    assert!(rest.len() < 16 << 20);
    service.stop();
}

#[test]
fn with_tokens_a_client_sees_its_shard_alone_and_a_stranger_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 one\ns2 two\n* all\n").expect("written");
    let flags = ["--tokens", tokens.to_str().expect("text")];
    let data = directory.path().join("data");
    let service = Service::start_patient(&data, &flags, |patience| patience.failed_login_delay = Duration::ZERO);
    let mut stranger = service.connect();
    for command in [
        &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "s1"][..],
        &["SENTINEL", "MASTERS"],
        &["SENTINEL", "X"],
        &["SUBSCRIBE", "+switch-master"],
        &["PSUBSCRIBE", "*"],
        &["UNSUBSCRIBE"],
        &["ROLE"],
        &["HELLO", "3"],
        &["CLIENT", "SETNAME", "x"],
    ] {
        stranger.refused(command, "NOAUTH ");
    }
    let mut all = service.connect();
    all.ok(&["AUTH", "default", "all"]);
    for shard in ["s1", "s2"] {
        lead_at(&mut all, shard, "n1", "a:1", "0");
    }
    let mut one = service.connect();
    one.refused(&["AUTH", "default", "one"], "NOAUTH ");
    one.ok(&["AUTH", "s1", "one"]);
    let expect = |client: &mut Client, shards: &[&str]| {
        assert_eq!(client.call(&["ROLE"]), Reply::Array(vec![text("sentinel"), array(shards)]));
        assert!(matches!(client.call(&["SENTINEL", "MASTERS"]), Reply::Array(found) if found.len() == shards.len()));
    };
    expect(&mut one, &["s1"]);
    expect(&mut all, &["s1", "s2"]);
    assert_eq!(one.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "s1"]), array(&["a", "1"]));
    one.send(&[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"s2"]);
    assert_eq!(one.line(), "*-1");
    one.refused(&["SENTINEL", "MASTER", "s2"], "ERR No such master with that name");
    let Reply::Text(info) = one.call(&["INFO"]) else { panic!("no text") };
    assert!(info.contains("name=s1,") && !info.contains("s2"), "{info}");
    one.call(&["SUBSCRIBE", "+switch-master"]);
    for shard in ["s2", "s1"] {
        lead_at(&mut all, shard, "n1", "a:2", "0");
    }
    assert_eq!(one.reply(), array(&["message", "+switch-master", "s1 a 1 a 2"]));
    service.stop();
}
