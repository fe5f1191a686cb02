//! The HTTP port's connections when TLS is on.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, Semaphore};
use tokio_rustls::server::TlsStream;

use crate::tls::{PlainAnswer, Tls};

/// Handshakes at a time. What comes beyond that waits in the kernel.
const MAX_HANDSHAKES: usize = 64;
/// What a client reads that speaks without TLS to a port with TLS.
const NEEDS_TLS: PlainAnswer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 27\r\n\r\nthis port takes https only\n";

/// Connections on which the handshake is done. One that is slow with it does not keep others waiting.
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: std::io::Result<SocketAddr>,
}

impl TlsListener {
    /// Takes connections from `listener` for as long as this lives.
    pub fn start(listener: TcpListener, tls: Arc<Tls>) -> Self {
        let local = listener.local_addr();
        let (sender, accepted) = mpsc::channel(1);
        tokio::spawn(accept_all(listener, tls, sender));
        TlsListener { accepted, local }
    }
}

async fn accept_all(
    mut listener: TcpListener,
    tls: Arc<Tls>,
    accepted: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = async {
            let permit = permits.clone().acquire_owned().await;
            // This one is the trait's: it waits and goes on after errors.
            (permit, Listener::accept(&mut listener).await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            next = next => next,
            () = accepted.closed() => return,
        };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            if let Some(stream) = tls.accept(stream, peer, NEEDS_TLS).await {
                // An error only says that the port is closed.
                let _ = accepted.send((stream, peer)).await;
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // It ends only after this does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match &self.local {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}
