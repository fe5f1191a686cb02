//! What messages between two services cost: `cargo run --release -p logservice --example peer_bench [-- SECONDS]`.
//!
//! Two services in one process, over loopback and without TLS. One sends appends of one entry each to the other, which answers each; at most
//! so many are on their way. CPU is that of the whole process: both ends, the answers, and the kernel's part of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use logservice::replica::peers::{Hello, PeerAddress, PeerEvents, PeerPatience, PeerToken, Peers, PeersOptions};
use logservice::replica::peers::{PeerReply, PeerRequest};
use raft::eraftpb::{Entry, Message, MessageType};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A service, which answers appends, and counts the answers to its own.
#[derive(Default)]
struct End {
    peers: OnceLock<Arc<Peers>>,
    answers: AtomicU64,
}

impl PeerEvents for End {
    fn hello(&self, _: &Hello) {}

    fn message(&self, from: u64, group: &str, message: Message) {
        if message.msg_type == MessageType::MsgAppendResponse {
            self.answers.fetch_add(1, Ordering::Release);
            return;
        }
        let mut answer = Message { to: from, from: message.to, index: message.index, ..Message::default() };
        answer.set_msg_type(MessageType::MsgAppendResponse);
        if let Some(peers) = self.peers.get() {
            peers.send(group, answer);
        }
    }

    fn request(&self, _: &Hello, request: PeerRequest) -> PeerReply {
        request
    }

    fn file_request(&self, _: &Hello, request: PeerRequest) -> PeerReply {
        request
    }

    fn unreachable(&self, _: u64) {}
}

fn main() {
    let seconds = std::env::args().nth(1).map_or(3, |seconds| seconds.parse().expect("seconds"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let ends = runtime.block_on(start());
    while !ends[0].0.is_connected(2) || !ends[1].0.is_connected(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("entry bytes  in flight  messages/s     MB/s  CPU us/message");
    for (bytes, in_flight) in [(100, 1), (100, 64), (100, 4096), (64 << 10, 1), (64 << 10, 64)] {
        run(&ends[0], bytes, in_flight, Duration::from_secs(seconds));
    }
}

async fn start() -> [(Arc<Peers>, Arc<End>); 2] {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let listeners = [bind().await.expect("bound"), bind().await.expect("bound")];
    let peers: Vec<_> = ["a", "b"]
        .iter()
        .zip(&listeners)
        .map(|(name, listener)| PeerAddress {
            name: (*name).to_owned(),
            address: listener.local_addr().expect("an address").to_string(),
        })
        .collect();
    let mut member = 0;
    listeners.map(|listener| {
        let name = peers[member as usize].name.clone();
        member += 1;
        let (_, hello) = watch::channel(Hello { member, name, ..Hello::default() });
        let end = Arc::new(End::default());
        let options = PeersOptions {
            listener,
            peers: peers.clone(),
            token: PeerToken::of("only for this bench").expect("a token"),
            tls: None,
            insecure: false,
            max_strangers: 8,
            patience: PeerPatience::default(),
        };
        let peers = Arc::new(Peers::start(options, hello, end.clone()).expect("starts"));
        let _ = end.peers.set(peers.clone());
        (peers, end)
    })
}

fn run((peers, end): &(Arc<Peers>, Arc<End>), bytes: usize, in_flight: u64, length: Duration) {
    let data = Bytes::from(vec![7; bytes]);
    let before = end.answers.load(Ordering::Acquire);
    let (begin, cpu) = (Instant::now(), cpu_us());
    let mut sent = 0;
    while begin.elapsed() < length {
        let answered = end.answers.load(Ordering::Acquire) - before;
        if sent - answered >= in_flight {
            // As the thread that drives the groups: it sleeps until there is something to do.
            std::thread::sleep(Duration::from_micros(20));
            continue;
        }
        for _ in 0..in_flight - (sent - answered) {
            sent += 1;
            let entry = Entry { index: sent, term: 1, data: data.clone(), ..Entry::default() };
            let mut message = Message { to: 2, from: 1, term: 1, index: sent - 1, ..Message::default() };
            message.set_msg_type(MessageType::MsgAppend);
            message.set_entries(vec![entry].into());
            peers.send("a-shard", message);
        }
    }
    while end.answers.load(Ordering::Acquire) - before < sent {
        std::thread::sleep(Duration::from_micros(20));
    }
    let (took, cpu) = (begin.elapsed().as_secs_f64(), cpu_us() - cpu);
    let rate = sent as f64 / took;
    let mb = rate * bytes as f64 / 1e6;
    println!("{bytes:11}  {in_flight:9}  {rate:10.0}  {mb:7.1}  {:14.2}", cpu as f64 / sent as f64);
}

/// CPU that this process has used, in microseconds.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // After the name, which may have spaces: user and system time are the fields 14 and 15, in hundredths of a second.
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    ticks * 10_000
}
