//! Where the replication stream goes instead of the tap's socket.

use std::ffi::c_int;
use std::sync::Arc;

use crate::decide::taken_replies::append;
use crate::exchange::pipe::Pipe;
use crate::exchange::Shared;
use crate::server::vectors::{buffers, write_again_later};

/// The server counts what it wrote in one turn as an `int`, and writes on in that turn as long as something is taken.
const MOST_BYTES: usize = 1 << 30;

/// What is written to a connection goes into a pipe to the agent.
pub struct Diversion {
    /// The pipe.
    pub pipe: Arc<Pipe>,
    /// Has what wakes the agent.
    pub shared: Arc<Shared>,
    /// How much of what the server writes is taken in one of its turns.
    pub turn: Turn,
}

impl Diversion {
    /// Takes everything that the server writes, but not more than a bound in one of its turns, as a socket with endless room would.
    pub fn take(&mut self, vectors: &[libc::iovec]) -> c_int {
        let offered = vectors.iter().map(|vector| vector.iov_len).sum();
        let Some(bytes) = self.turn.take(offered, MOST_BYTES) else { return write_again_later() };
        if self.pipe.push(|pipe| append(pipe, buffers(vectors), bytes)) {
            self.shared.agent_waker.wake();
        }
        c_int::try_from(bytes).expect("no more is taken at a time than fits")
    }
}

/// A socket takes less than it is offered, and nothing at the next attempt, before the server gives up a turn.
#[derive(Default)]
pub struct Turn {
    is_over: bool,
}

impl Turn {
    /// How many of the `offered` bytes are taken, at most `most`. `None`: nothing now, as a part was taken the last time.
    pub fn take(&mut self, offered: usize, most: usize) -> Option<usize> {
        if std::mem::take(&mut self.is_over) {
            return None;
        }
        self.is_over = offered > most;
        Some(offered.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_diverted_is_taken_in_turns_that_are_bounded_and_all_of_it_in_order() {
        let all: Vec<u8> = (0..200).collect();
        for most in [1, 2, 7, 99, 100, 199, 200, 201] {
            let (mut turn, mut pipe) = (Turn::default(), Vec::new());
            while pipe.len() < all.len() {
                let begun = pipe.len();
                // One turn of the server: it offers the blocks of its stream, and what was not taken again until nothing is.
                while pipe.len() < all.len() {
                    let rest = &all[pipe.len()..];
                    let (first, second) = rest.split_at(rest.len() / 3);
                    let vectors = [first, &[], second]
                        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
                    let Some(bytes) = turn.take(rest.len(), most) else { break };
                    append(&mut pipe, buffers(&vectors), bytes);
                }
                let taken = pipe.len() - begun;
                assert!((1..=most).contains(&taken), "{taken} bytes in a turn of at most {most}");
            }
            assert_eq!(pipe, all, "{most} at a time");
        }
    }
}
