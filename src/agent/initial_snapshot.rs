//! The initial snapshot: the log starts from a snapshot of this node when it is empty, and anew when the tap lost its place in the stream
//! or the log lacks something that this node wrote. Agent's thread.

use std::io::{Read, Take};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use durability_protocol::Refusal;
use reqwest::redirect::Policy;
use valkey_module::logging::log_notice;

use crate::agent::own_server::Stream;
use crate::agent::tap::Tap;
use crate::base::time_limit::{AtEnd, TimeLimit};
use crate::decide::service_choice::Failure;
use crate::exchange::Shared;
use crate::log::address;
use crate::log::control::LogConnection;
use crate::log::services::{Service, Services};
use crate::settings;
use crate::settings::tls::{self, TlsError, TlsSettings};
use crate::settings::token::{self, TokenError};

/// How long connecting may take, the TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// If the log takes nothing of what it is sent for this long, the kernel ends the connection. There is no limit on how slow a link is.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long storing a snapshot may take, beside sending it. A log that has taken everything and never answers is no stall, so this bounds
/// it. It counts from the beginning, and is far more than any link needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest link, for [`ANSWER_TIMEOUT`].
const LEAST_BYTES_PER_SECOND: u64 = 16 << 10;
/// The HTTP status with which a service answers that does not decide over the log.
const MISDIRECTED: u16 = 421;
/// How many bytes of a refusal are read.
const MAX_DETAIL_BYTES: u64 = 4096;

/// The bytes of the snapshot. Breaks off when the module is to end or the node is to have no log.
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
pub enum SnapshotError {
    /// The service does not say where it accepts snapshots.
    #[error("the log service has no HTTP port, and snapshots go there: start it with --http")]
    NoHttp,
    /// The service's host has no IP address.
    #[error("{0}")]
    Address(String),
    /// TLS cannot be used as it is configured.
    #[error("sending the snapshot to the log service failed: {0}")]
    Tls(#[from] TlsError),
    /// There is no token to send.
    #[error("sending the snapshot to the log service failed: {0}")]
    Token(#[from] TokenError),
    /// The connection to the service failed, or the connection to the server that the snapshot comes from.
    #[error("sending the snapshot to the log service failed: {}", with_causes(.0))]
    Http(#[from] reqwest::Error),
    /// The connection to the server failed.
    #[error("reading the snapshot from the server failed: {0}")]
    Io(#[from] std::io::Error),
    /// The service answered with an error.
    #[error("the log service does not take the snapshot: {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the service says.
        detail: String,
    },
}

impl SnapshotError {
    /// What it says of the service: that another one decides by now, and which, if the service knows it.
    fn failure(&self, services: &Services) -> Option<Failure> {
        match self {
            SnapshotError::Refused { status: MISDIRECTED, detail } => services.failure_of(&Refusal::parse(detail)),
            _ => None,
        }
    }
}

/// Where the service accepts snapshots that decides over the log.
struct Place<'a> {
    service: &'a Service,
    /// 0 if it has none.
    http_port: u16,
}

/// The error's text with its causes, as it omits them.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The log starts anew at `offset` (exclusive) from the snapshot with which the tap begins.
///
/// # Errors
/// The log is as it was before.
pub fn start_log(shared: &Arc<Shared>, tap: &Tap, epoch: u64, replid: &str, offset: u64) -> Result<(), String> {
    let bytes = tap.snapshot_bytes(shared).map_err(|error| error.to_string())?;
    let mut log = LogConnection::open(shared).map_err(|error| error.to_string())?;
    let status = log.status().map_err(|error| error.to_string())?;
    let place = Place { service: log.service(), http_port: status.http_port };
    let sent = send(shared, &tap.stream, &place, epoch, replid, offset, bytes);
    if let Some(failure) = sent.as_ref().err().and_then(|error| error.failure(&shared.services)) {
        // The next attempt goes to the one that decides.
        shared.services.failed(log.service(), failure);
    }
    sent.map_err(|error| error.to_string())?;
    shared.awaits_snapshot.store(false, Ordering::Release);
    Ok(())
}

/// Sends the `bytes` bytes of snapshot that come next on `stream` to the log as its new beginning at `offset` (exclusive). When this
/// returns, the log holds it durably, and everything up to `offset` with it.
///
/// # Errors
/// The log is as it was before.
fn send(
    shared: &Arc<Shared>,
    stream: &Stream,
    place: &Place<'_>,
    epoch: u64,
    replid: &str,
    offset: u64,
    bytes: u64,
) -> Result<(), SnapshotError> {
    if place.http_port == 0 {
        return Err(SnapshotError::NoHttp);
    }
    let (name, log_port) = (&place.service.host, place.service.port);
    let limit = TimeLimit::within(CONNECT_TIMEOUT, AtEnd::BreaksOff, &shared.end);
    let addresses =
        address::resolve(name, log_port, &limit).map_err(|error| SnapshotError::Address(error.to_string()))?;
    let host = if name.contains(':') { format!("[{name}]") } else { name.clone() };
    let shard = settings::SHARD.value();
    log_notice(format!("durability: the log starts from a snapshot of this node: {bytes} bytes, at offset {offset}"));
    // The token and the data go to the log only: not through a proxy that the environment names, and not where a redirect points to.
    let builder = reqwest::blocking::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        // The port of these addresses is ignored.
        .resolve_to_addrs(name, &addresses)
        .tcp_user_timeout(STALL_TIMEOUT)
        .tcp_keepalive(STALL_TIMEOUT / 3)
        .tcp_keepalive_interval(STALL_TIMEOUT / 3)
        .timeout(ANSWER_TIMEOUT + Duration::from_secs(bytes / LEAST_BYTES_PER_SECOND));
    let (scheme, tls) = match TlsSettings::configured()? {
        Some(tls) => ("https", Arc::unwrap_or_clone(tls.client_config()?)),
        None => ("http", tls::trusting_nobody()?),
    };
    let client = builder.tls_backend_preconfigured(tls).build()?;
    let snapshot = Snapshot { stream: stream.try_clone()?.take(bytes), shared: Arc::clone(shared) };
    let body = reqwest::blocking::Body::sized(snapshot, bytes);
    let port = place.http_port;
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
        shared.initial_snapshots.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    let mut detail = Vec::new();
    // A part of the text says more than nothing.
    let _ = response.take(MAX_DETAIL_BYTES).read_to_end(&mut detail);
    Err(SnapshotError::Refused {
        status: status.as_u16(),
        detail: String::from_utf8_lossy(&detail).trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_decides_no_more_says_which_one_does() {
        let services = Services::of("a:1,b:2,c:3");
        let refused = |status, detail: &str| SnapshotError::Refused { status, detail: detail.to_owned() };
        let named = |error: &SnapshotError| error.failure(&services);
        assert_eq!(named(&refused(421, "NOTLEADER c:3 decides over it")), Some(Failure::DecidesNot(Some(2))));
        assert_eq!(named(&refused(421, "NOTLEADER - decides over it")), Some(Failure::DecidesNot(None)));
        for other in [refused(409, "FENCED epoch 1 is over"), refused(421, "what a proxy says"), SnapshotError::NoHttp]
        {
            assert_eq!(named(&other), None, "{other}");
        }
    }
}
