//! A copy beside a simple model of it, through random lives: whatever happens, both hold the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use raft::eraftpb::Entry;

use super::format::end_after;
use super::harness_tests::{append, directory, disks, install_at, members, state, Copy};
use super::CopyFiles;
use crate::encryption::KeyRing;
use crate::replica::copy::{Base, Checkpoint, FoundCopy, Install, Persist, Position, Vote};
use crate::replica::entry::Content;

const SECTOR_BYTES: usize = 512;

/// What happens next.
#[derive(Debug, Clone)]
enum Happens {
    /// Entries of these lengths, 0 being one without data, perhaps with a vote, follow what is there.
    Append { lengths: Vec<usize>, new_term: bool, votes: bool },
    /// The same in the place of entries that are not committed.
    Replace { at: Index, lengths: Vec<usize> },
    /// Another state, perhaps with another beginning of the log.
    State { restart_at: Option<u64> },
    /// Entries are committed, and a checkpoint is handed over.
    Commit { upto: Index },
    /// The copy begins anew.
    Install { gap: u64, end: u64, lengths: Vec<usize> },
    /// Entries are dropped.
    Trim { offset: Index, upto: Index },
    /// The copy is closed and opened.
    Reopen,
    /// The machine stops.
    Crash,
    /// The machine stops while entries are written: some sectors of them reach the disk.
    Torn { lengths: Vec<usize>, kept: Vec<bool> },
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0), 1..100_usize, 1..3000_usize, 9000..20_000_usize], 1..8)
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        5 => (lengths(), any::<bool>(), any::<bool>())
            .prop_map(|(lengths, new_term, votes)| Happens::Append { lengths, new_term, votes }),
        3 => (any::<Index>(), lengths()).prop_map(|(at, lengths)| Happens::Replace { at, lengths }),
        2 => prop::option::of(0..5000_u64).prop_map(|restart_at| Happens::State { restart_at }),
        3 => any::<Index>().prop_map(|upto| Happens::Commit { upto }),
        1 => (0..20_u64, 0..5000_u64, lengths()).prop_map(|(gap, end, lengths)| Happens::Install { gap, end, lengths }),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(offset, upto)| Happens::Trim { offset, upto }),
        2 => Just(Happens::Reopen),
        2 => Just(Happens::Crash),
        3 => (lengths(), prop::collection::vec(any::<bool>(), 1..20))
            .prop_map(|(lengths, kept)| Happens::Torn { lengths, kept }),
    ]
}

/// What a copy must hold.
#[derive(Debug, Clone)]
struct Model {
    vote: Vote,
    base: Base,
    /// Entries, each with the position after it.
    entries: Vec<(Entry, Position)>,
    checkpoint: Checkpoint,
    term: u64,
}

impl Model {
    fn new(Install { base, checkpoint }: Install, vote: Vote) -> Self {
        let term = vote.term.max(base.position.term);
        Model { vote, base, entries: Vec::new(), checkpoint, term }
    }

    fn last(&self) -> Position {
        self.entries.last().map_or(self.base.position, |(_, position)| *position)
    }

    fn committed(&self) -> u64 {
        self.checkpoint.position.index
    }

    fn position_of(&self, index: u64) -> Position {
        match index - self.base.position.index {
            0 => self.base.position,
            count => self.entries[count as usize - 1].1,
        }
    }

    fn push(&mut self, entry: Entry) -> Entry {
        let last = self.last();
        let position = last.after(&entry, end_after(last.end, &entry));
        self.entries.push((entry.clone(), position));
        entry
    }

    fn append(&mut self, lengths: &[usize]) -> Vec<Entry> {
        let of_length = |&bytes: &usize| {
            let (Position { index, end, .. }, term) = (self.last(), self.term);
            self.push(match bytes {
                0 => Entry { index: index + 1, term, ..Entry::default() },
                _ => append(index + 1, term, end, bytes),
            })
        };
        lengths.iter().map(of_length).collect()
    }

    fn cut_from(&mut self, index: u64) {
        self.entries.truncate((index - self.base.position.index - 1) as usize);
    }

    fn drop_to(&mut self, base: Base) {
        self.entries.drain(..(base.position.index - self.base.position.index) as usize);
        self.base = base;
    }

    /// The bytes of the log as it is committed, and where they begin.
    fn log(&self) -> (u64, Vec<u8>) {
        let (mut begin, mut bytes) = (self.base.position.end, Vec::new());
        for (entry, _) in self.entries.iter().filter(|(entry, _)| entry.index <= self.committed()) {
            match Content::decode(entry) {
                Ok(Content::Append(append)) => bytes.extend_from_slice(&append.payload),
                Ok(Content::State(state)) => {
                    if let Some(restart_at) = state.restart_at {
                        (begin, bytes) = (restart_at, Vec::new());
                    }
                }
                _ => {}
            }
        }
        (begin, bytes)
    }

    fn terms(&self) -> Vec<(u64, u64)> {
        let mut terms: Vec<(u64, u64)> = Vec::new();
        for (entry, _) in &self.entries {
            if terms.last().is_none_or(|&(_, term)| term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        terms
    }
}

/// A copy and its model.
struct Pair {
    directory: tempfile::TempDir,
    keys: Arc<KeyRing>,
    copy: Copy,
    model: Model,
    /// The number of the last thing to be persisted.
    number: u64,
}

impl Pair {
    fn new(keys: Arc<KeyRing>) -> Self {
        let directory = directory();
        let disks = disks(directory.path(), &keys);
        let install = install_at(1, 1, 100);
        disks.create("s1", &install).expect("created");
        let copy = Copy::open(&disks).expect("opened");
        Pair { directory, keys, copy, model: Model::new(install, Vote::default()), number: 0 }
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Append { lengths, new_term, votes } => {
                self.model.term += u64::from(new_term);
                let vote = votes.then_some(Vote { term: self.model.term, member: lengths.len() as u64 });
                self.model.vote = vote.unwrap_or(self.model.vote);
                let entries = self.model.append(&lengths);
                self.persist(Persist { vote, entries, ..Persist::default() });
            }
            Happens::Replace { at, lengths } => {
                let count = self.model.last().index - self.model.committed();
                if count > 0 {
                    self.model.cut_from(self.model.committed() + 1 + at.index(count as usize) as u64);
                    self.model.term += 1;
                    let entries = self.model.append(&lengths);
                    self.persist(Persist { entries, ..Persist::default() });
                }
            }
            Happens::State { restart_at } => {
                let entry = state(self.model.last().index + 1, self.model.term, restart_at);
                let entries = vec![self.model.push(entry)];
                self.persist(Persist { entries, ..Persist::default() });
            }
            Happens::Commit { upto } => {
                self.wait();
                let (last, committed) = (self.model.last().index, self.model.committed());
                let position = self.model.position_of(committed + upto.index((last - committed) as usize + 1) as u64);
                let (revision, state_index) = (position.index, position.index);
                self.model.checkpoint = Checkpoint { position, revision, state_index, ..self.model.checkpoint.clone() };
                let checkpoint = Some(self.model.checkpoint.clone());
                self.copy.disk.persist(Persist { checkpoint, ..Persist::default() });
            }
            Happens::Install { gap, end, lengths } => {
                let install = install_at(self.model.last().index + gap, self.model.term + 1, end);
                self.model = Model::new(install.clone(), self.model.vote);
                let entries = self.model.append(&lengths);
                self.persist(Persist { install: Some(install), entries, ..Persist::default() });
            }
            Happens::Trim { offset, upto } => {
                self.wait();
                let (begin, log) = self.model.log();
                let offset = begin + offset.index(log.len() + 1) as u64;
                let upto = self.model.base.position.index + upto.index(self.model.entries.len() + 1) as u64;
                self.trim(offset, upto);
            }
            Happens::Reopen => {
                self.wait();
                self.copy.disk.close();
                self.reopen();
                assert_eq!(self.copy.found.checkpoint, self.model.checkpoint, "closing writes it");
            }
            Happens::Crash => {
                self.wait();
                let image = Image::take(self.directory.path());
                self.crash(&image);
            }
            Happens::Torn { lengths, kept } => {
                self.wait();
                let synced = Image::take(self.directory.path());
                let before = self.model.last().index;
                let entries = self.model.append(&lengths);
                self.persist(Persist { entries, ..Persist::default() });
                self.wait();
                let image = Image::take(self.directory.path()).torn(&synced, &kept);
                self.crash(&image);
                assert!(self.copy.found.last_index >= before);
            }
        }
    }

    fn persist(&mut self, persist: Persist) {
        self.number = self.copy.persist(persist);
    }

    fn wait(&self) {
        let seen = self.copy.events.wait(|seen| seen.persisted >= self.number || seen.failed.is_some());
        assert_eq!((seen.failed, seen.damaged), (None, None));
    }

    fn trim(&mut self, offset: u64, upto: u64) {
        let base = self.copy.disk.trim(offset, upto, &|_| members()).expect("trimmed");
        assert!(base.position.index <= upto.min(self.model.committed()).max(self.model.base.position.index));
        assert_eq!(base, Base { position: self.model.position_of(base.position.index), members: members() });
        let (_, log) = self.model.log();
        let end = self.model.position_of(self.model.committed()).end;
        self.model.drop_to(base);
        let (begin, kept) = self.model.log();
        assert!(log.ends_with(&kept) && (begin <= offset || kept.len() == log.len()), "to {begin}, not {offset}");
        assert_eq!(begin + kept.len() as u64, end);
    }

    fn reopen(&mut self) {
        let disks: CopyFiles = disks(self.directory.path(), &self.keys);
        self.copy = Copy::open(&disks).unwrap_or_else(|error| panic!("{error}; {:?}", self.model));
        self.number = 0;
    }

    /// The machine stops, and only what is in the image is left.
    fn crash(&mut self, image: &Image) {
        self.directory = directory();
        image.write(self.directory.path());
        self.reopen();
        let FoundCopy { checkpoint, last_index, .. } = self.copy.found.clone();
        assert!(last_index >= checkpoint.position.index && last_index <= self.model.last().index);
        assert!(checkpoint.position.index <= self.model.committed());
        self.model.cut_from(last_index + 1);
        self.model.checkpoint = checkpoint;
    }

    /// The copy holds what the model does.
    fn check(&self, from: &Index) {
        let model = &self.model;
        let (base, last) = (model.base.position.index, model.last().index);
        let entries: Vec<Entry> = model.entries.iter().map(|(entry, _)| entry.clone()).collect();
        if let Some(skipped) = (!entries.is_empty()).then(|| from.index(entries.len())) {
            for skipped in [0, skipped] {
                let read = self.copy.entries(base + 1 + skipped as u64, last + 1).expect("read");
                assert_eq!(read, entries[skipped..]);
            }
        }
        assert!(self.copy.entries(base, last + 1).is_err(), "the base is no entry");
        let (begin, log) = model.log();
        if let Some(skipped) = (!log.is_empty()).then(|| from.index(log.len())) {
            let end = begin + log.len() as u64;
            let mut reader = self.copy.disk.reader(begin + skipped as u64).expect("reader");
            let mut read = Vec::new();
            while reader.offset() < end {
                read.extend_from_slice(&reader.read(end, 5000).expect("read"));
            }
            assert_eq!(read, log[skipped..]);
        }
    }

    fn check_found(&self) {
        let found = &self.copy.found;
        let (model, expected) = (&self.model, self.model.terms());
        assert_eq!((found.vote, found.last_index, &found.terms), (model.vote, model.last().index, &expected));
        assert_eq!(found.base, model.base);
    }
}

/// The files of a copy at a moment.
#[derive(Default)]
struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    fn take(directory: &Path) -> Self {
        let mut image = Image::default();
        for below in ["s1", "s1/log"] {
            for entry in fs::read_dir(directory.join(below)).expect("listed") {
                let path = entry.expect("entry").path();
                // Spares come and go meanwhile.
                if let Ok(bytes) = fs::read(&path) {
                    image.0.insert(path.strip_prefix(directory).expect("below").to_owned(), bytes);
                }
            }
        }
        image
    }

    /// What is there if only some of the sectors were written that differ from what was synced. Files that are new were synced before
    /// records were written to them, but those came last.
    fn torn(mut self, synced: &Image, kept: &[bool]) -> Self {
        let mut kept = kept.iter().copied().cycle();
        let newest =
            self.0.keys().filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().cloned();
        for (path, new) in self.0.iter_mut().filter(|(path, _)| Some(*path) == newest.as_ref()) {
            let mut empty = vec![0; new.len()];
            empty[..4096].copy_from_slice(&new[..4096]);
            let old = synced.0.get(path).unwrap_or(&empty);
            for (old, new) in old.chunks(SECTOR_BYTES).zip(new.chunks_mut(SECTOR_BYTES)) {
                if old != new && kept.next() == Some(false) {
                    new.copy_from_slice(old);
                }
            }
        }
        self
    }

    fn write(&self, directory: &Path) {
        fs::create_dir_all(directory.join("s1/log")).expect("created");
        for (path, bytes) in &self.0 {
            fs::write(directory.join(path), bytes).expect("written");
        }
    }
}

fn live(keys: Arc<KeyRing>, life: Vec<(Happens, bool, Index)>) {
    let mut pair = Pair::new(keys);
    for (happens, is_checked, from) in life {
        let is_opened = matches!(happens, Happens::Reopen | Happens::Crash | Happens::Torn { .. });
        pair.happen(happens);
        if is_opened {
            pair.check_found();
        }
        if is_checked {
            pair.wait();
            pair.check(&from);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_is_what_its_model_is(life in prop::collection::vec((happens(), any::<bool>(), any::<Index>()), 1..40)) {
        live(Arc::default(), life);
    }

    #[test]
    fn an_encrypted_copy_is_what_its_model_is(
        life in prop::collection::vec((happens(), any::<bool>(), any::<Index>()), 1..30)
    ) {
        live(KeyRing::of_text(&format!("k1 01{}\n", "23".repeat(31))).expect("keys"), life);
    }
}
