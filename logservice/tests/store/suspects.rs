//! Snapshots that could not be read for a while, and what the next snapshot makes of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use logservice::shard::{CopyError, Held, Node, Origin, Shard, Submitted, Switches};
use logservice::snapshots::{Draft, SnapshotStore};
use logservice::store::file_store::{self, FileStoreOptions, Threads, MIN_SEGMENT_BYTES};

use crate::common::pattern;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const KEEP: usize = 3;

struct Seeded {
    directory: tempfile::TempDir,
    shard: Shard,
}

impl Seeded {
    /// A shard with a seed at 100, log up to 400, and a snapshot at 200.
    async fn begin() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let snapshots =
            SnapshotStore::open(None, directory.path()).expect("a directory").encrypted_with(crate::keys(), None);
        let (segment_bytes, threads) = (MIN_SEGMENT_BYTES, Threads::start().expect("threads"));
        let options = FileStoreOptions { segment_bytes, max_log_bytes: None, threads, keys: crate::keys() };
        let shard = Shard::open("s1", snapshots.into(), Switches::new(1), |events| {
            file_store::open(&directory.path().join("shard"), "s1", &options, events)
        });
        let seeded = Seeded { directory, shard: shard.expect("opens") };
        let node = Node { node_id: "n1", address: "host:1", engine: None, process: None, databases: None };
        let (epoch, _) = seeded.shard.acquire(node, Held { end: 0, replid: None, seen: None }, 0).await.expect("leads");
        let seed = seeded.draft(100);
        seeded.shard.install_seed(epoch, A, seed).await.expect("installed");
        seeded.shard.remove_all_other_snapshots().await;
        let appended = seeded.shard.append(epoch, 100, Bytes::from(pattern(100, 300)));
        assert!(matches!(appended.expect("admitted"), Submitted::Accepted(_)));
        seeded.snapshot(200).await;
        seeded
    }

    fn draft(&self, offset: u64) -> Draft {
        let mut draft = self.shard.snapshots().draft(&self.shard.store().manifest(), offset).expect("a draft");
        draft.write(&pattern(offset, 1000)).expect("written");
        draft.finish().expect("finished");
        draft
    }

    async fn snapshot(&self, offset: u64) {
        let made_of = self.shard.store().manifest();
        let origin = Origin { replid: A, engine: None, contents: None };
        self.shard.keep_snapshot(&made_of, self.draft(offset), origin, KEEP).await.expect("recorded");
    }

    /// Where the log begins, and where its snapshots stand.
    fn kept(&self) -> (u64, Vec<u64>) {
        let manifest = self.shard.store().manifest();
        (manifest.base, manifest.snapshots.iter().map(|record| record.offset).collect())
    }

    fn place(&self) -> PathBuf {
        self.directory.path().join("snapshots")
    }

    /// The recorded files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let manifest = self.shard.store().manifest();
        manifest.snapshots.iter().map(|record| self.place().join(&record.file)).collect()
    }
}

fn damage(file: &Path) {
    let mut bytes = std::fs::read(file).expect("read");
    bytes[500] ^= 1;
    std::fs::write(file, bytes).expect("written");
}

#[tokio::test]
async fn a_snapshot_that_can_be_read_again_is_not_dropped() {
    let seeded = Seeded::begin().await;
    let away = seeded.directory.path().join("away");
    std::fs::rename(seeded.place(), &away).expect("renamed");
    assert!(matches!(seeded.shard.full_copy().await, Err(CopyError::Unreadable(_))));
    std::fs::rename(&away, seeded.place()).expect("renamed");
    assert_eq!(seeded.shard.full_copy().await.expect("a copy").offset, 200, "the seed is not looked at");
    seeded.snapshot(300).await;
    assert_eq!(seeded.kept(), (100, vec![100, 200, 300]));
    assert!(seeded.files().iter().all(|file| file.is_file()));
    seeded.snapshot(400).await;
    assert_eq!(seeded.kept(), (200, vec![200, 300, 400]));
}

#[tokio::test]
async fn a_log_that_began_with_a_seed_never_looks_as_if_it_had_begun_without_data() {
    let seeded = Seeded::begin().await;
    seeded.files().iter().for_each(|file| damage(file));
    let sound = std::fs::read(&seeded.files()[1]).expect("read");
    assert!(matches!(seeded.shard.full_copy().await, Err(CopyError::Unreadable(_))));
    let mut mended = sound;
    mended[500] ^= 1;
    std::fs::write(&seeded.files()[1], mended).expect("written");
    seeded.snapshot(300).await;
    assert_eq!(seeded.kept(), (200, vec![200, 300]), "there is nothing before 200 that the log could go on from");
    seeded.files().iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
    match seeded.shard.full_copy().await {
        Ok(copy) => panic!("a copy at {} of {:?}", copy.offset, copy.snapshot.map(|(record, _)| record)),
        Err(error) => assert!(matches!(error, CopyError::Unreadable(_)), "{error}"),
    }
}
