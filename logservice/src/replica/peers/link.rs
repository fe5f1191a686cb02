//! What waits to be sent to one peer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{oneshot, watch, Notify};

use super::error::PeerError;
use super::options::PeerAddress;
use super::queue::{Batch, Queue};
use super::sending::Sending;
use super::shared::{Lane, PeerPatience};
use crate::replica::wire::{wire_bytes, Request, MOST_FRAME_BYTES, MOST_REQUEST_BYTES};

/// Messages are written together until they have so many bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// The longest message: a frame holds it, with all that is written together with it.
const MOST_MESSAGE_BYTES: usize = MOST_FRAME_BYTES - 2 * BATCH_BYTES;
/// Bytes of messages that wait for a peer. As many as a group has in flight, so a single one does not exceed it.
const MOST_LOG_BYTES: usize = 60 << 20;
/// Of those that are short: a few ten thousand.
const MOST_CONTROL_BYTES: usize = 4 << 20;
/// Requests that wait for a peer.
const MOST_REQUESTS: usize = 64;

/// One peer.
pub struct Link {
    /// Its name and address.
    pub peer: PeerAddress,
    /// Its id; 0 while it is not known.
    member: AtomicU64,
    lanes: [LaneQueue; 3],
    /// What came of the last attempt to connect.
    trouble: Mutex<String>,
    /// Told when a message was dropped.
    pub dropped: Notify,
}

/// What waits for one of its connections.
#[derive(Default)]
struct LaneQueue {
    state: Mutex<LaneState>,
    ready: Notify,
    requests: Mutex<Requests>,
    is_connected: watch::Sender<bool>,
}

#[derive(Default)]
struct LaneState {
    queue: Queue,
    is_connected: bool,
    /// The sending end of the connection.
    sending: Option<Sending>,
    /// Messages were dropped since the queue was empty.
    is_full: bool,
}

#[derive(Default)]
struct Requests {
    last: u64,
    waiting: VecDeque<Request>,
    /// By the numbers of their requests.
    answers: HashMap<u64, oneshot::Sender<Bytes>>,
}

impl Link {
    /// A peer that is not connected.
    pub fn new(peer: PeerAddress) -> Self {
        Link {
            peer,
            member: AtomicU64::new(0),
            lanes: Default::default(),
            trouble: Mutex::new("no connection was tried yet".to_owned()),
            dropped: Notify::new(),
        }
    }

    /// Its id, if it has told.
    pub fn member(&self) -> Option<u64> {
        Some(self.member.load(Ordering::Acquire)).filter(|&member| member != 0)
    }

    /// Whether it can be sent all kinds of messages.
    pub fn is_connected(&self) -> bool {
        Lane::OF_MESSAGES.into_iter().all(|lane| lock(&self.lane(lane).state).is_connected)
    }

    /// Queues a message, or drops it. With `wakes`, the connection's task sends it; otherwise the caller has it sent next
    /// ([`Link::send_now`]).
    pub fn send(&self, group: &str, message: Message, wakes: bool) {
        let (lane, most_bytes) = match message.msg_type {
            MessageType::MsgAppend | MessageType::MsgSnapshot => (self.lane(Lane::Log), MOST_LOG_BYTES),
            _ => (self.lane(Lane::Control), MOST_CONTROL_BYTES),
        };
        let mut state = lock(&lane.state);
        if !state.is_connected {
            return;
        }
        let was_empty = state.queue.is_empty();
        if was_empty {
            state.is_full = false;
        }
        let fits = wire_bytes(&message) <= MOST_MESSAGE_BYTES;
        let is_taken = fits && state.queue.push(group, message, most_bytes);
        let is_news = !is_taken && !std::mem::replace(&mut state.is_full, true);
        drop(state);
        if is_taken && was_empty && wakes {
            lane.ready.notify_one();
        }
        if is_news {
            let peer = &self.peer.name;
            let why = if fits { "too much waits for it" } else { "it is longer than any may be" };
            tracing::warn!("peer {peer}: a message of group '{group}' is dropped: {why}");
            self.dropped.notify_one();
        }
    }

    /// Sends what waits, on this thread as far as the connection takes it at once. Never blocks.
    pub fn send_now(&self) {
        for lane in Lane::OF_MESSAGES {
            let queue = self.lane(lane);
            let sending = {
                let state = lock(&queue.state);
                if state.queue.is_empty() {
                    continue;
                }
                state.sending.clone()
            };
            if !sending.is_some_and(|sending| sending.send_now(self, lane)) {
                queue.ready.notify_one();
            }
        }
    }

    /// The next messages of a lane.
    pub fn take(&self, lane: Lane, most_bytes: usize) -> Batch {
        lock(&self.lane(lane).state).queue.take(most_bytes)
    }

    /// Whether no message of a lane waits to be taken.
    pub fn is_empty(&self, lane: Lane) -> bool {
        lock(&self.lane(lane).state).queue.is_empty()
    }

    /// Waits until there may be something for the task of a connection to send. Cancel-safe.
    pub async fn ready(&self, lane: Lane) {
        self.lane(lane).ready.notified().await;
    }

    /// The next request of a lane, if any waits.
    pub fn take_request(&self, lane: Lane) -> Option<Request> {
        lock(&self.lane(lane).requests).waiting.pop_front()
    }

    /// So many bytes of a batch were sent.
    pub fn sent(&self, lane: Lane, bytes: usize) {
        lock(&self.lane(lane).state).queue.sent(bytes);
    }

    /// Bytes of messages that wait.
    pub fn waiting_bytes(&self) -> usize {
        Lane::ALL.into_iter().map(|lane| lock(&self.lane(lane).state).queue.bytes()).sum()
    }

    /// There is a connection to `member`.
    pub fn connected(&self, lane: Lane, member: u64, sending: Sending) {
        if self.member.swap(member, Ordering::AcqRel) != member {
            // What waits on another connection is for another one.
            Lane::ALL.into_iter().for_each(|lane| lock(&self.lane(lane).state).queue.clear());
        }
        let mut state = lock(&self.lane(lane).state);
        (state.is_connected, state.sending) = (true, Some(sending));
        drop(state);
        self.lane(lane).is_connected.send_replace(true);
    }

    /// There is none any more, or none yet. Drops what waits.
    pub fn disconnected(&self, lane: Lane, why: &str) {
        *lock(&self.lane(lane).state) = LaneState::default();
        if self.lane(lane).is_connected.send_replace(false) {
            let mut requests = lock(&self.lane(lane).requests);
            // Who asked learns by this that there is no answer. Numbers go on, so that no late answer is taken for another one.
            let last = requests.last;
            *requests = Requests { last, ..Requests::default() };
        }
        self.note(why);
    }

    fn note(&self, why: &str) {
        why.clone_into(&mut lock(&self.trouble));
    }

    /// Asks the peer, on one of its connections.
    pub async fn ask(&self, lane: Lane, bytes: Vec<u8>, patience: &PeerPatience) -> Result<Vec<u8>, PeerError> {
        let name = || self.peer.name.clone();
        if bytes.len() > MOST_REQUEST_BYTES {
            return Err(PeerError::TooMuch(name()));
        }
        let mut is_connected = self.lane(lane).is_connected.subscribe();
        if tokio::time::timeout(patience.connection, is_connected.wait_for(|is_connected| *is_connected)).await.is_err()
        {
            return Err(PeerError::NotConnected { name: name(), why: lock(&self.trouble).clone() });
        }
        let (number, answer) = self.queue_request(lane, bytes.into()).ok_or_else(|| PeerError::TooMuch(name()))?;
        match tokio::time::timeout(patience.answer, answer).await {
            Ok(Ok(answer)) => Ok(answer.into()),
            Ok(Err(_)) => Err(PeerError::Lost(name())),
            Err(_) => {
                lock(&self.lane(lane).requests).answers.remove(&number);
                Err(PeerError::Late(name()))
            }
        }
    }

    fn queue_request(&self, lane: Lane, bytes: Bytes) -> Option<(u64, oneshot::Receiver<Bytes>)> {
        let mut requests = lock(&self.lane(lane).requests);
        if requests.answers.len() >= MOST_REQUESTS {
            return None;
        }
        requests.last += 1;
        let (sender, answer) = oneshot::channel();
        let number = requests.last;
        requests.answers.insert(number, sender);
        requests.waiting.push_back(Request { number, bytes });
        drop(requests);
        self.lane(lane).ready.notify_one();
        Some((number, answer))
    }

    /// An answer has come.
    pub fn answered(&self, lane: Lane, answer: Request) {
        if let Some(asked) = lock(&self.lane(lane).requests).answers.remove(&answer.number) {
            // Nobody may wait any more.
            let _ = asked.send(answer.bytes);
        }
    }

    fn lane(&self, lane: Lane) -> &LaneQueue {
        &self.lanes[lane as usize]
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
