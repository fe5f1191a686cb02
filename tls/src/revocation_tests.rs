use std::cell::Cell;

use super::*;
use crate::read_certificate;
use crate::testing::{Pair, TestCa};

thread_local! {
    static TOLD: Cell<usize> = const { Cell::new(0) };
}

fn tell(_: &Path) {
    TOLD.set(TOLD.get() + 1);
}

/// A directory with two CAs, the files of their certificates, and a file for lists.
struct Scene {
    directory: tempfile::TempDir,
    ca: TestCa,
    other: TestCa,
    lists: PathBuf,
    cas: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let (ca, other) = (TestCa::named("one"), TestCa::named("two"));
        let (lists, cas) = (directory.path().join("lists.crl"), directory.path().join("cas.crt"));
        std::fs::write(&cas, [ca.pem(), other.pem()].concat()).expect("written");
        Scene { directory, ca, other, lists, cas }
    }

    fn issue(&self, ca: &TestCa, name: &str) -> Pair {
        ca.issue(self.directory.path(), name, &["log.example"])
    }

    /// The results for a client and a server with that certificate.
    fn verify(&self, pair: &Pair) -> [Result<(), Error>; 2] {
        let chain = read_certificate(&pair.certificate).expect("a certificate");
        let clients = client_verifier(&self.cas, Some(&self.lists), tell).expect("files");
        let servers = server_verifier(&self.cas, Some(&self.lists), tell).expect("files");
        let name = ServerName::try_from("log.example").expect("a name");
        let now = UnixTime::now();
        [
            clients.verify_client_cert(&chain[0], &[], now).map(drop),
            servers.verify_server_cert(&chain[0], &[], &name, &[], now).map(drop),
        ]
    }

    fn assert_refused(&self, pair: &Pair, why: &CertificateError) {
        assert_eq!(self.verify(pair), [(); 2].map(|()| Err(Error::InvalidCertificate(why.clone()))));
    }

    fn assert_accepted(&self, pair: &Pair) {
        assert_eq!(self.verify(pair), [Ok(()), Ok(())]);
    }
}

#[test]
fn a_certificate_is_refused_if_a_list_names_it_or_no_list_is_of_its_ca() {
    let scene = Scene::new();
    let (good, bad) = (scene.issue(&scene.ca, "good"), scene.issue(&scene.ca, "bad"));
    let of_other = scene.issue(&scene.other, "other");
    scene.ca.write_revocation_list(&scene.lists, &[&bad], false);
    scene.assert_accepted(&good);
    scene.assert_refused(&bad, &CertificateError::Revoked);
    scene.assert_refused(&of_other, &CertificateError::UnknownRevocationStatus);
    let mut both = std::fs::read(&scene.lists).expect("read");
    scene.other.write_revocation_list(&scene.lists, &[], false);
    both.extend(std::fs::read(&scene.lists).expect("read"));
    std::fs::write(&scene.lists, both).expect("written");
    scene.assert_accepted(&of_other);
    scene.assert_refused(&bad, &CertificateError::Revoked);
    assert_eq!(TOLD.get(), 0);
}

#[test]
fn a_list_that_is_out_of_date_goes_on_counting_and_is_told() {
    let scene = Scene::new();
    let (good, bad) = (scene.issue(&scene.ca, "good"), scene.issue(&scene.ca, "bad"));
    scene.ca.write_revocation_list(&scene.lists, &[&bad], true);
    scene.assert_refused(&bad, &CertificateError::Revoked);
    assert_eq!(TOLD.get(), 0, "nothing was accepted");
    scene.assert_accepted(&good);
    assert_eq!(TOLD.get(), 2);
}

#[test]
fn a_file_without_lists_that_can_be_used_is_named() {
    let scene = Scene::new();
    let refused = |why: &str| {
        let clients = client_verifier(&scene.cas, Some(&scene.lists), tell).map(drop);
        let servers = server_verifier(&scene.cas, Some(&scene.lists), tell).map(drop);
        for error in [clients, servers].map(|verifier| verifier.expect_err("refused").to_string()) {
            assert!(error.contains("revocation list") && error.contains("lists.crl"), "{error}");
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
    };
    refused("cannot read");
    std::fs::write(&scene.lists, "").expect("written");
    refused("no X509 CRL in it");
    std::fs::copy(&scene.cas, &scene.lists).expect("copied");
    refused("no X509 CRL in it");
    std::fs::write(&scene.lists, "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").expect("written");
    refused("a list in it cannot be read");
}

#[test]
fn any_file_of_lists_is_read_or_refused() {
    let scene = Scene::new();
    let bad = scene.issue(&scene.ca, "bad");
    scene.ca.write_revocation_list(&scene.lists, &[&bad], false);
    let sound = read_revocation_lists(&scene.lists).expect("lists").remove(0).to_vec();
    let roots = read_ca(&scene.cas).expect("CAs");
    bolero::check!().with_type::<(Vec<(u16, u8)>, Option<u16>)>().for_each(|(changes, cut)| {
        let mut list = sound.clone();
        for (at, change) in changes {
            let at = usize::from(*at) % list.len();
            list[at] ^= change;
        }
        list.truncate(cut.map_or(list.len(), usize::from));
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        if let Err(error) = builder.with_crls([CertificateRevocationListDer::from(list)]).build() {
            let error = unusable(&scene.cas, &scene.lists, &error).to_string();
            assert!(error.contains("lists.crl"), "{error}");
        }
    });
}
