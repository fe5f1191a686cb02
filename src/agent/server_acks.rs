//! Tells the server how far the log is, as a replica that holds nothing in memory would. WAIT counts replicas as ever, and WAITAOF as well
//! unless the log is to count there. When the server shuts down, it waits for what replicas hold, and then the log counts. Agent's thread.

use std::io::{ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::agent::tap::Tap;
use crate::agent::uplink::Uplink;
use crate::exchange::mailbox::Task;
use crate::exchange::Shared;
use crate::log::request::encode;
use crate::settings;

/// How often the server is told at least how far the log is.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// While the server asks how far its replicas are, check this often whether it is shutting down.
const SHUTDOWN_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The acknowledgements on one tap.
pub struct ServerAcks {
    /// The offset (exclusive) that was last acknowledged to the server.
    acknowledged: u64,
    next_ack: Instant,
    next_look: Instant,
    /// [`Uplink::ack_wanted_for`] at the last check whether the server is shutting down.
    looked_for: u64,
    was_shutting_down: bool,
}

impl ServerAcks {
    /// Nothing is acknowledged yet.
    pub fn new(now: Instant) -> Self {
        ServerAcks { acknowledged: 0, next_ack: now, next_look: now, looked_for: 0, was_shutting_down: false }
    }

    /// When [`ServerAcks::send`] is to be called next, at the latest.
    pub fn next(&self, uplink: &Uplink) -> Instant {
        if self.is_to_look(uplink) {
            self.next_ack.min(self.next_look)
        } else {
            self.next_ack
        }
    }

    fn is_to_look(&self, uplink: &Uplink) -> bool {
        uplink.ack_wanted_for > self.looked_for || self.was_shutting_down
    }

    /// Acknowledges to the server, if that is due.
    ///
    /// # Errors
    /// The connection has failed.
    pub fn send(&mut self, shared: &Shared, tap: &Tap, uplink: &Uplink) -> std::io::Result<()> {
        let now = Instant::now();
        if self.is_to_look(uplink) && now >= self.next_look {
            self.next_look = now + SHUTDOWN_LOOK_INTERVAL;
            self.looked_for = uplink.ack_wanted_for;
            shared.send(Task::LookForShutdown);
        }
        let is_shutting_down = shared.is_shutting_down.load(Ordering::Relaxed);
        // Nothing is durable while the log lacks what was written past the stream. A server that shuts down does not wait for that.
        let lacks_something = shared.lacks_snapshot() && !is_shutting_down;
        let durable = if lacks_something { self.acknowledged } else { uplink.backlog.durable() };
        let is_wanted = is_shutting_down || self.acknowledged < uplink.ack_wanted_for;
        let is_news = durable > self.acknowledged || is_shutting_down != self.was_shutting_down;
        if !(is_wanted && is_news) && now < self.next_ack {
            return Ok(());
        }
        self.acknowledged = durable;
        self.was_shutting_down = is_shutting_down;
        self.next_ack = now + ACK_INTERVAL;
        let (durable, nothing) = (durable.to_string(), "0".to_owned());
        let in_memory = if is_shutting_down { &durable } else { &nothing };
        let on_disk = if settings::COUNT_IN_WAITAOF.is_on() { &durable } else { &nothing };
        let bytes = encode(&["REPLCONF", "ACK", in_memory, "FACK", on_disk]);
        let mut socket = &tap.stream;
        match socket.write(&bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            // The next command would follow a part of this one.
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::agent::own_server::Stream;
    use crate::agent::stream_check::StreamCheck;
    use crate::decide::unacked::Backlog;

    /// An uplink with ten bytes, a tap, and what the server at its other end receives.
    fn parts() -> (Shared, Uplink, Tap, impl FnMut() -> String) {
        let (shared, _tasks) = Shared::new().unwrap();
        let (own, mut servers) = UnixStream::pair().unwrap();
        servers.set_nonblocking(true).unwrap();
        let tap = Tap { stream: Stream::Unix(own), pipe: None, first: Vec::new() };
        let mut uplink = Uplink::new(1, Backlog::new(0), StreamCheck::default());
        uplink.tapped(b"0123456789");
        let received = move || {
            let mut bytes = [0; 256];
            let count = servers.read(&mut bytes).unwrap_or(0);
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        };
        (shared, uplink, tap, received)
    }

    fn ack(in_memory: &str, on_disk: &str) -> String {
        String::from_utf8(encode(&["REPLCONF", "ACK", in_memory, "FACK", on_disk])).unwrap()
    }

    #[test]
    fn news_is_acknowledged_at_once_only_to_a_server_that_asks() {
        let (shared, mut uplink, tap, mut received) = parts();
        let mut acks = ServerAcks::new(Instant::now());
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!(received(), ack("0", "0"), "a new tap shows that it is alive");
        uplink.backlog.acknowledge(4).unwrap();
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!(received(), "", "nobody asks");
        uplink.ack_wanted_for = uplink.backlog.end();
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!((received(), acks.acknowledged), (ack("0", "0"), 4));
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!(received(), "", "it is no news any more");
    }

    #[test]
    fn a_server_that_shuts_down_learns_how_far_the_log_is_even_if_the_log_lacks_something() {
        let (shared, mut uplink, tap, mut received) = parts();
        let mut acks = ServerAcks::new(Instant::now());
        acks.send(&shared, &tap, &uplink).unwrap();
        received();
        uplink.ack_wanted_for = uplink.backlog.end();
        uplink.backlog.acknowledge(10).unwrap();
        shared.snapshots_wanted.store(1, Ordering::Relaxed);
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!(received(), "", "nothing is durable while the log lacks something");
        shared.is_shutting_down.store(true, Ordering::Relaxed);
        acks.send(&shared, &tap, &uplink).unwrap();
        assert_eq!(received(), ack("10", "0"));
    }
}
