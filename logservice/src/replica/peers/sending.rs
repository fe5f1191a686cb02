//! The sending end of a connection to a peer. Messages are written by the thread that has them to send, as far as the connection takes
//! them at once: to wake the connection's task first would cost each of them two context switches. What is left is the task's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{ready, Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use tokio::io::{AsyncWrite, WriteHalf};
use tokio::time::timeout;

use super::error::ConnectionError;
use super::framed::{Stream, MOST_PIECES};
use super::link::{Link, BATCH_BYTES};
use super::shared::Lane;
use crate::replica::wire::{put_message, Header, Kind, Pieces};

/// Batches that are written by a thread whose task this is not.
const MOST_BATCHES: u32 = 4;

/// The sending end of a connection, for the connection's task and for who has messages to send.
#[derive(Clone)]
pub struct Sending(Arc<Mutex<Output>>);

/// What is being written. Frames are added as wholes, so whoever writes goes on where the last one has stopped.
struct Output {
    write: WriteHalf<Box<dyn Stream>>,
    pieces: VecDeque<Bytes>,
    /// What `pieces` count in the lane's queue.
    counted_bytes: usize,
    /// The connection has taken all, and may keep some of it back.
    is_unflushed: bool,
    /// Grows with all that is written.
    written_bytes: u64,
    error: Option<io::Error>,
}

impl Sending {
    /// The sending end of a connection that nobody else writes to any more.
    pub fn new(write: WriteHalf<Box<dyn Stream>>) -> Self {
        Sending(Arc::new(Mutex::new(Output {
            write,
            pieces: VecDeque::new(),
            counted_bytes: 0,
            is_unflushed: false,
            written_bytes: 0,
            error: None,
        })))
    }

    /// Writes messages that wait, on a thread whose work that is not. False if the connection's task has to go on with it.
    pub fn send_now(&self, link: &Link, lane: Lane) -> bool {
        // Whoever writes may have looked for messages already.
        let Ok(mut output) = self.0.try_lock() else { return false };
        // The task waits for the connection to take more, and is woken then: not if this asked, too.
        if !output.is_idle() {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..MOST_BATCHES {
            if !output.add_batch(link, lane) {
                return true;
            }
            match output.poll_write(link, lane, &mut context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    output.error = Some(error);
                    return false;
                }
                Poll::Pending => return false,
            }
        }
        link.is_empty(lane)
    }

    /// Adds a frame, which is written next.
    pub fn add(&self, kind: Kind, body: Pieces) {
        self.lock().add(kind, body);
    }

    /// Writes all that waits. For the connection's task. Cancel-safe.
    pub async fn send_all(&self, link: &Link, lane: Lane, stalled: Duration) -> Result<(), ConnectionError> {
        loop {
            let written_before = self.lock().written_bytes;
            let sent = std::future::poll_fn(|context| self.lock().poll_all(link, lane, context));
            match timeout(stalled, sent).await {
                Ok(sent) => return Ok(sent?),
                Err(_) if self.lock().written_bytes == written_before => return Err(ConnectionError::Stalled(stalled)),
                Err(_) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Output {
    fn is_idle(&self) -> bool {
        self.pieces.is_empty() && !self.is_unflushed && self.error.is_none()
    }

    fn add(&mut self, kind: Kind, body: Pieces) {
        let pieces = body.finish();
        let header = Header::of(kind, pieces.iter());
        self.pieces.push_back(Bytes::copy_from_slice(&header.encode()));
        self.pieces.extend(pieces);
    }

    /// Adds messages that wait. False if none do.
    fn add_batch(&mut self, link: &Link, lane: Lane) -> bool {
        let batch = link.take(lane, BATCH_BYTES);
        if batch.messages.is_empty() {
            return false;
        }
        let mut body = Pieces::default();
        for (group, message) in &batch.messages {
            if !put_message(group, message, &mut body) {
                tracing::error!("a {:?} of group '{group}' is not for peers, and is dropped", message.msg_type);
            }
        }
        self.counted_bytes += batch.bytes;
        self.add(Kind::Messages, body);
        true
    }

    fn poll_all(&mut self, link: &Link, lane: Lane, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write(link, lane, context))?;
            if !self.add_batch(link, lane) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes the pieces.
    fn poll_write(&mut self, link: &Link, lane: Lane, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        while !self.pieces.is_empty() {
            let slices: Vec<_> = self.pieces.iter().take(MOST_PIECES).map(|piece| IoSlice::new(piece)).collect();
            let mut written = ready!(Pin::new(&mut self.write).poll_write_vectored(context, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written_bytes += written as u64;
            self.is_unflushed = true;
            while let Some(first) = self.pieces.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.pieces.pop_front();
            }
        }
        if self.is_unflushed {
            // TLS keeps some of it back otherwise.
            ready!(Pin::new(&mut self.write).poll_flush(context))?;
            self.is_unflushed = false;
        }
        link.sent(lane, std::mem::take(&mut self.counted_bytes));
        Poll::Ready(Ok(()))
    }
}
