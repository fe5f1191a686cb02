//! A connection that never sends anything twice.

use std::time::Duration;

use anyhow::{bail, Context, Result};
use redis::{
    Client, Cmd, Connection as Link, ConnectionLike, IntoConnectionInfo, RedisConnectionInfo, RedisError, Value,
};

use crate::operation::Operation;

/// Errors of commands that were refused before they ran: the server is not attached to its log, does not lead (any more), or
/// the log is too far behind; or the slot is another shard's. A script that gets one from its first write has written nothing.
const REFUSALS: [&str; 6] = ["LOADING", "CLUSTERDOWN", "READONLY", "TRYAGAIN", "EXECABORT", "MOVED"];

/// What came of an operation that was sent.
#[derive(Debug)]
pub enum Reply {
    /// It was carried out.
    Answer(Value),
    /// It was refused, and never takes effect.
    Refused,
    /// The connection broke: it takes effect some time, or never.
    Unknown,
    /// No answer came in time: it takes effect some time, or never.
    Silence,
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
    /// The server answers what it should not.
    pub fn call(&mut self, operation: &Operation) -> Result<Reply> {
        self.exchange(&operation.commands()).with_context(|| operation.to_string())
    }

    /// Sends one command, or a transaction from MULTI to EXEC. The reply is that of the last command.
    ///
    /// # Errors
    /// The server answers what it should not.
    pub fn exchange(&mut self, commands: &[Cmd]) -> Result<Reply> {
        let mut last = Value::Nil;
        // One after the other: of a transaction whose MULTI is refused, nothing may run alone.
        for (sent, command) in commands.iter().enumerate() {
            let error = match self.0.req_command(command) {
                Ok(Value::ServerError(error)) => RedisError::from(error),
                Ok(Value::Array(parts)) if parts.iter().any(|part| matches!(part, Value::ServerError(_))) => {
                    bail!("a part of a transaction failed: {parts:?}")
                }
                Ok(value) => {
                    last = value;
                    continue;
                }
                Err(error) => error,
            };
            if error.is_timeout() {
                return Ok(Reply::Silence);
            }
            if error.is_io_error() {
                return Ok(Reply::Unknown);
            }
            // What must not be queued is turned into a command of that name, which the server does not know.
            let is_queueing = sent + 1 < commands.len();
            let names_refusal = || REFUSALS.iter().any(|code| error.to_string().contains(code));
            if error.code().is_some_and(|code| REFUSALS.contains(&code)) || (is_queueing && names_refusal()) {
                return Ok(Reply::Refused);
            }
            bail!("unexpected answer: {error}");
        }
        Ok(Reply::Answer(last))
    }

    /// Where the node says that a key's slot is served, `host:port`. `None`: it serves the slot itself.
    ///
    /// # Errors
    /// It answers something else, or nothing.
    pub fn redirection(&mut self, key: &str) -> Result<Option<String>> {
        match redis::cmd("EXISTS").arg(key).exec(&mut self.0) {
            Ok(()) => Ok(None),
            Err(error) => match error.redirect_node() {
                Some((address, _)) => Ok(Some(address.to_owned())),
                None => Err(error.into()),
            },
        }
    }

    /// From now on an answer may take so long.
    ///
    /// # Errors
    /// The system does not say so.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<()> {
        Ok(self.0.set_read_timeout(Some(timeout))?)
    }

    /// Sends a command of an operator.
    ///
    /// # Errors
    /// It fails, or the connection does.
    pub fn command(&mut self, name: &str, arguments: &[&str]) -> Result<Value> {
        Ok(redis::cmd(name).arg(arguments).query(&mut self.0)?)
    }
}
