//! TLS of connections that the service makes itself, to other services.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::ClientConfig;
use durability_tls::VERSIONS;

use super::tls::{warn_of_outdated_list, TlsError};

/// The files, and what they held when they were read last.
pub(super) struct Outgoing {
    ca: PathBuf,
    crl: Option<PathBuf>,
    config: Arc<ClientConfig>,
}

impl Outgoing {
    /// Verifies other services by a CA and what it has revoked, and presents a certificate to them.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn read(ca: PathBuf, crl: Option<PathBuf>, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let verifier = durability_tls::server_verifier(&ca, crl.as_deref(), warn_of_outdated_list)?;
        let pair = durability_tls::read_pair(certificate, key)?;
        // The verifier is the usual one: it checks chain and name. It stands here for the sake of the revocation lists.
        let config = ClientConfig::builder_with_provider(durability_tls::provider())
            .with_protocol_versions(VERSIONS)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        Ok(Outgoing { ca, crl, config: Arc::new(config) })
    }

    /// The same with what the files hold now.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn read_again(&self, certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::read(self.ca.clone(), self.crl.clone(), certificate, key)
    }

    /// For a connection.
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}
