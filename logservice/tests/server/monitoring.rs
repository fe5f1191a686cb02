//! What machines that watch the service are shown: metrics, JSON, and a stream of events.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Client, Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const FIGURES: &str = "mode=sync,age_ms=5,lag_ms=250,refusals=3,acks=2,ack_p50_us=600,from_a_later_version=1";

fn get(service: &Service, path: &str, token: &str) -> (u16, String) {
    service.http(&format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}"), b"")
}

fn scrape(service: &Service, token: &str) -> String {
    let (status, text) = get(service, "/metrics", token);
    assert_eq!(status, 200, "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

fn assert_shows(text: &str, line: &str) {
    assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
}

/// A node reports itself once.
fn report(client: &mut Client, shard: &str, node: &str, figures: &str) -> Reply {
    client.call(&["LOG.NODE", shard, node, "host:1", "leader", "100", "3", "0", "0", "FIGURES", figures, "ZONE", "z1"])
}

/// A service with tokens, in which a node leads `s1`; there is a shard `s2` as well.
fn start(directory: &Path, flags: &[&str]) -> (Service, Client) {
    let tokens = directory.join("tokens");
    std::fs::write(&tokens, "* all\n* watches-all observe\ns1 watches-one observe\ns1 finds discover\n")
        .expect("written");
    let flags = [&["--tokens", tokens.to_str().expect("text")][..], flags].concat();
    let service = Service::start(&directory.join("data"), &flags).expect("starts");
    let mut client = service.connect();
    client.ok(&["AUTH", "all"]);
    client.make("s2");
    let (mut leader, epoch, end) = service.lead_by(client, "s1", "n1", A);
    assert_eq!(leader.append("s1", epoch, end, b"one"), Reply::Integer(3));
    (service, leader)
}

#[test]
fn a_scrape_shows_shards_nodes_and_how_long_appends_took() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    let Reply::Array(answer) = report(&mut leader, "s1", "n1", FIGURES) else { panic!("no answer") };
    assert!(answer.contains(&Reply::Text("takes_figures".to_owned())), "{answer:?}");
    let text = scrape(&service, "watches-all");
    for line in [
        "logservice_ready 1.0",
        "logservice_shards 2.0",
        r#"logservice_shard_writable{shard="s1"} 1.0"#,
        r#"logservice_shard_written_bytes_total{shard="s1"} 3.0"#,
        r#"logservice_shard_has_leader{shard="s1"} 1.0"#,
        r#"logservice_shard_has_leader{shard="s2"} 0.0"#,
        r#"logservice_shard_lag_seconds{shard="s1"} 0.25"#,
        r#"logservice_append_duration_seconds_count{shard="s1"} 1"#,
        r#"logservice_append_duration_seconds_count{shard="s2"} 0"#,
        r#"logservice_append_duration_seconds_bucket{le="+Inf",shard="s1"} 1"#,
        r#"valkey_durability_node_info{shard="s1",node="n1",address="host:1",zone="z1",role="leader",mode="sync"} 1.0"#,
        r#"valkey_durability_refusals_total{shard="s1",node="n1"} 3.0"#,
        r#"valkey_durability_ack_p50_seconds{shard="s1",node="n1"} 0.0006"#,
        r#"valkey_durability_figures_age_seconds{shard="s1",node="n1"} 0.005"#,
    ] {
        assert_shows(&text, line);
    }
    let syncs = text.lines().find_map(|line| line.strip_prefix("logservice_sync_duration_seconds_count "));
    assert!(syncs.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0), "{text}");
    service.stop();
}

#[test]
fn a_node_that_tells_no_figures_has_none_and_wrong_ones_are_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    for (figures, why) in [("lag_ms", "figures are name=value"), ("lag_ms=soon", "figure lag_ms is no number")] {
        match report(&mut leader, "s1", "n1", figures) {
            Reply::Error(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    leader.refused(&["LOG.NODE", "s1", "n1", "host:1", "leader", "100", "3", "0", "0", "FIGURES"], "ERR usage:");
    report(&mut leader, "s1", "n1", FIGURES);
    leader.call(&["LOG.NODE", "s1", "n1", "host:1", "leader", "100", "3", "0", "0"]);
    let text = scrape(&service, "watches-all");
    assert!(!text.contains("valkey_durability_lag_seconds{"), "{text}");
    assert_shows(
        &text,
        r#"valkey_durability_node_info{shard="s1",node="n1",address="host:1",zone="",role="leader",mode=""} 1.0"#,
    );
    service.stop();
}

#[test]
fn nodes_that_are_set_up_otherwise_are_told() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    let told = |client: &mut Client, node: &str, role: &str, settings: &str| {
        client.call(&["LOG.NODE", "s1", node, "host:1", role, "100", "3", "0", "0", "SETTINGS", settings])
    };
    let Reply::Array(answer) = told(&mut leader, "n1", "leader", "acl=#secret1,maxmemory=0") else {
        panic!("no answer")
    };
    assert!(answer.contains(&Reply::Text("takes_settings".to_owned())), "{answer:?}");
    told(&mut leader, "n2", "follower", "acl=#secret2,maxmemory=7,of-a-later-version=1");
    let Reply::Array(answer) = told(&mut leader, "n3", "follower", "acl=#secret1,maxmemory=0") else {
        panic!("no answer")
    };
    let at = answer.iter().position(|field| *field == Reply::Text("differing_settings".to_owned())).expect("the field");
    assert_eq!(answer[at + 1], Reply::Text("acl, maxmemory".to_owned()), "{answer:?}");
    let text = scrape(&service, "watches-one");
    for (node, count) in [("n1", "0.0"), ("n2", "2.0"), ("n3", "0.0")] {
        assert_shows(&text, &format!(r#"valkey_durability_differing_settings{{shard="s1",node="{node}"}} {count}"#));
    }
    let (_, text) = get(&service, "/api/shards", "watches-one");
    assert!(
        text.contains("The node n2 of s1 is set up differently from n1: acl, maxmemory ('7', n1 has '0')."),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    for (settings, why) in [("acl", "settings are name=value"), ("A=1", "a setting has a name of a-z")] {
        match told(&mut leader, "n1", "leader", settings) {
            Reply::Error(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    service.stop();
}

#[test]
fn a_token_shows_its_shards_and_no_others() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, _leader) = start(directory.path(), &[]);
    for path in ["/metrics", "/api/shards"] {
        let (_, all) = get(&service, path, "watches-all");
        let (_, one) = get(&service, path, "watches-one");
        assert!(all.contains(r#""s1""#) && all.contains(r#""s2""#), "{all}");
        assert!(one.contains(r#""s1""#) && !one.contains("s2"), "{one}");
        assert_eq!(get(&service, path, "wrong").0, 401);
    }
    for path in ["/metrics", "/api/shards", "/api/events"] {
        assert_eq!(get(&service, path, "finds").0, 403, "{path}");
    }
    service.stop();
}

#[test]
fn shards_and_nodes_are_json_with_their_figures() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    report(&mut leader, "s1", "n1", FIGURES);
    let (status, text) = get(&service, "/api/shards", "watches-all");
    assert_eq!(status, 200, "{text}");
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((shown["ready"] == true, shown["services"].as_array().map(Vec::len)), (true, Some(0)), "{text}");
    let shard = &shown["shards"][0];
    assert_eq!(shard["shard"], "s1");
    assert_eq!((shard["end"].as_u64(), shard["copies"].as_array().map(Vec::len)), (Some(3), Some(0)), "{text}");
    let node = shard["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["id"] == "n1"));
    let figures = &node.expect("n1")["figures"];
    assert_eq!(figures["mode"], "sync");
    assert_eq!((figures["lag_ms"].as_u64(), figures["refusals"].as_u64()), (Some(250), Some(3)), "{text}");
    assert_eq!(shown["shards"][1]["shard"], "s2");
    service.stop();
}

#[test]
fn what_is_wrong_is_said_of_each_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    let problems = |shard: usize| {
        let (_, text) = get(&service, "/api/shards", "watches-all");
        let shown: Value = serde_json::from_str(&text).expect("JSON");
        let of_shard = shown["shards"][shard]["problems"].as_array().cloned().expect("problems");
        of_shard.iter().map(|it| format!("{} {}", it["level"], it["alert"])).collect::<Vec<_>>()
    };
    report(&mut leader, "s1", "n1", "mode=sync,lag_ms=10,max_lag_ms=1000");
    assert_eq!(problems(0), [""; 0]);
    assert_eq!(problems(1), [r#""red" "ShardWithoutLeader""#]);
    report(&mut leader, "s1", "n1", "mode=async,lag_ms=501,max_lag_ms=1000");
    assert_eq!(problems(0), [r#""amber" "LagNearLimit""#]);
    report(&mut leader, "s1", "n1", "mode=async,lag_ms=1000,max_lag_ms=1000,refusing_writes=1");
    assert_eq!(problems(0), [r#""red" "WritesRefused""#]);
    service.stop();
}

#[test]
fn how_far_a_log_was_behind_is_remembered() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    let begun = std::time::Instant::now();
    loop {
        report(&mut leader, "s1", "n1", FIGURES);
        let (status, text) = get(&service, "/api/shards/s1/history", "watches-one");
        assert_eq!(status, 200, "{text}");
        let shown: Value = serde_json::from_str(&text).expect("JSON");
        let lags = shown["lag_ms"].as_array().expect("a list");
        assert_eq!(shown["age_ms"].as_array().map(Vec::len), Some(lags.len()), "{text}");
        if lags.last().is_some_and(|lag| lag == 250) {
            assert_eq!(shown["durable_end"].as_array().and_then(|ends| ends.last()), Some(&Value::from(3)));
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{text}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(get(&service, "/api/shards/s2/history", "watches-one").0, 401);
    assert_eq!(get(&service, "/api/shards/never-made/history", "watches-all").0, 404);
    service.stop();
}

#[test]
fn the_page_is_for_everybody_and_says_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, _leader) = start(directory.path(), &[]);
    let (status, text) = service.http("GET / HTTP/1.1", b"");
    assert_eq!(status, 200);
    assert!(text.contains(r#"data-tokens="needed""#) && !text.contains("s1"), "{text}");
    service.stop();
    let service = Service::start(&directory.path().join("open"), &[]).expect("starts");
    assert!(service.http("GET / HTTP/1.1", b"").1.contains(r#"data-tokens="none""#));
    service.stop();
}

#[test]
fn a_service_alone_is_ready_without_a_token() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, _leader) = start(directory.path(), &[]);
    assert_eq!(service.http("GET /readyz HTTP/1.1", b""), (200, "ready\n".to_owned()));
    service.stop();
}

/// A stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(service: &Service, token: &str) -> Self {
        let mut stream = TcpStream::connect(service.http_address()).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        let head = format!("GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        Events(BufReader::new(stream))
    }

    /// The next line that begins so.
    fn line(&mut self, start: &str) -> String {
        let mut line = String::new();
        while !line.starts_with(start) {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("a line") > 0, "it ended before a line {start}");
        }
        line
    }

    fn next(&mut self) -> Value {
        assert_eq!(self.line("event:").trim_end(), "event: shards");
        serde_json::from_str(self.line("data:").trim_start_matches("data:")).expect("JSON")
    }

    /// Waits until the service has ended it.
    fn assert_ends(mut self) {
        let mut line = String::new();
        loop {
            line.clear();
            match self.0.read_line(&mut line) {
                Ok(0) => return,
                // The end of the chunks: the connection could be used again.
                Ok(_) if line == "0\r\n" => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("it goes on: {error}"),
            }
        }
    }
}

#[test]
fn events_show_what_changes_and_end_with_the_service() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, mut leader) = start(directory.path(), &[]);
    let mut events = Events::open(&service, "watches-one");
    assert!(events.line("content-type:").contains("text/event-stream"));
    assert_eq!(events.next()["shards"][0]["end"], 3);
    assert_eq!(leader.append("s1", 1, 3, b"two"), Reply::Integer(6));
    let shown = events.next();
    assert_eq!((shown["shards"][0]["end"].as_u64(), shown["shards"].as_array().map(Vec::len)), (Some(6), Some(1)));
    let stopping = std::thread::spawn(move || service.stop());
    events.assert_ends();
    stopping.join().expect("stops");
}

#[test]
fn events_end_when_the_token_is_removed() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, _leader) = start(directory.path(), &[]);
    let mut events = Events::open(&service, "watches-one");
    events.next();
    std::fs::write(directory.path().join("tokens"), "* all\n* watches-all observe\n").expect("written");
    service.server().reload();
    events.assert_ends();
    service.stop();
}

#[test]
fn streams_are_bounded_and_take_no_place_of_a_scrape() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (service, _leader) = start(directory.path(), &["--max-http-connections", "8"]);
    let mut first = Events::open(&service, "watches-all");
    first.next();
    let (status, text) = get(&service, "/api/events", "watches-all");
    assert_eq!(status, 503, "{text}");
    for _ in 0..3 {
        scrape(&service, "watches-all");
    }
    first.next();
    drop(first);
    // Its place is free once the service has noticed.
    let begun = std::time::Instant::now();
    loop {
        let mut other = Events::open(&service, "watches-all");
        if other.line("HTTP/1.1").contains(" 200 ") {
            other.next();
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the place is not free again");
    }
    service.stop();
}
