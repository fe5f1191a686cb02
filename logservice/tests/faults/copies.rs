//! A copy of a log that several services keep, when a step on its files fails or is the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use fail::{FailGuard, FailScenario};
use logservice::replica::copy::{
    Base, Checkpoint, CopyDisk, CopyDisks, CopyEvents, FoundCopy, Install, Persist, Position, Vote,
};
use logservice::replica::copy_files::format::{RecordHeader, SegmentHeader, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use logservice::replica::copy_files::CopyFiles;
use logservice::replica::entry::AppendEntry;
use logservice::store::file_store::files::Step;
use logservice::store::file_store::{FileStoreOptions, Threads};
use logservice::store::Damage;
use raft::eraftpb::{ConfState, Entry};

use crate::common::memory_directory;
use crate::image::Image;
use crate::lost_sectors;

const SEGMENT_BYTES: u64 = 16 << 10;
/// Images taken of one step: enough that it stands in each part of a life.
const MAX_IMAGES: usize = 12;

/// What a copy holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct Held {
    /// There is none before it is created, nor after it is removed.
    exists: bool,
    vote: Vote,
    base: u64,
    entries: Vec<Entry>,
}

/// What a crash may leave: what was promised, or that on the way to what comes next.
#[derive(Debug, Clone, Default)]
struct Promised {
    now: Held,
    next: Held,
}

#[derive(Default)]
struct Events {
    /// The number that is persisted, or why the copy has failed.
    seen: Mutex<(u64, Option<String>)>,
    changed: Condvar,
}

impl CopyEvents for Events {
    fn persisted(&self, number: u64) {
        self.seen.lock().expect("lock").0 = number;
        self.changed.notify_all();
    }

    fn failed(&self, reason: &str) {
        self.seen.lock().expect("lock").1 = Some(reason.to_owned());
        self.changed.notify_all();
    }

    fn damaged(&self, damage: &Damage) {
        self.failed(&damage.to_string());
    }
}

/// One life, which ends with the first error that somebody is told of.
#[derive(Default)]
struct Life {
    promised: Arc<Mutex<Promised>>,
    spare_is_held: bool,
}

struct Opened {
    disk: Arc<dyn CopyDisk>,
    found: FoundCopy,
    events: Arc<Events>,
    number: u64,
}

fn disks(directory: &Path) -> CopyFiles {
    let (threads, keys) = (Threads::start().expect("threads"), crate::keys());
    CopyFiles::new(directory, FileStoreOptions { segment_bytes: SEGMENT_BYTES, max_log_bytes: None, threads, keys })
}

fn members() -> ConfState {
    ConfState { voters: vec![1, 2, 3], ..ConfState::default() }
}

fn install_at(index: u64) -> Install {
    let position = Position { index, term: 1, end: index * 1000, checksum: 0 };
    let (members, from) = (members(), vec![(index, members())]);
    Install {
        base: Base { position, members },
        checkpoint: Checkpoint { position, members: from, ..Checkpoint::default() },
    }
}

/// Entries of 1000 bytes each.
fn entries(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    let data = |index: u64| AppendEntry::encode(1, index * 1000, term, &[vec![(index * term) as u8; 1000].into()]);
    indexes.map(|index| Entry { index, term, data: data(index), ..Entry::default() }).collect()
}

impl Opened {
    fn open(directory: &Path) -> Result<Option<Self>, String> {
        let events = Arc::new(Events::default());
        let opened = disks(directory).open("s1", events.clone()).map_err(|error| error.to_string())?;
        Ok(opened.map(|opened| Opened { disk: opened.disk, found: opened.found, events, number: 0 }))
    }

    fn persist(&mut self, persist: Persist) -> Result<(), String> {
        self.number += 1;
        self.disk.persist(Persist { number: self.number, ..persist });
        let seen = self.events.seen.lock().expect("lock");
        let waits = |seen: &mut (u64, Option<String>)| seen.0 < self.number && seen.1.is_none();
        let (seen, timeout) =
            self.events.changed.wait_timeout_while(seen, Duration::from_secs(20), waits).expect("lock");
        assert!(!timeout.timed_out());
        seen.1.clone().map_or(Ok(()), Err)
    }

    fn held(&self) -> Held {
        let FoundCopy { vote, base, last_index, .. } = &self.found;
        let (low, high) = (base.position.index + 1, last_index + 1);
        let read = || self.disk.entries(low, high, u64::MAX).unwrap_or_else(|error| panic!("{error}"));
        let entries = if low < high { read() } else { Vec::new() };
        Held { exists: true, vote: *vote, base: base.position.index, entries }
    }
}

impl Life {
    /// Says what comes next, does it, and holds to it.
    fn step<T>(&self, change: impl FnOnce(&mut Held), go: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        change(&mut self.promised.lock().expect("lock").next);
        let done = go()?;
        let mut promised = self.promised.lock().expect("lock");
        promised.now = promised.next.clone();
        Ok(done)
    }

    fn write(&self, copy: &mut Opened, entries: Vec<Entry>) -> Result<(), String> {
        let change = |held: &mut Held| {
            held.entries.retain(|entry| entry.index < entries[0].index);
            held.entries.extend_from_slice(&entries);
        };
        self.step(change, || copy.persist(Persist { entries: entries.clone(), ..Persist::default() }))
    }

    fn open(&self, directory: &Path) -> Result<Opened, String> {
        Ok(Opened::open(directory)?.expect("a copy"))
    }

    fn live(&self, directory: &Path) -> Result<(), String> {
        fs::create_dir_all(directory.join(".new-s1")).expect("created");
        let text = |error: logservice::store::MediumError| error.to_string();
        let create = |held: &mut Held| (held.exists, held.base) = (true, 1);
        self.step(create, || CopyDisks::create(&disks(directory), "s1", &install_at(1)).map_err(text))?;
        let hold = || FailGuard::new(Step::SpareCreate.name(), "pause").expect("configured");
        // Dropped before the copy, whose end waits for a spare in the making.
        let (mut copy, held);
        held = self.spare_is_held.then(hold);
        copy = self.open(directory)?;
        let vote = Vote { term: 3, member: 2 };
        self.step(|held| held.vote = vote, || copy.persist(Persist { vote: Some(vote), ..Persist::default() }))?;
        self.write(&mut copy, entries(2..5, 1))?;
        self.write(&mut copy, entries(5..50, 1))?;
        // In the place of what lies in several segments.
        self.write(&mut copy, entries(20..30, 2))?;
        self.write(&mut copy, entries(25..50, 3))?;
        let position = Position { index: 40, term: 3, end: 41_000, checksum: 1 };
        let checkpoint = Some(Checkpoint { position, ..install_at(1).checkpoint });
        copy.disk.persist(Persist { checkpoint, ..Persist::default() });
        // A segment has 11 entries, and the one after it lies before those that were replaced.
        let trim = |held: &mut Held| {
            held.base = 12;
            held.entries.retain(|entry| entry.index > 12);
        };
        let base = self.step(trim, || copy.disk.trim(16_500, u64::MAX, &|_| members()).map_err(text))?;
        assert_eq!(base.position.index, 12);
        self.write(&mut copy, entries(50..60, 3))?;
        drop(held);
        drop(copy);
        self.leave_what_a_crash_leaves(directory);

        let mut copy = self.open(directory)?;
        self.write(&mut copy, entries(58..60, 4))?;
        let install = |held: &mut Held| (held.base, held.entries) = (200, Vec::new());
        let installed = Persist { install: Some(install_at(200)), ..Persist::default() };
        self.step(install, || copy.persist(installed))?;
        self.write(&mut copy, entries(201..204, 4))
    }

    /// A torn group of records at the end, and files that never became segments.
    fn leave_what_a_crash_leaves(&self, directory: &Path) {
        let path = segments(directory).pop().expect("a segment");
        let mut bytes = fs::read(&path).expect("read");
        let salt = SegmentHeader::decode(&bytes).expect("sound").salt;
        let (mut at, mut last) = (SEGMENT_HEADER_BYTES as usize, None);
        while let Some(record) = RecordHeader::decode(&bytes[at..], salt) {
            last = Some(at + RECORD_HEADER_BYTES);
            at += record.file_bytes() as usize;
        }
        bytes[last.expect("a record")] ^= 1;
        fs::write(&path, bytes).expect("written");
        fs::write(directory.join("s1/log/unnamed"), b"x").expect("written");
        let mut promised = self.promised.lock().expect("lock");
        promised.next.entries.pop();
        promised.now = promised.next.clone();
    }
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(directory.join("s1/log")).expect("listed");
    let mut paths: Vec<_> = listed.map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Opens what was left, and compares it with what was promised.
fn assert_kept(directory: &Path, promised: &Promised, what: &str) {
    CopyDisks::list(&disks(directory)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let opened = Opened::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    let Some(mut copy) = opened else {
        assert!(!promised.now.exists || !promised.next.exists, "{what}: there is no copy");
        return;
    };
    let (held, Promised { now, next }) = (copy.held(), promised);
    assert!(held.vote == now.vote || held.vote == next.vote, "{what}: {:?}", held.vote);
    let common = now.entries.iter().zip(&next.entries).take_while(|(now, next)| now == next).count();
    let is_now = held.base == now.base && held.entries == now.entries;
    // What is written is there from the beginning on as far as it was; what it replaces is all there, or gone.
    let is_on_the_way =
        held.base == next.base && next.entries.starts_with(&held.entries) && held.entries.len() >= common;
    let indexes = held.entries.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>();
    assert!(is_now || is_on_the_way, "{what}: after {}, {indexes:?}", held.base);
    let last = held.entries.last().map_or(held.base, |last| last.index);
    copy.persist(Persist { entries: entries(last + 1..last + 2, 9), ..Persist::default() }).expect("persisted");
    drop(copy);
    let copy = Opened::open(directory).unwrap_or_else(|error| panic!("{what}, second time: {error}")).expect("a copy");
    let again = copy.held();
    assert_eq!(again.entries[..again.entries.len() - 1], held.entries, "{what}, second time");
}

/// Steps that happen only after another has failed.
fn cause(step: Step) -> Option<Step> {
    match step {
        Step::UnnamedRemove => Some(Step::SegmentHeaderWrite),
        Step::ManifestRemove => Some(Step::ManifestWrite),
        _ => None,
    }
}

/// Those of a life, without its end.
fn steps() -> impl Iterator<Item = Step> {
    let ends = [Step::DropRename, Step::DropDirectorySync, Step::DropRemove];
    let others = [Step::AsideCreate, Step::AsideRename, Step::AsideDirectorySync];
    let ends = [ends, others].concat();
    Step::ALL.iter().copied().filter(move |step| !ends.contains(step))
}

/// Steps without which the copy goes on: somebody reads of it in the service's log at most.
fn goes_on_without(step: Step) -> bool {
    use Step::*;
    matches!(step, SpareCreate | SpareWrite | SpareSync | SegmentRecycle | SegmentRemove)
}

fn is_of_spare(step: Step) -> bool {
    matches!(step, Step::SpareCreate | Step::SpareWrite | Step::SpareSync)
}

#[test]
fn a_machine_that_stops_before_any_step_leaves_a_copy_that_was_promised() {
    for step in steps() {
        let _scenario = FailScenario::setup();
        let directory = memory_directory();
        let life = Life { spare_is_held: !is_of_spare(step), ..Life::default() };
        let images: Arc<Mutex<Vec<(Promised, Image)>>> = Arc::default();
        let (taken, promised, live) = (images.clone(), life.promised.clone(), directory.path().to_owned());
        let callback = move || {
            let mut taken = taken.lock().expect("lock");
            let promised = promised.lock().expect("lock").clone();
            // Beside a copy in use a spare is made by a thread of its own, and an image would be of no one moment.
            if taken.len() < MAX_IMAGES && !is_of_spare(step) {
                taken.push((promised, Image::take(&live)));
            }
        };
        fail::cfg_callback(step.name(), callback).expect("configured");
        if let Some(cause) = cause(step) {
            fail::cfg(cause.name(), "1*return(enospc)").expect("configured");
        }
        let lived = life.live(directory.path());
        assert!(lived.is_ok() || cause(step).is_some(), "{step:?}: {lived:?}");
        fail::remove(step.name());
        let images = std::mem::take(&mut *images.lock().expect("lock"));
        assert!(!images.is_empty() || is_of_spare(step), "{step:?} was never reached");
        for (number, (promised, image)) in images.into_iter().enumerate() {
            let crashed = memory_directory();
            image.write(crashed.path());
            assert_kept(crashed.path(), &promised, &format!("{step:?}, time {number}"));
        }
    }
}

#[test]
fn any_step_of_a_copy_that_fails_is_told_and_leaves_what_was_promised() {
    let mut told = 0;
    for step in steps() {
        for fault in ["eio", "enospc", "short"] {
            for passed in [0, 2] {
                let what = format!("{step:?}, {fault} after {passed}");
                let _scenario = FailScenario::setup();
                let directory = memory_directory();
                let life = Life { spare_is_held: !is_of_spare(step), ..Life::default() };
                if let Some(cause) = cause(step) {
                    fail::cfg(cause.name(), "1*return(eio)").expect("configured");
                }
                fail::cfg(step.name(), &format!("{passed}*off->1*return({fault})->off")).expect("configured");
                let lived = life.live(directory.path());
                fail::remove(step.name());
                match lived {
                    Err(reason) if cause(step).is_none() => {
                        assert!(reason.contains("(os error"), "{what}: {reason}");
                        told += 1;
                    }
                    Err(_) => {}
                    Ok(()) => assert!(passed > 0 || goes_on_without(step), "{what}: nobody was told"),
                }
                let promised = life.promised.lock().expect("lock").clone();
                assert_kept(directory.path(), &promised, &what);
            }
        }
    }
    assert!(told > Step::ALL.len());
}

#[test]
fn whatever_sectors_a_crash_leaves_of_a_copy_what_was_promised_is_there() {
    let _scenario = FailScenario::setup();
    let pairs = [
        (Step::RecordWrite, Step::RecordSync),
        (Step::SegmentHeaderWrite, Step::SegmentHeaderSync),
        (Step::ManifestWrite, Step::ManifestSync),
        (Step::VoteWrite, Step::VoteSync),
        (Step::CutWrite, Step::CutSync),
        (Step::LastRecordWrite, Step::LastRecordSync),
    ];
    let of_life = |pair| {
        let life = Life { spare_is_held: true, ..Life::default() };
        lost_sectors::windows(pair, &life.promised, |directory| life.live(directory))
    };
    lost_sectors::check(pairs.into_iter().flat_map(of_life).collect(), assert_kept);
}

#[test]
fn a_copy_whose_name_was_not_synced_is_not_taken_for_made() {
    let _scenario = FailScenario::setup();
    let directory = memory_directory();
    let disks = disks(directory.path());
    fail::cfg(Step::CopyDirectorySync.name(), "return(eio)").expect("configured");
    disks.create("s1", &install_at(1)).expect_err("the rename was not synced");
    assert!(directory.path().join("s1").is_dir(), "but it is in the page cache");
    disks.create("s1", &install_at(1)).expect_err("nor is it now");
    fail::remove(Step::CopyDirectorySync.name());
    disks.create("s1", &install_at(1)).expect("made");
}
