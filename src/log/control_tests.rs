use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Instant;

use durability_protocol::RESIGN;

use super::*;
use crate::agent::grant::Grant;
use crate::base::process_identity;
use crate::base::time_limit::EndTime;
use crate::log::control_commands::{Engine, LogPosition};
use crate::log::services::Services;

const LONG: Duration = Duration::from_secs(60);

/// A node that knows nothing of its log.
struct TestNode(EndTime, Services);

impl Default for TestNode {
    fn default() -> Self {
        TestNode(EndTime::default(), Services::of("127.0.0.1:1"))
    }
}

impl LocalNode for TestNode {
    fn node_id(&self) -> String {
        "n0".to_owned()
    }

    fn address(&self) -> String {
        "n0:1".to_owned()
    }

    fn known(&self) -> Option<Known> {
        None
    }

    fn services(&self) -> &Services {
        &self.1
    }

    fn end(&self) -> &EndTime {
        &self.0
    }
}

/// Opens a connection to a log that sends each reply after its time.
fn open(within: Duration, replies: &'static [(&'static str, Duration)]) -> Result<LogConnection, LogError> {
    let node = Arc::new(TestNode::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut log, _) = listener.accept().unwrap();
        for (reply, pause) in replies.iter().cycle() {
            std::thread::sleep(*pause);
            if log.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    });
    let socket = LogSocket::new(socket, "127.0.0.1", None).unwrap();
    let limit = TimeLimit::within(within, AtEnd::BreaksOff, node.end());
    LogConnection::open_on(socket, node.services().in_use(), &node, within, AtEnd::BreaksOff, &limit, None)
}

#[track_caller]
fn assert_takes_too_long(within: Duration, replies: &'static [(&'static str, Duration)]) {
    let began = Instant::now();
    let error = open(within, replies).err().expect("it takes too long");
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert!(began.elapsed() < LONG / 2, "the limit ends it");
}

#[test]
fn login_and_comparison_share_one_limit() {
    const PAUSE: Duration = Duration::from_millis(300);
    const REPLIES: &[(&str, Duration)] = &[("+OK\r\n", PAUSE), ("$2\r\nid\r\n", PAUSE)];
    assert_eq!(open(LONG, REPLIES).ok().map(|log| log.log_id), Some("id".to_owned()));
    // Each of the two comes in time by itself.
    assert_takes_too_long(PAUSE + PAUSE / 2, REPLIES);
}

#[test]
fn a_service_that_knows_nobody_who_decides_is_told_of_the_node_and_one_that_does_is_not() {
    const LIST: &str = "127.0.0.1:1,127.0.0.1:2";
    let told = |refusal: &'static str| {
        let node = Arc::new(TestNode(EndTime::default(), Services::of(LIST)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let log = std::thread::spawn(move || {
            let (mut log, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            for answer in ["+OK\r\n", refusal, refusal] {
                let mut command = [0; 4096];
                match log.read(&mut command).unwrap() {
                    0 => break,
                    count => heard = command[..count].to_vec(),
                }
                log.write_all(answer.as_bytes()).unwrap();
            }
            String::from_utf8(heard).unwrap()
        });
        let socket = LogSocket::new(socket, "127.0.0.1", None).unwrap();
        let limit = TimeLimit::within(LONG, AtEnd::BreaksOff, node.end());
        let report = Report {
            role: "leader",
            priority: 100,
            zone: "z1".to_owned(),
            applied: 7,
            version: 0,
            figures: None,
            settings: None,
        };
        let (service, at_end) = (node.services().in_use(), AtEnd::BreaksOff);
        let opened = LogConnection::open_on(socket, service, &node, LONG, at_end, &limit, Some(&report));
        assert_eq!(opened.err().and_then(|error| error.code()), Some(Code::NotLeader));
        log.join().unwrap()
    };
    let last = told("-NOTLEADER - nobody is known to decide\r\n");
    assert!(last.contains("LOG.NODE") && last.contains("leader") && last.contains("z1"), "{last}");
    let last = told("-NOTLEADER 127.0.0.1:2 decides\r\n");
    assert!(last.contains("LOG.CHECK"), "the other one is asked at once: {last}");
}

#[test]
fn an_answer_that_trickles_in_ends_at_the_limit() {
    const ENDLESS: &[(&str, Duration)] = &[("+", Duration::ZERO), ("O", Duration::from_millis(10))];
    assert_takes_too_long(Duration::from_millis(200), ENDLESS);
}

#[test]
fn an_answer_that_has_come_counts_although_the_time_is_over() {
    let node = Arc::new(TestNode::default());
    let (mut connection, log) = log_that_answers(&node, vec![b":7\r\n".to_vec()]);
    let over = TimeLimit::within(Duration::ZERO, AtEnd::GoesOn, node.end());
    let error = connection.receive(&over).expect_err("nothing has come");
    assert!(error.to_string().contains("no answer in time"), "{error}");
    connection.socket.write_all(b"question").unwrap();
    log.join().unwrap();
    let receives = connection.receive(&over);
    assert!(matches!(receives, Ok(OwnedFrame::Integer(7))), "{receives:?}");
}

#[test]
fn a_node_that_is_to_end_waits_for_the_answer_to_acquire_and_asks_nothing_else() {
    let node = Arc::new(TestNode::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ending = Arc::clone(&node);
    let log = std::thread::spawn(move || {
        let (mut log, _) = listener.accept().unwrap();
        let mut answers = log.try_clone().unwrap();
        let mut receives = || log.read(&mut [0; 4096]).unwrap() > 0;
        assert!(receives());
        answers.write_all(b"+OK\r\n").unwrap();
        assert!(receives());
        ending.end().stop(Instant::now() + LONG);
        // Longer than the node needs to notice that it is to end.
        std::thread::sleep(Duration::from_millis(300));
        answers.write_all(b"*2\r\n:7\r\n:0\r\n").unwrap();
        assert!(!receives(), "a question was sent although nobody waits for its answer");
    });
    let socket = LogSocket::new(socket, "127.0.0.1", None).unwrap();
    let limit = TimeLimit::within(LONG, AtEnd::BreaksOff, node.end());
    let mut connection =
        LogConnection::log_in(socket, node.services().in_use(), &node, LONG, AtEnd::BreaksOff, &limit).unwrap();
    let (own, position) = (Node { id: "n0", address: "n0:1" }, LogPosition { end: 0, replid: None, seen: 6 });
    let engine = Engine { version: "9.1.0".to_owned(), databases: 0 };
    connection.may_ask().unwrap();
    assert_eq!(connection.acquire(&own, &position, Duration::ZERO, &engine).unwrap(), 7);
    let refused = [connection.may_ask(), connection.status().map(drop)];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.to_string().contains("before this node ended"), "{error}");
    }
    drop(connection);
    log.join().unwrap();
}

/// A log that answers the login, and then one question after another.
fn log_that_answers(node: &Arc<TestNode>, answers: Vec<Vec<u8>>) -> (LogConnection, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let log = std::thread::spawn(move || {
        let (mut log, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        for answer in std::iter::once(b"+OK\r\n".to_vec()).chain(answers) {
            let mut bytes = [0; 4096];
            let count = log.read(&mut bytes).unwrap();
            asked.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
            log.write_all(&answer).unwrap();
        }
        asked
    });
    let socket = LogSocket::new(socket, "127.0.0.1", None).unwrap();
    let limit = TimeLimit::within(LONG, AtEnd::GoesOn, node.end());
    (LogConnection::log_in(socket, node.services().in_use(), node, LONG, AtEnd::GoesOn, &limit).unwrap(), log)
}

#[test]
fn a_lease_that_is_granted_late_is_given_back_as_long_as_there_is_time() {
    const IP: &str = "127.0.0.1";
    let node = Arc::new(TestNode::default());
    let own = process_identity::own_name(IP);
    let status = |epoch: &str, leader: &str, process: &str| {
        encode(&["end", "0", "epoch", epoch, "leader", leader, "leader_process", process, "client_ip", IP])
    };
    let before = || status("4", "", "");
    let answers = vec![before(), before(), status("5", "n0", &own), b"+OK\r\n".to_vec()];
    let (mut connection, log) = log_that_answers(&node, answers);
    let end = Some(Instant::now() + LONG);
    assert_eq!(Grant::Unknown(Instant::now()).resign(&mut connection, "n0", end).unwrap(), Some(5));
    assert!(log.join().unwrap().last().unwrap().contains(RESIGN));
    // The lease belongs to another process; or no lease comes in time.
    for (answer, grant) in [(status("5", "n1", &own), Grant::Epoch(5)), (before(), Grant::Unknown(Instant::now()))] {
        let (mut connection, log) = log_that_answers(&node, vec![answer]);
        assert_eq!(grant.resign(&mut connection, "n0", Some(Instant::now())).unwrap(), None);
        assert_eq!(log.join().unwrap().len(), 2, "the only question is who leads");
    }
}

/// A log service on a port of its own that answers each command on each connection by the next of `answers`, and stays silent after the
/// last. Returns its address, and how often it was connected to.
fn service(answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
    service_after(Duration::ZERO, answers)
}

/// As [`service`], but on each connection the first answer takes that long.
fn service_after(pause: Duration, answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let (mut answers, all) = (answers.iter(), answers.len());
                while socket.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                    std::thread::sleep(if answers.len() == all { pause } else { Duration::ZERO });
                    if let Some(answer) = answers.next() {
                        let _ = socket.write_all(answer.as_bytes());
                    }
                }
            });
        }
    });
    (address, connections)
}

#[test]
fn a_service_that_answers_late_is_given_longer_if_there_is_no_other() {
    let (late, _) = service_after(Duration::from_millis(1300), DECIDES);
    let node = Arc::new(TestNode(EndTime::default(), Services::of(&format!("{late},{}", nothing()))));
    assert!(
        node.services().time_for_one() < Duration::from_millis(1300),
        "it is too late for a service that is one of several"
    );
    let mut attempts = (1..10).map(|_| LogConnection::open_within(&node, LONG, AtEnd::BreaksOff));
    assert!(attempts.any(|opened| opened.is_ok()), "it is never waited for");
}

/// The address of a port at which nothing listens.
fn nothing() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

const DECIDES: &[&str] = &["+OK\r\n", "$2\r\nid\r\n"];

#[test]
fn the_service_that_decides_is_found_behind_others_of_every_kind() {
    let (decides, _) = service(DECIDES);
    let (silent, _) = service(&[]);
    let (knows_no_leader, _) = service(&["+OK\r\n", "-NOTLEADER - nobody decides\r\n"]);
    let (takes_no_token, _) = service(&["-WRONGPASS no\r\n"]);
    for other in [silent, knows_no_leader, takes_no_token, nothing()] {
        for list in [format!("{other},{decides}"), format!("{other},{},{decides}", nothing())] {
            let node = Arc::new(TestNode(EndTime::default(), Services::of(&list)));
            let log = LogConnection::open_within(&node, LONG, AtEnd::BreaksOff).unwrap();
            assert_eq!((log.log_id(), log.service().address.as_str()), ("id", decides.as_str()));
            assert_eq!(node.services().in_use().address, decides);
        }
    }
}

#[test]
fn a_stranger_that_a_service_names_is_not_connected_to() {
    let (stranger, connections) = service(DECIDES);
    let answer = format!("-NOTLEADER {stranger} decides\r\n").leak();
    let (names_stranger, asked) = service(vec!["+OK\r\n", answer].leak());
    let node = Arc::new(TestNode(EndTime::default(), Services::of(&format!("{names_stranger},{}", nothing()))));
    for round in 1..=2 {
        let error = LogConnection::open_within(&node, LONG, AtEnd::BreaksOff).err().unwrap();
        assert!(error.to_string().contains("cannot be reached"), "the other one of the list was tried: {error}");
        assert_eq!((connections.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)), (0, round));
    }
}

#[test]
fn a_question_to_a_silent_service_ends_when_another_one_is_found_to_decide() {
    let (falls_silent, _) = service(DECIDES);
    let list = format!("{falls_silent},{}", nothing());
    let node = Arc::new(TestNode(EndTime::default(), Services::of(&list)));
    let mut log = LogConnection::open_within(&node, LONG, AtEnd::BreaksOff).unwrap();
    let other = Arc::clone(&node);
    let finds = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        // As another thread does whose connection was lost.
        other.services().failed(&other.services().in_use(), Failure::Lost);
        other.services().decided(&other.services().in_use());
    });
    let began = Instant::now();
    let error = log.status().err().unwrap();
    finds.join().unwrap();
    assert!(error.to_string().contains("another one decides by now"), "{error}");
    assert!(began.elapsed() < LONG / 2);
    assert_ne!(node.services().in_use().address, falls_silent);
}

#[test]
fn what_is_broken_off_says_nothing_of_the_service() {
    let (falls_silent, _) = service(DECIDES);
    let node = Arc::new(TestNode(EndTime::default(), Services::of(&format!("{falls_silent},{}", nothing()))));
    let mut log = LogConnection::open_within(&node, LONG, AtEnd::BreaksOff).unwrap();
    let breaker = log.breaker();
    let breaks = std::thread::spawn(move || breaker.break_off());
    assert!(log.status().is_err());
    breaks.join().unwrap();
    assert_eq!(node.services().in_use().address, falls_silent);
}
