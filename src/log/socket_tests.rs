use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use durability_tls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use durability_tls::testing::{Pair, TestCa};
use durability_tls::{read_ca, read_pair, VERSIONS};
use tempfile::TempDir;

use crate::base::time_limit::{AtEnd, EndTime, TimeLimit};
use crate::log::socket::LogSocket;
use crate::settings::tls::TlsSettings;

const PATIENCE: Duration = Duration::from_secs(10);

struct Files {
    directory: TempDir,
    ca: TestCa,
    ca_file: PathBuf,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (ca, ca_file) = (TestCa::default(), directory.path().join("ca.crt"));
        ca.write(&ca_file);
        Files { directory, ca, ca_file }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn issue(&self, names: &[&str]) -> Pair {
        self.ca.issue(self.path(), "server", names)
    }

    fn settings(&self, pair: Option<&Pair>) -> TlsSettings {
        let pair = pair.map(|pair| (pair.certificate.clone(), pair.key.clone()));
        TlsSettings { ca: self.ca_file.clone(), crl: None, pair }
    }
}

/// A server that echoes what it receives on one connection. Returns that connection's other end.
fn echo_server(shown: &Pair, client_ca: Option<&Path>, versions: &[&'static SupportedProtocolVersion]) -> TcpStream {
    let provider = durability_tls::provider();
    let verifier = match client_ca {
        None => Arc::new(NoClientAuth) as _,
        Some(path) => {
            WebPkiClientVerifier::builder_with_provider(read_ca(path).unwrap(), provider.clone()).build().unwrap()
        }
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(read_pair(&shown.certificate, &shown.key).unwrap())));
    serve(move |tcp| {
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), tcp);
        let mut bytes = [0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..count]).unwrap();
        }
        // Read until the client closes: closing with unread bytes would discard the alert that says why.
        let _ = stream.sock.read_to_end(&mut Vec::new());
    })
}

fn serve(work: impl FnOnce(TcpStream) + Send + 'static) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::thread::spawn(move || work(listener.accept().unwrap().0));
    client
}

/// Does the handshake, and sends a byte there and back: in TLS 1.3 a server checks the client's certificate after the client's handshake.
fn talk(tcp: TcpStream, host: &str, settings: TlsSettings) -> Result<(), String> {
    let mut socket = LogSocket::new(tcp, host, Some(settings)).map_err(|error| error.to_string())?;
    let mut talk = || {
        socket.handshake(&TimeLimit::within(PATIENCE, AtEnd::BreaksOff, &EndTime::default()))?;
        socket.tcp().set_read_timeout(Some(PATIENCE))?;
        socket.write_all(b"x")?;
        socket.flush()?;
        socket.read_exact(&mut [0])
    };
    talk().map_err(|error| error.to_string())
}

#[track_caller]
fn assert_says(talked: Result<(), String>, expected: &[&str]) {
    let why = talked.expect_err("it must not work");
    assert!(expected.iter().all(|part| why.contains(part)), "{why}");
}

#[test]
fn a_log_whose_certificate_names_its_host_is_trusted() {
    let files = Files::new();
    let shown = files.issue(&["127.0.0.1", "::1", "log.example"]);
    for host in ["127.0.0.1", "::1", "log.example"] {
        talk(echo_server(&shown, None, VERSIONS), host, files.settings(None)).unwrap();
    }
}

#[test]
fn the_error_says_what_is_wrong_with_the_logs_certificate() {
    let (files, others) = (Files::new(), Files::new());
    let ca = files.ca_file.to_str().unwrap();
    let talk_to = |shown: &Pair| talk(echo_server(shown, None, VERSIONS), "127.0.0.1", files.settings(None));
    assert_says(talk_to(&others.issue(&["127.0.0.1"])), &["not of a CA in durability.tls-ca", ca]);
    assert_says(
        talk_to(&files.issue(&["10.0.0.5", "log.example"])),
        &["not for '127.0.0.1'", "durability.log", "10.0.0.5", "log.example"],
    );
    let expired = files.ca.issue_expired(files.path(), "expired", &["127.0.0.1"]);
    assert_says(talk_to(&expired), &["has expired", "SIGHUP"]);
}

#[test]
fn a_log_whose_certificate_is_revoked_is_not_trusted() {
    let files = Files::new();
    let list = files.path().join("list.crl");
    let (good, bad) = (files.issue(&["127.0.0.1"]), files.ca.issue(files.path(), "bad", &["127.0.0.1"]));
    let settings = || TlsSettings { crl: Some(list.clone()), ..files.settings(None) };
    let talk_to = |shown: &Pair| talk(echo_server(shown, None, VERSIONS), "127.0.0.1", settings());
    let path = list.to_str().unwrap();
    files.ca.write_revocation_list(&list, &[&bad], false);
    talk_to(&good).unwrap();
    assert_says(talk_to(&bad), &["is revoked", "durability.tls-crl", path]);
    TestCa::named("another").write_revocation_list(&list, &[], false);
    assert_says(talk_to(&good), &["whether its certificate is revoked is not known", "durability.tls-crl", path]);
}

#[test]
fn a_log_that_wants_a_certificate_of_this_node_gets_it_or_the_error_says_so() {
    let (files, others) = (Files::new(), Files::new());
    let shown = files.issue(&["127.0.0.1"]);
    let (good, wrong) = (files.ca.issue(files.path(), "good", &["node"]), others.issue(&["node"]));
    for version in VERSIONS {
        let talk_as = |pair: Option<&Pair>| {
            talk(echo_server(&shown, Some(&files.ca_file), &[version]), "127.0.0.1", files.settings(pair))
        };
        talk_as(Some(&good)).unwrap();
        assert_says(talk_as(None), &["durability.tls-cert and durability.tls-key"]);
        assert_says(
            talk_as(Some(&wrong)),
            &["does not accept this node's certificate", wrong.certificate.to_str().unwrap(), "--tls-client-ca"],
        );
    }
}

#[test]
fn a_server_without_tls_is_recognized() {
    let files = Files::new();
    let plain = serve(|mut tcp| {
        tcp.write_all(b"-ERR Protocol error: expected an array of bulk strings\r\n").unwrap();
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    assert_says(talk(plain, "127.0.0.1", files.settings(None)), &["did not answer with TLS", "--tls-cert"]);
    let closing = serve(|mut tcp| {
        let _ = tcp.read(&mut [0; 4096]);
    });
    assert_says(talk(closing, "127.0.0.1", files.settings(None)), &["closed the connection during the TLS handshake"]);
}

/// The deadline is that of the whole handshake, even if the other side sends a byte now and then.
#[test]
fn a_handshake_ends_at_its_deadline() {
    let files = Files::new();
    let started = Instant::now();
    let slow = serve(|mut tcp| {
        // The beginning of a record that never ends.
        let mut bytes = [22, 3, 3, 40, 0].into_iter().chain(std::iter::repeat(0));
        while tcp.write_all(&[bytes.next().unwrap_or(0)]).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let mut socket = LogSocket::new(slow, "127.0.0.1", Some(files.settings(None))).unwrap();
    let end = EndTime::default();
    let limit = TimeLimit::within(Duration::from_millis(200), AtEnd::BreaksOff, &end);
    let error = socket.handshake(&limit).expect_err("it is never done");
    assert!(error.to_string().contains("did not finish the TLS handshake"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn certificates_are_read_for_each_connection() {
    let (files, others) = (Files::new(), Files::new());
    let talk_to = |shown: &Pair| talk(echo_server(shown, None, VERSIONS), "127.0.0.1", files.settings(None));
    let theirs = others.issue(&["127.0.0.1"]);
    talk_to(&files.issue(&["127.0.0.1"])).unwrap();
    assert!(talk_to(&theirs).is_err());
    others.ca.write(&files.ca_file);
    talk_to(&theirs).unwrap();
    std::fs::remove_file(&files.ca_file).unwrap();
    assert_says(talk_to(&theirs), &["cannot read the CA file", files.ca_file.to_str().unwrap()]);
}

/// As in the agent: nothing waits, and what the socket does not take at once is sent later.
#[test]
fn without_waiting_everything_arrives_in_order() {
    const BYTES: usize = 8 << 20;
    let files = Files::new();
    let tcp = echo_server(&files.issue(&["127.0.0.1"]), None, VERSIONS);
    rustix::net::sockopt::set_socket_send_buffer_size(&tcp, 64 << 10).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let mut socket = LogSocket::new(tcp, "127.0.0.1", Some(files.settings(None))).unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| (at / 7) as u8).collect();
    let (mut written, mut received) = (0, Vec::new());
    let mut waited_to_write = false;
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut bytes = [0; 4096];
    while received.len() < BYTES {
        assert!(
            Instant::now() < deadline,
            "waited to write: {waited_to_write}, {} of {BYTES} bytes came back",
            received.len()
        );
        if !socket.is_handshaking() && written < BYTES {
            match socket.write(&sent[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => waited_to_write = true,
                Err(error) => panic!("{error}"),
            }
        }
        socket.try_flush().unwrap();
        // The echo server reads nothing more until its echo is read.
        if !socket.is_handshaking() && !waited_to_write {
            continue;
        }
        match socket.read(&mut bytes) {
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(!socket.has_received(), "there is something, and the read did not give it");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(received == sent);
}
