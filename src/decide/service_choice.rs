//! Which of the configured log services is in use. Services replicate a log among them, and one of them decides over it; the others say
//! which one that is. Plain logic that is given the time.

use std::time::{Duration, Instant};

use crate::decide::answer_time::AnswerTime;

/// A service that did not answer in time is passed over for so long, as long as others answer: asking it again costs much time.
const PASSED_OVER: Duration = Duration::from_secs(3);
/// For so long after it did not answer in time, other services may not know yet that it decides no more. They need at most a second to
/// notice, and the time-out has taken a part of that.
const DOUBTED: Duration = Duration::from_millis(500);

/// Why a service is of no use for the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be connected to, or the connection ended, or it answers what is of no use.
    Lost,
    /// It did not answer in time.
    Silent,
    /// Another one decides: that one of the list, if the service knows it and it is one of the list.
    DecidesNot(Option<usize>),
}

/// The choice among services that are known by their place in the list. It begins with the first one. All services are tried in a round
/// before any wait.
#[derive(Debug)]
pub struct ServiceChoice {
    in_use: usize,
    /// Whether the service in use was found to decide, and has not failed since.
    is_confirmed: bool,
    /// How often a service was found to decide that was not known to.
    confirmations: u64,
    services: Vec<Tried>,
    /// Whether all services have been tried in vain. The next failure begins another round.
    is_round_over: bool,
    /// Whether a service did not answer in time in this round.
    is_round_silent: bool,
    answer_time: AnswerTime,
}

#[derive(Debug, Clone, Default)]
struct Tried {
    /// Whether it was tried in this round, in vain.
    in_vain: bool,
    /// Whether it has answered in this round that another one decides.
    has_answered: bool,
    /// Whether it was chosen in this round because another one said that it decides. That counts once, so services that name each other
    /// end the round as well.
    was_named: bool,
    /// When it did not answer in time, if that was its last failure.
    silent: Option<Instant>,
}

impl Tried {
    fn was_silent_within(&self, time: Duration, now: Instant) -> bool {
        self.silent.is_some_and(|silent| now.saturating_duration_since(silent) < time)
    }
}

impl ServiceChoice {
    /// The choice among `count` services, at least one.
    pub fn among(count: usize) -> Self {
        let services = vec![Tried::default(); count.max(1)];
        ServiceChoice {
            in_use: 0,
            is_confirmed: false,
            confirmations: 0,
            services,
            is_round_over: false,
            is_round_silent: false,
            answer_time: AnswerTime::default(),
        }
    }

    /// The service in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// The service that was found to decide, if it has not failed since.
    pub fn confirmed(&self) -> Option<usize> {
        self.is_confirmed.then_some(self.in_use)
    }

    /// How often a service was found to decide that was not known to. A change is news for whoever waits to try again.
    pub fn confirmations(&self) -> u64 {
        self.confirmations
    }

    /// Whether all services were tried in vain, so that whoever tries again waits first.
    pub fn is_round_over(&self) -> bool {
        self.is_round_over
    }

    /// That service has decided something.
    pub fn decided(&mut self, which: usize) {
        if self.confirmed() != Some(which) {
            self.confirmations += 1;
        }
        self.begin_round();
        (self.in_use, self.is_confirmed) = (which, true);
        self.services[which].silent = None;
    }

    /// That service has failed. If it is the one in use, another one is from now on, if there is one. If not, another thread was faster.
    pub fn failed(&mut self, which: usize, failure: Failure, now: Instant) {
        self.services[which].silent = (failure == Failure::Silent).then_some(now);
        if which != self.in_use {
            return;
        }
        self.is_confirmed = false;
        if self.is_round_over {
            self.begin_round();
        }
        self.services[which].in_vain = true;
        self.is_round_silent |= failure == Failure::Silent;
        self.services[which].has_answered |= matches!(failure, Failure::DecidesNot(_));
        let named = match failure {
            Failure::DecidesNot(Some(named)) if named != which && !self.is_doubted(named, now) => Some(named),
            _ => None,
        };
        let news = named.filter(|named| !std::mem::replace(&mut self.services[*named].was_named, true));
        if let Some(next) = news.or_else(|| self.next_to_try(now)) {
            self.in_use = next;
            return;
        }
        self.is_round_over = true;
        if self.is_round_silent {
            self.answer_time.round_was_silent(now);
        }
        let others = self.behind(which);
        let answers = others.clone().find(|other| !self.services[*other].was_silent_within(PASSED_OVER, now));
        self.in_use = named.or(answers).unwrap_or((which + 1) % self.services.len());
    }

    /// How long a service may take to answer, where `usual` is enough as a rule.
    pub fn answer_time(&self, usual: Duration, now: Instant) -> Duration {
        self.answer_time.now(usual, now)
    }

    /// How long answers take.
    pub fn answer_times(&mut self) -> &mut AnswerTime {
        &mut self.answer_time
    }

    fn begin_round(&mut self) {
        (self.is_round_over, self.is_round_silent) = (false, false);
        for service in &mut self.services {
            *service = Tried { silent: service.silent, ..Tried::default() };
        }
    }

    /// The next service that was not tried in this round. One that was silent comes last, and only if no other one has answered: another
    /// one that answers comes to know which one decides.
    fn next_to_try(&self, now: Instant) -> Option<usize> {
        let is_silent = |which: &usize| self.services[*which].was_silent_within(PASSED_OVER, now);
        let left = self.behind(self.in_use).filter(|which| !self.services[*which].in_vain);
        let has_answer = self.services.iter().any(|service| service.has_answered);
        left.clone().find(|which| !is_silent(which)).or_else(|| left.clone().find(|_| !has_answer))
    }

    /// All services, from the one behind `which` on, and that one last.
    fn behind(&self, which: usize) -> impl Iterator<Item = usize> + Clone {
        let count = self.services.len();
        (1..=count).map(move |step| (which + step) % count)
    }

    fn is_doubted(&self, which: usize, now: Instant) -> bool {
        self.services[which].was_silent_within(DOUBTED, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Failure::{DecidesNot, Lost, Silent};

    const MOMENT: Duration = Duration::from_millis(1);

    /// The services that are tried, each of which fails as `fails` says of it, until all were tried in vain.
    fn round(choice: &mut ServiceChoice, now: Instant, fails: impl Fn(usize) -> Failure) -> Vec<usize> {
        let mut tried = Vec::new();
        loop {
            let which = choice.in_use();
            tried.push(which);
            assert!(tried.len() < 100, "it never waits: {tried:?}");
            choice.failed(which, fails(which), now);
            if choice.is_round_over() {
                return tried;
            }
        }
    }

    #[test]
    fn one_service_is_waited_for_after_each_failure() {
        let (mut choice, now) = (ServiceChoice::among(1), Instant::now());
        for failure in [Lost, Silent, DecidesNot(None), DecidesNot(Some(0)), Lost] {
            assert_eq!(round(&mut choice, now, |_| failure), [0]);
            assert_eq!(choice.in_use(), 0);
        }
    }

    #[test]
    fn each_service_is_tried_once_before_a_wait_and_the_next_round_goes_on_behind_the_last() {
        let (mut choice, now) = (ServiceChoice::among(3), Instant::now());
        for _ in 0..3 {
            assert_eq!(round(&mut choice, now, |_| Lost), [0, 1, 2]);
            assert_eq!(choice.in_use(), 0);
        }
        assert_eq!(round(&mut choice, now, |_| DecidesNot(None)), [0, 1, 2], "none knows which one decides");
        choice.decided(1);
        assert_eq!(round(&mut choice, now, |_| Lost), [1, 2, 0]);
    }

    #[test]
    fn the_service_that_another_one_names_comes_next() {
        let (mut choice, now) = (ServiceChoice::among(3), Instant::now());
        choice.failed(0, DecidesNot(Some(2)), now);
        assert_eq!((choice.in_use(), choice.is_round_over()), (2, false));
        choice.decided(2);
        assert_eq!((choice.confirmed(), choice.confirmations()), (Some(2), 1));
        // Its connection is lost once, and the next one says that it decides all the same.
        choice.failed(2, Lost, now);
        assert_eq!((choice.in_use(), choice.confirmed()), (0, None));
        choice.failed(0, DecidesNot(Some(2)), now);
        assert_eq!((choice.in_use(), choice.is_round_over()), (2, false));
        choice.decided(2);
        assert_eq!((choice.confirmed(), choice.confirmations()), (Some(2), 2));
        choice.decided(2);
        assert_eq!(choice.confirmations(), 2, "that is no news");
    }

    #[test]
    fn services_that_name_each_other_or_one_that_is_gone_end_the_round() {
        for count in 2..=9 {
            let (mut choice, now) = (ServiceChoice::among(count), Instant::now());
            let tried = round(&mut choice, now, |which| DecidesNot(Some(1 - which.min(1))));
            assert!(tried.len() <= 2 * count, "{tried:?}");
            let mut choice = ServiceChoice::among(count);
            let tried = round(&mut choice, now, |which| if which == 0 { Lost } else { DecidesNot(Some(0)) });
            assert!((0..count).all(|which| tried.contains(&which)) && tried.len() <= 2 * count, "{tried:?}");
            let next = if count == 2 { 1 } else { 0 };
            assert_eq!(
                choice.in_use(),
                next,
                "the one that was named comes first after the wait, unless it was the last"
            );
        }
    }

    #[test]
    fn a_service_that_names_itself_is_not_asked_again_at_once() {
        let (mut choice, now) = (ServiceChoice::among(2), Instant::now());
        assert_eq!(round(&mut choice, now, |which| DecidesNot(Some(which))), [0, 1]);
    }

    #[test]
    fn a_silent_service_is_passed_over_while_others_answer() {
        let (mut choice, start) = (ServiceChoice::among(3), Instant::now());
        choice.decided(0);
        choice.failed(0, Silent, start);
        let elects = |_| DecidesNot(None);
        assert_eq!(round(&mut choice, start + MOMENT, elects), [1, 2]);
        assert_eq!(round(&mut choice, start + 2 * MOMENT, elects), [1, 2]);
        assert_eq!(round(&mut choice, start + PASSED_OVER, elects), [1, 2, 0]);
        // If none answers, all are tried, and it is the last one.
        let mut gone = ServiceChoice::among(3);
        gone.failed(0, Silent, start);
        assert_eq!(round(&mut gone, start + MOMENT, |_| Lost), [1, 2]);
        assert_eq!(round(&mut gone, start + MOMENT, |_| Lost), [1, 2, 0]);
        for _ in 0..3 {
            let tried = round(&mut choice, start + PASSED_OVER, |_| Silent);
            assert_eq!(tried.len(), 3, "{tried:?}");
        }
    }

    #[test]
    fn services_that_answer_late_are_given_longer() {
        let (mut choice, now) = (ServiceChoice::among(3), Instant::now());
        let usual = Duration::from_millis(250);
        // The one that decides needs long for a renewal. The others only say that it decides.
        for expected in [1, 1, 1, 2, 4] {
            assert_eq!(choice.answer_time(usual, now), usual * expected);
            choice.decided(0);
            round(&mut choice, now, |which| if which == 0 { Silent } else { DecidesNot(Some(0)) });
        }
        // One that is gone is passed over, and costs no time.
        let mut gone = ServiceChoice::among(3);
        for _ in 0..9 {
            round(&mut gone, now, |which| if which == 0 { Silent } else { DecidesNot(None) });
        }
        assert_eq!(gone.answer_time(usual, now), usual);
    }

    #[test]
    fn what_others_say_of_a_service_that_was_just_silent_is_doubted() {
        let (mut choice, start) = (ServiceChoice::among(3), Instant::now());
        choice.decided(0);
        choice.failed(0, Silent, start);
        assert_eq!(round(&mut choice, start + MOMENT, |_| DecidesNot(Some(0))), [1, 2]);
        assert_eq!(choice.in_use(), 1, "it is asked again after a wait");
        // They still say so when they had the time to notice.
        choice.failed(1, DecidesNot(Some(0)), start + DOUBTED);
        assert_eq!((choice.in_use(), choice.is_round_over()), (0, false));
    }

    #[test]
    fn what_one_thread_has_found_is_not_undone_by_another_that_was_slower() {
        let (mut choice, now) = (ServiceChoice::among(3), Instant::now());
        choice.failed(0, Lost, now);
        choice.decided(1);
        choice.failed(0, DecidesNot(Some(2)), now);
        assert_eq!((choice.confirmed(), choice.is_round_over()), (Some(1), false));
    }
}
