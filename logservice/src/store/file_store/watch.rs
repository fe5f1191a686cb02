//! For tests: somebody who watches what a thread does to files. He may keep a model of what a crash would leave, do something else in a
//! step's place, or let nothing happen any more, as if the machine had stopped between two steps.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::steps::Step;

/// What is about to be done to a file.
pub enum Deed<'a> {
    /// It is created, or emptied.
    Create(&'a Path),
    /// It is given that length in bytes.
    Allocate(&'a File, u64),
    /// Bytes are written at a position.
    Write(&'a File, u64, &'a [u8]),
    /// Its bytes are made durable.
    Sync(&'a File),
    /// The names in a directory are made durable.
    SyncDirectory(&'a Path),
    /// It gets another name, and takes the place of a file that has it.
    Rename(&'a Path, &'a Path),
    /// Its name is removed.
    Remove(&'a Path),
}

/// Watches. Called by the thread that does it, before it does.
pub trait Watcher: Send + Sync {
    /// What was done in the deed's place; none if it is to be done.
    fn instead(&self, step: Step, deed: &Deed<'_>) -> Option<io::Result<()>>;
    /// A file was created, or emptied.
    fn created(&self, path: &Path, file: &File);
}

thread_local! {
    static WATCHER: RefCell<Option<Arc<dyn Watcher>>> = const { RefCell::new(None) };
}

/// Does something while `watcher` watches this thread. What other threads do is not watched.
pub fn watched<T>(watcher: Arc<dyn Watcher>, run: impl FnOnce() -> T) -> T {
    struct Restores(Option<Arc<dyn Watcher>>);
    impl Drop for Restores {
        fn drop(&mut self) {
            WATCHER.set(self.0.take());
        }
    }
    let _restores = Restores(WATCHER.replace(Some(watcher)));
    run()
}

fn watcher() -> Option<Arc<dyn Watcher>> {
    WATCHER.with_borrow(Clone::clone)
}

/// Whether anybody watches.
pub(super) fn is_watched() -> bool {
    WATCHER.with_borrow(Option::is_some)
}

pub(super) fn instead(step: Step, deed: &Deed<'_>) -> Option<io::Result<()>> {
    watcher()?.instead(step, deed)
}

pub(super) fn created(path: &Path, file: &File) {
    if let Some(watcher) = watcher() {
        watcher.created(path, file);
    }
}
