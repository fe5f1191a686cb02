use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_tls::rustls::version::{TLS12, TLS13};
use durability_tls::rustls::{ClientConfig, SupportedProtocolVersion};
use durability_tls::testing::{client_config, Pair, TestCa};
use durability_tls::VERSIONS;
use tempfile::TempDir;

use crate::client::{Client, Reply, Service};
use crate::common::pattern;
use crate::hostile::outlives_a_flush;
use crate::tunnel;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A directory with a CA and a certificate of it for the service.
struct Files {
    directory: TempDir,
    ca: TestCa,
    ca_file: PathBuf,
    pair: Pair,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let ca = TestCa::default();
        let ca_file = directory.path().join("ca.crt");
        ca.write(&ca_file);
        let pair = ca.issue(directory.path(), "server", &["127.0.0.1"]);
        Files { directory, ca, ca_file, pair }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn flags(&self) -> Vec<&str> {
        vec!["--tls-cert", text(&self.pair.certificate), "--tls-key", text(&self.pair.key)]
    }

    fn start(&self, more: &[&str]) -> Service {
        Service::start(&self.path().join("data"), &[self.flags(), more.to_vec()].concat()).expect("starts")
    }

    fn client(&self) -> Arc<ClientConfig> {
        client_config(&self.ca_file, None, VERSIONS)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn connect(service: &Service, config: &Arc<ClientConfig>) -> Client {
    Client::connect(tunnel::open(service.runtime(), service.listen_address(), config))
}

fn appends_and_follows(version: &'static SupportedProtocolVersion) {
    let files = Files::new();
    let service = files.start(&[]);
    let config = client_config(&files.ca_file, None, &[version]);
    let (mut leader, epoch, _) = service.lead_by(connect(&service, &config), "s1", "n1", A);
    let mut replica = connect(&service, &config);
    assert_eq!(replica.psync("s1", A, 1), format!("+CONTINUE {A}"));
    let mut offset = 0;
    for bytes in [1, 16 << 10, 1 << 20, 1, 700_000] {
        assert_eq!(leader.append("s1", epoch, offset, &pattern(offset, bytes)), Reply::Integer(offset + bytes as u64));
        assert!(replica.bytes(bytes) == pattern(offset, bytes), "{bytes} bytes at {offset}");
        offset += bytes as u64;
        replica.send(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
    }
    leader.ok(&["QUIT"]);
    leader.assert_closed();
    service.stop();
}

#[test]
fn appends_are_acknowledged_and_replicas_follow_over_tls_1_3() {
    appends_and_follows(&TLS13);
}

#[test]
fn appends_are_acknowledged_and_replicas_follow_over_tls_1_2() {
    appends_and_follows(&TLS12);
}

#[test]
fn clients_that_read_late_get_everything_in_the_end() {
    const BYTES: usize = 1 << 20;
    const APPENDS: usize = 12;
    let files = Files::new();
    let service = files.start(&[]);
    let (mut leader, epoch, _) = service.lead_by(connect(&service, &files.client()), "s1", "n1", A);
    let mut replica = connect(&service, &files.client());
    assert_eq!(replica.psync("s1", A, 1), format!("+CONTINUE {A}"));
    for append in 0..APPENDS {
        let offset = (append * BYTES) as u64;
        leader.send_append("s1", epoch, offset, &pattern(offset, BYTES));
    }
    for append in 1..=APPENDS {
        assert_eq!(leader.reply(), Reply::Integer((append * BYTES) as u64));
    }
    assert!(replica.bytes(APPENDS * BYTES) == pattern(0, APPENDS * BYTES));
    let mut talker = connect(&service, &files.client());
    let long = "x".repeat(BYTES);
    let mut sending = talker.stream.try_clone().expect("cloned");
    let command = format!("*2\r\n$4\r\nPING\r\n${BYTES}\r\n{long}\r\n");
    let writing = std::thread::spawn(move || {
        for _ in 0..32 {
            sending.write_all(command.as_bytes()).expect("sent");
        }
    });
    for _ in 0..32 {
        assert!(matches!(talker.reply(), Reply::Text(text) if text.len() == BYTES));
    }
    writing.join().expect("sent");
    service.stop();
}

#[test]
fn a_seed_is_taken_over_https_and_given_to_replicas_over_tls() {
    let files = Files::new();
    let service = files.start(&[]);
    let https = tunnel::open(service.runtime(), service.http_address(), &files.client());
    assert_eq!(Service::http_at(https, "GET /healthz HTTP/1.1", b""), (200, "ok\n".to_owned()));
    let (mut leader, epoch, _) = service.lead_by(connect(&service, &files.client()), "s1", "n1", A);
    let rdb = pattern(7, 5_000_000);
    let put = format!("PUT /shards/s1/snapshot?epoch={epoch}&offset=5000&replid={B} HTTP/1.1");
    assert_eq!(Service::http_at(https, &put, &rdb), (200, "ok\n".to_owned()));
    assert_eq!(leader.append("s1", epoch, 5000, b"more"), Reply::Integer(5004));
    let mut replica = connect(&service, &files.client());
    assert_eq!(replica.psync("s1", "?", -1), format!("+FULLRESYNC {B} 5000"));
    assert_eq!(replica.line(), "$5000000");
    assert!(replica.bytes(5_000_000) == rdb);
    assert_eq!(replica.bytes(4), b"more");
    service.stop();
}

#[test]
fn a_replica_that_drops_its_old_data_before_it_takes_a_snapshot_over_tls_may_stay() {
    let files = Files::new();
    let service = Service::start_patient(&files.path().join("data"), &files.flags(), |patience| {
        patience.stalled_output = Duration::from_millis(300);
    });
    let https = tunnel::open(service.runtime(), service.http_address(), &files.client());
    let resp = tunnel::open(service.runtime(), service.listen_address(), &files.client());
    let connect = || Client::connect(resp);
    outlives_a_flush(connect, || service.lead_by(connect(), "s1", "n1", A), https);
    service.stop();
}

#[test]
fn with_a_client_ca_only_its_certificates_open_the_ports() {
    let files = Files::new();
    let (clients, strangers) = (TestCa::default(), TestCa::default());
    let client_ca = files.path().join("clients.crt");
    clients.write(&client_ca);
    let service = files.start(&["--tls-client-ca", text(&client_ca)]);
    let good = clients.issue(files.path(), "good", &["node"]);
    let wrong = strangers.issue(files.path(), "wrong", &["node"]);
    for version in [&TLS12, &TLS13] {
        let ping = |pair| {
            let config = client_config(&files.ca_file, pair, &[version]);
            tunnel::ping(service.runtime(), service.listen_address(), &config)
        };
        assert!(ping(None).is_err(), "{version:?}: without a certificate");
        assert!(ping(Some(&wrong)).is_err(), "{version:?}: with one of another CA");
        ping(Some(&good)).expect("with one of its own");
    }
    let config = client_config(&files.ca_file, Some(&good), VERSIONS);
    let https = tunnel::open(service.runtime(), service.http_address(), &config);
    assert_eq!(Service::http_at(https, "GET /healthz HTTP/1.1", b"").0, 200);
    service.stop();
}

#[test]
fn a_client_whose_certificate_is_revoked_is_refused_from_the_next_reload_on() {
    let files = Files::new();
    let clients = TestCa::named("clients");
    let (client_ca, list) = (files.path().join("clients.crt"), files.path().join("clients.crl"));
    clients.write(&client_ca);
    let good = clients.issue(files.path(), "good", &["node"]);
    let bad = clients.issue(files.path(), "bad", &["node"]);
    clients.write_revocation_list(&list, &[], false);
    let service = files.start(&["--tls-client-ca", text(&client_ca), "--tls-client-crl", text(&list)]);
    // One configuration for all connections of a client: it would resume what it did before.
    let configs =
        [&TLS12, &TLS13].map(|version| [&good, &bad].map(|pair| client_config(&files.ca_file, Some(pair), &[version])));
    let ping = |config| tunnel::ping(service.runtime(), service.listen_address(), config);
    for config in configs.iter().flatten() {
        ping(config).expect("nothing is revoked");
    }
    let mut connected = connect(&service, &configs[1][1]);
    connected.ok(&["SELECT", "0"]);
    clients.write_revocation_list(&list, &[&bad], false);
    service.server().reload();
    for [good, bad] in &configs {
        ping(good).expect("it is not revoked");
        assert!(ping(bad).is_err(), "it is revoked");
    }
    connected.ok(&["SELECT", "0"]);
    // A list that cannot be used changes nothing.
    std::fs::write(&list, "").expect("written");
    service.server().reload();
    assert!(ping(&configs[1][1]).is_err(), "it is revoked");
    // One that is out of date goes on counting.
    clients.write_revocation_list(&list, &[&bad], true);
    service.server().reload();
    ping(&configs[1][0]).expect("it is not revoked");
    assert!(ping(&configs[1][1]).is_err(), "it is revoked");
    service.stop();
}

#[test]
fn plain_clients_are_told_and_sent_away() {
    let files = Files::new();
    let service = files.start(&[]);
    let mut plain = service.connect();
    plain.refused(&["PING"], "ERR this port takes TLS connections only");
    plain.assert_closed();
    let (status, text) = service.http("GET /healthz HTTP/1.1", b"");
    assert_eq!((status, text.as_str()), (400, "this port takes https only\n"));
    tunnel::ping(service.runtime(), service.listen_address(), &files.client()).expect("others are served");
    service.stop();
}

#[test]
fn a_client_that_never_ends_its_handshake_delays_no_other() {
    let files = Files::new();
    let service = files.start(&[]);
    let _silent = [service.connect(), Client::connect(service.http_address())];
    tunnel::ping(service.runtime(), service.listen_address(), &files.client()).expect("served");
    let https = tunnel::open(service.runtime(), service.http_address(), &files.client());
    assert_eq!(Service::http_at(https, "GET /healthz HTTP/1.1", b"").0, 200);
    let started = Instant::now();
    service.stop();
    assert!(started.elapsed() < Duration::from_secs(4), "stopping waits for a handshake");
}

#[test]
fn a_reload_gives_new_connections_the_new_certificate_and_a_failed_one_changes_nothing() {
    let files = Files::new();
    let service = files.start(&[]);
    let shown = || tunnel::ping(service.runtime(), service.listen_address(), &files.client()).expect("served");
    let (mut leader, epoch, _) = service.lead_by(connect(&service, &files.client()), "s1", "n1", A);
    let first = shown();
    assert_eq!(shown(), first);
    files.ca.issue(files.path(), "server", &["127.0.0.1"]);
    assert_eq!(shown(), first, "before the reload");
    service.server().reload();
    let second = shown();
    assert_ne!(second, first);
    assert_eq!(leader.append("s1", epoch, 0, b"one"), Reply::Integer(3), "a connection with the old certificate");
    // A certificate whose key is not written yet.
    let half = files.ca.issue(files.path(), "half", &["127.0.0.1"]);
    std::fs::copy(&half.certificate, &files.pair.certificate).expect("copied");
    service.server().reload();
    assert_eq!(shown(), second, "with a key that does not fit");
    std::fs::remove_file(&files.pair.certificate).expect("removed");
    service.server().reload();
    assert_eq!(shown(), second, "without a file");
    assert_eq!(leader.append("s1", epoch, 3, b"two"), Reply::Integer(6));
    service.stop();
}

#[test]
fn a_reload_reads_the_tokens_as_well_and_bad_ones_change_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "s1 one\n").expect("written");
    let service = Service::start(&directory.path().join("data"), &["--tokens", text(&tokens)]).expect("starts");
    let mut logged_in = service.connect();
    logged_in.ok(&["AUTH", "s1", "one"]);
    logged_in.make("s1");
    std::fs::write(&tokens, "s1 two\n").expect("written");
    service.server().reload();
    service.connect().refused(&["AUTH", "s1", "one"], "NOAUTH ");
    service.connect().ok(&["AUTH", "s1", "two"]);
    assert!(logged_in.line().starts_with("-NOAUTH the token of this connection was removed"));
    logged_in.assert_closed();
    assert_eq!(service.http("GET /shards HTTP/1.1\r\nAuthorization: Bearer one", b"").0, 401);
    std::fs::write(&tokens, "nothing\n").expect("written");
    service.server().reload();
    service.connect().ok(&["AUTH", "s1", "two"]);
    service.stop();
}

#[test]
fn flags_and_files_that_do_not_fit_together_are_refused_in_one_line() {
    let files = Files::new();
    let (certificate, key) = (text(&files.pair.certificate), text(&files.pair.key));
    let other = files.ca.issue(files.path(), "other", &["127.0.0.1"]);
    let missing = files.path().join("missing");
    let empty = files.path().join("empty");
    std::fs::write(&empty, "").expect("written");
    let refused = |flags: &[&str], expected: &[&str]| {
        let started = Service::start(&files.path().join("data"), flags);
        let error = started.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(expected.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{flags:?}: {error}");
    };
    refused(&["--tls-cert", certificate], &["--tls-cert needs --tls-key"]);
    refused(&["--tls-key", key], &["--tls-key needs --tls-cert"]);
    refused(&["--tls-client-ca", text(&files.ca_file)], &["--tls-client-ca needs --tls-cert and --tls-key"]);
    let with_crl = ["--tls-cert", certificate, "--tls-key", key, "--tls-client-crl", text(&empty)];
    refused(&with_crl, &["--tls-client-crl needs --tls-client-ca"]);
    refused(&["--tls-cert", text(&missing), "--tls-key", key], &["cannot read the certificate file", "missing"]);
    refused(&["--tls-cert", certificate, "--tls-key", text(&missing)], &["cannot read the key file", "missing"]);
    let with_other_key = ["--tls-cert", certificate, "--tls-key", text(&other.key)];
    refused(&with_other_key, &["other.key", "does not belong to the certificate file", "server.crt"]);
    let with_client_ca = |ca| ["--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", ca];
    refused(&with_client_ca(text(&missing)), &["cannot read the CA file", "missing"]);
    refused(&with_client_ca(text(&empty)), &["the CA file", "empty", "no CERTIFICATE"]);
    let with_crl = [&with_client_ca(text(&files.ca_file))[..], &["--tls-client-crl", text(&empty)]].concat();
    refused(&with_crl, &["the revocation list file", "empty", "no X509 CRL"]);
}

/// The program itself, killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sighup_reloads_and_plain_clients_are_logged_once() {
    let files = Files::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let log = files.path().join("log");
    let started = Command::new(env!("CARGO_BIN_EXE_logservice"))
        .args(["--dir", text(&files.path().join("data")), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .args(files.flags())
        .stderr(Stdio::from(std::fs::File::create(&log).expect("created")))
        .spawn();
    let mut program = Program(started.expect("started"));
    let wait_for = |what: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let logged = std::fs::read_to_string(&log).expect("read");
            if let Some((_, rest)) = logged.split_once(what) {
                return rest.to_owned();
            }
            assert!(Instant::now() < deadline, "no '{what}' in {logged}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let rest = wait_for("RESP on ");
    wait_for("both with TLS");
    let address = rest.split(',').next().and_then(|address| address.parse().ok()).expect("an address");
    let shown = || tunnel::ping(&runtime, address, &files.client()).expect("served");
    let first = shown();
    files.ca.issue(files.path(), "server", &["127.0.0.1"]);
    let pid = rustix::process::Pid::from_child(&program.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("sent");
    wait_for("certificates reloaded");
    assert_ne!(shown(), first);
    std::fs::remove_file(&files.pair.key).expect("removed");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("sent");
    let why = wait_for("the certificates stay as they were: ");
    assert!(why.contains("cannot read the key file") && why.contains("server.key"), "{why}");
    assert_ne!(shown(), first);
    for _ in 0..3 {
        Client::connect(address).refused(&["PING"], "ERR this port takes TLS connections only");
    }
    wait_for("it does not speak TLS");
    let logged = std::fs::read_to_string(&log).expect("read");
    assert_eq!(logged.matches("it does not speak TLS").count(), 1, "whoever finds the port fills the log: {logged}");
    assert!(program.0.try_wait().expect("asked").is_none(), "the program has ended");
}
