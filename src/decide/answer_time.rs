//! How long one of several log services may take to answer before another one is tried. As a rule that is short: a service that is gone is not
//! to cost the lease. But if all that there is answers late, giving up early means that nothing is ever done. So each is given longer once
//! that has happened several times in a row, and as long as answers are slow. Plain logic that is given the time.

use std::time::{Duration, Instant};

/// Rounds in vain after which each service is given longer. An election among the services takes no more, as a rule.
const USUAL_ROUNDS: u32 = 2;
/// With each further round it is given twice as long, up to so many times the usual.
const MOST_TIMES: u32 = 4;
/// It is given no longer than that, unless the usual time is longer.
const LONGEST: Duration = Duration::from_secs(2);
/// What is longer ago does not count.
const REMEMBERED: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct AnswerTime {
    /// Rounds in a row that were in vain and in which a service did not answer in time.
    silent_rounds: u32,
    last_silent_round: Option<Instant>,
    /// The longest that an answer has taken, and when it came.
    slowest: Option<(Duration, Instant)>,
}

impl AnswerTime {
    /// How long a service may take now, where `usual` is enough as a rule.
    pub fn now(&self, usual: Duration, now: Instant) -> Duration {
        let further = match self.last_silent_round {
            Some(last) if is_recent(last, now) => self.silent_rounds.saturating_sub(USUAL_ROUNDS),
            _ => 0,
        };
        let times = 1_u32.checked_shl(further).map_or(MOST_TIMES, |times| times.min(MOST_TIMES));
        let slowest = self.slowest.filter(|(_, came)| is_recent(*came, now)).map_or(Duration::ZERO, |(took, _)| took);
        usual.max((usual * times).max(slowest * 2).min(LONGEST))
    }

    /// All services were tried in vain, and one of them did not answer in time.
    pub fn round_was_silent(&mut self, now: Instant) {
        let goes_on = self.last_silent_round.is_some_and(|last| is_recent(last, now));
        self.silent_rounds = if goes_on { self.silent_rounds.saturating_add(1) } else { 1 };
        self.last_silent_round = Some(now);
    }

    /// A service has answered in time.
    pub fn answered(&mut self, took: Duration, now: Instant) {
        if self.slowest.is_none_or(|(slowest, came)| took >= slowest || !is_recent(came, now)) {
            self.slowest = Some((took, now));
        }
    }

    /// A service has renewed a lease in time, which takes longest, as it has to ask the others. So the time that it had is enough.
    pub fn renewed(&mut self, took: Duration, now: Instant) {
        self.answered(took, now);
        self.silent_rounds = 0;
    }
}

fn is_recent(then: Instant, now: Instant) -> bool {
    now.saturating_duration_since(then) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_millis(250);

    #[test]
    fn services_are_given_longer_when_they_stay_silent_and_for_as_long_as_they_are_slow() {
        let (mut time, mut now) = (AnswerTime::default(), Instant::now());
        let mut given = Vec::new();
        for _ in 0..6 {
            given.push(time.now(USUAL, now).as_millis());
            now += USUAL * 3;
            time.round_was_silent(now);
        }
        assert_eq!(given, [250, 250, 250, 500, 1000, 1000]);
        // With that one is renewed, and the next is given twice what that took.
        time.renewed(Duration::from_millis(400), now);
        assert_eq!(time.now(USUAL, now), Duration::from_millis(800));
        time.renewed(Duration::from_millis(10), now + REMEMBERED / 2);
        assert_eq!(time.now(USUAL, now + REMEMBERED / 2), Duration::from_millis(800), "it may be as slow again");
        now += REMEMBERED;
        assert_eq!(time.now(USUAL, now), USUAL);
        time.renewed(Duration::from_millis(10), now);
        assert_eq!(time.now(USUAL, now), USUAL);
    }

    #[test]
    fn silent_rounds_are_forgotten_and_no_time_is_shorter_than_usual() {
        let (mut time, mut now) = (AnswerTime::default(), Instant::now());
        for _ in 0..40 {
            time.round_was_silent(now);
        }
        assert_eq!(time.now(USUAL, now), USUAL * MOST_TIMES);
        assert_eq!(time.now(Duration::from_millis(750), now), LONGEST);
        assert_eq!(time.now(LONGEST * 2, now), LONGEST * 2);
        now += REMEMBERED;
        assert_eq!(time.now(USUAL, now), USUAL);
        time.round_was_silent(now);
        assert_eq!(time.now(USUAL, now), USUAL, "it is the first again");
    }

    #[test]
    fn an_answer_to_a_shorter_question_does_not_show_that_the_time_is_enough() {
        let (mut time, now) = (AnswerTime::default(), Instant::now());
        for _ in 0..3 {
            time.round_was_silent(now);
            time.answered(Duration::from_millis(1), now);
        }
        assert_eq!(time.now(USUAL, now), USUAL * 2);
    }
}
