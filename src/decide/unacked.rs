//! The bytes that were read from the replication stream and that the log has not acknowledged.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes are kept in blocks of this capacity.
const BLOCK_BYTES: usize = 256 << 10;

struct Block {
    /// Offset of the first byte.
    start: u64,
    bytes: Vec<u8>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// A window of the replication stream: from the durable offset to what was last read. Bytes are kept until the log
/// acknowledges them, so that they can be sent again on a new connection.
///
/// Offsets are exclusive ends, as everywhere. `durable <= sent <= end`.
pub struct Backlog {
    blocks: VecDeque<Block>,
    durable: u64,
    sent: u64,
    end: u64,
    spare: Option<Vec<u8>>,
}

impl Backlog {
    /// An empty window at `offset`: everything before it is durable.
    pub fn new(offset: u64) -> Self {
        Backlog { blocks: VecDeque::new(), durable: offset, sent: offset, end: offset, spare: None }
    }

    /// Everything up to here is acknowledged.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Everything up to here was handed out by [`Backlog::take`] since the last [`Backlog::rewind`].
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Everything up to here was read from the stream.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that are read and not acknowledged.
    pub fn pending_bytes(&self) -> u64 {
        self.end - self.durable
    }

    /// Room for reading into: at least one byte, at most a block. [`Backlog::filled`] takes in what was read.
    pub fn room(&mut self) -> &mut Vec<u8> {
        let is_full = self.blocks.back().is_none_or(|block| block.bytes.len() == block.bytes.capacity());
        if is_full {
            let bytes = self.spare.take().unwrap_or_else(|| Vec::with_capacity(BLOCK_BYTES));
            self.blocks.push_back(Block { start: self.end, bytes });
        }
        &mut self.blocks.back_mut().expect("a block was just made sure of").bytes
    }

    /// Bytes were added to [`Backlog::room`]. Returns them.
    pub fn filled(&mut self) -> &[u8] {
        let Some(block) = self.blocks.back() else { return &[] };
        let from = (self.end - block.start) as usize;
        self.end = block.end();
        &block.bytes[from..]
    }

    /// Forgets what [`Backlog::filled`] has just taken in from `end` (exclusive) on.
    pub fn cut(&mut self, end: u64) {
        if let Some(block) = self.blocks.back_mut() {
            let end = end.clamp(block.start.max(self.sent), self.end);
            block.bytes.truncate((end - block.start) as usize);
            self.end = end;
        }
    }

    /// Adds bytes that were read elsewhere.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let count = bytes.len().min(room.capacity() - room.len());
            room.extend_from_slice(&bytes[..count]);
            self.filled();
            bytes = &bytes[count..];
        }
    }

    /// Hands out the next at most `most` bytes as an offset range; `None` if all is handed out.
    pub fn take(&mut self, most: usize) -> Option<std::ops::Range<u64>> {
        let range = self.sent..self.end.min(self.sent + most as u64);
        self.sent = range.end;
        (!range.is_empty()).then_some(range)
    }

    /// Adds the bytes of `range` to `slices`, without copying them.
    pub fn slices<'a>(&'a self, range: std::ops::Range<u64>, slices: &mut Vec<IoSlice<'a>>) {
        assert!(range.start >= self.durable && range.end <= self.end, "bytes that are not there were to be sent");
        let first = self.blocks.partition_point(|block| block.end() <= range.start);
        for block in self.blocks.range(first..) {
            if block.start >= range.end {
                break;
            }
            let from = range.start.saturating_sub(block.start) as usize;
            let to = (range.end.min(block.end()) - block.start) as usize;
            slices.push(IoSlice::new(&block.bytes[from..to]));
        }
    }

    /// The log has acknowledged everything up to `offset`. Returns whether that is news.
    ///
    /// # Errors
    /// `offset` lies beyond what was read: the log answers for bytes that this node never had.
    pub fn acknowledge(&mut self, offset: u64) -> Result<bool, BeyondEnd> {
        if offset > self.end {
            return Err(BeyondEnd { acknowledged: offset, end: self.end });
        }
        if offset <= self.durable {
            return Ok(false);
        }
        self.durable = offset;
        self.sent = self.sent.max(offset);
        while self.blocks.front().is_some_and(|block| block.end() <= offset) {
            if let Some(mut block) = self.blocks.pop_front() {
                block.bytes.clear();
                self.spare = Some(block.bytes);
            }
        }
        Ok(true)
    }

    /// The connection to the log is new: everything that is not acknowledged is handed out again.
    pub fn rewind(&mut self) {
        self.sent = self.durable;
    }
}

/// See [`Backlog::acknowledge`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log acknowledged offset {acknowledged}, but the stream was read only up to {end}")]
pub struct BeyondEnd {
    acknowledged: u64,
    end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(backlog: &mut Backlog, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = backlog.room();
            let count = rest.len().min(room.capacity() - room.len());
            room.extend_from_slice(&rest[..count]);
            assert_eq!(backlog.filled(), &rest[..count]);
            rest = &rest[count..];
        }
    }

    #[test]
    fn what_is_cut_off_is_never_handed_out_and_what_comes_next_stands_there() {
        let mut backlog = Backlog::new(100);
        push(&mut backlog, b"first");
        assert_eq!(backlog.take(3), Some(100..103));
        push(&mut backlog, b"second");
        backlog.cut(107);
        assert_eq!((backlog.end(), backlog.pending_bytes()), (107, 7));
        push(&mut backlog, b"third");
        let range = backlog.take(100).expect("some are left");
        let mut slices = Vec::new();
        backlog.slices(range, &mut slices);
        assert_eq!(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>(), b"stsethird");
        backlog.cut(0);
        assert_eq!(backlog.end(), 112, "what was handed out stays");
    }

    fn read(backlog: &Backlog, range: std::ops::Range<u64>) -> Vec<u8> {
        let mut slices = Vec::new();
        backlog.slices(range, &mut slices);
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_after_a_rewind() {
        let mut backlog = Backlog::new(1000);
        push(&mut backlog, b"abcdef");
        assert_eq!(backlog.take(4), Some(1000..1004));
        assert_eq!(backlog.take(4), Some(1004..1006));
        assert_eq!(backlog.take(4), None);
        assert_eq!(backlog.acknowledge(1002), Ok(true));
        assert_eq!(backlog.acknowledge(1001), Ok(false));
        backlog.rewind();
        assert_eq!(backlog.take(100), Some(1002..1006));
        assert_eq!(read(&backlog, 1002..1006), b"cdef");
        assert_eq!(backlog.pending_bytes(), 4);
    }

    #[test]
    fn an_acknowledgement_of_bytes_that_never_were_is_an_error() {
        let mut backlog = Backlog::new(0);
        push(&mut backlog, b"ab");
        assert_eq!(backlog.acknowledge(3), Err(BeyondEnd { acknowledged: 3, end: 2 }));
        assert_eq!(backlog.durable(), 0);
    }

    #[test]
    fn memory_is_given_back_when_the_log_has_caught_up() {
        let mut backlog = Backlog::new(0);
        push(&mut backlog, &vec![7; 10 * BLOCK_BYTES]);
        assert_eq!(backlog.blocks.len(), 10);
        backlog.acknowledge(10 * BLOCK_BYTES as u64).unwrap();
        assert!(backlog.blocks.is_empty());
    }

    proptest! {
        #[test]
        fn the_window_shows_the_stream(
            pushes in proptest::collection::vec((1..(BLOCK_BYTES * 2), 0..100u64, any::<bool>()), 1..12),
        ) {
            let (mut stream, mut backlog) = (Vec::new(), Backlog::new(5));
            for (count, percent, rewind) in pushes {
                let bytes: Vec<u8> = (0..count).map(|n| (stream.len() + n) as u8).collect();
                stream.extend_from_slice(&bytes);
                push(&mut backlog, &bytes);
                while let Some(range) = backlog.take(100_000) {
                    let expected = &stream[range.start as usize - 5..range.end as usize - 5];
                    prop_assert!(read(&backlog, range) == expected);
                }
                let durable = backlog.durable() + backlog.pending_bytes() * percent / 100;
                backlog.acknowledge(durable).unwrap();
                if rewind { backlog.rewind() }
            }
        }
    }
}
