//! Services that speak over loopback, in one process.

mod hostile;
mod messages;
mod refusals;
mod with_tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft::eraftpb::{Entry, MessageType};
use tokio::net::TcpListener;
use tokio::sync::{watch, Notify};
use tokio::time::timeout;

use super::shared::Lane;
use super::*;
use crate::connections::tls::Tls;

/// Far more than anything here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "a token of some length";

/// What came to a service.
#[derive(Debug, Default)]
struct Heard {
    hellos: Vec<Hello>,
    messages: Vec<(u64, String, Message)>,
    unreachable: Vec<u64>,
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Notify,
}

impl Ear {
    fn hear(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().expect("no panic"));
        self.changed.notify_waiters();
    }

    /// Waits until what was heard gives something.
    async fn until<T>(&self, mut found: impl FnMut(&mut Heard) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = found(&mut self.heard.lock().expect("no panic")) {
                    return found;
                }
                changed.await;
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("not heard, but {:?}", self.heard.lock().expect("no panic").hellos),
        }
    }
}

impl PeerEvents for Ear {
    fn hello(&self, hello: &Hello) {
        self.hear(|heard| heard.hellos.push(hello.clone()));
    }

    fn message(&self, from: u64, group: &str, message: Message) {
        self.hear(|heard| heard.messages.push((from, group.to_owned(), message)));
    }

    fn request(&self, from: &Hello, request: PeerRequest) -> PeerReply {
        [from.name.as_bytes(), b" asks ", &request].concat()
    }

    fn file_request(&self, from: &Hello, request: PeerRequest) -> PeerReply {
        [from.name.as_bytes(), b" wants ", &request].concat()
    }

    fn unreachable(&self, member: u64) {
        self.hear(|heard| heard.unreachable.push(member));
    }
}

/// A service.
struct Node {
    peers: Peers,
    ear: Arc<Ear>,
    hello: watch::Sender<Hello>,
}

/// How a service differs from a usual one.
struct Setup {
    hello: Hello,
    token: &'static str,
    tls: Option<Arc<Tls>>,
    patience: PeerPatience,
}

impl Setup {
    fn new(name: &str, member: u64) -> Self {
        let hello = Hello { member, name: name.to_owned(), zone: format!("zone-{name}"), ..Hello::default() };
        Setup { hello, token: TOKEN, tls: None, patience: quick() }
    }

    fn start(self, listener: TcpListener, peers: &[PeerAddress]) -> Node {
        let (hello, told) = watch::channel(self.hello);
        let ear = Arc::new(Ear::default());
        let options = PeersOptions {
            listener,
            peers: peers.to_vec(),
            token: PeerToken::of(self.token).expect("a token"),
            tls: self.tls,
            insecure: false,
            max_strangers: 8,
            patience: self.patience,
        };
        let peers = Peers::start(options, told, ear.clone()).expect("starts");
        Node { peers, ear, hello }
    }
}

impl Node {
    /// Waits until messages can be sent to a member.
    async fn connected_to(&self, member: u64) {
        let connected = async {
            while !self.peers.is_connected(member) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, connected).await.expect("connected");
    }

    /// What was in the way of the first connection to that peer.
    async fn trouble(&self, peer: &str) -> String {
        let tried = async {
            loop {
                let error = self.peers.ask(peer, b"?".to_vec()).await.expect_err("not connected");
                assert!(matches!(error, PeerError::NotConnected { .. }), "{error}");
                if !error.to_string().contains("no connection was tried yet") {
                    return error.to_string();
                }
            }
        };
        timeout(PATIENCE, tried).await.expect("a connection is tried")
    }
}

/// Waits are short, but for what a busy machine needs.
fn quick() -> PeerPatience {
    PeerPatience { least_pause: Duration::from_millis(5), most_pause: Duration::from_millis(20), ..Default::default() }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

fn peer(name: &str, address: &str) -> PeerAddress {
    PeerAddress { name: name.to_owned(), address: address.to_owned() }
}

/// Services that know each other's addresses.
async fn start(setups: Vec<Setup>) -> Vec<Node> {
    let (mut listeners, mut peers) = (Vec::new(), Vec::new());
    for setup in &setups {
        let (listener, address) = listener().await;
        listeners.push(listener);
        peers.push(peer(&setup.hello.name, &address));
    }
    setups.into_iter().zip(listeners).map(|(setup, listener)| setup.start(listener, &peers)).collect()
}

fn append(to: u64, index: u64, data: Vec<u8>) -> Message {
    let mut message = Message { to, from: 1, term: 3, index, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![Entry { index: index + 1, term: 3, data: data.into(), ..Entry::default() }].into());
    message
}

fn heartbeat(to: u64, commit: u64) -> Message {
    let mut message = Message { to, from: 1, term: 3, commit, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    message
}
