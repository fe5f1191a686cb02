//! The pipe: how the replication stream gets from the server to the agent without a system call.
//!
//! The server believes that it writes to the tap's socket. The replaced write puts the bytes here instead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::base::locks::lock;

/// A buffer that grew beyond this in a burst is returned to the system.
const KEEP_BYTES: usize = 1 << 20;

/// Sends bytes of the stream to the log on the thread that wrote them, while the agent sleeps.
pub trait SendNow: Send + Sync {
    /// Takes `bytes` and leaves them empty, or leaves them as they are. Never waits. Returns whether the agent may go on sleeping. Main
    /// thread, or an I/O thread in its place.
    fn send_now(&self, bytes: &mut Vec<u8>) -> bool;
}

/// Bytes on their way from the thread that writes for the server to the agent. Bounded by what the server's clients may
/// have unacknowledged, as writes are refused beyond `durability.max-pending-bytes`.
#[derive(Default)]
pub struct Pipe {
    bytes: Mutex<Vec<u8>>,
    /// Where the bytes may go directly, while the agent ships.
    direct: Mutex<Option<Arc<dyn SendNow>>>,
    /// Whether the agent sleeps, or is about to, and wants to be woken.
    is_awaited: AtomicBool,
}

impl Pipe {
    /// Adds what `write` writes, or sends it to the log if the agent sleeps and that can be done at once. Returns whether the
    /// caller has to wake the agent. Main thread, or an I/O thread in its place.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut bytes = self.bytes();
        write(&mut bytes);
        if self.is_awaited.load(Ordering::Relaxed) && self.send_now(&mut bytes) {
            return false;
        }
        drop(bytes);
        self.is_awaited.swap(false, Ordering::AcqRel)
    }

    /// Returns whether the agent may go on sleeping.
    fn send_now(&self, bytes: &mut Vec<u8>) -> bool {
        lock(&self.direct).as_ref().is_some_and(|direct| direct.send_now(bytes))
    }

    /// From now on, pushed bytes may go to `direct`. Agent, which holds no lock of `direct`.
    pub fn connect(&self, direct: Option<Arc<dyn SendNow>>) {
        *lock(&self.direct) = direct;
    }

    /// Moves the waiting bytes into `to`, which is empty, and keeps its memory for the next ones. Agent.
    pub fn take(&self, to: &mut Vec<u8>) {
        debug_assert!(to.is_empty());
        self.is_awaited.store(false, Ordering::Relaxed);
        if to.capacity() > KEEP_BYTES {
            *to = Vec::new();
        }
        std::mem::swap(to, &mut self.bytes());
    }

    /// The agent is about to sleep. Returns whether it may: nothing waits, and the next push wakes it. Agent.
    pub fn await_push(&self) -> bool {
        self.is_awaited.store(true, Ordering::Release);
        // Under the lock: a push either came before, and its bytes are seen here, or comes after, and sees the flag.
        self.bytes().is_empty()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_push_to_an_awaited_pipe_wakes_the_agent() {
        let (pipe, mut taken) = (Pipe::default(), Vec::new());
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"a")), "nobody sleeps");
        assert!(!pipe.await_push(), "there is something to take");
        pipe.take(&mut taken);
        assert_eq!(taken, b"a");
        taken.clear();
        assert!(pipe.await_push());
        assert!(pipe.push(|bytes| bytes.extend_from_slice(b"b")));
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"c")), "woken once");
        pipe.take(&mut taken);
        assert_eq!(taken, b"bc");
    }

    /// A log that takes everything at once, or nothing.
    struct Log(Option<Mutex<Vec<u8>>>);

    impl SendNow for Log {
        fn send_now(&self, bytes: &mut Vec<u8>) -> bool {
            self.0.as_ref().map(|sent| lock(sent).append(bytes)).is_some()
        }
    }

    #[test]
    fn what_was_sent_while_the_agent_sleeps_wakes_nobody() {
        let (pipe, mut taken) = (Pipe::default(), Vec::new());
        let log = Arc::new(Log(Some(Mutex::default())));
        pipe.connect(Some(Arc::clone(&log) as Arc<dyn SendNow>));
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"a")));
        assert_eq!(lock(log.0.as_ref().unwrap()).as_slice(), b"", "an agent that is awake sends by itself");
        assert!(!pipe.await_push());
        pipe.take(&mut taken);
        assert!(pipe.await_push());
        assert!(!pipe.push(|bytes| bytes.extend_from_slice(b"b")));
        assert_eq!(lock(log.0.as_ref().unwrap()).as_slice(), b"b");
        pipe.connect(Some(Arc::new(Log(None))));
        assert!(pipe.push(|bytes| bytes.extend_from_slice(b"c")), "the log does not take it");
        taken.clear();
        pipe.take(&mut taken);
        assert_eq!(taken, b"c");
    }

    #[test]
    fn no_byte_is_lost_and_no_wake_is_missed_between_two_threads() {
        use std::sync::{mpsc, Arc};
        let (pipe, (wake, woken)) = (Arc::new(Pipe::default()), mpsc::channel());
        let writer = {
            let pipe = Arc::clone(&pipe);
            std::thread::spawn(move || {
                for n in 0..100_000u32 {
                    if pipe.push(|bytes| bytes.extend_from_slice(&n.to_le_bytes())) {
                        wake.send(()).unwrap();
                    }
                }
            })
        };
        let (mut taken, mut all) = (Vec::new(), Vec::new());
        while all.len() < 400_000 {
            if pipe.await_push() {
                woken.recv_timeout(std::time::Duration::from_secs(10)).expect("a wake was missed");
            }
            pipe.take(&mut taken);
            all.append(&mut taken);
        }
        writer.join().unwrap();
        let expected: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        assert!(all == expected);
    }
}
