//! A thread that asks the logs of two shards while slots move from one to the other. It runs only where slots move, and has connections of
//! its own, so that nothing delays the lease.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use durability_protocol::Known;

use crate::base::panic_guard::guard;
use crate::base::time_limit::EndTime;
use crate::decide::slot_steps::{NotDone, SlotAnswer, SlotStep};
use crate::exchange::mailbox::Task;
use crate::exchange::Shared;
use crate::log::control::LogConnection;
use crate::log::error::LogError;
use crate::log::local_node::LocalNode;
use crate::log::services::Services;
use crate::log::slot_commands::not_done;

/// How long an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The thread. It ends when this is dropped.
pub struct SlotWorker {
    steps: Option<Sender<(u64, SlotStep)>>,
    thread: Option<JoinHandle<()>>,
}

impl SlotWorker {
    /// Starts the thread. Main thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (sender, steps) = crossbeam_channel::unbounded();
        let thread = std::thread::Builder::new().name("slots".to_owned()).spawn(move || {
            guard("moving slots", (), || work(&shared, &steps));
        })?;
        Ok(SlotWorker { steps: Some(sender), thread: Some(thread) })
    }

    /// Has a step asked, as the leader of `epoch`. The answer comes as [`Task::SlotStepAnswered`]. Main thread.
    pub fn ask(&self, epoch: u64, step: SlotStep) {
        // A thread that is gone has panicked, and then nobody serves any more.
        let _ = self.steps.as_ref().map(|steps| steps.send((epoch, step)));
    }
}

impl Drop for SlotWorker {
    /// Whoever drops it has said before when questions are to end.
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Arc<Shared>, steps: &Receiver<(u64, SlotStep)>) {
    let mut logs = TwoLogs::new(Arc::clone(shared));
    while let Ok((epoch, step)) = steps.recv() {
        let answer = logs.ask(epoch, &step);
        shared.send(Task::SlotStepAnswered(step, answer));
    }
}

/// Connections to the log of this node's shard, and to that of the shard from which slots come. Any thread but the main thread.
pub struct TwoLogs {
    shared: Arc<Shared>,
    own: Option<LogConnection>,
    source: Arc<SourceLog>,
    others: Option<LogConnection>,
}

impl TwoLogs {
    /// Not connected yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        let source = Arc::new(SourceLog { shared: Arc::clone(&shared), services: Services::configured() });
        TwoLogs { shared, own: None, source, others: None }
    }

    /// Asks one step, as the leader of `epoch`. Of several services, each is tried once. A connection that has ended since it was used last says
    /// nothing: each step may be asked again.
    ///
    /// # Errors
    /// It is not done, or nobody knows.
    pub fn ask(&mut self, epoch: u64, step: &SlotStep) -> Result<SlotAnswer, NotDone> {
        let was_open = self.place(step).is_some();
        let mut answer = self.ask_one(epoch, step);
        if was_open && answer.as_ref().is_err_and(|error| error.code().is_none()) {
            answer = self.ask_one(epoch, step);
        }
        for _ in 1..self.source.services.count() {
            match &answer {
                Err(error) if error.is_not_leader() => answer = self.ask_one(epoch, step),
                _ => break,
            }
        }
        answer.map_err(|error| not_done(step, &error))
    }

    fn ask_one(&mut self, epoch: u64, step: &SlotStep) -> Result<SlotAnswer, LogError> {
        let mut connection = match self.place(step).take() {
            Some(connection) => connection,
            // What this node knows of its own log says nothing of the other one.
            None if is_of_source(step) => LogConnection::open_unchecked(&self.source, ANSWER_TIME)?,
            None => LogConnection::open(&self.shared)?,
        };
        let answer = connection.slot_step(epoch, step);
        let is_of_use = !answer.as_ref().is_err_and(|error| error.code().is_none() || error.is_not_leader());
        *self.place(step) = is_of_use.then_some(connection);
        answer
    }

    fn place(&mut self, step: &SlotStep) -> &mut Option<LogConnection> {
        if is_of_source(step) {
            &mut self.others
        } else {
            &mut self.own
        }
    }
}

/// Whether the log of the shard from which slots come is asked.
fn is_of_source(step: &SlotStep) -> bool {
    matches!(step, SlotStep::Claim { .. } | SlotStep::Forget { .. })
}

/// This node, as one that asks the log of another shard, over which another service may decide.
struct SourceLog {
    shared: Arc<Shared>,
    services: Services,
}

impl LocalNode for SourceLog {
    fn node_id(&self) -> String {
        self.shared.node_id()
    }

    fn address(&self) -> String {
        self.shared.address()
    }

    fn known(&self) -> Option<Known> {
        None
    }

    fn services(&self) -> &Services {
        &self.services
    }

    fn end(&self) -> &EndTime {
        self.shared.end()
    }
}
