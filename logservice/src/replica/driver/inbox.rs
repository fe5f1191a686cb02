//! What groups are told, how much of it may wait, and whose turn it is to drive them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use raft::eraftpb::{ConfState, Entry, Message};

use super::running::Running;
use crate::replica::copy::Base;
use crate::replica::group::{Fetch, GroupStatus, MembersStep};
use crate::replica::handle::{OnConfirmed, OnOutcome, Replacement};
use crate::store::{Append, ReadError};

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
    /// Old entries were read from the disk.
    Fetched {
        id: u64,
        fetch: Fetch,
        read: Result<Vec<Entry>, ReadError>,
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
            | Input::Fetched { id, .. }
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

/// A queue with one reader at a time: who has the *turn*. That is the thread that drives groups, or another one that has just told
/// something and goes on with it itself, which saves waking that thread ([`super::Driver::go_on`]).
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
    /// Somebody has the turn.
    is_taken: bool,
    /// The thread waits to be told something.
    is_waited_for: bool,
    /// The thread waits for the turn: time has passed. Nobody else takes it then.
    is_claimed: bool,
    is_closed: bool,
}

/// Rounds that a thread drives groups for which this is not its work. What is left then is for the one whose work it is.
const MOST_ROUNDS: u32 = 4;

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
        let state = self.add(input)?;
        self.wake(state);
        Ok(())
    }

    /// As [`Inbox::push`], and wakes nobody: the caller takes a turn next, or it is done with the next tick.
    #[expect(clippy::result_large_err, reason = "given back only when the service ends")]
    pub fn push_and_go_on(&self, input: Input) -> Result<(), Input> {
        self.add(input).map(drop)
    }

    #[expect(clippy::result_large_err, reason = "given back only when the service ends")]
    fn add(&self, input: Input) -> Result<MutexGuard<'_, State>, Input> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(input);
        }
        state.inputs.push_back(input);
        Ok(state)
    }

    /// Tells of a message, unless too many of its sender wait, or nobody knows the group. With `wakes`, the thread is woken; otherwise the
    /// caller takes a turn next.
    pub fn push_message(&self, group: &str, message: Message, wakes: bool) {
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
        if wakes {
            self.wake(state);
        }
    }

    /// Who has the turn looks again before it gives it back, so it need not be woken.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_taken && std::mem::take(&mut state.is_waited_for) {
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Takes the turn with all that waits, if there is anything and nobody has it. Never waits.
    pub fn try_take(&self, inputs: &mut VecDeque<Input>) -> bool {
        let mut state = self.lock();
        if state.is_taken || state.is_claimed || state.is_closed || state.inputs.is_empty() {
            return false;
        }
        state.is_taken = true;
        state.hand_out(inputs);
        true
    }

    /// After `rounds` rounds: goes on with what came meanwhile, or gives the turn back and returns false.
    pub fn take_more(&self, rounds: u32, inputs: &mut VecDeque<Input>) -> bool {
        let mut state = self.lock();
        if rounds < MOST_ROUNDS && !state.is_claimed && !state.is_closed && !state.inputs.is_empty() {
            state.hand_out(inputs);
            return true;
        }
        self.give_back_locked(state);
        false
    }

    /// Gives the turn back.
    pub fn give_back(&self) {
        self.give_back_locked(self.lock());
    }

    fn give_back_locked(&self, mut state: MutexGuard<'_, State>) {
        state.is_taken = false;
        let is_wanted = state.is_claimed || state.is_closed || !state.inputs.is_empty();
        if is_wanted && (state.is_claimed || state.is_waited_for) {
            state.is_waited_for = false;
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Takes the turn, for the thread, with all that waits: as soon as there is something, and at `deadline` at the latest, once nobody else
    /// has it. False if the inbox is closed: then nobody else gets it any more.
    pub fn take(&self, deadline: Instant, inputs: &mut VecDeque<Input>) -> bool {
        let mut state = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_due = state.is_closed || left.is_zero();
            if !state.is_taken && (is_due || !state.inputs.is_empty()) {
                break;
            }
            state.is_waited_for = true;
            state = match is_due {
                // Who has the turn has it for a few rounds at most.
                true => {
                    state.is_claimed = true;
                    self.arrived.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
                }
                false => self.arrived.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0,
            };
        }
        (state.is_waited_for, state.is_claimed, state.is_taken) = (false, false, true);
        state.hand_out(inputs);
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

impl State {
    /// Moves all that waits into `inputs`, which is empty.
    fn hand_out(&mut self, inputs: &mut VecDeque<Input>) {
        std::mem::swap(&mut self.inputs, inputs);
        // What is in somebody's hands is as much again at most.
        self.message_bytes.clear();
    }
}
