//! TLS on both ports: certificates from files, which can be replaced while the service runs, and the handshake.
//!
//! A handshake costs more than anything else that a stranger can cause: about half a millisecond. So each port has one thread for
//! handshakes, beside the threads that serve known clients, and networks take turns on it. A client that is slow to answer holds no turn.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use durability_tls::rustls::server::NoClientAuth;
use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::{self, ClientConfig, ServerConfig};
use durability_tls::{FileError, VERSIONS};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{JoinError, JoinHandle};
use tokio_rustls::server::TlsStream;
use tokio_rustls::LazyConfigAcceptor;

use super::handshake_turns::HandshakeTurns;
use super::network::Network;
use super::tls_client::Outgoing;

/// How long a client may take from connecting to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Failed handshakes are logged at most this often, as anyone who reaches the port can cause them.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// An outdated revocation list is logged at most this often.
const OUTDATED_INTERVAL: Duration = Duration::from_secs(3600);
/// The first byte of every TLS connection.
const HANDSHAKE_RECORD: u8 = 22;

/// TLS cannot be used as it is configured. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Half of a pair.
    #[error("{given} needs {missing} as well")]
    Half {
        /// Which flag was given.
        given: &'static str,
        /// Which one was not.
        missing: &'static str,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cryptography does not do what is asked of it.
    #[error("TLS cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The files that the flags name. Some need others.
#[derive(Debug, Default)]
pub struct TlsFlags {
    /// `--tls-cert`.
    pub certificate: Option<PathBuf>,
    /// `--tls-key`.
    pub key: Option<PathBuf>,
    /// `--tls-client-ca`.
    pub client_ca: Option<PathBuf>,
    /// `--tls-client-crl`.
    pub client_crl: Option<PathBuf>,
}

/// The certificate and its key, the CA for clients, and what that CA has revoked.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_crl: Option<PathBuf>,
}

impl Files {
    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = durability_tls::provider();
        let verifier = match &self.client_ca {
            None => Arc::new(NoClientAuth),
            Some(path) => durability_tls::client_verifier(path, self.client_crl.as_deref(), warn_of_outdated_list)?,
        };
        let pair = durability_tls::read_pair(&self.certificate, &self.key)?;
        // The file was read just now. If it is gone, the next reload reports that.
        if let Some(warning) = durability_tls::open_to_others(&self.key).ok().flatten() {
            tracing::warn!("the key file {warning}");
        }
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        Ok(Arc::new(config))
    }
}

pub(super) fn warn_of_outdated_list(path: &Path) {
    static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut logged = LOGGED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if logged.is_none_or(|logged| logged.elapsed() >= OUTDATED_INTERVAL) {
        *logged = Some(Instant::now());
        let path = path.display();
        tracing::warn!(
            "the revocation list file {path} is out of date: whose certificate was revoked since is not known, and let in; \
             put a new one there, and send this process a SIGHUP"
        );
    }
}

/// TLS of this service. Connections that are made after [`Tls::reload`] use what the files hold then.
pub struct Tls {
    files: Files,
    config: RwLock<Arc<ServerConfig>>,
    /// For connections to other services, if this one makes any.
    outgoing: RwLock<Option<Outgoing>>,
    troubles: Mutex<Troubles>,
}

/// Failed handshakes since the last that was logged, and when that was.
#[derive(Default)]
struct Troubles {
    logged: Option<Instant>,
    unlogged: u64,
}

/// A port that takes TLS. Each port has a thread and a queue of its own, so that strangers at one do not delay clients of the other.
pub struct TlsPort {
    plain_answer: &'static [u8],
    tls: Arc<Tls>,
    turns: Arc<HandshakeTurns>,
    /// Always there, but when it is dropped.
    thread: Option<Runtime>,
}

impl TlsPort {
    /// A port that sends `plain_answer`, in its own protocol, to a client that speaks without TLS.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(tls: Arc<Tls>, plain_answer: &'static [u8]) -> io::Result<Arc<Self>> {
        let mut thread = tokio::runtime::Builder::new_multi_thread();
        let thread = thread.worker_threads(1).thread_name("handshakes").enable_time().build()?;
        Ok(Arc::new(TlsPort { plain_answer, tls, turns: Arc::default(), thread: Some(thread) }))
    }

    /// Does the handshake on a connection that was just accepted. `None` if it failed, which has been logged. A client that speaks without
    /// TLS is told so at once.
    pub async fn accept(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let thread = self.thread.as_ref()?;
        let port = self.clone();
        let handshake = async move {
            // The last handshake may drop the port, but not on the port's own thread.
            let TlsPort { plain_answer, tls, turns, .. } = &*port;
            tls.accept(stream, peer, plain_answer, turns).await
        };
        // A panic of that task has been reported.
        Handshake(thread.spawn(handshake)).ended().await.ok().flatten()
    }
}

impl Drop for TlsPort {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.shutdown_background();
        }
    }
}

/// A handshake on its thread. Ends when this is dropped.
struct Handshake<T>(JoinHandle<T>);

impl<T> Handshake<T> {
    async fn ended(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for Handshake<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tls {
    /// Reads the files that the flags name. `None` if connections are to be plain.
    ///
    /// # Errors
    /// The flags do not fit together, or a file cannot be used.
    pub fn from_flags(flags: TlsFlags) -> Result<Option<Arc<Self>>, TlsError> {
        let TlsFlags { certificate, key, client_ca, client_crl } = flags;
        if client_crl.is_some() && client_ca.is_none() {
            return Err(TlsError::Half { given: "--tls-client-crl", missing: "--tls-client-ca" });
        }
        let (certificate, key) = match (certificate, key, &client_ca) {
            (Some(certificate), Some(key), _) => (certificate, key),
            (Some(_), None, _) => return Err(TlsError::Half { given: "--tls-cert", missing: "--tls-key" }),
            (None, Some(_), _) => return Err(TlsError::Half { given: "--tls-key", missing: "--tls-cert" }),
            (None, None, Some(_)) => {
                return Err(TlsError::Half { given: "--tls-client-ca", missing: "--tls-cert and --tls-key" })
            }
            (None, None, None) => return Ok(None),
        };
        let files = Files { certificate, key, client_ca, client_crl };
        let config = RwLock::new(files.read()?);
        Ok(Some(Arc::new(Tls { files, config, outgoing: RwLock::default(), troubles: Mutex::default() })))
    }

    /// Reads what connections to other services need besides: the CA of their certificates, and perhaps what it has revoked. This service
    /// presents its own certificate to them.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn connect_with(&self, ca: PathBuf, crl: Option<PathBuf>) -> Result<(), TlsError> {
        let outgoing = Outgoing::read(ca, crl, &self.files.certificate, &self.files.key)?;
        *self.outgoing.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(outgoing);
        Ok(())
    }

    /// For connections to other services; `None` before [`Tls::connect_with`].
    pub fn client_config(&self) -> Option<Arc<ClientConfig>> {
        let outgoing = self.outgoing.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        outgoing.as_ref().map(Outgoing::config)
    }

    /// Reads the files again. Open connections stay as they are.
    ///
    /// # Errors
    /// A file cannot be used; then nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = self.files.read()?;
        let mut outgoing = self.outgoing.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(outgoing) = &mut *outgoing {
            *outgoing = outgoing.read_again(&self.files.certificate, &self.files.key)?;
        }
        *self.config.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = config;
        Ok(())
    }

    async fn accept(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        plain_answer: &[u8],
        turns: &Arc<HandshakeTurns>,
    ) -> Option<TlsStream<TcpStream>> {
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
                refuse_plain(&stream, plain_answer);
                return Err(io::Error::other("it does not speak TLS, and this port takes nothing else"));
            }
            let begun = LazyConfigAcceptor::new(Default::default(), stream).await?;
            let config = self.config.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            // This step has all the cost of a handshake. A client that has not sent all of its hello, or does not answer, holds no turn.
            let turn = turns.take(Network::of(peer.ip())).await;
            let answered = begun.into_stream(config);
            drop(turn);
            answered.await
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            // A probe whether the port is open.
            Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {}
            Ok(Err(error)) => self.log_trouble(peer, &error),
            Err(late) => self.log_trouble(peer, &late),
        }
        None
    }

    fn log_trouble(&self, peer: SocketAddr, why: &dyn std::fmt::Display) {
        let mut troubles = self.troubles.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if troubles.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            troubles.unlogged += 1;
            return;
        }
        let more = match std::mem::take(&mut troubles.unlogged) {
            0 => String::new(),
            count => format!(" (and {count} more that were not logged)"),
        };
        troubles.logged = Some(Instant::now());
        tracing::warn!("{peer}: no TLS connection: {why}{more}");
    }
}

/// Best effort: sends what the kernel takes at once. Reads what has arrived first, as closing a socket with unread bytes makes the client's
/// system discard the answer.
fn refuse_plain(stream: &TcpStream, answer: &[u8]) {
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(answer);
}

#[cfg(test)]
mod tests {
    use durability_tls::rustls::pki_types::ServerName;
    use durability_tls::testing::{client_config, TestCa};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;

    use super::*;

    /// Half of what a handshake may take.
    const PATIENCE: Duration = Duration::from_secs(5);

    /// A port, and the CA of its certificate.
    async fn listen(directory: &Path) -> (SocketAddr, PathBuf) {
        let (ca, ca_file) = (TestCa::default(), directory.join("ca.crt"));
        ca.write(&ca_file);
        let pair = ca.issue(directory, "server", &["127.0.0.1"]);
        let files = Files { certificate: pair.certificate, key: pair.key, client_ca: None, client_crl: None };
        let config = RwLock::new(files.read().expect("a pair"));
        let tls = Arc::new(Tls { files, config, outgoing: RwLock::default(), troubles: Mutex::default() });
        let port = TlsPort::new(tls, b"no").expect("a thread");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let port = port.clone();
                tokio::spawn(async move { port.accept(stream, peer).await });
            }
        });
        (address, ca_file)
    }

    /// A client that has said a part of its beginning and nothing more.
    async fn half_a_handshake(address: SocketAddr, bytes: usize) -> TcpStream {
        // A record of a handshake of 512 bytes, of which a few come.
        const BEGINNING: [u8; 11] = [HANDSHAKE_RECORD, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(&BEGINNING[..bytes]).await.expect("sent");
        stream
    }

    async fn handshake(address: SocketAddr, ca_file: &Path) -> io::Result<()> {
        let connector = TlsConnector::from(client_config(ca_file, None, VERSIONS));
        let stream = TcpStream::connect(address).await?;
        connector.connect(ServerName::IpAddress(address.ip().into()), stream).await.map(drop)
    }

    #[tokio::test]
    async fn half_handshakes_keep_nobody_from_a_whole_one() {
        const HALVES: usize = 700;
        let directory = tempfile::tempdir().expect("tempdir");
        let (address, ca_file) = listen(directory.path()).await;
        let mut halves = Vec::new();
        for half in 0..HALVES {
            halves.push(half_a_handshake(address, half % 12).await);
        }
        // Far less than the halves have.
        timeout(PATIENCE, handshake(address, &ca_file)).await.expect("it waits for them").expect("its handshake");
        let mut plain = TcpStream::connect(address).await.expect("connected");
        plain.write_all(b"PING").await.expect("sent");
        let mut answer = Vec::new();
        timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("waits for a turn").expect("ended");
        assert_eq!(answer, b"no");
        // They are there still, so it was not that they had gone.
        assert_eq!(halves[HALVES - 1].try_read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}
