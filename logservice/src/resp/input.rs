//! The input of a connection: a buffer, and how large it may be.
//!
//! A connection may hold a few KB freely, and more only out of a budget that all connections share. Reading ahead takes from one half of the
//! budget, as far as there is some. A command that does not fit is read only when there is room for the largest command in the other half.
//! So a connection that has begun to read one can finish: none holds a part of that half and waits for more of it.
//! Clients that have not logged in have no share of the budget. A connection without a command holds nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use durability_protocol::{MalformedResp, RespLimits, MAX_APPEND_BYTES};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::socket::Socket;
use crate::base::command_input::CommandReader;

/// Most arguments of a command.
pub const MAX_ARGUMENTS: usize = 64;
/// Longest command in bytes: one append of the largest size with its framing.
const MAX_COMMAND_BYTES: usize = MAX_APPEND_BYTES + 4096;
/// Bytes that a connection may hold outside the budget.
const FREE_BYTES: usize = 16 << 10;
/// The most that is read at a time.
const MAX_READ_BYTES: usize = 256 << 10;
/// Longest command in bytes of a client that has not logged in. Enough for the longest login.
const STRANGERS_COMMAND_BYTES: usize = 4 << 10;

const LIMITS: RespLimits =
    RespLimits { items: MAX_ARGUMENTS, item_bytes: MAX_APPEND_BYTES, frame_bytes: MAX_COMMAND_BYTES };
const STRANGERS_LIMITS: RespLimits = RespLimits { frame_bytes: STRANGERS_COMMAND_BYTES, ..LIMITS };

/// Memory for commands that have not arrived as a whole, of all connections together. One permit is a KiB.
pub struct InputBudget {
    ahead: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// Permits that one large command takes.
const LARGE_KIB: u32 = (MAX_COMMAND_BYTES + FREE_BYTES).div_ceil(1024) as u32;

impl InputBudget {
    /// A budget of so many MiB.
    pub fn new(mib: u32) -> Self {
        let half = || Arc::new(Semaphore::new((mib as usize) << 9));
        InputBudget { ahead: half(), large: half() }
    }
}

type Waiting = dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync;

/// The input of a connection.
pub struct Input {
    bytes: BytesMut,
    commands: CommandReader,
    read_bytes: usize,
    budget: Arc<InputBudget>,
    ahead: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
    /// The place in the queue for `large`.
    waiting: Option<Pin<Box<Waiting>>>,
    /// How large the buffer may become.
    buffer_bytes: usize,
    is_stranger: bool,
}

impl Input {
    /// An empty input of a client that is not known yet.
    pub fn new(budget: Arc<InputBudget>) -> Self {
        Input {
            bytes: BytesMut::new(),
            commands: CommandReader::default(),
            read_bytes: FREE_BYTES,
            budget,
            ahead: None,
            large: None,
            waiting: None,
            buffer_bytes: 0,
            is_stranger: true,
        }
    }

    /// Sets whether the client has not logged in, and has to.
    pub fn set_stranger(&mut self, is_stranger: bool) {
        self.is_stranger = is_stranger;
    }

    /// Takes the next command, see [`CommandReader::next`].
    pub fn next(&mut self, arguments: &mut Vec<Bytes>) -> Result<bool, MalformedResp> {
        let limits = if self.is_stranger { STRANGERS_LIMITS } else { LIMITS };
        self.commands.next(&mut self.bytes, arguments, &limits)
    }

    /// Whether a command has arrived in part.
    pub fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Whether memory is held.
    pub fn holds_memory(&self) -> bool {
        self.bytes.capacity() > 0
    }

    /// Decides how large the buffer may become by the next read. `false` if that has to wait for the budget, see
    /// [`Input::wait_for_budget`].
    pub fn may_read(&mut self) -> bool {
        let needed = self.needed_bytes();
        if self.is_stranger {
            self.buffer_bytes = needed.max(STRANGERS_COMMAND_BYTES);
            return true;
        }
        let wanted = needed.max(self.bytes.len() + self.read_bytes);
        if self.large.is_none() && wanted > self.ahead_bytes() {
            let more = (wanted.min(FREE_BYTES + MAX_READ_BYTES).saturating_sub(self.ahead_bytes())).div_ceil(1024);
            match self.budget.ahead.clone().try_acquire_many_owned(more as u32) {
                Ok(more) => merge(&mut self.ahead, more),
                Err(_) => self.read_bytes = FREE_BYTES,
            }
            if needed > self.ahead_bytes() && self.waiting.is_none() {
                self.large = self.budget.large.clone().try_acquire_many_owned(LARGE_KIB).ok();
            }
        }
        self.buffer_bytes = wanted.min(self.ahead_bytes()).max(needed);
        let may_read = self.large.is_some() || needed <= self.ahead_bytes();
        if may_read {
            self.waiting = None;
        }
        may_read
    }

    fn needed_bytes(&self) -> usize {
        self.commands.needed_bytes().max(self.bytes.len() + 1)
    }

    fn ahead_bytes(&self) -> usize {
        FREE_BYTES + (self.ahead.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) << 10)
    }

    /// Waits for room for the command that is arriving. Connections get it in turn. Cancel-safe: the place in the queue stays until
    /// [`Input::stop_waiting`].
    pub async fn wait_for_budget(&mut self) {
        let large = || self.budget.large.clone().acquire_many_owned(LARGE_KIB);
        let room = self.waiting.get_or_insert_with(|| Box::pin(large())).await;
        self.waiting = None;
        // The budget is never closed.
        self.large = room.ok();
    }

    /// Leaves the queue for room. Needed when the connection is not read, as it would otherwise hold the room without using it.
    pub fn stop_waiting(&mut self) {
        self.waiting = None;
    }

    /// Reads what has arrived, as far as [`Input::may_read`] allowed. Returns how many bytes; zero at the end of the stream.
    pub fn read(&mut self, socket: &Socket) -> std::io::Result<usize> {
        let held = self.bytes.len();
        let wanted = self.buffer_bytes.saturating_sub(held);
        if self.bytes.capacity() - held < (wanted / 4).max(self.needed_bytes() - held) {
            self.bytes.reserve(wanted);
        }
        let room = self.bytes.capacity() - held;
        let read = socket.try_read_buf(&mut self.bytes)?;
        if read == room {
            self.read_bytes = (self.read_bytes * 2).min(MAX_READ_BYTES);
        }
        Ok(read)
    }

    /// Frees the room for a large command if none is arriving. Called when all commands that have arrived were taken.
    pub fn settle(&mut self) {
        if self.large.is_some() && self.needed_bytes() <= self.ahead_bytes() {
            self.large = None;
            if self.bytes.capacity() > self.ahead_bytes() {
                self.bytes = BytesMut::from(&self.bytes[..]);
            }
        }
    }

    /// Frees everything that a connection without a command does not need.
    pub fn release(&mut self) {
        if self.bytes.is_empty() {
            (self.bytes, self.commands) = (BytesMut::new(), CommandReader::default());
            self.read_bytes = FREE_BYTES;
            (self.ahead, self.large) = (None, None);
        }
    }

    /// What has arrived and was not taken, for the next reader.
    pub fn into_parts(self) -> (BytesMut, CommandReader) {
        (self.bytes, self.commands)
    }
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        held => *held = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use super::*;

    const LARGE: usize = 1 << 20;

    fn arriving(budget: &Arc<InputBudget>, bytes: usize) -> Input {
        let mut input = Input::new(budget.clone());
        input.set_stranger(false);
        input.bytes.extend_from_slice(format!("*1\r\n${bytes}\r\n").as_bytes());
        assert_eq!(input.next(&mut Vec::new()), Ok(false));
        input
    }

    #[test]
    fn large_commands_wait_for_each_other_and_small_ones_for_none() {
        let budget = Arc::new(InputBudget::new(4));
        let (mut first, mut second) = (arriving(&budget, LARGE), arriving(&budget, LARGE));
        assert!(first.may_read() && first.buffer_bytes > LARGE);
        assert!(!second.may_read());
        let mut middling = arriving(&budget, 100 << 10);
        assert!(middling.may_read() && middling.large.is_none());
        let readers: Vec<_> =
            (0..100).map(|_| arriving(&budget, 100 << 10)).map(|mut input| (input.may_read(), input)).collect();
        assert!(readers.iter().any(|(may_read, _)| *may_read) && readers.iter().any(|(may_read, _)| !*may_read));
        let mut small = arriving(&budget, 1000);
        assert!(small.may_read());
        drop(first);
        assert!(second.may_read());
    }

    #[test]
    fn a_command_that_waits_gets_the_room_that_another_gives_back_when_it_is_whole() {
        let budget = Arc::new(InputBudget::new(4));
        let (mut first, mut second) = (arriving(&budget, LARGE), arriving(&budget, LARGE));
        assert!(first.may_read() && !second.may_read());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut waiting = Box::pin(second.wait_for_budget());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        first.settle();
        assert!(waiting.as_mut().poll(&mut context).is_pending(), "it is still arriving");
        first.bytes.extend_from_slice(&vec![b'x'; LARGE]);
        first.bytes.extend_from_slice(b"\r\n*1\r\n");
        assert_eq!(first.next(&mut Vec::new()), Ok(true));
        first.settle();
        assert!(first.bytes.capacity() < FREE_BYTES && first.is_partial());
        assert!(waiting.as_mut().poll(&mut context).is_ready());
        drop(waiting);
        assert!(second.may_read());
    }

    fn has_room(input: &mut Input) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        !input.may_read() && std::pin::pin!(input.wait_for_budget()).poll(&mut context).is_ready()
    }

    #[test]
    fn room_is_given_in_turn_to_connections_that_look_at_other_things_meanwhile() {
        let budget = Arc::new(InputBudget::new(4));
        let [mut first, mut second, mut third] = [LARGE; 3].map(|bytes| arriving(&budget, bytes));
        assert!(first.may_read());
        for _ in 0..3 {
            assert!(!has_room(&mut second) && !has_room(&mut third));
        }
        drop(first);
        assert!(!has_room(&mut third), "it came later");
        assert!(!arriving(&budget, LARGE).may_read(), "it came last");
        assert!(has_room(&mut second) && second.may_read());
        drop(second);
        assert!(has_room(&mut third) && third.may_read());
    }

    #[test]
    fn a_connection_that_waits_no_more_gives_up_its_turn() {
        let budget = Arc::new(InputBudget::new(4));
        let [mut first, mut second, mut third] = [LARGE; 3].map(|bytes| arriving(&budget, bytes));
        assert!(first.may_read() && !has_room(&mut second) && !has_room(&mut third));
        drop(first);
        second.stop_waiting();
        assert!(has_room(&mut third) && third.may_read());
    }

    #[test]
    fn an_idle_connection_holds_nothing() {
        let budget = Arc::new(InputBudget::new(4));
        let mut input = arriving(&budget, 200 << 10);
        assert!(input.may_read() && input.ahead.is_some());
        input.release();
        assert!(input.holds_memory(), "a command has arrived in part");
        input.bytes.clear();
        input.release();
        assert!(!input.holds_memory() && input.ahead.is_none());
    }

    #[test]
    fn a_stranger_may_send_a_login_and_nothing_large() {
        let mut input = Input::new(Arc::new(InputBudget::new(4)));
        input.bytes.extend_from_slice(b"*3\r\n$4\r\nAUTH\r\n$64\r\n");
        assert_eq!(input.next(&mut Vec::new()), Ok(false));
        assert!(input.may_read() && input.buffer_bytes == STRANGERS_COMMAND_BYTES && input.ahead.is_none());
        let mut input = Input::new(Arc::new(InputBudget::new(4)));
        input.bytes.extend_from_slice(b"*2\r\n$4\r\nAUTH\r\n$4096\r\n");
        assert!(input.next(&mut Vec::new()).is_err());
    }
}
