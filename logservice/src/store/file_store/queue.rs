//! Appends that wait to be written.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::store::{Append, SubmitError};

/// Bytes that may wait, for all connections of a shard together.
const MAX_WAITING_BYTES: usize = 128 << 20;
/// Appends that may wait: bounds what very small ones cost besides their bytes.
const MAX_WAITING_APPENDS: usize = 1 << 16;
/// Appends in one record: what one vectored write takes, less one part for the header.
const MAX_BATCH_APPENDS: usize = 1023;

/// A bounded queue with many producers, and one consumer for as long as there is anything in it.
pub struct Queue {
    batch_bytes: usize,
    state: Mutex<State>,
    left: Condvar,
}

struct State {
    appends: VecDeque<Append>,
    bytes: usize,
    closed: bool,
    /// There is a consumer, or one was requested.
    has_consumer: bool,
}

impl Queue {
    /// An empty queue whose batches have at most `batch_bytes` of payload.
    pub fn new(batch_bytes: usize) -> Self {
        let state = State { appends: VecDeque::new(), bytes: 0, closed: false, has_consumer: false };
        Queue { batch_bytes, state: Mutex::new(state), left: Condvar::new() }
    }

    /// Adds an append. Returns whether the caller has to request a consumer.
    pub fn push(&self, append: Append) -> Result<bool, SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if state.bytes + append.payload.len() > MAX_WAITING_BYTES || state.appends.len() >= MAX_WAITING_APPENDS {
            return Err(SubmitError::Busy { waiting_bytes: state.bytes });
        }
        state.bytes += append.payload.len();
        state.appends.push_back(append);
        Ok(!std::mem::replace(&mut state.has_consumer, true))
    }

    /// Moves into `batch` the first append and all that continue it in the same epoch, as far as they fit. False if there is none: then
    /// the consumer has left. Called by the consumer.
    pub fn next_batch(&self, batch: &mut Vec<Append>) -> bool {
        // The last batch is freed without the lock: its payloads are the callers' read buffers.
        batch.clear();
        let mut state = self.lock();
        if state.appends.is_empty() {
            self.leave(&mut state);
            return false;
        }
        let mut bytes = 0;
        while let Some(next) = state.appends.front() {
            let fits = batch.last().is_none_or(|last: &Append| {
                bytes + next.payload.len() <= self.batch_bytes
                    && batch.len() < MAX_BATCH_APPENDS
                    && next.epoch == last.epoch
                    && next.offset == last.offset + last.payload.len() as u64
            });
            if !fits {
                break;
            }
            bytes += next.payload.len();
            batch.extend(state.appends.pop_front());
        }
        state.bytes -= bytes;
        true
    }

    /// Takes no more appends; what is queued is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Takes no more appends and drops those that are queued; the consumer has left. Called by the consumer.
    pub fn fail(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.bytes = 0;
        state.appends.clear();
        self.leave(&mut state);
    }

    /// Waits until there is no consumer, and none was requested.
    pub fn wait_until_left(&self) {
        let left = self.left.wait_while(self.lock(), |state| state.has_consumer);
        drop(left);
    }

    fn leave(&self, state: &mut State) {
        state.has_consumer = false;
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
