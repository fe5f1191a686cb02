//! Files as a disk has them: what is durable, and what was done since to bytes and to names. A crash leaves any part of that.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use durability_simulation::draw::Draw;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;
/// What the system keeps in memory in one piece.
const PAGE_BYTES: u64 = 4096;

/// The files of one machine.
#[derive(Default)]
pub struct FileModel {
    nodes: BTreeMap<u64, Node>,
    /// Which file each name stands for, as whoever looks now sees it.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What was done to names and may be lost, in order.
    pending_names: Vec<NameChange>,
    last_node: u64,
}

#[derive(Default)]
struct Node {
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

struct Pending {
    change: Change,
    /// A sync has failed after it: a later one does not write it.
    is_given_up: bool,
}

impl Pending {
    /// The pages that it writes to; none if it is no write.
    fn pages(&self) -> Option<Range<u64>> {
        let Change::Written(at, bytes) = &self.change else { return None };
        Some(at / PAGE_BYTES..(at + bytes.len() as u64).div_ceil(PAGE_BYTES))
    }
}

enum Change {
    Written(u64, Vec<u8>),
    Length(u64),
    Emptied,
}

#[derive(Clone)]
enum NameChange {
    Made(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Made(path, _) | NameChange::Renamed(path, _) | NameChange::Removed(path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Made(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Renamed(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            NameChange::Removed(path) => {
                names.remove(path);
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Written(at, written) => write(bytes, *at as usize, written),
            Change::Length(length) => bytes.resize((*length as usize).max(bytes.len()), 0),
            Change::Emptied => bytes.clear(),
        }
    }

    /// Some of its sectors reach the disk: those for which `reaches` is true.
    fn apply_some(&self, bytes: &mut Vec<u8>, reaches: &mut dyn FnMut() -> bool) {
        let Change::Written(at, written) = self else {
            if reaches() {
                self.apply(bytes);
            }
            return;
        };
        let (mut at, mut rest) = (*at as usize, &written[..]);
        while !rest.is_empty() {
            let (sector, after) = rest.split_at(rest.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
            if reaches() {
                write(bytes, at, sector);
            }
            (at, rest) = (at + sector.len(), after);
        }
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    bytes.resize(bytes.len().max(at + written.len()), 0);
    bytes[at..at + written.len()].copy_from_slice(written);
}

impl FileModel {
    /// A file with that name is there, durably. Returns its number.
    pub fn add(&mut self, path: PathBuf, bytes: Vec<u8>) -> u64 {
        self.last_node += 1;
        self.nodes.insert(self.last_node, Node { durable: bytes, pending: Vec::new() });
        self.names.insert(path.clone(), self.last_node);
        self.durable_names.insert(path, self.last_node);
        self.last_node
    }

    /// Whether the file of that number has that name.
    pub fn is_named(&self, path: &Path, node: u64) -> bool {
        self.names.get(path) == Some(&node)
    }

    /// A file is made, or emptied if `known` is its number. Returns its number.
    pub fn make(&mut self, path: &Path, known: Option<u64>) -> u64 {
        if let Some(node) = known {
            self.change(node, Change::Emptied);
            return node;
        }
        self.last_node += 1;
        self.nodes.insert(self.last_node, Node::default());
        self.rename_by(NameChange::Made(path.to_owned(), self.last_node));
        self.last_node
    }

    /// Bytes are written.
    pub fn write(&mut self, node: u64, at: u64, bytes: &[u8]) {
        self.change(node, Change::Written(at, bytes.to_vec()));
    }

    /// The file is at least that long.
    pub fn lengthen(&mut self, node: u64, length: u64) {
        self.change(node, Change::Length(length));
    }

    fn change(&mut self, node: u64, change: Change) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.pending.push(Pending { change, is_given_up: false });
        }
    }

    /// What was written to the file is durable. What a sync before had given up is so only where a page of it was written again since.
    pub fn sync(&mut self, node: u64) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let Node { durable, pending } = node;
        let again: Vec<_> = pending.iter().filter(|pending| !pending.is_given_up).filter_map(Pending::pages).collect();
        pending.retain(|pending| {
            let is_written =
                |pages: &Range<u64>| again.iter().any(|other| pages.start < other.end && other.start < pages.end);
            let stays = pending.is_given_up && pending.pages().is_some_and(|pages| !is_written(&pages));
            if !stays {
                pending.change.apply(durable);
            }
            stays
        });
    }

    /// A sync has failed: what was written before it is written by none that follows, and is still seen.
    pub fn give_up(&mut self, node: u64) {
        let pending = self.nodes.get_mut(&node).map(|node| &mut node.pending);
        pending.into_iter().flatten().for_each(|pending| pending.is_given_up = true);
    }

    /// A file gets another name.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.rename_by(NameChange::Renamed(from.to_owned(), to.to_owned()));
    }

    /// A name is removed.
    pub fn remove(&mut self, path: &Path) {
        self.rename_by(NameChange::Removed(path.to_owned()));
    }

    fn rename_by(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// The names in a directory are durable.
    pub fn sync_directory(&mut self, directory: &Path) {
        let durable = &mut self.durable_names;
        self.pending_names.retain(|change| {
            let is_there = change.directory() == Some(directory);
            if is_there {
                change.apply(durable);
            }
            !is_there
        });
    }

    /// The machine stops. Returns the files that are found, as names and bytes. Of the names in a directory, what was done last may be lost;
    /// of bytes, any sectors.
    pub fn crash(&mut self, draw: &mut Draw) -> Vec<(PathBuf, Vec<u8>)> {
        let mut pending = std::mem::take(&mut self.pending_names);
        while let Some(directory) = pending.first().and_then(NameChange::directory).map(Path::to_owned) {
            let (here, others): (Vec<_>, Vec<_>) =
                pending.into_iter().partition(|change| change.directory() == Some(&*directory));
            let kept = draw.below(here.len() + 1);
            here[..kept].iter().for_each(|change| change.apply(&mut self.durable_names));
            pending = others;
        }
        let found = self.durable_names.iter().filter_map(|(path, node)| Some((path.clone(), self.nodes.get(node)?)));
        found.map(|(path, node)| (path, node.crashed(draw))).collect()
    }
}

impl Node {
    fn crashed(&self, draw: &mut Draw) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if self.pending.is_empty() {
            return bytes;
        }
        let how = draw.below(4);
        // In order, up to a sector that is drawn; or any of them.
        let mut left = draw.below(64);
        for Pending { change, .. } in &self.pending {
            match how {
                0 => {}
                1 => change.apply(&mut bytes),
                2 => change.apply_some(&mut bytes, &mut || {
                    left = left.saturating_sub(1);
                    left > 0
                }),
                _ => change.apply_some(&mut bytes, &mut || draw.chance(500)),
            }
        }
        bytes
    }
}
