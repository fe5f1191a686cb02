//! Verifies the other side's certificate with the revocation lists (CRLs) of a file.
//!
//! A certificate that a list names is refused. A certificate of a CA without a list is refused as well, including CAs between it and the
//! trusted one, as it is unknown whether it is revoked. An outdated list stays in force, with a warning: what it names is refused, and what
//! it does not name is accepted, as a list that was not renewed for a day must not keep every node from its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};

use crate::{from_pem, malformed, provider, read_ca, Content, FileError};

/// Called with a file of lists of which one is outdated, whenever a certificate was accepted by it. On the thread of the handshake.
pub type Outdated = fn(&Path);

/// The revocation lists in a file.
///
/// # Errors
/// The file cannot be used.
pub fn read_revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let content = Content::RevocationLists;
    let read = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(lists) if lists.is_empty() => Err(from_pem(content, path, pem::Error::NoItemsFound)),
        Ok(lists) => Ok(lists),
        Err(error) => Err(from_pem(content, path, error)),
    }
}

/// Verifies the certificates of clients: they must be of a CA in `ca`, and not revoked by `lists`.
///
/// # Errors
/// A file cannot be used.
pub fn client_verifier(
    ca: &Path,
    lists: Option<&Path>,
    outdated: Outdated,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    let roots = read_ca(ca)?;
    let builder = || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
    let Some(path) = lists else { return builder().build().map_err(|error| unusable(ca, ca, &error)) };
    let lists = read_revocation_lists(path)?;
    let lenient = builder().with_crls(lists.clone()).build().map_err(|error| unusable(ca, path, &error))?;
    let strict = builder().with_crls(lists).enforce_revocation_expiration().build();
    let strict = strict.map_err(|error| unusable(ca, path, &error))?;
    Ok(Arc::new(Verifier { strict, lenient, path: path.to_owned(), outdated }))
}

/// Verifies the certificate of a server: it must be of a CA in `ca`, name the host, and not be revoked by `lists`.
///
/// # Errors
/// A file cannot be used.
pub fn server_verifier(
    ca: &Path,
    lists: Option<&Path>,
    outdated: Outdated,
) -> Result<Arc<dyn ServerCertVerifier>, FileError> {
    let roots = read_ca(ca)?;
    let builder = || WebPkiServerVerifier::builder_with_provider(roots.clone(), provider());
    let Some(path) = lists else {
        return Ok(builder().build().map_err(|error| unusable(ca, ca, &error))?);
    };
    let lists = read_revocation_lists(path)?;
    let lenient = builder().with_crls(lists.clone()).build().map_err(|error| unusable(ca, path, &error))?;
    let strict = builder().with_crls(lists).enforce_revocation_expiration().build();
    let strict = strict.map_err(|error| unusable(ca, path, &error))?;
    Ok(Arc::new(Verifier { strict, lenient, path: path.to_owned(), outdated }))
}

fn unusable(ca: &Path, lists: &Path, error: &VerifierBuilderError) -> FileError {
    match error {
        VerifierBuilderError::InvalidCrl(CertRevocationListError::UnsupportedCrlVersion) => malformed(
            Content::RevocationLists,
            lists,
            "a list in it is of version 1: make one of version 2 (openssl ca -gencrl -crlexts …)",
        ),
        VerifierBuilderError::InvalidCrl(why) => {
            malformed(Content::RevocationLists, lists, format!("a list in it cannot be read: {why:?}"))
        }
        other => malformed(Content::Ca, ca, other.to_string()),
    }
}

/// Accepts what `lenient` accepts, and reports if `strict` would not, as a list is outdated.
#[derive(Debug)]
struct Verifier<Kind> {
    strict: Kind,
    lenient: Kind,
    path: PathBuf,
    outdated: Outdated,
}

impl<Kind> Verifier<Kind> {
    fn verify<Verified>(&self, by: impl Fn(&Kind) -> Result<Verified, Error>) -> Result<Verified, Error> {
        match by(&self.strict) {
            Err(Error::InvalidCertificate(
                CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. },
            )) => {
                let verified = by(&self.lenient)?;
                (self.outdated)(&self.path);
                Ok(verified)
            }
            verified => verified,
        }
    }
}

impl ClientCertVerifier for Verifier<Arc<dyn ClientCertVerifier>> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.lenient.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(|kind| kind.verify_client_cert(end_entity, intermediates, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lenient.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lenient.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.lenient.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Verifier<Arc<WebPkiServerVerifier>> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(|kind| kind.verify_server_cert(end_entity, intermediates, name, ocsp, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lenient.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.lenient.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.lenient.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "revocation_tests.rs"]
mod tests;
