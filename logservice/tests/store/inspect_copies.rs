//! Copies of logs that several services keep, as the tools find them: a shard that was dropped and made again lies in a directory of another
//! name.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use logservice::replica::copy::{Base, Checkpoint, CopyDisks, CopyEvents, Install, Persist, Position};
use logservice::replica::copy_files::CopyFiles;
use logservice::replica::entry::AppendEntry;
use logservice::snapshots::SnapshotStore;
use logservice::store::file_store::{FileStoreOptions, Threads, MIN_SEGMENT_BYTES};
use logservice::store::{Damage, Manifest};
use logservice::tools::{check, dump};
use raft::eraftpb::{ConfState, Entry};

struct Quiet;

impl CopyEvents for Quiet {
    fn persisted(&self, _number: u64) {}

    fn failed(&self, reason: &str) {
        panic!("{reason}");
    }

    fn damaged(&self, damage: &Damage) {
        panic!("{damage}");
    }
}

/// Makes the copy of a group of the shard s1, with one command in it.
fn make(directory: &Path, group: &str, command: &'static str) {
    let (threads, keys) = (Threads::start().expect("threads"), crate::keys());
    let options = FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes: None, threads, keys };
    let disks = CopyFiles::new(&directory.join("replicas"), options);
    let manifest = Manifest::new("s1", "r".repeat(40), group.replace('#', "-"));
    let state = Bytes::from(serde_json::to_vec(&manifest).expect("json"));
    let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
    let position = Position { index: 1, term: 1, ..Position::default() };
    let checkpoint =
        Checkpoint { position, state, state_index: 1, members: vec![(1, members.clone())], ..Checkpoint::default() };
    disks.create(group, &Install { base: Base { position, members }, checkpoint }).expect("made");
    let disk = disks.open(group, Arc::new(Quiet)).expect("opened").expect("it is there").disk;
    let data = AppendEntry::encode(0, 0, 7, &[Bytes::from_static(command.as_bytes())]);
    let entry = Entry { index: 2, term: 1, data, ..Entry::default() };
    disk.persist(Persist { number: 1, entries: vec![entry], ..Persist::default() });
    disk.close();
}

fn check(directory: &Path, only: Option<&str>) -> String {
    let mut out = Vec::new();
    let snapshots = SnapshotStore::open(None, directory).expect("a directory").encrypted_with(crate::keys(), None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let checked = runtime.block_on(check::check(directory, &snapshots, &crate::keys(), only, &mut out));
    assert!(checked.expect("checked"), "all is sound");
    String::from_utf8(out).expect("text")
}

fn dump(directory: &Path, shard: &str) -> String {
    let mut out = Vec::new();
    dump::dump(directory, shard, &crate::keys(), 0..u64::MAX, &mut out).expect("dumped");
    String::from_utf8(out).expect("text")
}

#[test]
fn a_shard_that_was_dropped_and_made_again_is_found() {
    let directory = tempfile::tempdir().expect("tempdir");
    make(directory.path(), "s1#2", "*1\r\n$6\r\nSECOND\r\n");
    assert_eq!(dump(directory.path(), "s1"), "0 e0 7 \"SECOND\"\n");
    make(directory.path(), "s1", "*1\r\n$5\r\nFIRST\r\n");
    make(directory.path(), "s1#10", "*1\r\n$5\r\nTHIRD\r\n");
    make(directory.path(), "s2#3", "*1\r\n$5\r\nOTHER\r\n");
    assert_eq!(dump(directory.path(), "s1"), "0 e0 7 \"THIRD\"\n", "the one that was made last");
    assert_eq!(dump(directory.path(), "s1#2"), "0 e0 7 \"SECOND\"\n", "or the one that is named");
    let text = check(directory.path(), None);
    for line in [
        "copy of shard s1: sound",
        "copy of shard s1 in replicas/s1#10: sound",
        "copy of shard s2 in replicas/s2#3: sound",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("4 shards, all sound\n"), "{text}");
    let text = check(directory.path(), Some("s1"));
    assert!(text.ends_with("3 shards, all sound\n") && text.contains("s1#2: sound"), "{text}");
    let text = check(directory.path(), Some("s1#10"));
    assert!(text.ends_with("1 shards, all sound\n") && text.contains("s1#10: sound"), "{text}");
}

#[test]
fn what_is_not_named_as_a_log_is_told() {
    let directory = tempfile::tempdir().expect("tempdir");
    make(directory.path(), "s1", "*1\r\n$5\r\nFIRST\r\n");
    fs::create_dir_all(directory.path().join("replicas/s1#02")).expect("created");
    fs::create_dir_all(directory.path().join("shards/no name")).expect("created");
    let text = check(directory.path(), None);
    assert!(text.contains("replicas/s1#02: passed over") && text.contains("shards/no name: passed over"), "{text}");
    assert!(text.ends_with("1 shards, all sound\n"), "{text}");
}
