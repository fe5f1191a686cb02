//! Holds that follow from what the server writes, not from a command that ran: of messages, and of late answers of modules. The thread that
//! writes decides them, and reports them to the main thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use crate::decide::gate::LateHold;
use crate::decide::push_messages;
use crate::decide::valve::Group;
use crate::server::groups::GROUPS;
use crate::server::held_table::{HeldConnection, State};
use crate::server::vectors::{buffers, byte_at};

/// Late holds that the main thread has not taken in yet.
static LATE_HOLDS: Mutex<Vec<LateHold>> = Mutex::new(Vec::new());
static HAS_LATE_HOLDS: AtomicBool = AtomicBool::new(false);

/// This node holds data that its log has not confirmed, so nobody may be notified of keys.
static WITHHOLDS_NOTIFICATIONS: AtomicBool = AtomicBool::new(false);

/// Whether nobody may be notified of keys: while this node holds data that its log has not confirmed. Any thread.
pub fn withholds_notifications() -> bool {
    WITHHOLDS_NOTIFICATIONS.load(Ordering::Acquire)
}

/// See [`withholds_notifications`]. Main thread.
pub fn withhold_notifications(withholds: bool) {
    WITHHOLDS_NOTIFICATIONS.store(withholds, Ordering::Release);
}

/// The main thread is to take in that a connection was held. Any thread.
fn report(hold: LateHold) {
    LATE_HOLDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(hold);
    HAS_LATE_HOLDS.store(true, Ordering::Release);
}

/// What was reported since the last time. Main thread.
pub fn take() -> Vec<LateHold> {
    if !HAS_LATE_HOLDS.load(Ordering::Relaxed) || !HAS_LATE_HOLDS.swap(false, Ordering::AcqRel) {
        return Vec::new();
    }
    std::mem::take(&mut *LATE_HOLDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Holds what is pending if a part of it that was not seen before is a message: keyspace notifications tell of writes, and any
/// message may.
pub fn hold_messages(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec]) {
    let (newest, released) = (GROUPS.newest(), GROUPS.released());
    let withholds = withholds_notifications() && state.valve.mark() != Group::MAX;
    if newest <= released.max(state.valve.mark()) && !withholds {
        return;
    }
    let is_new = state.valve.mark() <= released;
    let may_be_held = newest > released.max(state.valve.mark());
    let (is_shut, is_held) = {
        // A message may begin in what the server does not offer again.
        let buffers = std::iter::once(&state.end[..]).chain(buffers(vectors));
        let seen = state.end.len() as u64 + state.valve.seen_bytes();
        let is_shut = withholds && push_messages::tell_of_keys(buffers.clone(), seen);
        (is_shut, !is_shut && may_be_held && push_messages::contain_one(buffers, seen))
    };
    if is_shut {
        state.shut();
        report(LateHold { client: held.client, group: Group::MAX, is_new, is_answer: false });
    } else if is_held {
        state.valve.hold(newest);
        report(LateHold { client: held.client, group: newest, is_new, is_answer: false });
    }
}

/// Holds what is pending if a part of it was not seen before: a module answers, and nobody knows what the answer depends on.
pub fn hold_answer(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec], pending: u64) {
    let (newest, released) = (GROUPS.newest(), GROUPS.released());
    let seen = state.valve.seen_bytes();
    if pending <= seen {
        return;
    }
    // An invalidation, which is no answer, may have been pushed while the client waits.
    state.saw_answer |= byte_at(vectors, seen) != Some(b'>');
    if newest > released.max(state.valve.mark()) {
        let is_new = state.valve.mark() <= released;
        state.valve.hold(newest);
        report(LateHold { client: held.client, group: newest, is_new, is_answer: true });
    }
}

/// Notes the end of the first `bytes` bytes of the vectors, which the server does not offer again, for a client that gets messages.
pub fn remember_end(state: &mut State, vectors: &[libc::iovec], bytes: usize) {
    if !state.is_receiver {
        return;
    }
    let mut skip = bytes.saturating_sub(push_messages::LONGEST_NAME_BYTES);
    let mut rest = bytes - skip;
    for buffer in buffers(vectors) {
        let skipped = skip.min(buffer.len());
        let part = &buffer[skipped..][..rest.min(buffer.len() - skipped)];
        (skip, rest) = (skip - skipped, rest - part.len());
        state.end.extend_from_slice(part);
    }
    let surplus = state.end.len().saturating_sub(push_messages::LONGEST_NAME_BYTES);
    state.end.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::server::handed_over::Told;

    fn vector(bytes: &[u8]) -> libc::iovec {
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    #[test]
    fn a_message_is_found_that_begins_in_what_has_left_the_server() {
        let held = HeldConnection {
            connection: ptr::null(),
            client: 1,
            is_closed: AtomicBool::new(true),
            state: Mutex::new(State { is_receiver: true, ..State::default() }),
            told: Told::default(),
        };
        let mut state = held.state();
        GROUPS.set_newest(5);
        let first = [vector(b"+OK\r\n*3\r\n$7\r\n"), vector(b"me"), vector(b"s")];
        hold_messages(&held, &mut state, &first);
        assert_eq!(state.valve.mark(), 0);
        // All but its last byte was written.
        remember_end(&mut state, &first, 15);
        let second = [vector(b"s"), vector(b"sage\r\n$1\r\nc\r\n$1\r\nm\r\n")];
        hold_messages(&held, &mut state, &second);
        assert_eq!(state.valve.mark(), 5);
        remember_end(&mut state, &second, 21);
        assert_eq!(state.end.len(), push_messages::LONGEST_NAME_BYTES);
        assert!(state.end.ends_with(b"sage\r\n$1\r\nc\r\n$1\r\nm\r\n"));
        GROUPS.set_newest(0);
    }
}
