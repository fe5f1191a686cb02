//! A group, for other threads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::Arc;

use super::inbox::{Inbox, Input};
use super::shared::{DiskEvents, Failure, FailureKind, Shared};
use super::thread::Turns;
use crate::replica::copy::CopyDisk;
use crate::replica::group::{members_at, GroupStatus, MembersStep, Outcome};
use crate::replica::group_name::shard_of;
use crate::replica::handle::{GroupEvents, GroupHandle, OnConfirmed, OnOutcome, Replacement, View};
use crate::store::{Append, LogReader, MediumError, ReadError, RecordReader, SubmitError, TrimError, Usage};

/// A group that a thread drives.
pub struct DrivenGroup {
    id: u64,
    turns: Arc<Turns>,
    shared: Arc<Shared>,
    disk: Arc<dyn CopyDisk>,
    disk_events: Arc<DiskEvents>,
    /// How often the copy was fetched anew since the service started.
    repairs: AtomicU64,
}

impl DrivenGroup {
    pub(super) fn new(
        id: u64,
        turns: Arc<Turns>,
        shared: Arc<Shared>,
        disk: Arc<dyn CopyDisk>,
        disk_events: Arc<DiskEvents>,
    ) -> Self {
        DrivenGroup { id, turns, shared, disk, disk_events, repairs: AtomicU64::new(0) }
    }

    /// Why the copy is not used any more; none if it is.
    pub fn failure(&self) -> Option<Failure> {
        self.disk_events.failure().cloned()
    }

    /// Whether the group has stopped.
    pub fn is_stopped(&self) -> bool {
        self.shared.is_stopped()
    }

    /// Whether the copy takes no entries for want of space.
    pub fn awaits_room(&self) -> bool {
        self.shared.awaits_room()
    }

    /// The copy is not to be used any more. The group hands over the decision, if it has it, and stops.
    pub fn condemn(&self, kind: FailureKind, reason: String) {
        self.disk_events.fail(kind, reason);
    }

    /// Refuses appends for want of space from now on, for that reason; or no more.
    pub fn set_no_space(&self, reason: Option<String>) {
        self.shared.set_no_space(reason);
    }

    /// Shows that the copy was fetched anew so often since the service started.
    pub fn set_repairs(&self, repairs: u64) {
        self.repairs.store(repairs, Ordering::Relaxed);
    }

    /// The group's name, which tells apart shards that had the same name one after the other.
    pub fn group(&self) -> &str {
        &self.shared.name
    }

    /// Asks for votes at once.
    pub fn campaign(&self) {
        let _ = self.turns.inbox.push(Input::Campaign { id: self.id });
    }

    /// Takes the next step towards the `wanted` voters, if this service decides in `term`: see [`Group::step_members`]. Waits for the thread.
    ///
    /// [`Group::step_members`]: crate::replica::group::Group::step_members
    pub fn step_members(&self, term: u64, wanted: &BTreeSet<u64>) -> MembersStep {
        let (reply, step) = sync_channel(1);
        let input = Input::StepMembers { id: self.id, term, wanted: wanted.clone(), reply };
        match self.turns.inbox.push(input) {
            Ok(()) => step.recv().unwrap_or(MembersStep::NotLeader),
            Err(_) => MembersStep::NotLeader,
        }
    }

    /// Has the group driven no more. Waits for the thread.
    pub(super) fn forget(&self) {
        let (done, closed) = sync_channel(1);
        if self.turns.inbox.push(Input::Close { id: self.id, done }).is_ok() {
            // An error means that the thread has ended, or dropped it.
            let _ = closed.recv();
        }
    }

    fn append_with(
        &self,
        term: u64,
        append: Append,
        push: impl FnOnce(&Inbox, Input) -> Result<(), Input>,
    ) -> Result<(), SubmitError> {
        let payload_bytes = append.payload.len();
        self.shared.check_space()?;
        self.disk.admit(payload_bytes + self.shared.waiting_bytes())?;
        self.shared.admit(payload_bytes)?;
        push(&self.turns.inbox, Input::Append { id: self.id, term, append }).map_err(|_| {
            self.shared.release(payload_bytes);
            SubmitError::Closed
        })
    }

    /// Closes the copy of a group that is not driven any more. Blocks on I/O.
    pub fn close_disk(&self) {
        self.disk.close();
    }
}

impl GroupHandle for DrivenGroup {
    fn name(&self) -> &str {
        shard_of(&self.shared.name)
    }

    fn listen(&self, events: Arc<dyn GroupEvents>) -> View {
        self.shared.listen(events)
    }

    fn view(&self) -> View {
        self.shared.view()
    }

    fn append(&self, term: u64, append: Append) -> Result<(), SubmitError> {
        self.append_with(term, append, Inbox::push)
    }

    fn append_and_go_on(&self, term: u64, append: Append) -> Result<(), SubmitError> {
        self.append_with(term, append, Inbox::push_and_go_on)
    }

    fn go_on(&self) {
        self.turns.go_on();
    }

    fn replace_state(&self, term: u64, replacement: Replacement, done: OnOutcome) {
        let input = Input::ReplaceState { id: self.id, term, replacement, done };
        if let Err(Input::ReplaceState { done, .. }) = self.turns.inbox.push(input) {
            done(Outcome::NotLeader);
        }
    }

    fn confirm(&self, term: u64, done: OnConfirmed) {
        if let Err(Input::Confirm { done, .. }) = self.turns.inbox.push(Input::Confirm { id: self.id, term, done }) {
            done(false);
        }
    }

    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError> {
        self.disk.reader(offset)
    }

    fn records(&self, offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        self.disk.records(offset)
    }

    fn trim(&self, offset: u64) -> Result<(), TrimError> {
        let gone = || TrimError(MediumError::new("the log is closed"));
        let (reply, bound) = sync_channel(1);
        self.turns.inbox.push(Input::TrimBound { id: self.id, reply }).map_err(|_| gone())?;
        let bound = bound.recv().map_err(|_| gone())?;
        let base = self.disk.trim(offset, bound.upto, &|index| members_at(&bound.members, index))?;
        // If the inbox is closed, the service stops.
        let _ = self.turns.inbox.push(Input::Trimmed { id: self.id, base });
        Ok(())
    }

    fn transfer_to(&self, member: u64) {
        let _ = self.turns.inbox.push(Input::TransferTo { id: self.id, member });
    }

    fn status(&self) -> Option<GroupStatus> {
        let (reply, status) = sync_channel(1);
        self.turns.inbox.push(Input::Status { id: self.id, reply }).ok()?;
        let status = status.recv().ok()?;
        // Whoever relies on this copy relies on it after a restart as well.
        Some(GroupStatus { lost_in: status.lost_in.or(self.disk.lost_in()), ..status })
    }

    fn usage(&self) -> Usage {
        let (repairs, awaits_room) = (self.repairs.load(Ordering::Relaxed), self.awaits_room());
        Usage { repairs, awaits_room, ..self.disk.usage() }
    }

    fn key_ids(&self) -> BTreeSet<String> {
        self.disk.key_ids()
    }
}
