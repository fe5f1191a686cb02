//! The shards of one directory.

mod removal;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use durability_protocol::{is_valid_name, Code, Refusal};
use rustix::fs::FlockOperation;
use tokio::sync::{broadcast, mpsc, oneshot, watch, Semaphore};

use crate::audit::Report;
use crate::guesses::Guesses;
use crate::pass::TokensWatch;
use crate::private;
use crate::shard::{AuditStatus, LogState, Shard, Status, Switch, Switches};
use crate::snapshots::SnapshotStore;
use crate::snapshotter::{Request, Work};
use crate::store::file_store::remove::is_set_aside;
use crate::store::file_store::{self, FileStoreOptions};
use crate::store::{FileError, OpenError, SnapshotRecord};
use crate::tokens::Tokens;

/// Changes of primaries, of all shards together, by which one who listens may be behind.
const MAX_SWITCHES: usize = 1024;

/// Shards that are opened at a time when the service starts.
const OPENED_AT_A_TIME: usize = 32;

/// Shards of which left-over snapshots are looked for at a time.
const CLEANED_AT_A_TIME: usize = 4;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("{} is in use by another logservice: it holds the lock on {}; stop that one or choose another --dir", directory.display(), lock.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// What a crash has left cannot be removed.
    #[error(transparent)]
    LeftOver(#[from] FileError),
    /// It cannot be created or written.
    #[error("cannot write in {}: {source}; choose a --dir that this user can write", directory.display())]
    NotWritable {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a service is made of.
pub struct ServiceOptions {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// How shards are stored.
    pub store: FileStoreOptions,
    /// Where snapshots are kept.
    pub snapshots: Arc<SnapshotStore>,
    /// Who makes them.
    pub snapshot_requests: mpsc::Sender<Request>,
    /// The most shards that may exist.
    pub max_shards: usize,
    /// Whether `LOG.DEBUG` is allowed.
    pub debug_command: bool,
    /// Where leaders send snapshots, on the address by which they reach this service.
    pub http_port: u16,
}

/// All shards of a directory, opened when it is, or made by their first nodes.
pub struct Service {
    options: ServiceOptions,
    tokens: Option<watch::Sender<Arc<Tokens>>>,
    guesses: Guesses,
    shards: Mutex<BTreeMap<String, Arc<Slot>>>,
    switches: Switches,
    /// Who looks for left-over snapshots.
    cleaning: Arc<Semaphore>,
    /// Held while a shard is dropped.
    dropping: tokio::sync::Mutex<()>,
    _lock: File,
}

/// A shard, once it is open, or why it is not served.
type Slot = OnceLock<Result<Arc<Shard>, Unserved>>;

/// A shard that is not served.
#[derive(Debug, Clone)]
struct Unserved {
    reason: String,
    /// Empty if the manifest cannot be read.
    log_id: String,
    /// Nobody knows whether it is dropped.
    is_in_doubt: bool,
    /// Nothing is known to be wrong with it, but a key is missing.
    is_locked: bool,
}

impl Unserved {
    fn new(reason: String, log_id: String) -> Self {
        Unserved { reason, log_id, is_in_doubt: false, is_locked: false }
    }
}

impl Service {
    /// Takes the directory for this process and opens the shards in it. Without tokens everybody may use every shard.
    /// Blocks while the ends of logs are verified.
    pub fn open(options: ServiceOptions, tokens: Option<Tokens>) -> Result<Arc<Self>, DirectoryError> {
        let directory = options.directory.clone();
        let not_writable = |source| DirectoryError::NotWritable { directory: directory.clone(), source };
        let shards = directory.join("shards");
        std::fs::create_dir_all(&shards).map_err(not_writable)?;
        let lock = take_lock(&directory)?;
        for kept in ["shards", "snapshots", "drafts"] {
            private::take_back(&directory.join(kept)).map_err(not_writable)?;
        }
        file_store::files::sync_directory(&directory).map_err(|error| not_writable(error.source))?;
        // Only now: until the lock is held they may be another service's.
        options.snapshots.remove_unnamed_drafts()?;
        let (mut names, mut dropped) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&shards).map_err(not_writable)? {
            let entry = entry.map_err(not_writable)?;
            match entry.file_name().into_string() {
                Ok(name) if is_valid_name(&name) => names.push(name),
                Ok(name) if is_set_aside(&name) => dropped.push(entry.path()),
                _ => {}
            }
        }
        let slots = names.iter().map(|name| (name.clone(), Arc::new(Slot::new()))).collect();
        let switches = Switches::new(MAX_SWITCHES);
        let tokens = tokens.map(|tokens| watch::Sender::new(Arc::new(tokens)));
        let cleaning = Arc::new(Semaphore::new(CLEANED_AT_A_TIME));
        let (shards, dropping, guesses) = (Mutex::new(slots), tokio::sync::Mutex::default(), Guesses::default());
        let service = Arc::new(Service { options, tokens, guesses, shards, switches, cleaning, dropping, _lock: lock });
        service.open_all(&names);
        dropped.into_iter().for_each(|path| service.finish_drop(path, Weak::new()));
        Ok(service)
    }

    /// Opens shards side by side: each waits for the disk several times. Must run within the runtime if there is any.
    fn open_all(&self, names: &[String]) {
        if names.is_empty() {
            return;
        }
        let runtime = tokio::runtime::Handle::current();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..OPENED_AT_A_TIME.min(names.len()) {
                scope.spawn(|| {
                    let _runtime = runtime.enter();
                    while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let slot = self.lock().get(name).cloned();
                        // The reason was logged, and whoever asks for the shard is told.
                        let _ = slot.map(|slot| self.open_slot(name, &slot));
                    }
                });
            }
        });
    }

    /// The tokens, if any are needed.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.as_ref().map(|tokens| tokens.borrow().clone())
    }

    /// The same, for who has to know when they change.
    pub fn watch_tokens(&self) -> Option<TokensWatch> {
        self.tokens.as_ref().map(watch::Sender::subscribe)
    }

    /// Who has tried wrong ones.
    pub fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    /// Whether clients have to log in.
    pub fn needs_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Logins are judged by other tokens from now on, if any are needed. Nothing that comes later is done for those who logged in with a
    /// token that is not among them, or has another role. If they are the same as before, no connection is looked at.
    pub fn set_tokens(&self, new: Tokens) {
        if let Some(tokens) = &self.tokens {
            tokens.send_if_modified(|now| {
                let has_changed = !now.says_the_same(&new);
                if has_changed {
                    *now = Arc::new(new);
                }
                has_changed
            });
        }
    }

    /// Where everything is kept.
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// Where leaders send snapshots.
    pub fn http_port(&self) -> u16 {
        self.options.http_port
    }

    /// Whether `LOG.DEBUG` is allowed.
    pub fn debug_command(&self) -> bool {
        self.options.debug_command
    }

    /// The shard of that name.
    ///
    /// # Errors
    /// [`Code::NoShard`] if there is none, [`Code::LogFailed`] if it is not served.
    pub async fn shard(self: &Arc<Self>, name: &str) -> Result<Arc<Shard>, Refusal> {
        check_name(name)?;
        let slot = self.lock().get(name).cloned().ok_or_else(|| Refusal::no_shard(name))?;
        self.opened(name, slot).await.map_err(Refusal::from)
    }

    /// The shard of that name, made if there is none.
    ///
    /// # Errors
    /// There are as many as there may be, or it is not served.
    pub async fn shard_or_new(self: &Arc<Self>, name: &str) -> Result<Arc<Shard>, Refusal> {
        check_name(name)?;
        let slot = {
            let mut shards = self.lock();
            if !shards.contains_key(name) && shards.len() >= self.options.max_shards {
                let text = format!("there are {} shards, as many as --max-shards allows", shards.len());
                return Err(Refusal::new(Code::Err, text));
            }
            shards.entry(name.to_owned()).or_default().clone()
        };
        self.opened(name, slot).await.map_err(Refusal::from)
    }

    /// What is in `slot`, when it is opened.
    async fn opened(self: &Arc<Self>, name: &str, slot: Arc<Slot>) -> Result<Arc<Shard>, Unserved> {
        if let Some(opened) = slot.get() {
            return opened.clone();
        }
        let (service, name) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || service.open_slot(&name, &slot)).await.unwrap_or_else(|error| {
            Err(Unserved::new(format!("opening the shard did not finish: {error}"), String::new()))
        })
    }

    fn open_slot(&self, name: &str, slot: &Slot) -> Result<Arc<Shard>, Unserved> {
        let opened = slot.get_or_init(|| {
            let unserved = match self.open_shard(name) {
                Ok(shard) => return Ok(shard),
                Err(unserved) => unserved,
            };
            tracing::error!("shard {name} is not served: {}", unserved.reason);
            let manifest = file_store::remove::readable_manifest(&self.shard_directory(name), name);
            Err(Unserved { log_id: manifest.map(|manifest| manifest.id).unwrap_or_default(), ..unserved })
        });
        opened.clone()
    }

    fn shard_directory(&self, name: &str) -> PathBuf {
        self.options.directory.join("shards").join(name)
    }

    fn open_shard(&self, name: &str) -> Result<Arc<Shard>, Unserved> {
        let directory = self.shard_directory(name);
        let (store, snapshots, switches) = (&self.options.store, self.options.snapshots.clone(), self.switches.clone());
        let opened = Shard::open(name, snapshots, switches, |events| file_store::open(&directory, name, store, events));
        let shard = Arc::new(opened?);
        let removed = shard.snapshots().remove_drafts(&shard.store().manifest());
        removed.map_err(|error| Unserved::new(error.to_string(), String::new()))?;
        // Not waited for: an object store may be far away.
        let (opened, cleaning) = (shard.clone(), self.cleaning.clone());
        tokio::spawn(async move {
            // It is never closed.
            let _turn = cleaning.acquire().await;
            opened.clean_up_snapshots().await;
        });
        Ok(shard)
    }

    /// The shard of that name, if it is served: none is created.
    pub fn served_shard(&self, name: &str) -> Option<Arc<Shard>> {
        self.lock().get(name)?.get()?.as_ref().ok().cloned()
    }

    /// Each change of a primary's address from now on, of all shards.
    pub fn switches(&self) -> broadcast::Receiver<Arc<Switch>> {
        self.switches.subscribe()
    }

    /// The shards that are served now.
    pub fn open_shards(&self) -> Vec<Arc<Shard>> {
        self.lock().values().filter_map(|slot| slot.get()?.as_ref().ok().cloned()).collect()
    }

    /// Those of them that `may_see` allows by their names. It must not take long: all shards wait for it.
    pub fn open_shards_if(&self, may_see: impl Fn(&str) -> bool) -> Vec<Arc<Shard>> {
        let shards = self.lock();
        let seen = shards.iter().filter(|(name, _)| may_see(name));
        seen.filter_map(|(_, slot)| slot.get()?.as_ref().ok().cloned()).collect()
    }

    /// Has a snapshot made, and waits for it.
    ///
    /// # Errors
    /// None was made; the text says why.
    pub async fn make_snapshot(&self, shard: Arc<Shard>) -> Result<SnapshotRecord, Refusal> {
        let stopping = |_| Refusal::new(Code::Err, "the service is stopping");
        let (reply, made) = oneshot::channel();
        let request = Request { shard, work: Work::Snapshot(reply) };
        self.options.snapshot_requests.send(request).await.map_err(|_| stopping(()))?;
        made.await.map_err(|_| stopping(()))?
    }

    /// Has about `keys` keys that the leader picks, and as many of the log, compared on both sides, and waits for it.
    ///
    /// # Errors
    /// They could not be; the text says why.
    pub async fn audit(&self, shard: Arc<Shard>, keys: u64) -> Result<Report, Refusal> {
        let stopping = |_| Refusal::new(Code::Err, "the service is stopping");
        let (reply, done) = oneshot::channel();
        let request = Request { shard, work: Work::Audit { keys, reply } };
        self.options.snapshot_requests.send(request).await.map_err(|_| stopping(()))?;
        done.await.map_err(|_| stopping(()))?
    }

    /// The names of all shards, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The status of all shards that were opened and `may_see` allows by their names, in order of these.
    pub fn statuses(&self, may_see: impl Fn(&str) -> bool) -> Vec<Status> {
        let mut slots: Vec<_> = self.lock().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        slots.retain(|(name, _)| may_see(name));
        let status = |(name, slot): (String, Arc<Slot>)| match slot.get()? {
            Ok(shard) => Some(shard.status()),
            Err(unserved) => Some(Status::unserved(name, unserved.clone())),
        };
        slots.into_iter().filter_map(status).collect()
    }

    /// Waits until everything that was accepted is durable.
    pub async fn drain(&self) {
        let slots: Vec<_> = self.lock().values().cloned().collect();
        for shard in slots.iter().filter_map(|slot| slot.get()?.as_ref().ok()) {
            shard.notifier().wait_durable(shard.accepted()).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.shards.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Status {
    fn unserved(shard: String, Unserved { reason: error, log_id, is_locked, .. }: Unserved) -> Self {
        Status {
            shard,
            state: if is_locked { LogState::Locked } else { LogState::Damaged },
            error,
            log_id,
            contradicted_by: String::new(),
            epoch: 0,
            leader: String::new(),
            leader_address: String::new(),
            leader_process: String::new(),
            lease_remaining_ms: -1,
            lease_ms: 0,
            version: 0,
            reserved_for: String::new(),
            stream_epoch: 0,
            replid: String::new(),
            base: 0,
            end: 0,
            durable_end: 0,
            accepted_end: 0,
            seeded: 0,
            segments: 0,
            log_bytes: 0,
            max_log_bytes: 0,
            unverified_bytes: 0,
            engine_version: String::new(),
            databases: 0,
            snapshots: 0,
            snapshot_offset: -1,
            snapshot_bytes: 0,
            snapshot_time_ms: 0,
            snapshot_running: 0,
            snapshot_error: String::new(),
            snapshot_failures: 0,
            snapshot_failing_since_ms: 0,
            snapshot_module_types: String::new(),
            full_copy_error: String::new(),
            audit: AuditStatus::default(),
            replicas: 0,
            appends: 0,
            fsyncs: 0,
            acks: "running",
            nodes: Vec::new(),
        }
    }
}

impl From<OpenError> for Unserved {
    fn from(error: OpenError) -> Self {
        let (text, is_locked) = (error.to_string(), matches!(error, OpenError::Locked { .. }));
        let reason =
            if is_locked { format!("{text}; it is served when the service starts with that key") } else { text };
        Unserved { is_locked, ..Unserved::new(reason, String::new()) }
    }
}

impl From<Unserved> for Refusal {
    fn from(unserved: Unserved) -> Self {
        Refusal::new(Code::LogFailed, unserved.reason)
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(Refusal::new(Code::Err, "not a valid shard name: 1 to 64 of A-Z a-z 0-9 . _ : -"))
}

fn take_lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join("LOCK");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| DirectoryError::NotWritable { directory: directory.to_owned(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(DirectoryError::InUse { directory: directory.to_owned(), lock: path })
        }
        Err(error) => Err(DirectoryError::NotWritable { directory: directory.to_owned(), source: error.into() }),
    }
}
