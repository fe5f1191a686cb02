//! TLS on both ports: certificates from files, which can be exchanged while the service runs, and the handshake.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use durability_tls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::{self, ServerConfig};
use durability_tls::{FileError, VERSIONS};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;

/// The most handshakes of one port that are being done. Whoever finds the port can begin them, and they cost more than anything
/// else that a stranger can ask for.
const MAX_HANDSHAKES: usize = 256;
/// How long a client may take from connecting to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Failed handshakes are logged at most this often: whoever finds the port can cause them.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection.
const HANDSHAKE_RECORD: u8 = 22;

/// TLS cannot be used as it is configured. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Half of a pair.
    #[error("{given} needs {missing} as well: give the certificate and its key")]
    Half {
        /// Which flag was given.
        given: &'static str,
        /// Which one was not.
        missing: &'static str,
    },
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The CA for clients cannot be used.
    #[error("the client CA file {} cannot be used: {reason}", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The cryptography does not do what is asked of it.
    #[error("TLS cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Where certificate, key and the CA for clients are.
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Files {
    fn read(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = durability_tls::provider();
        let verifier = match &self.client_ca {
            None => Arc::new(NoClientAuth),
            Some(path) => {
                let roots = durability_tls::read_ca(path)?;
                let built = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
                built.map_err(|error| TlsError::ClientCa { path: path.clone(), reason: error.to_string() })?
            }
        };
        let pair = durability_tls::read_pair(&self.certificate, &self.key)?;
        // It was read just now; whoever removes it meanwhile is told at the next reload.
        if let Some(warning) = durability_tls::open_to_others(&self.key).ok().flatten() {
            tracing::warn!("the key file {warning}");
        }
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// TLS of this service. Connections that are made after [`Tls::reload`] use what the files hold then.
pub struct Tls {
    files: Files,
    acceptor: RwLock<TlsAcceptor>,
    troubles: Mutex<Troubles>,
}

/// Failed handshakes since the last that was logged, and when that was.
#[derive(Default)]
struct Troubles {
    logged: Option<Instant>,
    unlogged: u64,
}

/// A port that takes TLS. Each has a queue of its own, so that strangers of one keep nobody from the other.
pub struct Port {
    plain_answer: &'static [u8],
    handshakes: Semaphore,
}

impl Port {
    /// A port that tells a client which speaks without TLS so with `plain_answer`, in the port's own protocol.
    pub fn new(plain_answer: &'static [u8]) -> Self {
        Port { plain_answer, handshakes: Semaphore::new(MAX_HANDSHAKES) }
    }
}

impl Tls {
    /// What the flags ask for: `None` for plain connections.
    ///
    /// # Errors
    /// The flags do not fit together, or a file cannot be used.
    pub fn from_config(config: &Config) -> Result<Option<Arc<Self>>, TlsError> {
        let (certificate, key) = match (&config.tls_cert, &config.tls_key, &config.tls_client_ca) {
            (Some(certificate), Some(key), _) => (certificate.clone(), key.clone()),
            (Some(_), None, _) => return Err(TlsError::Half { given: "--tls-cert", missing: "--tls-key" }),
            (None, Some(_), _) => return Err(TlsError::Half { given: "--tls-key", missing: "--tls-cert" }),
            (None, None, Some(_)) => {
                return Err(TlsError::Half { given: "--tls-client-ca", missing: "--tls-cert and --tls-key" })
            }
            (None, None, None) => return Ok(None),
        };
        let files = Files { certificate, key, client_ca: config.tls_client_ca.clone() };
        let acceptor = RwLock::new(files.read()?);
        Ok(Some(Arc::new(Tls { files, acceptor, troubles: Mutex::default() })))
    }

    /// Reads the files again. Connections that are there stay as they are.
    ///
    /// # Errors
    /// A file cannot be used. Then nothing changes.
    pub fn reload(&self) -> Result<(), TlsError> {
        let acceptor = self.files.read()?;
        *self.acceptor.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = acceptor;
        Ok(())
    }

    /// Does the handshake on a connection that `port` has just accepted, when it is its turn. `None` if that failed, which was
    /// logged then; a client that speaks without TLS is told so at once.
    pub async fn accept(&self, stream: TcpStream, peer: SocketAddr, port: &Port) -> Option<TlsStream<TcpStream>> {
        let handshake = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
                refuse_plain(&stream, port.plain_answer);
                return Err(io::Error::other("it does not speak TLS, and this port takes nothing else"));
            }
            // Whoever has said nothing yet takes nobody's turn.
            let _turn = port.handshakes.acquire().await.map_err(io::Error::other)?;
            let acceptor = self.acceptor.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            acceptor.accept(stream).await
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            // A look whether the port is open.
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

/// Best effort: what the kernel takes at once. What has arrived is read first, as closing a socket with unread bytes
/// would make the client's system discard the answer.
fn refuse_plain(stream: &TcpStream, answer: &[u8]) {
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(answer);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use durability_tls::rustls::pki_types::ServerName;
    use durability_tls::testing::{client_config, TestCa};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};
    use tokio_rustls::TlsConnector;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A port with room for `handshakes` at a time, and the CA of its certificate.
    async fn listen(directory: &Path, handshakes: usize) -> (SocketAddr, Arc<Port>, PathBuf) {
        let (ca, ca_file) = (TestCa::default(), directory.join("ca.crt"));
        ca.write(&ca_file);
        let pair = ca.issue(directory, "server", &["127.0.0.1"]);
        let files = Files { certificate: pair.certificate, key: pair.key, client_ca: None };
        let acceptor = RwLock::new(files.read().expect("a pair"));
        let tls = Arc::new(Tls { files, acceptor, troubles: Mutex::default() });
        let port = Arc::new(Port { plain_answer: b"no", handshakes: Semaphore::new(handshakes) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let accepting = port.clone();
        tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (tls, port) = (tls.clone(), accepting.clone());
                tokio::spawn(async move { tls.accept(stream, peer, &port).await });
            }
        });
        (address, port, ca_file)
    }

    /// A client that has said the first byte of a handshake and nothing more.
    async fn half_a_handshake(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(&[HANDSHAKE_RECORD]).await.expect("sent");
        stream
    }

    fn whole_handshake(address: SocketAddr, ca_file: &Path) -> JoinHandle<io::Result<()>> {
        let connector = TlsConnector::from(client_config(ca_file, None, VERSIONS));
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(ServerName::IpAddress(address.ip().into()), stream).await.map(drop)
        })
    }

    #[tokio::test]
    async fn only_so_many_handshakes_are_done_at_a_time_and_the_others_wait_for_their_turn() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (address, port, ca_file) = listen(directory.path(), 2).await;
        let silent = TcpStream::connect(address).await.expect("connected");
        let halves = [half_a_handshake(address).await, half_a_handshake(address).await];
        let both_begin = async {
            while port.handshakes.available_permits() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, both_begin).await.expect("they have their turn");
        let mut waiting = whole_handshake(address, &ca_file);
        assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "a third is done");
        let mut plain = TcpStream::connect(address).await.expect("connected");
        plain.write_all(b"PING").await.expect("sent");
        let mut answer = Vec::new();
        timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("waits for a turn").expect("ended");
        assert_eq!(answer, b"no");
        drop(halves);
        timeout(PATIENCE, waiting).await.expect("no turn comes").expect("ran").expect("its handshake");
        whole_handshake(address, &ca_file).await.expect("ran").expect("the silent one has no turn");
        drop(silent);
    }
}
