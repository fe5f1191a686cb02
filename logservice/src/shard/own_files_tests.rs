//! A shard of several services, each with snapshots in a directory of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use durability_protocol::Code;

use crate::replica::memory_group::{MemoryGroup, MemoryGroups};
use crate::replica::store_factory::ReplicatedStores;
use crate::shard::{Held, Node, Origin, Shard, Switches};
use crate::snapshots::{Asked, OtherServices, SnapshotError, SnapshotStore};
use crate::store::{Manifest, SnapshotRecord, StoreFactory};

const REPLID: &str = "cccccccccccccccccccccccccccccccccccccccc";

/// The other services, which have what anybody has stored.
struct Others {
    store: Weak<SnapshotStore>,
    are_there: AtomicBool,
    spread: AtomicUsize,
}

fn away(record: &SnapshotRecord) -> SnapshotError {
    SnapshotError::NotFetched { file: record.file.clone(), reason: "nobody is there".to_owned() }
}

impl OtherServices for Others {
    fn fetch<'a>(&'a self, record: &'a SnapshotRecord, _is_damaged: bool) -> Asked<'a> {
        Box::pin(async move {
            let store = self.store.upgrade().filter(|_| self.are_there.load(Ordering::Relaxed));
            let store = store.ok_or_else(|| away(record))?;
            let mut incoming = store.incoming(record)?;
            incoming.write(&vec![b'x'; record.bytes as usize])?;
            store.keep(incoming).await.map(drop)
        })
    }

    fn spread<'a>(&'a self, record: &'a SnapshotRecord) -> Asked<'a> {
        Box::pin(async move {
            self.spread.fetch_add(1, Ordering::Relaxed);
            match self.are_there.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(SnapshotError::NotAtTwo { file: record.file.clone(), reason: "nobody".to_owned() }),
            }
        })
    }
}

struct Tested {
    shard: Shard,
    group: Arc<MemoryGroup>,
    others: Arc<Others>,
    directory: tempfile::TempDir,
    _groups: Arc<MemoryGroups>,
}

fn open(decides: bool) -> Tested {
    let groups = Arc::new(MemoryGroups::default());
    let group = groups.get_or_make("s1");
    if decides {
        group.lead(3);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let snapshots = Arc::new(SnapshotStore::open(None, directory.path()).expect("a directory"));
    let (are_there, spread) = (AtomicBool::new(false), AtomicUsize::new(0));
    let others = Arc::new(Others { store: Arc::downgrade(&snapshots), are_there, spread });
    snapshots.share_with(&(others.clone() as Arc<dyn OtherServices>));
    let stores = ReplicatedStores::new(groups.clone());
    let shard = Shard::open("s1", snapshots, Switches::new(1), |events| stores.open("s1", events)).expect("opens");
    Tested { shard, group, others, directory, _groups: groups }
}

/// What stands at `offset`, with so many bytes.
fn record(offset: u64, bytes: u64) -> SnapshotRecord {
    SnapshotRecord {
        offset,
        file: format!("s1-id-of-s1/{offset:020}-0000002a.rdb"),
        bytes,
        crc32c: crc32c::crc32c(&vec![b'x'; bytes as usize]),
        blocks: None,
        replid: REPLID.to_owned(),
        engine: None,
        time_ms: 1,
        contents: None,
        encrypt_key: None,
    }
}

impl Tested {
    /// Another service has recorded a snapshot, and moved the log's base to it.
    fn recorded(&self, offset: u64) {
        let manifest = self.shard.store().manifest().next();
        let next = Manifest { base: offset, snapshots: vec![record(offset, 1000)], ..manifest };
        self.group.receive_state(&next, None);
    }

    fn holds(&self, offset: u64) -> bool {
        self.shard.store().reader(offset).is_ok()
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("snapshots/s1-id-of-s1"));
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.into_iter().flatten().map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_is_dropped_and_older_snapshots_are_removed_only_once_the_newer_one_is_here() {
    let tested = open(false);
    let (shard, others) = (&tested.shard, &tested.others);
    for _ in 0..4 {
        tested.group.receive(vec![1; 100]);
    }
    tested.recorded(100);
    shard.follow_base(100).await;
    assert!(tested.holds(0), "the snapshot at 100 is not here");
    assert_eq!(shard.fetch_missing_snapshots().await, 1);
    assert_eq!(shard.status().snapshots_missing, 1);
    shard.follow_base(100).await;
    assert!(tested.holds(0));
    others.are_there.store(true, Ordering::Relaxed);
    assert_eq!(shard.fetch_missing_snapshots().await, 0);
    assert_eq!(shard.status().snapshots_missing, 0);
    shard.follow_base(100).await;
    assert!(!tested.holds(0) && tested.holds(100));

    // The next one is away for some time.
    others.are_there.store(false, Ordering::Relaxed);
    tested.recorded(300);
    assert_eq!(shard.fetch_missing_snapshots().await, 1);
    shard.follow_base(300).await;
    shard.remove_superseded_snapshots().await;
    assert!(tested.holds(100), "only the snapshot at 100 is here");
    assert_eq!(tested.files(), ["00000000000000000100-0000002a.rdb"]);
    others.are_there.store(true, Ordering::Relaxed);
    shard.fetch_missing_snapshots().await;
    // What another service is about to record stands above.
    shard.snapshots().fetch(&record(350, 10)).await.expect("stored");
    shard.follow_base(300).await;
    shard.remove_superseded_snapshots().await;
    assert!(!tested.holds(100) && tested.holds(300));
    assert_eq!(tested.files(), ["00000000000000000300-0000002a.rdb", "00000000000000000350-0000002a.rdb"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_copy_waits_for_a_snapshot_that_is_not_here() {
    let tested = open(false);
    tested.group.receive(vec![1; 100]);
    tested.recorded(100);
    let wanted = tested.shard.snapshots().wanted();
    let error = tested.shard.full_copy().await.map(drop).expect_err("not here").to_string();
    assert!(error.contains("is being fetched") && wanted.has_changed().expect("there"), "{error}");
    tested.others.are_there.store(true, Ordering::Relaxed);
    tested.shard.fetch_missing_snapshots().await;
    let copy = tested.shard.full_copy().await.expect("it is here");
    assert_eq!(copy.offset, 100);
    assert_eq!(tested.shard.status().snapshot_error, "", "the snapshot is as sound as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_and_a_snapshot_are_refused_as_long_as_no_other_service_has_them() {
    let tested = open(true);
    let shard = &tested.shard;
    let node = Node { node_id: "n1", address: "a:1", engine: None, process: None, databases: None };
    shard.acquire(node, Held { end: 0, replid: None, seen: None }, 3000).await.expect("it leads");
    let draft = |offset| {
        let mut draft = shard.snapshots().draft(&shard.store().manifest(), offset).expect("a draft");
        draft.write(b"data").expect("written");
        draft
    };
    let refusal = shard.install_seed(1, REPLID, draft(70)).await.expect_err("nobody has it");
    assert!(refusal.code == Code::Err && refusal.detail.contains("must be at two"), "{refusal}");
    assert!(shard.store().manifest().snapshots.is_empty(), "no state names it");
    tested.others.are_there.store(true, Ordering::Relaxed);
    shard.install_seed(1, REPLID, draft(70)).await.expect("another service has it");
    assert_eq!(shard.store().manifest().snapshots.len(), 1);

    tested.others.are_there.store(false, Ordering::Relaxed);
    shard.append(1, 70, vec![1; 20].into()).expect("accepted");
    assert!(shard.notifier().wait_durable(shard.accepted()).await);
    let origin = || Origin { replid: REPLID, engine: None, contents: None };
    let made_of = shard.store().manifest();
    shard.keep_snapshot(&made_of, draft(90), origin(), 1).await.expect_err("nobody has it");
    assert_eq!(shard.store().manifest().newest_snapshot().map(|newest| newest.offset), Some(70));
    tested.others.are_there.store(true, Ordering::Relaxed);
    shard.keep_snapshot(&made_of, draft(90), origin(), 1).await.expect("another service has it");
    assert_eq!(shard.store().manifest().newest_snapshot().map(|newest| newest.offset), Some(90));
    assert_eq!(tested.others.spread.load(Ordering::Relaxed), 4);
}
