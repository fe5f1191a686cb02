//! For tests: copies in files whose disks can be held still, made to fail, and damaged.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::disk::CopyFilesDisk;
use super::format::{SegmentHeader, RECORD_HEADER_BYTES};
use super::harness_tests::{change, records};
use super::CopyFiles;
use crate::replica::copy::{CopyDisks, CopyEvents, Install, OpenedCopy};
use crate::store::file_store::FileStoreOptions;
use crate::store::{MediumError, OpenError, RemovedStore};

/// Copies that remember which of them are open.
pub struct TrackedCopies {
    copies: CopyFiles,
    opened: Mutex<Vec<(String, Weak<CopyFilesDisk>)>>,
}

impl TrackedCopies {
    /// As [`CopyFiles::new`].
    pub fn new(directory: &Path, options: FileStoreOptions) -> Self {
        TrackedCopies { copies: CopyFiles::new(directory, options), opened: Mutex::default() }
    }

    /// Does something while no copy writes to its files.
    pub fn while_still<T>(&self, run: impl FnOnce() -> T) -> T {
        let opened: Vec<_> = self.lock().iter().filter_map(|(_, disk)| disk.upgrade()).collect();
        let _held: Vec<_> = opened.iter().map(|disk| disk.hold_still()).collect();
        run()
    }

    /// From now on nothing can be written to the copy of `group` that is open.
    pub fn fail_writes(&self, group: &str) {
        let opened: Vec<_> =
            self.lock().iter().filter(|(name, _)| name == group).map(|(_, disk)| disk.clone()).collect();
        opened.iter().filter_map(Weak::upgrade).for_each(|disk| disk.fail_writes());
    }

    /// Changes the byte at `offset` of the log of `group`.
    pub fn damage(&self, group: &str, offset: u64) {
        let log = self.copies.directory.join(group).join(super::open::LOG);
        let listed = super::open::list(&log).expect("listed");
        for (_, _, path) in listed.segments.iter().rev() {
            let header = SegmentHeader::decode(&fs::read(path).expect("read")).expect("sound");
            let mut before = header.restart_at.unwrap_or(header.before.end);
            for (at, header) in records(path) {
                let end = header.after.end;
                // The bytes of the log are the last ones of a record's data.
                if (before..end).contains(&offset) {
                    let at = at + RECORD_HEADER_BYTES + header.data_bytes as usize - (end - offset) as usize;
                    return change(path, at, |bytes| bytes[0] ^= 1);
                }
                before = end;
            }
        }
        panic!("offset {offset} is nowhere");
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Weak<CopyFilesDisk>)>> {
        self.opened.lock().expect("not poisoned")
    }
}

impl CopyDisks for TrackedCopies {
    fn list(&self) -> Result<Vec<String>, MediumError> {
        CopyDisks::list(&self.copies)
    }

    fn create(&self, group: &str, install: &Install) -> Result<(), MediumError> {
        CopyDisks::create(&self.copies, group, install)
    }

    fn open(&self, group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError> {
        let Some((disk, found)) = self.copies.open_disk(group, events)? else { return Ok(None) };
        let disk = Arc::new(disk);
        self.lock().push((group.to_owned(), Arc::downgrade(&disk)));
        Ok(Some(OpenedCopy { disk, found }))
    }

    fn begin_anew(&self, group: &str, install: &Install) -> Result<(), OpenError> {
        CopyDisks::begin_anew(&self.copies, group, install)
    }

    fn remove(&self, group: &str) -> Result<(), MediumError> {
        CopyDisks::remove(&self.copies, group)
    }

    fn set_aside(&self, group: &str) -> Result<Arc<dyn RemovedStore>, MediumError> {
        CopyDisks::set_aside(&self.copies, group)
    }

    fn left_over(&self) -> Result<Vec<Arc<dyn RemovedStore>>, MediumError> {
        CopyDisks::left_over(&self.copies)
    }
}
