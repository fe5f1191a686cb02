//! A store that breaks the contract, in one way at a time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::{Faulty, InDoubt, Subject};
use crate::store::memory_store::conformance_tests::MemorySubject;
use crate::store::memory_store::{MemoryStores, Writes};
use crate::store::{
    Append, Listed, LogReader, Manifest, ManifestError, MediumError, OpenError, Opened, ReadError, RemoveError,
    RemovedStore, Store, StoreEvents, StoreFactory, SubmitError, TrimError, Usage,
};

/// What a store does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    ListsNothing,
    ReportsHalfAnAppend,
    ReportsWithinSubmit,
    ClosesGaps,
    DropsOlderEpochs,
    CountsNothing,
    ReadsFromFurtherBack,
    ReadsBeyondTheLimit,
    ReadsNothingNew,
    ReadersShareAPlace,
    DropsBelowTheBaseAtOnce,
    TrimsNothing,
    TrimsAll,
    ReadersSkipWhatWasTrimmed,
    ReturnsDamagedBytes,
    TakesAnyRevision,
    ForgetsSnapshots,
    ForgetsSlots,
    ShowsARefusedManifest,
    RestartKeepsTheLog,
    RestartTakesAnyRevision,
    OpensEmptyLogsAtZero,
    ReadersGoOnAfterARestart,
    RefusesTwice,
    StaysFull,
    FullRefusesManifests,
    CloseDropsTheQueue,
    CloseLeavesItOpen,
    ReplacesByName,
    OpensTooShort,
    TakesAppendsAfterAFailure,
    HidesDamage,
    NamesNoKeys,
    GivesAllTheSameId,
    HasOneLogForAll,
    RemovesNothing,
    DoesNotListTheRemoved,
    RefusesToRemoveTheMissing,
    ReadsNoManifest,
    ShowsAManifestInDoubt,
    HidesThatARestartFailed,
}

/// Memory stores that are driven by hand and do something wrong.
pub struct Flawed {
    subject: MemorySubject,
    flaw: Flaw,
}

impl Flawed {
    pub fn new(flaw: Flaw, bound: Option<u64>) -> Self {
        Flawed { subject: MemorySubject::new(Writes::ByHand, bound, true), flaw }
    }
}

impl Subject for Flawed {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        Arc::new(FlawedStores { stores: self.subject.stores.clone(), flaw: self.flaw })
    }

    fn run(&self, shard: &str) {
        self.subject.run(shard);
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    fn crash(&mut self) {
        self.subject.crash();
    }
}

impl Faulty for Flawed {
    fn damage(&self, shard: &str, offset: u64) {
        if self.flaw != Flaw::HidesDamage {
            self.subject.damage(shard, offset);
        }
    }

    fn fail_writes(&self, shard: &str, do_fail: bool) {
        self.subject.fail_writes(shard, do_fail);
    }

    fn refuse_manifests(&self, shard: &str, are_refused: bool) {
        self.subject.refuse_manifests(shard, are_refused);
    }

    fn key_id(&self) -> Option<&str> {
        self.subject.key_id()
    }
}

impl InDoubt for Flawed {
    fn doubt_manifests(&self, shard: &str, are_in_doubt: bool) {
        self.subject.doubt_manifests(shard, are_in_doubt);
    }
}

struct FlawedStores {
    stores: MemoryStores,
    flaw: Flaw,
}

impl FlawedStores {
    fn name<'a>(&self, shard: &'a str) -> &'a str {
        if self.flaw == Flaw::HasOneLogForAll {
            "s1"
        } else {
            shard
        }
    }
}

impl StoreFactory for FlawedStores {
    fn list(&self) -> Result<Listed, MediumError> {
        let mut listed = self.stores.list()?;
        match self.flaw {
            Flaw::ListsNothing => listed.shards.clear(),
            Flaw::DoesNotListTheRemoved => listed.removed.clear(),
            _ => {}
        }
        Ok(listed)
    }

    fn open(&self, shard: &str, events: Arc<dyn StoreEvents>) -> Result<Opened, OpenError> {
        let flaw = self.flaw;
        let events = Arc::new(FlawedEvents { events, flaw, was_refused: AtomicBool::new(false) });
        let Opened { store, mut end } = self.stores.open(self.name(shard), events.clone())?;
        match flaw {
            Flaw::OpensTooShort => end = end.saturating_sub(1),
            Flaw::OpensEmptyLogsAtZero if store.usage().parts == 0 => end = 0,
            _ => {}
        }
        let store = FlawedStore {
            store,
            stores: self.stores.clone(),
            shard: shard.to_owned(),
            flaw,
            events,
            end: AtomicU64::new(end),
            epoch: AtomicU64::new(0),
            shown: Mutex::default(),
            place: Arc::default(),
            trimmed: AtomicBool::new(false),
        };
        Ok(Opened { store: Arc::new(store), end })
    }

    fn exists(&self, shard: &str) -> bool {
        self.stores.exists(self.name(shard))
    }

    fn manifest(&self, shard: &str) -> Option<Manifest> {
        self.stores.manifest(shard).filter(|_| self.flaw != Flaw::ReadsNoManifest)
    }

    fn remove(&self, shard: &str) -> Result<Arc<dyn RemovedStore>, RemoveError> {
        match self.flaw {
            Flaw::RemovesNothing => self.stores.remove("nothing"),
            Flaw::RefusesToRemoveTheMissing if !self.exists(shard) => {
                Err(RemoveError::Unchanged(MediumError::new("it is missing")))
            }
            _ => self.stores.remove(shard),
        }
    }
}

struct FlawedEvents {
    events: Arc<dyn StoreEvents>,
    flaw: Flaw,
    was_refused: AtomicBool,
}

impl StoreEvents for FlawedEvents {
    fn durable(&self, end: u64) {
        if self.flaw == Flaw::ReportsHalfAnAppend && end > 5 {
            self.events.durable(end - 3);
        }
        self.events.durable(end);
    }

    fn refused(&self, end: u64, reason: &str) {
        self.was_refused.store(true, Ordering::Relaxed);
        if self.flaw == Flaw::RefusesTwice {
            self.events.refused(end, reason);
        }
        self.events.refused(end, reason);
    }

    fn failed(&self, reason: &str) {
        if self.flaw != Flaw::HidesThatARestartFailed {
            self.events.failed(reason);
        }
    }

    fn damaged(&self, reason: &str) {
        self.events.damaged(reason);
    }
}

struct FlawedStore {
    store: Arc<dyn Store>,
    stores: MemoryStores,
    shard: String,
    flaw: Flaw,
    events: Arc<FlawedEvents>,
    /// The end of what was submitted.
    end: AtomicU64,
    epoch: AtomicU64,
    /// A manifest that is shown and was not stored.
    shown: Mutex<Option<Manifest>>,
    place: Arc<AtomicU64>,
    trimmed: AtomicBool,
}

impl FlawedStore {
    fn step_all(&self) {
        let store = self.stores.store(&self.shard);
        while store.as_ref().is_some_and(|store| store.step().is_some()) {}
    }

    /// Shows what was not stored, if that is the flaw.
    fn show(&self, next: &Manifest, replaced: &Result<(), ManifestError>) {
        let shows = match replaced {
            Err(ManifestError::Refused(_)) => self.flaw == Flaw::ShowsARefusedManifest,
            Err(ManifestError::Unknown(_)) => self.flaw == Flaw::ShowsAManifestInDoubt,
            _ => false,
        };
        *self.shown.lock().expect("lock") = shows.then(|| next.clone());
    }
}

impl Store for FlawedStore {
    fn submit(&self, mut append: Append) -> Result<(), SubmitError> {
        let end = self.end.load(Ordering::Relaxed);
        match self.flaw {
            Flaw::ClosesGaps => append.offset = end,
            Flaw::DropsOlderEpochs if self.epoch.fetch_max(append.epoch, Ordering::Relaxed) > append.epoch => {
                return Ok(());
            }
            Flaw::StaysFull if self.events.was_refused.load(Ordering::Relaxed) => {
                return Err(SubmitError::Busy { waiting_bytes: 0 });
            }
            _ => {}
        }
        self.end.store(append.offset + append.payload.len() as u64, Ordering::Relaxed);
        let submitted = self.store.submit(append);
        match self.flaw {
            Flaw::ReportsWithinSubmit => self.step_all(),
            Flaw::TakesAppendsAfterAFailure => return Ok(()),
            _ => {}
        }
        submitted
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        let end = self.end.load(Ordering::Relaxed);
        if self.flaw == Flaw::TrimsAll && self.trimmed.load(Ordering::Relaxed) && offset < end {
            return Err(ReadError::Trimmed { offset });
        }
        let from = if self.flaw == Flaw::ReadsFromFurtherBack { offset & !7 } else { offset };
        let reader = self.store.reader(from)?;
        self.place.store(offset, Ordering::Relaxed);
        let (store, place, flaw) = (self.store.clone(), self.place.clone(), self.flaw);
        Ok(Box::new(FlawedReader { reader, store, place, flaw, offset, end }))
    }

    fn manifest(&self) -> Manifest {
        let mut manifest = self.shown.lock().expect("lock").clone().unwrap_or_else(|| self.store.manifest());
        if self.flaw == Flaw::GivesAllTheSameId {
            manifest.id = "0".repeat(16);
        }
        manifest
    }

    fn replace_manifest(&self, mut next: Manifest) -> Result<(), ManifestError> {
        let full = self.store.usage().is_full;
        match self.flaw {
            Flaw::TakesAnyRevision => next.revision = self.store.manifest().revision + 1,
            Flaw::ForgetsSnapshots => next.snapshots.clear(),
            Flaw::ForgetsSlots => next.cluster = None,
            Flaw::FullRefusesManifests if full => return Err(ManifestError::NoSpace(MediumError::new("full"))),
            Flaw::ReplacesByName => {
                let newest = self.stores.store(&self.shard).expect("open");
                return newest.replace_manifest(Manifest { revision: newest.manifest().revision + 1, ..next });
            }
            _ => {}
        }
        let replaced = self.store.replace_manifest(next.clone());
        self.show(&next, &replaced);
        if self.flaw == Flaw::DropsBelowTheBaseAtOnce && replaced.is_ok() {
            self.store.trim(next.base).expect("trimmed");
        }
        replaced
    }

    fn restart(&self, mut next: Manifest) -> Result<(), ManifestError> {
        match self.flaw {
            Flaw::RestartKeepsTheLog => return self.store.replace_manifest(next),
            Flaw::RestartTakesAnyRevision => next.revision = self.store.manifest().revision + 1,
            _ => {}
        }
        let restarted = self.store.restart(next.clone());
        self.show(&next, &restarted);
        restarted
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        self.trimmed.store(true, Ordering::Relaxed);
        if self.flaw == Flaw::TrimsNothing {
            return Ok(());
        }
        self.store.trim(offset)
    }

    fn key_ids(&self) -> BTreeSet<String> {
        let ids = self.store.key_ids();
        ids.into_iter().filter(|_| self.flaw != Flaw::NamesNoKeys).collect()
    }

    fn usage(&self) -> Usage {
        let usage = self.store.usage();
        if self.flaw == Flaw::CountsNothing {
            return Usage { appends: 0, commits: 0, ..usage };
        }
        usage
    }

    fn close(&self) {
        match self.flaw {
            Flaw::CloseDropsTheQueue => {}
            Flaw::CloseLeavesItOpen => self.step_all(),
            _ => self.store.close(),
        }
    }
}

struct FlawedReader {
    reader: Box<dyn LogReader>,
    store: Arc<dyn Store>,
    /// Where the reader stands that was opened or read last.
    place: Arc<AtomicU64>,
    flaw: Flaw,
    offset: u64,
    /// The end of the log when the reader was opened.
    end: u64,
}

impl LogReader for FlawedReader {
    fn read(&mut self, limit: u64, max_bytes: usize) -> Result<Bytes, ReadError> {
        match self.flaw {
            Flaw::ReadsNothingNew if limit > self.end => return Err(ReadError::Trimmed { offset: self.end }),
            Flaw::ReadersShareAPlace => {
                let place = self.place.load(Ordering::Relaxed);
                self.reader = self.store.reader(place.min(self.store.usage().log_bytes - 1))?;
            }
            _ => {}
        }
        let beyond = if self.flaw == Flaw::ReadsBeyondTheLimit { 1 } else { 0 };
        let read = self.reader.read(limit + beyond, max_bytes + beyond as usize);
        let bytes = match (read, self.flaw) {
            (Err(ReadError::Damaged(_)), Flaw::ReturnsDamagedBytes) => Bytes::from_static(b"x"),
            (Err(ReadError::Trimmed { .. }), Flaw::ReadersSkipWhatWasTrimmed) => {
                self.reader = self.store.reader(self.store.manifest().base)?;
                self.reader.read(self.reader.offset() + 10, max_bytes)?
            }
            (Err(ReadError::Trimmed { .. }), Flaw::ReadersGoOnAfterARestart) => {
                self.reader = self.store.reader(self.offset)?;
                self.reader.read(limit, max_bytes)?
            }
            (read, _) => read?,
        };
        self.offset += bytes.len() as u64;
        self.place.store(self.offset, Ordering::Relaxed);
        Ok(bytes)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
