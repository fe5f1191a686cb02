//! Points in time.

use std::time::Duration;

/// A reading of this process's monotonic clock, in nanoseconds. Two nodes' moments have nothing to do with each other.
///
/// The clock must go on while the machine is suspended (`CLOCK_BOOTTIME`; `CLOCK_MONOTONIC`, which is behind
/// [`std::time::Instant`], stands still then): a leader that slept must find its lease gone.
///
/// The number is public, so that it can be kept in an `AtomicU64` and compared before every reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Before everything.
    pub const ALWAYS: Moment = Moment(0);
    /// After everything.
    pub const NEVER: Moment = Moment(u64::MAX);

    /// So much later; [`Moment::NEVER`] if that is further than the clock counts.
    #[must_use]
    pub fn plus(self, time: Duration) -> Moment {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(nanos))
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
