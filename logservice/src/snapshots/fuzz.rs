//! Fuzzes the reader of snapshots: any index of blocks, as a manifest may be damaged or written by another version.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use super::blocks::BlockSums;
use super::in_use::InUse;
use super::reader::{Expected, SnapshotReader};
use crate::store::Blocks;

/// Most memory besides the block that is verified.
const MOST_BYTES: usize = 1 << 20;

#[test]
fn what_is_read_of_a_snapshot_is_what_was_stored_whatever_its_index_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let in_use = Arc::new(InUse::default());
    // What was stored, how the file changed since, and what the manifest says: the truth, unless another index or length is given. The
    // length is that of the file when it was opened.
    type Input = (Vec<u8>, Vec<(u16, u8)>, Option<u16>, Option<(u64, Vec<u32>)>, Option<u16>, bool);
    bolero::check!().with_type::<Input>().for_each(|(stored, changes, cut, index, bytes, has_index)| {
        let bytes = bytes.map(u64::from);
        let mut sums = BlockSums::of(7, 4);
        sums.add(stored);
        let blocks = match index {
            Some((bytes, crc32c)) => Blocks { bytes: *bytes, crc32c: crc32c.clone() },
            None => sums.blocks(),
        };
        let mut content = stored.clone();
        for (at, change) in changes.iter().filter(|_| !stored.is_empty()) {
            content[usize::from(*at) % stored.len()] ^= change;
        }
        content.truncate(cut.map_or(content.len(), usize::from));
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&content).expect("written");
        let again = |file: &File| {
            use std::io::Seek;
            let mut file = file.try_clone().expect("cloned");
            file.rewind().expect("rewound");
            file
        };
        let expected = Expected {
            file: "s1/0.rdb",
            bytes: bytes.unwrap_or(stored.len() as u64),
            crc32c: crc32c::crc32c(stored),
            blocks: has_index.then_some(&blocks),
            opener: None,
        };
        let is_of_it = blocks.fit(expected.bytes);
        let is_empty = expected.bytes == 0;
        let is_right = bytes.is_none_or(|bytes| bytes == stored.len() as u64) && (index.is_none() || !has_index);
        let mut reader = SnapshotReader::of_file(again(&file), expected, in_use.begin("s1/0.rdb"));
        let (read, ended) = allocation::within(MOST_BYTES + 8 * content.len(), || {
            runtime.block_on(async {
                let mut read = Vec::new();
                loop {
                    match reader.next().await {
                        Ok(Some(part)) => read.extend_from_slice(&part),
                        Ok(None) => return (read, true),
                        Err(error) => {
                            assert!(error.to_string().contains("s1/0.rdb"), "{error}");
                            return (read, false);
                        }
                    }
                }
            })
        });
        if is_right {
            assert_eq!(ended, content == *stored, "{} of {} bytes", read.len(), stored.len());
        }
        if ended && (is_right || !has_index) && bytes.is_none() {
            assert!(read == *stored, "other bytes were handed out");
        }
        if *has_index && index.is_none() {
            assert!(stored.starts_with(&read), "bytes of a damaged block were handed out");
        }
        if !is_empty && *has_index && !is_of_it {
            assert!(read.is_empty() && !ended, "it was read by an index that is not of it");
        }
    });
}
