//! Whether this service decides over the shard's log.

use durability_protocol::{Code, Refusal};
use tokio::sync::{oneshot, watch};

use super::Shard;
use crate::store::{Standing, StoreEvents};

impl Shard {
    /// Whether this service decides over the log, as far as it knows.
    pub fn decides(&self) -> bool {
        !self.acceptance.follows && !self.notifier().is_superseded()
    }

    /// Whether several services keep the log.
    pub fn is_replicated(&self) -> bool {
        self.store.standing() != Standing::Alone
    }

    /// Refuses if another service decides over the log.
    ///
    /// # Errors
    /// [`Code::NotLeader`], with the address of that one if it is known.
    pub fn check_decides(&self) -> Result<(), Refusal> {
        match self.decides() {
            true => Ok(()),
            false => Err(self.not_leader()),
        }
    }

    /// The refusal of what only the service that decides may do.
    pub fn not_leader(&self) -> Refusal {
        let decider = self.decider();
        not_leader(decider.as_deref().or(self.acceptance.successor.get().map(String::as_str)))
    }

    /// A group keeps the log from now on that this service has kept alone: this one takes nothing and acknowledges nothing any more, and is opened
    /// anew. What it had acknowledged by then is durable here.
    pub fn hand_to_group(&self) {
        self.acceptance.superseded();
    }

    /// This service hands the decision over to the one that clients reach at `address`. Whoever is refused from then on because this one
    /// decides no more is told to go there. The first that is named counts, for as long as the shard is open.
    pub fn hand_over_to(&self, address: String) {
        // One that was named before did not come to decide, perhaps: whoever goes there is told so.
        if !address.is_empty() {
            let _ = self.acceptance.successor.set(address);
        }
    }

    /// Where clients reach the service that decides over the log, if that is another one and known.
    pub fn decider(&self) -> Option<String> {
        match self.store.standing() {
            Standing::Follows { address } => address,
            Standing::Alone | Standing::Decides => None,
        }
    }

    /// As [`Shard::confirm`], if this service decides; not with `force`.
    ///
    /// # Errors
    /// As [`Shard::confirm`].
    pub async fn confirm_unless(&self, force: bool) -> Result<(), Refusal> {
        match force {
            true => Ok(()),
            false => self.confirm().await,
        }
    }

    /// Finds out whether this service certainly was the only one that decided over the log, at some moment after this call.
    ///
    /// # Errors
    /// It is not known: another one may have been made to decide before.
    pub async fn confirm(&self) -> Result<(), Refusal> {
        if !self.is_replicated() {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        self.store.confirm(Box::new(move |is_sole| {
            // Fails if nobody waits any more.
            let _ = tell.send(is_sole);
        }));
        match told.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(self.not_leader()),
        }
    }

    /// The base of the log, as another service moves it.
    pub fn followed_base(&self) -> watch::Receiver<u64> {
        self.acceptance.followed_base.subscribe()
    }

    /// Drops the log below `base`, to which another service has moved it.
    pub async fn follow_base(&self, base: u64) {
        self.drop_log_below(base).await;
    }

    /// Refuses while the log here ends below where that of the service that decides begins, so that nobody can be given anything of it.
    pub(super) fn check_caught_up(&self, base: u64, end: u64) -> Result<(), Refusal> {
        if base <= end || !self.acceptance.follows {
            return Ok(());
        }
        Err(Refusal::new(Code::Err, "this log service is catching up with the others: ask again later"))
    }
}

/// The refusal of what only the service at `address` may do; it is not known if there is none.
pub fn not_leader(address: Option<&str>) -> Refusal {
    let text = format!("{} decides over this shard's log: this log service does not", address.unwrap_or("-"));
    Refusal::new(Code::NotLeader, text)
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
