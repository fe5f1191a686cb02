//! "Tell me when this is durable", and the test modes that tell it late.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use super::arrivals::Arrivals;
use super::rule_switches::{self, Rule};
use super::standing::not_leader;
use super::Environment;

/// Acknowledgements that wait to be delayed. Beyond this the oldest are delivered early.
const MAX_DELAYED: usize = 1 << 20;

/// Why a shard ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was dropped.
    Dropped,
    /// Who decides over its log has changed: it is opened anew.
    Superseded,
}

/// What the outside knows of a shard's progress.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Everything below (exclusive) is durable and may be acknowledged and shown to replicas.
    pub visible: u64,
    /// How often queued appends were refused for want of space.
    pub refusals: u64,
    /// The end of the log at the last such refusal: appends that go beyond it and were queued before are gone.
    pub refused_above: u64,
    /// Why the last such refusal happened.
    pub refused_reason: Arc<str>,
    /// Why the log has failed, for good.
    pub failed: Option<Arc<str>>,
    /// Whether that is because the shard ends here: not if its log has failed.
    pub ending: Option<Ending>,
    /// Goes up whenever replicas must connect again, because the stream goes on under another replication id.
    pub stream: u64,
}

impl Progress {
    /// What is answered to everything if the log has failed.
    pub fn refusal(&self) -> Option<Refusal> {
        let code = match self.ending {
            Some(Ending::Dropped) => Code::NoShard,
            Some(Ending::Superseded) => Code::NotLeader,
            None => Code::LogFailed,
        };
        self.failed.as_ref().map(|reason| Refusal::new(code, reason.to_string()))
    }
}

/// An append on its way, waiting to be acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    /// Acknowledged when everything below (exclusive) is visible.
    pub until: u64,
    /// [`Progress::refusals`] when it was accepted.
    pub refusals: u64,
}

impl Ticket {
    /// The answer, if there is one: the end of the append, or why it is not in the log. Not how far the log goes, which may be the
    /// work of another leader by the time that this is looked at.
    pub fn outcome(&self, progress: &Progress) -> Option<Result<u64, Refusal>> {
        if let Some(refusal) = progress.refusal() {
            return Some(Err(refusal));
        }
        // First, as other bytes may be durable in the place of those that are gone. With more than one refusal in between only the
        // last end is known; sent again, such an append is recognised.
        if rule_switches::holds(Rule::CountsRefusals)
            && progress.refusals > self.refusals
            && (progress.refusals > self.refusals + 1 || self.until > progress.refused_above)
        {
            return Some(Err(Refusal::new(Code::NoSpace, progress.refused_reason.to_string())));
        }
        (progress.visible >= self.until).then_some(Ok(self.until))
    }
}

/// How acknowledgements are delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AckMode {
    /// At once.
    Running,
    /// Not at all.
    Frozen,
    /// That much later.
    Delayed(Duration),
}

/// Hears of progress at once, on the thread that makes it.
pub trait ProgressListener: Send + Sync {
    /// The progress is another than before. Must not block, nor wait for a lock that is held while a shard is asked for
    /// anything.
    fn progressed(&self);
    /// The shard has ended: nothing is to be had of it any more. As [`ProgressListener::progressed`].
    fn ended(&self);
}

/// Owns the durable offset of a shard, as it is and as it is shown.
pub struct DurabilityNotifier {
    durable: watch::Sender<u64>,
    progress: watch::Sender<Progress>,
    acks: Mutex<Acks>,
    due: Condvar,
    environment: Arc<dyn Environment>,
    listeners: Mutex<Vec<Weak<dyn ProgressListener>>>,
}

struct Acks {
    mode: AckMode,
    delayed: VecDeque<(Instant, u64)>,
    arrivals: Arrivals,
    /// Whether a thread delivers delayed acknowledgements.
    delivering: bool,
}

impl DurabilityNotifier {
    /// Everything below `end` is durable.
    pub fn new(end: u64, environment: Arc<dyn Environment>) -> Self {
        let arrivals = Arrivals::new(environment.now());
        let acks = Acks { mode: AckMode::Running, delayed: VecDeque::new(), arrivals, delivering: false };
        DurabilityNotifier {
            durable: watch::Sender::new(end),
            progress: watch::Sender::new(Progress { visible: end, ..Progress::default() }),
            acks: Mutex::new(acks),
            due: Condvar::new(),
            environment,
            listeners: Mutex::default(),
        }
    }

    /// `listener` is told of progress for as long as it lives.
    pub fn listen(&self, listener: &Arc<dyn ProgressListener>) {
        let mut listeners = self.listeners();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    /// Everything below (exclusive) survives a crash.
    pub fn durable(&self) -> u64 {
        *self.durable.borrow()
    }

    /// How long ago the byte at `offset`, which is durable, became so: too long by 100 ms at most. Of a byte that came
    /// before the series of samples begins (before the start, or many minutes ago), the age of that series.
    pub fn age(&self, offset: u64, now: Instant) -> Duration {
        self.lock().arrivals.age(offset, now)
    }

    /// A view of the progress that can be waited on.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The progress now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Whether the shard was dropped.
    pub fn is_dropped(&self) -> bool {
        self.progress.borrow().ending == Some(Ending::Dropped)
    }

    /// Whether who decides over its log has changed.
    pub fn is_superseded(&self) -> bool {
        self.progress.borrow().ending == Some(Ending::Superseded)
    }

    /// Whether it was dropped, or is opened anew.
    pub fn has_ended(&self) -> bool {
        self.progress.borrow().ending.is_some()
    }

    /// [`Progress::refusals`] now.
    pub fn refusals(&self) -> u64 {
        self.progress.borrow().refusals
    }

    /// How acknowledgements are delivered now.
    pub fn ack_mode(&self) -> AckMode {
        self.lock().mode
    }

    /// Everything below `end` has become durable.
    pub fn set_durable(&self, end: u64) {
        let mut acks = self.lock();
        let mut start = end;
        let is_news = self.durable.send_if_modified(|durable| {
            start = std::mem::replace(durable, end.max(*durable));
            end > start
        });
        if is_news {
            acks.arrivals.note(start, self.environment.now());
        }
        match acks.mode {
            AckMode::Running => self.show(end),
            AckMode::Frozen => {}
            AckMode::Delayed(delay) => {
                if acks.delayed.len() >= MAX_DELAYED {
                    if let Some((_, early)) = acks.delayed.pop_front() {
                        self.show(early);
                    }
                }
                // Those before it are due before it, so the thread that delivers wakes for them anyway.
                let is_first = acks.delayed.is_empty();
                acks.delayed.push_back((self.environment.now() + delay, end));
                if is_first {
                    self.due.notify_all();
                }
            }
        }
    }

    /// Nothing above `end` of what was queued is in the log, for want of space.
    pub fn set_refused(&self, end: u64, reason: &str) {
        self.progress.send_modify(|progress| {
            progress.refusals += 1;
            progress.refused_above = end;
            progress.refused_reason = reason.into();
        });
        self.tell_listeners();
    }

    /// The log has failed: nothing is acknowledged any more.
    pub fn set_failed(&self, reason: &str) {
        self.progress.send_if_modified(|progress| {
            let first = progress.failed.is_none();
            progress.failed.get_or_insert_with(|| reason.into());
            first
        });
        self.durable.send_modify(|_| {});
        self.tell_listeners();
    }

    /// The shard is dropped, whether or not its log has failed before. Whoever waits for it is answered with `reason`.
    pub fn set_dropped(&self, reason: &str) {
        self.end(Ending::Dropped, reason);
    }

    /// Who decides over the log has changed. Whoever waits for this shard is told so, and that the service at `successor` is to decide, if
    /// that is known.
    pub fn set_superseded(&self, successor: Option<&str>) {
        self.end(Ending::Superseded, &not_leader(successor).detail);
    }

    fn end(&self, ending: Ending, reason: &str) {
        self.progress.send_modify(|progress| {
            progress.failed = Some(reason.into());
            progress.ending = Some(ending);
        });
        self.durable.send_modify(|_| {});
        for listener in self.listeners().iter().filter_map(Weak::upgrade) {
            listener.ended();
        }
    }

    /// Waits until the shard has ended, and answers what is to be told then.
    pub async fn ended(&self) -> Refusal {
        let mut progress = self.progress.subscribe();
        // Not an error: this has the other end.
        let ended = progress.wait_for(|progress| progress.ending.is_some()).await;
        ended.ok().and_then(|progress| progress.refusal()).unwrap_or_else(|| Refusal::new(Code::NoShard, "dropped"))
    }

    /// Makes replicas connect again.
    pub fn restart_streams(&self) {
        self.progress.send_modify(|progress| progress.stream += 1);
    }

    /// Waits until everything that `ticket` covers is durable, whatever is shown. False when the log fails first, or a refusal
    /// for want of space, also one that came before this was called, takes away what is waited for.
    pub async fn wait_durable(&self, ticket: Ticket) -> bool {
        let mut durable = self.durable.subscribe();
        let mut progress = self.progress.subscribe();
        loop {
            if *durable.borrow_and_update() >= ticket.until {
                return true;
            }
            {
                let progress = progress.borrow_and_update();
                if progress.failed.is_some() || progress.refusals != ticket.refusals {
                    return false;
                }
            }
            tokio::select! {
                biased;
                _ = durable.changed() => {}
                _ = progress.changed() => {}
            }
        }
    }

    /// Changes how acknowledgements are delivered. Those held back so far are delivered now, unless the new mode is
    /// [`AckMode::Frozen`].
    pub fn set_ack_mode(self: &Arc<Self>, mode: AckMode) -> std::io::Result<()> {
        let mut acks = self.lock();
        acks.mode = mode;
        acks.delayed.clear();
        if mode != AckMode::Frozen {
            self.show(self.durable());
        }
        if matches!(mode, AckMode::Delayed(_)) && !acks.delivering {
            let notifier = Arc::downgrade(self);
            std::thread::Builder::new().name("log-delay".to_owned()).spawn(move || deliver(&notifier))?;
            acks.delivering = true;
        }
        self.due.notify_all();
        Ok(())
    }

    fn show(&self, end: u64) {
        let is_news = self.progress.send_if_modified(|progress| {
            let moved = end > progress.visible;
            progress.visible = progress.visible.max(end);
            moved
        });
        if is_news {
            self.tell_listeners();
        }
    }

    fn tell_listeners(&self) {
        for listener in self.listeners().iter().filter_map(Weak::upgrade) {
            listener.progressed();
        }
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<dyn ProgressListener>>> {
        self.listeners.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Delivers delayed acknowledgements in order, each when it is due, until the notifier is gone. A thread, because a
/// runtime's timer is no finer than a millisecond.
fn deliver(notifier: &Weak<DurabilityNotifier>) {
    const CHECK_ALIVE_EVERY: Duration = Duration::from_millis(200);
    // A delay is to be what it was told to be, not up to 50 microseconds more. Where that cannot be had it is more.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    while let Some(notifier) = notifier.upgrade() {
        let mut acks = notifier.lock();
        let now = notifier.environment.now();
        let mut shown = None;
        while acks.delayed.front().is_some_and(|&(due, _)| due <= now) {
            shown = acks.delayed.pop_front().map(|(_, end)| end);
        }
        if let Some(end) = shown {
            notifier.show(end);
        }
        let wait = acks.delayed.front().map_or(CHECK_ALIVE_EVERY, |&(due, _)| due.saturating_duration_since(now));
        drop(notifier.due.wait_timeout(acks, wait.min(CHECK_ALIVE_EVERY)));
    }
}

#[cfg(test)]
#[path = "notifier_tests.rs"]
mod tests;
