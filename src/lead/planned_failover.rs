//! The planned failover, `DURABILITY.FAILOVER`: this leader pauses its writes, waits until another node has all of them, and gives it the
//! lease. Runs on the lease keeper's thread, so that the lease is renewed meanwhile. The decisions are in `durability_leadership`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Sender};
use durability_leadership::{Handover, Moment, Observed, Step};
use durability_protocol::Code;
use valkey_module::logging::{log_notice, log_warning};

use crate::exchange::lease_clock;
use crate::exchange::mailbox::{Command, Task};
use crate::lead::keeper_state::{KeeperState, Session};
use crate::log::error::LogError;
use crate::log::shard_view::ShardView;

/// How often the progress is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Writes are paused only once the target lacks less than this, so that they do not wait long.
const NEAR_BYTES: u64 = 1 << 20;
/// How long the released lease is reserved for the target.
const RESERVED: Duration = Duration::from_secs(1);
/// The longest that the main thread may take to answer, as the lease has to be renewed meanwhile.
const MAIN_TIME: Duration = Duration::from_millis(300);
/// The longest that clients wait for the failover.
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);

/// A requested failover.
#[derive(Debug, Clone)]
pub struct FailoverRequest {
    /// The target; `None`: the best suited node.
    pub to: Option<String>,
    /// When it was requested.
    pub asked: Moment,
    /// How long after that it is given up.
    pub timeout: Duration,
}

/// Hands over, or goes on leading as if nothing had been requested. Lease keeper.
///
/// # Errors
/// A question to the log service failed.
pub(super) fn hand_over(
    keeper: &KeeperState,
    session: &mut Session,
    epoch: u64,
    request: &FailoverRequest,
) -> Result<(), LogError> {
    let shared = &keeper.shared;
    let began = lease_clock::now();
    let Some(view) = shared.view() else { return Ok(()) };
    let left = request.timeout.saturating_sub(began.since(request.asked));
    let begun = Handover::begin(began, &shared.node_id(), request.to.as_deref(), left, &view.peers());
    let mut handover = match begun {
        Ok(handover) => handover,
        Err(why) => {
            shared.failover_ended(&why.to_string());
            return Ok(());
        }
    };
    log_notice(format!("durability: handing over to {}", handover.target()));
    let handed_over = go_through(keeper, session, epoch, &mut handover);
    if matches!(handed_over, Ok(false) | Err(_)) {
        shared.send(Task::GoOn);
    }
    if let Err(error) = &handed_over {
        shared.failover_ended(&error.to_string());
    }
    if let Ok(true) = handed_over {
        let took = lease_clock::now().since(began);
        log_notice(format!("durability: handed over to {} in {} ms", handover.target(), took.as_millis()));
        shared.failover_ended("");
    }
    handed_over.map(drop)
}

/// Returns whether this node has stopped leading.
fn go_through(
    keeper: &KeeperState,
    session: &mut Session,
    epoch: u64,
    handover: &mut Handover,
) -> Result<bool, LogError> {
    let shared = &keeper.shared;
    let mut paused: Option<Moment> = None;
    while keeper.leads(epoch) {
        let view = keeper.report(session, "leader", shared.durable().unwrap_or(0), Duration::ZERO)?;
        keeper.renew(session, epoch)?;
        let now = lease_clock::now();
        if paused.is_none() && is_near(&view, handover.target()) && handover.has_heard(&view.peers()) {
            paused = Some(now);
        }
        if paused.is_some_and(|since| now.since(since) > PAUSE_AT_MOST) {
            log_warning(format!(
                "durability: {} does not come to have everything; going on to lead",
                handover.target()
            ));
            shared.failover_ended("clients would have waited for more than a second; try again");
            return Ok(false);
        }
        let stream_end = if paused.is_some() { ask_main(keeper, Task::PauseWrites) } else { None };
        let peers = view.peers();
        let observed = Observed {
            now,
            lease_is_valid: !lease_clock::has_passed(),
            stream_end,
            durable: shared.durable().unwrap_or(0),
            peers: &peers,
        };
        match handover.step(&observed) {
            Step::PauseWrites | Step::WaitDurable | Step::WaitTarget => std::thread::sleep(LOOK_INTERVAL),
            Step::Release { to } => return step_down(keeper, session, epoch, stream_end.unwrap_or(0), &to),
            Step::Done => return Ok(true),
            Step::Abort(why) => {
                log_warning(format!("durability: not handed over to {}: {why}", handover.target()));
                shared.failover_ended(&why.to_string());
                return Ok(false);
            }
        }
    }
    shared.failover_ended("this node ceased to lead meanwhile");
    Ok(false)
}

/// Stops leading, unless the stream has moved on from `end` (exclusive), and releases the lease for `to`. Returns whether this node has
/// stopped leading.
fn step_down(keeper: &KeeperState, session: &mut Session, epoch: u64, end: u64, to: &str) -> Result<bool, LogError> {
    if !has_stepped_down(keeper, end) {
        // The stream moved without any client's command, or the main thread took too long.
        log_warning("durability: the stream moved while handing over; this node goes on leading");
        keeper.shared.failover_ended("the stream moved at the last moment; try again");
        return Ok(false);
    }
    // From here on this node does not lead, even if the release fails.
    let released = release_to(keeper, session, epoch, to);
    tell_agent(keeper);
    released.map(|()| true)
}

fn release_to(keeper: &KeeperState, session: &mut Session, epoch: u64, to: &str) -> Result<(), LogError> {
    let mut released = keeper.connection(session, MAIN_TIME).and_then(|log| log.resign_to(epoch, to, RESERVED));
    if let Err(error) = &released {
        log_warning(format!("durability: the lease is not released for {to}: {error}; trying again"));
        session.disconnect();
        released = keeper.connection(session, MAIN_TIME).and_then(|log| log.resign_to(epoch, to, RESERVED));
    }
    match released {
        // The first release arrived, and its answer did not.
        Err(error) if error.code() == Some(Code::Fenced) => Ok(()),
        other => other,
    }
}

/// Whether the main thread has stopped leading, with everything up to `end` (exclusive) in the log. If not, it does not do so later.
fn has_stepped_down(keeper: &KeeperState, end: u64) -> bool {
    let is_decided = Arc::new(AtomicBool::new(false));
    let (reply, answer) = bounded(1);
    keeper.shared.send(Task::StepDown { end, is_decided: Arc::clone(&is_decided), reply });
    match answer.recv_timeout(MAIN_TIME) {
        Ok(has_stepped_down) => has_stepped_down,
        // The main thread was first, so its answer comes.
        Err(_) if is_decided.swap(true, Ordering::AcqRel) => answer.recv().unwrap_or(false),
        Err(_) => false,
    }
}

/// Asks the main thread. `None` if it does not answer in time.
fn ask_main<T>(keeper: &KeeperState, task: impl FnOnce(Sender<T>) -> Task) -> Option<T> {
    let (reply, answer) = bounded(1);
    keeper.shared.send(task(reply));
    answer.recv_timeout(MAIN_TIME).ok()
}

fn tell_agent(keeper: &KeeperState) {
    // An agent that is gone does not lead.
    let _ = keeper.to_agent.send(Command::HandedOver);
    keeper.shared.agent_waker.wake();
}

fn is_near(view: &ShardView, target: &str) -> bool {
    view.nodes.iter().any(|node| node.id == target && view.end.saturating_sub(node.applied) < NEAR_BYTES)
}
