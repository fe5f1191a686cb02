//! What was promised to anybody, and whether it still holds. These are the invariants of docs/design/replication.md.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use logservice::replica::copy::{Install, Vote};
use logservice::replica::group::{Event, Outcome};
use raft::eraftpb::{Message, MessageType};

use crate::client::{Change, Client};
use crate::medium::Medium;
use crate::member::{Life, Member};
use crate::seen::Seen;
use crate::truth::Truth;
use crate::voters::Voters;

pub use durability_simulation::runner::Violation;

/// What was promised so far.
pub struct Promises {
    /// All that was ever committed.
    pub truth: Truth,
    /// Clients were told that the entries up to this index are durable.
    pub acknowledged: u64,
    /// Entries that were acknowledged before their leader has applied them, and their terms.
    early: BTreeMap<u64, u64>,
    /// All that were acknowledged, by the term of the leader that has said so.
    acknowledged_in: BTreeMap<u64, u64>,
    /// Which member was elected in which term.
    elected: BTreeMap<u64, u64>,
    /// States of which clients were told that nothing came.
    void: BTreeSet<Bytes>,
    /// What happened, to show that it did.
    pub seen: Seen,
}

impl Promises {
    /// Nothing was promised.
    pub fn new(install: &Install) -> Self {
        let acknowledged = install.base.position.index;
        Promises {
            truth: Truth::new(install),
            acknowledged,
            early: BTreeMap::new(),
            acknowledged_in: BTreeMap::new(),
            elected: BTreeMap::new(),
            void: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    /// The newest term in which any member was elected.
    pub fn newest_term(&self) -> u64 {
        self.elected.last_key_value().map_or(0, |(&term, _)| term)
    }

    /// A member may have been elected.
    pub fn check_elected(&mut self, id: u64, life: &Life) -> Result<(), Violation> {
        let status = life.status();
        if !status.is_leader {
            return Ok(());
        }
        let first = *self.elected.entry(status.term).or_insert_with(|| {
            self.seen.elections += 1;
            id
        });
        match first == id {
            true => Ok(()),
            false => Err(format!("members {first} and {id} were elected in term {}", status.term)),
        }
    }

    /// What a copy says of itself is the truth.
    pub fn check_copy(&mut self, member: &mut Member) -> Result<(), Violation> {
        let Some(life) = &mut member.life else { return Ok(()) };
        let (id, status) = (member.id, life.status());
        if status.committed < life.committed {
            return Err(format!("member {id}: {} is committed, and {} was", status.committed, life.committed));
        }
        life.committed = status.committed;
        let mut disk = member.disk.lock();
        if let Some(violation) = &disk.violation {
            return Err(format!("member {id}: {violation}"));
        }
        disk.committed = disk.committed.max(status.committed);
        let applied = status.applied;
        // A copy that begins anew has passed over what lies before.
        for index in (member.applied + 1).max(status.base.index + 1)..=applied.index {
            let Some(entry) = disk.medium.entry(index) else {
                return Err(format!("member {id} has applied entry {index}, which it has not persisted"));
            };
            if index == self.truth.last() + 1 {
                self.truth.extend(entry)?;
                if self.truth.sum(index).is_some_and(|sum| self.void.contains(&sum.state)) {
                    return Err(format!("entry {index} is committed, of which a client was told that nothing came"));
                }
                self.seen.committed += 1;
            }
            if self.truth.entry(index) != Some(entry) {
                return Err(format!("member {id} has applied another entry {index} than others"));
            }
        }
        // A base that is being installed may be lost in a crash.
        if applied.index <= disk.medium.last() {
            member.applied = member.applied.max(applied.index);
        }
        if applied.index == 0 {
            // It has come later, and has got nothing yet.
            return Ok(());
        }
        let voters = Voters::of(&status.members);
        if self.truth.voters(applied.index) != Some(&voters) {
            let others = self.truth.voters(applied.index);
            return Err(format!("member {id} has {voters:?} at {}, and others had {others:?}", applied.index));
        }
        let Some(sum) = self.truth.sum(applied.index) else {
            return Err(format!("member {id} has applied {}, and {} was committed", applied.index, self.truth.last()));
        };
        if sum.position != applied {
            return Err(format!("member {id} stands at {applied:?}, and others stood at {:?}", sum.position));
        }
        let checkpoint = life.group.checkpoint();
        let known = checkpoint.state_index.max(applied.index);
        let sum = self.truth.sum(known).filter(|sum| {
            (sum.revision, sum.epoch, &sum.state) == (checkpoint.revision, checkpoint.epoch, &checkpoint.state)
        });
        if sum.is_none() {
            return Err(format!("member {id} has another state at {known} than others: {checkpoint:?}"));
        }
        Ok(())
    }

    /// A message leaves. What it tells must have been persisted.
    pub fn check_message(&self, message: &Message, medium: &Medium, told: &mut Vote) -> Result<(), Violation> {
        let (kind, vote) = (message.get_msg_type(), medium.vote);
        let is_free = match kind {
            MessageType::MsgRequestPreVote => true,
            MessageType::MsgRequestPreVoteResponse => !message.reject,
            _ => false,
        };
        let is_told = is_free || message.term <= vote.term.max(medium.base.position.term);
        // In a term that is over on the medium, this member votes no more, and what it had then it had.
        let is_over = message.term < vote.term;
        let is_kept = match kind {
            MessageType::MsgRequestVote => vote.member == message.from,
            MessageType::MsgRequestVoteResponse => message.reject || vote.member == message.to,
            MessageType::MsgAppendResponse => message.reject || message.index <= medium.last(),
            _ => true,
        };
        if !is_free && message.term > told.term {
            *told = Vote { term: message.term, member: 0 };
        }
        match kind {
            MessageType::MsgRequestVote if !is_over => told.member = message.from,
            MessageType::MsgRequestVoteResponse if !is_over && !message.reject => told.member = message.to,
            _ => {}
        }
        match is_told && (is_over || is_kept) {
            true => Ok(()),
            false => Err(format!(
                "{kind:?} of term {} and index {} leaves, while {:?} and entries up to {} are persisted",
                message.term,
                message.index,
                medium.vote,
                medium.last()
            )),
        }
    }

    /// Something was said to the service.
    pub fn hear(&mut self, id: u64, life: &mut Life, event: &Event, applied: u64) -> Result<(), Violation> {
        match event {
            Event::Leads { term } => {
                check_answered(id, life)?;
                self.seen.leads += 1;
                // One that was elected long ago may learn only now that it leads, and is not told of what came later.
                let acknowledged = self.acknowledged_in.range(..term).map(|(_, &index)| index).max().unwrap_or(0);
                if applied < acknowledged {
                    return Err(format!(
                        "member {id} leads at {applied}, and entries up to {acknowledged} were acknowledged"
                    ));
                }
                let sum = self.truth.sum(applied).filter(|sum| {
                    (sum.position.end, sum.revision, &sum.state)
                        == (life.view.end, life.view.revision, &life.view.state)
                });
                if sum.is_none() {
                    return Err(format!("member {id} leads with {:?}, which is not what is committed", life.view));
                }
                life.client = Some(Client::new(*term, &life.view));
            }
            Event::Follows { .. } => {
                check_answered(id, life)?;
                life.client = None;
            }
            Event::Committed { end } if *end <= life.view.end => {
                return Err(format!("member {id}: the log's committed end goes back from {} to {end}", life.view.end));
            }
            Event::Committed { end } => {
                life.view.end = *end;
                if let Some(client) = &life.client {
                    self.acknowledge(client.term, applied);
                }
            }
            Event::Acknowledged { index, end } => {
                let Some(term) = life.client.as_ref().map(|client| client.term) else {
                    return Err(format!("member {id} acknowledges entry {index}, and does not decide"));
                };
                if *end <= life.view.end {
                    return Err(format!(
                        "member {id} acknowledges {end}, and the log is committed up to {}",
                        life.view.end
                    ));
                }
                self.seen.early += 1;
                self.early.insert(*index, term);
                let last = self.acknowledged_in.entry(term).or_default();
                *last = (*index).max(*last);
            }
            Event::StateReplaced { revision, state, restart_at } => {
                if *revision != life.view.revision + 1 {
                    return Err(format!("member {id}: revision {revision} follows {}", life.view.revision));
                }
                self.seen.restarts += u64::from(life.leads() && restart_at.is_some());
                (life.view.revision, life.view.state) = (*revision, state.clone());
                life.view.end = restart_at.unwrap_or(life.view.end);
            }
            Event::Proposed { id: change, outcome } => {
                let client = life.client.as_mut();
                let Some((client, change)) = client.and_then(|client| {
                    let change = client.changes.remove(change)?;
                    Some((client, change))
                }) else {
                    return Err(format!("member {id}: the outcome of {change} was told, and nobody waits for it"));
                };
                let (standing, is_done) = (life.view.revision, *outcome == Outcome::Done);
                if is_done && (standing, &life.view.state) != (change.change.revision, &change.change.state) {
                    return Err(format!("member {id}: {change:?} is said to be in force, and {standing} is"));
                }
                self.settle(client, change, *outcome, applied)?;
            }
            Event::Confirmed { id: question, is_sole } => {
                let asked =
                    life.client.as_mut().and_then(|client| Some((client.term, client.questions.remove(question)?)));
                let Some((term, elected)) = asked else {
                    return Err(format!("member {id}: question {question} was answered, and nobody waits for it"));
                };
                if *is_sole && elected > term {
                    return Err(format!(
                        "member {id}, elected in term {term}, is said to be the only one that decides, and one was elected in term \
                         {elected} before that was asked"
                    ));
                }
                self.seen.confirmed += u64::from(*is_sole);
                self.seen.unconfirmed += u64::from(!is_sole);
            }
            Event::Installed { end } => {
                self.seen.installs += 1;
                let status = life.status();
                life.view.end = *end;
                // The state came with the base, and stays when the log begins anew among the entries that lead up to it.
                if status.applied.index == status.base.index {
                    life.look();
                }
            }
        }
        Ok(())
    }

    /// A client is told what came of a change.
    fn settle(&mut self, client: &mut Client, change: Change, outcome: Outcome, applied: u64) -> Result<(), Violation> {
        let Change { change, is_next } = change;
        match outcome {
            Outcome::Done => {
                self.seen.changes += 1;
                self.acknowledge(client.term, applied);
                (client.revision, client.epoch) = (change.revision, change.epoch);
                client.end = change.restart_at.unwrap_or(client.end);
            }
            Outcome::Unknown => self.seen.unknown += 1,
            Outcome::Conflict { found } if is_next => {
                return Err(format!("revision {} was refused, and {found} stood", change.revision));
            }
            Outcome::Conflict { .. } | Outcome::NotLeader => {
                let count =
                    if outcome == Outcome::NotLeader { &mut self.seen.dropped } else { &mut self.seen.conflicts };
                *count += 1;
                self.void.insert(change.state.clone());
                let last = self.truth.last();
                if self.truth.sum(last).is_some_and(|sum| sum.state == change.state) {
                    return Err(format!("a client is told that nothing came of {change:?}, which is committed"));
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, term: u64, applied: u64) {
        self.seen.acknowledged += 1;
        let index = self.acknowledged_in.entry(term).or_default();
        *index = applied.max(*index);
        self.acknowledged = self.acknowledged.max(applied);
    }

    /// What has to hold after every step: what was acknowledged is on the media of two members.
    pub fn check(&mut self, members: &[Member]) -> Result<(), Violation> {
        self.check_early(members)?;
        let index = self.acknowledged;
        let Some(sum) = self.truth.sum(index) else {
            return Err(format!("{index} was acknowledged, and is not committed"));
        };
        // One that has lost it takes no part until it has all again.
        let holds =
            |member: &&Member| member.lost_in().is_some() || member.disk.lock().medium.holds(index, sum.position.term);
        let holders = members.iter().filter(holds).count();
        match holders >= 2 {
            true => Ok(()),
            false => Err(format!("entries up to {index} were acknowledged, and {holders} members have persisted them")),
        }
    }
}

impl Promises {
    /// What was acknowledged before its leader has applied it is on the media of two members, and is what is committed there.
    fn check_early(&mut self, members: &[Member]) -> Result<(), Violation> {
        while let Some((index, term)) = self.early.first_key_value().map(|(&index, &term)| (index, term)) {
            let Some(committed) = self.truth.sum(index).map(|sum| sum.position.term) else { break };
            if committed != term {
                return Err(format!(
                    "entry {index} of term {term} was acknowledged, and one of {committed} is committed"
                ));
            }
            self.early.remove(&index);
        }
        for (&index, &term) in &self.early {
            let holds = |member: &&Member| member.lost_in().is_some() || member.disk.lock().medium.holds(index, term);
            let holders = members.iter().filter(holds).count();
            if holders < 2 {
                return Err(format!("entry {index} was acknowledged, and {holders} members have persisted it"));
            }
        }
        Ok(())
    }
}

/// Nobody waits for a leader that leads no more.
fn check_answered(id: u64, life: &Life) -> Result<(), Violation> {
    let Some(client) = &life.client else { return Ok(()) };
    match client.changes.is_empty() && client.questions.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "member {id} leads no more, and {} changes and {} questions were not answered",
            client.changes.len(),
            client.questions.len()
        )),
    }
}
