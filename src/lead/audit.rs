//! Sends keys of this node, which leads, to the log service when the service compares them with the log (`LOG.AUDIT`).
//!
//! A thread of its own asks the main thread to read a few keys at a time (`node/audit_reads.rs`). It rests for a hundred times as long as
//! that took, and folds and sends what was read meanwhile. So audits take less than 1 % of the main thread's time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, RecvTimeoutError};
use durability_protocol::audit::{facts, AuditOrder, Batch, Found, Sample};
use valkey_module::logging::{log_notice, log_warning};

use crate::base::locks::lock;
use crate::base::panic_guard::guard;
use crate::exchange::audit_step::{AuditStep, KeyRead};
use crate::exchange::mailbox::Task;
use crate::exchange::Shared;
use crate::log::control::{Breaker, LogConnection};

/// The main thread rests for this many times as long as it was busy.
const REST: u32 = 100;
/// The least that it rests, so that one turn of its event loop holds one step at most.
const LEAST_REST: Duration = Duration::from_millis(2);
/// How long the main thread may take to begin a step and do it.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How often the thread checks whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Default)]
struct State {
    /// The newest order that was accepted.
    last_id: u64,
    is_stopping: bool,
    is_running: bool,
    /// Of the connection on which the thread waits for an answer.
    breaker: Option<Arc<Breaker>>,
    thread: Option<JoinHandle<()>>,
}

/// Carries out orders, one at a time.
#[derive(Clone, Default)]
pub struct Auditor(Arc<(Mutex<State>, Condvar)>);

impl Auditor {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0 .0)
    }

    /// The log service wants keys of this node, which leads `epoch`. Does nothing if this order was accepted before, or if another one is
    /// being carried out. Lease keeper.
    pub fn order(&self, shared: &Arc<Shared>, order: AuditOrder, epoch: u64) {
        let mut state = self.lock();
        if state.is_stopping || state.is_running || state.last_id == order.id {
            return;
        }
        if let Some(thread) = state.thread.take() {
            // The thread has ended. It catches its own panics.
            let _ = thread.join();
        }
        let work = Work { auditor: self.clone(), shared: Arc::clone(shared), order, epoch };
        let spawned = std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            guard("reading keys for an audit", (), || work.run());
            work.auditor.lock().is_running = false;
        });
        match spawned {
            Ok(thread) => {
                state.last_id = order.id;
                (state.is_running, state.thread) = (true, Some(thread));
            }
            Err(error) => log_warning(format!("durability: no thread for an audit: {error}")),
        }
    }

    /// Ends the thread, and waits for its end. No order is accepted any more. Agent.
    pub fn stop(&self) {
        let thread = {
            let mut state = self.lock();
            state.is_stopping = true;
            if let Some(breaker) = state.breaker.take() {
                breaker.break_off();
            }
            state.thread.take()
        };
        self.0 .1.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }

    /// Waits for that time. Returns whether the thread is to go on.
    fn rest(&self, time: Duration) -> bool {
        let waited = self.0 .1.wait_timeout_while(self.lock(), time, |state| !state.is_stopping);
        let (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        !state.is_stopping
    }
}

struct Work {
    auditor: Auditor,
    shared: Arc<Shared>,
    order: AuditOrder,
    epoch: u64,
}

impl Work {
    fn run(&self) {
        let AuditOrder { id, keys } = self.order;
        log_notice(format!("durability: the log service compares {keys} keys of this node with the log"));
        match self.carry_out() {
            Ok(sent) => log_notice(format!("durability: {sent} keys sent for audit {id}")),
            Err(why) => log_warning(format!("durability: audit {id} is given up: {why}")),
        }
        self.auditor.lock().breaker = None;
    }

    fn carry_out(&self) -> Result<usize, String> {
        let AuditOrder { id, keys } = self.order;
        let mut log = LogConnection::open(&self.shared).map_err(|error| error.to_string())?;
        self.auditor.lock().breaker = Some(log.breaker());
        let mut sent = 0;
        let mut send = |batch: &Batch| {
            sent += batch.samples.len();
            log.audit_result(id, self.epoch, &batch.to_bytes()).map_err(|error| error.to_string())
        };
        let mut step = Box::new(AuditStep { epoch: self.epoch, keys, counts: true, ..AuditStep::default() });
        step.random = (0..64).map(|_| RandomState::new().build_hasher().finish()).collect();
        // Each answer names further keys that the service asks for.
        step.names.extend(send(&Batch::default())?);
        loop {
            step = self.on_main_thread(step)?;
            let failure = step.failure.take();
            let took = step.took;
            let mut batch = fold(&mut step, failure.clone())?;
            let was_done = std::mem::take(&mut step.is_done);
            let was_counted = std::mem::replace(&mut step.counts, was_done);
            if let Some(why) = failure {
                send(&batch)?;
                return Err(why);
            }
            // When all is read, the keys are counted once more. Then the audit is over, unless the service asks for more keys.
            batch.is_last = was_done && was_counted;
            let names = send(&batch)?;
            if batch.is_last && names.is_empty() {
                return Ok(sent);
            }
            step.names.extend(names);
            if !self.auditor.rest((took * REST).max(LEAST_REST)) {
                return Err("the module ends".to_owned());
            }
        }
    }

    fn on_main_thread(&self, step: Box<AuditStep>) -> Result<Box<AuditStep>, String> {
        let (reply, done) = bounded(1);
        self.shared.send(Task::ReadKeys(step, reply));
        let deadline = Instant::now() + STEP_WITHIN;
        loop {
            match done.recv_timeout(LOOK_INTERVAL) {
                Ok(step) => return Ok(step),
                Err(RecvTimeoutError::Disconnected) => return Err("the module ends".to_owned()),
                Err(RecvTimeoutError::Timeout) if self.auditor.lock().is_stopping => {
                    return Err("the module ends".to_owned());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(format!("the server does not get round to it within {} s", STEP_WITHIN.as_secs()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Takes what was read out of `step`, in the form in which it is sent.
fn fold(step: &mut AuditStep, failure: Option<String>) -> Result<Batch, String> {
    let mut samples = Vec::with_capacity(step.read.len());
    for ((database, key), read) in step.read.drain(..) {
        let found = match read {
            KeyRead::Nothing => Found::Nothing,
            KeyRead::OtherType => Found::OtherType,
            KeyRead::Key(reading) => Found::Key(facts(&reading, step.time_ms)?),
        };
        samples.push(Sample { database, key, found });
    }
    Ok(Batch {
        offset: step.offset,
        time_ms: step.time_ms,
        took_us: u64::try_from(step.took.as_micros()).unwrap_or(u64::MAX),
        databases: step.databases.take(),
        samples,
        is_last: false,
        failure,
    })
}
