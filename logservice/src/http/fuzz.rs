//! Fuzzes the HTTP port: any bytes, on a connection of their own.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::places::{HttpPlaces, Visitor};
use super::{endpoints, serve_connection};
use crate::access::tokens::Tokens;
use crate::connections::network::Network;
use crate::connections::strangers::Strangers;
use crate::resp::fuzz::{runtime, shared};

/// Parts of requests, so that not every input is refused for its first byte.
const PIECES: [&str; 36] = [
    "GET ",
    "PUT ",
    "HEAD ",
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/shards",
    "/api/shards/s1/history",
    "/shards",
    "/shards/s1/snapshot",
    "/shards/%2e%2e%2fx/snapshot",
    "?epoch=1&offset=1&replid=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "?epoch=",
    "&offset=",
    "&replid=",
    "&log=",
    "%00",
    "18446744073709551616",
    "9223372036854775808",
    "-1",
    "5",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Host: x\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "Upgrade: h2c\r\n",
    "Authorization: Bearer ",
    "a-token-that-opens-it",
    "\r\n",
    "\r\n\r\n",
    "hello",
    "0\r\n\r\n",
];

/// Most memory that one connection may take on the thread that serves it, besides what was sent: what is read ahead of a body, and replies.
const MOST_BYTES: usize = 1 << 20;

#[test]
fn any_bytes_are_requests_that_are_answered_or_refused() {
    let tokens = Tokens::parse("s1 a-token-that-opens-it\n", [7; 32]).expect("tokens");
    let shared = AssertUnwindSafe(shared(Some(tokens)));
    let router =
        AssertUnwindSafe(endpoints::router(shared.service.clone(), shared.limits.clone(), watch::channel(false).1));
    let peer: SocketAddr = "127.0.0.1:1".parse().expect("an address");
    let places = AssertUnwindSafe(Arc::new(HttpPlaces::new(2)));
    bolero::check!().with_type::<Vec<(u8, Vec<u8>)>>().for_each(|pieces| {
        let piece = |(piece, other): &(u8, Vec<u8>)| {
            PIECES
                .get(usize::from(*piece) % (PIECES.len() + 4))
                .map_or_else(|| other.clone(), |piece| piece.as_bytes().to_vec())
        };
        let sent: Vec<u8> = pieces.iter().take(256).flat_map(piece).collect();
        let (mut client, server) = duplex(64 << 10);
        let (_shutdown, stopping) = watch::channel(false);
        let answered = allocation::within(MOST_BYTES + 8 * sent.len(), || {
            runtime().block_on(async {
                let talking = async {
                    // The service may refuse it before all of it is sent.
                    let _ = client.write_all(&sent).await;
                    let _ = client.shutdown().await;
                    let mut answered = Vec::new();
                    client.read_to_end(&mut answered).await.expect("a pipe");
                    answered
                };
                let guest = Strangers::new(1, 0, "a connection").enter(Network::of(peer.ip()), Arc::default());
                let visitor = Arc::new(Visitor::new(guest, places.clone()));
                let serving = serve_connection(server, peer, (router.clone(), visitor), &shared.limits, stopping);
                tokio::join!(talking, serving).0
            })
        });
        assert!(answered.is_empty() || answered.starts_with(b"HTTP/1."), "{}", answered.escape_ascii());
        assert!(shared.service.names().is_empty(), "a shard was made");
    });
    std::fs::remove_dir_all(shared.service.directory()).expect("removed");
}
