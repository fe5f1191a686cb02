//! Bytes of a copy that are not what was written.

use std::fs;
use std::sync::Arc;

use raft::eraftpb::Entry;

use super::format::RECORD_HEADER_BYTES;
use super::harness_tests::{
    append, appends, change, directory, disks, install_at, made, records, segments, state, Copy,
};
use crate::replica::copy::{Checkpoint, Persist, Position};
use crate::store::{OpenError, ReadError};

#[test]
fn any_part_of_the_last_group_may_be_torn_and_nothing_before_it() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let entries: Vec<Entry> = (2..8).map(|index| append(index, 1, 100 + (index - 2) * 90, 90)).collect();
    copy.write(&entries[..2]);
    // One after the other, so that what is one group is certain.
    copy.write(&entries[2..]);
    drop(copy);
    let path = segments(directory.path()).pop().expect("a segment");
    let written = fs::read(&path).expect("read");
    let records = records(&path);
    assert_eq!(records.iter().map(|(_, header)| header.unsynced).collect::<Vec<_>>(), [0, 1, 0, 1, 2, 3]);
    for (number, (at, header)) in records.iter().enumerate() {
        for byte in *at..at + RECORD_HEADER_BYTES + header.stored_bytes() {
            fs::write(&path, &written).expect("written");
            change(&path, byte, |bytes| bytes[0] ^= 1);
            match Copy::open(&disks) {
                // The group before is damaged, which only damage explains.
                Err(OpenError::Damaged(_)) => assert!(number < 2, "byte {byte} of record {number}"),
                Err(error) => panic!("byte {byte}: {error}"),
                Ok(mut copy) => {
                    assert!(number >= 2, "byte {byte} of record {number}");
                    assert_eq!(copy.found.last_index, number as u64 + 1, "byte {byte}");
                    assert_eq!(copy.entries(2, number as u64 + 2).expect("read"), entries[..number]);
                    // Of what was cut nothing comes back.
                    copy.write(&[append(number as u64 + 2, 2, 100 + number as u64 * 90, 90)]);
                    drop(copy);
                    assert_eq!(Copy::open(&disks).expect("opened").found.last_index, number as u64 + 2);
                }
            }
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_found_in_the_background_and_by_who_reads_it() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..40, 1));
    drop(copy);
    let path = &segments(directory.path())[1];
    let (at, header) = records(path)[3];
    change(path, at + RECORD_HEADER_BYTES + 100, |bytes| bytes[0] ^= 1);
    let copy = Copy::open(&disks).expect("opened");
    let damage = copy.events.wait(|seen| seen.damaged.is_some()).damaged.expect("damaged");
    assert_eq!(damage.place, format!("{} at byte {at}", path.display()));
    let index = header.after.index;
    assert!(copy.entries(2, index).is_ok());
    assert!(matches!(copy.entries(2, index + 1), Err(ReadError::Damaged(_))));
}

#[test]
fn no_flip_in_an_older_segment_gives_wrong_entries() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    let entries = [appends(2..5, 1), appends(5..9, 2), vec![state(9, 2, None)], appends(9..25, 2)].concat();
    let entries: Vec<Entry> = entries.into_iter().zip(2..).map(|(entry, index)| Entry { index, ..entry }).collect();
    copy.write(&entries);
    drop(copy);
    let path = &segments(directory.path())[0];
    let (written, mut damaged) = (fs::read(path).expect("read"), 0);
    for at in (0..written.len()).step_by(13) {
        fs::write(path, &written).expect("written");
        change(path, at, |bytes| bytes[0] ^= 1 << (at % 8));
        match Copy::open(&disks).map(|copy| copy.entries(2, 26)) {
            Ok(Ok(read)) => assert_eq!(read, entries, "byte {at}"),
            Ok(Err(ReadError::Damaged(_))) | Err(OpenError::Damaged(_)) => damaged += 1,
            Ok(Err(error)) => panic!("byte {at}: {error}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
    }
    assert!(damaged > 10 * 1000 / 13, "all bytes of records count");
}

#[test]
fn a_copy_that_ends_before_its_checkpoint_is_damaged() {
    let (directory, keys) = (directory(), Arc::default());
    let disks = disks(directory.path(), &keys);
    let mut copy = made(&disks);
    copy.write(&appends(2..5, 1));
    let position = Position { index: 4, ..install_at(1, 1, 100).base.position };
    let checkpoint = Checkpoint { position, ..install_at(1, 1, 100).checkpoint };
    copy.disk.persist(Persist { checkpoint: Some(checkpoint.clone()), ..Persist::default() });
    drop(copy);
    assert_eq!(Copy::open(&disks).expect("opened").found.checkpoint, checkpoint, "closing writes it");
    let path = segments(directory.path()).pop().expect("a segment");
    let last = records(&path)[2].0;
    change(&path, last + RECORD_HEADER_BYTES, |bytes| bytes[0] ^= 1);
    let error = Copy::open(&disks).err().expect("refused").to_string();
    assert!(error.ends_with("the copy ends at index 3, but it was persisted up to 4 at least"), "{error}");
}
