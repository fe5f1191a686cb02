//! The store of a shard whose log several services keep: appends and manifests are proposed to its group.
//!
//! What a store is follows from who decides when it is opened: this service in a consensus term, or another one. When that changes the
//! store is over ([`StoreEvents::superseded`]), and the shard is opened again with another. So everything that a shard does between two
//! openings happens in one consensus term, and nothing that it has proposed can be mixed up with what is proposed later.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::group::{Event, Outcome};
use super::groups::Groups;
use super::handle::{GroupEvents, GroupHandle, Replacement, View};
use super::persisted_reader::PersistedReader;
use crate::store::{
    Append, LogReader, Manifest, ManifestError, MediumError, OnConfirmed, OpenError, Opened, ReadError, Standing,
    Store, StoreEvents, SubmitError, TrimError, Usage,
};

/// How long [`Store::close`] waits for what was submitted. Nobody can tell how long the other services take.
const CLOSE_AT_MOST: Duration = Duration::from_secs(2);

/// How long a reader waits for what was acknowledged, and this service's disk has not written yet.
const READABLE_AT_MOST: Duration = Duration::from_secs(10);

/// The store of a shard over its group.
pub struct ReplicatedStore {
    group: Arc<dyn GroupHandle>,
    groups: Arc<dyn Groups>,
    hearing: Arc<Hearing>,
    /// The consensus term in which this service decides; none if it follows.
    term: Option<u64>,
    /// The end of what was submitted (exclusive).
    submitted: AtomicU64,
}

/// What a store hears of its group. It hears from before the store is there.
struct Hearing {
    shard: String,
    events: Arc<dyn StoreEvents>,
    /// Held while anything is passed on, so that it is passed on in order. Taken before `known`, which is not held meanwhile: whoever is told
    /// may wait for somebody who asks the store for its manifest.
    order: Mutex<Order>,
    known: Mutex<Known>,
    changed: Condvar,
    /// The store takes nothing any more.
    is_over: AtomicBool,
}

#[derive(Default)]
struct Order {
    /// The consensus term in which this service decides, once it is known whether it does.
    term: Option<Option<u64>>,
    /// What was heard before.
    early: Vec<(Event, View)>,
}

struct Known {
    manifest: Arc<Manifest>,
    /// The member whose service decides, if it is another's and known.
    leader: Option<u64>,
    /// The end (exclusive) of what is committed and persisted here: what can be read.
    end: u64,
    /// The group has stopped here.
    has_stopped: bool,
    is_superseded: bool,
}

impl ReplicatedStore {
    /// Opens the store of a shard. From now on `events` hears of its group, and no store that was opened before does.
    ///
    /// # Errors
    /// The copy has failed, or its state is no manifest.
    pub fn open(
        groups: Arc<dyn Groups>,
        group: Arc<dyn GroupHandle>,
        events: Arc<dyn StoreEvents>,
    ) -> Result<Opened, OpenError> {
        let shard = group.name().to_owned();
        let parse = |view: &View| {
            parse(&shard, &view.state, view.revision)
                .map_err(|reason| OpenError::Manifest { place: format!("the state of shard {shard}"), reason })
        };
        let manifest = Arc::new(parse(&group.view())?);
        let known = Known { manifest, leader: None, end: 0, has_stopped: false, is_superseded: false };
        let hearing = Arc::new(Hearing {
            shard: shard.clone(),
            events,
            order: Mutex::default(),
            known: Mutex::new(known),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let view = group.listen(Arc::new(Hearer(Arc::downgrade(&hearing))));
        if let Some(reason) = view.failed {
            return Err(MediumError::new(reason).into());
        }
        let (term, end) = (view.leads_in, view.end.max(view.acknowledged));
        hearing.begin(term, parse(&view)?, &view);
        let store = Arc::new(ReplicatedStore { group, groups, hearing, term, submitted: AtomicU64::new(end) });
        Ok(Opened { store, end })
    }

    fn replace(&self, next: Manifest, restart_at: Option<u64>) -> Result<(), ManifestError> {
        let Some(term) = self.term else { return Err(ManifestError::NotLeader) };
        if self.is_over() {
            let is_closed = !self.hearing.lock().is_superseded;
            return Err(if is_closed { ManifestError::Closed } else { ManifestError::NotLeader });
        }
        let next = Manifest { format: next.format_to_write(), ..next };
        let state = serde_json::to_vec(&next).map_err(|error| ManifestError::Refused(MediumError::new(error)))?;
        let epoch = next.epochs.last().map_or(0, |term| term.epoch);
        let replacement = Replacement { revision: next.revision, epoch, restart_at, state: Bytes::from(state) };
        let (outcome, told) = mpsc::sync_channel(1);
        self.group.replace_state(
            term,
            replacement,
            Box::new(move |come| {
                // Fails if nobody waits.
                let _ = outcome.send(come);
            }),
        );
        match told.recv() {
            Ok(Outcome::Done) => {
                if let Some(base) = restart_at {
                    self.submitted.store(base, Ordering::Release);
                }
                self.hearing.lock().take(next);
                Ok(())
            }
            Ok(Outcome::Conflict { found }) => {
                Err(ManifestError::Conflict { expected: next.revision.saturating_sub(1), found })
            }
            Ok(Outcome::NotLeader) => {
                self.hearing.supersede();
                Err(ManifestError::NotLeader)
            }
            Ok(Outcome::Unknown) => {
                self.hearing.supersede();
                Err(self.unknown("another service may decide over the log now"))
            }
            Err(mpsc::RecvError) => Err(self.unknown("the thread that replicates has ended")),
        }
    }

    fn submit_with(
        &self,
        append: Append,
        submit: impl FnOnce(u64, Append) -> Result<(), SubmitError>,
    ) -> Result<(), SubmitError> {
        let Some(term) = self.term.filter(|_| !self.is_over()) else { return Err(SubmitError::Closed) };
        let (offset, end) = (append.offset, append.offset + append.payload.len() as u64);
        submit(term, append)?;
        // One that leaves a gap is dropped, so nobody waits for it.
        let _ = self.submitted.compare_exchange(offset, end, Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    fn unknown(&self, reason: &str) -> ManifestError {
        let shard = &self.hearing.shard;
        let text =
            format!("shard {shard}: whether the manifest was replaced shows when the shard is opened next: {reason}");
        ManifestError::Unknown(MediumError::new(text))
    }

    fn is_over(&self) -> bool {
        self.hearing.is_over.load(Ordering::Acquire)
    }
}

impl Store for ReplicatedStore {
    fn submit(&self, append: Append) -> Result<(), SubmitError> {
        self.submit_with(append, |term, append| self.group.append(term, append))
    }

    fn submit_and_go_on(&self, append: Append) -> Result<(), SubmitError> {
        self.submit_with(append, |term, append| self.group.append_and_go_on(term, append))
    }

    fn go_on(&self) {
        self.group.go_on();
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        let (group, hearing) = (self.group.clone(), self.hearing.clone());
        let readable_end = move |after: u64| hearing.wait_until_readable(after);
        Ok(Box::new(PersistedReader::new(group, offset, Box::new(readable_end))?))
    }

    fn manifest(&self) -> Manifest {
        let manifest = self.hearing.lock().manifest.clone();
        (*manifest).clone()
    }

    fn replace_manifest(&self, next: Manifest) -> Result<(), ManifestError> {
        self.replace(next, None)
    }

    fn restart(&self, mut next: Manifest) -> Result<(), ManifestError> {
        next.generation = self.manifest().generation + 1;
        let base = next.base;
        self.replace(next, Some(base))
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        self.group.trim(offset)
    }

    fn key_ids(&self) -> BTreeSet<String> {
        self.group.key_ids()
    }

    fn usage(&self) -> Usage {
        self.group.usage()
    }

    fn standing(&self) -> Standing {
        if self.term.is_some() && !self.is_over() {
            return Standing::Decides;
        }
        let leader = self.hearing.lock().leader;
        let address = leader.filter(|leader| *leader != self.groups.member());
        Standing::Follows { address: address.and_then(|leader| self.groups.address_of(leader)) }
    }

    fn confirm(&self, done: OnConfirmed) {
        match self.term.filter(|_| !self.is_over()) {
            Some(term) => self.group.confirm(term, done),
            None => done(false),
        }
    }

    fn close(&self) {
        let was_over = self.hearing.is_over.swap(true, Ordering::AcqRel);
        let until = self.submitted.load(Ordering::Acquire);
        let known = self.hearing.lock();
        if was_over || self.term.is_none() {
            return;
        }
        let is_waiting = |known: &mut Known| known.end < until && !known.is_superseded && !known.has_stopped;
        // What is not in the log by then may be later: whoever submitted it asks where the log is decided over.
        drop(self.hearing.changed.wait_timeout_while(known, CLOSE_AT_MOST, is_waiting));
    }
}

/// Passes on what is heard for as long as somebody hears it.
struct Hearer(Weak<Hearing>);

impl GroupEvents for Hearer {
    fn happened(&self, event: &Event, view: &View) {
        if let Some(hearing) = self.0.upgrade() {
            hearing.hear(event, view);
        }
    }

    fn stopped(&self, reason: &str) {
        if let Some(hearing) = self.0.upgrade() {
            hearing.stop(reason);
        }
    }
}

impl Hearing {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The end of what can be read, once that is beyond `after`. What was acknowledged may not be on this service's disk yet. Blocks.
    fn wait_until_readable(&self, after: u64) -> Result<u64, ReadError> {
        let is_missing = |known: &mut Known| known.end <= after && !known.is_superseded && !known.has_stopped;
        let waited = self.changed.wait_timeout_while(self.lock(), READABLE_AT_MOST, is_missing);
        let (known, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        match known.end > after {
            true => Ok(known.end),
            false => {
                Err(MediumError::new(format!("shard {}: this service's disk has not written it yet", self.shard))
                    .into())
            }
        }
    }

    fn lock_order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The store is there, as its group was when hearing began. What was heard since then is passed on.
    fn begin(&self, term: Option<u64>, manifest: Manifest, view: &View) {
        let mut order = self.lock_order();
        {
            let mut known = self.lock();
            known.take(manifest);
            (known.leader, known.end) = (view.leader, view.end);
        }
        for (event, view) in std::mem::take(&mut order.early) {
            self.pass_on(term, &event, &view);
        }
        order.term = Some(term);
    }

    fn hear(&self, event: &Event, view: &View) {
        let mut order = self.lock_order();
        match order.term {
            Some(term) => self.pass_on(term, event, view),
            None => order.early.push((event.clone(), view.clone())),
        }
    }

    /// Passes on an event to a store of `term`, while the order is locked.
    fn pass_on(&self, term: Option<u64>, event: &Event, view: &View) {
        match event {
            Event::Leads { term: now } if term == Some(*now) => {}
            Event::Leads { .. } => self.supersede_in_order(),
            Event::Follows { leader, .. } => {
                self.lock().leader = *leader;
                if term.is_some() {
                    self.supersede_in_order();
                }
            }
            // It can be read when it is told as committed.
            Event::Acknowledged { end, .. } => {
                let is_superseded = self.lock().is_superseded;
                if !is_superseded {
                    self.events.durable(*end);
                }
            }
            Event::Committed { end } => {
                // A store that is superseded reports nothing: the shard is opened again, which finds the end.
                let is_told = {
                    let mut known = self.lock();
                    known.end = *end;
                    !known.is_superseded
                };
                if is_told {
                    self.events.durable(*end);
                }
            }
            Event::StateReplaced { revision, state, restart_at } => {
                self.replaced(term, state, *revision, *restart_at);
            }
            Event::Installed { end } => self.replaced(term, &view.state, view.revision, Some(*end)),
            Event::Proposed { .. } | Event::Confirmed { .. } => {}
        }
        // Closing waits for the end.
        self.changed.notify_all();
    }

    fn replaced(&self, term: Option<u64>, state: &Bytes, revision: u64, begins_at: Option<u64>) {
        let manifest = match parse(&self.shard, state, revision) {
            Ok(manifest) => manifest,
            Err(reason) => {
                self.is_over.store(true, Ordering::Release);
                return self.events.failed(&format!("the state of shard {} cannot be used: {reason}", self.shard));
            }
        };
        let (manifest, is_told) = {
            let mut known = self.lock();
            known.end = begins_at.unwrap_or(known.end);
            known.take(manifest);
            // Who decides has replaced it itself.
            (known.manifest.clone(), term.is_none() && !known.is_superseded)
        };
        if is_told {
            self.events.replaced(&manifest, begins_at);
        }
    }

    fn stop(&self, reason: &str) {
        let _order = self.lock_order();
        self.is_over.store(true, Ordering::Release);
        self.lock().has_stopped = true;
        self.changed.notify_all();
        self.events.failed(reason);
    }

    fn supersede(&self) {
        let _order = self.lock_order();
        self.supersede_in_order();
    }

    fn supersede_in_order(&self) {
        self.is_over.store(true, Ordering::Release);
        let is_news = {
            let mut known = self.lock();
            !std::mem::replace(&mut known.is_superseded, true) && !known.has_stopped
        };
        self.changed.notify_all();
        if is_news {
            self.events.superseded();
        }
    }
}

impl Known {
    /// `manifest` is in force, unless a later one is known.
    fn take(&mut self, manifest: Manifest) {
        if self.manifest.revision < manifest.revision {
            self.manifest = Arc::new(manifest);
        }
    }
}

/// The manifest that a group's state is.
fn parse(shard: &str, state: &Bytes, revision: u64) -> Result<Manifest, String> {
    let manifest = Manifest::parse(state)?;
    if manifest.revision != revision {
        return Err(format!("it is of revision {}, not {revision}", manifest.revision));
    }
    if manifest.shard != shard {
        return Err(format!("it is of shard {}", manifest.shard));
    }
    Ok(manifest)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
