//! What the store of a replicated log hears of its group, and passes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::group::Event;
use super::handle::{GroupEvents, View};
use crate::store::{Manifest, MediumError, ReadError, StoreEvents};

/// How long a reader waits for what was acknowledged, and this service's disk has not written yet.
pub(super) const READABLE_AT_MOST: Duration = Duration::from_secs(10);

/// What a store hears of its group. It hears from before the store is there.
pub(super) struct Hearing {
    pub shard: String,
    events: Arc<dyn StoreEvents>,
    readable_at_most: Duration,
    /// Held while anything is passed on, so that it is passed on in order. Taken before `known`, which is not held meanwhile: whoever is told
    /// may wait for somebody who asks the store for its manifest.
    order: Mutex<Order>,
    known: Mutex<Known>,
    changed: Condvar,
    /// The store takes nothing any more.
    pub is_over: AtomicBool,
}

#[derive(Default)]
struct Order {
    /// The consensus term in which this service decides, once it is known whether it does.
    term: Option<Option<u64>>,
    /// What was heard before.
    early: Vec<(Event, View)>,
}

pub(super) struct Known {
    pub manifest: Arc<Manifest>,
    /// The member whose service decides, if it is another's and known.
    pub leader: Option<u64>,
    /// The end (exclusive) of what is committed and persisted here: what can be read.
    end: u64,
    /// The end (exclusive) of what was told to be durable.
    told: u64,
    /// The group has stopped here.
    has_stopped: bool,
    pub is_superseded: bool,
}

/// Passes on what is heard for as long as somebody hears it.
pub(super) struct Hearer(pub Weak<Hearing>);

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
    /// Nothing was heard yet. The shard has at least this `manifest`. Readers wait for `readable_at_most` for what this service's disk has not
    /// written yet.
    pub fn new(
        shard: String,
        events: Arc<dyn StoreEvents>,
        manifest: Manifest,
        readable_at_most: Duration,
    ) -> Arc<Self> {
        let manifest = Arc::new(manifest);
        let known = Known { manifest, leader: None, end: 0, told: 0, has_stopped: false, is_superseded: false };
        Arc::new(Hearing {
            shard,
            events,
            readable_at_most,
            order: Mutex::default(),
            known: Mutex::new(known),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        })
    }

    /// What is known now.
    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The end of what can be read, once that is beyond `after`. What was acknowledged may not be on this service's disk yet. Blocks.
    pub fn wait_until_readable(&self, after: u64) -> Result<u64, ReadError> {
        let is_missing = |known: &mut Known| known.end <= after && !known.is_superseded && !known.has_stopped;
        let waited = self.changed.wait_timeout_while(self.lock(), self.readable_at_most, is_missing);
        let (known, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        match known.end > after {
            true => Ok(known.end),
            false => {
                Err(MediumError::new(format!("shard {}: this service's disk has not written it yet", self.shard))
                    .into())
            }
        }
    }

    /// Waits until all below `until` is committed and persisted here, for `at_most`, or until nothing more comes of it. Blocks.
    pub fn wait_until_stored(&self, until: u64, at_most: Duration) {
        let is_waiting = |known: &mut Known| known.end < until && !known.is_superseded && !known.has_stopped;
        drop(self.changed.wait_timeout_while(self.lock(), at_most, is_waiting));
    }

    fn lock_order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The store is there, as its group was when hearing began. What was heard since then is passed on.
    pub fn begin(&self, term: Option<u64>, manifest: Manifest, view: &View) {
        let mut order = self.lock_order();
        {
            let mut known = self.lock();
            known.take(manifest);
            (known.leader, known.end) = (view.leader, view.end);
            known.told = view.end.max(view.acknowledged);
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
                let is_told = self.lock().tell(*end);
                if is_told {
                    self.events.durable(*end);
                }
            }
            Event::Committed { end } => {
                // A store that is superseded reports nothing: the shard is opened again, which finds the end.
                let is_told = {
                    let mut known = self.lock();
                    known.end = *end;
                    known.tell(*end)
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
            known.told = begins_at.unwrap_or(known.told);
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

    /// Another service decides, or this one does so in another term.
    pub fn supersede(&self) {
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
    /// Whether it is to be told that everything below `end` is durable: it was not told before, as acknowledged.
    fn tell(&mut self, end: u64) -> bool {
        let is_news = end > self.told && !self.is_superseded;
        self.told = self.told.max(end);
        is_news
    }

    /// `manifest` is in force, unless a later one is known.
    pub fn take(&mut self, manifest: Manifest) {
        if self.manifest.revision < manifest.revision {
            self.manifest = Arc::new(manifest);
        }
    }
}

/// The manifest that a group's state is.
///
/// # Errors
/// It is none, or that of another revision or shard.
pub(super) fn parse(shard: &str, state: &Bytes, revision: u64) -> Result<Manifest, String> {
    let manifest = Manifest::parse(state)?;
    if manifest.revision != revision {
        return Err(format!("it is of revision {}, not {revision}", manifest.revision));
    }
    if manifest.shard != shard {
        return Err(format!("it is of shard {}", manifest.shard));
    }
    Ok(manifest)
}
