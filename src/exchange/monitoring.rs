//! What the lease keeper reports to the log service for monitoring: figures, and settings that are compared with those of other nodes. The
//! main thread looks at them when it is asked to, so that nothing is done for them in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use durability_protocol::{NodeFigures, NodeSettings};

use crate::base::locks::lock;

/// How long after a look at the settings the next one begins. Nothing tells that users have changed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same when configs were changed meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Figures on their way from the main thread to the lease keeper.
#[derive(Default)]
pub struct Monitoring {
    are_wanted: AtomicBool,
    last: Mutex<Option<(Instant, NodeFigures)>>,
    settings: Mutex<Settings>,
}

/// Settings on the same way.
#[derive(Default)]
struct Settings {
    /// As they are sent; none before the first look is done.
    text: Option<Arc<str>>,
    /// When the last look was done.
    done: Option<Instant>,
    /// Configs were changed since that look began.
    have_changed: bool,
    /// A look has begun.
    is_under_way: bool,
    /// The main thread is asked for the next step of it.
    is_asked: bool,
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

    /// The settings as they are sent, none before they were looked at, and whether to ask the main thread for a step of a look. Lease keeper.
    pub fn settings(&self, now: Instant) -> (Option<Arc<str>>, bool) {
        let mut settings = lock(&self.settings);
        let wait = if settings.have_changed { LOOK_AGAIN } else { LOOK_EVERY };
        let is_due = settings.done.is_none_or(|done| now.saturating_duration_since(done) >= wait);
        let asks = !settings.is_asked && (settings.is_under_way || is_due);
        if asks {
            settings.have_changed &= settings.is_under_way;
            (settings.is_asked, settings.is_under_way) = (true, true);
        }
        (settings.text.clone(), asks)
    }

    /// A step of a look was done: all of it if there are settings. Main thread.
    pub fn looked(&self, all: Option<NodeSettings>, now: Instant) {
        let mut settings = lock(&self.settings);
        settings.is_asked = false;
        if let Some(all) = all {
            let text = all.text();
            settings.text = (!text.is_empty()).then(|| text.into());
            (settings.done, settings.is_under_way) = (Some(now), false);
        }
    }

    /// Configs were changed. Main thread.
    pub fn settings_changed(&self) {
        lock(&self.settings).have_changed = true;
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

    #[test]
    fn settings_are_looked_at_in_steps_once_a_minute_and_soon_after_a_change() {
        let (monitoring, start) = (Monitoring::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let asks = |seconds| monitoring.settings(at(seconds)).1;
        let all = || Some(NodeSettings::parse("maxmemory=0").expect("settings"));
        assert!(asks(0) && !asks(0), "not again before the main thread has answered");
        monitoring.looked(None, at(1));
        assert!(asks(1), "the next step");
        monitoring.looked(all(), at(2));
        assert_eq!(monitoring.settings(at(2)), (Some("maxmemory=0".into()), false));
        assert!(!asks(61) && asks(62));
        monitoring.settings_changed();
        monitoring.looked(all(), at(62));
        assert!(!asks(62) && asks(63), "what changed during the look counts");
        monitoring.looked(all(), at(63));
        assert!(!asks(122) && asks(123));
    }
}
