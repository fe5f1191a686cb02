//! "Tell me when leadership changes": a number for each state of it, and the polls that wait for another number.

use std::sync::Arc;
use std::time::Instant;

use durability_protocol::{Code, Refusal};
use tokio::sync::watch;

use super::epochs::Leadership;
use super::rule_switches::{self, Rule};
use super::{Accepting, Environment, Epochs, Heard, Role, Shard};

/// A leader asks for more time.
#[derive(Debug, Clone, Copy)]
pub struct Renewal {
    /// Its epoch.
    pub epoch: u64,
    /// How long the lease is to be; 0 does not expire.
    pub lease_ms: u64,
    /// Grows from one renewal of the epoch to the next; none from who sends them one after the other in any case.
    pub sent: Option<u64>,
}

/// Numbers the states of leadership. A number is never used for two of them.
#[derive(Debug)]
pub(super) struct Versions {
    current: Leadership,
    number: watch::Sender<u64>,
}

impl Versions {
    /// `current` is the first state, and has the number `first`.
    pub fn new(current: Leadership, first: u64) -> Self {
        Versions { current, number: watch::Sender::new(first) }
    }

    /// A first number that no earlier life of the service has given out: milliseconds since 1970, faster than which
    /// leadership does not change.
    pub fn first_number(environment: &dyn Environment) -> u64 {
        environment.unix_ms().max(1)
    }

    /// The number of `state`, which is how things are now. If it is another than before, whoever waits is woken.
    pub fn observe(&mut self, state: Leadership) -> u64 {
        if self.current != state {
            self.current = state;
            self.number.send_modify(|number| *number += 1);
        }
        *self.number.borrow()
    }
}

impl Accepting {
    /// The version of leadership. Time alone can change it: a lease expires, a reservation ends. So `now` is read under the
    /// lock, lest a later look sees an earlier time.
    pub(super) fn version(&mut self, now: Instant) -> u64 {
        self.versions.observe(self.epochs.leadership(now))
    }

    /// Has whoever waits for another version look again.
    pub(super) fn wake_polls(&self) {
        self.versions.number.send_modify(|_| {});
    }

    /// Tells when the version is another than when it was last looked at.
    pub(super) fn watch_versions(&self) -> watch::Receiver<u64> {
        self.versions.number.subscribe()
    }

    /// Changes the epochs in force. All that changes them does it here, so that no change goes without its number.
    pub(super) fn change_epochs(&mut self, change: impl FnOnce(&mut Epochs)) {
        let now = self.environment.now();
        // An expiry that a renewal takes back was one all the same.
        self.version(now);
        change(&mut self.epochs);
        self.version(now);
    }

    /// Whether no renewal of that epoch was taken that was sent later: the bytes of this one may have lain in a connection that its
    /// sender has given up, and it counts by what was answered last.
    pub(super) fn check_in_order(&mut self, renewal: Renewal) -> Result<(), Refusal> {
        if self.epochs.check_leading(renewal.epoch).is_err() || !rule_switches::holds(Rule::OrdersRenewals) {
            return Ok(());
        }
        let newest = self.newest_renewal.filter(|newest| newest.epoch == renewal.epoch);
        if renewal.sent.is_some_and(|sent| newest.and_then(|newest| newest.sent).is_some_and(|newest| sent < newest)) {
            return Err(Refusal::new(Code::Err, "this renewal comes late: one that was sent after it has been taken"));
        }
        self.newest_renewal = Some(renewal);
        Ok(())
    }

    /// Whether the newest renewal of that epoch that was taken asked for another length, which may not be stored yet.
    pub(super) fn is_length_changing(&self, renewal: Renewal) -> bool {
        let newest = self.newest_renewal.filter(|newest| newest.epoch == renewal.epoch);
        newest.is_some_and(|newest| newest.lease_ms != renewal.lease_ms)
    }

    /// Extends the lease from now.
    pub(super) fn renew(&mut self, renewal: Renewal) -> Result<(), Refusal> {
        let (mut renewed, now) = (Ok(false), self.environment.now());
        self.change_epochs(|epochs| renewed = epochs.renew(renewal.epoch, renewal.lease_ms, now));
        renewed.map(drop)
    }

    /// Puts `next` in force, a changed copy of the epochs that were in force when its maker had locked [`Shard::changing`].
    ///
    /// Whoever holds that lock is the only one who changes epochs, but for two changes of which nothing is stored: a renewal of the
    /// leader in force, for as long as it has the lease for already; and that an operator begins to take the lease from it. So the end
    /// of the lease and whether it is revoked are all that can have moved since the copy was made, and somebody was answered for either.
    /// A copy that still is of that leader takes them over, whatever was changed. One that was released or granted to another leaves
    /// them behind, but for whom an operator has named to lead next: they count as having come before that. While the epochs are closed, from before anything of a new leader is stored,
    /// there are no such changes.
    pub(super) fn replace_epochs(&mut self, mut next: Epochs) {
        if rule_switches::holds(Rule::KeepsRenewals) {
            next.keep_changes_since(&self.epochs, self.environment.now());
        }
        self.change_epochs(|in_force| *in_force = next);
    }
}

/// A node that waits for leadership to change.
pub struct Poll {
    shard: Arc<Shard>,
    seen: u64,
    deadline: Instant,
    changes: watch::Receiver<u64>,
}

impl Poll {
    /// The shard whose leadership it is.
    pub fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Waits until the version is another than the node has seen, its time is over, or the shard has ended. May be dropped and called again.
    pub async fn due(&mut self) {
        loop {
            // First, so that no change goes unnoticed after the look.
            self.changes.mark_unchanged();
            let (now, version, next_change) = {
                let mut accepting = self.shard.accepting();
                let now = self.shard.environment.now();
                (now, accepting.version(now), accepting.epochs.next_change(now))
            };
            if version != self.seen || now >= self.deadline || self.shard.has_ended() {
                return;
            }
            let until = next_change.map_or(self.deadline, |change| change.min(self.deadline));
            tokio::select! {
                biased;
                _ = self.changes.changed() => {}
                () = self.shard.environment.sleep_until(until) => {}
            }
        }
    }
}

impl Shard {
    /// Notes what a node says of itself, and lets it wait until the version of leadership is another than `seen`, but for no
    /// longer than it says.
    ///
    /// # Errors
    /// [`Code::Fenced`]: the node leads, and the lease is being taken from it.
    pub fn poll(self: &Arc<Self>, heard: Heard<'_>, seen: u64) -> Result<Poll, Refusal> {
        let wait = heard.wait;
        let (node_id, is_leader) = (heard.node_id.to_owned(), heard.role == Role::Leader);
        let now = {
            let mut nodes = self.nodes();
            let now = self.environment.now();
            nodes.hear(heard, now);
            now
        };
        let accepting = self.accepting();
        if is_leader {
            accepting.epochs.check_not_taken_from(&node_id)?;
        }
        let changes = accepting.watch_versions();
        drop(accepting);
        Ok(Poll { shard: self.clone(), seen, deadline: now + wait, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(epoch: u64) -> Leadership {
        Leadership { epoch, leader: None, began_at: None, is_free: true, reserved_for: None, is_revoked: false }
    }

    #[test]
    fn each_other_state_has_a_number_of_its_own_also_one_that_was_there_before() {
        let mut versions = Versions::new(state(1), 70);
        let mut changes = versions.number.subscribe();
        assert_eq!(versions.observe(state(1)), 70);
        assert!(!changes.has_changed().expect("the sender lives"));
        assert_eq!(versions.observe(state(2)), 71);
        assert!(changes.has_changed().expect("the sender lives"));
        changes.mark_unchanged();
        assert_eq!(versions.observe(state(1)), 72);
        assert_eq!(versions.observe(state(1)), 72);
        assert_eq!(*changes.borrow_and_update(), 72);
    }
}
