//! A client: does its operations one after the other, through all crashes, and records what it sees.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use durability_histories::connection::{Connection, Reply};
use durability_histories::history::Recorder;
use durability_histories::operation::Operation;

/// Pause between attempts while nobody listens or the server refuses. Short, to be there when it begins to serve.
const RETRY: Duration = Duration::from_millis(2);

/// How long an answer may take. Restarts are over long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the server may stay away.
const AWAY_TIMEOUT: Duration = Duration::from_secs(20);

/// Does all operations, each until it is answered or its outcome is unknown.
///
/// # Errors
/// The server stays away, or answers what it should not.
pub fn run(server_url: &str, operations: &[Operation], recorder: &Recorder) -> Result<()> {
    let mut session = recorder.begin_session();
    let mut connection = connect(server_url)?;
    for operation in operations {
        let started = Instant::now();
        loop {
            let call = recorder.invoked(session, operation);
            match connection.call(operation)? {
                Reply::Answer(value) => {
                    recorder.answered(call, value);
                    break;
                }
                Reply::Refused => {
                    recorder.refused(call);
                    ensure!(started.elapsed() < AWAY_TIMEOUT, "{operation} is refused for {AWAY_TIMEOUT:?}");
                    thread::sleep(RETRY);
                    connection = connect(server_url)?;
                }
                Reply::Silence => bail!("no answer for {ANSWER_TIMEOUT:?} to {operation}"),
                Reply::Unknown => {
                    session = recorder.begin_session();
                    connection = connect(server_url)?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Connects as soon as the server listens.
fn connect(server_url: &str) -> Result<Connection> {
    let started = Instant::now();
    loop {
        let connection = Connection::open(server_url, ANSWER_TIMEOUT);
        // A server that is being killed may still accept connections. What is sent on them has no known outcome.
        match connection.and_then(|mut connection| connection.command("PING", &[]).map(|_| connection)) {
            Ok(connection) => return Ok(connection),
            Err(error) if started.elapsed() > AWAY_TIMEOUT => return Err(error).context("the server stays away"),
            Err(_) => thread::sleep(RETRY),
        }
    }
}
