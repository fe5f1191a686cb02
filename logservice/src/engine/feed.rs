//! Feeds an engine a part of a shard's history by Valkey replication: a snapshot, then the log up to a limit.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use durability_protocol::{EngineVersion, MalformedResp, NotLogged, RespLimits, Unfit};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::commands::Commands;
use super::imports::OpenImport;
use super::slot_stream::{Piece, SlotStream};
use crate::base::background::{give_way_here, Priority};
use crate::base::command_input::CommandReader;
use crate::base::printable::printable;
use crate::snapshots::{SnapshotError, SnapshotReader, EMPTY_RDB};
use crate::store::{LogReader, ReadError};

/// The most that is read from the log at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Most connections that may be about to log in.
const MAX_LOGINS: usize = 64;
/// How long a connection may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// An engine sends only short commands: a login, and what it reports of itself.
const COMMAND_LIMITS: RespLimits = RespLimits { items: 64, item_bytes: 4 << 10, frame_bytes: 4 << 10 };

/// Why a feed broke off.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The connection broke.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// The log could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The snapshot could not be read.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The engine sent something that is no command.
    #[error("valkey-server sent no command: {0}")]
    Protocol(#[from] MalformedResp),
    /// The engine is older than what wrote the log.
    #[error("valkey-server is of version {found}, but the log was written by {writer}: upgrade it on this machine")]
    OldEngine {
        /// The engine's version, as it told it.
        found: String,
        /// The version that wrote.
        writer: EngineVersion,
    },
    /// The log holds a command that no leader can have logged, or that the engine does not know. At most its first bytes were sent.
    #[error("it cannot apply the log {0}{hint}", hint = hint(.0))]
    NotLogged(#[from] NotLogged),
}

fn hint(found: &NotLogged) -> &'static str {
    match found.what {
        Unfit::Unknown(_) => " (a module that the data needs? --valkey-conf names a file with loadmodule)",
        Unfit::NotLogged(_) | Unfit::NoCommand => "; logservice restore --to that offset leaves it out",
    }
}

/// What an engine starts from, and what it applies.
pub struct Start {
    /// The replication id of the stream.
    pub replid: String,
    /// Offset of the snapshot, at which the stream continues.
    pub offset: u64,
    /// The snapshot and its length in bytes; `None` is an empty data set.
    pub snapshot: Option<(SnapshotReader, u64)>,
    /// The log from `offset` on, if any of it is applied.
    pub log: Option<Box<dyn LogReader>>,
    /// Where the feed ends (exclusive), unless [`Feed::extend`] moves the end later.
    pub end: u64,
    /// The newest version that wrote any of it.
    pub engine: Option<EngineVersion>,
    /// Where leaders begin to write, as far as that is known.
    pub epochs: Vec<u64>,
}

/// A listener on a loopback interface that serves one replica, which knows a secret of its own.
pub struct Feed {
    /// Where it listens.
    pub address: SocketAddr,
    /// The password that the replica has to present (`primaryauth`).
    pub secret: String,
    end: watch::Sender<u64>,
    insertions: mpsc::UnboundedSender<Vec<u8>>,
    inserted_bytes: u64,
    sent: Arc<AtomicU64>,
    stream: Arc<Mutex<SlotStream>>,
    ended: oneshot::Receiver<FeedError>,
    /// The feed ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Feed {
    /// Serves the engine at `listener` until this is dropped, on a thread of its own, of that priority.
    /// `commands` are the engine's commands: of the log it is sent only what a leader can have logged.
    pub fn open(
        start: Start,
        commands: Commands,
        listener: std::net::TcpListener,
        priority: Priority,
    ) -> Result<Self, FeedError> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(std::io::Error::from)?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = secret.clone();
        let (end, ends) = watch::channel(start.end);
        let (insertions, inserted) = mpsc::unbounded_channel();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let stream = Arc::new(Mutex::new(SlotStream::new(start.offset, start.epochs.clone())));
        let passing = stream.clone();
        let (_stop, mut stopped) = oneshot::channel();
        let (failed, ended) = oneshot::channel();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all();
        // The threads that read for it as well.
        builder.on_thread_start(move || give_way_here(priority));
        let runtime = builder.build()?;
        std::thread::Builder::new().name("log-feed".to_owned()).spawn(move || {
            give_way_here(priority);
            let served = runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, start, Source { ends, inserted, commands, passing }, &expected, &counted) => served,
                    _ = &mut stopped => Ok(()),
                }
            });
            let failure = served.err().unwrap_or_else(|| std::io::Error::from(ErrorKind::UnexpectedEof).into());
            // The feed may be dropped.
            let _ = failed.send(failure);
            // A read may be in the middle of a system call.
            runtime.shutdown_background();
        })?;
        Ok(Feed { address, secret, end, insertions, inserted_bytes: 0, sent, stream, ended, _stop })
    }

    /// Where it ends (exclusive).
    pub fn end(&self) -> u64 {
        *self.end.borrow()
    }

    /// Up to where the engine is sent everything that there is before the end (exclusive): the end, or where a command begins that it cuts.
    /// `None` if that is not sent yet.
    pub fn sent_until(&self) -> Option<u64> {
        let stream = locked(&self.stream);
        (stream.scanned_until() == self.end()).then(|| stream.passed_until())
    }

    /// The imports of slots that are open at `offset`, up to which everything is sent.
    pub fn open_imports(&self, offset: u64) -> Vec<OpenImport> {
        locked(&self.stream).imports().open_at(offset).cloned().collect()
    }

    /// Moves its end to `end` (exclusive), which has to be durable and not before the current one.
    pub fn extend(&self, end: u64) {
        self.end.send_modify(|current| *current = end.max(*current));
    }

    /// Sends the engine a command of this process's own, between two commands of the log. Call it only when everything up to
    /// [`Feed::end`] is applied, and that is the end of a command. The engine counts the bytes as part of the stream, so its data set must
    /// not become a snapshot any more.
    pub fn insert(&mut self, command: Vec<u8>) {
        self.inserted_bytes += command.len() as u64;
        // `failure` reports whether the feed has ended.
        let _ = self.insertions.send(command);
    }

    /// Bytes inserted so far.
    pub fn inserted_bytes(&self) -> u64 {
        self.inserted_bytes
    }

    /// Bytes sent so far, of snapshot and log together.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Why it broke off, if it did.
    pub fn failure(&mut self) -> Option<FeedError> {
        match self.ended.try_recv() {
            Ok(error) => Some(error),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(std::io::Error::other("the thread that feeds panicked").into()),
        }
    }
}

/// What has to be sent, as it becomes known.
struct Source {
    ends: watch::Receiver<u64>,
    inserted: mpsc::UnboundedReceiver<Vec<u8>>,
    commands: Commands,
    /// How far it is. Kept after the feed has broken off.
    passing: Arc<Mutex<SlotStream>>,
}

fn locked(stream: &Mutex<SlotStream>) -> MutexGuard<'_, SlotStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: std::net::TcpListener,
    start: Start,
    source: Source,
    secret: &str,
    sent: &AtomicU64,
) -> Result<(), FeedError> {
    let listener = TcpListener::from_std(listener)?;
    let mut logins = Logins::default();
    loop {
        let replica = tokio::select! {
            accepted = listener.accept() => {
                logins.begin(accepted?.0, secret, start.engine);
                continue;
            }
            replica = logins.next() => replica,
        };
        return replica?.serve(start, source, sent).await;
    }
}

/// Connections that have not logged in, side by side, so that one that sends nothing does not delay the engine.
#[derive(Default)]
struct Logins {
    tasks: JoinSet<Result<Option<Replica>, FeedError>>,
    /// The tasks, the oldest first.
    order: VecDeque<AbortHandle>,
}

impl Logins {
    /// Adds one. If there are too many, the oldest is ended.
    fn begin(&mut self, stream: TcpStream, secret: &str, engine: Option<EngineVersion>) {
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= MAX_LOGINS {
            self.order.pop_front().inspect(|oldest| oldest.abort());
        }
        let secret = secret.to_owned();
        let log_in = async move { Replica::log_in(stream, &secret, engine).await };
        let task = self.tasks.spawn(async move {
            // A connection that sends nothing is not the engine.
            tokio::time::timeout(LOGIN_TIMEOUT, log_in).await.unwrap_or(Ok(None))
        });
        self.order.push_back(task);
    }

    /// The engine, when it has logged in.
    async fn next(&mut self) -> Result<Replica, FeedError> {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(Some(replica)))) => return Ok(replica),
                Some(Ok(Err(error @ FeedError::OldEngine { .. }))) => return Err(error),
                // It did not know the secret, sent nothing, or was ended.
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

/// The engine's connection.
struct Replica {
    stream: TcpStream,
    input: BytesMut,
    commands: CommandReader,
}

impl Replica {
    /// Answers the handshake up to `PSYNC`. `None` if the peer does not know the secret.
    async fn log_in(stream: TcpStream, secret: &str, writer: Option<EngineVersion>) -> Result<Option<Self>, FeedError> {
        let mut replica = Replica { stream, input: BytesMut::new(), commands: CommandReader::default() };
        let mut arguments = Vec::new();
        let mut is_known = false;
        let mut version: Option<String> = None;
        loop {
            while !replica.commands.next(&mut replica.input, &mut arguments, &COMMAND_LIMITS)? {
                if replica.stream.read_buf(&mut replica.input).await? == 0 {
                    return Ok(None);
                }
            }
            let name = arguments[0].to_ascii_uppercase();
            let reply: &[u8] = match (name.as_slice(), &arguments[1..]) {
                (b"AUTH", [.., password]) => {
                    is_known = password.as_ref().ct_eq(secret.as_bytes()).into();
                    if !is_known {
                        return Ok(None);
                    }
                    b"+OK\r\n"
                }
                (b"PING", _) => b"+PONG\r\n",
                (b"REPLCONF", options) => {
                    for pair in options.chunks_exact(2).filter(|pair| pair[0].eq_ignore_ascii_case(b"version")) {
                        version = Some(printable(&String::from_utf8_lossy(&pair[1])));
                    }
                    b"+OK\r\n"
                }
                (b"PSYNC", _) if is_known => {
                    let found = version.unwrap_or_default();
                    let reads = |writer| found.parse().is_ok_and(|version: EngineVersion| version.reads(writer));
                    return match writer.filter(|writer| !reads(*writer)) {
                        Some(writer) => Err(FeedError::OldEngine { found, writer }),
                        None => Ok(Some(replica)),
                    };
                }
                _ => return Ok(None),
            };
            arguments.clear();
            replica.stream.write_all(reply).await?;
        }
    }

    async fn serve(mut self, start: Start, source: Source, sent: &AtomicU64) -> Result<(), FeedError> {
        let Source { mut ends, mut inserted, commands, passing } = source;
        let Start { replid, offset, snapshot, mut log, .. } = start;
        let bytes = snapshot.as_ref().map_or(EMPTY_RDB.len() as u64, |(_, bytes)| *bytes);
        self.stream.write_all(format!("+FULLRESYNC {replid} {offset}\r\n${bytes}\r\n").as_bytes()).await?;
        match snapshot {
            None => self.stream.write_all(EMPTY_RDB).await?,
            Some((mut snapshot, _)) => {
                while let Some(chunk) = snapshot.next().await? {
                    self.stream.write_all(&chunk).await?;
                    sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            }
        }
        let (mut from_engine, mut to_engine) = self.stream.split();
        let acknowledgements = async { tokio::io::copy(&mut from_engine, &mut tokio::io::sink()).await.map(drop) };
        let stream = async {
            while let Some(mut reader) = log.take() {
                let next = reader.offset();
                let end = tokio::select! {
                    biased;
                    Some(command) = inserted.recv() => {
                        log = Some(reader);
                        to_engine.write_all(&command).await?;
                        continue;
                    }
                    end = ends.wait_for(|end| *end > next) => end.map(|end| *end),
                };
                let Ok(end) = end else { break };
                let read = tokio::task::spawn_blocking(move || {
                    let chunk = reader.read(end, CHUNK_BYTES)?;
                    Ok::<_, ReadError>((reader, chunk))
                });
                let (mut reader, chunk) = read.await.map_err(std::io::Error::other)??;
                let epochs = reader.take_epoch_starts();
                log = Some(reader);
                let pieces = {
                    let mut passing = locked(&passing);
                    passing.add_epochs(epochs);
                    passing.pass(&chunk, |name| commands.find(name))?
                };
                for piece in pieces {
                    match piece {
                        Piece::Of(part) => to_engine.write_all(&chunk[part]).await?,
                        Piece::Instead(bytes) => to_engine.write_all(&bytes).await?,
                    }
                }
                sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            // The engine keeps its data only as long as its primary is connected.
            std::future::pending::<Result<(), FeedError>>().await
        };
        tokio::select! {
            ended = acknowledgements => Ok(ended?),
            ended = stream => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    const REPLID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    /// Less than two strangers have for their logins.
    const SOON: Duration = Duration::from_secs(4);

    fn connect(feed: &Feed) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(feed.address).expect("connected");
        stream.set_read_timeout(Some(SOON)).expect("timeout");
        stream
    }

    #[test]
    fn strangers_that_say_nothing_do_not_keep_the_engine_waiting() {
        let start = Start {
            replid: REPLID.into(),
            offset: 7,
            snapshot: None,
            log: None,
            end: 7,
            engine: None,
            epochs: Vec::new(),
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let feed = Feed::open(start, Commands::default(), listener, Priority::Normal).expect("opened");
        let mut strangers: Vec<_> = (0..MAX_LOGINS + 2).map(|_| connect(&feed)).collect();
        strangers[5].write_all(b"*2\r\n$4\r\nAUTH\r\n").expect("sent");
        let mut engine = connect(&feed);
        let secret = &feed.secret;
        let login = format!(
            "*2\r\n$4\r\nAUTH\r\n${}\r\n{secret}\r\n*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n",
            secret.len()
        );
        engine.write_all(login.as_bytes()).expect("sent");
        let expected = format!("+OK\r\n+FULLRESYNC {REPLID} 7\r\n");
        let mut answer = vec![0; expected.len()];
        engine.read_exact(&mut answer).expect("it waits for the strangers");
        assert_eq!(String::from_utf8_lossy(&answer), expected);
    }
}
