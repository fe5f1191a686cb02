//! What is held because of what the server writes, not of a command: messages, and late answers of modules. On the thread that writes.

use std::sync::atomic::Ordering;

use crate::decide::push_messages;
use crate::decide::valve::Group;
use crate::server::held_table::{
    report_late_hold, HeldConnection, LateHold, State, NEWEST, RELEASED, WITHHOLDS_NOTIFICATIONS,
};

/// What stands in the server's vectors.
pub fn buffers(vectors: &[libc::iovec]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    // SAFETY: the server passes readable buffers of that length, which live as long as its call.
    vectors.iter().map(|vector| unsafe { std::slice::from_raw_parts(vector.iov_base.cast(), vector.iov_len) })
}

/// Holds what is pending if a part of it that was not seen before is a message: keyspace notifications tell of writes, and any
/// message may.
pub fn hold_messages(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec]) {
    let (newest, released) = (NEWEST.load(Ordering::Acquire), RELEASED.load(Ordering::Acquire));
    let withholds = WITHHOLDS_NOTIFICATIONS.load(Ordering::Acquire) && state.valve.mark() != Group::MAX;
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
        report_late_hold(LateHold { client: held.client, group: Group::MAX, is_new, is_answer: false });
    } else if is_held {
        state.valve.hold(newest);
        report_late_hold(LateHold { client: held.client, group: newest, is_new, is_answer: false });
    }
}

/// Holds what is pending if a part of it was not seen before: a module answers, and what it tells of is not known.
pub fn hold_answer(held: &HeldConnection, state: &mut State, vectors: &[libc::iovec], pending: u64) {
    let (newest, released) = (NEWEST.load(Ordering::Acquire), RELEASED.load(Ordering::Acquire));
    let seen = state.valve.seen_bytes();
    if pending <= seen {
        return;
    }
    // An invalidation, which is no answer, may have been pushed while the client waits.
    state.saw_answer |= byte_at(vectors, seen) != Some(b'>');
    if newest > released.max(state.valve.mark()) {
        let is_new = state.valve.mark() <= released;
        state.valve.hold(newest);
        report_late_hold(LateHold { client: held.client, group: newest, is_new, is_answer: true });
    }
}

/// What stands at that position of the buffers together.
fn byte_at(vectors: &[libc::iovec], position: u64) -> Option<u8> {
    let mut position = usize::try_from(position).ok()?;
    for buffer in buffers(vectors) {
        match buffer.get(position) {
            Some(byte) => return Some(*byte),
            None => position -= buffer.len(),
        }
    }
    None
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
    use std::sync::atomic::AtomicBool;
    use std::sync::Mutex;

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
        NEWEST.store(5, Ordering::Release);
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
        NEWEST.store(0, Ordering::Release);
    }
}
