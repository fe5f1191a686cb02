//! Three services that ask each other in one process, each with snapshots in a directory of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::snapshots::{Draft, SnapshotError};
use crate::store::Manifest;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Several parts, and a rest.
const BYTES: usize = (2 << 20) + 77;

/// The services, and which of them answer how many requests before they are gone.
#[derive(Default)]
struct Net {
    files: Mutex<BTreeMap<String, Arc<SnapshotFiles>>>,
    answers_left: Mutex<BTreeMap<String, usize>>,
    asked: AtomicUsize,
}

struct PeersOf {
    net: Arc<Net>,
    own: String,
}

impl FilePeers for PeersOf {
    fn ask<'a>(&'a self, peer: &'a str, request: Vec<u8>) -> Answer<'a, Result<Vec<u8>, String>> {
        Box::pin(async move {
            self.net.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(left) = lock(&self.net.answers_left).get_mut(peer) {
                *left = left.checked_sub(1).ok_or("its connection was lost")?;
            }
            let files = lock(&self.net.files).get(peer).cloned().ok_or("it is not connected")?;
            let own = self.own.clone();
            Ok(tokio::task::spawn_blocking(move || files.answer(&own, &request)).await.expect("answered"))
        })
    }

    fn names(&self) -> Vec<String> {
        NAMES.iter().filter(|name| **name != self.own).map(|&name| name.to_owned()).collect()
    }
}

struct Service {
    files: Arc<SnapshotFiles>,
    store: Arc<SnapshotStore>,
    directory: TempDir,
}

impl Service {
    fn stored(&self) -> Vec<String> {
        let mut names: Vec<_> = walk(&self.directory.path().join("snapshots"));
        names.sort();
        names
    }
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let name = |path: &std::path::Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![name(&path)] }).collect()
}

fn start() -> (Arc<Net>, Vec<Service>) {
    let net = Arc::<Net>::default();
    let service = |name: &str| {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Arc::new(SnapshotStore::open(None, directory.path()).expect("a directory"));
        let peers = Arc::new(PeersOf { net: net.clone(), own: name.to_owned() });
        let files = SnapshotFiles::new(store.clone(), peers);
        store.share_with(&(files.clone() as Arc<dyn OtherServices>));
        lock(&net.files).insert(name.to_owned(), files.clone());
        Service { files, store, directory }
    };
    let services = NAMES.iter().map(|name| service(name)).collect();
    (net, services)
}

fn manifest() -> Manifest {
    Manifest::new("s1", "r".repeat(40), "0a".to_owned())
}

/// Stores a snapshot at one service.
async fn store(service: &Service, offset: u64) -> SnapshotRecord {
    let mut draft = service.store.draft(&manifest(), offset).expect("a draft");
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at / 1000) as u8).collect();
    draft.write(&bytes).expect("written");
    let record = record_of(&draft);
    let stored = service.store.put(draft).await.expect("stored");
    SnapshotRecord { file: stored.file, ..record }
}

fn record_of(draft: &Draft) -> SnapshotRecord {
    SnapshotRecord {
        offset: draft.offset(),
        file: String::new(),
        bytes: draft.bytes(),
        crc32c: draft.crc32c(),
        blocks: Some(draft.blocks()),
        replid: "r".repeat(40),
        engine: None,
        time_ms: 1,
        contents: None,
        encrypt_key: None,
    }
}

fn path(service: &Service, record: &SnapshotRecord) -> std::path::PathBuf {
    service.directory.path().join("snapshots").join(&record.file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_not_here_is_fetched_and_is_the_same() {
    let (_net, services) = start();
    let record = store(&services[0], 42).await;
    let here = &services[2];
    assert!(!here.store.is_here(&record).await.expect("known"));
    let wanted = here.store.wanted();
    let error = here.store.get(&record).await.map(drop).expect_err("not here");
    assert!(matches!(error, SnapshotError::NotHere { .. }) && !error.is_of_one(), "{error}");
    assert!(wanted.has_changed().expect("the store is there"), "it is to be fetched now");
    let (one, other) = tokio::join!(here.store.fetch(&record), here.store.fetch(&record));
    one.and(other).expect("fetched");
    here.store.verify(&record).await.expect("the same");
    assert_eq!(here.stored(), services[0].stored(), "nothing is left beside it");
    assert!(services[1].stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_at_another_service_when_one_is_lost_in_the_middle() {
    let (net, services) = start();
    let record = store(&services[0], 42).await;
    services[1].store.fetch(&record).await.expect("fetched");
    lock(&net.answers_left).insert("a".to_owned(), 2);
    let before = net.asked.load(Ordering::Relaxed);
    services[2].store.fetch(&record).await.expect("fetched");
    services[2].store.verify(&record).await.expect("the same");
    let parts = (BYTES as u64).div_ceil(fetch::PART_BYTES) as usize;
    assert_eq!(net.asked.load(Ordering::Relaxed) - before, parts + 1, "nothing is fetched twice");

    // Nobody has it any more.
    std::fs::remove_file(path(&services[2], &record)).expect("removed");
    lock(&net.files).clear();
    let error = services[2].store.fetch(&record).await.expect_err("nobody has it").to_string();
    assert!(error.contains("a: its connection was lost") && error.contains("b: it is not connected"), "{error}");
    assert!(services[2].stored().is_empty(), "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_at_one_service_is_fetched_from_another_one() {
    let (_net, services) = start();
    let record = store(&services[0], 42).await;
    services[1].store.fetch(&record).await.expect("fetched");
    let mut bytes = std::fs::read(path(&services[0], &record)).expect("there");
    bytes[BYTES / 2] ^= 1;
    std::fs::write(path(&services[0], &record), &bytes).expect("damaged");
    services[2].store.fetch(&record).await.expect("fetched");
    services[2].store.verify(&record).await.expect("that of b");
    // The damaged one is replaced.
    services[0].store.verify(&record).await.expect_err("damaged");
    services[0].store.fetch(&record).await.expect("it is here");
    services[0].store.verify(&record).await.expect_err("still damaged");
    services[0].store.fetch_anew(&record, true).await.expect("fetched");
    services[0].store.verify(&record).await.expect("that of b");
    // Both are damaged.
    for service in &services[..2] {
        std::fs::write(path(service, &record), &bytes).expect("damaged");
    }
    std::fs::remove_file(path(&services[2], &record)).expect("removed");
    let error = services[2].store.fetch(&record).await.expect_err("damaged").to_string();
    assert!(error.contains("a: ") && error.contains("b: ") && error.contains("checksum"), "{error}");
    assert!(services[2].stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_at_two_services_when_it_was_spread() {
    let (net, services) = start();
    let record = store(&services[0], 42).await;
    lock(&net.files).remove("c");
    services[0].store.spread(&record).await.expect("b has it");
    services[1].store.verify(&record).await.expect("the same");
    lock(&net.files).remove("b");
    let error = services[0].store.spread(&record).await.expect_err("nobody is there").to_string();
    assert!(error.contains("must be at two") && error.contains("c: it is not connected"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_elsewhere_is_not_read() {
    let (_net, services) = start();
    std::fs::write(services[1].directory.path().join("SERVICE"), "secret").expect("written");
    for file in ["../SERVICE", "s1-0a/../../SERVICE", "SERVICE", ""] {
        let request = request::Request::Read { file: file.to_owned(), from: 0, bytes: 6 };
        let reply = services[0].files.ask("b", &request).await.expect("answered");
        assert!(matches!(&reply, request::Reply::Refused { reason, .. } if reason.contains("no name")), "{reply:?}");
    }
    let nonsense = services[1].files.answer("a", b"\xff");
    let reply = request::Reply::decode(nonsense).expect("a reply");
    assert!(matches!(reply, request::Reply::Refused { reason, .. } if reason.contains("this version")));
}

/// Makes a snapshot when it is told to.
struct Maker {
    go: tokio::sync::Semaphore,
    made: AtomicUsize,
}

impl MakesSnapshots for Maker {
    fn make<'a>(&'a self, shard: &'a str, least_end: u64) -> Answer<'a, Result<Made, NotMade>> {
        Box::pin(async move {
            self.made.fetch_add(1, Ordering::Relaxed);
            self.go.acquire().await.expect("open").forget();
            if shard == "none" {
                return Err(NotMade { reason: "nothing new".to_owned(), is_final: true });
            }
            let directory = tempfile::tempdir().expect("a directory");
            let store = SnapshotStore::open(None, directory.path()).expect("a directory");
            let record = record_of(&store.draft(&manifest(), least_end).expect("a draft"));
            Ok(Made { record, generation: 3 })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_makes_a_snapshot_once_however_often_it_is_asked() {
    let (_net, services) = start();
    let not_made = services[0].files.have_made("b", "s1", 7).await.map(drop).expect_err("nobody makes any");
    assert!(!not_made.is_final, "{not_made}");
    let maker = Arc::new(Maker { go: tokio::sync::Semaphore::new(0), made: AtomicUsize::new(0) });
    let made_by: Arc<dyn MakesSnapshots> = maker.clone();
    services[1].files.made_by(&made_by);
    let files = services[0].files.clone();
    let asking = tokio::spawn(async move { files.have_made("b", "s1", 7).await });
    let deadline = Instant::now() + Duration::from_secs(20);
    while maker.made.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "it was not asked");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let request = request::Request::Make { shard: "s1".to_owned(), least_end: 7 };
    assert_eq!(services[0].files.ask("b", &request).await, Ok(request::Reply::Underway(0)));
    maker.go.add_permits(1);
    let elsewhere = asking.await.expect("no panic").expect("made");
    assert_eq!((elsewhere.made.record.offset, elsewhere.made.generation, &*elsewhere.by), (7, 3, "b"));
    assert_eq!(maker.made.load(Ordering::Relaxed), 1);
    maker.go.add_permits(1);
    let not_made = services[0].files.have_made("b", "none", 7).await.map(drop).expect_err("nothing new");
    assert_eq!(not_made, NotMade { reason: "nothing new".to_owned(), is_final: true });
}
