//! Seeding: the log starts from a snapshot of this node, when it is empty or when the tap lost its place in the stream.

use std::io::Read;

use valkey_module::logging::log_notice;

use crate::config;
use crate::log_connection::LogStatus;
use crate::tap::Stream;

/// Why the log did not take the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The service does not say where it takes snapshots.
    #[error("the log service has no HTTP port, and snapshots go there: start it with --http")]
    NoHttp,
    /// The configured address is none.
    #[error("{0}")]
    Address(String),
    /// The connection to the service failed, or that to the server, whose snapshot it carries.
    #[error("sending the snapshot to the log service failed: {0}")]
    Http(#[from] reqwest::Error),
    /// The connection to the server failed.
    #[error("reading the snapshot from the server failed: {0}")]
    Io(#[from] std::io::Error),
    /// It answered with an error.
    #[error("the log service does not take the snapshot: {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the service says.
        detail: String,
    },
}

/// Sends the `bytes` bytes of snapshot that come next on `stream` to the log as its new beginning at `offset`. When this
/// returns, the log holds it durably, and everything up to `offset` with it.
///
/// # Errors
/// The log is as it was before.
pub fn send(
    stream: &Stream,
    status: &LogStatus,
    epoch: u64,
    replid: &str,
    offset: u64,
    bytes: u64,
) -> Result<(), SeedError> {
    if status.http_port == 0 {
        return Err(SeedError::NoHttp);
    }
    let (host, _) = config::parse_address(&config::LOG.value()).map_err(SeedError::Address)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let shard = config::SHARD.value();
    log_notice(format!("durability: seeding the log with a snapshot of {bytes} bytes at offset {offset}"));
    let client = reqwest::blocking::Client::builder().timeout(None).build()?;
    let body = reqwest::blocking::Body::sized(stream.try_clone()?.take(bytes), bytes);
    let port = status.http_port;
    let response = client
        .put(format!("http://{host}:{port}/shards/{shard}/snapshot?epoch={epoch}&offset={offset}&replid={replid}"))
        .bearer_auth(crate::log_connection::password())
        .body(body)
        .send()?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    Err(SeedError::Refused { status: status.as_u16(), detail: response.text().unwrap_or_default() })
}
