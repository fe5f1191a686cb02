//! The store of a shard whose log several services keep: appends and manifests are proposed to its group.
//!
//! What a store is follows from who decides when it is opened: this service in a consensus term, or another one. When that changes the
//! store is over ([`StoreEvents::superseded`]), and the shard is opened again with another. So everything that a shard does between two
//! openings happens in one consensus term, and nothing that it has proposed can be mixed up with what is proposed later.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use bytes::Bytes;

use super::group::Outcome;
use super::groups::Groups;
use super::handle::{GroupHandle, Replacement, View};
use super::hearing::{parse, Hearer, Hearing, READABLE_AT_MOST};
use super::persisted_reader::{PersistedReader, PersistedRecords};
use crate::store::{
    Append, LogReader, Manifest, ManifestError, MediumError, OnConfirmed, OpenError, Opened, ReadError, RecordReader,
    Standing, Store, StoreEvents, SubmitError, TrimError, Usage,
};

/// How long [`Store::close`] waits for what was submitted. Nobody can tell how long the other services take.
const CLOSE_AT_MOST: Duration = Duration::from_secs(2);

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
        Self::open_with_patience(groups, group, events, READABLE_AT_MOST)
    }

    /// As [`ReplicatedStore::open`], with the longest that readers wait for what was acknowledged and this service's disk has not written yet.
    ///
    /// # Errors
    /// As of [`ReplicatedStore::open`].
    pub fn open_with_patience(
        groups: Arc<dyn Groups>,
        group: Arc<dyn GroupHandle>,
        events: Arc<dyn StoreEvents>,
        readable_at_most: Duration,
    ) -> Result<Opened, OpenError> {
        let shard = group.name().to_owned();
        let parse = |view: &View| {
            parse(&shard, &view.state, view.revision)
                .map_err(|reason| OpenError::Manifest { place: format!("the state of shard {shard}"), reason })
        };
        let hearing = Hearing::new(shard.clone(), events, parse(&group.view())?, readable_at_most);
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

    fn records(&self, offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        let (group, hearing) = (self.group.clone(), self.hearing.clone());
        let readable_end = move |after: u64| hearing.wait_until_readable(after);
        Ok(Box::new(PersistedRecords::new(group, offset, Box::new(readable_end))?))
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
        if !was_over && self.term.is_some() {
            // What is not in the log by then may be later: whoever submitted it asks where the log is decided over.
            self.hearing.wait_until_stored(until, CLOSE_AT_MOST);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
