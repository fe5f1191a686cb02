//! Opens a copy's directory: finds its segments, where it ends, and what of it is left over.
//!
//! Segments are taken in the order in which they were made. Each replaces all entries from its first index on, so one that begins at or
//! below where an older one does leaves nothing of that. Only the last one can be torn (`tail.rs`), because a segment is begun only after
//! everything before it was synced. Its header and those of the others say what lies before each, so no more has to be read of the older
//! ones than where terms change. They are verified later (`verify.rs`).
//!
//! Nothing is removed before the directories are synced: what has taken its place might be in the page cache only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::SegmentHeader;
use super::head::Head;
use super::log::Log;
use super::segment::Segment;
use super::tail;
use super::verify::verify_followed;
use super::vote::VoteFile;
use super::writer::Active;
use crate::base::file_error::{FileError, InFile};
use crate::encryption::KeyRing;
use crate::replica::copy::{FoundCopy, Position};
use crate::store::file_store::errors::damage_at;
use crate::store::file_store::files::Step;
use crate::store::file_store::segment::parse_segment_name;
use crate::store::file_store::spare::is_spare_name;
use crate::store::file_store::writer::UNNAMED;
use crate::store::OpenError;

/// Name of the directory of the segments in a copy's directory.
pub const LOG: &str = "log";

/// What was found in a copy's directory.
pub struct Found {
    /// What it says to the group.
    pub copy: FoundCopy,
    /// The vote's file.
    pub vote: VoteFile,
    /// The file with base and checkpoint.
    pub head: Head,
    /// The segments.
    pub log: Log,
    /// The last entry.
    pub last: Position,
    /// Where the next record goes; none if there is no segment.
    pub active: Option<Active>,
    /// The sequence of the next segment.
    pub next_sequence: u64,
}

/// Opens the copy in `directory`. Blocks on I/O.
pub fn open(directory: &Path, group: &str, keys: &KeyRing) -> Result<Found, OpenError> {
    let log_directory = directory.join(LOG);
    let head = Head::read(directory, group)?;
    let vote = VoteFile::open(directory, group)?;
    Step::OpenDirectorySync.sync_directory(directory)?;
    Step::OpenDirectorySync.sync_directory(&log_directory)?;
    let Listed { segments, mut left_over } = list(&log_directory)?;
    let next_sequence = segments.last().map_or(0, |last| last.0 + 1).max(head.first_sequence);
    let base = head.base.position;
    let (segments, others) = needed(segments, &head);
    left_over.extend(others);
    let log = Log::new(base);
    for (sequence, first_index, path) in segments {
        let mut segment = open_segment(&path, sequence, first_index, group, true)?;
        segment.unlock(keys).map_err(|source| OpenError::Locked { place: path.display().to_string(), source })?;
        segment.line = log.line_for(&segment.header);
        log.push(Arc::new(segment));
    }
    let copy = FoundCopy {
        vote: vote.vote(),
        base: head.base.clone(),
        checkpoint: head.checkpoint.clone(),
        lost_in: head.lost_in,
        ..FoundCopy::default()
    };
    let mut found = Found { copy, vote, head, log, last: base, active: None, next_sequence };
    found.read_segments()?;
    found.check_checkpoint(&log_directory)?;
    for path in &left_over {
        Step::OpenRemove.remove_file(path).in_file("cannot remove", path)?;
    }
    Ok(found)
}

impl Found {
    fn read_segments(&mut self) -> Result<(), OpenError> {
        let (base, mut at) = (self.head.base.position, self.log.first());
        if let Some(first) = at.as_ref().filter(|first| first.header.before != base) {
            let reason = format!("it begins after {:?}, but the copy begins after {base:?}", first.header.before);
            return Err(damage_at(&first.path, 0, reason).into());
        }
        while let Some(segment) = at {
            at = self.log.after(&segment, segment.end_index());
            match &at {
                Some(next) => self.read_terms(&segment, &next.header)?,
                None => self.read_last(segment)?,
            }
        }
        Ok(())
    }

    /// Finds where terms begin in a segment that another follows.
    fn read_terms(&mut self, segment: &Arc<Segment>, next: &SegmentHeader) -> Result<(), OpenError> {
        let term = segment.header.before.term;
        if term == next.before.term {
            self.note_term(segment.header.first_index(), term);
            return Ok(());
        }
        let mut terms = Vec::new();
        verify_followed(segment, next, &mut |entry| terms.push((entry.index, entry.term)), &mut || Ok(()))?;
        terms.into_iter().for_each(|(index, term)| self.note_term(index, term));
        Ok(())
    }

    fn read_last(&mut self, segment: Arc<Segment>) -> Result<(), OpenError> {
        let end = tail::find_end(&segment, &mut |entry| self.note_term(entry.index, entry.term))?;
        tail::cut(&segment, &end)?;
        tail::write_again(&segment, &end)?;
        segment.note_verified();
        self.last = end.place.before;
        self.active = Some(Active { segment, at: end.place.at });
        Ok(())
    }

    fn note_term(&mut self, index: u64, term: u64) {
        if self.copy.terms.last().is_none_or(|&(_, newest)| newest != term) {
            self.copy.terms.push((index, term));
        }
    }

    fn check_checkpoint(&mut self, log: &Path) -> Result<(), OpenError> {
        let (last, least) = (self.last.index, self.head.checkpoint.position.index);
        if last < least {
            let (path, at) = match &self.active {
                Some(active) => (active.segment.path.as_path(), active.at),
                None => (log, 0),
            };
            let reason = format!("the copy ends at index {last}, but it was persisted up to {least} at least");
            return Err(damage_at(path, at, reason).into());
        }
        self.copy.last_index = last;
        Ok(())
    }
}

/// Opens a segment, for writing too if `writes`. It has to be the one that its name says.
pub fn open_segment(
    path: &Path,
    sequence: u64,
    first_index: u64,
    group: &str,
    writes: bool,
) -> Result<Segment, OpenError> {
    let damaged = |reason: String| OpenError::Damaged(damage_at(path, 0, reason));
    let segment = Segment::open(path, writes)?.map_err(damaged)?;
    let header = &segment.header;
    if header.group != group || header.sequence != sequence || header.first_index() != first_index {
        let (of, sequence, first) = (&header.group, header.sequence, header.first_index());
        return Err(damaged(format!(
            "it is number {sequence} of '{of}' and begins at index {first}, not what its name says"
        )));
    }
    Ok(segment)
}

/// Sequence, first index and path of a segment.
pub type Named = (u64, u64, PathBuf);

/// The segments that count, and the others: of before the copy began anew, replaced by later ones, or wholly below the base. Names alone
/// tell that. A file that is left over may hold anything: it may have become another segment under a name that a crash has lost.
pub fn needed(segments: Vec<Named>, head: &Head) -> (Vec<Named>, Vec<PathBuf>) {
    let (mut counts, mut others): (Vec<Named>, Vec<PathBuf>) = Default::default();
    for (sequence, first_index, path) in segments {
        if sequence < head.first_sequence {
            others.push(path);
            continue;
        }
        let kept = counts.partition_point(|before| before.1 < first_index);
        others.extend(counts.drain(kept..).map(|(_, _, path)| path));
        counts.push((sequence, first_index, path));
    }
    let is_below = |pair: &&[Named]| pair[1].1 <= head.base.position.index + 1;
    let below = counts.windows(2).take_while(is_below).count();
    others.extend(counts.drain(..below).map(|(_, _, path)| path));
    (counts, others)
}

/// The files of a copy's log directory.
#[derive(Default)]
pub struct Listed {
    /// As they were made.
    pub segments: Vec<Named>,
    /// Files that never became segments.
    pub left_over: Vec<PathBuf>,
}

/// Lists the files of a copy's log directory.
pub fn list(log: &Path) -> Result<Listed, FileError> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(log).in_file("cannot list", log)? {
        let entry = entry.in_file("cannot list", log)?;
        let name = entry.file_name();
        match name.to_str().and_then(parse_segment_name) {
            Some((sequence, first_index)) => listed.segments.push((sequence, first_index, entry.path())),
            None if name.to_str().is_some_and(is_spare_name) || name == UNNAMED => listed.left_over.push(entry.path()),
            None => tracing::warn!("{} is no file of the log; left alone", entry.path().display()),
        }
    }
    listed.segments.sort();
    Ok(listed)
}
