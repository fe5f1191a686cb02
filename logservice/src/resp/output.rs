//! The output of a connection. Its task sends most replies. Acknowledgements are sent by the thread that made the append durable, as waking
//! the task would cost each of them a context switch.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use durability_protocol::Refusal;
use tokio::sync::Notify;

use super::append::{AppendCommand, Replies};
use super::reply::{Protocol, Reply};
use super::socket::Socket;
use crate::shard::{ProgressListener, Shard};

/// Bytes of replies that a client has not taken. Beyond that the connection is not read.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// The same for a client that has not logged in.
const STRANGERS_OUTPUT_BYTES: usize = 16 << 10;

/// The socket of a connection and the replies on their way to it.
pub struct Output {
    socket: Socket,
    state: Mutex<State>,
    /// Wakes the task.
    wake: Notify,
}

#[derive(Default)]
struct State {
    replies: Replies,
    /// Encoded replies, in the order in which they are sent.
    out: BytesMut,
    /// The task waits for room or for the last reply, so it has to be woken when that changes.
    is_task_waiting: bool,
    /// How replies are encoded from now on.
    protocol: Protocol,
    /// The client is gone.
    is_broken: bool,
    /// The client has logged in, or need not.
    is_known: bool,
    /// A shard that the client appended to has ended: the connection ends once everything that waits is answered.
    is_over: bool,
    /// Since when the client has taken nothing of `out`.
    stalled_since: Option<Instant>,
}

/// What a connection may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Take in more commands.
    Read,
    /// Wait until replies have left.
    Wait,
    /// End: every reply has left and no more are to come, or the client is gone.
    End,
}

impl Output {
    /// An output without replies.
    pub fn new(socket: Socket) -> Self {
        Output { socket, state: Mutex::default(), wake: Notify::new() }
    }

    /// The socket, to read from.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether more commands may be taken in.
    pub fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Records that the client has logged in, or need not.
    pub fn set_known(&self) {
        self.lock().is_known = true;
    }

    /// How long the client has taken nothing of its replies; `None` if there are none to take.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.lock().stalled_since.map(|since| since.elapsed())
    }

    /// Adds a reply after those that wait.
    pub fn push(&self, reply: Reply) {
        let State { replies, protocol, out, .. } = &mut *self.lock();
        replies.push(reply, *protocol, out);
    }

    /// What the client speaks.
    pub fn protocol(&self) -> Protocol {
        self.lock().protocol
    }

    /// Sets what the client speaks from the next reply on.
    pub fn set_protocol(&self, protocol: Protocol) {
        self.lock().protocol = protocol;
    }

    /// Whether no reply is outstanding and this connection never appended.
    pub fn is_unused(&self) -> bool {
        let state = self.lock();
        state.replies.is_empty() && !state.replies.has_targets()
    }

    /// Gives an append that came at `arrived` to its shard. The reply follows when it is durable. `shard` looks up the shard at the first
    /// append to it.
    pub async fn append(
        self: &Arc<Self>,
        shard: impl Future<Output = Result<Arc<Shard>, Refusal>>,
        command: AppendCommand<'_>,
        arrived: Instant,
    ) -> Result<(), Refusal> {
        let known = self.lock().replies.target(command.shard);
        let (target, shard) = match known {
            Some(known) => known,
            None => {
                let shard = shard.await?;
                let target = self.lock().replies.add_target(shard.clone())?;
                let listener: Arc<dyn ProgressListener> = self.clone();
                shard.notifier().listen(&listener);
                (target, shard)
            }
        };
        let bytes = command.payload_bytes();
        // Not under the lock, which progress takes while it holds the shard's.
        let ticket = command.submit(&shard).await?;
        // If it has become durable meanwhile, the task sees that when it settles before its next wait.
        self.lock().replies.push_append(target, ticket, bytes, arrived);
        Ok(())
    }

    /// Sends what can be sent now. Returns what the task may do next. If it has to wait, it will be woken.
    pub fn settle(&self, is_closing: bool) -> Outlook {
        let mut state = self.lock();
        self.send(&mut state);
        let is_closing = is_closing || state.is_over;
        let is_done = is_closing && state.replies.is_empty() && self.is_sent(&state);
        if state.is_broken || is_done {
            return Outlook::End;
        }
        let may_read = !is_closing && state.has_room();
        state.is_task_waiting = !may_read;
        if may_read {
            Outlook::Read
        } else {
            Outlook::Wait
        }
    }

    /// Waits until [`Output::settle`] has something to do.
    pub async fn changed(&self) {
        if self.is_sent(&self.lock()) {
            self.wake.notified().await;
            return;
        }
        tokio::select! {
            // The next write reports an error.
            _ = self.socket.writable() => {}
            () = self.wake.notified() => {}
        }
    }

    /// The socket, and what is still to be written to it; `None` if progress holds on to it.
    pub fn into_parts(self: Arc<Self>) -> Option<(Socket, BytesMut)> {
        let Output { socket, state, .. } = Arc::into_inner(self)?;
        Some((socket, state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).out))
    }

    fn send(&self, state: &mut State) {
        let State { replies, out, .. } = state;
        replies.settle(out);
        while !state.out.is_empty() {
            match self.socket.try_write(&state.out) {
                Ok(0) => {
                    state.is_broken = true;
                    return;
                }
                Ok(count) => {
                    state.out.advance(count);
                    state.stalled_since = None;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    state.stalled_since.get_or_insert_with(Instant::now);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    state.is_broken = true;
                    return;
                }
            }
        }
        state.is_broken |= self.socket.try_flush().is_err();
    }

    /// Whether everything that is encoded is in the kernel's hands.
    fn is_sent(&self, state: &State) -> bool {
        state.out.is_empty() && self.socket.is_flushed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn has_room(&self) -> bool {
        let most_bytes = if self.is_known { MAX_OUTPUT_BYTES } else { STRANGERS_OUTPUT_BYTES };
        self.replies.has_room() && self.out.len() < most_bytes
    }
}

impl ProgressListener for Output {
    fn progressed(&self) {
        let mut state = self.lock();
        self.send(&mut state);
        if state.is_task_waiting || state.is_broken || !self.is_sent(&state) {
            self.wake.notify_one();
        }
    }

    fn ended(&self) {
        let mut state = self.lock();
        state.is_over = true;
        self.send(&mut state);
        self.wake.notify_one();
    }
}
