//! A connection that follows the stream: sends the log, and takes acknowledgements.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use durability_protocol::{MalformedResp, RespLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::stall_clock::{acknowledged, StallClock};
use super::FollowError;
use crate::base::command_input::CommandReader;
use crate::connections::limits::Patience;
use crate::resp::socket::Socket;
use crate::service::Service;
use crate::shard::{Cut, Pin, Position, Shard};
use crate::store::{LogReader, ReadError};

/// The most that is read and sent at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// A replica sends short commands only: it acknowledges.
const COMMAND_LIMITS: RespLimits = RespLimits { items: 64, item_bytes: 4 << 10, frame_bytes: 4 << 10 };

/// A connection that follows the stream.
pub struct Follower {
    pub(super) stream: Socket,
    pub(super) input: BytesMut,
    commands: CommandReader,
    pub(super) shard: Arc<Shard>,
    _service: Arc<Service>,
    pub(super) patience: Patience,
    pub(super) stall_clock: StallClock,
    /// The end of what the replica was sent (exclusive), as an offset of the stream.
    sent: u64,
    cut: Cut,
}

/// Sends `bytes` to a client. Fails if it takes nothing of them for as long as `patience`.
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
    /// A follower on a connection with input that was read and not taken.
    pub fn new(
        stream: Socket,
        (input, commands): (BytesMut, CommandReader),
        shard: Arc<Shard>,
        service: Arc<Service>,
        patience: Patience,
    ) -> Self {
        let stall_clock = StallClock::new(patience.stalled_output, Instant::now());
        Follower {
            stream,
            input,
            commands,
            shard,
            _service: service,
            patience,
            stall_clock,
            sent: 0,
            cut: Cut::default(),
        }
    }

    /// Sends the stream until the connection ends, the replica has to connect again, or the shard has ended. When a snapshot is made, the
    /// log below it is kept for this replica alone up to `max_pinned_bytes`, or the size of the snapshot if that is more (0: without a
    /// bound), but not while the log takes as much as it may. Returns the offset up to which the stream was sent (exclusive).
    pub async fn serve(
        self,
        position: Position,
        max_pinned_bytes: u64,
        shutdown: watch::Receiver<bool>,
    ) -> Result<u64, FollowError> {
        let (notifier, cut) = (self.shard.notifier().clone(), self.cut.clone());
        tokio::select! {
            served = self.serve_until(position, max_pinned_bytes, shutdown) => served,
            refusal = notifier.ended() => Err(FollowError::Ended(refusal)),
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
        self.stall_clock.begin_stream(offset);
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
                self.stall_clock.takes(Instant::now());
            }
            self.input.reserve(1024);
            let is_flushed = self.stream.is_flushed();
            let stalled_at = self.stall_clock.ends_at();
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
                    self.stall_clock.takes(Instant::now());
                    if chunk.is_empty() {
                        pin.advance(offset);
                    }
                }
                () = tokio::time::sleep_until(stalled_at.into()), if !chunk.is_empty() => {
                    return Err(stalled(self.stall_clock.nothing_for()).into());
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

    /// Takes the commands that have arrived: acknowledgements, which show that the replica makes progress.
    pub(super) fn take_commands(&mut self) -> Result<(), MalformedResp> {
        let mut arguments = Vec::new();
        let now = Instant::now();
        while self.commands.next(&mut self.input, &mut arguments, &COMMAND_LIMITS)? {
            if let Some(offset) = acknowledged(&arguments) {
                self.stall_clock.has_applied(offset, self.sent, now);
            }
        }
        self.stall_clock.says_something(now);
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

    /// Sends `bytes` to the replica. While it drops its previous data it takes nothing of a snapshot, and sends empty lines.
    pub(super) async fn send(&mut self, mut bytes: &[u8]) -> Result<(), FollowError> {
        self.stall_clock.takes(Instant::now());
        while !bytes.is_empty() {
            self.input.reserve(1024);
            let stalled_at = self.stall_clock.ends_at();
            let (mut socket_reader, mut socket_writer) = self.stream.split();
            tokio::select! {
                written = socket_writer.write(bytes) => {
                    bytes = &bytes[written?..];
                    self.stall_clock.takes(Instant::now());
                }
                read = socket_reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(FollowError::Connection(ErrorKind::UnexpectedEof.into()));
                    }
                    self.take_commands()?;
                }
                () = tokio::time::sleep_until(stalled_at.into()) => return Err(stalled(self.stall_clock.nothing_for()).into()),
            }
        }
        Ok(())
    }
}

/// Where the stream goes on for a replica.
pub(super) struct Beginning {
    /// Offset of the next byte.
    pub offset: u64,
    /// The stream it belongs to. When [`Progress::stream`](crate::shard::Progress::stream) changes, the replica has to ask again.
    pub stream: u64,
    /// Keeps the log from there on.
    pub pin: Pin,
}
