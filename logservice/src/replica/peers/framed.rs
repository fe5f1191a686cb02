//! Frames on a connection.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{interval_at, timeout, Instant, Interval, MissedTickBehavior};

use super::error::ConnectionError;
use crate::replica::wire::{Frame, FrameBuffer, Header, Kind, Pieces, Refusal, GREETING_BYTES, MOST_FRAME_BYTES};

/// How often a second's length of silence is looked at.
const LOOKS: u32 = 5;
/// Pieces that are handed to the operating system at a time.
pub const MOST_PIECES: usize = 64;

/// A connection, with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Both directions of a connection.
pub fn split(stream: Box<dyn Stream>, stalled: Duration) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader { read, buffer: FrameBuffer::new(GREETING_BYTES), came: false };
    (reader, FrameWriter { write, stalled })
}

/// Reads frames.
pub struct FrameReader {
    read: ReadHalf<Box<dyn Stream>>,
    buffer: FrameBuffer,
    /// Whether anything came since this was asked.
    came: bool,
}

impl FrameReader {
    /// Both ends know each other: frames may be long.
    pub fn trust(&mut self) {
        self.buffer.set_most_bytes(MOST_FRAME_BYTES);
    }

    /// The next frame. Cancel-safe. What the other end says last is an error.
    pub async fn next(&mut self) -> Result<Frame, ConnectionError> {
        loop {
            if let Some(frame) = self.buffer.take_frame()? {
                if frame.kind == Kind::Refused {
                    return Err(ConnectionError::Refused(Refusal::decode(frame.body)?.0));
                }
                return Ok(frame);
            }
            if self.read.read_buf(self.buffer.room()).await? == 0 {
                return Err(ConnectionError::Closed);
            }
            self.came = true;
        }
    }
}

/// Notices when nothing comes any more.
pub struct Hearing {
    interval: Interval,
    silent: u32,
    most: Duration,
}

impl Hearing {
    /// For a connection on which something must come within `most`.
    pub fn new(most: Duration) -> Self {
        Hearing { interval: ticks(most / LOOKS), silent: 0, most }
    }

    /// The next frame.
    pub async fn next(&mut self, reader: &mut FrameReader) -> Result<Frame, ConnectionError> {
        loop {
            tokio::select! {
                biased;
                frame = reader.next() => return frame,
                _ = self.interval.tick() => {}
            }
            self.silent = if std::mem::take(&mut reader.came) { 0 } else { self.silent + 1 };
            if self.silent > LOOKS {
                return Err(ConnectionError::Silent(self.most));
            }
        }
    }
}

/// Ticks that do not begin at once, and do not catch up.
pub fn ticks(every: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + every, every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Writes frames.
pub struct FrameWriter {
    write: WriteHalf<Box<dyn Stream>>,
    stalled: Duration,
}

impl FrameWriter {
    /// The sending end itself, for who writes frames in another way from here on.
    pub fn into_inner(self) -> WriteHalf<Box<dyn Stream>> {
        self.write
    }

    /// Writes a frame. Nothing else can be written if this is cancelled.
    pub async fn send(&mut self, kind: Kind, body: Pieces) -> Result<(), ConnectionError> {
        let mut pieces = body.finish();
        let header = Header::of(kind, pieces.iter());
        pieces.insert(0, Bytes::copy_from_slice(&header.encode()));
        let mut from = 0;
        while from < pieces.len() {
            let until = pieces.len().min(from + MOST_PIECES);
            let slices: Vec<_> = pieces[from..until].iter().map(|piece| IoSlice::new(piece)).collect();
            let written = self.write.write_vectored(&slices);
            let mut written = match timeout(self.stalled, written).await {
                Err(_) => return Err(ConnectionError::Stalled(self.stalled)),
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => written?,
            };
            while from < pieces.len() && written >= pieces[from].len() {
                written -= pieces[from].len();
                from += 1;
            }
            if written > 0 {
                pieces[from].advance(written);
            }
        }
        // TLS keeps some of it back otherwise.
        match timeout(self.stalled, self.write.flush()).await {
            Err(_) => Err(ConnectionError::Stalled(self.stalled)),
            Ok(flushed) => Ok(flushed?),
        }
    }

    /// Tells the other end why the connection ends, as far as it still listens.
    pub async fn refuse(&mut self, why: &str) {
        let told = self.send(Kind::Refused, Refusal(why.to_owned()).encode()).await;
        if told.is_ok() {
            // The other end may be gone, which is no news.
            let _ = timeout(self.stalled, self.write.shutdown()).await;
        }
    }
}
