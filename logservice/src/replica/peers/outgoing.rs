//! Connections to a peer: one for each lane. They are made again for as long as the service runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use durability_tls::rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

use super::error::ConnectionError;
use super::framed::{self, ticks, FrameReader, FrameWriter, Hearing, Stream};
use super::greet::{self, Greeted};
use super::link::Link;
use super::sending::Sending;
use super::shared::{Lane, Shared};
use crate::base::log_throttle::ReasonThrottle;
use crate::replica::wire::{Hello, Kind, Malformed, Pieces, Reply};

/// A secret that both ends of a TLS connection derive, and nobody else.
const CHANNEL_LABEL: &[u8] = b"EXPORTER-valkey-durability-peer";

/// Keeps a connection to a peer. Never ends by itself.
pub async fn keep(link: Arc<Link>, lane: Lane, shared: Arc<Shared>) {
    let mut throttle = ReasonThrottle::default();
    let mut pause = shared.patience.least_pause;
    loop {
        let mut was_connected = false;
        let error = once(&link, lane, &shared, &mut was_connected).await;
        link.disconnected(lane, &error.to_string());
        if was_connected {
            pause = shared.patience.least_pause;
            if let Some(member) = link.member().filter(|_| lane != Lane::Files) {
                shared.events.unreachable(member);
            }
        }
        if throttle.pass_at(&error.to_string(), std::time::Instant::now()) {
            let (peer, lost) = (&link.peer, if was_connected { "lost" } else { "no connection" });
            tracing::warn!("peer {} at {}: {lost}: {error}", peer.name, peer.address);
        }
        if matches!(error, ConnectionError::Refuse(_) | ConnectionError::Refused(_)) {
            // It will not be otherwise soon.
            pause = shared.patience.most_pause;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(shared.patience.most_pause);
    }
}

/// Between half of a pause and the whole, so that services do not go on trying at the same moments.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random bytes it is the whole.
    let part = if getrandom::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 255 };
    pause / 2 + pause / 2 * part / 255
}

/// Makes a connection, and uses it until it ends.
async fn once(link: &Arc<Link>, lane: Lane, shared: &Arc<Shared>, was_connected: &mut bool) -> ConnectionError {
    let mut own = shared.registry.own();
    let told = own.borrow_and_update().clone();
    let patience = shared.patience.greeting;
    let begun = timeout(patience, begin(link, lane, shared, &told)).await;
    let (mut reader, writer, greeted) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return error,
        Err(_) => return ConnectionError::Late(patience),
    };
    let Greeted { hello, presence: _presence, .. } = greeted;
    *was_connected = true;
    let sending = Sending::new(writer.into_inner());
    link.connected(lane, hello.member, sending.clone());
    if lane == Lane::Control {
        tracing::info!("peer {} at {}: connected", link.peer.name, link.peer.address);
        shared.events.hello(&hello);
    }
    tokio::select! {
        error = read(&mut reader, link, lane, shared) => error,
        error = write(&sending, link, lane, shared, own) => error,
        () = tell_dropped(link, lane, hello.member, shared) => ConnectionError::Closed,
    }
}

async fn begin(
    link: &Link,
    lane: Lane,
    shared: &Arc<Shared>,
    own: &Hello,
) -> Result<(FrameReader, FrameWriter, Greeted), ConnectionError> {
    let (stream, channel) = connect(link, shared).await?;
    let (mut reader, mut writer) = framed::split(stream, shared.patience.silence);
    let ends = (&mut reader, &mut writer);
    let greeted = greet::connect(shared, ends, (&link.peer.name, lane), &channel, own).await?;
    Ok((reader, writer, greeted))
}

async fn connect(link: &Link, shared: &Shared) -> Result<(Box<dyn Stream>, Vec<u8>), ConnectionError> {
    let stream = TcpStream::connect(&link.peer.address).await.map_err(ConnectionError::Connect)?;
    stream.set_nodelay(true)?;
    let Some(tls) = &shared.tls else { return Ok((Box::new(stream), Vec::new())) };
    // Both were checked when the service started.
    let unusable = || ConnectionError::Tls(io::Error::from(io::ErrorKind::InvalidInput));
    let host = link.peer.host().ok_or_else(unusable)?.to_owned();
    let name = ServerName::try_from(host).map_err(|_| unusable())?;
    let connector = TlsConnector::from(tls.client_config().ok_or_else(unusable)?);
    let stream = connector.connect(name, stream).await.map_err(ConnectionError::Tls)?;
    let stream = TlsStream::from(stream);
    let channel = channel_of(&stream)?;
    Ok((Box::new(stream), channel))
}

/// The secret of a TLS connection.
pub fn channel_of(stream: &TlsStream<TcpStream>) -> Result<Vec<u8>, ConnectionError> {
    let secret = vec![0; 32];
    let derived = match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material(secret, CHANNEL_LABEL, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material(secret, CHANNEL_LABEL, None),
    };
    derived.map_err(|error| ConnectionError::Tls(io::Error::other(error)))
}

async fn read(reader: &mut FrameReader, link: &Link, lane: Lane, shared: &Shared) -> ConnectionError {
    let mut hearing = Hearing::new(shared.patience.silence);
    loop {
        let frame = match hearing.next(reader).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        match frame.kind {
            Kind::Ping => {}
            Kind::Reply => match Reply::decode(frame.body) {
                Ok(answer) => link.answered(lane, answer),
                Err(error) => return error.into(),
            },
            _ => return Malformed("who accepts a connection does not send that").into(),
        }
    }
}

async fn write(
    sending: &Sending,
    link: &Link,
    lane: Lane,
    shared: &Shared,
    own: watch::Receiver<Hello>,
) -> ConnectionError {
    match write_all(sending, link, lane, shared, own).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn write_all(
    sending: &Sending,
    link: &Link,
    lane: Lane,
    shared: &Shared,
    mut own: watch::Receiver<Hello>,
) -> Result<std::convert::Infallible, ConnectionError> {
    let mut pings = ticks(shared.patience.ping);
    loop {
        while let Some(request) = link.take_request(lane) {
            sending.add(Kind::Request, request.encode());
        }
        sending.send_all(link, lane, shared.patience.silence).await?;
        tokio::select! {
            () = link.ready(lane) => {}
            _ = pings.tick() => sending.add(Kind::Ping, Pieces::default()),
            () = changed(&mut own), if lane == Lane::Control => {
                let mut told = Pieces::default();
                own.borrow_and_update().encode(&mut told);
                sending.add(Kind::Hello, told);
            }
        }
    }
}

/// This service has something else to tell of itself.
async fn changed(own: &mut watch::Receiver<Hello>) {
    if own.changed().await.is_err() {
        // It never has.
        std::future::pending().await
    }
}

/// Tells when messages were dropped, even while a write waits.
async fn tell_dropped(link: &Link, lane: Lane, member: u64, shared: &Shared) {
    if lane != Lane::Log {
        // That lane tells it.
        return std::future::pending().await;
    }
    loop {
        link.dropped.notified().await;
        shared.events.unreachable(member);
    }
}
