//! What is encrypted, without the key: refused, and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use logservice::encryption::KeyRing;
use logservice::snapshots::SnapshotStore;
use logservice::store::file_store::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::store::file_store::look::Look;
use logservice::store::file_store::{Threads, MIN_SEGMENT_BYTES};
use logservice::store::OpenError;
use logservice::tools::check;

use crate::harness::{overwrite, place, read_at, record_bytes, segments, Log};
use crate::keys;

pub fn open_with(directory: &Path, keys: &Arc<KeyRing>) -> Result<Log, OpenError> {
    Log::open_encrypted(directory, MIN_SEGMENT_BYTES, Threads::start().expect("threads"), keys.clone())
}

/// A key of that id.
pub fn ring(lines: &[(&str, u8)]) -> Arc<KeyRing> {
    let text: String = lines.iter().map(|(id, first)| format!("{id} {first:02x}{}\n", "6d".repeat(31))).collect();
    KeyRing::of_text(&text).expect("parses")
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("listed") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => found.append(&mut files(&path)),
            false => drop(found.insert(path.clone(), fs::read(&path).expect("read"))),
        }
    }
    found
}

#[test]
fn nothing_that_was_appended_can_be_read_on_the_disk() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    let secret = b"*3\r\n$3\r\nSET\r\n$6\r\nsecret\r\n$5\r\nvalue\r\n";
    log.append_bytes(secret);
    drop(log);
    let contains = |needle: &[u8]| {
        files(directory.path()).values().any(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
    };
    assert!(!contains(&secret[..8]) && !contains(b"secret") && !contains(b"value"));
    assert!(contains(b"VKDURLOG") && contains(b"k1\0"), "the wrong files were looked at");
}

#[test]
fn a_missing_or_wrong_key_is_refused_with_its_id_and_the_file_and_nothing_is_changed() {
    let directory = tempfile::tempdir().expect("tempdir");
    let shard = directory.path().join("shards/s1");
    fs::create_dir_all(&shard).expect("made");
    let mut log = Log::open(&shard).expect("opens");
    log.append(1000);
    log.append(500);
    drop(log);
    let path = segments(&shard).remove(0);
    // A torn tail is not cut either.
    let last = SEGMENT_HEADER_BYTES + record_bytes(1000) as u64;
    overwrite(&path, last + RECORD_HEADER_BYTES as u64, b"torn");
    let before = files(directory.path());
    let others = [
        (Arc::default(), "no keys were given: --encrypt-key-file"),
        (ring(&[("k2", 1)]), "is not in the key file"),
        (ring(&[("k1", 1)]), "is not the one that it is encrypted with"),
    ];
    for (other, reason) in others {
        let errors = [
            open_with(&shard, &other).map(|log| log.end).expect_err("refused"),
            Look::open(&shard, "s1", &other).map(|_| ()).expect_err("refused"),
        ];
        for error in errors {
            assert!(matches!(error, OpenError::Locked { .. }), "{error}");
            let text = error.to_string();
            assert!(text.starts_with(&path.display().to_string()) && text.contains("'k1'"), "{text}");
            assert!(text.contains(reason), "{text}");
        }
        // Whether it is as it was written is told without any key.
        let mut out = Vec::new();
        let snapshots = SnapshotStore::open(None, directory.path()).expect("a directory");
        let snapshots = snapshots.encrypted_with(other.clone(), None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let is_sound =
            runtime.block_on(check::check(directory.path(), &snapshots, &other, None, &mut out)).expect("checked");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(is_sound, !other.has_keys(), "{text}");
        let expected = match other.has_keys() {
            true => "NOT DECRYPTED",
            false => "encrypted with k1 (checksums verified, nothing decrypted: no --encrypt-key-file)",
        };
        assert!(text.contains(expected) && !text.contains("DAMAGED"), "{text}");
        assert!(files(directory.path()) == before, "something was changed");
    }
    let log = open_with(&shard, &keys()).expect("opens with the key");
    assert_eq!(log.end, 1000);
    log.assert_holds_pattern(0);
}

#[test]
fn what_somebody_has_changed_with_its_checksums_is_found_and_is_not_torn() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(100);
    drop(log);
    let path = segments(directory.path()).remove(0);
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let sound = read_at(&path, SEGMENT_HEADER_BYTES, record_bytes(100));
    let record = RecordHeader::decode(&sound, header.salt).expect("sound");
    let mut forged = sound.clone();
    forged[RECORD_HEADER_BYTES + 5] ^= 1;
    let stored = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + record.stored_bytes();
    let forgeries = [
        (forged.clone(), RecordHeader { payload_crc32c: crc32c::crc32c(&forged[stored]), ..record }),
        (sound.clone(), RecordHeader { epoch: record.epoch + 1, ..record }),
        (sound.clone(), RecordHeader { time_ms: record.time_ms + 1, ..record }),
    ];
    for (mut bytes, mut changed) in forgeries {
        changed.running_checksum = changed.checksum_after(0);
        bytes[..RECORD_HEADER_BYTES].copy_from_slice(&changed.encode(header.salt));
        overwrite(&path, SEGMENT_HEADER_BYTES, &bytes);
        match Log::open(directory.path()).map(|log| log.end) {
            Err(OpenError::Damaged(damage)) => {
                assert_eq!(damage.place, place(&path, SEGMENT_HEADER_BYTES));
                assert!(damage.reason.contains("somebody has changed it"), "{damage}");
            }
            other => panic!("{other:?}"),
        }
    }
    overwrite(&path, SEGMENT_HEADER_BYTES, &sound);
    // Another log's segment under this one's name.
    let mut moved = header.clone();
    moved.running_checksum ^= 1;
    overwrite(&path, 0, &moved.encode());
    assert!(matches!(Log::open(directory.path()).map(|log| log.end), Err(OpenError::Locked { .. })));
    overwrite(&path, 0, &header.encode());
    Log::open(directory.path()).expect("sound again").assert_holds_pattern(0);
}

/// The same nonce with other bytes would give both away.
#[test]
fn what_is_written_again_where_a_crash_has_torn_has_another_nonce() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut log = Log::open(directory.path()).expect("opens");
    log.append(100);
    drop(log);
    let path = segments(directory.path()).remove(0);
    let header = SegmentHeader::decode(&read_at(&path, 0, SEGMENT_HEADER_BYTES as usize)).expect("sound");
    let last = SEGMENT_HEADER_BYTES + record_bytes(100) as u64;
    let mut nonces = Vec::new();
    for round in 0..20 {
        let mut log = Log::open(directory.path()).expect("opens");
        assert_eq!(log.end, 100, "round {round}");
        log.append_bytes(&[round; 50]);
        drop(log);
        let record = RecordHeader::decode(&read_at(&path, last, RECORD_HEADER_BYTES), header.salt).expect("sound");
        nonces.push(record.nonce.expect("encrypted"));
        overwrite(&path, last + RECORD_HEADER_BYTES as u64 + 7, b"torn");
    }
    let count = nonces.len();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), count);
}
