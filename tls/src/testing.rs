//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, SupportedProtocolVersion};

/// A CA that did not exist before.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
}

impl Default for TestCa {
    fn default() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        TestCa { issuer: Issuer::new(params, key), pem }
    }
}

impl TestCa {
    /// Writes the CA's certificate into that file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("written");
    }

    /// Issues a certificate for those names, IP addresses among them, and writes it with its key into `directory`, in
    /// files that begin like `name`. Overwrites what is there.
    pub fn issue(&self, directory: &Path, name: &str, names: &[&str]) -> Pair {
        self.issue_with(directory, name, names, |_| {})
    }

    /// As [`TestCa::issue`], but it has expired.
    pub fn issue_expired(&self, directory: &Path, name: &str, names: &[&str]) -> Pair {
        self.issue_with(directory, name, names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn issue_with(
        &self,
        directory: &Path,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let pair =
            Pair { certificate: directory.join(format!("{name}.crt")), key: directory.join(format!("{name}.key")) };
        std::fs::write(&pair.certificate, certificate.pem()).expect("written");
        std::fs::write(&pair.key, key.serialize_pem()).expect("written");
        pair
    }
}

/// How a client connects that trusts the CAs in `ca` and shows `pair`, if any.
pub fn client_config(
    ca: &Path,
    pair: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(crate::read_ca(ca).expect("a CA"));
    Arc::new(match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let pair = crate::read_pair(&pair.certificate, &pair.key).expect("a pair");
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
        }
    })
}
