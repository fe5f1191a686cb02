//! The HTTP port: a leader uploads its initial snapshot here, and a machine can ask how the service is.
//!
//! This file serves the connections and bounds how long a client may keep one without using it. [`endpoints`] lists what can be requested,
//! [`gate`] admits requests by their tokens, [`monitoring`] answers who watches the service ([`metrics`] in the format of Prometheus,
//! [`page`] for people), and [`upload`] is the one large request. [`places`] bounds how many requests are answered at a time, and [`upload_places`] allows one upload
//! per shard.

mod endpoints;
#[cfg(test)]
mod fuzz;
mod gate;
mod metrics;
mod monitoring;
mod page;
mod places;
mod upload;
mod upload_places;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{service_fn, Service as _};
use hyper::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Sleep;

use self::places::{HttpPlaces, Visitor};
use crate::connections::limits::Limits;
use crate::connections::port::{Newcomer, Port, Transport};
use crate::connections::strangers::Strangers;
use crate::connections::tls::TlsPort;
use crate::service::Service;

/// Longest head of a request in bytes, and the most that is read ahead of a body.
const MAX_BUFFER_BYTES: usize = 16 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// Sent to a client that speaks without TLS to a port with TLS.
pub const NEEDS_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 27\r\n\r\nthis port takes https only\n";

/// Serves HTTP until `shutdown`, then finishes the requests that were begun.
pub async fn serve(
    service: Arc<Service>,
    listener: TcpListener,
    limits: Arc<Limits>,
    tls: Option<Arc<TlsPort>>,
    shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(HttpPlaces::new(limits.max_http_connections));
    let router = endpoints::router(service, limits.clone(), shutdown.clone());
    let most = limits.max_http_strangers();
    let strangers = Strangers::new(most, limits.lingering(most), "an HTTP connection");
    let stopping = shutdown.clone();
    let serve = move |Newcomer { transport, peer, guest }: Newcomer| {
        let served = (router.clone(), Arc::new(Visitor::new(guest, places.clone())));
        let (limits, stopping) = (limits.clone(), stopping.clone());
        async move {
            match transport {
                Transport::Plain(stream) => serve_connection(stream, peer, served, &limits, stopping).await,
                Transport::Tls(stream) => serve_connection(*stream, peer, served, &limits, stopping).await,
            }
        }
    };
    Port { listener, strangers, tls, configure: |_| Ok(()) }.serve(shutdown, serve).await;
}

pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    (router, visitor): (Router, Arc<Visitor>),
    limits: &Limits,
    mut shutdown: watch::Receiver<bool>,
) {
    let stream = Patient::new(stream, limits.patience.http_stalled, visitor.clone());
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.patience.http_head)
        .max_buf_size(MAX_BUFFER_BYTES)
        .max_headers(MAX_HEADERS);
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(visitor.clone());
        router.call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    let stopped = async move {
        let _ = shutdown.wait_for(|stopping| *stopping).await;
    };
    let served = tokio::select! {
        served = connection.as_mut() => Some(served),
        () = stopped => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("HTTP: {peer}: {error}");
    }
}

/// A stream that fails if the client takes nothing of what is written for too long, and tells the visitor when everything is sent.
struct Patient<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    visitor: Arc<Visitor>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration, visitor: Arc<Visitor>) -> Self {
        Patient { stream, patience, stalled: None, visitor }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes what it has written, and it has written an answer before it flushes for the first time after the answer is ready:
        // answers are whole. One that is a stream keeps its place, and so counts as not ready, until the stream has ended.
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.visitor.all_is_sent();
        }
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(ended, context)
    }
}
