//! The file store passes the conformance suite, with and without encryption.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

use super::format::{RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::fuzz::directory;
use super::segment::Segment;
use super::{lock, FileStore, FileStoreOptions, FileStores, Threads, MIN_SEGMENT_BYTES};
use crate::encryption::KeyRing;
use crate::store::conformance::{conformance_tests, Faulty, Subject};
use crate::store::{
    Listed, Manifest, MediumError, OpenError, Opened, RemoveError, RemovedStore, StoreEvents, StoreFactory,
};

struct FileSubject {
    directory: TempDir,
    stores: Arc<Tracked>,
}

/// Remembers the stores that it has opened.
struct Tracked {
    stores: FileStores,
    opened: Mutex<Vec<(String, Weak<FileStore>)>>,
}

impl StoreFactory for Tracked {
    fn list(&self) -> Result<Listed, MediumError> {
        StoreFactory::list(&self.stores)
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let (store, end) = FileStore::open(&self.stores.directory_of(shard), shard, &self.stores.options, events)?;
        let store = Arc::new(store);
        lock(&self.opened).push((shard.to_owned(), Arc::downgrade(&store)));
        Ok(Opened { store, end })
    }

    fn exists(&self, shard: &str) -> bool {
        self.stores.exists(shard)
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        self.stores.manifest(shard)
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        self.stores.remove(shard)
    }
}

impl FileSubject {
    fn new(max_log_bytes: Option<u64>, keys: Arc<KeyRing>) -> Self {
        let threads = Threads::start().expect("threads");
        let options = FileStoreOptions { segment_bytes: MIN_SEGMENT_BYTES, max_log_bytes, threads, keys };
        Self::over(directory(), options)
    }

    fn over(directory: TempDir, options: FileStoreOptions) -> Self {
        let stores = FileStores::new(&directory.path().join("shards"), options);
        let stores = Arc::new(Tracked { stores, opened: Mutex::default() });
        stores.list().expect("listed");
        FileSubject { directory, stores }
    }

    fn opened(&self, shard: &str) -> Vec<Arc<FileStore>> {
        let opened = lock(&self.stores.opened);
        let of_shard = opened.iter().filter(|(name, _)| shard.is_empty() || name == shard);
        of_shard.filter_map(|(_, store)| store.upgrade()).collect()
    }

    fn segments(&self, shard: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.stores.stores.directory_of(shard).join("log")).expect("listed");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        paths
    }
}

impl Subject for FileSubject {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        self.stores.clone()
    }

    /// The next process works on a copy of what the kernel has of the files between two writes.
    fn crash(&mut self) {
        let opened = self.opened("");
        let writers: Vec<_> = opened.iter().map(|store| lock(&store.shared.writer)).collect();
        let next = directory();
        copy(self.directory.path(), next.path());
        drop(writers);
        *self = Self::over(next, self.stores.stores.options.clone());
    }
}

impl Faulty for FileSubject {
    fn damage(&self, shard: &str, offset: u64) {
        for path in self.segments(shard) {
            let segment = Segment::open(&path, false).expect("readable").expect("a segment");
            let mut position = SEGMENT_HEADER_BYTES;
            let mut header = [0; RECORD_HEADER_BYTES];
            while segment.file.read_exact_at(&mut header, position).is_ok() {
                let Some(record) = segment.decode_record(&header) else { break };
                if (record.offset..record.end()).contains(&offset) {
                    return flip(&path, position + RECORD_HEADER_BYTES as u64 + offset - record.offset);
                }
                position += record.file_bytes() as u64;
            }
        }
        panic!("offset {offset} is nowhere");
    }

    /// Writes to a file that is open for reading only.
    fn fail_writes(&self, shard: &str, do_fail: bool) {
        for store in self.opened(shard).iter().filter(|_| do_fail) {
            let mut writer = lock(&store.shared.writer);
            let active = writer.active.as_mut().expect("a segment");
            let mut segment = Segment::open(&active.segment.path, false).expect("readable").expect("a segment");
            segment.unlock(&self.stores.stores.options.keys).expect("unlocked");
            active.segment = Arc::new(segment);
        }
    }

    /// A directory has the name of the file that is to become the next manifest.
    fn refuse_manifests(&self, shard: &str, are_refused: bool) {
        let partial = self.stores.stores.directory_of(shard).join("MANIFEST.partial");
        if are_refused {
            fs::create_dir(partial).expect("created");
        } else {
            fs::remove_dir(partial).expect("removed");
        }
    }

    fn key_id(&self) -> Option<&str> {
        self.stores.stores.options.keys.has_keys().then_some("k1")
    }
}

fn flip(path: &Path, position: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("read");
    file.write_all_at(&[byte[0] ^ 1], position).expect("written");
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("listed") {
        let (entry, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("entry");
        if entry.is_dir() {
            fs::create_dir(&to).expect("created");
            copy(&entry, &to);
        } else if let Err(error) = fs::copy(&entry, &to) {
            // A spare may be renamed meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

mod plain {
    use super::*;

    conformance_tests!(|bound| Box::new(FileSubject::new(bound, Arc::default())));
}

mod encrypted {
    use super::*;

    conformance_tests!(|bound| Box::new(FileSubject::new(bound, super::super::fuzz::keys())));
}
