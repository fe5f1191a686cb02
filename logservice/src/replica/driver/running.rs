//! One group, with its disk and those who wait for it. Lives in the thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{Entry, Message};

use super::fetches::Fetches;
use super::shared::{DiskEvents, Shared};
use super::Network;
use crate::replica::copy::{CopyDisk, CopyEvents};
use crate::replica::group::{Divergence, Event, Fetch, Group, Outcome, StateChange, ELECTION_TICKS};
use crate::replica::handle::{OnConfirmed, OnOutcome, Replacement};
use crate::store::{Append, ReadError};

/// Ticks for which a disk may owe an answer before the decision is handed over: a second.
const SLOW_DISK_TICKS: u32 = 20;
/// Bytes of entries that a disk may have to write before a copy takes no more of them from others.
const MOST_UNWRITTEN_BYTES: usize = 128 << 20;
/// Ticks between two handovers for a slow disk: the others' may be no better.
const HANDOVER_PAUSE_TICKS: u32 = 200;
/// Ticks that a group whose disk has failed has to hand over the decision.
const LAST_TICKS: u32 = 2 * ELECTION_TICKS as u32;

/// A group that is driven.
pub(super) struct Running {
    pub group: Group,
    disk: Arc<dyn CopyDisk>,
    disk_events: Arc<DiskEvents>,
    pub shared: Arc<Shared>,
    /// Whether something has happened since the group was asked what is to be done.
    pub is_dirty: bool,
    last_ask: u64,
    outcomes: HashMap<u64, OnOutcome>,
    confirms: HashMap<u64, OnConfirmed>,
    /// Appends of this term that are not committed: where each ends, and its bytes.
    in_flight: VecDeque<(u64, usize)>,
    leads_in: Option<u64>,
    handed_to_disk: u64,
    persisted: u64,
    /// What the disk was given and has not written: the number of each, and the bytes of its entries.
    unwritten: VecDeque<(u64, usize)>,
    unwritten_bytes: usize,
    /// Entries were dropped since that was below the bound.
    is_dropping: bool,
    /// Ticks for which the disk owes an answer.
    owed_ticks: u32,
    /// Entries that are to be applied are being read from the disk, and for how many ticks.
    reading_ticks: Option<u32>,
    handover_pause_ticks: u32,
    /// Ticks until the group stops, if its disk has failed.
    last_ticks: Option<u32>,
    /// The copy was full, and takes no entries until there is room for them.
    awaits_room: bool,
    /// The copy lacks what it may have acknowledged.
    has_lost: bool,
    /// Whether the state was that of the log's end when that was last looked at.
    was_whole: bool,
}

impl Running {
    pub fn new(
        mut group: Group,
        disk: Arc<dyn CopyDisk>,
        disk_events: Arc<DiskEvents>,
        shared: Arc<Shared>,
        awaits_room: bool,
    ) -> Self {
        group.set_awaits_room(awaits_room);
        shared.set_awaits_room(awaits_room);
        Running {
            awaits_room,
            has_lost: group.lost_in().is_some(),
            was_whole: group.is_whole(),
            group,
            disk,
            disk_events,
            shared,
            is_dirty: false,
            last_ask: 0,
            outcomes: HashMap::new(),
            confirms: HashMap::new(),
            in_flight: VecDeque::new(),
            leads_in: None,
            handed_to_disk: 0,
            persisted: 0,
            unwritten: VecDeque::new(),
            unwritten_bytes: 0,
            is_dropping: false,
            owed_ticks: 0,
            reading_ticks: None,
            handover_pause_ticks: 0,
            last_ticks: None,
        }
    }

    pub fn append(&mut self, term: u64, append: Append) {
        let payload_bytes = append.payload.len();
        if self.leads_in != Some(term) {
            return self.shared.release(payload_bytes);
        }
        self.in_flight.push_back((append.offset.saturating_add(payload_bytes as u64), payload_bytes));
        self.group.append(term, append);
    }

    pub fn replace_state(&mut self, term: u64, replacement: Replacement, done: OnOutcome) {
        self.last_ask += 1;
        let Replacement { revision, epoch, restart_at, state } = replacement;
        self.outcomes.insert(self.last_ask, done);
        self.group.replace_state(term, StateChange { id: self.last_ask, revision, epoch, restart_at, state });
    }

    pub fn confirm(&mut self, term: u64, done: OnConfirmed) {
        self.last_ask += 1;
        self.confirms.insert(self.last_ask, done);
        self.group.confirm(term, self.last_ask);
    }

    /// Old entries were read. Damage among them is noticed as if it had been looked for. A copy that cannot read what it has to apply is of no
    /// use.
    pub fn fetched(&mut self, fetch: Fetch, read: Result<Vec<Entry>, ReadError>) {
        match &read {
            Err(ReadError::Damaged(damage)) => self.disk_events.damaged(damage),
            Err(error) if fetch.is_to_apply => {
                let low = fetch.low;
                self.disk_events.failed(&format!("entries from index {low} on, which are committed, cannot be read: {error}"));
            }
            Err(ReadError::Medium(error)) => tracing::error!(
                "'{}': entries from index {} on, which another service lacks, cannot be read; they are read again later: {error}",
                self.shared.name,
                fetch.low
            ),
            Ok(_) | Err(ReadError::Trimmed { .. }) => {}
        }
        if fetch.is_to_apply {
            self.reading_ticks = None;
        }
        self.group.fetched(fetch, read);
    }

    /// A message has come. A disk that hangs is not given ever more entries: those that come are dropped then, and sent again later.
    pub fn step(&mut self, message: Message) {
        if !message.entries.is_empty() && self.unwritten_bytes > MOST_UNWRITTEN_BYTES {
            if !std::mem::replace(&mut self.is_dropping, true) {
                let (name, mebibytes) = (&self.shared.name, self.unwritten_bytes >> 20);
                tracing::warn!(
                    "'{name}': the disk has {mebibytes} MiB to write, so this copy takes nothing until it has"
                );
            }
            return;
        }
        self.is_dropping &= self.unwritten_bytes > MOST_UNWRITTEN_BYTES;
        self.group.step(message);
    }

    pub fn persisted(&mut self, number: u64) {
        while let Some(&(_, bytes)) = self.unwritten.front().filter(|&&(unwritten, _)| unwritten <= number) {
            self.unwritten_bytes -= bytes;
            self.unwritten.pop_front();
        }
        (self.persisted, self.owed_ticks) = (self.persisted.max(number), 0);
        self.group.persisted(number);
    }

    /// Time passes. Says why the group has to stop, if it has.
    pub fn tick(&mut self) -> Result<(), String> {
        self.look_for_room();
        self.group.tick();
        self.note_disk_failure();
        if let Some(ticks) = &mut self.last_ticks {
            *ticks -= 1;
            if *ticks == 0 || self.leads_in.is_none() {
                let reason = self.disk_events.failure().map(|failure| failure.reason.clone());
                return Err(reason.unwrap_or_else(|| "its disk has failed".to_owned()));
            }
            self.hand_over();
        }
        self.handover_pause_ticks = self.handover_pause_ticks.saturating_sub(1);
        self.owed_ticks = if self.handed_to_disk > self.persisted { self.owed_ticks + 1 } else { 0 };
        self.reading_ticks = self.reading_ticks.map(|ticks| ticks + 1);
        let longest_ticks = self.owed_ticks.max(self.reading_ticks.unwrap_or(0));
        let is_slow = longest_ticks >= SLOW_DISK_TICKS && self.handover_pause_ticks == 0;
        // Also if it has just been elected, and waits for the disk until it decides.
        if is_slow && self.hand_over() {
            self.handover_pause_ticks = HANDOVER_PAUSE_TICKS;
            tracing::warn!(
                "'{}': the disk has not answered for a second, so another service decides",
                self.shared.name
            );
        }
        Ok(())
    }

    /// A copy that was full goes on when there is room.
    fn look_for_room(&mut self) {
        if self.awaits_room && self.disk.has_room() {
            self.awaits_room = false;
            self.group.set_awaits_room(false);
            self.shared.set_awaits_room(false);
            tracing::info!("'{}': there is space again, and this copy goes on", self.shared.name);
        }
    }

    /// If the disk has failed, the group stops with one of the next ticks: once another service decides, if it does now.
    pub fn note_disk_failure(&mut self) {
        let Some(failure) = self.disk_events.failure().filter(|_| self.last_ticks.is_none()) else { return };
        let reason = &failure.reason;
        tracing::error!("'{}': this copy is not used any more: {reason}", self.shared.name);
        self.shared.note_failed(reason);
        self.last_ticks = Some(LAST_TICKS);
    }

    /// Hands the decision over to the member that has most of those that were heard a moment ago. False if there is none: ask again.
    fn hand_over(&mut self) -> bool {
        let best = self.group.status().successors(self.group.member()).max_by_key(|&(_, matched)| matched);
        if let Some((member, _)) = best {
            self.group.transfer_to(member);
        }
        best.is_some()
    }

    /// Does what is to be done. False if the group has to stop, as this service is no member any more.
    pub fn work(&mut self, unix_ms: u64, network: &dyn Network, fetches: &Fetches) -> Result<bool, Divergence> {
        self.is_dirty = false;
        let work = self.group.work(unix_ms)?;
        // They leave before the disk is told, whose thread may take this one's place.
        if !work.messages.is_empty() {
            for message in work.messages {
                network.send(&self.shared.name, message);
            }
            network.flush();
        }
        for persist in work.persists {
            self.handed_to_disk = self.handed_to_disk.max(persist.number);
            let bytes: usize = persist.entries.iter().map(|entry| entry.data.len()).sum();
            if bytes > 0 {
                self.unwritten.push_back((persist.number, bytes));
                self.unwritten_bytes += bytes;
            }
            self.disk.persist(persist);
        }
        for fetch in work.fetches {
            if fetch.is_to_apply {
                self.reading_ticks = Some(0);
            }
            fetches.read(self.disk_events.id(), fetch, self.disk.clone(), self.disk_events.turns());
        }
        for event in work.events {
            self.tell(event);
        }
        if self.has_lost && self.group.lost_in().is_none() {
            self.has_lost = false;
            self.shared.note_regained();
            tracing::info!("'{}': this copy has all again that it may have acknowledged", self.shared.name);
        }
        // The entry that makes it so may be one of which nothing is told: a change of the members, the last entry of a log that is idle.
        let is_whole = self.group.is_whole();
        if is_whole && !self.was_whole {
            self.shared.note_whole();
        }
        self.was_whole = is_whole;
        Ok(!work.is_removed)
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Proposed { id, outcome } => {
                if let Some(done) = self.outcomes.remove(&id) {
                    done(outcome);
                }
                return;
            }
            Event::Confirmed { id, is_sole } => {
                if let Some(done) = self.confirms.remove(&id) {
                    done(is_sole);
                }
                return;
            }
            Event::Leads { term } => {
                self.release(u64::MAX);
                self.leads_in = Some(term);
                tracing::info!("'{}': this service decides over the log, in term {term}", self.shared.name);
            }
            Event::Follows { term, leader } => {
                self.release(u64::MAX);
                if self.leads_in.take().is_some() {
                    tracing::info!("'{}': this service does not decide any more, in term {term}", self.shared.name);
                }
                tracing::debug!("'{}': follows {leader:?} in term {term}", self.shared.name);
            }
            Event::Committed { end } => self.release(end),
            Event::StateReplaced { restart_at: Some(_), .. } | Event::Installed { .. } => self.release(u64::MAX),
            // They count until this disk has them as well: what waits for it is bounded.
            Event::StateReplaced { restart_at: None, .. } | Event::Acknowledged { .. } => {}
        }
        self.shared.happened(&event, &self.group);
    }

    /// Appends up to `end` are not in flight any more.
    fn release(&mut self, end: u64) {
        while self.in_flight.front().is_some_and(|&(append_end, _)| append_end <= end) {
            self.shared.release(self.in_flight.pop_front().map_or(0, |(_, payload_bytes)| payload_bytes));
        }
    }

    /// Answers all that wait: nothing happens any more. `reason` is told to who listens.
    pub fn stop(mut self, reason: Option<&str>) {
        self.release(u64::MAX);
        if let Some(reason) = reason {
            self.shared.stopped(reason);
        }
        self.outcomes.into_values().for_each(|done| done(Outcome::Unknown));
        self.confirms.into_values().for_each(|done| done(false));
    }
}
