//! Copies that are made of what was kept otherwise.

use std::fs;
use std::sync::Arc;

use super::harness_tests::{appends, directory, disks, install_at, members, segments, Copy};
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{Base, Checkpoint, CopyDisks, CopyDraft};
use crate::store::MediumError;

fn draft(disks: &CopyFiles, base: &Base) -> Result<Box<dyn CopyDraft>, MediumError> {
    CopyDisks::draft(disks, "s1", base)
}

/// What a copy is after `appends(2..last + 1, 1)`.
fn after(last: u64) -> Checkpoint {
    let mut position = install_at(1, 1, 100).base.position;
    for entry in appends(2..last + 1, 1) {
        position = position.after(&entry, position.end + 1000);
    }
    let state = b"the newest".as_slice().into();
    let (state_index, members) = (last, vec![(1, members())]);
    Checkpoint { position, revision: 7, epoch: 1, state, state_index, members }
}

#[test]
fn a_draft_is_a_copy_when_it_is_finished() {
    for text in [None, Some(format!("k1 01{}\n", "17".repeat(31)))] {
        let keys = text.map_or_else(Arc::default, |text| {
            let file = tempfile::NamedTempFile::new().expect("a file");
            fs::write(file.path(), text).expect("written");
            KeyRing::read(Some(file.path())).expect("keys")
        });
        let directory = directory();
        let disks = disks(directory.path(), &keys);
        let base = install_at(1, 1, 100).base;
        let mut made = draft(&disks, &base).expect("begun");
        made.append(&appends(2..30, 1)).expect("written");
        assert!(made.append(&appends(40..41, 1)).is_err(), "a gap");
        assert_eq!(disks.list().expect("listed"), [""; 0], "it is none yet");
        assert!(draft(&disks, &base).is_err(), "one at a time");
        drop(made);
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0, "nothing is left of it");

        let mut made = draft(&disks, &base).expect("begun again");
        made.append(&appends(2..30, 1)).expect("written");
        made.append(&appends(30..60, 1)).expect("written");
        made.finish(after(59)).expect("finished");
        assert_eq!(disks.list().expect("listed"), ["s1"]);
        assert!(draft(&disks, &base).is_err(), "there is a copy");
        let copy = Copy::open(&disks).expect("opened");
        assert_eq!((copy.found.last_index, &copy.found.base), (59, &base));
        assert_eq!((copy.found.checkpoint.clone(), copy.found.terms.clone()), (after(59), vec![(2, 1)]));
        assert_eq!(copy.entries(2, 60).expect("read"), appends(2..60, 1));
        assert!(segments(directory.path()).len() > 2);
        let plain = segments(directory.path()).iter().any(|path| {
            let (bytes, wanted) = (fs::read(path).expect("read"), appends(2..3, 1)[0].data.slice(25..125));
            bytes.windows(100).any(|window| window == wanted)
        });
        assert_eq!(plain, !keys.has_keys());
    }
}

#[test]
fn what_a_crash_left_of_a_draft_is_removed() {
    let (directory, keys) = (directory(), Arc::default());
    let disks_before = disks(directory.path(), &keys);
    let mut made = draft(&disks_before, &install_at(1, 1, 100).base).expect("begun");
    made.append(&appends(2..30, 1)).expect("written");
    assert_eq!(disks_before.list().expect("listed"), [""; 0]);
    assert!(directory.path().join(".draft-s1").is_dir(), "it is in the making");
    std::mem::forget(made);
    // The next process.
    let disks = disks(directory.path(), &keys);
    assert_eq!(disks.list().expect("listed"), [""; 0]);
    assert!(!directory.path().join(".draft-s1").exists());
    let made = draft(&disks, &install_at(1, 1, 100).base).expect("begun");
    made.finish(after(1)).expect("without an entry");
    assert_eq!(Copy::open(&disks).expect("opened").found.last_index, 1);
}
