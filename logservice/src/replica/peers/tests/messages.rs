//! Messages, requests and hellos arrive, also after a connection was lost.

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::*;

/// Passes connections on, until they are cut.
struct Proxy {
    address: String,
    cut: Arc<Notify>,
}

impl Proxy {
    async fn to(target: String) -> Self {
        let (listener, address) = listener().await;
        let cut = Arc::new(Notify::new());
        let cut_here = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (target, cut) = (target.clone(), cut_here.clone());
                tokio::spawn(async move {
                    let mut onward = TcpStream::connect(target).await.expect("connected");
                    tokio::select! {
                        _ = copy_bidirectional(&mut stream, &mut onward) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        Proxy { address, cut }
    }
}

#[tokio::test]
async fn three_services_know_each_other_and_messages_arrive_in_order() {
    const MESSAGES: u64 = 500;
    let nodes = start(vec![Setup::new("a", 1), Setup::new("b", 2), Setup::new("c", 3)]).await;
    for (from, member) in [(0, 2), (0, 3), (1, 1), (1, 3), (2, 1), (2, 2)] {
        nodes[from].connected_to(member).await;
    }
    let peers = &nodes[0].peers;
    let send_all = || {
        for index in 0..MESSAGES {
            // Some are long enough to be pieces of their own.
            let bytes = if index % 50 == 0 { 300_000 } else { 10 };
            let messages =
                [("s1", append(2, index, vec![index as u8; bytes])), ("s2", append(3, index, vec![index as u8; 10]))];
            for (group, message) in messages.into_iter().chain([("", heartbeat(2, index))]) {
                // By the connections' tasks, and by this thread until a connection takes no more.
                if index % 3 == 0 {
                    peers.send(group, message);
                } else {
                    peers.queue(group, message);
                }
            }
            if index % 3 == 1 {
                peers.flush();
            }
        }
        peers.flush();
    };
    // A thread of no runtime, and the runtime stands still meanwhile.
    std::thread::scope(|scope| scope.spawn(send_all).join().expect("no panic"));
    let all = |group: &'static str, kind| {
        move |heard: &mut Heard| {
            let of_group =
                |(_, in_group, message): &&(u64, String, Message)| in_group == group && message.msg_type == kind;
            let found: Vec<_> = heard.messages.iter().filter(of_group).map(|(_, _, message)| message.clone()).collect();
            (found.len() == MESSAGES as usize).then_some(found)
        }
    };
    for (node, group) in [(&nodes[1], "s1"), (&nodes[2], "s2")] {
        let appends = node.ear.until(all(group, MessageType::MsgAppend)).await;
        for (index, message) in appends.iter().enumerate() {
            let expected = append(message.to, index as u64, message.entries[0].data.to_vec());
            assert_eq!(*message, expected);
            assert!(message.entries[0].data.iter().all(|byte| *byte == index as u8));
        }
    }
    let heartbeats = nodes[1].ear.until(all("", MessageType::MsgHeartbeat)).await;
    assert!(heartbeats.iter().map(|message| message.commit).eq(0..MESSAGES));
    assert!(nodes[1].ear.heard.lock().expect("no panic").messages.iter().all(|(from, ..)| *from == 1));
    let names: Vec<_> =
        nodes[0].peers.known().into_iter().map(|hello| (hello.name, hello.member, hello.zone)).collect();
    let expected = [("b", 2), ("c", 3)].map(|(name, member)| (name.to_owned(), member, format!("zone-{name}")));
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_peer_answers_what_it_is_asked() {
    let nodes = start(vec![Setup::new("a", 1), Setup::new("b", 2)]).await;
    let asked = (0..20).map(|number| {
        let peers = &nodes[0].peers;
        async move { peers.ask("b", format!("{number}").into_bytes()).await }
    });
    for (number, answer) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
        assert_eq!(answer.expect("an answer"), format!("a asks {number}").into_bytes());
    }
    let files = nodes[0].peers.ask_for_files("b", b"1".to_vec()).await.expect("an answer");
    assert_eq!(files, b"a wants 1", "that has a connection of its own");
    let long = vec![7; crate::replica::wire::MOST_REQUEST_BYTES];
    let answer = nodes[0].peers.ask("b", long[..long.len() - 7].to_vec()).await.expect("an answer");
    assert_eq!(answer.len(), long.len());
    let error = nodes[0].peers.ask("b", [long, vec![7]].concat()).await.expect_err("too long");
    assert!(matches!(error, PeerError::TooMuch(_)), "{error}");
    let error = nodes[0].peers.ask("x", Vec::new()).await.expect_err("nobody");
    assert!(matches!(error, PeerError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn a_service_that_joins_a_cluster_tells_its_peers() {
    let nodes = start(vec![Setup::new("a", 1), Setup::new("b", 2)]).await;
    nodes[0].connected_to(2).await;
    nodes[0].hello.send_modify(|hello| hello.cluster = Some(9));
    let joined = |heard: &mut Heard| heard.hellos.iter().any(|hello| hello.cluster == Some(9)).then_some(());
    nodes[1].ear.until(joined).await;
    assert_eq!(nodes[1].peers.known()[0].cluster, Some(9));
    // So both are of the same one, and both stay.
    nodes[1].hello.send_modify(|hello| hello.cluster = Some(9));
    nodes[0].ear.until(joined).await;
    assert!(nodes[0].peers.is_connected(2));
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again_and_what_was_lost_is_told() {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let proxy = Proxy::to(address_b).await;
    let peers = [peer("a", &address_a), peer("b", &proxy.address)];
    let a = Setup::new("a", 1).start(to_a, &peers);
    let b = Setup::new("b", 2).start(to_b, &peers);
    for round in 0..3 {
        a.connected_to(2).await;
        a.peers.send("s1", append(2, round, b"x".to_vec()));
        b.ear.until(|heard| heard.messages.iter().any(|(.., message)| message.index == round).then_some(())).await;
        proxy.cut.notify_waiters();
        // Both lanes of messages.
        a.ear.until(|heard| (heard.unreachable.len() == 2 * (round as usize + 1)).then_some(())).await;
    }
    assert!(a.ear.heard.lock().expect("no panic").unreachable.iter().all(|member| *member == 2));
}

#[tokio::test]
async fn a_peer_that_was_started_again_with_another_id_is_reached_by_that() {
    let ((to_a, address_a), (to_b, address_b)) = (listener().await, listener().await);
    let peers = [peer("a", &address_a), peer("b", &address_b)];
    let a = Setup::new("a", 1).start(to_a, &peers);
    let b = Setup::new("b", 2).start(to_b, &peers);
    a.connected_to(2).await;
    b.connected_to(1).await;
    drop(b);
    a.ear.until(|heard| (heard.unreachable.len() == 2).then_some(())).await;
    let again = async {
        loop {
            match TcpListener::bind(&address_b).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let to_b = timeout(PATIENCE, again).await.expect("its port is free");
    let b = Setup::new("b", 5).start(to_b, &peers);
    a.connected_to(5).await;
    a.peers.send("s1", append(2, 0, b"for the old one".to_vec()));
    a.peers.send("s1", append(5, 1, b"for the new one".to_vec()));
    let index = b.ear.until(|heard| heard.messages.first().map(|(.., message)| message.index)).await;
    assert_eq!(index, 1);
}
