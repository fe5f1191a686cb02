//! What each command does at a service that follows, and at one that is alone.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::command_roles::{Command, COMMANDS};
use super::connection::{Connection, Next};
use super::deciding::needs_decider;
use super::fuzz::{connection, shared, shared_over};
use super::reply::{self, Reply};
use crate::access::tokens::Tokens;
use crate::replica::groups::ClusterError;
use crate::replica::memory_group::MemoryGroups;
use crate::store::{Epoch, Leader, Manifest};

const REPLID: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// Arguments with which a command does something, or is refused for what it asks and not for how.
fn arguments(command: Command) -> &'static [&'static str] {
    match command {
        Command::Append => &["s1", "1", "0", "bytes"],
        Command::Node => &["s1", "n1", "a:1", "follower", "1", "0", "0", "0"],
        Command::Renew => &["s1", "1", "3000"],
        Command::Check => &["s1", "n1", "a:1", "-"],
        Command::Acquire => &["s1", "n1", "a:1", "0", "3000"],
        Command::Begin => &["s1", "1", REPLID, "0"],
        Command::Resign | Command::Release => &["s1", "1"],
        Command::Slots => &["s1", "GET", "1"],
        Command::AuditResult => &["s1", "1", "1", ""],
        Command::Accept => &["s1", "id-of-s1"],
        Command::Drop => &["s1", "id-of-s1"],
        Command::Snapshot | Command::Backup | Command::Audit | Command::Status => &["s1"],
        Command::Debug => &["FREEZE-ACKS", "s1"],
        Command::Psync => &["?", "-1"],
        Command::Replconf => &["ack", "0"],
        Command::Sentinel => &["MASTERS"],
        Command::Subscribe => &["+switch-master"],
        Command::Cluster => &["STATUS"],
        Command::Select => &["0"],
        Command::Client => &["ID"],
        Command::Auth => &["s1", "any"],
        Command::Shards
        | Command::Info
        | Command::Role
        | Command::Command
        | Command::Hello
        | Command::Ping
        | Command::Quit => &[],
    }
}

async fn run(connection: &mut Connection, words: &[&str]) -> Option<Reply> {
    let words: Vec<_> = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    match connection.run(&words).await {
        Next::Reply(reply) | Next::Close(reply) => Some(reply),
        Next::Later | Next::Poll(_) | Next::Follow(..) => None,
    }
}

fn error(reply: Option<&Reply>) -> &str {
    match reply {
        Some(Reply::Error(text)) => text,
        _ => "",
    }
}

/// A service that follows the one of member 2 in shard s1.
async fn following(tokens: Option<Tokens>) -> (Connection, TcpStream, Arc<MemoryGroups>) {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    group.follow(Some(2), 0);
    let shared = shared_over(groups.clone(), tokens);
    group.follow(Some(2), 0);
    let (connection, client) = connection(&shared).await;
    (connection, client, groups)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_follows_refuses_what_decides_and_nothing_else() {
    for entry in &COMMANDS {
        let (mut connection, _client, _groups) = following(None).await;
        run(&mut connection, &["AUTH", "s1", "any"]).await;
        let words: Vec<_> = [entry.name].iter().chain(arguments(entry.command)).copied().collect();
        let reply = run(&mut connection, &words).await;
        let refusal = error(reply.as_ref());
        match entry.command {
            // Looks at the id first: it may be dropped at any service if none decides.
            command if needs_decider(command) || command == Command::Drop => {
                assert!(refusal.starts_with("NOTLEADER 10.0.0.2:7379 "), "{words:?}: {reply:?}");
            }
            _ => assert_eq!(refusal, "", "{words:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_alone_decides_over_everything() {
    let shared = shared(None);
    for entry in &COMMANDS {
        let (mut connection, _client) = connection(&shared).await;
        run(&mut connection, &["LOG.CHECK", "s1", "n1", "a:1", "-"]).await;
        let words: Vec<_> = [entry.name].iter().chain(arguments(entry.command)).copied().collect();
        let reply = run(&mut connection, &words).await;
        assert!(!error(reply.as_ref()).starts_with("NOTLEADER"), "{words:?}: {reply:?}");
    }
    let (mut connection, _client) = connection(&shared).await;
    let alone = "ERR this log service is alone: it was started without --peers";
    for action in ["INIT", "status"] {
        assert_eq!(error(run(&mut connection, &["LOG.CLUSTER", action]).await.as_ref()), alone);
    }
    std::fs::remove_dir_all(shared.service.directory()).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_made_and_shown() {
    let (mut connection, _client, groups) = following(None).await;
    for words in [&["LOG.CLUSTER"][..], &["LOG.CLUSTER", "MOVE"], &["LOG.CLUSTER", "INIT", "now"]] {
        let answer = run(&mut connection, words).await;
        let text = error(answer.as_ref());
        assert!(text.starts_with("ERR usage: LOG.CLUSTER INIT | STATUS"), "{text}");
    }
    assert_eq!(run(&mut connection, &["LOG.CLUSTER", "init"]).await, Some(reply::ok()));
    let service = |member, name, connected| {
        let address = format!("address=10.0.0.{member}:7379,http_address=10.0.0.{member}:7380");
        format!("id={member:016x},name={name},zone=zone-{name},{address},connected={connected}")
    };
    let expected = [
        ("cluster", format!("{:016x}", 77)),
        ("member", format!("{:016x}", 1)),
        ("service0", service(1, "a", 1)),
        ("service1", service(2, "b", 1)),
        ("service2", service(3, "c", 0)),
        ("cluster_log", "name=,decider=,term=0,end=0,members=,learners=,leaving=,whole=0".to_owned()),
        ("shard0", "name=s1,decider=b,term=0,end=0,members=a/b/c,learners=,leaving=,whole=0".to_owned()),
    ];
    let expected = expected.into_iter().flat_map(|(name, value)| [reply::bulk(name), reply::bulk(value)]).collect();
    assert_eq!(run(&mut connection, &["LOG.CLUSTER", "STATUS"]).await, Some(reply::array(expected)));
    groups.refuse(ClusterError::Refused("no peer answers".to_owned()));
    assert_eq!(error(run(&mut connection, &["LOG.CLUSTER", "INIT"]).await.as_ref()), "ERR no peer answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_learn_of_the_primary_and_of_the_other_services_at_each() {
    let (mut connection, _client, groups) = following(None).await;
    let group = groups.get_or_make("s1");
    let mut manifest = Manifest::new("s1", "a".repeat(40), "id-of-s1".to_owned()).next();
    let (node_id, address, lease_ms) = ("n1".to_owned(), "10.1.0.1:6379".to_owned(), 3000);
    manifest.epochs.push(Epoch {
        epoch: 1,
        node_id: node_id.clone(),
        address: address.clone(),
        replid: Some(REPLID.to_owned()),
        first_offset: Some(0),
        engine: None,
        databases: None,
    });
    manifest.leader = Some(Leader { node_id, address, lease_ms, process: None });
    run(&mut connection, &["LOG.STATUS", "s1"]).await;
    group.receive_state(&manifest, None);
    let address = run(&mut connection, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "s1"]).await;
    assert_eq!(address, Some(reply::array(vec![reply::bulk("10.1.0.1"), reply::bulk("6379")])));
    let Some(Reply::Array(others)) = run(&mut connection, &["SENTINEL", "SENTINELS", "s1"]).await else {
        panic!("no array")
    };
    let shown = |other: &Reply, name: &'static str| match other {
        Reply::Map(fields) => {
            fields.iter().find(|(field, _)| *field == reply::bulk(name)).map(|(_, value)| value.clone())
        }
        _ => None,
    };
    let ips: Vec<_> = others.iter().map(|other| shown(other, "ip")).collect();
    assert_eq!(ips, [Some(reply::bulk("10.0.0.2")), Some(reply::bulk("10.0.0.3"))]);
    assert_eq!(shown(&others[1], "flags"), Some(reply::bulk("s_down,sentinel,disconnected")));
    let quorum = run(&mut connection, &["SENTINEL", "CKQUORUM", "s1"]).await;
    assert!(matches!(quorum, Some(Reply::Simple(text)) if text.starts_with("OK 2 usable")), "{quorum:?}");
    let Some(Reply::Array(status)) = run(&mut connection, &["LOG.STATUS", "s1"]).await else { panic!("no array") };
    for (name, value) in [("standing", "follows"), ("decider", "10.0.0.2:7379"), ("leader", "n1")] {
        assert!(status.chunks(2).any(|field| *field == [reply::bulk(name), reply::bulk(value)]), "{name}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_cluster_takes_a_token_for_all_shards() {
    let tokens = "s1 of-the-shard operate\n* watches observe\n* operates operate\n";
    for (user, token, may) in [("s1", "of-the-shard", false), ("s1", "watches", false), ("s1", "operates", true)] {
        let tokens = Tokens::parse(tokens, [7; 32]).expect("tokens");
        let (mut connection, _client, _groups) = following(Some(tokens)).await;
        assert_eq!(run(&mut connection, &["AUTH", user, token]).await, Some(reply::ok()));
        let made = run(&mut connection, &["LOG.CLUSTER", "INIT"]).await;
        assert_eq!(error(made.as_ref()).starts_with("NOPERM"), !may, "{token}: {made:?}");
        assert_eq!(error(run(&mut connection, &["LOG.CLUSTER", "STATUS"]).await.as_ref()), "");
    }
}

/// The answer to a command that waits until something has happened.
async fn run_until(connection: &mut Connection, words: &[&str], happens: impl FnOnce()) -> Option<Reply> {
    let mut asking = pin!(run(connection, words));
    assert!(timeout(Duration::from_millis(20), &mut asking).await.is_err(), "{words:?} waits");
    happens();
    asking.await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_service_that_decides_waits_a_moment_while_nobody_is_known_to() {
    let check = ["LOG.CHECK", "s1", "n1", "a:1", "-"];
    let (mut connection, _client, groups) = following(None).await;
    let group = groups.get_or_make("s1");
    group.follow(None, 0);
    let asked = Instant::now();
    let reply = run(&mut connection, &check).await;
    assert!(error(reply.as_ref()).starts_with("NOTLEADER - "), "{reply:?}");
    assert!(asked.elapsed() >= Duration::from_millis(100), "{:?}", asked.elapsed());
    // What any service answers does not wait, and an answer comes when one is known to decide.
    let status = run(&mut connection, &["LOG.STATUS", "s1"]).await;
    assert_eq!(error(status.as_ref()), "");
    let reply = run_until(&mut connection, &check, || group.follow(Some(3), 0)).await;
    assert!(error(reply.as_ref()).starts_with("NOTLEADER 10.0.0.3:7379 "), "{reply:?}");
    // This one comes to decide itself.
    group.follow(None, 0);
    let reply = run_until(&mut connection, &check, || group.lead(7)).await;
    assert_eq!(error(reply.as_ref()), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_service_that_hands_over_is_told_where_to_go() {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    group.lead(2);
    let shared = shared_over(groups.clone(), None);
    let (mut connection, _client) = connection(&shared).await;
    assert_eq!(error(run(&mut connection, &["LOG.CHECK", "s1", "n1", "a:1", "-"]).await.as_ref()), "");
    let shard = shared.service.shard("s1").await.expect("served");
    shard.hand_over_to(String::new());
    shard.hand_over_to("10.0.0.3:7379".to_owned());
    group.hold(true);
    let acquire = ["LOG.ACQUIRE", "s1", "n1", "a:1", "0", "3000"];
    let reply = run_until(&mut connection, &acquire, || group.follow(None, 0)).await;
    assert!(error(reply.as_ref()).starts_with("NOTLEADER 10.0.0.3:7379 "), "{reply:?}");
    assert!(shard.notifier().ended().await.detail.starts_with("10.0.0.3:7379 "), "so are appends");
}
