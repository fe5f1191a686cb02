//! Checkpoints on their way into `COPY`. As a rule that is done now and then, by a thread of its own: an older one does as well.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::head::Head;
use super::super::writer::WriteError;
use super::{lock, Shared};
use crate::replica::copy::Checkpoint;
use crate::store::file_store::files::ReplaceError;
use crate::store::file_store::workers::Job;

/// The last checkpoint that was handed over.
pub struct Noted {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Whether it is newer than what `COPY` says.
    is_new: bool,
    /// A thread was asked to write it.
    is_requested: bool,
    /// When one was written last, or tried to.
    written: Instant,
}

impl Noted {
    /// The one that `COPY` says.
    pub fn written(checkpoint: Checkpoint) -> Self {
        Noted { checkpoint, is_new: false, is_requested: false, written: Instant::now() }
    }
}

impl Shared {
    /// Notes a checkpoint. Returns whether a thread has to be asked to write it now.
    pub(super) fn note_checkpoint(&self, checkpoint: Checkpoint, every: Duration) -> bool {
        let mut noted = lock(&self.checkpoint);
        if checkpoint.position.index < noted.checkpoint.position.index {
            return false;
        }
        (noted.checkpoint, noted.is_new) = (checkpoint, true);
        let is_due = noted.written.elapsed() >= every && !noted.is_requested;
        noted.is_requested |= is_due;
        is_due
    }

    /// Writes the last checkpoint if other members are in it than `COPY` says: who has an entry after a change has to have that on its disk
    /// (`group/members.rs`).
    pub(super) fn write_members(&self) -> Result<(), WriteError> {
        let is_known = {
            let (head, noted) = (lock(&self.head), lock(&self.checkpoint));
            let since = |checkpoint: &Checkpoint| checkpoint.members.last().map(|(since, _)| *since);
            !noted.is_new || since(&noted.checkpoint) == since(&head.checkpoint)
        };
        if is_known {
            return Ok(());
        }
        Ok(self.write_checkpoint().map_err(ReplaceError::into_error)?)
    }

    /// Writes the last checkpoint, if `COPY` has an older one.
    ///
    /// # Errors
    /// It was not written. `COPY` has that one or the older one, either of which is right, and the next checkpoint takes its place.
    fn write_checkpoint(&self) -> Result<(), ReplaceError> {
        let is_open = self.is_open.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut head = lock(&self.head);
        let mut noted = lock(&self.checkpoint);
        (noted.is_requested, noted.written) = (false, Instant::now());
        // What is not persisted here may be gone after a crash.
        let is_persisted = noted.checkpoint.position.index <= self.persisted.load(Ordering::Acquire);
        if !*is_open || !noted.is_new || !is_persisted || self.queue.has_failed() {
            return Ok(());
        }
        noted.is_new = false;
        let next = Head { checkpoint: noted.checkpoint.clone(), ..head.clone() };
        drop(noted);
        next.replace(&self.directory, &self.group)?;
        *head = next;
        if head.lost_in.is_some_and(|lost_in| lost_in < head.checkpoint.position.term) {
            head.lost_in = None;
            self.lost_in.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// As [`Shared::write_checkpoint`], of which an error is logged.
    pub(super) fn try_to_write_checkpoint(&self) {
        if let Err(error) = self.write_checkpoint() {
            tracing::warn!("copy of '{}': the checkpoint was not written: {}", self.group, error.into_error());
        }
    }
}

/// Writes the last checkpoint of a copy.
pub struct Checkpointing(pub Arc<Shared>);

impl Job for Checkpointing {
    fn run(&self, _others_wait: &dyn Fn() -> bool) -> bool {
        if let Some(_goes_on) = self.0.checkpointing.begin(&self.0.is_closing) {
            self.0.try_to_write_checkpoint();
        }
        false
    }
}
