//! Shards that a service has kept alone, and brings into the cluster that it makes: [`Brought`] makes the copy of such a shard's group out of
//! what its log holds. [`Bringing`] is how the rest of the service gets it done.
//!
//! The copy begins as a group's only one: its service is the only member, and what it had acknowledged alone it has acknowledged for the
//! group. The others become members as a replaced service's successor does (`cluster/reconciling.rs`). So at each moment exactly one place
//! counts: the log that was kept alone until the copy is finished, and the copy from then on.

use raft::eraftpb::{ConfState, Entry};
use tokio::sync::watch;

use super::copy::{Base, Checkpoint, CopyDisks, CopyDraft, Position};
use super::entry::AppendEntry;
use super::group::FIRST_INDEX;
use super::groups::{Answer, ClusterError};
use crate::store::{Manifest, MediumError, Record};

/// The term of what was written alone: the first that the group's members elect in is later.
const FIRST_TERM: u64 = 1;

/// The copy of a shard's group in the making, by the service that has kept its log alone. One thread at a time uses it.
pub struct Brought {
    draft: Box<dyn CopyDraft>,
    members: ConfState,
    position: Position,
    /// The newest epoch of which there is a record.
    epoch: u64,
}

impl Brought {
    /// Begins with a log that starts at `base`, for `member` as the only one. Blocks on I/O.
    ///
    /// # Errors
    /// There is a copy of that group, or nothing can be written.
    pub fn begin(disks: &dyn CopyDisks, group: &str, member: u64, base: u64) -> Result<Self, MediumError> {
        let members = ConfState { voters: vec![member], ..ConfState::default() };
        let position = Position { index: FIRST_INDEX, term: FIRST_TERM, end: base, checksum: 0 };
        let draft = disks.draft(group, &Base { position, members: members.clone() })?;
        Ok(Brought { draft, members, position, epoch: 0 })
    }

    /// The end of what it has (exclusive).
    pub fn end(&self) -> u64 {
        self.position.end
    }

    /// Adds records that follow. They are durable when this returns. Blocks on I/O.
    ///
    /// # Errors
    /// They do not follow, or were not written: it cannot be finished any more.
    pub fn append(&mut self, records: Vec<Record>) -> Result<(), MediumError> {
        let mut entries = Vec::with_capacity(records.len());
        for Record { epoch, offset, time_ms, payload } in records {
            if offset != self.position.end || epoch < self.epoch {
                let Position { end, .. } = self.position;
                let newest = self.epoch;
                return Err(MediumError::new(format!(
                    "the record of offset {offset} and epoch {epoch} does not follow a log that ends at {end} in epoch {newest}"
                )));
            }
            let end = offset + payload.len() as u64;
            let data = AppendEntry::encode(epoch, offset, time_ms, &[payload]);
            let (index, term) = (self.position.index + 1, FIRST_TERM);
            let entry = Entry { index, term, data, ..Entry::default() };
            (self.position, self.epoch) = (self.position.after(&entry, end), epoch);
            entries.push(entry);
        }
        match entries.is_empty() {
            true => Ok(()),
            false => self.draft.append(&entries),
        }
    }

    /// It is the group's copy from now on, with `manifest` as the state. Durable when this returns. Blocks on I/O.
    ///
    /// # Errors
    /// It may be the copy or not, see [`CopyDraft::finish`].
    pub fn finish(self, manifest: &Manifest) -> Result<(), MediumError> {
        let epoch = manifest.epochs.last().map_or(0, |epoch| epoch.epoch);
        if epoch < self.epoch || manifest.least_end() > self.position.end {
            let (least, end, newest) = (manifest.least_end(), self.position.end, self.epoch);
            return Err(MediumError::new(format!(
                "the manifest, of epoch {epoch} and a log that ends at {least} at least, is not that of one that ends at {end} in epoch {newest}"
            )));
        }
        let manifest = Manifest { format: manifest.format_to_write(), ..manifest.clone() };
        let state = serde_json::to_vec(&manifest).map_err(MediumError::new)?;
        self.draft.finish(Checkpoint {
            position: self.position,
            revision: manifest.revision,
            epoch,
            state: state.into(),
            // Who gets the entries later gets this state with them: it is newer than all of them (`group/machine.rs`).
            state_index: self.position.index,
            members: vec![(FIRST_INDEX, self.members)],
        })
    }
}

/// How a service brings the shards that it has kept alone. Any thread may call it.
pub trait Bringing: Send + Sync {
    /// Whether this service still is what it was without peers: it keeps shards alone, and is of no cluster yet. No shard is made alone once this
    /// is false.
    fn is_alone(&self) -> bool;

    /// Whether this service keeps that shard alone. Blocks on I/O.
    fn keeps_alone(&self, shard: &str) -> bool;

    /// Changes when there may be something to do.
    fn changes(&self) -> watch::Receiver<()>;

    /// Whether the cluster waits to be told which shards this service brings: until then nobody makes any.
    fn is_awaited(&self) -> bool;

    /// Tells the cluster of `shards` that this service brings: their names, and the ids of their logs. These are all that it keeps alone.
    fn announce<'a>(&'a self, shards: &'a [(String, String)]) -> Answer<'a, Result<(), ClusterError>>;

    /// The shards that the cluster expects and this service still keeps alone. Blocks on I/O.
    ///
    /// # Errors
    /// The disk cannot be read.
    fn expected(&self) -> Result<Vec<String>, MediumError>;

    /// Begins to make the copy of a shard that is expected, whose log starts at `base`. Blocks on I/O.
    ///
    /// # Errors
    /// It is not expected, or nothing can be written.
    fn begin(&self, shard: &str, base: u64) -> Result<Brought, MediumError>;

    /// What was kept alone of `shard`, which nobody has open any more, is all in `brought`: that is the shard from now on. Returns once this
    /// service decides over it. Blocks on I/O.
    ///
    /// # Errors
    /// The text is for people. [`Bringing::keeps_alone`] says which of the two the shard is.
    fn finish(&self, shard: &str, brought: Brought, manifest: &Manifest) -> Result<(), String>;
}
