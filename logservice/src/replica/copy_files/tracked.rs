//! For tests: copies in files whose disks can be held still, made to fail, and damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::disk::CopyFilesDisk;
use super::format::{SegmentHeader, RECORD_HEADER_BYTES};
use super::harness_tests::records;
use super::CopyFiles;
use crate::replica::copy::{Base, CopyDisks, CopyDraft, CopyEvents, Install, OpenedCopy};
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

    /// Those that are open.
    pub fn opened(&self) -> Vec<Arc<CopyFilesDisk>> {
        self.lock().iter().filter_map(|(_, disk)| disk.upgrade()).collect()
    }

    /// From now on nothing can be written to the copy of `group` that is open, which has entries.
    pub fn fail_writes(&self, group: &str) {
        let of_group = |(name, disk): &(String, Weak<CopyFilesDisk>)| disk.upgrade().filter(|_| name == group);
        let opened: Vec<_> = self.lock().iter().filter_map(of_group).collect();
        opened.iter().for_each(|disk| disk.fail_writes());
    }

    /// Changes the byte at `offset` of the log of `group`, which is on the medium.
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
                    let at = (at + RECORD_HEADER_BYTES + header.data_bytes as usize) as u64 - (end - offset);
                    return change_byte(path, at);
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

/// No other byte is written: the copy may go on meanwhile.
fn change_byte(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

impl CopyDisks for TrackedCopies {
    fn list(&self) -> Result<Vec<String>, MediumError> {
        CopyDisks::list(&self.copies)
    }

    fn create(&self, group: &str, install: &Install) -> Result<(), MediumError> {
        CopyDisks::create(&self.copies, group, install)
    }

    fn draft(&self, group: &str, base: &Base) -> Result<Box<dyn CopyDraft>, MediumError> {
        CopyDisks::draft(&self.copies, group, base)
    }

    fn open(&self, group: &str, events: Arc<dyn CopyEvents>) -> Result<Option<OpenedCopy>, OpenError> {
        let Some((disk, found)) = self.copies.open_disk(group, events)? else { return Ok(None) };
        let disk = Arc::new(disk);
        let mut opened = self.lock();
        opened.retain(|(_, disk)| disk.strong_count() > 0);
        opened.push((group.to_owned(), Arc::downgrade(&disk)));
        drop(opened);
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
