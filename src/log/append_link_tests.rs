use super::*;

#[test]
fn a_refusal_ends_leadership_only_if_trying_again_cannot_help() {
    let backlog = Backlog::new(7);
    let known = Known::new("id");
    let of = |code| refused(Refusal::new(code, "x"), &backlog, Some(&known));
    assert!(matches!(of(Code::Fenced), LinkError::Fenced(_)));
    assert!(matches!(of(Code::Gap), LinkError::Contradicted(it) if it.is_lasting() && it.log_id == "id"));
    for code in [Code::Gap, Code::OtherLog] {
        let before = contradicted(&Refusal::new(code, "x"), Some(&known));
        assert!(matches!(before, LinkError::Contradicted(it) if !it.is_lasting()));
    }
    for code in [Code::NotLeader, Code::NoSpace, Code::LogFailed, Code::NoAuth, Code::NoPerm, Code::Err] {
        assert!(matches!(of(code), LinkError::Refused(refusal) if refusal.code == code), "{code:?}");
    }
    let before = contradicted(&Refusal::new(Code::NotLeader, "x"), Some(&known));
    assert!(matches!(before, LinkError::Refused(refusal) if refusal.code == Code::NotLeader));
}

#[test]
fn what_a_service_acknowledged_counts_although_it_does_not_decide_any_more() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut log, _) = listener.accept().unwrap();
    let mut backlog = Backlog::new(0);
    backlog.append(b"stream");
    backlog.take(3);
    backlog.take(3);
    let mut link = link_to(socket);
    link.expected = VecDeque::from([Expected::Append { end: 3 }, Expected::Append { end: 6 }]);
    log.write_all(b":3\r\n-NOTLEADER b:2 decides\r\n").unwrap();
    let refused = link.read_replies(&mut backlog);
    assert!(matches!(refused, Err(LinkError::Refused(refusal)) if refusal.code == Code::NotLeader));
    assert_eq!((backlog.durable(), backlog.pending_bytes()), (3, 3));
    // The rest is sent once more, to another service.
    backlog.rewind();
    assert_eq!(backlog.take(MAX_APPEND_BYTES), Some(3..6));
}

fn link_to(socket: TcpStream) -> AppendLink {
    AppendLink {
        socket: LogSocket::new(socket, "127.0.0.1", None).unwrap(),
        service: crate::log::services::Services::of("127.0.0.1:1").in_use(),
        expected: VecDeque::new(),
        outgoing: None,
        replies: Vec::new(),
        is_logged_in: true,
        known: None,
        progress: Instant::now(),
    }
}

/// A connection that is logged in, and its other end.
fn link_with_log() -> (AppendLink, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (log, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 64 << 10).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&log, 64 << 10).unwrap();
    socket.set_nonblocking(true).unwrap();
    (link_to(socket), log)
}

/// The log received on an earlier connection what this one is in the middle of sending, and its first reply says so.
#[test]
fn what_is_being_written_stays_until_it_is_written() {
    const BYTES: usize = 7 * MAX_APPEND_BYTES;
    let (mut link, mut log) = link_with_log();
    let stream: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
    let mut backlog = Backlog::new(0);
    backlog.append(&stream);
    // The log reads the first append, and a part of the second.
    let mut sent = vec![0; MAX_APPEND_BYTES + MAX_APPEND_BYTES / 3];
    log.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut taken = 0;
    while taken < sent.len() {
        assert!(link.send("s", 1, &mut backlog).is_ok());
        taken += log.read(&mut sent[taken..]).unwrap_or(0);
    }
    assert!(link.outgoing.as_ref().is_some_and(|outgoing| outgoing.payload.start >= MAX_APPEND_BYTES as u64));
    log.write_all(format!(":{}\r\n", backlog.sent()).as_bytes()).unwrap();
    while !link.read_replies(&mut backlog).is_ok_and(|is_news| is_news) {}
    log.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while backlog.sent() < backlog.end() || link.outgoing.is_some() {
        assert!(link.send("s", 1, &mut backlog).is_ok());
        if let Ok(count) = log.read(&mut buffer) {
            sent.extend_from_slice(&buffer[..count]);
        }
    }
    drop(link);
    log.set_nonblocking(false).unwrap();
    log.set_read_timeout(None).unwrap();
    log.read_to_end(&mut sent).unwrap();
    let mut expected = Vec::new();
    for (number, payload) in stream.chunks(MAX_APPEND_BYTES).enumerate() {
        append_header(&mut expected, "s", 1, (number * MAX_APPEND_BYTES) as u64, payload.len());
        expected.extend_from_slice(payload);
        expected.extend_from_slice(LINE_END);
    }
    assert!(sent == expected, "the log was sent other bytes than were written");
}

/// Another may have written what the first append was refused for, so the answer to the second says nothing of what is before it.
#[test]
fn an_acknowledgement_behind_a_refusal_does_not_count() {
    let (mut link, mut log) = link_with_log();
    let mut backlog = Backlog::new(0);
    for bytes in [10, 20] {
        backlog.append(&vec![b'x'; bytes]);
        assert!(link.send("s", 1, &mut backlog).is_ok());
    }
    log.write_all(b"-GAP 10 is the end of the log, which has other bytes at 0\r\n:30\r\n").unwrap();
    link.socket.tcp().set_nonblocking(false).unwrap();
    assert!(matches!(link.read_replies(&mut backlog), Err(LinkError::Contradicted(_))));
    assert_eq!(backlog.durable(), 0);
}
