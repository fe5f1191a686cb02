//! Discrete time. All clocks count ticks. A node's clock may lose a tick against the log service's, but not two within the
//! time of a lease: the most that the service's margin allows for. A clock that gains ends a lease early, which an early
//! decision to step down does as well.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use durability_leadership::Moment;

/// A reading of a clock.
pub type Ticks = u8;

/// A little longer than the service's margin for a lease of [`LEASE_TICKS`], so that the margin is one tick.
pub const TICK: Duration = Duration::from_millis(12);
/// Length of a lease.
pub const LEASE_TICKS: Ticks = 3;
/// The same, as it is asked for.
pub const LEASE_MS: u64 = 36;
/// What the log service waits longer than the lease, to allow for clocks that run apart.
pub const MARGIN: Duration = Duration::from_micros(36_000 / 20 + 10_000);

/// Length of a lease.
pub const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// A length in ticks, as it is asked for.
pub fn lease_ms(length: Ticks) -> u64 {
    LEASE_MS / u64::from(LEASE_TICKS) * u64::from(length)
}

/// A node's clock.
pub fn moment(ticks: Ticks) -> Moment {
    Moment::ALWAYS.plus(TICK * u32::from(ticks))
}

/// The log service's clock.
pub fn instant(ticks: Ticks) -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    // Later than now, so that there is something before it.
    *START.get_or_init(|| Instant::now() + Duration::from_secs(3600)) + TICK * u32::from(ticks)
}
