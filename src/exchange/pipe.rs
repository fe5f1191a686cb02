//! The pipe: how the replication stream gets from the server to the agent without a system call.
//!
//! The server believes that it writes to the tap's socket; the decorated write puts the bytes here instead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::agent::uplink::SharedLine;

/// The buffer is given back to the system when it grew beyond this in a burst.
const KEEP_BYTES: usize = 1 << 20;

/// Bytes on their way from the thread that writes for the server to the agent. Bounded by what the server's clients may
/// have unacknowledged, as writes are refused beyond `durability.max-pending-bytes`.
#[derive(Default)]
pub struct Pipe {
    bytes: Mutex<Vec<u8>>,
    /// Where the bytes go, while the agent ships.
    line: Mutex<Option<Arc<SharedLine>>>,
    /// The agent sleeps, or is about to, and wants to be rung.
    is_awaited: AtomicBool,
}

impl Pipe {
    /// Adds what `write` writes, or sends it to the log if the agent sleeps and it can be done at once. Returns whether the
    /// agent is to be rung. Main thread, or an I/O thread in its place.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut bytes = self.lock();
        write(&mut bytes);
        if self.is_awaited.load(Ordering::Relaxed) && self.send_directly(&mut bytes) {
            return false;
        }
        drop(bytes);
        self.is_awaited.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the agent may go on sleeping.
    fn send_directly(&self, bytes: &mut Vec<u8>) -> bool {
        let line = self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // An agent that has the line is awake.
        line.as_ref().is_some_and(|line| line.try_lock().is_ok_and(|mut line| line.send_directly(bytes)))
    }

    /// What is pushed may go to `line` directly from now on. Agent, which does not hold the line.
    pub fn connect(&self, line: Option<Arc<SharedLine>>) {
        *self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = line;
    }

    /// Moves the bytes that wait into `to`, which is empty, and keeps its memory for the next ones. Agent.
    pub fn take(&self, to: &mut Vec<u8>) {
        debug_assert!(to.is_empty());
        self.is_awaited.store(false, Ordering::Relaxed);
        if to.capacity() > KEEP_BYTES {
            *to = Vec::new();
        }
        std::mem::swap(to, &mut self.lock());
    }

    /// The agent is about to sleep. Returns whether it may: nothing waits, and whoever adds something rings. Agent.
    pub fn await_ring(&self) -> bool {
        self.is_awaited.store(true, Ordering::Release);
        // Under the lock: a push either comes before, and is seen here, or comes after, and sees the flag.
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_adds_first_to_an_awaited_pipe_rings() {
        let (pipe, mut taken) = (Pipe::default(), Vec::new());
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"a")), "nobody sleeps");
        assert!(!pipe.await_ring(), "there is something to take");
        pipe.take(&mut taken);
        assert_eq!(taken, b"a");
        taken.clear();
        assert!(pipe.await_ring());
        assert!(pipe.push(|bytes| bytes.extend_from_slice(b"b")));
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"c")), "rung once");
        pipe.take(&mut taken);
        assert_eq!(taken, b"bc");
    }

    #[test]
    fn no_byte_is_lost_and_no_ring_is_missed_between_two_threads() {
        use std::sync::{mpsc, Arc};
        let (pipe, (ring, bell)) = (Arc::new(Pipe::default()), mpsc::channel());
        let writer = {
            let pipe = Arc::clone(&pipe);
            std::thread::spawn(move || {
                for n in 0..100_000u32 {
                    if pipe.push(|bytes| bytes.extend_from_slice(&n.to_le_bytes())) {
                        ring.send(()).unwrap();
                    }
                }
            })
        };
        let (mut taken, mut all) = (Vec::new(), Vec::new());
        while all.len() < 400_000 {
            if pipe.await_ring() {
                bell.recv_timeout(std::time::Duration::from_secs(10)).expect("a ring was missed");
            }
            pipe.take(&mut taken);
            all.append(&mut taken);
        }
        writer.join().unwrap();
        let expected: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        assert!(all == expected);
    }
}
