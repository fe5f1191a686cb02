//! Every command, and every endpoint, with a token of every role.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use logservice::access::roles::{Access, TokenRole};
use logservice::resp::command_roles::COMMANDS;

use crate::client::{Client, Reply, Service};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What everybody may send who has a token at all.
const CLIENTS: &str =
    "INFO SENTINEL ROLE SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE COMMAND SELECT CLIENT AUTH HELLO PING QUIT";
const STATUS: &str = "LOG.STATUS LOG.SHARDS LOG.CLUSTER";
const STREAM: &str = "PSYNC REPLCONF";
const OPERATORS: &str = "LOG.ACCEPT LOG.RELEASE LOG.DROP LOG.SNAPSHOT LOG.BACKUP LOG.AUDIT LOG.DEBUG";
const NODES: &str =
    "LOG.APPEND LOG.NODE LOG.RENEW LOG.CHECK LOG.ACQUIRE LOG.BEGIN LOG.RESIGN LOG.SLOTS LOG.AUDIT-RESULT";

/// What a token of each role is for, written down once more: a change of the service's own table has to be meant.
fn allowed(role: TokenRole) -> String {
    match role {
        TokenRole::Discover => CLIENTS.to_owned(),
        TokenRole::Observe => [CLIENTS, STATUS].join(" "),
        TokenRole::Follow => [CLIENTS, STATUS, STREAM].join(" "),
        TokenRole::Operate => [CLIENTS, STATUS, OPERATORS].join(" "),
        TokenRole::Node => [CLIENTS, STATUS, STREAM, OPERATORS, NODES].join(" "),
    }
}

/// The command as it is sent, on `shard`. None of them changes anything, also if it is obeyed, but that `LOG.CHECK` makes a shard.
fn sample(name: &str, shard: &str) -> Vec<String> {
    let arguments = match name {
        "LOG.APPEND" => format!("{shard} 99 0 x"),
        "LOG.NODE" => format!("{shard} n1 host:1 follower 1 0 0 0"),
        "LOG.RENEW" => format!("{shard} 99 1000"),
        "LOG.CHECK" => format!("{shard} n1 host:1 -"),
        "LOG.ACQUIRE" => format!("{shard} n1 host:1 99 0"),
        "LOG.BEGIN" => format!("{shard} 99 {A} 0"),
        "LOG.RESIGN" | "LOG.RELEASE" => format!("{shard} 99"),
        "LOG.SLOTS" => format!("{shard} SET 99 1 0-16383"),
        "LOG.AUDIT-RESULT" => format!("{shard} 1 1 x"),
        "LOG.ACCEPT" | "LOG.DROP" => format!("{shard} not-its-id"),
        "LOG.SNAPSHOT" | "LOG.BACKUP" | "LOG.AUDIT" | "LOG.STATUS" => shard.to_owned(),
        "LOG.DEBUG" => format!("RESUME-ACKS {shard}"),
        "PSYNC" => "? -1".to_owned(),
        "REPLCONF" => "listening-port 1".to_owned(),
        "LOG.CLUSTER" => "STATUS".to_owned(),
        "SENTINEL" => "MASTERS".to_owned(),
        "SUBSCRIBE" | "UNSUBSCRIBE" => "+switch-master".to_owned(),
        "PSUBSCRIBE" | "PUNSUBSCRIBE" => "*".to_owned(),
        "SELECT" => "0".to_owned(),
        "CLIENT" => "ID".to_owned(),
        "AUTH" => format!("{shard} wrong"),
        "HELLO" => "2".to_owned(),
        "LOG.SHARDS" | "INFO" | "ROLE" | "COMMAND" | "PING" | "QUIT" => String::new(),
        other => panic!("{other} is new: say here with which arguments it is tried, and above who may send it"),
    };
    std::iter::once(name).chain(arguments.split_whitespace()).map(str::to_owned).collect()
}

fn token(role: TokenRole) -> String {
    format!("the-token-of-those-who-{}", role.word())
}

/// A service in which each role has a token for `s1`, and none for `s2`.
fn start(directory: &Path) -> Service {
    let tokens = directory.join("tokens");
    let mut lines = "* the-token-of-this-test\n".to_owned();
    for role in TokenRole::ALL {
        writeln!(lines, "s1 {} {}", token(role), role.word()).expect("text");
    }
    std::fs::write(&tokens, lines).expect("written");
    let flags = [
        "--tokens",
        tokens.to_str().expect("text"),
        "--valkey-server",
        "/nowhere/valkey-server",
        "--enable-debug-command",
    ];
    Service::start_patient(&directory.join("data"), &flags, |patience| patience.failed_login_delay = Duration::ZERO)
}

fn logged_in(service: &Service, role: TokenRole) -> Client {
    let mut client = service.connect();
    client.ok(&["AUTH", "s1", &token(role)]);
    client
}

/// A client that may do everything, which has made two shards.
fn with_two_shards(service: &Service) -> Client {
    let mut all = service.connect();
    all.ok(&["AUTH", "the-token-of-this-test"]);
    for shard in ["s1", "s2"] {
        all.make(shard);
    }
    all
}

/// The first line of the answer.
fn answer(client: &mut Client, command: &[String]) -> String {
    client.send(&command.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
    client.line()
}

#[test]
fn every_command_is_obeyed_for_the_roles_that_may_send_it_and_refused_for_the_others() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    let mut all = with_two_shards(&service);
    // A poll would tell of itself: what is refused is compared with a shard that nobody has told anything but that.
    all.call(&["LOG.NODE", "s1", "n1", "host:1", "follower", "1", "0", "0", "0"]);
    let mut tried = 0;
    for entry in &COMMANDS {
        for role in TokenRole::ALL {
            let name = entry.name;
            let is_allowed = allowed(role).split(' ').any(|allowed| allowed == name);
            let told = answer(&mut logged_in(&service, role), &sample(name, "s1"));
            let (refused, needed) = match (is_allowed, entry.access) {
                (true, _) => (false, ""),
                (false, Access::Needs(needed)) => (true, needed.word()),
                (false, Access::Anyone) => panic!("{name}: everybody may send it, so {role:?} may"),
            };
            let tried_by = format!("{name} by {role:?}: {told}");
            tried += 1;
            if refused {
                // A server that follows takes any other first word for a reason to drop what it holds.
                let told = told.strip_prefix("-NOMASTERLINK ").map(|told| format!("-{told}")).unwrap_or(told);
                let start = format!("-NOPERM {name} needs a token with the role {needed}");
                let end = format!("and this one's is {}", role.word());
                assert!(told.starts_with(&start) && told.ends_with(&end), "{tried_by}");
            } else {
                assert!(!told.contains("NOPERM"), "{tried_by}");
                assert!(name == "AUTH" || !told.starts_with("-NOAUTH"), "{tried_by}");
                assert!(!told.contains("unknown command"), "{tried_by}");
            }
        }
    }
    assert_eq!(tried, COMMANDS.len() * TokenRole::ALL.len());
    service.stop();
}

#[test]
fn what_a_role_may_not_send_changes_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    let mut all = service.connect();
    all.ok(&["AUTH", "the-token-of-this-test"]);
    let mut status = || match all.call(&["LOG.STATUS", "s1"]) {
        Reply::Error(text) => text,
        other => panic!("{other:?}"),
    };
    // All that could make the shard, or anything in it.
    for role in TokenRole::ALL.into_iter().filter(|role| *role != TokenRole::Node) {
        let mut client = logged_in(&service, role);
        for name in NODES.split(' ') {
            let told = answer(&mut client, &sample(name, "s1"));
            assert!(told.starts_with("-NOPERM "), "{name} by {role:?}: {told}");
        }
        assert_eq!(status(), "NOSHARD shard 's1' does not exist", "{role:?}");
    }
    let (mut leader, epoch, _) = {
        let mut client = logged_in(&service, TokenRole::Node);
        client.make("s1");
        service.lead_by(client, "s1", "n1", A)
    };
    let mut discover = logged_in(&service, TokenRole::Discover);
    let epoch_text = epoch.to_string();
    for command in [
        &["LOG.APPEND", "s1", &epoch_text, "0", "x"][..],
        &["LOG.RELEASE", "s1", &epoch_text, "FORCE"],
        &["LOG.RESIGN", "s1", &epoch_text],
    ] {
        discover.refused(command, "NOPERM ");
    }
    assert_eq!(leader.append("s1", epoch, 0, b"one"), Reply::Integer(3));
    let mut operator = logged_in(&service, TokenRole::Operate);
    operator.refused(&["LOG.APPEND", "s1", &epoch_text, "3", "x"], "NOPERM ");
    operator.ok(&["LOG.RELEASE", "s1", &epoch_text, "FORCE"]);
    assert!(matches!(leader.append("s1", epoch, 3, b"two"), Reply::Error(text) if text.starts_with("FENCED")));
    service.stop();
}

#[test]
fn no_role_reaches_another_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    with_two_shards(&service);
    for role in TokenRole::ALL {
        let mut client = logged_in(&service, role);
        for entry in &COMMANDS {
            let command = sample(entry.name, "s2");
            if entry.name == "AUTH" || !command.iter().any(|argument| argument == "s2") {
                continue;
            }
            let told = answer(&mut client, &command);
            assert!(told.starts_with("-NOAUTH ") || told.starts_with("-NOPERM "), "{command:?} by {role:?}: {told}");
        }
    }
    service.stop();
}

#[test]
fn a_token_to_find_the_leader_shows_nothing_else_of_the_shard() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    service.lead_by(logged_in(&service, TokenRole::Node), "s1", "n1", A);
    let info = |role| match logged_in(&service, role).call(&["INFO"]) {
        Reply::Text(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(info(TokenRole::Discover).contains("name=s1,") && !info(TokenRole::Discover).contains("log_id="));
    assert!(info(TokenRole::Observe).contains("log_id="));
    service.stop();
}

#[test]
fn every_endpoint_is_for_some_roles_and_refused_to_the_others() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    let mut all = service.connect();
    all.ok(&["AUTH", "the-token-of-this-test"]);
    all.make("s1");
    let observers = &[TokenRole::Observe, TokenRole::Follow, TokenRole::Operate, TokenRole::Node][..];
    let upload = format!("PUT /shards/s1/snapshot?epoch=1&offset=1&replid={A}");
    for (request, obeyed, roles) in [
        ("GET /", 200, &TokenRole::ALL[..]),
        ("GET /healthz", 200, &TokenRole::ALL),
        ("GET /readyz", 200, &TokenRole::ALL),
        ("GET /shards", 200, observers),
        ("GET /metrics", 200, observers),
        ("GET /api/shards", 200, observers),
        ("GET /api/shards/s1/history", 200, observers),
        (&upload, 409, &[TokenRole::Node]),
    ] {
        for role in TokenRole::ALL {
            let head = format!("{request} HTTP/1.1\r\nAuthorization: Bearer {}", token(role));
            let (status, told) = service.http(&head, b"REDIS");
            let expected = if roles.contains(&role) { obeyed } else { 403 };
            assert_eq!(status, expected, "{request} by {role:?}: {told}");
            let names_role = told.contains("needs a token with the role ") && told.contains(role.word());
            assert!(status != 403 || (told.starts_with("NOPERM ") && names_role), "{told}");
        }
    }
    for of_another in [&upload.replace("s1", "s2"), "GET /api/shards/s2/history"] {
        let head = format!("{of_another} HTTP/1.1\r\nAuthorization: Bearer {}", token(TokenRole::Node));
        assert_eq!(service.http(&head, b"REDIS").0, 401, "{of_another}");
    }
    service.stop();
}

#[test]
fn a_token_for_all_shards_has_a_role_as_well() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 first-token-of-a-node\n* watcher-of-all-shards observe\ns2 watcher-of-all-shards\n")
        .expect("written");
    let flags = ["--tokens", tokens.to_str().expect("text")];
    let service = Service::start(&directory.path().join("data"), &flags).expect("starts");
    let mut node = service.connect();
    node.ok(&["AUTH", "s1", "first-token-of-a-node"]);
    node.make("s1");
    let mut watcher = service.connect();
    watcher.ok(&["AUTH", "watcher-of-all-shards"]);
    assert_eq!(watcher.status("s1", "state"), "ok");
    assert_eq!(watcher.call(&["LOG.SHARDS"]), Reply::Array(vec![Reply::Text("s1".into())]));
    watcher.refused(&["LOG.CHECK", "s1", "n1", "host:1", "-"], "NOPERM LOG.CHECK needs a token with the role node");
    // The same token is a node's of another shard, and of that alone.
    watcher.ok(&["AUTH", "s2", "watcher-of-all-shards"]);
    watcher.make("s2");
    watcher.refused(&["LOG.CHECK", "s1", "n1", "host:1", "-"], "NOPERM LOG.CHECK needs a token with the role node");
    assert_eq!(watcher.status("s1", "state"), "ok");
    service.stop();
}

#[test]
fn a_shard_claims_for_itself_alone_and_of_any_other() {
    let directory = tempfile::tempdir().expect("tempdir");
    let service = start(directory.path());
    with_two_shards(&service);
    let job = "1".repeat(40);
    let mut node = logged_in(&service, TokenRole::Node);
    for subcommand in ["CLAIM", "FORGET"] {
        node.refused(&["LOG.SLOTS", "s2", subcommand, "s1", &job], "NOAUTH ");
        logged_in(&service, TokenRole::Operate).refused(&["LOG.SLOTS", "s1", subcommand, "s2", &job], "NOPERM ");
    }
    node.refused(&["LOG.SLOTS", "s1", "CLAIM", "s2", &job], "NOGRANT ");
    node.ok(&["LOG.SLOTS", "s1", "FORGET", "s2", &job]);
    service.stop();
}
