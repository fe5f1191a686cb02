use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use durability_tls::rustls::pki_types::ServerName;
use durability_tls::rustls::server::NoClientAuth;
use durability_tls::rustls::sign::SingleCertAndKey;
use durability_tls::rustls::{ClientConnection, ServerConfig};
use durability_tls::testing::{client_config, TestCa};
use durability_tls::VERSIONS;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::output::{Outlook, Output};
use super::reply;
use super::socket::Socket;

const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of a TLS connection that takes little without being read. The client sends `early` in the same packet as the
/// end of its handshake.
async fn pair(early: &'static [u8]) -> (Socket, TlsStream<TcpStream>) {
    let directory = tempfile::tempdir().expect("tempdir");
    let (ca, ca_file) = (TestCa::default(), directory.path().join("ca.crt"));
    ca.write(&ca_file);
    let files = ca.issue(directory.path(), "server", &["127.0.0.1"]);
    let shown = durability_tls::read_pair(&files.certificate, &files.key).expect("a pair");
    let config = ServerConfig::builder_with_provider(durability_tls::provider())
        .with_protocol_versions(VERSIONS)
        .expect("versions")
        .with_client_cert_verifier(Arc::new(NoClientAuth))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let connect = async {
        let stream = TcpStream::connect(address).await.expect("connected");
        set_socket_recv_buffer_size(&stream, 8 << 10).expect("set");
        let connector = TlsConnector::from(client_config(&ca_file, None, VERSIONS));
        let name = ServerName::IpAddress(address.ip().into());
        let send = |session: &mut ClientConnection| session.writer().write_all(early).expect("taken");
        connector.connect_with(name, stream, send).await.expect("the client's handshake")
    };
    let accept = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        set_socket_send_buffer_size(&stream, 8 << 10).expect("set");
        TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("the server's handshake")
    };
    let (client, server) = tokio::join!(connect, accept);
    (Socket::from(server), client)
}

/// Replies that were encrypted, and for which the socket has no room, still have to leave.
#[tokio::test]
async fn a_connection_ends_only_when_all_that_was_encrypted_is_sent() {
    let (socket, mut client) = pair(b"").await;
    let output = Output::new(socket);
    let mut bytes = 0;
    while output.socket().is_flushed() {
        output.push(reply::bulk("x".repeat(100)));
        bytes += "$100\r\n".len() + 100 + 2;
        assert_eq!(output.settle(false), Outlook::Read);
    }
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.map(|_| received.len())
    });
    let ending = async {
        while output.settle(true) != Outlook::End {
            output.changed().await;
        }
    };
    timeout(PATIENCE, ending).await.expect("nothing wakes the connection");
    drop(output);
    let received = timeout(PATIENCE, reading).await.expect("the end is not seen").expect("read");
    assert_eq!(received.expect("an end, not a cut"), bytes);
}

/// The TCP connection has nothing more to read then, so waiting for it would be for ever.
#[tokio::test]
async fn decrypted_bytes_are_read_without_waiting_for_more() {
    let (socket, _client) = pair(b"0123456789").await;
    let mut small = [0; 4];
    let mut taken = Vec::new();
    while taken.len() < 10 {
        let read = timeout(PATIENCE, (&socket).read(&mut small)).await;
        let bytes = read.expect("waits for what has come").expect("read");
        taken.extend_from_slice(&small[..bytes]);
        if taken.len() < 10 {
            timeout(PATIENCE, socket.readable()).await.expect("waits for what has come").expect("open");
        }
    }
    assert_eq!(taken, b"0123456789");
}

/// What a socket took and has not sent leaves when there is room.
#[tokio::test]
async fn flushing_waits_until_all_is_sent() {
    let (socket, mut client) = pair(b"").await;
    let mut bytes = 0;
    // What the kernel still takes, it takes within that time.
    while timeout(Duration::from_millis(50), socket.flushed()).await.is_ok() {
        while socket.is_flushed() {
            bytes += socket.try_write(&[7; 100]).expect("taken");
        }
    }
    let mut received = vec![0; bytes];
    let reading = timeout(PATIENCE, client.read_exact(&mut received));
    let (flushed, read) = tokio::join!(timeout(PATIENCE, socket.flushed()), reading);
    flushed.expect("nothing is sent").expect("open");
    read.expect("nothing arrives").expect("open");
    assert!(socket.is_flushed() && received.iter().all(|&byte| byte == 7));
}
