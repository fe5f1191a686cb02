//! What is at the other end is no peer, or a peer that does not behave.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::framed::{FrameReader, FrameWriter};
use super::greet::Greeted;
use super::*;
use crate::replica::wire::{Begin, Frame, Kind, Pieces, Refusal, VERSION};

/// Two services, and the address of the first.
async fn pair(patience: PeerPatience) -> ([Node; 2], String) {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let peers = [peer("a", &address_a), peer("b", &address_b), peer("x", &address_a)];
    let a = Setup { patience, ..Setup::new("a", 1) }.start(to_a, &peers);
    let b = Setup::new("b", 2).start(to_b, &peers[..2]);
    a.connected_to(2).await;
    b.connected_to(1).await;
    ([a, b], address_a)
}

/// What comes until the other end closes the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // It may be reset, as not all that was sent was read.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it is closed");
    bytes
}

/// What a service needs to speak as `name`.
fn shared_as(name: &str, member: u64, peers: &[&str]) -> Arc<Shared> {
    let (_, own) = watch::channel(Setup::new(name, member).hello);
    let registry = Registry::new(own, peers.iter().map(|&name| name.to_owned()));
    let token = PeerToken::of(TOKEN).expect("a token");
    Arc::new(Shared { token, tls: None, process: 1, registry, events: Arc::new(Ear::default()), patience: quick() })
}

/// Connects as the peer `x`.
async fn connect_as_x(address: &str, lane: Lane) -> (FrameReader, FrameWriter, Greeted) {
    let shared = shared_as("x", 9, &["a"]);
    let stream = TcpStream::connect(address).await.expect("connected");
    let (mut reader, mut writer) = framed::split(Box::new(stream), PATIENCE);
    let own = shared.registry.own().borrow().clone();
    let greeted = greet::connect(&shared, (&mut reader, &mut writer), ("a", lane), b"", &own).await.expect("let in");
    (reader, writer, greeted)
}

/// Until the connection ends.
async fn end_of(reader: &mut FrameReader) -> ConnectionError {
    let ended = async {
        loop {
            match reader.next().await {
                Ok(frame) => assert_eq!(frame.kind, Kind::Ping),
                Err(error) => return error,
            }
        }
    };
    timeout(PATIENCE, ended).await.expect("it ends")
}

#[tokio::test]
async fn garbage_and_halves_of_frames_close_that_connection_alone() {
    let patience = PeerPatience { greeting: Duration::from_millis(300), ..quick() };
    let ([a, b], address) = pair(patience).await;
    let begin = Begin { version: VERSION, lane: 0, nonce: [1; 32] };
    let whole = Frame::encode(Kind::Begin, begin.encode());
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[255; 64], &flipped, &whole[..20], b""] {
        let mut stream = TcpStream::connect(&address).await.expect("connected");
        stream.write_all(bytes).await.expect("sent");
        assert_eq!(rest(&mut stream).await, b"");
    }
    // As far as the challenge, which it does not answer.
    let mut stream = TcpStream::connect(&address).await.expect("connected");
    stream.write_all(&whole).await.expect("sent");
    assert_eq!(rest(&mut stream).await[8], Kind::Challenge as u8);
    assert!(a.peers.is_connected(2) && b.peers.is_connected(1));
    assert!([&a, &b].iter().all(|node| node.ear.heard.lock().expect("no panic").unreachable.is_empty()));
}

#[tokio::test]
async fn another_version_is_told_so() {
    let (_nodes, address) = pair(quick()).await;
    let begin = Begin { version: VERSION + 1, lane: 0, nonce: [1; 32] };
    let mut body = begin.encode();
    body.put_slice(b"and what that version says besides");
    let mut stream = TcpStream::connect(&address).await.expect("connected");
    stream.write_all(&Frame::encode(Kind::Begin, body)).await.expect("sent");
    let (mut reader, _writer) = framed::split(Box::new(stream), PATIENCE);
    let error = end_of(&mut reader).await.to_string();
    assert!(
        error.contains(&format!("speaks version {}", VERSION + 1)) && error.contains("upgrade the older one"),
        "{error}"
    );
}

#[tokio::test]
async fn a_crowd_of_strangers_keeps_no_peer_out() {
    let (to_a, address_a) = listener().await;
    let (to_b, address_b) = listener().await;
    let peers = [peer("a", &address_a), peer("b", &address_b)];
    let _a = Setup::new("a", 1).start(to_a, &peers);
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(TcpStream::connect(&address_a).await.expect("connected"));
    }
    let b = Setup::new("b", 2).start(to_b, &peers);
    b.connected_to(1).await;
    let ended = strangers.iter().filter(|stranger| matches!(stranger.try_read(&mut [0]), Ok(0) | Err(_)));
    assert!(ended.count() >= 32);
}

#[tokio::test]
async fn a_peer_that_sends_nonsense_loses_that_connection_alone() {
    let ([a, b], address) = pair(quick()).await;
    let mut for_another = Pieces::default();
    assert!(crate::replica::wire::put_message("s1", &heartbeat(7, 0), &mut for_another));
    let mut garbage = Pieces::default();
    garbage.put_slice(&[200; 100]);
    let mut another_name = Pieces::default();
    Setup::new("b", 2).hello.encode(&mut another_name);
    let cases = [
        (Kind::Messages, for_another, "closed"),
        (Kind::Messages, garbage, "closed"),
        (Kind::Challenge, Pieces::default(), "closed"),
        (Kind::Request, Pieces::default(), "closed"),
        (Kind::Hello, another_name, "cannot become another service"),
    ];
    for (kind, body, end) in cases {
        let (mut reader, mut writer, _greeted) = connect_as_x(&address, Lane::Control).await;
        writer.send(kind, body).await.expect("sent");
        let error = end_of(&mut reader).await.to_string();
        assert!(error.contains(end), "{kind:?}: {error}");
    }
    assert!(a.peers.is_connected(2) && b.peers.is_connected(1));
    assert!(a.ear.heard.lock().expect("no panic").messages.is_empty());
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_one_that_pings_is_not() {
    let patience = PeerPatience { silence: Duration::from_millis(500), ..quick() };
    let (_nodes, address) = pair(patience).await;
    let (mut silent, _writer, _greeted) = connect_as_x(&address, Lane::Control).await;
    let (_reader, mut pinging, _greeted) = connect_as_x(&address, Lane::Log).await;
    let pings = async {
        loop {
            pinging.send(Kind::Ping, Pieces::default()).await.expect("it is there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = end_of(&mut silent) => {}
        () = pings => {}
    }
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_an_older_one_of_the_same_process() {
    let (_nodes, address) = pair(quick()).await;
    let (mut older, _writer, _greeted) = connect_as_x(&address, Lane::Log).await;
    let (mut newer, _newer_writer, _greeted) = connect_as_x(&address, Lane::Log).await;
    assert!(matches!(end_of(&mut older).await, ConnectionError::Closed));
    assert!(timeout(Duration::from_millis(100), end_of(&mut newer)).await.is_err(), "it stays");
}

#[tokio::test]
async fn who_takes_a_connection_has_to_prove_itself_as_well() {
    let ((to_a, address_a), (impostor, address_b)) = (listener().await, listener().await);
    let mut setup = Setup::new("a", 1);
    setup.patience.connection = Duration::from_millis(20);
    let a = setup.start(to_a, &[peer("a", &address_a), peer("b", &address_b)]);
    tokio::spawn(async move {
        let shared = Arc::new(Shared {
            token: PeerToken::of("what an impostor guesses").expect("long enough"),
            tls: None,
            process: 1,
            registry: shared_as("b", 2, &["a"]).registry.clone(),
            events: Arc::new(Ear::default()),
            patience: quick(),
        });
        while let Ok((stream, _)) = impostor.accept().await {
            let (mut reader, mut writer) = framed::split(Box::new(stream), PATIENCE);
            // It lets everybody in, and so does not look at the proof.
            let _ = welcome_unseen(&shared, &mut reader, &mut writer).await;
        }
    });
    let error = a.trouble("b").await;
    assert!(error.contains("the --peer-token files differ"), "{error}");
    assert!(a.ear.heard.lock().expect("no panic").hellos.is_empty());
}

async fn welcome_unseen(
    shared: &Arc<Shared>,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), ConnectionError> {
    use crate::replica::wire::{Challenge, Introduction, Welcome};
    let begin = Begin::decode(reader.next().await?.body)?;
    let challenge = Challenge { version: VERSION, nonce: [5; 32] };
    writer.send(Kind::Challenge, challenge.encode()).await?;
    let Introduction { to, .. } = Introduction::decode(reader.next().await?.body)?;
    let said = proof::Said { begin: &begin, challenge: &challenge, to: &to, channel: b"" };
    let hello = shared.registry.own().borrow().clone();
    let proof = said.prove(&shared.token, proof::Role::Accepts, proof::Told { process: 1, hello: &hello });
    writer.send(Kind::Welcome, Welcome { proof, process: 1, hello }.encode()).await
}

#[tokio::test]
async fn a_peer_that_stops_reading_costs_bounded_memory_and_is_given_up() {
    const BYTES: usize = 1 << 20;
    let ((to_a, address_a), (stalled, address_b)) = (listener().await, listener().await);
    let patience = PeerPatience { silence: Duration::from_millis(1500), ..quick() };
    let a = Setup { patience, ..Setup::new("a", 1) }.start(to_a, &[peer("a", &address_a), peer("b", &address_b)]);
    let shared = shared_as("b", 2, &["a"]);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = stalled.accept().await {
            let (mut reader, mut writer) = framed::split(Box::new(stream), PATIENCE);
            // What fails is tried again.
            if let Ok(greeted) = greet::accept(&shared, (&mut reader, &mut writer), b"", || true).await {
                let pings = tokio::spawn(async move {
                    while writer.send(Kind::Ping, Pieces::default()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
                kept.push((reader, greeted, pings));
            }
        }
    });
    a.connected_to(2).await;
    let data = bytes::Bytes::from(vec![7; BYTES]);
    let mut most = 0;
    for index in 0..200 {
        let mut message = append(2, index, Vec::new());
        message.mut_entries()[0].data = data.clone();
        a.peers.send("s1", message);
        most = most.max(a.peers.waiting_bytes(2));
    }
    assert!((40 << 20..64 << 20).contains(&most), "{most}");
    // Once for what was dropped, then for the connection.
    a.ear.until(|heard| (heard.unreachable.len() == 1).then_some(())).await;
    a.ear.until(|heard| (heard.unreachable.len() == 2).then_some(())).await;
    assert!(a.peers.waiting_bytes(2) < 40 << 20, "what waited is dropped");
}

#[tokio::test]
async fn a_refusal_is_heard() {
    let (_nodes, address) = pair(quick()).await;
    let (mut reader, mut writer, _greeted) = connect_as_x(&address, Lane::Control).await;
    writer.send(Kind::Refused, Refusal("for a test".to_owned()).encode()).await.expect("sent");
    assert!(matches!(end_of(&mut reader).await, ConnectionError::Closed));
}

/// So that what a service proves to whoever has the address of one peer cannot be passed on to another.
#[tokio::test]
async fn a_proof_that_is_meant_for_one_service_does_not_open_another() {
    let (_nodes, address) = pair(quick()).await;
    let shared = shared_as("x", 9, &["c"]);
    let stream = TcpStream::connect(&address).await.expect("connected");
    let (mut reader, mut writer) = framed::split(Box::new(stream), PATIENCE);
    let own = shared.registry.own().borrow().clone();
    let ends = (&mut reader, &mut writer);
    let greeted = greet::connect(&shared, ends, ("c", Lane::Control), b"", &own).await;
    let error = greeted.map(drop).expect_err("refused");
    let is_by_other_end = matches!(&error, ConnectionError::Refused(why) if why.contains("is a, not c"));
    assert!(is_by_other_end, "{error}");
}
