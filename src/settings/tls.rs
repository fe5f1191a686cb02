//! TLS on the way to the log: what is configured, and what to tell an operator when it does not work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durability_tls::rustls::pki_types::ServerName;
use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, ClientConnection, OtherError, RootCertStore,
};
use durability_tls::{FileError, VERSIONS};
use valkey_module::logging::log_warning;

use crate::settings::config_kinds::Text;
use crate::settings::{configs, token};

/// A revocation list that is out of date is logged at most this often.
const OUTDATED_INTERVAL: Duration = Duration::from_secs(3600);

/// Whether this server can connect by TLS, which it needs to follow a log that uses TLS.
static SERVER_HAS_TLS: AtomicBool = AtomicBool::new(true);

/// Why TLS cannot work as it is configured: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Nothing is trusted.
    #[error(
        "durability.tls is yes, but durability.tls-ca does not say which CA's certificates to trust: set it to a file"
    )]
    NoCa,
    /// Half of a pair.
    #[error("durability.tls-cert and durability.tls-key belong together: set both, or neither")]
    Half,
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The server was built without TLS.
    #[error("durability.tls is yes, but this server was built without TLS, and to follow its log it has to connect by TLS: use a valkey-server that was built with BUILD_TLS=yes")]
    ServerWithout,
    /// The cryptography does not do what is asked of it.
    #[error("TLS cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// How to connect to the log by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// File of the CAs that the log's certificate may be of.
    pub ca: PathBuf,
    /// File of the revocation lists of those CAs, if there is one.
    pub crl: Option<PathBuf>,
    /// Files of this node's own certificate and its key, if it shows one.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// For a client that connects without TLS, and has to be given a configuration nevertheless.
///
/// # Errors
/// The cryptography does not do what is asked of it.
pub fn trusting_nobody() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(durability_tls::provider()).with_protocol_versions(VERSIONS)?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

impl TlsSettings {
    /// What `durability.tls*` say now: `None` for plain connections.
    ///
    /// # Errors
    /// They do not fit together.
    pub fn configured() -> Result<Option<Self>, TlsError> {
        if configs::TLS.is_on() {
            Self::from_configs().map(Some)
        } else {
            Ok(None)
        }
    }

    fn from_configs() -> Result<Self, TlsError> {
        let file = |text: &Text| Some(PathBuf::from(text.value())).filter(|path| !path.as_os_str().is_empty());
        let ca = file(&configs::TLS_CA).ok_or(TlsError::NoCa)?;
        let pair = match (file(&configs::TLS_CERT), file(&configs::TLS_KEY)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(TlsError::Half),
        };
        Ok(TlsSettings { ca, crl: file(&configs::TLS_CRL), pair })
    }

    /// Reads the files. Each connection reads them again, so that certificates can be replaced at any time.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let builder = ClientConfig::builder_with_provider(durability_tls::provider())
            .with_protocol_versions(VERSIONS)?
            // The verifier that rustls would build by itself, with the revocation lists added.
            .dangerous()
            .with_custom_certificate_verifier(durability_tls::server_verifier(
                &self.ca,
                self.crl.as_deref(),
                warn_of_outdated_list,
            )?);
        Ok(Arc::new(match &self.pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let pair = durability_tls::read_pair(certificate, key)?;
                token::warn_if_open_to_others("the key file", key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        }))
    }

    /// A session with the log on `host`, which the log's certificate has to name. Sends nothing yet.
    ///
    /// # Errors
    /// A file cannot be used, or a certificate cannot name such a host.
    pub fn session(&self, host: &str) -> io::Result<ClientConnection> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let why =
                format!("'{host}' in durability.log is neither an IP address nor a name that a certificate can have");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        let config = self.client_config().map_err(io::Error::other)?;
        ClientConnection::new(config, name).map_err(io::Error::other)
    }

    /// What the operator is to do about an error of the TLS connection to `host`.
    pub fn explain(&self, host: &str, error: &rustls::Error) -> String {
        let ca = self.ca.display();
        match error {
            rustls::Error::InvalidMessage(_) => {
                "it did not answer with TLS: start logservice with --tls-cert and --tls-key, \
                 or set durability.tls no"
                    .to_owned()
            }
            rustls::Error::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    format!("its certificate is not of a CA in durability.tls-ca ({ca}): put its CA there")
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired: renew it there, and send logservice a SIGHUP".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet: compare the clocks of both machines".to_owned()
                }
                CertificateError::NotValidForName => not_for(host, &[]),
                CertificateError::NotValidForNameContext { presented, .. } => not_for(host, presented),
                CertificateError::Other(OtherError(other)) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                    "its certificate is that of a CA: give logservice one that was issued by it, with CA:FALSE"
                        .to_owned()
                }
                CertificateError::Revoked => {
                    format!(
                        "its certificate is revoked, by durability.tls-crl{}: give logservice another one",
                        self.crl()
                    )
                }
                CertificateError::UnknownRevocationStatus => format!(
                    "whether its certificate is revoked is not known: put the revocation list of its CA into \
                     durability.tls-crl{}, or set that to nothing",
                    self.crl()
                ),
                other => format!("its certificate cannot be used: {other}"),
            },
            rustls::Error::AlertReceived(alert) => self.explain_alert(*alert),
            other => other.to_string(),
        }
    }

    /// The file of the revocation lists in brackets, for a message that has just named the config.
    fn crl(&self) -> String {
        self.crl.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default()
    }

    fn explain_alert(&self, alert: AlertDescription) -> String {
        match (&self.pair, alert) {
            (None, AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
                "it wants a certificate of this node: set durability.tls-cert and durability.tls-key".to_owned()
            }
            (
                Some((certificate, _)),
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::DecryptError
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied,
            ) => {
                let certificate = certificate.display();
                format!(
                    "it does not accept this node's certificate, durability.tls-cert ({certificate}): {alert:?}; give one \
                     that is valid, not revoked, and of a CA in logservice's --tls-client-ca"
                )
            }
            _ => format!("it refuses: {alert:?}; the log of logservice says why"),
        }
    }
}

/// Called by any thread that connects to the log.
fn warn_of_outdated_list(path: &Path) {
    static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut logged = LOGGED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if logged.is_none_or(|logged| logged.elapsed() >= OUTDATED_INTERVAL) {
        *logged = Some(Instant::now());
        let path = path.display();
        log_warning(format!(
            "durability: the revocation list file {path} (durability.tls-crl) is out of date: whether the log's certificate was revoked \
             since is not known; put a new one there"
        ));
    }
}

fn not_for(host: &str, presented: &[String]) -> String {
    let names = if presented.is_empty() { "none".to_owned() } else { presented.join(", ") };
    format!(
        "its certificate is not for '{host}': durability.log has to name it as the certificate's subjectAltName does \
         (there: {names})"
    )
}

/// Checks that the configs of TLS fit together and their files can be used.
///
/// # Errors
/// Why they cannot.
pub fn check() -> Result<(), TlsError> {
    if !SERVER_HAS_TLS.load(Ordering::Relaxed) {
        return Err(TlsError::ServerWithout);
    }
    TlsSettings::from_configs()?.client_config().map(drop)
}

/// Sets whether the server was built with TLS. Main thread, while the module loads.
pub fn server_has_tls(has_tls: bool) {
    SERVER_HAS_TLS.store(has_tls, Ordering::Relaxed);
}

/// Checks a file for `durability.tls-ca`; an empty path names none.
///
/// # Errors
/// It cannot be used.
pub fn check_ca(path: &str) -> Result<(), String> {
    check_file(path, |path| durability_tls::read_ca(path).map(drop))
}

/// As [`check_ca`], for `durability.tls-crl`.
///
/// # Errors
/// It cannot be used.
pub fn check_crl(path: &str) -> Result<(), String> {
    check_file(path, |path| durability_tls::read_revocation_lists(path).map(drop))
}

/// As [`check_ca`], for `durability.tls-cert`.
///
/// # Errors
/// It cannot be used.
pub fn check_certificate(path: &str) -> Result<(), String> {
    check_file(path, |path| durability_tls::read_certificate(path).map(drop))
}

/// As [`check_ca`], for `durability.tls-key`.
///
/// # Errors
/// It cannot be used.
pub fn check_key(path: &str) -> Result<(), String> {
    check_file(path, |path| durability_tls::read_key(path).map(drop))
}

fn check_file(path: &str, read: impl FnOnce(&Path) -> Result<(), FileError>) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    read(Path::new(path)).map_err(|error| error.to_string())
}
