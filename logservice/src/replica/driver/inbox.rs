//! What the thread is told, and how much of it may wait.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use raft::eraftpb::{ConfState, Message};

use super::running::Running;
use crate::replica::copy::Base;
use crate::replica::group::{GroupStatus, MembersStep};
use crate::replica::handle::{OnConfirmed, OnOutcome, Replacement};
use crate::store::Append;

/// Bytes of messages that may wait, for each member that sends them. What is beyond is dropped, and sent again by consensus.
const MESSAGE_BYTES_PER_MEMBER: usize = 64 << 20;
/// What a message costs besides its entries.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// What the thread is told.
pub(super) enum Input {
    /// A group is to be driven.
    Open {
        id: u64,
        running: Box<Running>,
    },
    /// A group is not driven any more. Answered when that is so.
    Close {
        id: u64,
        done: SyncSender<()>,
    },
    Message {
        id: u64,
        message: Message,
    },
    Unreachable {
        member: u64,
    },
    Append {
        id: u64,
        term: u64,
        append: Append,
    },
    ReplaceState {
        id: u64,
        term: u64,
        replacement: Replacement,
        done: OnOutcome,
    },
    Confirm {
        id: u64,
        term: u64,
        done: OnConfirmed,
    },
    Persisted {
        id: u64,
        number: u64,
    },
    /// The disk has failed, or the copy is damaged.
    DiskFailed {
        id: u64,
    },
    Trimmed {
        id: u64,
        base: Base,
    },
    TransferTo {
        id: u64,
        member: u64,
    },
    Campaign {
        id: u64,
    },
    /// A step is taken towards those voters.
    StepMembers {
        id: u64,
        term: u64,
        wanted: BTreeSet<u64>,
        reply: SyncSender<MembersStep>,
    },
    Status {
        id: u64,
        reply: SyncSender<GroupStatus>,
    },
    /// Up to which entry a copy may be trimmed.
    TrimBound {
        id: u64,
        reply: SyncSender<TrimBound>,
    },
}

impl Input {
    /// The group that it is for; 0 if it is for all.
    pub fn group(&self) -> u64 {
        match self {
            Input::Unreachable { .. } => 0,
            Input::Open { id, .. }
            | Input::Close { id, .. }
            | Input::Message { id, .. }
            | Input::Append { id, .. }
            | Input::ReplaceState { id, .. }
            | Input::Confirm { id, .. }
            | Input::Persisted { id, .. }
            | Input::DiskFailed { id }
            | Input::Trimmed { id, .. }
            | Input::TransferTo { id, .. }
            | Input::Campaign { id }
            | Input::StepMembers { id, .. }
            | Input::Status { id, .. }
            | Input::TrimBound { id, .. } => *id,
        }
    }
}

/// Up to which entry a copy may be trimmed.
pub(super) struct TrimBound {
    /// Index of that entry.
    pub upto: u64,
    /// Who the members are, from which index on.
    pub members: Vec<(u64, ConfState)>,
}

/// A queue with one reader.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    inputs: VecDeque<Input>,
    message_bytes: HashMap<u64, usize>,
    /// The groups that are open, or being opened.
    ids: HashMap<Arc<str>, u64>,
    last_id: u64,
    is_waited_for: bool,
    is_closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// An id for a group; none if a group of that name has one.
    pub fn reserve(&self, name: &str) -> Option<u64> {
        let mut state = self.lock();
        if state.ids.contains_key(name) {
            return None;
        }
        state.last_id += 1;
        let id = state.last_id;
        state.ids.insert(name.into(), id);
        Some(id)
    }

    /// Messages for this group are dropped from now on, and its name is free.
    pub fn forget(&self, id: u64) {
        self.lock().ids.retain(|_, known| *known != id);
    }

    /// Tells the thread. Gives it back if the inbox is closed.
    #[expect(clippy::result_large_err, reason = "given back only when the service ends")]
    pub fn push(&self, input: Input) -> Result<(), Input> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(input);
        }
        state.inputs.push_back(input);
        self.wake(state);
        Ok(())
    }

    /// Tells the thread of a message, unless too many of its sender wait, or nobody knows the group.
    pub fn push_message(&self, group: &str, message: Message) {
        let bytes = MESSAGE_OVERHEAD_BYTES
            + message.entries.iter().map(|entry| entry.data.len()).sum::<usize>()
            + message.get_snapshot().data.len();
        let mut state = self.lock();
        let Some(&id) = state.ids.get(group) else { return };
        let waiting = state.message_bytes.entry(message.from).or_default();
        if *waiting > 0 && *waiting + bytes > MESSAGE_BYTES_PER_MEMBER {
            return;
        }
        *waiting += bytes;
        state.inputs.push_back(Input::Message { id, message });
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.is_waited_for) {
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Moves all that waits into `inputs`, which is empty. Waits for something until `deadline`. False if the inbox is closed.
    pub fn take(&self, deadline: Instant, inputs: &mut VecDeque<Input>) -> bool {
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !state.inputs.is_empty() || state.is_closed || left.is_zero() {
                break;
            }
            state.is_waited_for = true;
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        state.is_waited_for = false;
        std::mem::swap(&mut state.inputs, inputs);
        // What the thread has in its hands is as much again at most.
        state.message_bytes.clear();
        !state.is_closed
    }

    /// Takes nothing any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.is_waited_for = false;
        drop(state);
        self.arrived.notify_one();
    }
}
