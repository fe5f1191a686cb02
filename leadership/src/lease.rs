//! The leader's own view of its lease: until when it may answer, and when it asks for more.

use std::time::Duration;

use crate::Moment;

/// A renewal is sent each time this part of the lease has passed, so two in a row may be lost.
const RENEWALS_PER_LEASE: u32 = 3;

/// After a renewal that failed the next is sent when this part of the lease has passed, within the bounds below.
const RETRIES_PER_LEASE: u32 = 20;
/// However short the lease, a log that refuses or is away is not asked more often.
const RETRY_AT_LEAST: Duration = Duration::from_millis(10);
/// However long the lease, a log that is back is asked within this time.
const RETRY_AT_MOST: Duration = Duration::from_millis(500);

/// The lease of one epoch, as its leader counts it. The thread that renews it owns it; other threads compare their clock
/// with the last [`Lease::valid_until`].
///
/// It counts from the moment at which the request was *sent*. The log service counts from when it *received* the same
/// request, which is later, and adds a margin for clocks that do not run alike. So the leader's lease is over before
/// anybody else can have one.
///
/// Once the lease was seen to be over it stays over, whatever arrives late: what was computed under it is not answered.
/// If the log service takes another renewal of the same epoch afterwards, nobody else led in between, and the leader may
/// go on, with a new `Lease` that counts from when that was sent, once the clients of the old one are closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// None when it never expires.
    length: Option<Duration>,
    /// When the first request for this length was sent: answers to earlier ones tell of another.
    length_since: Moment,
    valid_until: Moment,
    next_renewal: Moment,
    is_over: bool,
}

impl Lease {
    /// The lease that an `LOG.ACQUIRE` got which was sent at `sent`: valid before `sent + length`. As in the protocol, a
    /// length of zero does not expire: failover is off.
    pub fn acquired(sent: Moment, length: Duration) -> Self {
        let length = (!length.is_zero()).then_some(length);
        let mut lease = Lease {
            length,
            length_since: sent,
            valid_until: end(sent, length),
            next_renewal: Moment::NEVER,
            is_over: false,
        };
        lease.renew_after(sent);
        lease
    }

    /// A lease that does not expire and need not be renewed.
    pub fn endless() -> Self {
        Lease::acquired(Moment::ALWAYS, Duration::ZERO)
    }

    /// Its length; `None` if it does not expire.
    pub fn length(&self) -> Option<Duration> {
        self.length
    }

    /// A renewal is about to be sent that asks for `length`; zero does not expire. `sent` is read from the clock before, is later than that
    /// of the renewal before, so that their answers can be told apart, and is told again when the answer comes. A shorter length counts
    /// at once, as the log service may grant it although no answer ever comes.
    pub fn renewal_sent(&mut self, sent: Moment, length: Duration) {
        let length = (!length.is_zero()).then_some(length);
        if length != self.length {
            self.length = length;
            self.length_since = sent;
            self.valid_until = self.valid_until.min(end(sent, length));
        }
        self.renew_after(sent);
    }

    /// The renewal that was sent at `sent` succeeded. Answers may come in any order; the lease never becomes shorter by one.
    /// False if it is over nevertheless: it was seen to be, or had passed already when this was sent.
    pub fn renewed(&mut self, sent: Moment) -> bool {
        if !self.observe(sent) {
            return false;
        }
        if sent >= self.length_since {
            self.valid_until = self.valid_until.max(end(sent, self.length));
        }
        true
    }

    /// A renewal could not be sent, was not answered, or was refused for a reason that may pass.
    pub fn renewal_failed(&mut self, now: Moment) {
        // One that was to make the lease endless has not: it still ends when it did.
        if self.valid_until != Moment::NEVER {
            let retry = self.length.map_or(RETRY_AT_MOST, |length| length / RETRIES_PER_LEASE);
            self.next_renewal = self.next_renewal.min(now.plus(retry.clamp(RETRY_AT_LEAST, RETRY_AT_MOST)));
        }
    }

    /// The epoch is over: the log said so, or the lease is about to be released. A release must come after this, as
    /// another may lead from the moment it arrives, whether or not its answer does.
    pub fn give_up(&mut self) {
        self.is_over = true;
    }

    /// Whether the leader may answer at `now`.
    pub fn is_valid(&self, now: Moment) -> bool {
        now < self.valid_until()
    }

    /// As [`Lease::is_valid`], and what it finds stays: a lease that is over at `now` is over for good.
    pub fn observe(&mut self, now: Moment) -> bool {
        self.is_over |= !self.is_valid(now);
        !self.is_over
    }

    /// The first moment at which the leader may not answer any more (exclusive end of the lease). [`Moment::ALWAYS`] once it
    /// is over, [`Moment::NEVER`] if it does not expire.
    ///
    /// A thread that compares its clock with a copy of this and finds the lease over has to keep that in mind by itself: the
    /// copy may become later again, if a renewal was under way and the owner had not looked yet.
    pub fn valid_until(&self) -> Moment {
        if self.is_over {
            Moment::ALWAYS
        } else {
            self.valid_until
        }
    }

    /// When the next renewal is to be sent; [`Moment::NEVER`] if none is.
    pub fn next_renewal(&self) -> Moment {
        if self.is_over {
            Moment::NEVER
        } else {
            self.next_renewal
        }
    }

    fn renew_after(&mut self, sent: Moment) {
        self.next_renewal = self.length.map_or(Moment::NEVER, |length| sent.plus(length / RENEWALS_PER_LEASE));
    }
}

/// When a lease passes that was asked for at `sent`.
fn end(sent: Moment, length: Option<Duration>) -> Moment {
    length.map_or(Moment::NEVER, |length| sent.plus(length))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
