//! What is handed to the disk, and what waits until that has it.

use raft::eraftpb::{Message, Snapshot};
use raft::Ready;

use super::entries::vote_of;
use super::machine::{Divergence, Machine};
use super::rule_switches::{holds, Rule};
use super::{install, Event, Group};
use crate::replica::copy::{Install, Persist};
use crate::replica::entry::BadEntry;

/// Messages that wait for what has this number to be persisted, and whether the disk has been given anything under it.
pub(super) struct Unpersisted {
    pub number: u64,
    pub is_on_disk: bool,
    last: Option<(u64, u64)>,
    /// The term of the vote in it.
    term: Option<u64>,
    messages: Vec<Message>,
}

impl Group {
    /// What has that number is persisted, and all before it.
    pub fn persisted(&mut self, number: u64) {
        let Some(at) = self.unpersisted.iter().position(|waiting| waiting.number > number && waiting.is_on_disk) else {
            return self.release(self.unpersisted.len());
        };
        self.release(at);
    }

    pub(super) fn release(&mut self, count: usize) {
        let released: Vec<_> = self.unpersisted.drain(..count).collect();
        let Some(last) = released.last() else { return };
        self.node.on_persist_ready(last.number);
        if self.installing.is_some_and(|number| number <= last.number) {
            self.installing = None;
            self.node.advance_apply_to(self.machine.position().index);
        }
        for waiting in released {
            self.persisted_term = self.persisted_term.max(waiting.term.unwrap_or(0));
            if let Some((index, term)) = waiting.last {
                self.node.mut_store().note_persisted(index, term);
            }
            self.messages.extend(waiting.messages);
        }
    }

    /// Puts what is to be persisted where it can be read, and returns it; none if there is nothing.
    pub(super) fn persist(&mut self, ready: &mut Ready) -> Result<Option<Persist>, Divergence> {
        let number = ready.number();
        // A commit index alone is not worth a sync: it is told again.
        let vote = ready.hs().map(vote_of).filter(|vote| *vote != self.vote && holds(Rule::StoresVote));
        self.vote = vote.unwrap_or(self.vote);
        let mut messages = ready.take_persisted_messages();
        if !holds(Rule::HoldsMessages) {
            self.messages.append(&mut messages);
        }
        self.send_early(&mut messages);
        let install = match ready.snapshot().is_empty() {
            true => None,
            false => Some(self.install(number, ready.snapshot())?),
        };
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        let last = entries.last().map(|entry| (entry.index, entry.term));
        let term = vote.map(|vote| vote.term);
        let is_on_disk = install.is_some() || vote.is_some() || last.is_some();
        self.unpersisted.push_back(Unpersisted { number, is_on_disk, last, term, messages });
        Ok(is_on_disk.then_some(Persist { number, install, vote, entries, checkpoint: None }))
    }

    fn install(&mut self, number: u64, snapshot: &Snapshot) -> Result<Install, Divergence> {
        let index = snapshot.get_metadata().index;
        let install = install::decode(snapshot).map_err(|reason| Divergence::Bad(BadEntry { index, reason }))?;
        self.node.mut_store().install(install.base.clone(), install.checkpoint.clone());
        self.machine = Machine::new(install.checkpoint.clone());
        self.marks.clear();
        self.installing = holds(Rule::WaitsForInstall).then_some(number);
        self.events.push(Event::Installed { end: install.base.position.end });
        Ok(install)
    }
}
