//! A disk whose copy stands in real files. What they have reported as persisted is kept beside them, and what is found after a crash is
//! compared with that.

use logservice::replica::copy::{Base, FoundCopy, Install};
use logservice::store::{MediumError, ReadError};
use raft::eraftpb::{ConfState, Entry};

use crate::disk::Contents;
use crate::files::{Fault, Turn};
use crate::medium::{parts_of, Medium, Part};

/// The most steps on files before one that something happens to.
const STEPS_TO_FAULT: u64 = 60;

impl Contents {
    pub(crate) fn open_files(&mut self) -> Result<Option<FoundCopy>, String> {
        let Some(files) = &mut self.files else { return Ok(None) };
        // A service may end while it starts.
        if self.draw.chance(self.faults) {
            files.arm(self.draw.within(0..12), Fault::Stop);
        }
        let opened = files.open()?;
        files.disarm();
        let Some((found, entries)) = opened else {
            self.crash_files(self.committed);
            return Ok(None);
        };
        self.settle_doubt(&found);
        self.check_found(&found, &entries)?;
        self.unawaited += u64::from(found.last_index > self.medium.last());
        self.queue.clear();
        self.is_base_in_doubt = false;
        self.medium = Medium::of(found.clone(), entries);
        Ok(Some(found))
    }

    /// The copy is damaged, and begins anew. The process may end meanwhile.
    pub(crate) fn begin_files_anew(&mut self, install: &Install) {
        let Some(files) = &self.files else { return };
        if self.draw.chance(self.faults * 8) {
            files.arm(self.draw.within(0..8), Fault::Stop);
        }
        let begun = files.begin_anew(install);
        files.disarm();
        match begun {
            Ok(true) => self.is_anew(install),
            Ok(false) => {
                self.anew_in_doubt = Some(install.clone());
                self.crash_files(install.base.position.index);
            }
            Err(violation) => {
                self.violation.get_or_insert(violation);
            }
        }
        self.committed = install.base.position.index;
    }

    /// The copy has begun anew. Of what was on its way, a vote may be on the disk.
    fn is_anew(&mut self, install: &Install) {
        self.medium.begin_anew(install);
        self.is_base_in_doubt = false;
        self.queue.retain_mut(|persist| {
            (persist.install, persist.checkpoint) = (None, None);
            persist.entries.clear();
            persist.vote.is_some()
        });
    }

    /// If the process ended while the copy was to begin anew, it may have.
    fn settle_doubt(&mut self, found: &FoundCopy) {
        let Some(install) = self.anew_in_doubt.take() else { return };
        let is_anew = found.lost_in.is_some() && found.last_index == found.base.position.index;
        if is_anew && (&found.base, &found.checkpoint) == (&install.base, &install.checkpoint) {
            self.is_anew(&install);
        }
    }

    /// What was reported as persisted is there, and nothing that was never handed over.
    fn check_found(&self, found: &FoundCopy, entries: &[Entry]) -> Result<(), String> {
        let medium = &self.medium;
        let votes = self.queue.iter().filter_map(|persist| persist.vote);
        if found.vote != medium.vote && votes.clone().all(|vote| vote != found.vote) {
            return Err(format!("{:?} is found, and {:?} was persisted", found.vote, medium.vote));
        }
        // A copy that began anew has read the vote that is on the disk.
        let mut lost_in = votes.map(|vote| vote.term).chain([medium.lost_in.unwrap_or(0)]);
        // Of no meaning once the copy has a checkpoint of a later term.
        let is_regained = found.lost_in.is_none() && medium.lost_in < Some(found.checkpoint.position.term);
        let is_known = found.lost_in.is_some() == medium.lost_in.is_some()
            && lost_in.any(|term| term == found.lost_in.unwrap_or(0));
        if !is_regained && !is_known {
            return Err(format!("what was lost in {:?} is found, and not in {:?}", found.lost_in, medium.lost_in));
        }
        let mut installs = self.queue.iter().filter_map(|persist| persist.install.as_ref());
        let is_trimmed = self.is_base_in_doubt
            && (medium.base.position.index..=medium.last()).contains(&found.base.position.index)
            && found.base.position.index <= self.committed;
        let is_anew = found.base != medium.base && !is_trimmed;
        if is_anew && installs.all(|install| install.base != found.base) {
            return Err(format!("a copy that begins after {:?} is found, not after {:?}", found.base, medium.base));
        }
        // Entries may be gone that others were to replace.
        let replaced = self.queue.iter().filter_map(|persist| persist.entries.first()).map(|entry| entry.index - 1);
        let least = if is_anew { found.base.position.index } else { replaced.fold(medium.last(), u64::min) };
        if found.last_index < least {
            return Err(format!(
                "entries up to {} are found, and those up to {least} were persisted",
                found.last_index
            ));
        }
        for entry in entries {
            let is_kept = !is_anew && medium.entry(entry.index) == Some(entry);
            let mut given = self.queue.iter().flat_map(|persist| &persist.entries);
            if !is_kept && (entry.index <= least || given.all(|given| given != entry)) {
                return Err(format!("another entry {} is found than was persisted", entry.index));
            }
        }
        Ok(())
    }

    /// A turn of the threads. The number of what is persisted after it, if anything new is.
    pub(crate) fn sync_files(&mut self) -> Option<u64> {
        let files = self.files.as_ref()?;
        if self.draw.chance(self.faults) {
            let fault = self.draw.pick(&[Fault::Stop, Fault::Stop, Fault::Io, Fault::NoSpace]);
            files.arm(self.draw.within(0..STEPS_TO_FAULT), fault);
        }
        if self.draw.chance(400) {
            self.turn(true);
        }
        self.turn(false)
    }

    fn turn(&mut self, is_background: bool) -> Option<u64> {
        let files = self.files.as_ref()?;
        let number = match files.turn(is_background) {
            Ok(Turn::Persisted(number)) => number?,
            Ok(Turn::Failed) => return None,
            Err(violation) => {
                self.violation.get_or_insert(violation);
                return None;
            }
        };
        while self.queue.front().is_some_and(|persist| persist.number <= number) {
            let parts = self.queue.pop_front().map(parts_of).unwrap_or_default();
            // An older checkpoint does as well.
            let parts = parts.into_iter().filter(|part| !matches!(part, Part::Checkpoint(_)));
            for part in parts {
                if let Err(violation) = self.medium.write(part, None) {
                    self.violation.get_or_insert(violation);
                }
            }
        }
        Some(number)
    }

    /// Nothing happens to files any more.
    pub(crate) fn calm(&mut self) {
        self.faults = 0;
        self.files.iter().for_each(crate::files::Files::disarm);
    }

    pub(crate) fn crash_files(&mut self, applied: u64) {
        let Some(files) = &mut self.files else { return };
        files.disarm();
        self.torn += u64::from(files.has_failed());
        // As a rule the machine stops with the service.
        if let Err(violation) = files.crash(self.draw.chance(700)) {
            self.violation.get_or_insert(violation);
        }
        self.newest = 0;
        self.committed = applied;
    }

    pub(crate) fn read_files(&mut self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        if high > self.medium.last() + 1 {
            let violation = format!("entry {} is read from the disk before it is persisted", high - 1);
            self.violation.get_or_insert(violation);
        }
        match &self.files {
            Some(files) => files.entries(low, high, max_bytes),
            None => Ok(Vec::new()),
        }
    }

    pub(crate) fn trim_files(
        &mut self,
        offset: u64,
        upto: u64,
        members_at: &dyn Fn(u64) -> ConfState,
    ) -> Result<Base, MediumError> {
        let Some(files) = &self.files else { return Err(MediumError::new("there are no files")) };
        let trimmed = files.trim(offset, upto, members_at);
        self.is_base_in_doubt |= trimmed.is_err();
        let base = trimmed?;
        if base.position.index > self.committed.min(self.medium.last()) {
            let violation =
                format!("entries up to {} are dropped, which are not known to be committed", base.position.index);
            self.violation.get_or_insert(violation);
        } else {
            self.medium.drop_to(base.clone());
        }
        Ok(base)
    }
}
