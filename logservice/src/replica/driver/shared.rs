//! What a group shows to other threads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::inbox::Input;
use super::thread::Turns;
use crate::replica::copy::CopyEvents;
use crate::replica::group::{Event, Group};
use crate::replica::handle::{GroupEvents, View};
use crate::store::{Damage, SubmitError};

/// Bytes of appends of a group that may wait for being committed.
const MAX_WAITING_BYTES: usize = 128 << 20;
/// What an append costs besides its bytes.
const APPEND_OVERHEAD_BYTES: usize = 128;

/// What a group shows to other threads.
pub(super) struct Shared {
    pub name: Arc<str>,
    state: Mutex<State>,
    waiting_bytes: AtomicUsize,
    is_stopped: AtomicBool,
    /// The copy takes no entries for want of space.
    awaits_room: AtomicBool,
    /// Why appends are refused for want of space, although this service has some.
    no_space: Mutex<Option<String>>,
}

struct State {
    view: View,
    listener: Option<Arc<dyn GroupEvents>>,
}

impl Shared {
    pub fn new(name: &str, group: &Group) -> Self {
        let checkpoint = group.checkpoint();
        let view = View {
            end: checkpoint.position.end,
            acknowledged: checkpoint.position.end,
            revision: checkpoint.revision,
            state: checkpoint.state.clone(),
            is_whole: group.is_whole(),
            failed: group.lost_in().map(|_| FETCHED_ANEW.to_owned()),
            ..View::default()
        };
        Shared {
            name: name.into(),
            state: Mutex::new(State { view, listener: None }),
            waiting_bytes: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            awaits_room: AtomicBool::new(false),
            no_space: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    pub fn listen(&self, events: Arc<dyn GroupEvents>) -> View {
        let mut state = self.lock();
        state.listener = Some(events);
        state.view.clone()
    }

    /// Changes the view for `event`, and tells who listens. Whoever begins to listen now knows it from the view, or hears it. He who is
    /// called holds no lock of this group, so that he may take his own.
    pub fn happened(&self, event: &Event, group: &Group) {
        let mut state = self.lock();
        apply(&mut state.view, event, group);
        let Some(listener) = state.listener.clone() else { return };
        let view = state.view.clone();
        drop(state);
        listener.happened(event, &view);
    }

    /// The group will stop, as its disk has failed.
    pub fn note_failed(&self, reason: &str) {
        self.lock().view.failed = Some(reason.to_owned());
    }

    /// The copy that was fetched anew has all that it may have acknowledged.
    pub fn note_regained(&self) {
        let mut state = self.lock();
        if state.view.failed.as_deref() == Some(FETCHED_ANEW) {
            state.view.failed = None;
        }
    }

    /// The state is that of the log's end.
    pub fn note_whole(&self) {
        self.lock().view.is_whole = true;
    }

    /// Whether the copy takes no entries for want of space.
    pub fn awaits_room(&self) -> bool {
        self.awaits_room.load(Ordering::Relaxed)
    }

    /// The copy takes no entries for want of space from now on, or does again.
    pub fn set_awaits_room(&self, awaits_room: bool) {
        self.awaits_room.store(awaits_room, Ordering::Relaxed);
    }

    /// Refuses appends for that reason from now on, or no more.
    pub fn set_no_space(&self, reason: Option<String>) {
        *self.no_space.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = reason;
    }

    /// Refuses an append if too few services have space.
    pub fn check_space(&self) -> Result<(), SubmitError> {
        let reason = self.no_space.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        reason.map_or(Ok(()), |reason| Err(SubmitError::NoSpace(reason)))
    }

    /// The group has stopped.
    pub fn stopped(&self, reason: &str) {
        self.is_stopped.store(true, Ordering::Release);
        let mut state = self.lock();
        state.view.failed = Some(reason.to_owned());
        (state.view.leads_in, state.view.leader) = (None, None);
        let listener = state.listener.clone();
        drop(state);
        if let Some(listener) = listener {
            listener.stopped(reason);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Bytes of appends that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Acquire)
    }

    /// Counts an append that waits, or says why it may not.
    pub fn admit(&self, payload_bytes: usize) -> Result<(), SubmitError> {
        if self.is_stopped() {
            return Err(SubmitError::Closed);
        }
        let bytes = cost_of(payload_bytes);
        let admitted = self.waiting_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting == 0 || waiting + bytes <= MAX_WAITING_BYTES).then_some(waiting + bytes)
        });
        admitted.map(drop).map_err(|waiting_bytes| SubmitError::Busy { waiting_bytes })
    }

    /// An append of so many bytes waits no more.
    pub fn release(&self, payload_bytes: usize) {
        self.waiting_bytes.fetch_sub(cost_of(payload_bytes), Ordering::AcqRel);
    }
}

fn cost_of(payload_bytes: usize) -> usize {
    payload_bytes + APPEND_OVERHEAD_BYTES
}

fn apply(view: &mut View, event: &Event, group: &Group) {
    view.is_whole = group.is_whole();
    match event {
        Event::Leads { term } => (view.leads_in, view.leader) = (Some(*term), None),
        Event::Follows { leader, .. } => {
            (view.leads_in, view.leader) = (None, leader.filter(|&leader| leader != group.member()));
        }
        Event::Committed { end } => view.end = *end,
        Event::Acknowledged { end, .. } => return view.acknowledged = *end,
        Event::StateReplaced { revision, state, restart_at } => {
            (view.revision, view.state) = (*revision, state.clone());
            view.end = restart_at.unwrap_or(view.end);
        }
        Event::Installed { end } => {
            let checkpoint = group.checkpoint();
            (view.end, view.revision, view.state) = (*end, checkpoint.revision, checkpoint.state.clone());
        }
        Event::Proposed { .. } | Event::Confirmed { .. } => {}
    }
    // What is said of the log anew, and what another leader acknowledges, is said by its end.
    let goes_on = view.leads_in.is_some() && matches!(event, Event::Committed { .. });
    view.acknowledged = if goes_on { view.acknowledged.max(view.end) } else { view.end };
}

/// What is told of a copy that was damaged, until it has all again that it may have acknowledged.
const FETCHED_ANEW: &str = "this service's copy was damaged, and is being fetched anew from the other services";

/// Why a copy is not used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure that is.
    pub kind: FailureKind,
    /// In words.
    pub reason: String,
}

/// What can be done about a copy that is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// There was no space: opened again, it goes on when there is.
    Full,
    /// What it holds is not what was written: it can be fetched anew from other services.
    Damaged,
    /// A write has failed, or the copy contradicts another one and nobody knows which is right. Somebody has to look.
    Other,
}

/// Hears from the disk of one group.
pub(super) struct DiskEvents {
    id: u64,
    turns: Arc<Turns>,
    /// Why the copy is not to be used any more. It may be known before the group is driven.
    failure: OnceLock<Failure>,
}

impl DiskEvents {
    pub fn new(id: u64, turns: Arc<Turns>) -> Self {
        DiskEvents { id, turns, failure: OnceLock::new() }
    }

    /// The group's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is told.
    pub fn turns(&self) -> Arc<Turns> {
        self.turns.clone()
    }

    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// The copy is not used any more.
    pub fn fail(&self, kind: FailureKind, reason: String) {
        // The first reason is the one that explains the others.
        let _ = self.failure.set(Failure { kind, reason });
        let _ = self.turns.inbox.push(Input::DiskFailed { id: self.id });
    }
}

impl CopyEvents for DiskEvents {
    fn persisted(&self, number: u64) {
        // If the inbox is closed, the service stops.
        if self.turns.inbox.push_and_go_on(Input::Persisted { id: self.id, number }).is_ok() {
            self.turns.go_on();
        }
    }

    fn failed(&self, reason: &str) {
        self.fail(FailureKind::Other, reason.to_owned());
    }

    fn full(&self, reason: &str) {
        self.fail(FailureKind::Full, reason.to_owned());
    }

    fn damaged(&self, damage: &Damage) {
        self.fail(FailureKind::Damaged, format!("damaged: {damage}"));
    }
}
