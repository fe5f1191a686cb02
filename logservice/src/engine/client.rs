//! A connection to the engine over its unix socket: one command at a time.

use std::path::Path;

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::encode::extend_encode;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::base::printable::printable;

/// A connection to the engine.
pub struct Client {
    stream: UnixStream,
    input: BytesMut,
}

impl Client {
    /// Connects to the socket at `path`.
    pub async fn connect(path: &Path) -> std::io::Result<Self> {
        Ok(Client { stream: UnixStream::connect(path).await?, input: BytesMut::new() })
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// The connection broke, or the reply is an error.
    pub async fn query(&mut self, command: &[&[u8]]) -> Result<BytesFrame, String> {
        self.stream.write_all(&encode(command)?).await.map_err(|error| error.to_string())?;
        self.next().await
    }

    /// The next reply, or the next message of a subscription. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke, or the reply is an error.
    pub async fn next(&mut self) -> Result<BytesFrame, String> {
        loop {
            if let Some((reply, _, _)) = decode_bytes_mut(&mut self.input).map_err(|error| error.to_string())? {
                return match reply {
                    BytesFrame::Error(error) => Err(printable(&error)),
                    reply => Ok(reply),
                };
            }
            if self.stream.read_buf(&mut self.input).await.map_err(|error| error.to_string())? == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }
}

/// The bytes of a command.
///
/// # Errors
/// None is expected: the frame is one that can be encoded.
pub fn encode(command: &[&[u8]]) -> Result<BytesMut, String> {
    let arguments = command.iter().map(|argument| BytesFrame::BulkString(argument.to_vec().into())).collect();
    let mut out = BytesMut::new();
    extend_encode(&mut out, &BytesFrame::Array(arguments), false).map_err(|error| error.to_string())?;
    Ok(out)
}

/// The value of a field in a section of `INFO`.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}
