//! A connection that never sends anything twice.

use std::time::Duration;

use anyhow::{bail, Result};
use redis::{Client, Connection as Link, IntoConnectionInfo, RedisConnectionInfo, RedisError, Value};

use crate::operation::Operation;

/// How long an answer may take. Restarts are over long before.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Errors of commands that were refused before they ran: the server is not attached to its log, or the log is too far
/// behind.
const REFUSALS: [&str; 2] = ["LOADING", "CLUSTERDOWN"];

/// What came of an operation that was sent.
#[derive(Debug)]
pub enum Reply {
    /// It was carried out.
    Answer(Value),
    /// It was refused, and never takes effect.
    Refused,
    /// The connection broke: it takes effect some time, or never.
    Unknown,
}

/// A connection to a server or a log service. After anything but an answer it is of no use any more.
pub struct Connection(Link);

impl Connection {
    /// Connects, if somebody listens.
    ///
    /// # Errors
    /// Nobody does.
    pub fn open(url: &str, timeout: Duration) -> Result<Self> {
        let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
        let client = Client::open(url.into_connection_info()?.set_redis_settings(plain))?;
        let link = client.get_connection_with_timeout(timeout)?;
        link.set_read_timeout(Some(timeout))?;
        link.set_write_timeout(Some(timeout))?;
        Ok(Connection(link))
    }

    /// Sends the operation and waits for its reply.
    ///
    /// # Errors
    /// The server answers what it should not, or nothing at all for [`ANSWER_TIMEOUT`].
    pub fn call(&mut self, operation: &Operation) -> Result<Reply> {
        // One after the other: of a transaction whose MULTI is refused, nothing may run alone.
        let mut last = Value::Nil;
        for command in operation.commands() {
            match command.query(&mut self.0).and_then(Value::extract_error) {
                Ok(value) => last = value,
                Err(error) if is_refusal(&error) => return Ok(Reply::Refused),
                Err(error) if error.is_timeout() => bail!("no answer for {ANSWER_TIMEOUT:?} to {operation}"),
                Err(error) if error.is_io_error() => return Ok(Reply::Unknown),
                Err(error) => bail!("unexpected answer to {operation}: {error}"),
            }
        }
        Ok(Reply::Answer(last))
    }

    /// Sends a command of an operator.
    ///
    /// # Errors
    /// It fails, or the connection does.
    pub fn command(&mut self, name: &str, arguments: &[&str]) -> Result<Value> {
        Ok(redis::cmd(name).arg(arguments).query(&mut self.0)?)
    }
}

fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some_and(|code| REFUSALS.contains(&code))
}
