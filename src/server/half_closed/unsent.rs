//! A connection that outlives its client until what is held on it has left.

use std::time::Instant;

use crate::decide::valve::{Permit, Valve};
use crate::exchange::lease_clock;
use crate::server::groups::GROUPS;
use crate::server::half_closed::closing;
use crate::server::structs::{Connection, ConnectionHandler, CLOSED, CONNECTED};

/// A connection without a client, and what is still to be written to it.
pub struct Unsent {
    /// It lives for as long as this does.
    pub connection: *mut Connection,
    /// Everything that was not written when the client was freed.
    pub bytes: Vec<u8>,
    /// How many of `bytes` are written.
    pub sent: usize,
    /// Which of them may leave.
    pub valve: Valve,
    /// When the client was freed.
    pub since: Instant,
    /// What the server calls when the socket takes more.
    pub on_writable: ConnectionHandler,
}

/// What became of an attempt to write.
#[derive(PartialEq, Eq)]
pub enum Progress {
    /// Something is left.
    Waits,
    /// All is written, or nothing can be any more.
    Ended,
}

impl Unsent {
    /// Writes what may leave and the socket takes.
    pub fn write(&mut self) -> Progress {
        while self.sent < self.bytes.len() {
            let left = (self.bytes.len() - self.sent) as u64;
            let permit = self.valve.offer(left, GROUPS.released());
            let (is_part, allowed) = match permit {
                Permit::Open => (false, left),
                Permit::Part(allowed) => (true, allowed),
            };
            if allowed == 0 {
                self.wait_for_socket(false);
                return Progress::Waits;
            }
            if lease_clock::has_passed() {
                return Progress::Ended;
            }
            let data = self.bytes[self.sent..].as_ptr();
            // SAFETY: a connection that is kept lives, the function is of its own type, and `allowed` is at most what is left.
            let written = unsafe { ((*(*self.connection).kind).write)(self.connection, data.cast(), allowed as usize) };
            // SAFETY: as above.
            let is_connected = unsafe { (*self.connection).state == CONNECTED };
            match u64::try_from(written) {
                Ok(written) if written > 0 => {
                    self.sent += written as usize;
                    if is_part {
                        self.valve.sent(written);
                    }
                }
                _ if is_connected => {
                    self.wait_for_socket(true);
                    return Progress::Waits;
                }
                _ => return Progress::Ended,
            }
        }
        Progress::Ended
    }

    /// Whether the socket takes no more at the moment.
    pub fn waits_for_socket(&self) -> bool {
        // SAFETY: a connection that is kept lives.
        unsafe { (*self.connection).write_handler.is_some() }
    }

    fn wait_for_socket(&self, waits: bool) {
        let handler = self.on_writable.filter(|_| waits);
        // SAFETY: a connection that is kept lives, on the main thread, and the function is of its own type.
        unsafe { ((*(*self.connection).kind).set_write_handler)(self.connection, handler, 0) };
    }

    /// Closes the connection.
    pub fn end(&self) {
        // SAFETY: as above. The server's own functions, in the state in which it closes a connection whose end it has read.
        // A child process may share the socket.
        unsafe {
            (*self.connection).state = CLOSED;
            if closing::remove(self.connection) {
                // The server is about to do the rest.
                return;
            }
            let kind = (*self.connection).kind;
            ((*kind).shutdown)(self.connection);
            ((*kind).close)(self.connection);
        }
    }
}
