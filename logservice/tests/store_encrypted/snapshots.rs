//! Snapshots that are encrypted.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use logservice::encryption::KeyRing;
use logservice::snapshots::{Draft, SnapshotError, SnapshotStore};
use logservice::store::{Manifest, SnapshotRecord};

use crate::common::pattern;
use crate::keys;
use crate::locked::ring;

/// More than a block.
const BYTES: usize = (3 << 20) + 12_345;

fn store(directory: &Path, keys: &Arc<KeyRing>) -> SnapshotStore {
    let plain = directory.join("memory");
    SnapshotStore::open(None, directory).expect("a directory").encrypted_with(keys.clone(), Some(&plain))
}

fn manifest() -> Manifest {
    Manifest::new("s1", "a".repeat(40), "b".repeat(16))
}

fn record(draft: &Draft, file: String) -> SnapshotRecord {
    SnapshotRecord {
        offset: draft.offset(),
        file,
        bytes: draft.bytes(),
        crc32c: draft.crc32c(),
        blocks: Some(draft.blocks()),
        replid: "a".repeat(40),
        engine: None,
        time_ms: 0,
        contents: None,
        encrypt_key: draft.encrypt_key().map(str::to_owned),
    }
}

async fn put(store: &SnapshotStore, draft: Draft) -> SnapshotRecord {
    let mut recorded = record(&draft, String::new());
    recorded.file = store.put(draft).await.expect("stored").file.clone();
    recorded
}

async fn read(store: &SnapshotStore, record: &SnapshotRecord) -> Result<Vec<u8>, SnapshotError> {
    let mut reader = store.get(record).await?;
    let mut out = Vec::new();
    while let Some(bytes) = reader.next().await? {
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

fn contains(directory: &Path, needle: &[u8]) -> bool {
    fs::read_dir(directory).expect("listed").any(|entry| {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => contains(&path, needle),
            false => fs::read(path).expect("read").windows(needle.len()).any(|part| part == needle),
        }
    })
}

#[tokio::test]
async fn a_snapshot_is_what_it_was_with_its_key_only() {
    let directory = tempfile::tempdir().expect("tempdir");
    let encrypted = store(directory.path(), &keys());
    let rdb = pattern(0, BYTES);
    let mut draft = encrypted.draft(&manifest(), 7).expect("a draft");
    rdb.chunks(100_001).for_each(|part| draft.write(part).expect("written"));
    assert!(draft.reader().is_err(), "it is not finished");
    draft.finish().expect("finished");
    let mut drafted = draft.reader().expect("a reader");
    assert!(drafted.next().await.expect("readable").is_some_and(|bytes| rdb.starts_with(&bytes)));
    let recorded = put(&encrypted, draft).await;
    assert_eq!((recorded.bytes, recorded.encrypt_key.as_deref()), (BYTES as u64, Some("k1")));
    assert!(read(&encrypted, &recorded).await.expect("readable") == rdb);
    encrypted.verify(&recorded).await.expect("sound");
    assert!(!contains(directory.path(), &rdb[..64]) && !contains(directory.path(), &rdb[BYTES - 64..]));

    for (other, reason) in [
        (Arc::default(), "no keys were given"),
        (ring(&[("k2", 1)]), "not in the key file"),
        (ring(&[("k1", 1)]), "not the one that it is encrypted with"),
    ] {
        let error = read(&store(directory.path(), &other), &recorded).await.expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(&recorded.file) && text.contains("'k1'") && text.contains(reason), "{text}");
        assert!(!error.is_of_one(), "it would be taken for damaged");
    }
    // Whether it is as it was stored is told without any key.
    let without = SnapshotStore::open(None, directory.path()).expect("a directory");
    without.verify(&recorded).await.expect("sound");
    let path = directory.path().join("snapshots").join(&recorded.file);
    let sound = fs::read(&path).expect("read");
    let mut damaged = sound.clone();
    damaged[BYTES / 2] ^= 1;
    fs::write(&path, &damaged).expect("written");
    for store in [&encrypted, &without] {
        assert!(matches!(store.verify(&recorded).await, Err(SnapshotError::Damaged { .. })));
    }
    // Somebody who can change the manifest as well.
    let mut forged = recorded.clone();
    let blocks = forged.blocks.as_mut().expect("blocks");
    blocks.crc32c = damaged.chunks(blocks.bytes as usize).map(crc32c::crc32c).collect();
    without.verify(&forged).await.expect("its checksums hold");
    let error = read(&encrypted, &forged).await.expect_err("changed");
    assert!(error.is_of_one() && error.to_string().contains("somebody has changed it"), "{error}");
    fs::write(&path, &sound[..sound.len() - 1]).expect("written");
    assert!(matches!(read(&encrypted, &recorded).await, Err(SnapshotError::WrongSize { .. })));
}

#[tokio::test]
async fn what_an_engine_has_saved_is_stored_encrypted_and_goes() {
    let directory = tempfile::tempdir().expect("tempdir");
    let encrypted = store(directory.path(), &keys());
    let place = encrypted.engine_directory(&manifest()).expect("a directory");
    assert!(place.starts_with(directory.path().join("memory")));
    let (saved, rdb) = (place.join("dump.rdb"), pattern(5, BYTES));
    fs::write(&saved, &rdb).expect("written");
    let draft = encrypted.adopt(&manifest(), 7, &saved).expect("adopted");
    assert!(!saved.exists() && draft.bytes() == BYTES as u64);
    let recorded = put(&encrypted, draft).await;
    assert!(read(&encrypted, &recorded).await.expect("readable") == rdb);
    assert!(!contains(directory.path(), &rdb[..64]));
    // What a crash has left there goes when the service starts.
    fs::write(&saved, &rdb).expect("written");
    encrypted.remove_unnamed_drafts().expect("removed");
    assert!(!saved.exists() && directory.path().join("memory").exists());
}

#[tokio::test]
async fn those_that_were_stored_before_are_read_and_a_manifest_says_which_build_can() {
    let directory = tempfile::tempdir().expect("tempdir");
    let plain = SnapshotStore::open(None, directory.path()).expect("a directory");
    let mut draft = plain.draft(&manifest(), 7).expect("a draft");
    draft.write(&pattern(0, 1000)).expect("written");
    let old = put(&plain, draft).await;
    let encrypted = store(directory.path(), &keys());
    assert!(read(&encrypted, &old).await.expect("readable") == pattern(0, 1000));
    let mut manifest = manifest();
    manifest.snapshots.push(old);
    assert_eq!(manifest.format_to_write(), 1);
    let mut draft = encrypted.draft(&manifest, 8).expect("a draft");
    draft.write(&pattern(0, 1000)).expect("written");
    draft.finish().expect("finished");
    manifest.snapshots.push(put(&encrypted, draft).await);
    assert_eq!(manifest.format_to_write(), 2, "an older build would give it to nodes as it is");
    let text = serde_json::to_vec(&manifest).expect("serialises");
    assert_eq!(Manifest::parse(&text), Ok(manifest));
}
