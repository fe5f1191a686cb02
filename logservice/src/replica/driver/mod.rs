//! One thread at a time drives all groups of a service: [`Driver`].
//!
//! Nothing waits for it but who asks for a status, and it waits for nobody: disks and connections take what they are given and tell later
//! what came of it. So a group costs neither a thread nor a timer. There is one thread for which this is all it does, and which knows the
//! time. Whoever brings what many writes wait for (a message that came, or that the disk has written something) goes on with it itself if
//! nobody else drives at that moment: to wake the thread first would cost each write several context switches, at each service.
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | starting, opening groups, stopping |
//! | `inbox.rs` | what the thread is told, and how much of it may wait |
//! | `thread.rs` | who drives when, and what is done then |
//! | `fetches.rs` | threads that read old entries |
//! | `running.rs` | one group, with its disk and those who wait for it |
//! | `shared.rs` | what a group shows to other threads |
//! | `handle.rs` | a group, for other threads |
//! | `by_hand.rs` | for tests: a driver without a thread |
//! | `testing.rs` | for tests: three services in one process |
//!
//! # Rules
//!
//! 1. A group that panics, or whose committed entries cannot be applied, stops alone ([`GroupEvents::stopped`]): the others go on. So they do
//!    if whoever is told of it panics.
//! 2. A group whose disk has failed hands over the decision first, if it has it, as the other copies may be whole. It stops then.
//! 3. A group that decides, and whose disk does not answer for a second, hands the decision over and goes on following.
//! 4. A tick that is late is not made up for: a thread that was held up asks for no votes before it has read what came meanwhile.
//!
//! [`GroupEvents::stopped`]: super::handle::GroupEvents::stopped

#[cfg(any(test, feature = "testing"))]
mod by_hand;
mod fetches;
mod handle;
#[cfg(test)]
mod hung_disk_tests;
mod inbox;
mod running;
mod shared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod thread;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

#[cfg(any(test, feature = "testing"))]
pub use self::by_hand::ByHand;
use self::fetches::Fetches;
pub use self::handle::DrivenGroup;
use self::inbox::{Inbox, Input};
use self::running::Running;
use self::shared::{DiskEvents, Shared};
pub use self::shared::{Failure, FailureKind};
use self::thread::{reason_of, Turns};
use super::copy::{CopyDisks, OpenedCopy};
use super::group::Group;
use crate::store::OpenError;

/// How often groups are told that time passes.
pub const TICK: Duration = Duration::from_millis(50);

/// Takes messages to other members.
pub trait Network: Send + Sync {
    /// Sends a message to the member in `message.to`, or drops it. Does not block. It may wait for [`Network::flush`].
    fn send(&self, group: &str, message: Message);

    /// What was to be sent is on its way when this returns, as far as connections take it at once. Does not block.
    fn flush(&self) {}
}

/// Why a group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its copy could not.
    #[error(transparent)]
    Copy(#[from] OpenError),
    /// What was found there contradicts itself.
    #[error("the copy contradicts itself: {0}")]
    Contradiction(String),
    /// There is one of that name.
    #[error("the group is open already")]
    IsOpen,
    /// The thread has stopped.
    #[error("the service is stopping")]
    Stopping,
}

/// The thread that drives the groups of a service.
pub struct Driver {
    member: u64,
    inbox: Arc<Inbox>,
    turns: Arc<Turns>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Driver {
    /// Starts the thread. `member` is this service.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn start(member: u64, network: Arc<dyn Network>) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let turns = Arc::new(Turns::new(inbox.clone(), network, Fetches::start()?));
        let name = std::thread::Builder::new().name("log-replicate".to_owned());
        let running = turns.clone();
        let thread = Mutex::new(Some(name.spawn(move || running.run())?));
        Ok(Driver { member, inbox, turns, thread })
    }

    /// Opens the copy of a group and drives it from now on; none if there is no copy. Blocks on I/O.
    ///
    /// # Errors
    /// The copy cannot be used, or the group is open.
    pub fn open(&self, disks: &dyn CopyDisks, name: &str) -> Result<Option<Arc<DrivenGroup>>, GroupError> {
        self.open_after(disks, name, false)
    }

    /// As [`Driver::open`]. A copy that `was_full` takes no entries until there is room for them: until then it votes for others, and follows.
    ///
    /// # Errors
    /// As of [`Driver::open`].
    pub fn open_after(
        &self,
        disks: &dyn CopyDisks,
        name: &str,
        was_full: bool,
    ) -> Result<Option<Arc<DrivenGroup>>, GroupError> {
        let id = self.inbox.reserve(name).ok_or(GroupError::IsOpen)?;
        let opened = self.open_reserved(disks, name, id, was_full);
        if !matches!(opened, Ok(Some(_))) {
            self.inbox.forget(id);
        }
        opened
    }

    fn open_reserved(
        &self,
        disks: &dyn CopyDisks,
        name: &str,
        id: u64,
        was_full: bool,
    ) -> Result<Option<Arc<DrivenGroup>>, GroupError> {
        let events = Arc::new(DiskEvents::new(id, self.turns.clone()));
        let Some(OpenedCopy { disk, found }) = disks.open(name, events.clone())? else { return Ok(None) };
        let opened = catch_unwind(AssertUnwindSafe(|| Group::open(self.member, found)));
        let group = match opened {
            Ok(Ok(group)) => group,
            Ok(Err(error)) => return Err(GroupError::Contradiction(error.to_string())),
            Err(panic) => return Err(GroupError::Contradiction(reason_of(&*panic))),
        };
        let shared = Arc::new(Shared::new(name, &group));
        let running = Box::new(Running::new(group, disk.clone(), events.clone(), shared.clone(), was_full));
        self.inbox.push(Input::Open { id, running }).map_err(|_| GroupError::Stopping)?;
        Ok(Some(Arc::new(DrivenGroup::new(id, self.turns.clone(), shared, disk, events))))
    }

    /// Drives a group no more, and closes its copy. Blocks on I/O.
    pub fn close(&self, group: &DrivenGroup) {
        group.forget();
        group.close_disk();
    }

    /// A message of `from` has come. Does not block; drops it if too many wait, or if it is none that members send each other.
    pub fn message(&self, from: u64, group: &str, message: Message) {
        self.push_message(from, group, message, true);
    }

    /// As [`Driver::message`], for who calls [`Driver::go_on`] next.
    pub fn message_and_go_on(&self, from: u64, group: &str, message: Message) {
        self.push_message(from, group, message, false);
    }

    fn push_message(&self, from: u64, group: &str, message: Message, wakes: bool) {
        let is_of_members = !matches!(message.get_msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex);
        if message.from == from && message.to == self.member && is_of_members {
            self.inbox.push_message(group, message, wakes);
        }
    }

    /// Does what is to be done after messages that have come, on this thread if no other one does so. Returns soon.
    pub fn go_on(&self) {
        self.turns.go_on();
    }

    /// Messages to `member` were lost.
    pub fn unreachable(&self, member: u64) {
        let _ = self.inbox.push(Input::Unreachable { member });
    }

    /// Ends the thread. Groups take nothing any more; their copies are for the caller to close. Blocks until the thread has ended.
    pub fn stop(&self) {
        self.inbox.close();
        let thread = self.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that replicates logs has panicked");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop();
    }
}
