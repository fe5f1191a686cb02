//! Seeding: the log starts from a snapshot of this node, when it is empty or when the tap lost its place in the stream.

use std::io::{Read, Take};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use valkey_module::logging::log_notice;

use crate::agent::own_server::Stream;
use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::exchange::Shared;
use crate::log::address;
use crate::log::reply::LogStatus;
use crate::settings;
use crate::settings::tls::{TlsError, TlsSettings};
use crate::settings::token::{self, TokenError};

/// How long connecting may take, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For so long the log may take nothing of what it is sent: then the kernel ends the connection. A link may be as slow as it is.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long storing a snapshot may take beside its way there. Bounds a log that has taken everything and never answers, which
/// no stall shows; so it counts from the beginning, and is far from what any link needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// See [`ANSWER_TIMEOUT`].
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;
/// How much of a refusal is read.
const MAX_DETAIL_BYTES: u64 = 4096;

/// The bytes of the snapshot. Breaks off when the module is to end.
struct Snapshot {
    stream: Take<Stream>,
    shared: Arc<Shared>,
}

impl Read for Snapshot {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.shared.is_stopping.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the server shuts down"));
        }
        if self.shared.is_leaving.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("this node is to have no log any more"));
        }
        self.stream.read(buffer)
    }
}

/// Why the log did not take the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The service does not say where it takes snapshots.
    #[error("the log service has no HTTP port, and snapshots go there: start it with --http")]
    NoHttp,
    /// The configured address is none, or stands for none.
    #[error("{0}")]
    Address(String),
    /// TLS cannot be used as it is configured.
    #[error("sending the snapshot to the log service failed: {0}")]
    Tls(#[from] TlsError),
    /// The token cannot be had.
    #[error("sending the snapshot to the log service failed: {0}")]
    Token(#[from] TokenError),
    /// The connection to the service failed, or that to the server, whose snapshot it carries.
    #[error("sending the snapshot to the log service failed: {}", with_causes(.0))]
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

/// What failed, and why: the error itself says only what.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Sends the `bytes` bytes of snapshot that come next on `stream` to the log as its new beginning at `offset`. When this
/// returns, the log holds it durably, and everything up to `offset` with it.
///
/// # Errors
/// The log is as it was before.
pub fn send(
    shared: &Arc<Shared>,
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
    let (host, log_port) = settings::parse_address(&settings::LOG.value()).map_err(SeedError::Address)?;
    let limit = TimeLimit::within(CONNECT_TIMEOUT, AtEnd::BreaksOff, &shared.end);
    let addresses = address::resolve(&host, log_port, &limit).map_err(|error| SeedError::Address(error.to_string()))?;
    let name = host.clone();
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let shard = settings::SHARD.value();
    log_notice(format!("durability: seeding the log with a snapshot of {bytes} bytes at offset {offset}"));
    // The token and all data go to the log and to nobody else: no proxy that the environment names, and nowhere that an
    // answer may send them.
    let mut builder = reqwest::blocking::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        // Of these only the addresses count, not the port.
        .resolve_to_addrs(&name, &addresses)
        .tcp_user_timeout(STALL_TIMEOUT)
        .tcp_keepalive(STALL_TIMEOUT / 3)
        .tcp_keepalive_interval(STALL_TIMEOUT / 3)
        .timeout(ANSWER_TIMEOUT + Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND));
    let mut scheme = "http";
    if let Some(tls) = TlsSettings::configured()? {
        builder = builder.use_preconfigured_tls(Arc::unwrap_or_clone(tls.client_config()?));
        scheme = "https";
    }
    let client = builder.build()?;
    let snapshot = Snapshot { stream: stream.try_clone()?.take(bytes), shared: Arc::clone(shared) };
    let body = reqwest::blocking::Body::sized(snapshot, bytes);
    let port = status.http_port;
    let token = token::current()?;
    let log = shared.known().map(|known| format!("&log={}", known.log)).unwrap_or_default();
    let response = client
        .put(format!(
            "{scheme}://{host}:{port}/shards/{shard}/snapshot?epoch={epoch}&offset={offset}&replid={replid}{log}"
        ))
        .bearer_auth(token)
        .body(body)
        .send()?;
    let status = response.status();
    if status.is_success() {
        shared.seeds.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let mut detail = Vec::new();
    // What was read until it broke off says more than nothing.
    let _ = response.take(MAX_DETAIL_BYTES).read_to_end(&mut detail);
    Err(SeedError::Refused { status: status.as_u16(), detail: String::from_utf8_lossy(&detail).trim_end().to_owned() })
}
