//! What a store reports to its shard.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::{Acceptance, Accepting, Epochs, OPENED};
use crate::base::log_throttle::say;
use crate::store::{Manifest, StoreEvents};

impl Acceptance {
    /// The store has taken no append for want of space. Told once, until something is durable again: what is in flight is not refused.
    pub(super) fn note_no_space(&self, accepting: &mut Accepting, reason: &str) {
        if !std::mem::replace(&mut accepting.no_space, true) {
            tracing::error!("shard {}: appends are refused until there is space: {reason}", self.shard);
            self.notifier.set_refused(accepting.end, reason);
        }
    }
}

impl StoreEvents for Acceptance {
    fn durable(&self, end: u64) {
        if self.follows {
            let mut accepting = self.lock();
            accepting.end = accepting.end.max(end);
        }
        // First, so that whoever is acknowledged sees a shard that has recovered.
        if self.notifier.refusals() > 0 {
            self.lock().no_space = false;
        }
        self.notifier.set_durable(end);
    }

    fn refused(&self, end: u64, reason: &str) {
        let mut accepting = self.lock();
        accepting.end = end;
        if !std::mem::replace(&mut accepting.no_space, true) {
            tracing::error!("no space for the log, appends are refused until there is: {reason}");
        }
        self.notifier.set_refused(end, reason);
    }

    fn failed(&self, reason: &str) {
        tracing::error!("the log has failed, nothing is acknowledged until a restart: {reason}");
        self.notifier.set_failed(reason);
    }

    fn damaged(&self, reason: &str) {
        tracing::error!("the log is damaged, and the shard is served no more until its files are repaired: {reason}");
        // First, so that whoever sees it failed sees why. What failed before is told as that.
        let mut accepting = self.lock();
        accepting.is_damaged = self.notifier.progress().failed.is_none();
        drop(accepting);
        self.notifier.set_failed(reason);
    }

    fn superseded(&self) {
        say!(OPENED, info, "shard {}: who decides over its log has changed", self.shard);
        self.notifier.set_superseded(self.successor.get().map(String::as_str));
        self.lock().wake_polls();
    }

    fn replaced(&self, manifest: &Manifest, begins_at: Option<u64>) {
        let is_other_stream = {
            let mut accepting = self.lock();
            let epochs = Epochs::from_manifest(manifest, accepting.environment.now()).as_followed();
            let is_other_stream = begins_at.is_some() || epochs.replid() != accepting.epochs.replid();
            accepting.change_epochs(|in_force| *in_force = epochs);
            accepting.end = begins_at.unwrap_or(accepting.end);
            is_other_stream
        };
        self.announce_switch(&OPENED);
        if is_other_stream {
            // First, so that no replica of the log before is sent a byte of this one.
            self.notifier.restart_streams();
        }
        if let Some(begins_at) = begins_at {
            self.notifier.set_durable(begins_at);
        }
        // Whoever hears it looks at the rest of the manifest as well.
        self.followed_base.send_replace(manifest.base);
    }
}

/// Events of a store that is opened before there is anybody to hear them. Nothing is submitted before that, but damage may be reported, and
/// a store that follows reports what another service does.
#[derive(Default)]
pub(super) struct LateEvents {
    hearer: OnceLock<Arc<Acceptance>>,
    /// What nobody has heard.
    unheard: Mutex<Vec<Unheard>>,
}

enum Unheard {
    Durable(u64),
    Refused(u64, String),
    Failed(String),
    Damaged(String),
    Superseded,
    Replaced(Box<Manifest>, Option<u64>),
}

impl LateEvents {
    /// Whatever happens from now on is told to `hearer`, after what has happened.
    pub fn pass_on_to(&self, hearer: Arc<Acceptance>) {
        let mut unheard = self.lock();
        unheard.drain(..).for_each(|event| event.tell(&hearer));
        // Last: whoever sees it does not wait for the lock.
        let _ = self.hearer.set(hearer);
    }

    fn tell(&self, event: impl FnOnce() -> Unheard) {
        let mut unheard = self.lock();
        match self.hearer.get() {
            Some(hearer) => {
                drop(unheard);
                event().tell(hearer);
            }
            None => unheard.push(event()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Unheard>> {
        self.unheard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Unheard {
    fn tell(self, hearer: &Acceptance) {
        match self {
            Unheard::Durable(end) => hearer.durable(end),
            Unheard::Refused(end, reason) => hearer.refused(end, &reason),
            Unheard::Failed(reason) => hearer.failed(&reason),
            Unheard::Damaged(reason) => hearer.damaged(&reason),
            Unheard::Superseded => hearer.superseded(),
            Unheard::Replaced(manifest, begins_at) => hearer.replaced(&manifest, begins_at),
        }
    }
}

impl StoreEvents for LateEvents {
    fn durable(&self, end: u64) {
        match self.hearer.get() {
            Some(hearer) => hearer.durable(end),
            None => self.tell(|| Unheard::Durable(end)),
        }
    }

    fn refused(&self, end: u64, reason: &str) {
        self.tell(|| Unheard::Refused(end, reason.to_owned()));
    }

    fn failed(&self, reason: &str) {
        self.tell(|| Unheard::Failed(reason.to_owned()));
    }

    fn damaged(&self, reason: &str) {
        self.tell(|| Unheard::Damaged(reason.to_owned()));
    }

    fn superseded(&self) {
        self.tell(|| Unheard::Superseded);
    }

    fn replaced(&self, manifest: &Manifest, begins_at: Option<u64>) {
        self.tell(|| Unheard::Replaced(Box::new(manifest.clone()), begins_at));
    }
}
