use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use logservice::snapshots::SnapshotStore;
use logservice::store::file_store::format::SEGMENT_HEADER_BYTES;
use logservice::tools::{check, dump};

use crate::harness::{overwrite, record_bytes, segments, Log};

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n\x00\"\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// A directory of a service, and in it the directory of the shard s1.
fn directories() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("tempdir");
    let shard = directory.path().join("shards/s1");
    fs::create_dir_all(&shard).expect("created");
    (directory, shard)
}

fn check(directory: &Path) -> (bool, String) {
    let mut out = Vec::new();
    let snapshots = SnapshotStore::open(None, directory).expect("a directory").encrypted_with(crate::keys(), None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let is_sound =
        runtime.block_on(check::check(directory, &snapshots, &crate::keys(), None, &mut out)).expect("checked");
    (is_sound, String::from_utf8(out).expect("text"))
}

fn dump(directory: &Path, from: u64, to: u64) -> Vec<String> {
    let mut out = Vec::new();
    dump::dump(directory, "s1", &crate::keys(), from..to, &mut out).expect("dumped");
    let text = String::from_utf8(out).expect("text");
    // Without the time.
    let line = |line: &str| {
        line.split(' ').enumerate().filter(|(at, _)| *at != 2).map(|(_, word)| word.to_owned() + " ").collect()
    };
    text.lines().map(line).map(|line: String| line.trim_end().to_owned()).collect()
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("listed") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).expect("read"));
        }
    }
    found
}

#[test]
fn a_sound_shard_is_told_with_its_offsets() {
    let (directory, shard) = directories();
    assert_eq!(check(directory.path()), (true, "shard s1: empty\n1 shards, all sound\n".to_owned()));
    let mut log = Log::open(&shard).expect("opens");
    log.append(1000);
    log.append(33);
    drop(log);
    let (is_sound, text) = check(directory.path());
    assert!(is_sound && text.starts_with("shard s1: sound: offsets 0 to 1033 in 1 segments, epoch 0,"), "{text}");
}

#[test]
fn damage_is_told_with_file_and_byte_and_a_torn_tail_is_not_damage() {
    let (directory, shard) = directories();
    let mut log = Log::open(&shard).expect("opens");
    for _ in 0..3 {
        log.append(100);
    }
    drop(log);
    let path = segments(&shard).remove(0);
    let record = |number: usize| SEGMENT_HEADER_BYTES + (number * record_bytes(100)) as u64;
    overwrite(&path, record(2) + 70, b"torn");
    let before = files(directory.path());
    let (is_sound, text) = check(directory.path());
    assert!(is_sound && text.contains("offsets 0 to 200 ") && text.contains("bytes of a torn record"), "{text}");
    overwrite(&path, record(1) + 70, b"gone");
    let (is_sound, text) = check(directory.path());
    let place = format!("{} at byte {}", path.display(), record(1));
    assert!(!is_sound && text.contains("shard s1: DAMAGED: ") && text.contains(&place), "{text}");
    overwrite(&path, record(1) + 70, &before[&path][record(1) as usize + 70..][..4]);
    assert!(files(directory.path()) == before, "looking has changed something");
}

#[test]
fn a_log_is_shown_as_commands_whatever_records_they_lie_in() {
    let (directory, shard) = directories();
    let mut log = Log::open(&shard).expect("opens");
    log.append_bytes(&[PING, &SET[..10]].concat());
    log.append_bytes(&SET[10..]);
    log.append_bytes(&[SET, PING].concat());
    // A command that is not complete yet.
    log.append_bytes(&SET[..9]);
    drop(log);
    let set = r#"e1 "SET" "a" "\x00\"""#;
    let ping = r#"e1 "PING""#;
    let all = [format!("0 {ping}"), format!("14 {set}"), format!("42 {set}"), format!("70 {ping}")];
    assert_eq!(dump(directory.path(), 0, u64::MAX), all);
    assert_eq!(dump(directory.path(), 1, 70), all[1..3]);
    assert_eq!(dump(directory.path(), 14, 14), [""; 0]);
}
