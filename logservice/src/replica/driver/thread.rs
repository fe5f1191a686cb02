//! Driving all groups: by the thread whose work that is, or by one that has just told something.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::fetches::Fetches;
use super::inbox::{Inbox, Input, TrimBound};
use super::running::Running;
use super::{Network, TICK};
use crate::replica::group::Outcome;

/// All groups. Whoever has the turn ([`Inbox`]) drives them.
pub(super) struct Thread {
    inbox: Arc<Inbox>,
    network: Arc<dyn Network>,
    fetches: Fetches,
    groups: HashMap<u64, Box<Running>>,
    /// Those to which something has happened.
    dirty: Vec<u64>,
}

/// The groups, for who has the turn: no lock is ever waited for.
pub(super) struct Turns {
    pub inbox: Arc<Inbox>,
    /// None if tests drive the groups by hand.
    thread: Option<Mutex<Thread>>,
}

/// Gives the turn back, also if something panics that nobody has foreseen.
struct Turn<'a>(&'a Inbox);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Turns {
    pub fn new(inbox: Arc<Inbox>, network: Arc<dyn Network>, fetches: Fetches) -> Self {
        let thread = Thread::new(inbox.clone(), network, fetches);
        Turns { inbox, thread: Some(Mutex::new(thread)) }
    }

    /// For groups that nobody drives but who reads the inbox.
    #[cfg(any(test, feature = "testing"))]
    pub fn by_hand(inbox: Arc<Inbox>) -> Self {
        Turns { inbox, thread: None }
    }

    /// Drives groups with what waits, unless somebody does so: then that one goes on with it. Returns soon. The caller holds no lock that
    /// anybody takes who is told of events.
    pub fn go_on(&self) {
        let Some(thread) = &self.thread else { return };
        let mut inputs = VecDeque::new();
        if !self.inbox.try_take(&mut inputs) {
            return;
        }
        let turn = Turn(&self.inbox);
        for rounds in 1.. {
            lock(thread).round(&mut inputs, false);
            if !self.inbox.take_more(rounds, &mut inputs) {
                // It is given back.
                return std::mem::forget(turn);
            }
        }
    }

    /// The thread: drives groups until the inbox is closed, and lets time pass.
    pub fn run(&self) {
        let Some(thread) = &self.thread else { return };
        let mut inputs = VecDeque::new();
        let mut next_tick = Instant::now() + TICK;
        while self.inbox.take(next_tick, &mut inputs) {
            let _turn = Turn(&self.inbox);
            let now = Instant::now();
            let is_due = now >= next_tick;
            if is_due {
                next_tick += TICK;
                if next_tick <= now {
                    next_tick = now + TICK;
                }
            }
            lock(thread).round(&mut inputs, is_due);
        }
        lock(thread).end(inputs);
    }
}

fn lock(thread: &Mutex<Thread>) -> MutexGuard<'_, Thread> {
    thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Thread {
    /// Groups that are to be driven.
    pub fn new(inbox: Arc<Inbox>, network: Arc<dyn Network>, fetches: Fetches) -> Self {
        Thread { inbox, network, fetches, groups: HashMap::new(), dirty: Vec::new() }
    }

    /// Answers all that wait.
    pub fn end(&mut self, inputs: VecDeque<Input>) {
        for input in inputs {
            guarded("the service stops", || self.refuse(input));
        }
        self.groups.drain().for_each(|(_, running)| end_of(running, None));
    }

    /// Takes what was told, and does what is to be done then. With `is_due`, time has passed.
    fn round(&mut self, inputs: &mut VecDeque<Input>, is_due: bool) {
        inputs.drain(..).for_each(|input| self.take(input));
        if is_due {
            self.tick();
        }
        self.work(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64));
    }

    /// The groups that are driven.
    #[cfg(any(test, feature = "testing"))]
    pub fn groups(&mut self) -> impl Iterator<Item = &mut crate::replica::group::Group> {
        self.groups.values_mut().map(|running| &mut running.group)
    }

    /// Reads what it was told. If whoever is told what comes of it panics, that is the end of that group at most.
    pub fn take(&mut self, input: Input) {
        let id = input.group();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.read(input))) {
            let reason = reason_of(&*panic);
            tracing::error!("what was told to a group has ended in a panic: {reason}");
            self.stop(id, &reason);
        }
    }

    fn read(&mut self, input: Input) {
        match input {
            Input::Open { id, mut running } => {
                running.note_disk_failure();
                self.groups.insert(id, running);
                self.with(id, |_| {});
            }
            Input::Close { id, done } => {
                self.inbox.forget(id);
                if let Some(running) = self.groups.remove(&id) {
                    end_of(running, Some("it was closed"));
                }
                // Whoever has asked may be gone.
                let _ = done.send(());
            }
            Input::Message { id, message } => self.with(id, |running| running.step(message)),
            Input::Unreachable { member } => {
                let ids: Vec<u64> = self.groups.keys().copied().collect();
                ids.into_iter().for_each(|id| self.with(id, |running| running.group.unreachable(member)));
            }
            Input::Persisted { id, number } => self.with(id, |running| running.persisted(number)),
            Input::DiskFailed { id } => self.with(id, Running::note_disk_failure),
            Input::Trimmed { id, base } => self.with(id, |running| running.group.trimmed(base)),
            Input::Fetched { id, fetch, read } => self.with(id, |running| running.fetched(fetch, read)),
            Input::TransferTo { id, member } => self.with(id, |running| running.group.transfer_to(member)),
            Input::Campaign { id } => self.with(id, |running| running.group.campaign()),
            input if !self.groups.contains_key(&input.group()) => self.refuse(input),
            Input::Append { id, term, append } => self.with(id, |running| running.append(term, append)),
            Input::ReplaceState { id, term, replacement, done } => {
                self.with(id, |running| running.replace_state(term, replacement, done));
            }
            Input::Confirm { id, term, done } => self.with(id, |running| running.confirm(term, done)),
            Input::Status { id, reply } => self.with(id, |running| {
                let _ = reply.send(running.group.status());
            }),
            Input::StepMembers { id, term, wanted, reply } => self.with(id, |running| {
                // Whoever has asked may be gone.
                let _ = reply.send(running.group.step_members(term, &wanted));
            }),
            Input::TrimBound { id, reply } => self.with(id, |running| {
                let checkpoint = running.group.checkpoint();
                let _ = reply.send(TrimBound { upto: checkpoint.position.index, members: checkpoint.members.clone() });
            }),
        }
    }

    /// Answers what nothing comes of: the group, or the thread, has stopped.
    fn refuse(&self, input: Input) {
        match input {
            Input::ReplaceState { done, .. } => done(Outcome::NotLeader),
            Input::Confirm { done, .. } => done(false),
            // The others are answered by being dropped.
            _ => {}
        }
    }

    /// Time passes.
    pub fn tick(&mut self) {
        let ids: Vec<u64> = self.groups.keys().copied().collect();
        for id in ids {
            let mut ticked = Ok(());
            self.with(id, |running| ticked = running.tick());
            if let Err(reason) = ticked {
                self.stop(id, &reason);
            }
        }
    }

    /// Does what is to be done for the groups to which something has happened.
    pub fn work(&mut self, unix_ms: u64) {
        for id in std::mem::take(&mut self.dirty) {
            let (network, fetches) = (&*self.network, &self.fetches);
            let Some(running) = self.groups.get_mut(&id) else { continue };
            match catch_unwind(AssertUnwindSafe(|| running.work(unix_ms, network, fetches))) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => self.stop(id, "this service is no member of it any more"),
                Ok(Err(divergence)) => self.stop(id, &divergence.to_string()),
                Err(panic) => self.stop(id, &reason_of(&*panic)),
            }
        }
    }

    /// Tells a group something, and remembers that it has to be asked what is to be done. A group that panics is not touched again, so it
    /// does not matter in which state that has left it.
    fn with(&mut self, id: u64, tell: impl FnOnce(&mut Running)) {
        let Some(running) = self.groups.get_mut(&id) else { return };
        if !std::mem::replace(&mut running.is_dirty, true) {
            self.dirty.push(id);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(running))) {
            self.stop(id, &reason_of(&*panic));
        }
    }

    fn stop(&mut self, id: u64, reason: &str) {
        let Some(running) = self.groups.remove(&id) else { return };
        tracing::error!("'{}': this copy has stopped: {reason}", running.shared.name);
        end_of(running, Some(reason));
    }
}

/// Tells whoever waits for a group, or listens, that it is not driven any more. None of them ends the thread by a panic.
fn end_of(running: Box<Running>, reason: Option<&str>) {
    let name = running.shared.name.clone();
    guarded(&name, || running.stop(reason));
}

fn guarded(what: &str, tell: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(tell)).is_err() {
        tracing::error!("'{what}': whoever was told of it has panicked");
    }
}

/// What a panic says.
pub(super) fn reason_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a rule of consensus was broken: {}", text.unwrap_or("no reason given"))
}
