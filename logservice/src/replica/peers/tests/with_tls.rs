//! The same with TLS: both ends verify the other's certificate, and the token is needed nevertheless.

use std::path::Path;

use durability_tls::testing::TestCa;

use super::*;
use crate::connections::tls::TlsFlags;

/// TLS with a certificate of `ca` for `names`, which trusts `trusted`. With `is_mutual`, who connects must have one as well.
fn tls(directory: &Path, (ca, name): (&TestCa, &str), names: &[&str], trusted: &TestCa, is_mutual: bool) -> Arc<Tls> {
    let pair = ca.issue(directory, name, names);
    let trusted_file = directory.join(format!("{name}-trusts.crt"));
    trusted.write(&trusted_file);
    let flags = TlsFlags {
        certificate: Some(pair.certificate),
        key: Some(pair.key),
        client_ca: is_mutual.then(|| trusted_file.clone()),
        client_crl: None,
    };
    let tls = Tls::from_flags(flags).expect("files").expect("TLS");
    tls.connect_with(trusted_file, None).expect("a CA");
    tls
}

fn setup(name: &str, member: u64, tls: Arc<Tls>) -> Setup {
    let mut setup = Setup { tls: Some(tls), ..Setup::new(name, member) };
    setup.patience.connection = Duration::from_millis(20);
    setup
}

const HERE: &[&str] = &["127.0.0.1"];

#[tokio::test]
async fn services_with_certificates_of_one_ca_reach_each_other() {
    let directory = tempfile::tempdir().expect("tempdir");
    let ca = TestCa::default();
    for is_mutual in [false, true] {
        let of = |name, member| setup(name, member, tls(directory.path(), (&ca, name), HERE, &ca, is_mutual));
        let nodes = start(vec![of("a", 1), of("b", 2)]).await;
        nodes[0].connected_to(2).await;
        nodes[0].peers.queue("s1", append(2, 5, vec![7; 300_000]));
        nodes[0].peers.flush();
        let length = |heard: &mut Heard| heard.messages.first().map(|(.., message)| message.entries[0].data.len());
        assert_eq!(nodes[1].ear.until(length).await, 300_000);
        nodes[1].connected_to(1).await;
        assert_eq!(nodes[1].peers.ask("a", b"?".to_vec()).await.expect("an answer"), b"b asks ?");
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_or_name_is_refused() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (ca, other) = (TestCa::named("one"), TestCa::named("two"));
    let good = || setup("a", 1, tls(directory.path(), (&ca, "a"), HERE, &ca, true));
    let of_other_ca = setup("b", 2, tls(directory.path(), (&other, "b"), HERE, &ca, true));
    let nodes = start(vec![good(), of_other_ca]).await;
    let (to_b, to_a) = (nodes[0].trouble("b").await, nodes[1].trouble("a").await);
    assert!(to_b.contains("invalid peer certificate"), "{to_b}");
    assert!(to_a.contains("peer a cannot be reached"), "{to_a}");
    drop(nodes);
    let of_other_host = setup("b", 2, tls(directory.path(), (&ca, "b"), &["log-b.example"], &ca, true));
    let nodes = start(vec![good(), of_other_host]).await;
    let to_b = nodes[0].trouble("b").await;
    assert!(to_b.contains("not valid for name"), "{to_b}");
}

#[tokio::test]
async fn a_certificate_does_not_replace_the_token() {
    let directory = tempfile::tempdir().expect("tempdir");
    let ca = TestCa::default();
    let of = |name, member| setup(name, member, tls(directory.path(), (&ca, name), HERE, &ca, true));
    let other = Setup { token: "a token of some lengtH", ..of("b", 2) };
    let nodes = start(vec![of("a", 1), other]).await;
    let to_b = nodes[0].trouble("b").await;
    assert!(to_b.contains("the --peer-token files differ"), "{to_b}");
}

#[tokio::test]
async fn a_service_without_tls_and_one_with_it_say_what_is_wrong() {
    let directory = tempfile::tempdir().expect("tempdir");
    let ca = TestCa::default();
    let with = setup("a", 1, tls(directory.path(), (&ca, "a"), HERE, &ca, false));
    let mut without = Setup::new("b", 2);
    without.patience.connection = Duration::from_millis(20);
    let nodes = start(vec![with, without]).await;
    let (to_b, to_a) = (nodes[0].trouble("b").await, nodes[1].trouble("a").await);
    assert!(to_a.contains("takes peers with TLS only"), "{to_a}");
    assert!(to_b.contains("no TLS connection"), "{to_b}");
}

#[tokio::test]
async fn new_files_count_after_a_reload() {
    let directory = tempfile::tempdir().expect("tempdir");
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    let of = |ca, name| tls(directory.path(), (ca, name), HERE, ca, true);
    let (a, b) = (of(&old, "a"), of(&new, "b"));
    let nodes = start(vec![setup("a", 1, a.clone()), setup("b", 2, b)]).await;
    nodes[0].trouble("b").await;
    new.write(&directory.path().join("a-trusts.crt"));
    new.issue(directory.path(), "a", HERE);
    a.reload().expect("reloaded");
    nodes[0].connected_to(2).await;
    nodes[1].connected_to(1).await;
}

#[tokio::test]
async fn tls_without_a_ca_for_peers_is_refused_at_start() {
    let directory = tempfile::tempdir().expect("tempdir");
    let pair = TestCa::default().issue(directory.path(), "a", HERE);
    let flags = TlsFlags { certificate: Some(pair.certificate), key: Some(pair.key), ..TlsFlags::default() };
    let options = PeersOptions {
        listener: listener().await.0,
        peers: Vec::new(),
        token: PeerToken::of(TOKEN).expect("a token"),
        tls: Tls::from_flags(flags).expect("files"),
        insecure: false,
        max_strangers: 8,
        patience: quick(),
    };
    let error = options.check().expect_err("no CA").to_string();
    assert!(error.contains("which CA"), "{error}");
}
