//! The planned failover, `DURABILITY.FAILOVER`: this leader stops its writes, waits until another node has all of them, and gives
//! the lease to that one. Runs on the keeper's thread, so that the lease is renewed meanwhile; what is decided is in
//! `durability_leadership`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Sender};
use durability_leadership::{Handover, Moment, Observed, Step};
use durability_protocol::Code;
use valkey_module::logging::{log_notice, log_warning};

use crate::exchange::{lease_clock, Command, Task};
use crate::lead::lease_keeper::{Inner, Work};
use crate::log::control::LogError;
use crate::log::shard_view::View;

/// How often it is looked how far everything is.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Writes are paused only once the target lacks less than this, so that they do not wait for long.
const NEAR_BYTES: u64 = 1 << 20;
/// How long the lease is kept for the target.
const RESERVED: Duration = Duration::from_secs(1);
/// The longest that the main thread may take to answer: the lease has to be renewed meanwhile.
const MAIN_TIME: Duration = Duration::from_millis(300);
/// The longest that clients wait.
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// To which node; none: to the one that suits best.
    pub to: Option<String>,
    /// When it was asked for.
    pub asked: Moment,
    /// So long after that it is given up.
    pub timeout: Duration,
}

impl Inner {
    /// Hands over, or goes on leading as if nothing had been asked.
    pub(crate) fn hand_over(&self, work: &mut Work, epoch: u64, request: &Request) -> Result<(), LogError> {
        let began = lease_clock::now();
        let Some(view) = self.shared.view() else { return Ok(()) };
        let left = request.timeout.saturating_sub(began.since(request.asked));
        let begun = Handover::begin(began, &self.shared.node_id(), request.to.as_deref(), left, &view.peers());
        let mut handover = match begun {
            Ok(handover) => handover,
            Err(why) => {
                self.shared.failover_ended(&why.to_string());
                return Ok(());
            }
        };
        log_notice(format!("durability: handing over to {}", handover.target()));
        let handed_over = self.go_through(work, epoch, &mut handover);
        if matches!(handed_over, Ok(false) | Err(_)) {
            self.shared.send(Task::GoOn);
        }
        if let Err(error) = &handed_over {
            self.shared.failover_ended(&error.to_string());
        }
        if let Ok(true) = handed_over {
            let took = lease_clock::now().since(began);
            log_notice(format!("durability: handed over to {} in {} ms", handover.target(), took.as_millis()));
            self.shared.failover_ended("");
        }
        handed_over.map(drop)
    }

    /// Answers whether this node has ceased to lead.
    fn go_through(&self, work: &mut Work, epoch: u64, handover: &mut Handover) -> Result<bool, LogError> {
        let mut paused: Option<Moment> = None;
        while self.leads(epoch) {
            let durable = self.shared.durable().unwrap_or(0);
            let view = self.report(work, "leader", durable, Duration::ZERO)?;
            self.renew(work, epoch)?;
            let now = lease_clock::now();
            if paused.is_none() && is_near(&view, handover.target()) && handover.has_heard(&view.peers()) {
                paused = Some(now);
            }
            if paused.is_some_and(|since| now.since(since) > PAUSE_AT_MOST) {
                log_warning(format!(
                    "durability: {} does not come to have everything; going on to lead",
                    handover.target()
                ));
                self.shared.failover_ended("clients would have waited for more than a second; try again");
                return Ok(false);
            }
            let stream_end = if paused.is_some() { self.ask_main(Task::PauseWrites) } else { None };
            let peers = view.peers();
            let observed = Observed {
                now,
                lease_is_valid: !lease_clock::has_passed(),
                stream_end,
                durable: self.shared.durable().unwrap_or(0),
                peers: &peers,
            };
            match handover.step(&observed) {
                Step::PauseWrites | Step::WaitDurable | Step::WaitTarget => std::thread::sleep(LOOK_INTERVAL),
                Step::Release { to } => {
                    let end = stream_end.unwrap_or(0);
                    if !self.has_stepped_down(end) {
                        // Something that no client asked for moved the stream, or it took too long.
                        log_warning("durability: the stream moved while handing over; this node goes on leading");
                        self.shared.failover_ended("the stream moved at the last moment; try again");
                        return Ok(false);
                    }
                    // From here on this node does not lead, whatever becomes of this.
                    let released = self.release_to(work, epoch, &to);
                    self.stepped_down();
                    return released.map(|()| true);
                }
                Step::Done => return Ok(true),
                Step::Abort(why) => {
                    log_warning(format!("durability: not handed over to {}: {why}", handover.target()));
                    self.shared.failover_ended(&why.to_string());
                    return Ok(false);
                }
            }
        }
        self.shared.failover_ended("this node ceased to lead meanwhile");
        Ok(false)
    }

    fn release_to(&self, work: &mut Work, epoch: u64, to: &str) -> Result<(), LogError> {
        let mut released = self.connection(work, MAIN_TIME).and_then(|log| log.resign_to(epoch, to, RESERVED));
        if let Err(error) = &released {
            log_warning(format!("durability: the lease is not released for {to}: {error}; trying again"));
            work.disconnect();
            released = self.connection(work, MAIN_TIME).and_then(|log| log.resign_to(epoch, to, RESERVED));
        }
        match released {
            // The first one arrived, and only its answer did not.
            Err(LogError::Refused(refusal)) if refusal.code == Code::Fenced => Ok(()),
            other => other,
        }
    }

    /// Whether the main thread has ceased to lead, with everything up to `end` in the log. If not it does not any more.
    fn has_stepped_down(&self, end: u64) -> bool {
        let is_decided = Arc::new(AtomicBool::new(false));
        let (reply, answer) = bounded(1);
        self.shared.send(Task::StepDown { end, is_decided: Arc::clone(&is_decided), reply });
        match answer.recv_timeout(MAIN_TIME) {
            Ok(has_stepped_down) => has_stepped_down,
            // It is doing it, or has done it: its answer comes.
            Err(_) if is_decided.swap(true, Ordering::AcqRel) => answer.recv().unwrap_or(false),
            Err(_) => false,
        }
    }

    /// `None` if the main thread does not answer in time.
    fn ask_main<T>(&self, task: impl FnOnce(Sender<T>) -> Task) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.shared.send(task(reply));
        answer.recv_timeout(MAIN_TIME).ok()
    }

    fn stepped_down(&self) {
        // The agent that is gone leads no more.
        let _ = self.to_agent.send(Command::HandedOver);
        self.shared.agent_bell.ring();
    }
}

fn is_near(view: &View, target: &str) -> bool {
    view.nodes.iter().any(|node| node.id == target && view.end.saturating_sub(node.applied) < NEAR_BYTES)
}
