//! Certificates for tests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams,
};
use rustls::{ClientConfig, SupportedProtocolVersion};

/// A new CA.
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
    /// Its serial number, by which its CA can revoke it.
    pub serial: u64,
}

impl Default for TestCa {
    fn default() -> Self {
        Self::named("a CA for tests")
    }
}

impl TestCa {
    /// A CA of that name, by which revocation lists are matched to their CA.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        TestCa { issuer: Issuer::new(params, key), pem }
    }

    /// The CA's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

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

    /// Writes this CA's revocation list into that file: valid for years, or outdated.
    pub fn write_revocation_list(&self, path: &Path, revoked: &[&Pair], is_outdated: bool) {
        let (this_update, next_update) = if is_outdated { (2001, 2002) } else { (2001, 4000) };
        let revoked = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.into(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(this_update, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("signed").pem().expect("PEM");
        std::fs::write(path, list).expect("written");
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
        static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(serial.into());
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let pair = Pair {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
            serial,
        };
        std::fs::write(&pair.certificate, certificate.pem()).expect("written");
        std::fs::write(&pair.key, key.serialize_pem()).expect("written");
        // With the permissions that a key should have, so that there is no warning.
        std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).expect("its user's alone");
        pair
    }
}

/// The configuration of a client that trusts the CAs in `ca` and presents `pair`, if any.
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
