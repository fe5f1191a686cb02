//! Connections from peers.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::error::ConnectionError;
use super::framed::{self, ticks, FrameReader, FrameWriter, Hearing, Stream};
use super::greet::{self, Greeted};
use super::outgoing::channel_of;
use super::registry::Presence;
use super::shared::{Lane, Shared};
use crate::base::log_throttle::{say, LineThrottle};
use crate::base::printable::printable;
use crate::connections::port::{Newcomer, Port, Transport};
use crate::connections::strangers::Strangers;
use crate::connections::tls::TlsPort;
use crate::replica::wire::{Fields, Frame, Hello, Incoming, Kind, Malformed, Pieces, Refusal, Request};

/// Requests of a peer that wait for their answers.
const MOST_REQUESTS: usize = 64;

/// The connections of peers, by name and lane: a newer one takes the place of an older one.
#[derive(Default)]
pub struct Places(Mutex<HashMap<(String, Lane), oneshot::Sender<()>>>);

impl Places {
    /// Takes the place. What is returned ends when another one takes it.
    fn take(&self, hello: &Hello, lane: Lane) -> oneshot::Receiver<()> {
        let (sender, replaced) = oneshot::channel();
        let mut places = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        places.insert((hello.name.clone(), lane), sender);
        replaced
    }
}

/// Takes connections until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    max_strangers: u32,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let strangers = Strangers::new(max_strangers, 0, "a connection of a peer");
    let tls = shared.tls.clone().map(|tls| TlsPort::new(tls, needs_tls())).transpose()?;
    let (places, throttle) = (Arc::new(Places::default()), Arc::new(LineThrottle::of(6)));
    let stopping = shutdown.clone();
    let serve = move |newcomer: Newcomer| {
        let (shared, places, throttle) = (shared.clone(), places.clone(), throttle.clone());
        let mut stopping = stopping.clone();
        async move {
            let peer = newcomer.peer;
            let ended = tokio::select! {
                ended = take(newcomer, &shared, &places) => ended,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match ended {
                // A probe whether the port is open, or a peer that has gone: it is missed by who connects to it.
                ConnectionError::Closed | ConnectionError::Replaced | ConnectionError::Io(_) => {
                    tracing::debug!("{peer}: {ended}");
                }
                _ => say!(throttle, warn, "{peer}: connection of a peer: {}", printable(&ended.to_string())),
            }
        }
    };
    let configure = |stream: &TcpStream| stream.set_nodelay(true);
    Port { listener, strangers, tls, configure }.serve(shutdown, serve).await;
    Ok(())
}

/// What a peer without TLS is told where there is TLS.
fn needs_tls() -> &'static [u8] {
    static ANSWER: OnceLock<Vec<u8>> = OnceLock::new();
    ANSWER.get_or_init(|| {
        let refusal = Refusal("this service takes peers with TLS only: give --tls-cert and --tls-key".to_owned());
        Frame::encode(Kind::Refused, refusal.encode())
    })
}

/// Serves a connection until it ends.
async fn take(newcomer: Newcomer, shared: &Arc<Shared>, places: &Places) -> ConnectionError {
    let Newcomer { transport, mut guest, .. } = newcomer;
    let (stream, channel): (Box<dyn Stream>, _) = match transport {
        Transport::Plain(stream) => (Box::new(stream), Vec::new()),
        Transport::Tls(stream) => {
            let stream = TlsStream::from(*stream);
            match channel_of(&stream) {
                Ok(channel) => (Box::new(stream), channel),
                Err(error) => return error,
            }
        }
    };
    let (mut reader, mut writer) = framed::split(stream, shared.patience.silence);
    let known = || guest.leave();
    let patience = shared.patience.greeting;
    let greeting = greet::accept(shared, (&mut reader, &mut writer), &channel, known);
    let Greeted { hello, lane, presence } = match timeout(patience, greeting).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return error,
        Err(_) => return ConnectionError::Late(patience),
    };
    let replaced = places.take(&hello, lane);
    if lane == Lane::Control {
        shared.events.hello(&hello);
    }
    let (answers, to_send) = mpsc::channel(MOST_REQUESTS);
    let (requests, to_answer) = mpsc::channel(MOST_REQUESTS);
    let mut connection = Connection { shared, presence, hello: hello.clone(), requests };
    tokio::select! {
        error = connection.read(&mut reader) => match error {
            ConnectionError::Refuse(why) => {
                writer.refuse(&why).await;
                ConnectionError::Refuse(why)
            }
            error => error,
        },
        error = write(&mut writer, to_send, shared) => error,
        error = answer(shared, lane, to_answer, answers) => error,
        _ = replaced => ConnectionError::Replaced,
    }
}

/// A connection of a peer that is known.
struct Connection<'a> {
    shared: &'a Arc<Shared>,
    presence: Presence,
    hello: Hello,
    requests: mpsc::Sender<(Hello, Request)>,
}

impl Connection<'_> {
    async fn read(&mut self, reader: &mut FrameReader) -> ConnectionError {
        let mut hearing = Hearing::new(self.shared.patience.silence);
        loop {
            let frame = match hearing.next(reader).await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            if let Err(error) = self.take(frame) {
                return error;
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), ConnectionError> {
        match frame.kind {
            Kind::Ping if self.shared.registry.is_retired(self.hello.member) => {
                self.presence.told(&self.hello).map_err(ConnectionError::Refuse)
            }
            Kind::Ping => Ok(()),
            Kind::Messages => self.take_messages(frame.body),
            Kind::Request => {
                let asked = (self.hello.clone(), Request::decode(frame.body)?);
                // Who asks keeps to the bound.
                self.requests.try_send(asked).map_err(|_| Malformed("too many requests wait").into())
            }
            Kind::Hello => {
                let mut body = frame.body;
                let hello = Hello::decode(&mut body)?;
                self.presence.told(&hello).map_err(ConnectionError::Refuse)?;
                self.shared.events.hello(&hello);
                self.hello = hello;
                Ok(())
            }
            _ => Err(Malformed("who makes a connection does not send that").into()),
        }
    }

    fn take_messages(&self, body: Fields) -> Result<(), ConnectionError> {
        let member = self.shared.registry.own().borrow().member;
        for one in Incoming::new(body) {
            let (group, message) = one?;
            if message.to != member {
                return Err(Malformed("a message is for another member").into());
            }
            self.shared.events.message(self.hello.member, group.as_str(), message);
        }
        self.shared.events.delivered();
        Ok(())
    }
}

/// Answers requests, one after the other. Runs beside the reader, which messages must not wait for.
async fn answer(
    shared: &Arc<Shared>,
    lane: Lane,
    mut requests: mpsc::Receiver<(Hello, Request)>,
    answers: mpsc::Sender<Request>,
) -> ConnectionError {
    while let Some((from, Request { number, bytes })) = requests.recv().await {
        let events = shared.events.clone();
        // It may write files.
        let answer = tokio::task::spawn_blocking(move || match lane {
            Lane::Files => events.file_request(&from, bytes.into()),
            Lane::Control | Lane::Log => events.request(&from, bytes.into()),
        })
        .await;
        let bytes = match answer {
            Ok(answer) => Bytes::from(answer),
            // A panic, which has been reported.
            Err(_) => return ConnectionError::Closed,
        };
        if answers.send(Request { number, bytes }).await.is_err() {
            break;
        }
    }
    pending().await
}

async fn write(writer: &mut FrameWriter, mut answers: mpsc::Receiver<Request>, shared: &Shared) -> ConnectionError {
    let mut pings = ticks(shared.patience.ping);
    loop {
        let sent = tokio::select! {
            Some(answer) = answers.recv() => writer.send(Kind::Reply, answer.encode()).await,
            _ = pings.tick() => writer.send(Kind::Ping, Pieces::default()).await,
        };
        if let Err(error) = sent {
            return error;
        }
    }
}
