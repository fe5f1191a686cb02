//! The conformance suite of stores, for the store of one of three services that keep the logs together: each has real copies in real files, driven
//! by a real driver. Only the network between them is in memory. The store that is asked is that of the first service, which decides.
//!
//! A service that gets no time of the machine loses the decision, as it should, and its store takes nothing any more. What fails then says nothing
//! of the store, so such a case is asked again.

mod process;
mod stores;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;

use self::process::{directory, until, Process};
use self::stores::Stores;
use super::lock;
use crate::replica::handle::GroupHandle;
use crate::store::conformance::{Faulty, Make, Subject, BOUND_BYTES, CASES};
use crate::store::{Append, Epoch, Manifest, ManifestError, Opened, Store, StoreEvents, StoreFactory};

/// What nothing takes on a busy machine.
const LONG_ENOUGH: Duration = Duration::from_secs(120);

/// Cases that ask for what no store of three services can do; what it does instead has a test of its own below.
const ASKED_OTHERWISE: [&str; 3] = [
    // Nothing refuses a manifest but that another service decides.
    "a_refused_replacement_changes_nothing",
    // What a copy counts are entries: the first of a term has no bytes, and appends that wait become one.
    "figures_count_what_was_done",
    // Only appends of the epoch that the manifest names are taken.
    "appends_of_several_epochs_are_one_log",
];

thread_local! {
    /// Whether another service has decided by itself since the case began that this thread asks.
    static IS_DISTURBED: RefCell<Arc<AtomicBool>> = RefCell::default();
}

struct ThreeCopies(Mutex<Arc<Process>>);

impl ThreeCopies {
    fn make(max_log_bytes: Option<u64>) -> Self {
        let is_disturbed = IS_DISTURBED.with_borrow(Arc::clone);
        let directories = (0..3).map(|_| directory()).collect();
        ThreeCopies(Mutex::new(Process::start(directories, max_log_bytes, is_disturbed)))
    }

    fn process(&self) -> Arc<Process> {
        lock(&self.0).clone()
    }
}

impl Subject for ThreeCopies {
    fn stores(&self) -> Arc<dyn StoreFactory> {
        Arc::new(Stores(self.process()))
    }

    fn patience(&self) -> Duration {
        match self.process().is_disturbed.load(Ordering::Relaxed) {
            true => Duration::ZERO,
            false => LONG_ENOUGH,
        }
    }

    fn crash(&mut self) {
        let next = self.process().crash();
        *lock(&self.0) = next;
    }
}

impl Faulty for ThreeCopies {
    /// At the first service, which finds it when it reads, or when it starts.
    fn damage(&self, shard: &str, offset: u64) {
        self.wait_for_medium(shard);
        let process = self.process();
        let group = process.group(0, shard).expect("a copy");
        lock(&process.machines)[0].disks.damage(group.group(), offset);
        *lock(&process.is_damaged) = true;
    }

    fn wait_for_medium(&self, shard: &str) {
        self.process().wait_for_disks(shard);
    }

    /// At all services: if it fails at one, the two others have it.
    fn fail_writes(&self, shard: &str, do_fail: bool) {
        let process = self.process();
        if do_fail {
            process.wait_for_disks(shard);
            let group = process.group(0, shard).expect("a copy");
            lock(&process.machines).iter().for_each(|machine| machine.disks.fail_writes(group.group()));
            process.is_failing.store(true, Ordering::Relaxed);
        } else if process.is_failing.load(Ordering::Relaxed) {
            *lock(&self.0) = process.crash();
        }
    }

    fn refuse_manifests(&self, _shard: &str, _are_refused: bool) {
        panic!("no case that is asked asks for this");
    }

    fn mends_damage(&self) -> bool {
        true
    }
}

/// Threads that go through the cases: most of the time is that of elections.
const CASES_AT_ONCE: usize = 3;
/// How often a case is asked in which another service decides by itself.
const ATTEMPTS: usize = 5;

/// Whether a store does what the case asks for.
fn passes(name: &str, case: fn(Make)) -> bool {
    let make: Make = |max_log_bytes| Box::new(ThreeCopies::make(max_log_bytes));
    for _ in 0..ATTEMPTS {
        let is_disturbed = Arc::new(AtomicBool::new(false));
        IS_DISTURBED.set(is_disturbed.clone());
        if std::panic::catch_unwind(|| case(make)).is_ok() {
            return true;
        }
        if !is_disturbed.load(Ordering::Relaxed) {
            return false;
        }
        eprintln!("{name}: another service decided by itself, so it is asked again");
    }
    false
}

#[test]
fn a_store_of_three_copies_does_what_every_store_does() {
    let asked: Vec<_> = CASES.iter().filter(|(name, _)| !ASKED_OTHERWISE.contains(name)).collect();
    assert_eq!(asked.len() + ASKED_OTHERWISE.len(), CASES.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CASES_AT_ONCE {
            scope.spawn(|| {
                while let Some((name, case)) = asked.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !passes(name, *case) {
                        lock(&failed).push(*name);
                    }
                }
            });
        }
    });
    assert!(lock(&failed).is_empty(), "{:?}", lock(&failed));
}

/// What a store has reported last.
#[derive(Debug, Default, Clone)]
struct Heard {
    durable: u64,
    is_over: bool,
}

#[derive(Default)]
struct Listener(Mutex<Heard>, Condvar);

impl Listener {
    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut lock(&self.0));
        self.1.notify_all();
    }

    fn wait(&self, until: impl Fn(&Heard) -> bool) {
        let waited = self.1.wait_timeout_while(lock(&self.0), LONG_ENOUGH, |heard| !until(heard));
        let (heard, timeout) = waited.expect("not poisoned");
        assert!(!timeout.timed_out(), "{heard:?}");
    }
}

impl StoreEvents for Listener {
    fn durable(&self, end: u64) {
        self.note(|heard| heard.durable = end);
    }
    fn refused(&self, end: u64, reason: &str) {
        panic!("refused at {end}: {reason}");
    }
    fn failed(&self, _reason: &str) {
        self.note(|heard| heard.is_over = true);
    }
    fn damaged(&self, reason: &str) {
        panic!("damaged: {reason}");
    }
    fn superseded(&self) {
        self.note(|heard| heard.is_over = true);
    }
}

fn open(subject: &ThreeCopies) -> (Arc<dyn Store>, u64, Arc<Listener>) {
    let events = Arc::new(Listener::default());
    let Opened { store, end } = Stores(subject.process()).open("s1", events.clone()).expect("opens");
    (store, end, events)
}

/// Appends that, and waits for it.
fn append(store: &dyn Store, events: &Listener, epoch: u64, offset: u64, bytes: &'static str) -> u64 {
    let end = offset + bytes.len() as u64;
    store.submit(Append { epoch, offset, payload: Bytes::from_static(bytes.as_bytes()) }).expect("taken");
    events.wait(|heard| heard.durable >= end);
    end
}

#[test]
fn a_manifest_is_refused_where_another_service_decides_and_nothing_has_changed() {
    let subject = ThreeCopies::make(None);
    let (store, end, events) = open(&subject);
    let end = append(&*store, &events, 0, end, "before");
    let process = subject.process();
    let (group, member) = (process.group(0, "s1").expect("a copy"), process.service(1).member);
    until("another service decides", || {
        // One that is behind does not take over.
        group.transfer_to(member);
        lock(&events.0).is_over
    });
    let before = store.manifest();
    for restarts in [false, true] {
        let next = before.next();
        let replaced = if restarts { store.restart(next) } else { store.replace_manifest(next) };
        assert!(matches!(replaced, Err(ManifestError::NotLeader)), "{replaced:?}");
        assert_eq!(store.manifest(), before);
    }
    let (again, found, events) = open(&subject);
    assert_eq!((again.manifest(), found), (before.clone(), end));
    let next = Manifest { seeded: true, ..before.next() };
    again.replace_manifest(next.clone()).expect("replaced");
    append(&*again, &events, 0, end, "after");
    assert_eq!(again.manifest(), next);
}

#[test]
fn a_copy_counts_its_entries_and_shows_its_bound() {
    let subject = ThreeCopies::make(Some(BOUND_BYTES));
    let (store, mut end, events) = open(&subject);
    let first = store.usage();
    assert_eq!((first.max_log_bytes, first.is_full, first.repairs), (Some(BOUND_BYTES), false, 0));
    let mut before = first;
    for _ in 0..3 {
        end = append(&*store, &events, 0, end, "bytes");
        // It may be durable at the two others first.
        until("it is counted here", || store.usage().appends > before.appends);
        let usage = store.usage();
        assert!(usage.commits > before.commits && usage.parts > 0 && usage.log_bytes > 0, "{usage:?}");
        before = usage;
    }
}

#[test]
fn appends_of_the_epoch_that_the_manifest_names_are_one_log_and_others_are_dropped() {
    let subject = ThreeCopies::make(None);
    let (_, _, _) = open(&subject);
    let (events, process) = (Arc::new(Listener::default()), subject.process());
    let Opened { store, mut end } = process.stores().open("s1", events.clone()).expect("opens");
    for epoch in [1, 2, 7] {
        let mut next = store.manifest().next();
        let newest = next.epochs.last().cloned().expect("one");
        next.epochs.push(Epoch { epoch, ..newest });
        store.replace_manifest(next).expect("replaced");
        for wrong in [epoch - 1, epoch + 1] {
            let payload = Bytes::from_static(b"of another epoch");
            store.submit(Append { epoch: wrong, offset: end, payload }).expect("taken");
        }
        end = append(&*store, &events, epoch, end, "of this one, ");
    }
    let mut read = Vec::new();
    let mut reader = store.reader(0).expect("opened");
    while reader.offset() < end {
        read.extend_from_slice(&reader.read(end, 100).expect("read"));
    }
    assert_eq!(String::from_utf8_lossy(&read), "of this one, ".repeat(3));
}

#[test]
fn a_write_that_fails_at_one_service_is_in_the_log_of_the_others() {
    let subject = ThreeCopies::make(None);
    let (store, end, events) = open(&subject);
    let end = append(&*store, &events, 0, end, "before");
    let process = subject.process();
    let group = process.group(0, "s1").expect("a copy");
    process.wait_for_disks("s1");
    lock(&process.machines)[0].disks.fail_writes(group.group());
    let payload = Bytes::from_static(b"while it fails");
    let after = end + payload.len() as u64;
    store.submit(Append { epoch: 0, offset: end, payload }).expect("taken");
    events.wait(|heard| heard.is_over);
    let decides = |node: usize| {
        let view = process.group(node, "s1").map(|group| group.view());
        view.is_some_and(|view| view.leads_in.is_some() && view.end == after)
    };
    until("another service decides, and has it", || (1..3).any(decides));
}
