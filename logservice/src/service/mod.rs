//! The shards of one directory: opened when the service starts, made by their first nodes, looked up by each command.
//!
//! [`status_fields`] declares what LOG.STATUS, LOG.NODE, INFO and HTTP show of a shard. `removal` drops shards, [`replication`] is about those
//! that several services keep (`reports` what these tell each other, `placement` in which zone who decides is, `moving` whom operators choose,
//! `bringing` how they come to keep what one has kept alone), [`overview`] is all that monitoring shows ([`problems`] what of it is wrong,
//! [`history`] what was), `backups` names snapshots, and [`engine_work`] passes what takes an engine on to the
//! [snapshotter](crate::snapshotter).

mod backups;
pub mod bringing;
mod cluster_removal;
mod directory_lock;
pub mod engine_work;
pub mod history;
mod moving;
pub mod overview;
mod placement;
pub mod problems;
mod removal;
pub mod replication;
mod reports;
mod snapshot_files;
pub mod status_fields;
mod unserved;

pub use directory_lock::DirectoryError;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::SystemTime;

use durability_protocol::{is_valid_name, Code, Refusal};
use tokio::sync::{broadcast, mpsc, watch, Semaphore};

use self::bringing::Underway;
use self::directory_lock::take_lock;
use self::engine_work::EngineRequest;
use self::history::Histories;
use self::placement::Placements;
use self::unserved::Unserved;
use crate::access::guesses::Guesses;
use crate::access::login::TokensWatch;
use crate::access::tokens::Tokens;
use crate::archive::ArchiveOptions;
use crate::base::private;
use crate::replica::files::SnapshotFiles;
use crate::replica::groups::Groups;
use crate::shard::{Shard, Status, Switch, Switches};
use crate::snapshots::SnapshotStore;
use crate::store::{Listed, StoreFactory};

/// Changes of primaries, of all shards together, that a subscriber may be behind by.
const MAX_SWITCHES: usize = 1024;

/// Shards that are opened at a time when the service starts.
const OPENED_AT_A_TIME: usize = 32;

/// Shards that are searched for left-over snapshots at a time.
const CLEANED_AT_A_TIME: usize = 4;

/// What a service needs.
pub struct ServiceOptions {
    /// Where everything is kept.
    pub directory: PathBuf,
    /// Where shards are stored.
    pub stores: Arc<dyn StoreFactory>,
    /// The groups that keep the shards' logs, if several services do: then `stores` opens stores over these.
    pub groups: Option<Arc<dyn Groups>>,
    /// How other services are asked to make snapshots, if there are others.
    pub files: Option<Arc<SnapshotFiles>>,
    /// Where snapshots are kept.
    pub snapshots: Arc<SnapshotStore>,
    /// How logs are archived in the place for snapshots; none if they are not.
    pub archive: Option<ArchiveOptions>,
    /// Takes requests for work that needs an engine.
    pub engine_requests: mpsc::Sender<EngineRequest>,
    /// The most shards that may exist.
    pub max_shards: usize,
    /// Length of the log since the last snapshot at which the next one is made; 0 only on request.
    pub snapshot_log_bytes: u64,
    /// Whether `LOG.DEBUG` is allowed.
    pub debug_command: bool,
    /// Where leaders send snapshots, on the address by which they reach this service.
    pub http_port: u16,
}

/// The shards of one directory.
pub struct Service {
    options: ServiceOptions,
    tokens: Option<watch::Sender<Arc<Tokens>>>,
    guesses: Guesses,
    shards: Mutex<BTreeMap<String, Arc<Slot>>>,
    switches: Switches,
    /// Taken while left-over snapshots are searched for.
    cleaning: Arc<Semaphore>,
    /// Held while a shard is dropped.
    dropping: tokio::sync::Mutex<()>,
    /// Held while a shard is opened anew.
    reopening: Mutex<()>,
    /// The shards that were opened since the service started.
    opened_once: Mutex<BTreeSet<String>>,
    /// Changes when a shard has come that another service has made.
    appeared: watch::Sender<()>,
    /// Changes when the other services are to be told soon what this one knows.
    report_due: watch::Sender<()>,
    placements: Mutex<Placements>,
    /// Shards that are being brought into a cluster.
    brought: Mutex<BTreeMap<String, Underway>>,
    histories: Mutex<Histories>,
    started: SystemTime,
    this: Weak<Service>,
    _lock: File,
}

/// A shard, once it is open, or why it is not served.
type Slot = OnceLock<Result<Arc<Shard>, Unserved>>;

impl Service {
    /// Takes the directory for this process and opens the shards in it. Without tokens every client may use every shard. Must run within
    /// the runtime. Blocks while the ends of logs are verified.
    pub fn open(options: ServiceOptions, tokens: Option<Tokens>) -> Result<Arc<Self>, DirectoryError> {
        let directory = options.directory.clone();
        let not_writable = |source| DirectoryError::NotWritable { directory: directory.clone(), source };
        std::fs::create_dir_all(&directory).map_err(not_writable)?;
        let lock = take_lock(&directory)?;
        for kept in ["snapshots", "drafts"] {
            private::take_back(&directory.join(kept)).map_err(not_writable)?;
        }
        let listed = options.stores.list();
        let Listed { shards: names, removed } =
            listed.map_err(|source| DirectoryError::Stores { directory: directory.clone(), source })?;
        // Not before the lock is held, as they may be another service's.
        options.snapshots.remove_unnamed_drafts()?;
        let slots = names.iter().map(|name| (name.clone(), Arc::new(Slot::new()))).collect();
        let switches = Switches::new(MAX_SWITCHES);
        let tokens = tokens.map(|tokens| watch::Sender::new(Arc::new(tokens)));
        let cleaning = Arc::new(Semaphore::new(CLEANED_AT_A_TIME));
        let service = Arc::new_cyclic(|this| Service {
            options,
            tokens,
            guesses: Guesses::default(),
            shards: Mutex::new(slots),
            switches,
            cleaning,
            dropping: tokio::sync::Mutex::default(),
            reopening: Mutex::default(),
            opened_once: Mutex::default(),
            appeared: watch::Sender::new(()),
            report_due: watch::Sender::new(()),
            placements: Mutex::default(),
            brought: Mutex::default(),
            histories: Mutex::default(),
            started: SystemTime::now(),
            this: this.clone(),
            _lock: lock,
        });
        service.open_all(&names);
        service.hear_of_groups();
        service.exchange_reports();
        service.keep_placement();
        service.make_for_others();
        service.bring_shards();
        removed.into_iter().for_each(|removed| service.finish_drop(removed, Weak::new()));
        Ok(service)
    }

    /// Opens shards in parallel, as each waits for the disk several times.
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
                        // The reason has been logged, and is the answer to every command on the shard.
                        let _ = slot.map(|slot| self.open_slot(name, &slot));
                    }
                });
            }
        });
    }

    /// The tokens; `None` if none are needed.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        self.tokens.as_ref().map(|tokens| tokens.borrow().clone())
    }

    /// The tokens with every later change of them; `None` if none are needed.
    pub fn watch_tokens(&self) -> Option<TokensWatch> {
        self.tokens.as_ref().map(watch::Sender::subscribe)
    }

    /// The wrong tokens that were tried.
    pub fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    /// Whether clients have to log in.
    pub fn needs_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Replaces the tokens, if any are needed. From now on nothing is done for a client whose token is gone or has another role. If the
    /// tokens are the same as before, no connection is disturbed.
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
        let slot = self.lock().get(name).cloned();
        let slot = slot.ok_or_else(|| {
            let elsewhere = self.groups().and_then(|groups| groups.elsewhere(name));
            elsewhere.map_or_else(|| Refusal::no_shard(name), replication::refusal)
        })?;
        self.opened(name, slot).await.map_err(Refusal::from)
    }

    /// The shard of that name, made if there is none.
    ///
    /// # Errors
    /// There are as many shards as are allowed, or this one is not served.
    pub async fn shard_or_new(self: &Arc<Self>, name: &str) -> Result<Arc<Shard>, Refusal> {
        check_name(name)?;
        let slot = match (self.slot_or_new(name)?, self.groups()) {
            (Some(slot), _) => slot,
            (None, Some(groups)) => self.create(groups, name).await?,
            (None, None) => return Err(Refusal::no_shard(name)),
        };
        self.opened(name, slot).await.map_err(Refusal::from)
    }

    /// The slot of the shard of that name, made if there is none and this service makes shards alone.
    fn slot_or_new(&self, name: &str) -> Result<Option<Arc<Slot>>, Refusal> {
        let mut shards = self.lock();
        if let Some(slot) = shards.get(name) {
            return Ok(Some(slot.clone()));
        }
        self.check_room_beside(shards.len())?;
        // Under the lock: the shards that are brought are counted under it later.
        let is_alone = self.groups().is_none_or(|groups| groups.bringing().is_some_and(|bringing| bringing.is_alone()));
        Ok(is_alone.then(|| shards.entry(name.to_owned()).or_default().clone()))
    }

    fn check_room_beside(&self, shards: usize) -> Result<(), Refusal> {
        if shards < self.options.max_shards {
            return Ok(());
        }
        Err(Refusal::new(Code::Err, format!("there are {shards} shards, as many as --max-shards allows")))
    }

    /// The content of `slot`, once it is opened.
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
        let mut fresh = None;
        let opened = slot.get_or_init(|| {
            let unserved = match self.open_shard(name) {
                Ok(shard) => return Ok(fresh.insert(shard).clone()),
                Err(unserved) => unserved,
            };
            tracing::error!("shard {name} is not served: {}", unserved.reason);
            let manifest = self.options.stores.manifest(name);
            Err(Unserved { log_id: manifest.map(|manifest| manifest.id).unwrap_or_default(), ..unserved })
        });
        // Not before it can be found: what is superseded is looked up, to be opened anew.
        if let Some(shard) = fresh {
            self.watch_standing(&shard);
        }
        opened.clone()
    }

    fn open_shard(&self, name: &str) -> Result<Arc<Shard>, Unserved> {
        let (snapshots, switches) = (self.options.snapshots.clone(), self.switches.clone());
        let opened = Shard::open(name, snapshots, switches, |events| self.options.stores.open(name, events));
        let mut shard = opened?;
        if let Some(archive) = self.options.archive {
            shard.keep_archived(archive);
        }
        let shard = Arc::new(shard);
        if shard.snapshots().has_others() && self.is_opened_first(name) {
            // Nothing has begun one yet. Later, a snapshot may be on its way from another service.
            let removed = shard.snapshots().remove_drafts(&shard.store().manifest());
            removed.map_err(|error| Unserved::new(error.to_string(), String::new()))?;
        }
        if !shard.decides() {
            // What lies in the place of all services' snapshots is cleaned up by the one that decides.
            return Ok(shard);
        }
        let has_own = shard.snapshots().has_others();
        let removed = if has_own { Ok(()) } else { shard.snapshots().remove_drafts(&shard.store().manifest()) };
        match removed {
            // Another service may be finishing with one of its own there.
            Err(error) if shard.is_replicated() => tracing::warn!("shard {name}: a draft of a snapshot stays: {error}"),
            removed => removed.map_err(|error| Unserved::new(error.to_string(), String::new()))?,
        }
        // Not waited for: an object store may be far away.
        let (opened, cleaning) = (shard.clone(), self.cleaning.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = cleaning.acquire().await;
            opened.clean_up_snapshots().await;
        });
        Ok(shard)
    }

    /// Whether the shard of that name is opened for the first time since the service started.
    fn is_opened_first(&self, name: &str) -> bool {
        let mut opened = self.opened_once.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        opened.insert(name.to_owned())
    }

    /// The shard of that name, if it is served. None is created.
    pub fn served_shard(&self, name: &str) -> Option<Arc<Shard>> {
        self.lock().get(name)?.get()?.as_ref().ok().cloned()
    }

    /// Every later change of a primary's address, of all shards.
    pub fn switches(&self) -> broadcast::Receiver<Arc<Switch>> {
        self.switches.subscribe()
    }

    /// The shards that are served now.
    pub fn open_shards(&self) -> Vec<Arc<Shard>> {
        self.lock().values().filter_map(|slot| slot.get()?.as_ref().ok().cloned()).collect()
    }

    /// The shards that are served now and whose names `may_see` allows. It must be quick, as it runs under a lock.
    pub fn open_shards_if(&self, may_see: impl Fn(&str) -> bool) -> Vec<Arc<Shard>> {
        let shards = self.lock();
        let seen = shards.iter().filter(|(name, _)| may_see(name));
        seen.filter_map(|(_, slot)| slot.get()?.as_ref().ok().cloned()).collect()
    }

    /// The names of all shards, in order.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The status of all opened shards whose names `may_see` allows, in order of the names.
    pub fn statuses(&self, may_see: impl Fn(&str) -> bool) -> Vec<Status> {
        let status = |(name, slot): (String, Arc<Slot>)| match slot.get()? {
            Ok(shard) => Some(shard.status()),
            Err(unserved) => Some(unserved.clone().status(name)),
        };
        self.slots(may_see).into_iter().filter_map(status).collect()
    }

    fn slots(&self, may_see: impl Fn(&str) -> bool) -> Vec<(String, Arc<Slot>)> {
        let mut slots: Vec<_> = self.lock().iter().map(|(name, slot)| (name.clone(), slot.clone())).collect();
        slots.retain(|(name, _)| may_see(name));
        slots
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

fn check_name(name: &str) -> Result<(), Refusal> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(Refusal::new(Code::Err, "not a valid shard name: 1 to 64 of A-Z a-z 0-9 . _ : -"))
}
