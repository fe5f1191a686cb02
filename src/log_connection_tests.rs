use std::net::TcpListener;
use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// Opens a connection to a log that sends each of these after that time.
fn open(within: Duration, replies: &'static [(&'static str, Duration)]) -> Result<LogConnection, LogError> {
    let (shared, _tasks) = Shared::new().unwrap();
    let shared = Arc::new(shared);
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
    let limit = TimeLimit::within(within, AtEnd::BreaksOff, &shared.end);
    LogConnection::open_on(socket, &shared, within, AtEnd::BreaksOff, &limit)
}

#[track_caller]
fn assert_takes_too_long(within: Duration, replies: &'static [(&'static str, Duration)]) {
    let began = Instant::now();
    let error = open(within, replies).err().expect("it takes longer than it may");
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert!(began.elapsed() < LONG / 2, "it is given up when its time is over");
}

#[test]
fn login_and_comparison_share_one_limit() {
    const PAUSE: Duration = Duration::from_millis(300);
    const REPLIES: &[(&str, Duration)] = &[("+OK\r\n", PAUSE), ("$2\r\nid\r\n", PAUSE)];
    assert_eq!(open(LONG, REPLIES).ok().map(|log| log.log_id), Some("id".to_owned()));
    // Each of them comes within it.
    assert_takes_too_long(PAUSE + PAUSE / 2, REPLIES);
}

#[test]
fn an_answer_that_trickles_in_ends_at_the_limit() {
    const ENDLESS: &[(&str, Duration)] = &[("+", Duration::ZERO), ("O", Duration::from_millis(10))];
    assert_takes_too_long(Duration::from_millis(200), ENDLESS);
}
