//! How long a lease keeps others out.

use std::time::{Duration, Instant};

use super::rule_switches::{self, Rule};

/// By how much the leader's clock and this one may drift apart in a lease, one part in so many: 5 % of both together.
const DRIFT_DIVISOR: u64 = 20;
/// What is allowed for besides: clocks are read a little before or after what they time.
const DRIFT_FLOOR_MS: u64 = 10;

/// How long others are kept from the lease, from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseLeft {
    /// Nobody holds it.
    Nobody,
    /// Until it is released.
    Forever,
    /// That long; zero when it has expired.
    For(Duration),
}

/// How much longer than the lease others wait, in milliseconds. The leader counts its lease by its own clock, from before it
/// asked; this one begins later, when it was asked, but may go faster.
pub fn drift_margin_ms(lease_ms: u64) -> u64 {
    if !rule_switches::holds(Rule::AddsMargin) {
        return 0;
    }
    lease_ms / DRIFT_DIVISOR + DRIFT_FLOOR_MS
}

/// When another node may have a lease that was asked for at `now`.
pub fn expiry(lease_ms: u64, now: Instant) -> Option<Instant> {
    let kept_ms = lease_ms.saturating_add(drift_margin_ms(lease_ms));
    // A lease too long for the clock is one that never expires.
    (lease_ms > 0).then(|| now.checked_add(Duration::from_millis(kept_ms))).flatten()
}

/// The later end of a lease if `new` and `old` are both times. A lease that never expired does from now on if `new` says so, and
/// the other way round: either is asked for.
pub fn later_expiry(new: Option<Instant>, old: Option<Instant>) -> Option<Instant> {
    new.map(|new| old.map_or(new, |old| new.max(old)))
}

/// Milliseconds, rounded up, so that 0 is nothing.
pub fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
