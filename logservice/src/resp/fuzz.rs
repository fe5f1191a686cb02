//! Fuzzes the dispatcher: any arguments to any command, from clients that have logged in and from strangers.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::connection::{Connection, Next, PortState};
use super::input::{InputBudget, MAX_ARGUMENTS};
use super::replica::ReplicaInfo;
use super::reply::Protocol;
use super::socket::Socket;
use crate::access::tokens::Tokens;
use crate::connections::limits::{Limits, Patience};
use crate::connections::network::Network;
use crate::connections::places::Places;
use crate::connections::strangers::Strangers;
use crate::replica::groups::Groups;
use crate::replica::memory_group::MemoryGroups;
use crate::replica::store_factory::ReplicatedStores;
use crate::service::{Service, ServiceOptions};
use crate::snapshots::SnapshotStore;
use crate::store::memory_store::MemoryStores;
use crate::store::StoreFactory;

/// Words with a meaning, so that not every input is refused for its first word.
const WORDS: [&str; 82] = [
    "LOG.CLUSTER",
    "INIT",
    "STATUS",
    "LOG.AUDIT",
    "LOG.AUDIT-RESULT",
    "LOG.CHECK",
    "LOG.DROP",
    "FORCE",
    "KEYS",
    "LOG.APPEND",
    "LOG.ACQUIRE",
    "LOG.BEGIN",
    "LOG.RENEW",
    "LOG.RELEASE",
    "LOG.SLOTS",
    "GET",
    "SET",
    "0-5460,7000",
    "GRANT",
    "ABORT",
    "IMPORT",
    "CLAIM",
    "SETTLE",
    "FORGET",
    "taken",
    "void",
    "LOG.NODE",
    "LOG.STATUS",
    "LOG.SHARDS",
    "LOG.DEBUG",
    "PSYNC",
    "REPLCONF",
    "AUTH",
    "HELLO",
    "PING",
    "INFO",
    "COMMAND",
    "SELECT",
    "CLIENT",
    "QUIT",
    "SENTINEL",
    "MASTERS",
    "PRIMARY",
    "REPLICAS",
    "SENTINELS",
    "CKQUORUM",
    "GET-MASTER-ADDR-BY-NAME",
    "ROLE",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "+switch-master",
    "[-+]s*",
    "GETNAME",
    "SETINFO",
    "FREEZE-ACKS",
    "RESUME-ACKS",
    "DELAY-ACKS",
    "TO",
    "follower",
    "FIGURES",
    "mode=sync,lag_ms=1",
    "SETNAME",
    "ID",
    "ack",
    "listening-port",
    "ip-address",
    "capa",
    "s1",
    "s2",
    "n1",
    "host:1",
    "?",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "9223372036854775807",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "",
];

/// Most memory that one command may take on this thread.
const MOST_BYTES: usize = 1 << 20;

/// A word of [`WORDS`], or anything.
type Word = (u8, Vec<u8>);

fn arguments(words: &[Word]) -> Vec<Bytes> {
    let argument = |(word, other): &Word| match WORDS.get(usize::from(*word) % (WORDS.len() + 8)) {
        Some(word) => Bytes::from_static(word.as_bytes()),
        None => Bytes::from(other.clone()),
    };
    words.iter().take(MAX_ARGUMENTS).map(argument).collect()
}

/// A service in a directory that lasts as long as the process. In memory, as the disk is not what is fuzzed.
pub(crate) fn shared(tokens: Option<Tokens>) -> Arc<PortState> {
    shared_with(Arc::new(MemoryStores::threaded()), None, tokens)
}

/// The same, of which several services keep the logs.
pub(crate) fn shared_over(groups: Arc<MemoryGroups>, tokens: Option<Tokens>) -> Arc<PortState> {
    shared_with(Arc::new(ReplicatedStores::new(groups.clone())), Some(groups), tokens)
}

fn shared_with(
    stores: Arc<dyn StoreFactory>,
    groups: Option<Arc<dyn Groups>>,
    tokens: Option<Tokens>,
) -> Arc<PortState> {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new();
    let directory = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    let directory = directory.expect("tempdir").keep();
    let snapshots = Arc::new(SnapshotStore::open(None, &directory).expect("a directory"));
    // Nothing takes them.
    let (engine_requests, _) = tokio::sync::mpsc::channel(1);
    let options = ServiceOptions {
        archive: None,
        directory,
        snapshots,
        engine_requests,
        groups,
        files: None,
        stores,
        max_shards: 4,
        snapshot_log_bytes: 0,
        debug_command: true,
        http_port: 1,
    };
    let service = Service::open(options, tokens).expect("opens");
    let patience = Patience { failed_login_delay: Duration::ZERO, ..Patience::default() };
    let limits = Limits {
        max_connections: 1,
        max_strangers: 1,
        max_http_connections: 1,
        max_shards: 4,
        max_input_mb: 4,
        max_pinned_mb: 0,
        patience,
    };
    let (limits, places) = (Arc::new(limits), Places::new(1, 0));
    Arc::new(PortState { service, limits, budget: Arc::new(InputBudget::new(4)), places })
}

pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime")
    })
}

/// A connection of that service, and its other end.
pub(crate) async fn connection(shared: &Arc<PortState>) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (stream, peer) = listener.accept().await.expect("accepted");
    let guest = Strangers::new(1, 0, "a connection").enter(Network::of(peer.ip()), Arc::default());
    (Connection::new(shared, Socket::from(stream), peer.to_string(), 1, guest), client)
}

#[test]
fn any_command_is_answered() {
    let shared = AssertUnwindSafe(shared(None));
    runtime().block_on(shared.service.shard_or_new("s1")).expect("made");
    let (connection, _client) = runtime().block_on(connection(&shared));
    let connection = std::sync::Mutex::new(connection);
    bolero::check!().with_type::<Vec<Word>>().for_each(|words| {
        let mut connection = connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let arguments = arguments(words);
        let next = allocation::within(MOST_BYTES, || runtime().block_on(connection.run(&arguments)));
        if let Next::Reply(reply) | Next::Close(reply) = next {
            for protocol in [Protocol::Two, Protocol::Three] {
                let mut out = bytes::BytesMut::new();
                super::reply::encode(&mut out, &reply, protocol);
                assert!(out.ends_with(b"\r\n"));
            }
        }
        // Otherwise most of the following commands would be refused.
        for command in ["UNSUBSCRIBE", "PUNSUBSCRIBE"] {
            runtime().block_on(connection.run(&[Bytes::from_static(command.as_bytes())]));
        }
        assert!(shared.service.names().len() <= 4);
    });
    std::fs::remove_dir_all(shared.service.directory()).expect("removed");
}

#[test]
fn no_command_of_a_stranger_makes_a_shard_or_shows_one() {
    let tokens = Tokens::parse("s1 a-token-that-is-not-in-the-words\n", [7; 32]).expect("tokens");
    let shared = AssertUnwindSafe(shared(Some(tokens)));
    bolero::check!().with_type::<Vec<Word>>().for_each(|words| {
        let arguments = arguments(words);
        let next = runtime().block_on(async {
            let (mut connection, _client) = connection(&shared).await;
            connection.dispatch(&arguments).await
        });
        if let Ok(Next::Later | Next::Poll(_) | Next::Follow(..)) = next {
            panic!("{arguments:?} was obeyed");
        }
        assert!(shared.service.names().is_empty());
    });
    std::fs::remove_dir_all(shared.service.directory()).expect("removed");
}

#[test]
fn what_a_replica_reports_is_kept_short() {
    bolero::check!().with_type::<Vec<Word>>().for_each(|words| {
        let mut replica = ReplicaInfo::default();
        let arguments = arguments(words);
        if !arguments.is_empty() {
            let _ = replica.configure(&arguments);
        }
        assert!(replica.listening("127.0.0.1:1").len() < 1200);
    });
}
