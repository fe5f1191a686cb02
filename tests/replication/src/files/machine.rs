//! A machine on which a copy has its files: real files, and beside them a model of what a crash would leave.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use durability_simulation::draw::Draw;
use logservice::store::file_store::files::Step;
use logservice::store::file_store::watch::{Deed, Watcher};

use super::model::FileModel;

/// What happens to a step that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process ends before it, or in the middle of it.
    Stop,
    /// The disk cannot do it.
    Io,
    /// The disk has no room.
    NoSpace,
}

/// The machine.
pub struct Machine(Mutex<State>);

struct State {
    model: FileModel,
    draw: Draw,
    /// The number of each file in the model, by that of the file system.
    nodes: HashMap<u64, u64>,
    /// After so many steps, that happens.
    fault: Option<(u64, Fault)>,
    /// A fault has happened to what is being done.
    has_failed: bool,
    /// The process has ended: nothing is done any more.
    has_stopped: bool,
    /// A step that this machine only pretends to do.
    lie: Option<Step>,
}

impl Machine {
    /// With the files below `directory`, which are durable.
    pub fn new(directory: &Path, lie: Option<Step>, draw: Draw) -> Self {
        let (model, nodes) = (FileModel::default(), HashMap::new());
        let mut state = State { model, draw, nodes, fault: None, has_failed: false, has_stopped: false, lie };
        let files = files_below(directory).into_iter();
        state.hold(files.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect());
        Machine(Mutex::new(state))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Something happens after so many steps.
    pub fn arm(&self, steps: u64, fault: Fault) {
        self.lock().fault = Some((steps, fault));
    }

    /// Nothing is to happen.
    pub fn disarm(&self) {
        self.lock().fault = None;
    }

    /// Something else is done now.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.has_failed = state.has_stopped;
    }

    /// Whether something has happened to a step since that began.
    pub fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Whether the process has ended.
    pub fn has_stopped(&self) -> bool {
        self.lock().has_stopped
    }

    /// Nothing is done to files any more.
    pub fn stop(&self) {
        self.lock().has_stopped = true;
    }

    /// Another process begins. If the machine has stopped, it finds what is left of the files below `directory`.
    pub fn restart(&self, directory: &Path, is_machine: bool) -> io::Result<()> {
        let mut state = self.lock();
        if is_machine {
            let State { model, draw, .. } = &mut *state;
            let found = model.crash(draw);
            files_below(directory).into_iter().try_for_each(fs::remove_file)?;
            found.iter().try_for_each(|(path, bytes)| fs::write(path, bytes))?;
            state.hold(found);
        }
        (state.has_stopped, state.has_failed) = (false, false);
        Ok(())
    }
}

impl State {
    fn hold(&mut self, found: Vec<(PathBuf, Vec<u8>)>) {
        let mut model = FileModel::default();
        let add = |(path, bytes): (PathBuf, Vec<u8>)| Some((fs::metadata(&path).ok()?.ino(), model.add(path, bytes)));
        self.nodes = found.into_iter().filter_map(add).collect();
        self.model = model;
    }

    /// The number of a file in the model. All that is changed was made or found.
    fn node(&self, file: &File) -> u64 {
        let number = file.metadata().map(|metadata| metadata.ino());
        number.ok().and_then(|number| self.nodes.get(&number).copied()).unwrap_or_else(|| panic!("an unknown file"))
    }

    /// What happens in the step's place, if anything does.
    fn fault(&mut self, deed: &Deed<'_>) -> Option<io::Result<()>> {
        let (left, fault) = self.fault?;
        if left > 0 {
            self.fault = Some((left - 1, fault));
            return None;
        }
        (self.fault, self.has_failed) = (None, true);
        match (fault, deed) {
            (Fault::Stop, Deed::Write(file, at, bytes)) => {
                self.has_stopped = true;
                let written = &bytes[..self.draw.below(bytes.len() + 1)];
                self.model.write(self.node(file), *at, written);
                Some(file.write_all_at(written, *at).and(Err(ended())))
            }
            (Fault::Stop, _) => {
                self.has_stopped = true;
                Some(Err(ended()))
            }
            (Fault::NoSpace, Deed::Create(_) | Deed::Allocate(..) | Deed::Write(..)) => {
                Some(Err(io::ErrorKind::StorageFull.into()))
            }
            (_, Deed::Sync(file)) => {
                self.model.give_up(self.node(file));
                Some(Err(io::Error::other("the disk has failed")))
            }
            _ => Some(Err(io::Error::other("the disk has failed"))),
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the process has ended")
}

impl Watcher for Machine {
    fn instead(&self, step: Step, deed: &Deed<'_>) -> Option<io::Result<()>> {
        let mut state = self.lock();
        if state.has_stopped {
            return Some(Err(ended()));
        }
        if let Some(done) = state.fault(deed) {
            return Some(done);
        }
        if state.lie == Some(step) {
            return Some(Ok(()));
        }
        match deed {
            Deed::Create(_) => None,
            Deed::Allocate(file, length) => {
                let node = state.node(file);
                state.model.lengthen(node, *length);
                None
            }
            Deed::Write(file, at, bytes) => {
                let node = state.node(file);
                state.model.write(node, *at, bytes);
                None
            }
            Deed::Sync(file) => {
                let node = state.node(file);
                state.model.sync(node);
                Some(Ok(()))
            }
            Deed::SyncDirectory(path) => {
                state.model.sync_directory(path);
                Some(Ok(()))
            }
            Deed::Rename(from, to) => {
                state.model.rename(from, to);
                None
            }
            Deed::Remove(path) => {
                state.model.remove(path);
                None
            }
        }
    }

    fn created(&self, path: &Path, file: &File) {
        let Ok(number) = file.metadata().map(|metadata| metadata.ino()) else { return };
        let mut state = self.lock();
        // The file system may give a number again when its file is gone.
        let known = state.nodes.get(&number).copied().filter(|&node| state.model.is_named(path, node));
        let node = state.model.make(path, known);
        state.nodes.insert(number, node);
    }
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}
