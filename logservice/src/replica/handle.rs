//! How the rest of the service reaches a group: [`GroupHandle`]. The thread that drives all groups is behind it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::group::{Event, GroupStatus, Outcome};
use crate::store::{Append, LogReader, MediumError, ReadError, RecordReader, SubmitError, TrimError, Usage};

/// What a group is now, as far as its thread has said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The term in which this service decides over the log; none if it does not.
    pub leads_in: Option<u64>,
    /// The member whose service decides, if it is another's and known.
    pub leader: Option<u64>,
    /// The end (exclusive) of the log as far as it is committed, and persisted here.
    pub end: u64,
    /// The end (exclusive) of the log as far as it is committed, whether it is persisted here or not. At or beyond `end` while this service
    /// decides.
    pub acknowledged: u64,
    /// Revision of the state.
    pub revision: u64,
    /// The state as it is committed.
    pub state: Bytes,
    /// Whether `state` is that of `end`. Not after a base has come from another service, until the entries after it have.
    pub is_whole: bool,
    /// Why the copy is not served any more: its disk has failed, or it is damaged.
    pub failed: Option<String>,
}

/// Hears what happens to a group, in order, from the thread that drives it. An implementation must return soon, and must not call the handle
/// from within.
pub trait GroupEvents: Send + Sync {
    /// Something has happened; `view` is how things are with it.
    fn happened(&self, event: &Event, view: &View);
    /// The group has stopped here: its disk has failed, or a committed entry could not be applied. Nothing happens any more.
    fn stopped(&self, reason: &str);
}

/// Another state for the log, and perhaps another beginning.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// One more than the revision that it replaces.
    pub revision: u64,
    /// The epoch whose appends may follow.
    pub epoch: u64,
    /// Where the log begins anew, if it does.
    pub restart_at: Option<u64>,
    /// The state.
    pub state: Bytes,
}

/// Is told what came of a replacement, once, from the thread that drives the group.
pub type OnOutcome = Box<dyn FnOnce(Outcome) + Send>;
/// Is told whether this service was certainly the only one that decides at some moment since the question, once, from that thread.
pub type OnConfirmed = Box<dyn FnOnce(bool) + Send>;

/// A group, for any thread.
pub trait GroupHandle: Send + Sync {
    /// The group's name: that of the shard.
    fn name(&self) -> &str;

    /// How things are, and whoever `events` is hears all that happens from then on. It takes the place of who heard it before.
    fn listen(&self, events: Arc<dyn GroupEvents>) -> View;

    /// How things are.
    fn view(&self) -> View;

    /// Appends to the log if this service decides in `term`. If it does not, the append is dropped, and [`Event::Follows`] has been said, or
    /// will be. Does not block.
    fn append(&self, term: u64, append: Append) -> Result<(), SubmitError>;

    /// As [`GroupHandle::append`], for who calls [`GroupHandle::go_on`] next.
    fn append_and_go_on(&self, term: u64, append: Append) -> Result<(), SubmitError> {
        self.append(term, append)
    }

    /// Goes on with what was appended on this thread, unless another one drives groups at this moment. Events may be told from within, so the
    /// caller holds no lock that is taken there. Returns soon.
    fn go_on(&self) {}

    /// Replaces the state after all that was appended before. Does not block.
    fn replace_state(&self, term: u64, replacement: Replacement, done: OnOutcome);

    /// Finds out whether this service is the only one that decides, at some moment after this call. Does not block.
    fn confirm(&self, term: u64, done: OnConfirmed);

    /// Opens a reader at `offset`, below the committed end. Blocks on I/O.
    fn reader(&self, offset: u64) -> Result<Box<dyn LogReader>, ReadError>;

    /// As [`GroupHandle::reader`], record by record. Blocks on I/O.
    fn records(&self, _offset: u64) -> Result<Box<dyn RecordReader>, ReadError> {
        Err(MediumError::new("this log is not read record by record").into())
    }

    /// Drops log below `offset`, here. Blocks on I/O.
    fn trim(&self, offset: u64) -> Result<(), TrimError>;

    /// Hands the decision over to the service of `member` as soon as that has all entries.
    fn transfer_to(&self, member: u64);

    /// What there is to tell of it. Waits for the thread that drives it.
    fn status(&self) -> Option<GroupStatus>;

    /// Counters and sizes of its disk.
    fn usage(&self) -> Usage;

    /// The ids of the keys with which parts of the copy are encrypted.
    fn key_ids(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}
