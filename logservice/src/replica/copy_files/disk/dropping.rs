//! Entries that are not needed any more: dropping them from a copy's beginning, and what becomes of their files.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use raft::eraftpb::ConfState;

use super::super::head::Head;
use super::super::segment::Segment;
use super::{lock, Shared};
use crate::base::file_error::FileError;
use crate::replica::copy::Base;
use crate::store::MediumError;

impl Shared {
    /// As [`CopyDisk::trim`].
    ///
    /// [`CopyDisk::trim`]: crate::replica::copy::CopyDisk::trim
    pub(super) fn trim(
        &self,
        offset: u64,
        upto: u64,
        members_at: &dyn Fn(u64) -> ConfState,
    ) -> Result<Base, MediumError> {
        let is_open = self.is_open.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*is_open || self.queue.has_failed() {
            return Err(MediumError::new("the copy is closed"));
        }
        let mut head = lock(&self.head);
        let (checkpoint, line) = {
            let noted = lock(&self.checkpoint);
            let is_persisted = noted.checkpoint.position.index <= self.persisted.load(Ordering::Acquire);
            let checkpoint = if is_persisted { &noted.checkpoint } else { &head.checkpoint };
            (checkpoint.clone(), self.log.line_of(noted.checkpoint.position.index))
        };
        let upto = upto.min(checkpoint.position.index);
        let droppable = self.log.droppable(|segment, next| {
            // Bytes of a log that was restarted are not needed.
            next.before.index <= upto && (segment.line < line || next.before.end <= offset)
        });
        let Some((_, position)) = droppable else { return Ok(head.base.clone()) };
        let base = Base { position, members: members_at(position.index) };
        let next = Head { base: base.clone(), checkpoint, ..head.clone() };
        match next.replace(&self.directory, &self.group) {
            Ok(()) => *head = next,
            Err(error) => return Err(error.into_error().into()),
        }
        let dropped = self.log.drop_before(position);
        self.note_bound();
        drop(head);
        drop(is_open);
        if let Err(error) = self.release(dropped) {
            tracing::warn!("entries that were trimmed are not deleted yet: {error}");
        }
        Ok(base)
    }

    /// Removes the files of segments that are not needed any more. Those that nobody reads may become spares instead. Continues after an
    /// error, and returns the first.
    pub(super) fn release(&self, segments: Vec<Arc<Segment>>) -> Result<(), FileError> {
        let is_open = self.is_open.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*is_open {
            return Ok(());
        }
        let file_of =
            |segment: Arc<Segment>| (segment.path.clone(), Arc::try_unwrap(segment).ok().map(Segment::into_file));
        self.spare.recycle_or_remove(segments.into_iter().map(file_of))
    }
}
