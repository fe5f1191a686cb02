//! The figures that the lease keeper reports to the log service for monitoring: the main thread looks at them when it is asked to, so that
//! nothing is done for them in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::Instant;

use durability_protocol::NodeFigures;

use crate::base::locks::lock;

/// Figures on their way from the main thread to the lease keeper.
#[derive(Default)]
pub struct Monitoring {
    are_wanted: AtomicBool,
    last: Mutex<Option<(Instant, NodeFigures)>>,
}

impl Monitoring {
    /// Has the main thread look before it sleeps next, and returns what it saw last, with how old that is; none if it never looked. Lease
    /// keeper.
    pub fn ask(&self) -> Option<NodeFigures> {
        self.are_wanted.store(true, Ordering::Relaxed);
        let (at, figures) = (*lock(&self.last))?;
        Some(NodeFigures { age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX), ..figures })
    }

    /// Whether figures are wanted; said once for each time that they are. Main thread.
    #[inline]
    pub fn take_wanted(&self) -> bool {
        self.are_wanted.load(Ordering::Relaxed) && self.are_wanted.swap(false, Ordering::Relaxed)
    }

    /// The main thread has looked.
    pub fn publish(&self, now: Instant, figures: NodeFigures) {
        *lock(&self.last) = Some((now, figures));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_wanted_once_for_each_question_and_told_with_their_age() {
        let monitoring = Monitoring::default();
        assert!(!monitoring.take_wanted());
        assert_eq!(monitoring.ask(), None);
        assert!(monitoring.take_wanted() && !monitoring.take_wanted());
        let seen = NodeFigures { lag_ms: 7, ..NodeFigures::default() };
        monitoring.publish(Instant::now() - std::time::Duration::from_millis(50), seen);
        let told = monitoring.ask().expect("figures");
        assert!(told.age_ms >= 50 && told.lag_ms == 7, "{told:?}");
        assert!(monitoring.take_wanted());
    }
}
