//! What becomes of a store when who decides over its log changes. The rest is in the conformance suite.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::replica::handle::GroupEvents;
use crate::replica::memory_group::{MemoryGroup, MemoryGroups};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Durable(u64),
    Failed(String),
    Superseded,
    Replaced { revision: u64, begins_at: Option<u64> },
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Told>>);

impl Recorder {
    fn note(&self, told: Told) {
        self.0.lock().expect("not poisoned").push(told);
    }

    fn told(&self) -> Vec<Told> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl StoreEvents for Recorder {
    fn durable(&self, end: u64) {
        self.note(Told::Durable(end));
    }

    fn refused(&self, end: u64, reason: &str) {
        panic!("refused at {end}: {reason}");
    }

    fn failed(&self, reason: &str) {
        self.note(Told::Failed(reason.to_owned()));
    }

    fn damaged(&self, reason: &str) {
        panic!("damaged: {reason}");
    }

    fn superseded(&self) {
        self.note(Told::Superseded);
    }

    fn replaced(&self, manifest: &Manifest, begins_at: Option<u64>) {
        self.note(Told::Replaced { revision: manifest.revision, begins_at });
    }
}

fn open(groups: &Arc<MemoryGroups>) -> (Arc<dyn Store>, u64, Arc<Recorder>, Arc<MemoryGroup>) {
    let (events, group) = (Arc::new(Recorder::default()), groups.get_or_make("s1"));
    let opened = ReplicatedStore::open(groups.clone(), group.clone(), events.clone()).expect("opens");
    (opened.store, opened.end, events, group)
}

fn append(store: &dyn Store, offset: u64, bytes: &'static str) -> Result<(), SubmitError> {
    store.submit(Append { epoch: 0, offset, payload: Bytes::from_static(bytes.as_bytes()) })
}

fn confirmed(store: &dyn Store) -> mpsc::Receiver<bool> {
    let (tell, told) = mpsc::channel();
    store.confirm(Box::new(move |is_sole| tell.send(is_sole).expect("somebody waits")));
    told
}

#[test]
fn appends_in_flight_are_not_reported_when_another_service_decides_and_none_is_taken_afterwards() {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(3);
    let (store, _, events, group) = open(&groups);
    assert_eq!(store.standing(), Standing::Decides);
    append(&*store, 0, "first").expect("taken");
    group.settle();
    group.hold(true);
    append(&*store, 5, "second").expect("taken");
    append(&*store, 11, "third").expect("taken");
    let asked = confirmed(&*store);
    group.follow(Some(2), 1);
    assert_eq!(events.told(), [Told::Durable(5), Told::Durable(11), Told::Superseded]);
    assert_eq!(asked.recv(), Ok(false));
    assert_eq!(store.standing(), Standing::Follows { address: Some("10.0.0.2:7379".to_owned()) });
    assert!(matches!(append(&*store, 11, "third"), Err(SubmitError::Closed)));
    assert!(matches!(store.replace_manifest(store.manifest().next()), Err(ManifestError::NotLeader)));
    assert_eq!(confirmed(&*store).recv(), Ok(false));
    // It hears of nothing, and says so once only.
    group.receive("of the other");
    group.lead(4);
    assert_eq!(events.told().last(), Some(&Told::Superseded));
    assert_eq!(events.told().iter().filter(|told| **told == Told::Superseded).count(), 1);
    let (again, end, ..) = open(&groups);
    assert_eq!((end, again.standing()), (23, Standing::Decides));
}

#[test]
fn a_store_of_an_earlier_term_is_over_although_its_service_decides_again() {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(3);
    let (store, _, events, group) = open(&groups);
    group.lead(4);
    assert_eq!(events.told(), [Told::Superseded]);
    assert!(matches!(append(&*store, 0, "late"), Err(SubmitError::Closed)));
    assert_eq!(confirmed(&*store).recv(), Ok(false));
}

#[test]
fn a_replacement_that_another_service_may_have_made_good_is_of_unknown_outcome() {
    for (kept, revision) in [(0, 0), (1, 1)] {
        let groups = Arc::new(MemoryGroups::default());
        groups.get_or_make("s1").lead(3);
        let (store, _, events, group) = open(&groups);
        group.hold(true);
        let replacing = {
            let store = store.clone();
            std::thread::spawn(move || store.replace_manifest(Manifest { seeded: true, ..store.manifest().next() }))
        };
        while group.waiting() == 0 {
            std::thread::yield_now();
        }
        group.follow(None, kept);
        let replaced = replacing.join().expect("no panic");
        // One that was committed before is known to be.
        assert_eq!(replaced.is_err(), kept == 0, "{replaced:?}");
        assert!(replaced.is_ok_and(|()| true) || events.told().contains(&Told::Superseded));
        let (again, ..) = open(&groups);
        assert_eq!(again.manifest().revision, revision);
        assert_eq!(again.standing(), Standing::Follows { address: None });
    }
}

#[test]
fn a_store_that_follows_takes_nothing_and_tells_what_another_service_does() {
    let groups = Arc::new(MemoryGroups::default());
    let (store, end, events, group) = open(&groups);
    assert_eq!((end, store.standing()), (0, Standing::Follows { address: None }));
    assert!(matches!(append(&*store, 0, "own"), Err(SubmitError::Closed)));
    assert!(matches!(store.restart(store.manifest().next()), Err(ManifestError::NotLeader)));
    assert_eq!(confirmed(&*store).recv(), Ok(false));
    group.follow(Some(3), 0);
    assert_eq!(store.standing(), Standing::Follows { address: Some("10.0.0.3:7379".to_owned()) });
    group.receive("bytes");
    group.receive_state(&store.manifest().next(), None);
    let next = Manifest { base: 900, ..store.manifest().next() };
    group.receive_state(&next, Some(900));
    assert_eq!(store.manifest(), next);
    let replaced = |revision, begins_at| Told::Replaced { revision, begins_at };
    assert_eq!(events.told(), [Told::Durable(5), replaced(1, None), replaced(2, Some(900))]);
    group.lead(7);
    assert_eq!(events.told().last(), Some(&Told::Superseded));
}

#[test]
fn what_happens_before_the_store_is_there_is_told_after_it_was_opened() {
    /// Hears of an append from within [`GroupHandle::listen`], as when it comes at that moment.
    struct Early(Arc<MemoryGroup>);

    impl GroupHandle for Early {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn listen(&self, events: Arc<dyn GroupEvents>) -> View {
            let view = self.0.listen(events);
            self.0.receive("early");
            self.0.lead(2);
            view
        }
        fn view(&self) -> View {
            self.0.view()
        }
        fn append(&self, term: u64, append: Append) -> Result<(), SubmitError> {
            self.0.append(term, append)
        }
        fn replace_state(&self, term: u64, replacement: Replacement, done: super::super::handle::OnOutcome) {
            self.0.replace_state(term, replacement, done);
        }
        fn confirm(&self, term: u64, done: OnConfirmed) {
            self.0.confirm(term, done);
        }
        fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
            self.0.reader(offset)
        }
        fn trim(&self, offset: u64) -> Result<(), TrimError> {
            self.0.trim(offset)
        }
        fn transfer_to(&self, member: u64) {
            self.0.transfer_to(member);
        }
        fn status(&self) -> Option<super::super::group::GroupStatus> {
            self.0.status()
        }
        fn usage(&self) -> Usage {
            self.0.usage()
        }
    }

    let (groups, events) = (Arc::new(MemoryGroups::default()), Arc::new(Recorder::default()));
    let group = Arc::new(Early(groups.get_or_make("s1")));
    let opened = ReplicatedStore::open(groups.clone(), group, events.clone()).expect("opens");
    assert_eq!(opened.end, 0);
    assert_eq!(events.told(), [Told::Durable(5), Told::Superseded]);
}

#[test]
fn a_group_that_stops_here_fails_its_store_and_is_not_opened_again() {
    let groups = Arc::new(MemoryGroups::default());
    groups.get_or_make("s1").lead(1);
    let (store, _, events, group) = open(&groups);
    group.fail_writes(true);
    append(&*store, 0, "lost").expect("taken");
    group.settle();
    assert_eq!(events.told(), [Told::Failed("the disk failed".to_owned())]);
    assert!(matches!(append(&*store, 0, "late"), Err(SubmitError::Closed)));
    let opened = ReplicatedStore::open(groups.clone(), group, Arc::new(Recorder::default()));
    assert!(opened.is_err_and(|error| error.to_string() == "the disk failed"));
}

#[test]
fn a_state_that_is_no_manifest_of_the_shard_is_not_served() {
    let groups = Arc::new(MemoryGroups::default());
    let (_store, _, events, group) = open(&groups);
    let other = Manifest { revision: 1, ..Manifest::new("s2", "a".repeat(40), "id".to_owned()) };
    group.receive_state(&other, None);
    let failed = events.told();
    assert!(matches!(&failed[..], [Told::Failed(reason)] if reason.contains("it is of shard s2")), "{failed:?}");
    let opened = ReplicatedStore::open(groups.clone(), group, Arc::new(Recorder::default()));
    assert!(matches!(opened, Err(OpenError::Manifest { .. })));
}
