//! Logs of real files on their way into an archive in memory.

use std::path::PathBuf;

use object_store::memory::InMemory;
use object_store::ObjectStore;

use super::*;
use crate::archive::ArchiveOptions;
use crate::encryption::KeyRing;
use crate::shard::{Held, Node, Origin, Switches};
use crate::snapshots::SnapshotStore;
use crate::store::{LogReader, StoreFactory, StoreOptions};

const REPLID: &str = "cccccccccccccccccccccccccccccccccccccccc";

struct Tested {
    directory: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
    shard: Arc<Shard>,
    keys: Arc<KeyRing>,
    max_unarchived_bytes: u64,
}

fn open(
    directory: &std::path::Path,
    objects: &Arc<dyn ObjectStore>,
    keys: &Arc<KeyRing>,
    max_unarchived_bytes: u64,
) -> Arc<Shard> {
    let options =
        StoreOptions { directory: directory.to_owned(), segment_mb: 1, max_log_bytes: None, keys: keys.clone() };
    let stores: Arc<dyn StoreFactory> = options.factory().expect("threads");
    let drafts: PathBuf = directory.join("drafts");
    let snapshots = Arc::new(SnapshotStore::over(objects.clone(), drafts).encrypted_with(keys.clone(), None));
    let mut shard = Shard::open("s1", snapshots, Switches::new(1), |events| stores.open("s1", events)).expect("opens");
    shard.keep_archived(ArchiveOptions { keep: Duration::from_secs(3600), max_unarchived_bytes });
    Arc::new(shard)
}

impl Tested {
    async fn new(keys: Arc<KeyRing>, max_unarchived_bytes: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = open(directory.path(), &objects, &keys, max_unarchived_bytes);
        let tested = Tested { directory, objects, shard, keys, max_unarchived_bytes };
        let node = Node { node_id: "n1", address: "a:1", engine: None, process: None, databases: None };
        tested.shard.acquire(node, Held { end: 0, replid: None, seen: None }, 3_600_000).await.expect("it leads");
        tested.shard.begin(1, REPLID, 0).await.expect("it writes");
        tested
    }

    fn archiver(&self) -> LogArchiver {
        let watch = self.shard.archive().expect("it is archived").clone();
        LogArchiver::new(self.shard.clone(), watch, Arc::new(Semaphore::new(1)), 1)
    }

    fn archive(&self) -> Archive {
        Archive::new(self.shard.snapshots().clone(), place(&self.shard.store().manifest()))
    }

    async fn append(&self, bytes: usize) {
        let offset = self.shard.notifier().durable();
        self.shard.append(1, offset, pattern(offset, bytes).into()).expect("accepted");
        assert!(self.shard.notifier().wait_durable(self.shard.accepted()).await);
    }

    async fn snapshot(&self) -> u64 {
        let (manifest, offset) = (self.shard.store().manifest(), self.shard.notifier().durable());
        let mut draft = self.shard.snapshots().draft(&manifest, offset).expect("a draft");
        draft.write(b"data").expect("written");
        draft.finish().expect("finished");
        let origin = Origin { replid: REPLID, engine: None, contents: None };
        self.shard.keep_snapshot(&manifest, draft, origin, 1).await.expect("kept");
        offset
    }

    /// What the archive holds of the log of a generation from `start` on.
    async fn archived(&self, generation: u64, start: u64) -> Vec<u8> {
        let archive = self.archive();
        let pieces: Vec<_> = archive
            .pieces(None)
            .await
            .expect("listed")
            .into_iter()
            .filter(|piece| piece.generation == generation)
            .collect();
        let end = covered_from(&pieces, generation, start);
        let mut reader = crate::archive::PieceReader::new(archive, pieces, start);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            while reader.offset() < end {
                bytes.extend_from_slice(&reader.read(end, 1 << 20).expect("sound"));
            }
            bytes
        });
        read.await.expect("read")
    }

    fn offsets(&self) -> (u64, Vec<u64>) {
        let manifest = self.shard.store().manifest();
        (manifest.base, manifest.snapshots.iter().map(|record| record.offset).collect())
    }

    /// As after a crash, or where another service begins to decide.
    fn reopen(&mut self) {
        self.shard.store().close();
        self.shard = open(self.directory.path(), &self.objects, &self.keys, self.max_unarchived_bytes);
    }
}

fn pattern(offset: u64, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[tokio::test]
async fn all_that_is_durable_is_archived_and_only_then_log_and_snapshots_are_given_up() {
    let keys = KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("keys");
    for keys in [Arc::default(), keys] {
        let mut tested = Tested::new(keys, u64::MAX).await;
        tested.append(100).await;
        let first = tested.snapshot().await;
        tested.append(50).await;
        let second = tested.snapshot().await;
        // Nothing is archived: all is kept.
        assert_eq!(tested.offsets(), (0, vec![first, second]));
        let mut archiver = tested.archiver();
        archiver.step(true).await.expect("archived");
        assert_eq!(tested.offsets(), (second, vec![second]));
        assert_eq!(tested.archived(0, 0).await, pattern(0, 150));
        let archive = tested.archive();
        let snapshots = archive.snapshots().await.expect("listed");
        assert_eq!(
            snapshots.iter().map(|name| (name.offset, name.number.is_some())).collect::<Vec<_>>(),
            [(0, false), (first, true), (second, true)]
        );
        // What the manifest has forgotten can be read for as long as the archive has it.
        tested.shard.remove_all_other_snapshots().await;
        let kept = archive.snapshot(&snapshots[1]).await.expect("there").record.expect("a snapshot");
        tested.shard.snapshots().verify(&kept).await.expect("sound");
        // More than a piece, cut by another service at other places.
        tested.append(700_000).await;
        tested.reopen();
        let mut archiver = tested.archiver();
        archiver.step(false).await.expect("nothing is due");
        assert_eq!(tested.archived(0, 0).await.len(), 150);
        archiver.step(true).await.expect("archived");
        assert_eq!(tested.archived(0, 0).await, pattern(0, 700_150));
        assert_eq!(tested.archived(0, first).await.len() as u64, 700_150 - first);
    }
}

#[tokio::test]
async fn a_log_that_is_begun_anew_is_archived_beside_the_one_before() {
    let tested = Tested::new(Arc::default(), u64::MAX).await;
    tested.append(100).await;
    let mut archiver = tested.archiver();
    archiver.step(true).await.expect("archived");
    let mut draft = tested.shard.snapshots().draft(&tested.shard.store().manifest(), 100).expect("a draft");
    draft.write(b"seed").expect("written");
    tested.shard.install_seed(1, REPLID, draft).await.expect("installed");
    tested.append(30).await;
    archiver.step(true).await.expect("archived");
    assert_eq!(tested.archived(0, 0).await, pattern(0, 100));
    assert_eq!(tested.archived(1, 100).await, pattern(100, 30));
    let snapshots = tested.archive().snapshots().await.expect("listed");
    assert_eq!(snapshots.iter().map(|name| (name.generation, name.offset)).collect::<Vec<_>>(), [(0, 0), (1, 100)]);
}

#[tokio::test]
async fn log_that_waits_for_too_long_is_given_up_and_that_is_told() {
    let tested = Tested::new(Arc::default(), 1 << 20).await;
    tested.append(10).await;
    let mut archiver = tested.archiver();
    archiver.step(true).await.expect("archived");
    // More than a segment, so that it can be dropped.
    for _ in 0..30 {
        tested.append(100_000).await;
    }
    let at = tested.snapshot().await;
    assert_eq!(tested.offsets(), (at, vec![at]));
    tested.append(20).await;
    archiver.step(true).await.expect("archived");
    assert_eq!(tested.shard.status().archive.map(|status| (status.gaps, status.end)), Some((1, at as i64 + 20)));
    assert_eq!(tested.archived(0, 0).await, pattern(0, 10));
    assert_eq!(tested.archived(0, at).await, pattern(at, 20));
}

#[tokio::test]
async fn an_archive_of_another_log_is_not_touched() {
    let mut tested = Tested::new(Arc::default(), u64::MAX).await;
    let older = tempfile::tempdir().expect("a directory");
    tested.append(100).await;
    tested.shard.store().close();
    copy(tested.directory.path(), older.path());
    tested.reopen();
    tested.append(40).await;
    tested.archiver().step(true).await.expect("archived");
    let pieces = tested.archive().pieces(None).await.expect("listed");
    // The copy lacks what was archived since, and then goes on otherwise.
    let mut other =
        Tested { shard: open(older.path(), &tested.objects, &tested.keys, u64::MAX), directory: older, ..tested };
    let mut archiver = LogArchiver { known_within: Duration::from_millis(50), ..other.archiver() };
    let error = archiver.step(true).await.expect_err("it is behind").to_string();
    assert!(error.contains("reaches to offset 140, and this log only to 100"), "{error}");
    other.shard.append(1, 100, vec![7; 60].into()).expect("accepted");
    assert!(other.shard.notifier().wait_durable(other.shard.accepted()).await);
    let error = other.archiver().step(true).await.expect_err("it is another one").to_string();
    assert!(error.contains("the archive has another log than this"), "{error}");
    assert_eq!(other.archive().pieces(None).await.expect("listed"), pieces);
    other.reopen();
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("listed") {
        let (path, to) = (entry.as_ref().expect("an entry").path(), to.join(entry.expect("an entry").file_name()));
        match path.is_dir() {
            true => {
                std::fs::create_dir_all(&to).expect("made");
                copy(&path, &to);
            }
            false => drop(std::fs::copy(&path, &to).expect("copied")),
        }
    }
}

#[tokio::test]
async fn what_is_older_than_is_kept_goes_but_for_what_younger_moments_need() {
    let mut tested = Tested::new(Arc::default(), u64::MAX).await;
    let mut archiver = tested.archiver();
    for _ in 0..4 {
        tested.append(100).await;
        tested.snapshot().await;
        archiver.step(true).await.expect("archived");
    }
    // As if the first three were recorded two hours ago.
    let archive = tested.archive();
    for name in archive.snapshots().await.expect("listed").iter().filter(|name| name.offset < 400) {
        let snapshot = archive.snapshot(name).await.expect("there");
        let aged = ArchivedSnapshot { time_ms: snapshot.time_ms - 7_200_000, ..snapshot };
        archive.remove_snapshot(name).await.expect("removed");
        archive.put_snapshot(&aged.name().expect("a name"), &aged).await.expect("stored");
    }
    tested.reopen();
    tested.archiver().step(true).await.expect("removed");
    let left = archive.snapshots().await.expect("listed");
    assert_eq!(left.iter().map(|name| name.offset).collect::<Vec<_>>(), [300, 400]);
    let pieces = archive.pieces(None).await.expect("listed");
    assert_eq!(pieces.iter().map(|piece| (piece.start, piece.end)).collect::<Vec<_>>(), [(300, 400)]);
    let files = left.iter().filter_map(|name| name.file(archive.place()));
    let found: Vec<_> = list(&tested.objects).await.into_iter().filter(|name| name.ends_with(".rdb")).collect();
    assert_eq!(found, files.collect::<Vec<_>>());
}

async fn list(objects: &Arc<dyn ObjectStore>) -> Vec<String> {
    use futures_util::TryStreamExt;
    let mut names: Vec<_> =
        objects.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("listed");
    names.sort();
    names
}
