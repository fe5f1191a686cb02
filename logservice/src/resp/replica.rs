//! `REPLCONF` and `PSYNC`: the log as a Valkey primary.
//!
//! A Valkey primary keeps idle replicas alive with `PING` commands *inside* the stream. The log adds nothing of its own
//! to the stream: its bytes are the leader's, and their positions too. Not even an empty line can be sent, because a
//! replica counts every byte it reads as stream (`read_reploff` in its `networking.c`) and would be one byte off from
//! then on. While there is a leader its own PINGs come through the log every ten seconds. Without one, a replica runs
//! into its `repl-timeout` after a minute, connects again and continues where it was.
//!
//! What it cannot be given is refused with `-NOMASTERLINK`: after any other error a replica gives up the position at which it stands,
//! and asks again at once, without end. If it is a full copy that it cannot be given, the answer is put off, longer each time: before
//! it is answered a replica takes empty lines for signs of life.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use durability_protocol::{Code, EngineVersion, Known, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::arguments::{number, text};
use super::command::{ProtocolError, Splitter};
use super::identity::Follows;
use super::lease::engine_version;
use super::life::{acknowledged, Life};
use super::reply::{self, failure, Protocol, Reply};
use super::socket::Socket;
use crate::limits::Patience;
use crate::service::Service;
use crate::shard::{Cut, FullCopy, NoCopy, Pin, Position, Shard, Unreadable};
use crate::store::{LogReader, ReadError};

/// The most that is read and sent at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// How often a replica that waits for a full copy is sent a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Longest command of a replica in bytes: it only acknowledges.
const MAX_COMMAND_BYTES: usize = 4 << 10;
/// As much of a replica's address as log lines show.
const MAX_ADDRESS_BYTES: usize = 256;
/// A data set without keys, in a format that every Valkey version reads; the checksum is zero, which means none.
pub const EMPTY_RDB: &[u8] = b"REDIS0011\xff\0\0\0\0\0\0\0\0";

/// What a replica says of itself before `PSYNC`.
#[derive(Debug, Default)]
pub struct ReplicaInfo {
    port: Option<u64>,
    ip: Option<String>,
    version: Option<EngineVersion>,
}

impl ReplicaInfo {
    /// `REPLCONF name value ...`. No reply for an acknowledgement. Capabilities are noted by nobody: a full sync over
    /// two channels, or one without a length, is an offer that is simply not taken up.
    pub fn configure(&mut self, arguments: &[Bytes]) -> Result<Option<Reply>, Refusal> {
        for pair in arguments[1..].chunks(2) {
            let [name, value] = pair else { return Err(failure("usage: REPLCONF name value [name value ...]")) };
            match name.to_ascii_lowercase().as_slice() {
                b"ack" | b"getack" => return Ok(None),
                b"listening-port" => self.port = Some(number(value, "listening-port")?),
                b"version" => self.version = Some(engine_version(value)?),
                b"ip-address" => self.ip = Some(shown_address(value)?),
                _ => {}
            }
        }
        Ok(Some(reply::ok()))
    }

    /// The version that it runs, if it has told.
    pub fn version(&self) -> Option<EngineVersion> {
        self.version
    }

    /// How the replica is called in log lines, when its connection comes from `peer`.
    pub fn listening(&self, peer: &str) -> String {
        match (&self.ip, self.port) {
            (Some(ip), Some(port)) => format!("{ip}:{port} ({peer})"),
            (None, Some(port)) => format!("port {port} ({peer})"),
            _ => peer.to_owned(),
        }
    }
}

/// An address as log lines show it. Nothing in it can end a line, look like a part of another, or steer a terminal.
fn shown_address(value: &[u8]) -> Result<String, Refusal> {
    if !value.iter().all(u8::is_ascii_graphic) {
        return Err(failure("ip-address is not printable ASCII text without spaces"));
    }
    Ok(text(&value[..value.len().min(MAX_ADDRESS_BYTES)])?.to_owned())
}

/// `PSYNC replid next`, where `next` counts from one; `PSYNC ? -1` asks for a full copy. A replica that has told what it follows is
/// refused what contradicts that.
pub fn find_position(shard: &Shard, follows: Option<&Follows>, arguments: &[Bytes]) -> Result<Position, Refusal> {
    let [_, replid, next] = arguments else { return Err(failure("usage: PSYNC replid offset")) };
    let next: i64 = text(next)?.parse().map_err(|_| failure("offset is not a number"))?;
    let held = u64::try_from(next).ok().and_then(|next| next.checked_sub(1));
    if let Some(Follows { known, is_whole }) = follows {
        // Of a server that wrote itself, what it holds says nothing: its newest bytes were never durable.
        let own = held.filter(|_| *is_whole).map(|durable| Known {
            epoch: 0,
            replid: String::from_utf8_lossy(&arguments[1]).into_owned(),
            durable,
            ..known.clone()
        });
        let judged = shard.judge_known(known).and_then(|()| own.map_or(Ok(()), |own| shard.judge_known(&own)));
        judged?;
    }
    shard.position_of(text(replid)?, held)
}

/// A server that is refused in any other way gives up the position at which it stands, takes a full copy from whoever gives it one, and
/// asks again at once.
pub fn try_later(refusal: Refusal) -> Refusal {
    Refusal::new(Code::NoMasterLink, refusal.to_string())
}

/// Why a replica was sent away.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Its connection broke.
    #[error("{0}")]
    Connection(#[from] std::io::Error),
    /// The log could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The snapshot could not be read to its end.
    #[error(transparent)]
    Snapshot(#[from] Unreadable),
    /// There is nothing to give it, and it was told to come again.
    #[error("{0}")]
    NoCopy(String),
    /// It sent something that is no command.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// The shard was dropped.
    #[error("{0}")]
    Dropped(Refusal),
    /// Its login is withdrawn.
    #[error("its token was removed, or has another role now")]
    Withdrawn,
    /// Too much of the log was kept for it alone.
    #[error("it is behind the newest snapshot by more than --max-pinned-mb allows, or by anything while --max-log-mb stops the log")]
    Behind,
    /// The log failed, or the stream goes on under another replication id.
    #[error("{0}")]
    Restart(&'static str),
}

/// A connection that follows the stream.
pub struct Follower {
    stream: Socket,
    input: BytesMut,
    splitter: Splitter,
    shard: Arc<Shard>,
    _service: Arc<Service>,
    patience: Patience,
    life: Life,
    /// The end of what it was sent (exclusive), as an offset of the stream.
    sent: u64,
    cut: Cut,
}

/// Sends `bytes` to a client that may take nothing of them for as long as `patience`.
pub async fn send(stream: &mut Socket, mut bytes: &[u8], patience: Duration) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match tokio::time::timeout(patience, stream.write(bytes)).await {
            Ok(written) => bytes = &bytes[written?..],
            Err(_) => return Err(stalled(patience)),
        }
    }
    Ok(())
}

fn stalled(patience: Duration) -> std::io::Error {
    let text = format!("it has taken nothing for {} s", patience.as_secs_f32());
    std::io::Error::new(ErrorKind::TimedOut, text)
}

impl Follower {
    /// A follower on a connection whose input was read but not used yet.
    pub fn new(
        stream: Socket,
        (input, splitter): (BytesMut, Splitter),
        shard: Arc<Shard>,
        service: Arc<Service>,
        patience: Patience,
    ) -> Self {
        let life = Life::new(patience.stalled_output, Instant::now());
        Follower { stream, input, splitter, shard, _service: service, patience, life, sent: 0, cut: Cut::default() }
    }

    /// Sends the stream until the connection ends, the replica has to connect again, or the shard is dropped. When a snapshot is made, the
    /// log below it is kept for this one alone up to `max_pinned_bytes`, or as much as the snapshot has (0: without a bound), and not while
    /// the log takes as much as it may. Answers how far it came.
    pub async fn serve(
        self,
        position: Position,
        max_pinned_bytes: u64,
        shutdown: watch::Receiver<bool>,
    ) -> Result<u64, FollowError> {
        let (notifier, cut) = (self.shard.notifier().clone(), self.cut.clone());
        tokio::select! {
            served = self.serve_until(position, max_pinned_bytes, shutdown) => served,
            refusal = notifier.dropped() => Err(FollowError::Dropped(refusal)),
            () = cut.wait() => Err(FollowError::Behind),
        }
    }

    async fn serve_until(
        mut self,
        position: Position,
        max_pinned_bytes: u64,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<u64, FollowError> {
        let _attached = self.shard.attach_replica();
        let mut progress = self.shard.notifier().subscribe();
        let Beginning { mut offset, stream, mut pin } = match position {
            Position::Continue { replid, offset, stream, mut pin } => {
                pin.cut_beyond(max_pinned_bytes, &self.cut);
                self.send(format!("+CONTINUE {replid}\r\n").as_bytes()).await?;
                Beginning { offset, stream, pin }
            }
            Position::Full => match self.wait_for_copy(&mut shutdown).await? {
                Some(mut copy) => {
                    copy.pin.cut_beyond(max_pinned_bytes, &self.cut);
                    self.send_copy(copy).await?
                }
                None => return Ok(0),
            },
        };
        let mut reader: Option<Box<dyn LogReader>> = None;
        let mut chunk = Bytes::new();
        self.sent = offset;
        self.life.begin_stream(offset);
        loop {
            let visible = {
                let progress = progress.borrow_and_update();
                if progress.stream != stream {
                    return Err(FollowError::Restart("the stream goes on under another replication id"));
                }
                progress.visible
            };
            if chunk.is_empty() && offset < visible {
                (reader, chunk) = self.read(reader, offset, visible).await?;
                self.life.takes(Instant::now());
            }
            self.input.reserve(1024);
            let is_flushed = self.stream.is_flushed();
            let stalled_at = self.life.ends_at();
            let (mut socket_reader, mut socket_writer) = self.stream.split();
            tokio::select! {
                read = socket_reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Ok(offset);
                    }
                    self.take_commands()?;
                }
                written = socket_writer.write_buf(&mut chunk), if !chunk.is_empty() => {
                    offset += written? as u64;
                    self.sent = offset;
                    self.life.takes(Instant::now());
                    if chunk.is_empty() {
                        pin.advance(offset);
                    }
                }
                () = tokio::time::sleep_until(stalled_at.into()), if !chunk.is_empty() => {
                    return Err(stalled(self.life.nothing_for()).into());
                }
                flushed = self.stream.flushed(), if chunk.is_empty() && !is_flushed => flushed?,
                changed = progress.changed(), if chunk.is_empty() => {
                    if changed.is_err() {
                        return Ok(offset);
                    }
                }
                _ = shutdown.changed() => return Ok(offset),
            }
        }
    }

    /// Takes what has arrived: acknowledgements, which show that the replica goes on. One that has arrived in part stays, for when the
    /// rest comes.
    fn take_commands(&mut self) -> Result<(), ProtocolError> {
        let mut arguments = Vec::new();
        let now = Instant::now();
        while self.splitter.next(&mut self.input, &mut arguments, MAX_COMMAND_BYTES)? {
            if let Some(offset) = acknowledged(&arguments) {
                self.life.has_applied(offset, self.sent, now);
            }
        }
        self.life.says_something(now);
        Ok(())
    }

    async fn read(
        &self,
        reader: Option<Box<dyn LogReader>>,
        offset: u64,
        limit: u64,
    ) -> Result<(Option<Box<dyn LogReader>>, Bytes), FollowError> {
        let store = self.shard.store().clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => store.reader(offset)?,
            };
            let chunk = reader.read(limit, CHUNK_BYTES)?;
            Ok::<_, ReadError>((Some(reader), chunk))
        });
        match read.await {
            Ok(read) => Ok(read?),
            Err(error) => Err(FollowError::Connection(std::io::Error::other(error))),
        }
    }

    /// A full copy, as soon as there is one; `None` if the service stops. Who cannot be given one for long is told to come again: it is
    /// judged anew then.
    async fn wait_for_copy(&mut self, shutdown: &mut watch::Receiver<bool>) -> Result<Option<FullCopy>, FollowError> {
        let mut is_last = false;
        loop {
            let shard = self.shard.clone();
            // In a task, so that whoever goes meanwhile does not keep others from being told what it finds.
            let mut asked = tokio::spawn(async move { shard.full_copy_for_replica().await });
            let found = loop {
                tokio::select! {
                    found = &mut asked => break found.map_err(std::io::Error::other)?,
                    alive = self.stay_alive() => alive?,
                    _ = shutdown.changed() => return Ok(None),
                }
            };
            let NoCopy { reason, until } = match found {
                Ok(copy) => return Ok(Some(copy)),
                Err(no_copy) => no_copy,
            };
            if std::mem::replace(&mut is_last, true) {
                return self
                    .refuse(&Refusal::new(Code::NoMasterLink, reason.clone()))
                    .await
                    .and(Err(FollowError::NoCopy(reason)));
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until.into()) => break,
                    alive = self.stay_alive() => alive?,
                    _ = shutdown.changed() => return Ok(None),
                }
            }
        }
    }

    /// Ends after a sign of life was sent, or something was read, or with the connection.
    async fn stay_alive(&mut self) -> Result<(), FollowError> {
        self.input.reserve(1024);
        let Ok(read) = tokio::time::timeout(SIGN_OF_LIFE, self.stream.read_buf(&mut self.input)).await else {
            return self.send(b"\n").await;
        };
        if read? == 0 {
            return Err(FollowError::Connection(ErrorKind::UnexpectedEof.into()));
        }
        Ok(self.take_commands()?)
    }

    /// Answers `PSYNC` with a full copy, and sends it. Answers where the stream goes on.
    async fn send_copy(&mut self, copy: FullCopy) -> Result<Beginning, FollowError> {
        let FullCopy { replid, offset, snapshot, stream, pin } = copy;
        let bytes = snapshot.as_ref().map_or(EMPTY_RDB.len() as u64, |(record, _)| record.bytes);
        self.life.loads(Duration::from_secs(bytes / self.patience.load_bytes_per_s.max(1)));
        self.send(format!("+FULLRESYNC {replid} {offset}\r\n${bytes}\r\n").as_bytes()).await?;
        match snapshot {
            None => self.send(EMPTY_RDB).await?,
            Some((record, mut reader)) => loop {
                match reader.next().await {
                    Ok(Some(chunk)) => self.send(&chunk).await?,
                    Ok(None) => break,
                    Err(error) => {
                        if error.is_of_one() {
                            self.shard.note_unreadable(&record, &error);
                        }
                        // It comes again at once.
                        let unreadable = Unreadable { offset, source: error };
                        self.shard.note_no_copy(&unreadable.to_string());
                        return Err(unreadable.into());
                    }
                }
            },
        }
        self.shard.note_copy();
        Ok(Beginning { offset, stream, pin })
    }

    /// Sends `bytes` to a replica. One that drops the data it held before takes nothing of a snapshot, and sends empty lines.
    async fn send(&mut self, mut bytes: &[u8]) -> Result<(), FollowError> {
        self.life.takes(Instant::now());
        while !bytes.is_empty() {
            self.input.reserve(1024);
            let stalled_at = self.life.ends_at();
            let (mut socket_reader, mut socket_writer) = self.stream.split();
            tokio::select! {
                written = socket_writer.write(bytes) => {
                    bytes = &bytes[written?..];
                    self.life.takes(Instant::now());
                }
                read = socket_reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(FollowError::Connection(ErrorKind::UnexpectedEof.into()));
                    }
                    self.take_commands()?;
                }
                () = tokio::time::sleep_until(stalled_at.into()) => return Err(stalled(self.life.nothing_for()).into()),
            }
        }
        Ok(())
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), FollowError> {
        let mut out = BytesMut::new();
        reply::encode(&mut out, &reply::error(refusal), Protocol::default());
        self.send(&out).await
    }
}

/// Where the stream goes on for a replica.
struct Beginning {
    /// Position of the next byte.
    offset: u64,
    /// The stream it belongs to: when [`Progress::stream`](crate::shard::Progress::stream) moves, the replica must ask again.
    stream: u64,
    /// Keeps the log from there on.
    pin: Pin,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_address(address: &'static [u8]) -> Result<String, Refusal> {
        let arguments = [&b"REPLCONF"[..], b"listening-port", b"6379", b"ip-address", address];
        let mut info = ReplicaInfo::default();
        info.configure(&arguments.map(Bytes::from_static))?;
        Ok(info.listening("peer"))
    }

    #[test]
    fn an_address_that_would_break_a_log_line_is_refused() {
        assert_eq!(with_address(b"fe80::1%eth0"), Ok("fe80::1%eth0:6379 (peer)".to_owned()));
        assert_eq!(with_address(b"node-1.example"), Ok("node-1.example:6379 (peer)".to_owned()));
        assert_eq!(with_address(&[b'x'; 300]), Ok(format!("{}:6379 (peer)", "x".repeat(256))));
        let wrong: [&[u8]; 6] = [b"a\nb", b"a\r", b"\x1b[2J", b"a b", b"\x7f", "\u{202e}".as_bytes()];
        for address in wrong {
            assert!(with_address(address).is_err(), "{address:?}");
        }
    }
}
