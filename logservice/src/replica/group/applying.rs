//! Committed entries are applied: what they add up to, and what the service is told of them.

use raft::eraftpb::{Entry, EntryType};

use super::machine::{Applied, Divergence};
use super::{Event, Group};
use crate::replica::copy::Persist;

impl Group {
    /// Applies entries, which a `Ready` of that number has brought.
    pub(super) fn apply(
        &mut self,
        number: u64,
        committed: Vec<Entry>,
        persists: &mut Vec<Persist>,
    ) -> Result<(), Divergence> {
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        let mut told_end = self.machine.position().end;
        for entry in &committed {
            let end_before = self.machine.position().end;
            let applied = self.machine.apply(entry)?;
            self.marks.note(self.machine.position());
            if entry.get_entry_type() != EntryType::EntryNormal {
                self.change_members(entry)?;
                persists.push(self.checkpoint_to_persist(number));
            }
            match applied {
                Applied::Nothing | Applied::Extended => {}
                Applied::BegunAnew => {
                    told_end = self.machine.position().end;
                    self.events.push(Event::Installed { end: told_end });
                    // Readers of the disk know by it where the log begins anew.
                    persists.push(self.checkpoint_to_persist(number));
                }
                Applied::StateReplaced { restarted } => {
                    // Not the end after a restart.
                    self.tell_end(end_before, &mut told_end);
                    let checkpoint = self.machine.checkpoint().clone();
                    let (revision, state) = (checkpoint.revision, checkpoint.state.clone());
                    let restart_at = restarted.then_some(checkpoint.position.end);
                    told_end = restart_at.unwrap_or(told_end);
                    self.events.push(Event::StateReplaced { revision, state, restart_at });
                    self.node.mut_store().set_checkpoint(checkpoint);
                    persists.push(self.checkpoint_to_persist(number));
                }
            }
            self.note_applied(entry, &mut told_end);
        }
        self.tell_end(self.machine.position().end, &mut told_end);
        self.node.advance_apply_to(last);
        self.node.mut_store().shrink(last);
        Ok(())
    }

    pub(super) fn checkpoint_to_persist(&self, number: u64) -> Persist {
        Persist { number, checkpoint: Some(self.machine.checkpoint().clone()), ..Persist::default() }
    }

    /// Says that the log is committed up to `end`, if it was not said.
    pub(super) fn tell_end(&mut self, end: u64, told: &mut u64) {
        if end > *told {
            *told = end;
            self.events.push(Event::Committed { end });
        }
    }
}
