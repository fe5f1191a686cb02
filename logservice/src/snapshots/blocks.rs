//! Checksums of the blocks of a snapshot, so that a block is verified before any byte of it is passed on.

use crate::store::Blocks;

/// Length of a block in bytes, unless there would be too many blocks.
const MIN_BLOCK_BYTES: u64 = 1 << 20;
/// Most blocks, as their checksums are part of the manifest.
const MAX_BLOCKS: usize = 4096;

/// Computes the checksums of the blocks of a stream of unknown length.
#[derive(Debug)]
pub struct BlockSums {
    block_bytes: u64,
    max_blocks: usize,
    whole: Vec<u32>,
    last: u32,
    last_bytes: u64,
}

impl Default for BlockSums {
    fn default() -> Self {
        Self::of(MIN_BLOCK_BYTES, MAX_BLOCKS)
    }
}

impl BlockSums {
    /// With blocks of that length, unless there would be more than `max_blocks`, which is even.
    pub fn of(block_bytes: u64, max_blocks: usize) -> Self {
        BlockSums { block_bytes, max_blocks, whole: Vec::new(), last: 0, last_bytes: 0 }
    }

    /// Adds bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.last_bytes == self.block_bytes {
                self.end_block();
            }
            let room = (self.block_bytes - self.last_bytes).min(bytes.len() as u64) as usize;
            let (head, tail) = bytes.split_at(room);
            self.last = crc32c::crc32c_append(self.last, head);
            self.last_bytes += room as u64;
            bytes = tail;
        }
    }

    /// The checksums of everything that was added.
    pub fn blocks(&self) -> Blocks {
        let last = (self.last_bytes > 0).then_some(self.last);
        Blocks { bytes: self.block_bytes, crc32c: self.whole.iter().copied().chain(last).collect() }
    }

    fn end_block(&mut self) {
        self.whole.push(self.last);
        (self.last, self.last_bytes) = (0, 0);
        if self.whole.len() < self.max_blocks {
            return;
        }
        // Their number is even, so all can be merged in pairs.
        let length = self.block_bytes as usize;
        let pairs = self.whole.chunks_exact(2);
        self.whole = pairs.map(|pair| crc32c::crc32c_combine(pair[0], pair[1], length)).collect();
        self.block_bytes *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_few_and_each_has_its_own_checksum() {
        let bytes: Vec<u8> = (0..1000_u32).map(|number| (number * 7 % 251) as u8).collect();
        for length in [0, 1, 9, 10, 11, 40, 41, 80, 81, 999, 1000] {
            for step in [1, 3, 10, 64, 1000] {
                let mut sums = BlockSums::of(10, 4);
                bytes[..length].chunks(step).for_each(|part| sums.add(part));
                let blocks = sums.blocks();
                let expected: Vec<u32> = bytes[..length].chunks(blocks.bytes as usize).map(crc32c::crc32c).collect();
                assert_eq!(blocks.crc32c, expected, "{length} bytes in steps of {step}");
                assert!(blocks.crc32c.len() <= 4, "{length} bytes: {}", blocks.crc32c.len());
            }
        }
    }
}
