//! A way into a TLS port for clients that know nothing of TLS, so that they can be the same as without it.

use std::net::SocketAddr;
use std::sync::Arc;

use durability_tls::rustls::pki_types::{CertificateDer, ServerName};
use durability_tls::rustls::ClientConfig;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::io::{copy_bidirectional, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::client::TlsStream;
use tokio_rustls::TlsConnector;

async fn connect(target: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    // What a client does not take does not gather here.
    set_socket_recv_buffer_size(&stream, 64 << 10)?;
    TlsConnector::from(config).connect(ServerName::IpAddress(target.ip().into()), stream).await
}

/// An address: what connects there is connected to `target` by TLS.
pub fn open(runtime: &Runtime, target: SocketAddr, config: &Arc<ClientConfig>) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("bound");
    let address = listener.local_addr().expect("an address");
    let config = config.clone();
    runtime.spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let config = config.clone();
            tokio::spawn(async move {
                let _ = plain.set_nodelay(true);
                if let Ok(mut tls) = connect(target, config).await {
                    let _ = copy_bidirectional(&mut plain, &mut tls).await;
                }
            });
        }
    });
    address
}

/// Connects to a RESP port and asks whether it is there. Answers the certificate that it showed.
pub fn ping(
    runtime: &Runtime,
    target: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<CertificateDer<'static>> {
    runtime.block_on(async {
        let mut stream = connect(target, config.clone()).await?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"+PONG\r\n");
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(certificates.first().expect("the server showed one").clone().into_owned())
    })
}
