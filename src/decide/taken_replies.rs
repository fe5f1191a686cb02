//! Replies that were taken from the server because they may not leave yet: in the module's memory, which does not count for
//! `maxmemory`. A log that is slow must not make the server evict keys, or answer OOM.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The server frees a buffer only when all of it is written, so what is taken of the last one saves nothing. Less than this is not
/// worth it: so much the server keeps in a client's own buffer, which it does not free.
const WORTH_BYTES: usize = 16 << 10;

/// The server shows no further buffer in one attempt to write once it has shown more than this. There may be more then.
pub const SHOWN_BYTES: usize = 64 << 10;

/// The most that is taken in one attempt: the server counts what is written as an `int`, which ends at 2 GB.
const MOST_BYTES: usize = 1 << 30;

/// How many bytes of all connections are taken.
static TOTAL: AtomicU64 = AtomicU64::new(0);

/// How many bytes are taken from the server and not sent yet, of all connections. Any thread.
#[inline]
pub fn total() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// How many large replies are left to the server until the log acknowledges something. While the log is fast, what waits is soon sent, and to
/// copy it would cost more than it saves; but replies may be much larger than what the server shows.
const LEFT: u32 = 16;

static LOG_IS_SLOW: AtomicBool = AtomicBool::new(false);
/// How many large replies were left to the server since the log last acknowledged something.
static LEFT_SINCE: AtomicU32 = AtomicU32::new(0);

/// A large reply waits. Whether it is to be taken, because somebody has waited for long or much waits. Any thread.
pub fn is_due() -> bool {
    LOG_IS_SLOW.load(Ordering::Relaxed) || LEFT_SINCE.fetch_add(1, Ordering::Relaxed) >= LEFT
}

/// Somebody has waited for longer than a fast log takes, or nobody. Main thread.
pub fn set_log_is_slow(is_slow: bool) {
    LOG_IS_SLOW.store(is_slow, Ordering::Relaxed);
}

/// The log has acknowledged something. Main thread.
#[inline]
pub fn acknowledged() {
    LEFT_SINCE.store(0, Ordering::Relaxed);
}

/// How many bytes to take of those that the server offers, in buffers of these lengths, and that may not leave. Never all: a server that
/// has nothing to write would close a client that said QUIT, and would not write when it may.
///
/// `is_reference`: the last three buffers are a value that the server does not copy, which costs it nothing.
pub fn worth_taking(lengths: impl DoubleEndedIterator<Item = usize> + Clone, is_reference: bool) -> Option<usize> {
    let all: usize = lengths.clone().sum();
    if all > SHOWN_BYTES {
        return Some((all - 1).min(MOST_BYTES));
    }
    let last: usize = lengths.rev().take(if is_reference { 3 } else { 1 }).sum();
    (all - last > WORTH_BYTES).then_some(all - last)
}

/// Whether some of the buffers, of these lengths, are values that the server does not copy. Of its own it shows none behind
/// [`SHOWN_BYTES`]; but a value is a few bytes of its own, so it may show hundreds of any size before it looks.
pub fn shows_uncopied(lengths: impl DoubleEndedIterator<Item = usize>) -> bool {
    lengths.rev().skip(1).sum::<usize>() > SHOWN_BYTES
}

/// Appends the first `bytes` bytes of the buffers, or all if these are fewer.
pub fn append<'a>(to: &mut Vec<u8>, buffers: impl Iterator<Item = &'a [u8]>, bytes: usize) {
    to.reserve(bytes);
    let mut left = bytes;
    for buffer in buffers {
        let part = &buffer[..buffer.len().min(left)];
        to.extend_from_slice(part);
        left -= part.len();
    }
}

/// What was taken from one connection, in order.
#[derive(Debug, Default)]
pub struct Taken {
    chunks: VecDeque<Vec<u8>>,
    /// How many bytes of the first chunk are sent.
    sent: usize,
    bytes: usize,
}

impl Taken {
    /// How many bytes are taken and not sent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes the first `bytes` bytes of the buffers, or all if these are fewer. Returns how many.
    pub fn take<'a>(&mut self, buffers: impl Iterator<Item = &'a [u8]>, bytes: usize) -> usize {
        let mut chunk = Vec::new();
        append(&mut chunk, buffers, bytes);
        let taken = chunk.len();
        if taken > 0 {
            self.chunks.push_back(chunk);
        }
        self.add(taken);
        taken
    }

    /// The first of what is to be sent: whole chunks until they are more than the server sends at once, but not more than `most` bytes.
    pub fn first(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let mut skipped = self.sent;
        let mut rest = most;
        let mut shown = 0;
        self.chunks.iter().map_while(move |chunk| {
            if rest == 0 || shown > SHOWN_BYTES {
                return None;
            }
            let part = &chunk[std::mem::take(&mut skipped)..];
            let part = &part[..part.len().min(rest)];
            rest -= part.len();
            shown += part.len();
            Some(part)
        })
    }

    /// The first `bytes` of what is taken were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.subtract(bytes);
        self.sent += bytes;
        while let Some(first) = self.chunks.front().filter(|first| first.len() <= self.sent) {
            self.sent -= first.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// All that is not sent, which is then not counted as taken any more.
    pub fn take_out(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes);
        let mut skipped = self.sent;
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk[std::mem::take(&mut skipped)..]);
        }
        self.clear();
        bytes
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.subtract(self.bytes);
        (self.chunks, self.sent) = (VecDeque::new(), 0);
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        TOTAL.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn subtract(&mut self, bytes: usize) {
        self.bytes -= bytes;
        TOTAL.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn worth(lengths: &[usize], is_reference: bool) -> Option<usize> {
        worth_taking(lengths.iter().copied(), is_reference)
    }

    #[test]
    fn only_what_the_server_frees_for_it_is_taken() {
        assert_eq!(worth(&[16 << 10], false), None, "the client's own buffer");
        assert_eq!(worth(&[16 << 10, 16 << 10], false), None, "the last one stays");
        assert_eq!(worth(&[16 << 10, 16 << 10, 100], false), Some(32 << 10));
        assert_eq!(worth(&[100, 50 << 10], false), None, "one block");
        assert_eq!(worth(&[16 << 10, 10, 40 << 10, 2], true), None, "a value that is not copied");
        assert_eq!(worth(&[64 << 10, 1], false), Some(64 << 10), "there may be more");
        assert_eq!(worth(&[1 << 20], false), Some((1 << 20) - 1));
        assert_eq!(worth(&[5, 1 << 20, 2], true), Some((1 << 20) + 6), "there may be more behind it");
        assert_eq!(worth(&[5, 3 << 30, 2], false), Some(1 << 30), "the server counts less than 2 GB");
    }

    #[test]
    fn more_than_the_server_shows_of_its_own_is_not_its_own() {
        let shows = |lengths: &[usize]| shows_uncopied(lengths.iter().copied());
        assert!(!shows(&[1 << 20]) && !shows(&[64 << 10, 1 << 20]) && !shows(&[]));
        assert!(shows(&[1 << 20, 2]) && shows(&[5, 1 << 20, 2]) && shows(&[5, 1 << 20, 2, 7]));
    }

    #[test]
    fn what_is_sent_is_whole_chunks_up_to_what_the_server_sends_at_once() {
        let mut taken = Taken::default();
        for chunk in [[1u8; 60 << 10], [2; 60 << 10], [3; 60 << 10]] {
            assert_eq!(taken.take([&chunk[..]].into_iter(), chunk.len()), chunk.len());
        }
        let lengths = |taken: &Taken, most| taken.first(most).map(<[u8]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&taken, usize::MAX), [60 << 10, 60 << 10]);
        assert_eq!(lengths(&taken, 61 << 10), [60 << 10, 1 << 10]);
        assert_eq!(lengths(&taken, 0), []);
        taken.sent(100 << 10);
        assert_eq!(lengths(&taken, usize::MAX), [20 << 10, 60 << 10]);
        taken.clear();
        assert!(taken.is_empty() && lengths(&taken, usize::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_out_in_order(
            steps in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..50), 0..60usize, 0..80usize), 0..50),
        ) {
            let (mut taken, mut expected, mut out) = (Taken::default(), Vec::new(), Vec::new());
            for (bytes, most, sends) in steps {
                let (left, right) = bytes.split_at(bytes.len() / 3);
                let count = taken.take([left, right].into_iter(), most);
                prop_assert_eq!(count, most.min(bytes.len()));
                expected.extend_from_slice(&bytes[..count]);
                let parts: Vec<u8> = taken.first(sends).flatten().copied().collect();
                prop_assert_eq!(parts.len(), sends.min(taken.bytes()));
                taken.sent(parts.len());
                out.extend(parts);
            }
            out.extend(taken.first(usize::MAX).flatten());
            prop_assert_eq!(out, expected);
        }
    }
}
