//! TLS as the module and the log service share it: the cryptography, and reading certificates and keys from files. Errors name the file and
//! say what to do about it.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ConnectionCommon, InconsistentKeys, RootCertStore, SupportedProtocolVersion};

pub use rustls;

pub use permissions::open_to_others;

mod permissions;
mod revocation;
#[cfg(feature = "testing")]
pub mod testing;

pub use revocation::{client_verifier, read_revocation_lists, server_verifier, Outdated};

/// The accepted versions: TLS 1.2 and 1.3, as with Valkey.
pub const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

/// The cryptography. Named explicitly, as the process's default is whatever a dependency happened to install.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Sends what `session` has for the other side, as far as the non-blocking `to` takes it. Returns whether nothing is left.
///
/// # Errors
/// `to` has failed.
pub fn flush<Side>(session: &mut ConnectionCommon<Side>, to: &mut impl Write) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(to) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a file has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The certificate that is presented to the other side, and those that lead to its CA.
    Certificate,
    /// The private key of that certificate.
    Key,
    /// The certificates of the CAs that are trusted.
    Ca,
    /// What CAs have revoked.
    RevocationLists,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Certificate => "certificate",
            Content::Key => "key",
            Content::Ca => "CA",
            Content::RevocationLists => "revocation list",
        })
    }
}

/// Why a certificate or key cannot be used: one line.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the {content} file {}: {source}", path.display())]
    Read {
        /// What it has to hold.
        content: Content,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("the {content} file {} cannot be used: {reason}", path.display())]
    Malformed {
        /// What it has to hold.
        content: Content,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("the key file {} does not belong to the certificate file {}: give both from the same issue", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

fn malformed(content: Content, path: &Path, reason: impl Into<String>) -> FileError {
    FileError::Malformed { content, path: path.to_owned(), reason: reason.into() }
}

fn from_pem(content: Content, path: &Path, error: pem::Error) -> FileError {
    match error {
        pem::Error::Io(source) => FileError::Read { content, path: path.to_owned(), source },
        pem::Error::NoItemsFound => {
            let wanted = match content {
                Content::Key => "PRIVATE KEY",
                Content::RevocationLists => "X509 CRL",
                Content::Certificate | Content::Ca => "CERTIFICATE",
            };
            malformed(content, path, format!("there is no {wanted} in it (PEM; a key without a password)"))
        }
        other => malformed(content, path, format!("it is not PEM: {other}")),
    }
}

/// The certificates in a file, beginning with the one that is presented.
///
/// # Errors
/// The file cannot be used.
pub fn read_certificate(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    certificates(Content::Certificate, path)
}

/// The private key in a file.
///
/// # Errors
/// The file cannot be used.
pub fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, FileError> {
    let der = PrivateKeyDer::from_pem_file(path).map_err(|error| from_pem(Content::Key, path, error))?;
    let key = provider().key_provider.load_private_key(der);
    key.map_err(|error| malformed(Content::Key, path, error.to_string()))
}

fn certificates(content: Content, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(from_pem(content, path, pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(from_pem(content, path, error)),
    }
}

/// A certificate that can be presented to the other side, with its key.
///
/// # Errors
/// A file cannot be used, or the two do not belong together.
pub fn read_pair(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, FileError> {
    let pair = CertifiedKey::new(read_certificate(certificate)?, read_key(key)?);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(FileError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() })
        }
        Err(error) => Err(malformed(Content::Certificate, certificate, error.to_string())),
    }
}

/// The trusted CAs in a file.
///
/// # Errors
/// The file cannot be used.
pub fn read_ca(path: &Path) -> Result<Arc<RootCertStore>, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Content::Ca, path)? {
        roots.add(certificate).map_err(|error| malformed(Content::Ca, path, error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

#[cfg(test)]
mod tests {
    use super::testing::{Pair, TestCa};
    use super::*;

    #[test]
    fn a_pair_is_read_if_key_and_certificate_belong_together() {
        let directory = tempfile::tempdir().expect("tempdir");
        let ca = TestCa::default();
        let Pair { certificate, key, .. } = ca.issue(directory.path(), "a", &["a"]);
        let other_key = ca.issue(directory.path(), "b", &["a"]).key;
        assert_eq!(read_pair(&certificate, &key).expect("a pair").cert.len(), 1);
        assert_eq!(read_ca(&certificate).expect("a CA").len(), 1);
        let error = read_pair(&certificate, &other_key).expect_err("of another").to_string();
        assert!(error.contains("a.crt") && error.contains("b.key") && error.contains("does not belong"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().expect("tempdir");
        let Pair { certificate, key, .. } = TestCa::default().issue(directory.path(), "a", &["a"]);
        let (missing, empty) = (directory.path().join("missing"), directory.path().join("empty"));
        let broken = directory.path().join("broken");
        std::fs::write(&empty, "").expect("written");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
        let refused = |certificate: &Path, key: &Path, file: &Path, why: &str| {
            let error = read_pair(certificate, key).expect_err("refused").to_string();
            assert!(error.contains(&file.display().to_string()) && error.contains(why), "{error}");
            assert!(!error.contains('\n'), "{error}");
        };
        refused(&missing, &key, &missing, "cannot read the certificate file");
        refused(&certificate, &missing, &missing, "cannot read the key file");
        refused(&empty, &key, &empty, "no CERTIFICATE in it");
        refused(&certificate, &empty, &empty, "no PRIVATE KEY in it");
        refused(&certificate, &certificate, &certificate, "no PRIVATE KEY in it");
        refused(&broken, &key, &broken, "cannot be used");
        let error = read_ca(&broken).expect_err("refused").to_string();
        assert!(error.contains("the CA file") && error.contains("broken"), "{error}");
    }
}
