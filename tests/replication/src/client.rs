//! What the store of a shard does with a copy that leads: it appends at the end, replaces the state, and asks for confirmation.

use std::collections::BTreeMap;

use bytes::Bytes;
use durability_simulation::draw::Draw;
use logservice::replica::group::{Group, StateChange};
use logservice::store::Append;

use crate::member::View;
use crate::profile::Profile;
use crate::seen::Seen;

/// The store of a copy that leads.
pub struct Client {
    /// The consensus term in which it leads.
    pub term: u64,
    /// The epoch in which it appends.
    pub epoch: u64,
    /// Revision of the state.
    pub revision: u64,
    /// The end of the log with all that was appended.
    pub end: u64,
    /// The changes whose outcome is not known yet.
    pub changes: BTreeMap<u64, Change>,
    /// The questions that were not answered yet, and the newest term in which any member was elected when each was asked.
    pub questions: BTreeMap<u64, u64>,
}

/// A change of the state.
#[derive(Debug, Clone)]
pub struct Change {
    /// What was asked for.
    pub change: StateChange,
    /// Whether it is of the revision that stands, so that it cannot be refused for that.
    pub is_next: bool,
}

/// The state of that epoch. `unique` tells it from all others.
pub fn state_of(epoch: u64, unique: u64) -> Bytes {
    let mut state = epoch.to_le_bytes().to_vec();
    state.extend_from_slice(&unique.to_le_bytes());
    state.into()
}

/// The epoch in a state.
pub fn epoch_of(state: &Bytes) -> u64 {
    state.first_chunk().map_or(0, |epoch| u64::from_le_bytes(*epoch))
}

impl Client {
    /// It opens on a copy that leads in `term`.
    pub fn new(term: u64, view: &View) -> Self {
        Client {
            term,
            epoch: epoch_of(&view.state),
            revision: view.revision,
            end: view.end,
            changes: BTreeMap::new(),
            questions: BTreeMap::new(),
        }
    }

    /// Does something. `elected` is the newest term in which any member was elected, `next_id` a number that was not used yet.
    pub fn act(
        &mut self,
        group: &mut Group,
        profile: &Profile,
        draw: &mut Draw,
        elected: u64,
        next_id: u64,
        seen: &mut Seen,
    ) -> String {
        if draw.chance(profile.questions) {
            self.questions.insert(next_id, elected);
            group.confirm(self.term, next_id);
            return format!("asks {next_id}, while term {elected} is the newest");
        }
        if draw.chance(profile.stale) {
            return self.act_out_of_place(group, profile, draw, next_id, seen);
        }
        if !self.changes.is_empty() {
            return "waits for its change".to_owned();
        }
        if draw.chance(profile.changes) {
            let restart_at = draw.chance(200).then(|| draw.within(0..200));
            let epoch = self.epoch + draw.pick(&[0, 1, 1]);
            return self.change(group, self.revision + 1, epoch, restart_at, next_id);
        }
        let first = self.end;
        for _ in 0..draw.within(1..4) {
            self.append(group, profile, draw);
            seen.appends += 1;
        }
        format!("appends from {first} to {} in epoch {}", self.end, self.epoch)
    }

    fn append(&mut self, group: &mut Group, profile: &Profile, draw: &mut Draw) {
        let payload: Bytes = draw_bytes(profile, draw);
        let append = Append { epoch: self.epoch, offset: self.end, payload };
        self.end += append.payload.len() as u64;
        group.append(self.term, append);
    }

    fn change(&mut self, group: &mut Group, revision: u64, epoch: u64, restart_at: Option<u64>, id: u64) -> String {
        let change = StateChange { id, revision, epoch, restart_at, state: state_of(epoch, id) };
        let is_next = self.changes.is_empty() && revision == self.revision + 1;
        self.changes.insert(id, Change { change: change.clone(), is_next });
        let text = format!("replaces the state: {change:?}");
        group.replace_state(self.term, change);
        text
    }

    /// What a copy must not take: an append that leaves a gap or overlaps, one of an epoch that is over, a state of another revision.
    fn act_out_of_place(
        &mut self,
        group: &mut Group,
        profile: &Profile,
        draw: &mut Draw,
        id: u64,
        seen: &mut Seen,
    ) -> String {
        let (mut epoch, mut offset) = (self.epoch, self.end);
        let is_over = self.changes.len() == 1
            && self.changes.values().all(|change| change.is_next && change.change.epoch > epoch);
        match draw.below(4) {
            0 if self.changes.is_empty() => offset += draw.within(1..50),
            1 if self.changes.is_empty() && offset > 0 => offset -= draw.within(1..offset + 1),
            2 if self.changes.is_empty() => epoch = epoch.saturating_sub(draw.within(1..3)),
            // The epoch is over as soon as the change before is in the log.
            0..=2 if is_over => {}
            _ => {
                let revision = self.revision + draw.pick(&[0, 2, 3]);
                return self.change(group, revision, epoch + 1, None, id);
            }
        }
        seen.stale += 1;
        let payload = draw_bytes(profile, draw);
        let text = format!("appends {} at {offset} in epoch {epoch}, out of place", payload.len());
        group.append(self.term, Append { epoch, offset, payload });
        text
    }
}

fn draw_bytes(profile: &Profile, draw: &mut Draw) -> Bytes {
    let length = draw.within(1..profile.append_bytes) as usize;
    draw.bytes(length).into()
}
