//! For tests: groups in memory whose other members are played by the test. It says who decides, and whether anything is committed.
//!
//! Nothing here is consensus. A group does what its thread would be told by the other services: [`MemoryGroup::lead`],
//! [`MemoryGroup::follow`], [`MemoryGroup::hold`] and [`MemoryGroup::receive`].

#[cfg(test)]
mod conformance_tests;
mod groups;
mod log;

pub use groups::MemoryGroups;

use std::collections::VecDeque;
use std::sync::{mpsc, Arc, Mutex, MutexGuard};

use bytes::Bytes;

use self::log::Log;
use super::group::{Event, GroupStatus, Outcome};
use super::handle::{GroupEvents, GroupHandle, OnConfirmed, OnOutcome, Replacement, View};
use crate::store::{Append, LogReader, Manifest, ReadError, SubmitError, TrimError, Usage};

/// A group in memory.
pub struct MemoryGroup {
    name: String,
    inner: Arc<Mutex<Inner>>,
    /// What happens to it, in order, on a thread of its own.
    inbox: mpsc::Sender<Happening>,
}

struct Inner {
    view: View,
    log: Log,
    listener: Option<Arc<dyn GroupEvents>>,
    waiting: VecDeque<Proposal>,
    /// Nothing is committed or confirmed.
    is_held: bool,
    /// The next write fails.
    fails: bool,
    /// Who was told to be handed the decision.
    transfers: Vec<u64>,
}

enum Proposal {
    Append(u64, Append),
    State(u64, Replacement, OnOutcome),
    Confirm(u64, OnConfirmed),
}

enum Happening {
    Proposed(Proposal),
    Leads { term: u64 },
    Follows { leader: Option<u64>, kept: usize },
    Holds(bool),
    Received(Bytes),
    ReceivedState(Replacement),
    Told(mpsc::SyncSender<()>),
}

impl MemoryGroup {
    /// A group whose log is empty and whose state is `manifest`. Nobody decides over it.
    pub fn new(name: &str, manifest: &Manifest) -> Arc<Self> {
        let state = serde_json::to_vec(manifest).unwrap_or_default().into();
        let view = View { revision: manifest.revision, state, is_whole: true, end: manifest.base, ..View::default() };
        Self::over(name, view, Log::new(manifest.base))
    }

    fn over(name: &str, view: View, log: Log) -> Arc<Self> {
        let (waiting, transfers) = (VecDeque::new(), Vec::new());
        let inner = Inner { view, log, listener: None, waiting, is_held: false, fails: false, transfers };
        let inner = Arc::new(Mutex::new(inner));
        let (inbox, happenings) = mpsc::channel();
        let driven = inner.clone();
        // Ends when the group is dropped.
        std::thread::spawn(move || happenings.iter().for_each(|happening| drive(&driven, happening)));
        Arc::new(MemoryGroup { name: name.to_owned(), inner, inbox })
    }

    /// This service decides in `term`. Returns when that was told.
    pub fn lead(&self, term: u64) {
        self.happens(Happening::Leads { term });
    }

    /// The service of `leader` decides. Of what waits the first `kept` are committed all the same. Returns when that was told.
    pub fn follow(&self, leader: Option<u64>, kept: usize) {
        self.happens(Happening::Follows { leader, kept });
    }

    /// Whether nothing is committed or confirmed from now on. What waited is, when it is not so any more.
    pub fn hold(&self, is_held: bool) {
        self.happens(Happening::Holds(is_held));
    }

    /// The service that decides has appended.
    pub fn receive(&self, bytes: impl Into<Bytes>) {
        self.happens(Happening::Received(bytes.into()));
    }

    /// The service that decides has replaced the state.
    pub fn receive_state(&self, manifest: &Manifest, restart_at: Option<u64>) {
        let state = serde_json::to_vec(manifest).unwrap_or_default().into();
        let epoch = manifest.epochs.last().map_or(0, |term| term.epoch);
        let replacement = Replacement { revision: manifest.revision, epoch, restart_at, state };
        self.happens(Happening::ReceivedState(replacement));
    }

    /// Whether the next write fails.
    pub fn fail_writes(&self, do_fail: bool) {
        self.lock().fails = do_fail;
        if !do_fail {
            self.lock().view.failed = None;
        }
    }

    /// What [`GroupHandle::usage`] shows as the most that the log may take.
    pub fn show_bound(&self, max_log_bytes: Option<u64>) {
        self.lock().log.max_log_bytes = max_log_bytes;
    }

    /// The byte at `offset` cannot be read any more.
    pub fn damage(&self, offset: u64) {
        self.lock().log.damage(offset);
    }

    /// How many appends, replacements and questions wait.
    pub fn waiting(&self) -> usize {
        self.settle();
        self.lock().waiting.len()
    }

    /// Whom it was told to hand the decision to.
    pub fn transfers(&self) -> Vec<u64> {
        self.lock().transfers.clone()
    }

    /// Waits until all that has happened so far was told.
    pub fn settle(&self) {
        let (told, is_told) = mpsc::sync_channel(1);
        if self.inbox.send(Happening::Told(told)).is_ok() {
            let _ = is_told.recv();
        }
    }

    /// The group as another process finds it: with what is committed, and nobody decides.
    pub fn reopened(&self) -> Arc<Self> {
        self.settle();
        let inner = self.lock();
        let view = View { leads_in: None, leader: None, failed: None, ..inner.view.clone() };
        Self::over(&self.name, view, inner.log.clone())
    }

    fn happens(&self, happening: Happening) {
        if self.inbox.send(happening).is_ok() {
            self.settle();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Carries out what happens, and tells whoever listens without holding the lock.
fn drive(inner: &Mutex<Inner>, happening: Happening) {
    let (mut events, mut answers) = (Vec::new(), Vec::new());
    let mut told = None;
    let (listener, stopped) = {
        let mut inner = lock(inner);
        match happening {
            Happening::Proposed(proposal) => inner.waiting.push_back(proposal),
            Happening::Leads { term } => {
                (inner.view.leads_in, inner.view.leader) = (Some(term), None);
                inner.say(&mut events, Event::Leads { term });
            }
            Happening::Follows { leader, kept } => {
                inner.commit(kept, &mut events, &mut answers);
                answers.extend(inner.waiting.drain(..).filter_map(|proposal| proposal.given_up()));
                (inner.view.leads_in, inner.view.leader) = (None, leader);
                inner.say(&mut events, Event::Follows { term: 0, leader });
            }
            Happening::Holds(is_held) => inner.is_held = is_held,
            Happening::Received(bytes) => inner.append(&bytes, &mut events),
            Happening::ReceivedState(replacement) => inner.replace(&replacement, &mut events),
            Happening::Told(sender) => told = Some(sender),
        }
        if !inner.is_held {
            inner.commit(usize::MAX, &mut events, &mut answers);
        }
        (inner.listener.clone(), inner.view.failed.clone())
    };
    for listener in listener.iter() {
        events.iter().for_each(|(event, view)| listener.happened(event, view));
        if let Some(reason) = stopped.as_ref().filter(|_| told.is_none()) {
            listener.stopped(reason);
        }
    }
    answers.into_iter().for_each(|answer| answer());
    if let Some(told) = told {
        // The other end may have gone.
        let _ = told.send(());
    }
}

type Reply = Box<dyn FnOnce()>;

impl Proposal {
    /// What is answered when this service decides no more and nobody knows what came of it.
    fn given_up(self) -> Option<Reply> {
        match self {
            Proposal::Append(..) => None,
            Proposal::State(_, _, done) => Some(Box::new(move || done(Outcome::Unknown))),
            Proposal::Confirm(_, done) => Some(Box::new(move || done(false))),
        }
    }
}

impl Inner {
    fn say(&mut self, events: &mut Vec<(Event, View)>, event: Event) {
        events.push((event, self.view.clone()));
    }

    fn append(&mut self, bytes: &Bytes, events: &mut Vec<(Event, View)>) {
        self.view.end = self.log.append(bytes.clone());
        let end = self.view.end;
        self.say(events, Event::Committed { end });
    }

    fn replace(&mut self, replacement: &Replacement, events: &mut Vec<(Event, View)>) {
        let Replacement { revision, restart_at, state, .. } = replacement.clone();
        (self.view.revision, self.view.state) = (revision, state.clone());
        if let Some(base) = restart_at {
            self.log.restart(base);
            self.view.end = base;
        }
        self.say(events, Event::StateReplaced { revision, state, restart_at });
    }

    /// Commits the first `most` of what waits.
    fn commit(&mut self, most: usize, events: &mut Vec<(Event, View)>, answers: &mut Vec<Reply>) {
        for _ in 0..most {
            let Some(proposal) = self.waiting.pop_front() else { return };
            let leads_in = self.view.leads_in.filter(|_| self.view.failed.is_none());
            match proposal {
                Proposal::Append(term, _) if leads_in != Some(term) => {}
                Proposal::Append(_, append) if append.offset != self.view.end => {}
                Proposal::Append(..) if self.fails => self.view.failed = Some("the disk failed".to_owned()),
                Proposal::Append(_, append) => {
                    self.append(&append.payload, events);
                    self.log.count();
                }
                Proposal::State(term, _, done) if leads_in != Some(term) => {
                    answers.push(Box::new(move || done(Outcome::NotLeader)));
                }
                Proposal::State(_, replacement, done) if replacement.revision != self.view.revision + 1 => {
                    let found = self.view.revision;
                    answers.push(Box::new(move || done(Outcome::Conflict { found })));
                }
                Proposal::State(_, replacement, done) => {
                    self.replace(&replacement, events);
                    answers.push(Box::new(move || done(Outcome::Done)));
                }
                Proposal::Confirm(term, done) => {
                    let is_sole = leads_in == Some(term);
                    answers.push(Box::new(move || done(is_sole)));
                }
            }
        }
    }
}

impl GroupHandle for MemoryGroup {
    fn name(&self) -> &str {
        &self.name
    }

    fn listen(&self, events: Arc<dyn GroupEvents>) -> View {
        let mut inner = self.lock();
        inner.listener = Some(events);
        inner.view.clone()
    }

    fn view(&self) -> View {
        self.lock().view.clone()
    }

    fn append(&self, term: u64, append: Append) -> Result<(), SubmitError> {
        let sent = self.inbox.send(Happening::Proposed(Proposal::Append(term, append)));
        sent.map_err(|_| SubmitError::Closed)
    }

    fn replace_state(&self, term: u64, replacement: Replacement, done: OnOutcome) {
        let _ = self.inbox.send(Happening::Proposed(Proposal::State(term, replacement, done)));
    }

    fn confirm(&self, term: u64, done: OnConfirmed) {
        let _ = self.inbox.send(Happening::Proposed(Proposal::Confirm(term, done)));
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.lock().log.check_holds(offset)?;
        Ok(Box::new(log::Reader::new(self.inner.clone(), offset)))
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        self.lock().log.trim(offset);
        Ok(())
    }

    fn transfer_to(&self, member: u64) {
        self.lock().transfers.push(member);
    }

    fn status(&self) -> Option<GroupStatus> {
        let View { leads_in, leader, end, .. } = self.view();
        let position = crate::replica::copy::Position { end, ..Default::default() };
        let copies = leads_in.iter().flat_map(|_| [(1, 9, true), (2, 9, true), (3, 7, false)]).collect();
        Some(GroupStatus {
            term: leads_in.unwrap_or(0),
            is_leader: leads_in.is_some(),
            leader,
            applied: position,
            committed: 9,
            last: 9,
            base: crate::replica::copy::Position::default(),
            members: raft::eraftpb::ConfState { voters: vec![1, 2, 3], ..Default::default() },
            copies,
            are_members_settled: leads_in.is_some(),
            lost_in: None,
            marks: Vec::new(),
        })
    }

    fn usage(&self) -> Usage {
        self.lock().log.usage()
    }
}
