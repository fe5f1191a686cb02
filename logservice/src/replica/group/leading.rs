//! What a copy proposes and confirms while its service decides over the log.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::StateRole;

use super::acknowledged::Proposed;
use super::rule_switches::{holds, Rule};
use super::{Event, Group};
use crate::replica::entry::{AppendEntry, StateEntry};
use crate::store::Append;

/// The most bytes that are joined in an entry. A single append may be longer.
const ENTRY_BYTES: usize = 1 << 20;

/// What came of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed, and in force.
    Done,
    /// Nothing came of it: the state was of another revision.
    Conflict {
        /// The revision of the state, with all that is proposed.
        found: u64,
    },
    /// Nothing came of it: this service does not decide in that term.
    NotLeader,
    /// It may be committed later, or not: this service decides no more.
    Unknown,
}

/// Another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateChange {
    /// Names the proposal in [`Event::Proposed`].
    pub id: u64,
    /// One more than that of the state that it replaces.
    pub revision: u64,
    /// The epoch whose appends may follow.
    pub epoch: u64,
    /// Where the log begins anew, if it does.
    pub restart_at: Option<u64>,
    /// The state.
    pub state: Bytes,
}

/// A term in which this copy leads.
pub(super) struct Leading {
    term: u64,
    /// The end of the log with all that is proposed; none until an entry of the term is applied.
    tail: Option<Tail>,
    waiting: VecDeque<Waiting>,
    /// Entries that are proposed and not applied.
    pub(super) proposed: Proposed,
    /// States that are proposed: the index of the entry, and the proposal.
    states: VecDeque<(u64, u64)>,
    /// Questions that wait for the next round of confirmation.
    unasked: Vec<u64>,
    /// Rounds on their way: their numbers, and the questions that each answers.
    rounds: VecDeque<(u64, Vec<u64>)>,
    last_round: u64,
}

/// The end of the log with all that is proposed.
#[derive(Debug, Clone, Copy)]
struct Tail {
    end: u64,
    revision: u64,
    epoch: u64,
}

enum Waiting {
    Append(Append),
    State(StateChange),
}

impl Leading {
    pub(super) fn new(term: u64) -> Self {
        Leading {
            term,
            tail: None,
            waiting: VecDeque::new(),
            proposed: Proposed::default(),
            states: VecDeque::new(),
            unasked: Vec::new(),
            rounds: VecDeque::new(),
            last_round: 0,
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    /// Whether its service decides over the log.
    pub(super) fn decides(&self) -> bool {
        self.tail.is_some()
    }
}

impl Group {
    /// Appends to the log, if this service still decides in `term`. If it does not, that was said ([`Event::Follows`]), and the append
    /// is dropped: whether it is committed is for the next leader to say.
    pub fn append(&mut self, term: u64, append: Append) {
        if let Some(leading) = self.leading_in(term) {
            leading.waiting.push_back(Waiting::Append(append));
        }
    }

    /// Replaces the state after all that was appended before. The outcome is told by [`Event::Proposed`].
    pub fn replace_state(&mut self, term: u64, change: StateChange) {
        match self.leading_in(term) {
            Some(leading) => leading.waiting.push_back(Waiting::State(change)),
            None => self.events.push(Event::Proposed { id: change.id, outcome: Outcome::NotLeader }),
        }
    }

    /// Finds out whether this service is the only one that decides, at some moment after this call. Told by [`Event::Confirmed`].
    pub fn confirm(&mut self, term: u64, id: u64) {
        match self.leading_in(term) {
            Some(_) if !holds(Rule::ConfirmsByRound) => self.events.push(Event::Confirmed { id, is_sole: true }),
            Some(leading) => leading.unasked.push(id),
            None => self.events.push(Event::Confirmed { id, is_sole: false }),
        }
    }

    /// Whether this copy leads in `term`, and may propose.
    pub(super) fn leading_in(&mut self, term: u64) -> Option<&mut Leading> {
        self.leading.as_mut().filter(|leading| leading.term == term && leading.tail.is_some())
    }

    /// Hands all that waits to the consensus crate.
    pub(super) fn propose(&mut self, unix_ms: u64) {
        // While leadership is handed over, what waits waits on.
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || raft.lead_transferee.is_some() || self.is_standing() {
            return;
        }
        let Some(mut leading) = self.leading.take() else { return };
        if leading.term == self.node.raft.term {
            self.ask(&mut leading);
            while let Some(entry) = leading.next_entry(unix_ms, &mut self.events) {
                let NextEntry { data, change, tail } = entry;
                let index = self.node.raft.raft_log.last_index() + 1;
                let mut message = Message { from: self.member, ..Message::default() };
                message.set_msg_type(MessageType::MsgPropose);
                message.set_entries(vec![Entry { data, ..Entry::default() }].into());
                if self.node.raft.step(message).is_err() {
                    // It was no leader after all. What is proposed next would leave a gap.
                    leading.tail = None;
                    let outcome = Outcome::NotLeader;
                    self.events.extend(change.map(|id| Event::Proposed { id, outcome }));
                    break;
                }
                leading.tail = Some(tail);
                leading.proposed.note(index, change.is_none().then_some(tail.end));
                leading.states.extend(change.map(|id| (index, id)));
            }
        }
        self.leading = Some(leading);
    }

    fn ask(&mut self, leading: &mut Leading) {
        if leading.unasked.is_empty() || leading.tail.is_none() {
            return;
        }
        leading.last_round += 1;
        leading.rounds.push_back((leading.last_round, std::mem::take(&mut leading.unasked)));
        self.node.read_index(leading.last_round.to_le_bytes().to_vec());
    }

    /// A quorum has confirmed that this copy leads, after the round of that number began.
    pub(super) fn confirmed(&mut self, round: &[u8]) {
        let (Ok(round), Some(leading)) = (round.try_into().map(u64::from_le_bytes), &mut self.leading) else { return };
        let answered = leading.rounds.iter().take_while(|(number, _)| *number <= round).count();
        for (_, ids) in leading.rounds.drain(..answered) {
            self.events.extend(ids.into_iter().map(|id| Event::Confirmed { id, is_sole: true }));
        }
    }

    /// An entry was applied.
    pub(super) fn note_applied(&mut self, entry: &Entry, told_end: &mut u64) {
        let waits_for = self.leading.as_ref().filter(|leading| leading.tail.is_none()).map(Leading::term);
        if waits_for == Some(entry.term) {
            self.tell_end(self.machine.position().end, told_end);
            self.begin_to_lead();
        }
        let Some(leading) = &mut self.leading else { return };
        let done = leading.states.iter().take_while(|(index, _)| *index <= entry.index).count();
        let done = leading.states.drain(..done).map(|(_, id)| Event::Proposed { id, outcome: Outcome::Done });
        let before = self.events.len();
        self.events.extend(done);
        if self.events.len() > before {
            self.tell_commit_now();
        }
    }

    /// An entry of the copy's own term is applied, so all that earlier leaders have proposed is, or never will be.
    pub(super) fn begin_to_lead(&mut self) {
        let checkpoint = self.machine.checkpoint();
        let tail = Tail { end: checkpoint.position.end, revision: checkpoint.revision, epoch: checkpoint.epoch };
        let Some(leading) = &mut self.leading else { return };
        leading.tail = Some(tail);
        self.told = None;
        self.events.push(Event::Leads { term: leading.term });
    }

    /// This copy leads no more.
    pub(super) fn stop_leading(&mut self) {
        let Some(leading) = self.leading.take() else { return };
        let outcome = if holds(Rule::DoubtsProposals) { Outcome::Unknown } else { Outcome::NotLeader };
        let states = leading.states.iter().map(|&(_, id)| Event::Proposed { id, outcome });
        self.events.extend(states);
        let waiting = leading.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::State(change) => Some(Event::Proposed { id: change.id, outcome: Outcome::NotLeader }),
            Waiting::Append(_) => None,
        });
        self.events.extend(waiting);
        let asked = leading.rounds.into_iter().flat_map(|(_, ids)| ids).chain(leading.unasked);
        self.events.extend(asked.map(|id| Event::Confirmed { id, is_sole: false }));
        self.told = None;
    }
}

impl Tail {
    /// Whether an append continues the log, in the epoch that writes.
    fn admits(&self, append: &Append) -> bool {
        let is_at_end = append.offset == self.end || !holds(Rule::AdmitsAtEnd);
        let is_of_epoch = append.epoch == self.epoch || !holds(Rule::AdmitsEpoch);
        (is_at_end && is_of_epoch) || !holds(Rule::AppliesWhatContinues)
    }
}

/// The next entry to be proposed.
struct NextEntry {
    data: Bytes,
    /// The proposal of another state that it is.
    change: Option<u64>,
    tail: Tail,
}

impl Leading {
    /// Takes the next entry from what waits: one state, or all appends that can be joined.
    fn next_entry(&mut self, unix_ms: u64, events: &mut Vec<Event>) -> Option<NextEntry> {
        let tail = self.tail?;
        loop {
            match self.waiting.pop_front()? {
                Waiting::State(change) if change.revision != tail.revision + 1 && holds(Rule::AdmitsNextRevision) => {
                    let outcome = Outcome::Conflict { found: tail.revision };
                    events.push(Event::Proposed { id: change.id, outcome });
                }
                Waiting::State(change) => {
                    let StateChange { id, revision, epoch, restart_at, state } = change;
                    let entry = StateEntry { revision, epoch, time_ms: unix_ms, restart_at, bytes: state };
                    let tail = Tail { end: restart_at.unwrap_or(tail.end), revision, epoch };
                    return Some(NextEntry { data: entry.encode(), change: Some(id), tail });
                }
                Waiting::Append(first) if !tail.admits(&first) => {
                    // It follows one that was refused, or its epoch is over: its sender knows.
                }
                Waiting::Append(first) => {
                    let (epoch, offset) = (first.epoch, first.offset);
                    let mut end = offset + first.payload.len() as u64;
                    let mut parts = vec![first.payload];
                    while let Some(Waiting::Append(next)) = self.waiting.front() {
                        let bytes = (end - offset) as usize + next.payload.len();
                        if next.epoch != epoch || next.offset != end || bytes > ENTRY_BYTES {
                            break;
                        }
                        end += next.payload.len() as u64;
                        if let Some(Waiting::Append(next)) = self.waiting.pop_front() {
                            parts.push(next.payload);
                        }
                    }
                    let tail = Tail { end, ..tail };
                    return Some(NextEntry {
                        data: AppendEntry::encode(epoch, offset, unix_ms, &parts),
                        change: None,
                        tail,
                    });
                }
            }
        }
    }
}
