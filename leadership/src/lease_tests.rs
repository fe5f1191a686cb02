use proptest::prelude::*;

use super::*;

const LENGTH: Duration = Duration::from_millis(300);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

#[test]
fn a_lease_counts_from_when_its_request_was_sent() {
    let mut lease = Lease::acquired(at(1000), LENGTH);
    assert_eq!(lease.valid_until(), at(1300));
    assert!(lease.is_valid(Moment(at(1300).0 - 1)) && !lease.is_valid(at(1300)));
    assert!(lease.renewed(at(1100)));
    assert_eq!(lease.valid_until(), at(1400));
    assert!(lease.renewed(at(1050)), "an answer that was overtaken");
    assert_eq!(lease.valid_until(), at(1400));
}

#[test]
fn a_lease_that_was_seen_to_be_over_stays_over() {
    let mut lease = Lease::acquired(at(0), LENGTH);
    assert!(lease.observe(at(299)));
    assert!(!lease.observe(at(300)));
    assert!(!lease.renewed(at(200)), "an answer that comes late");
    assert!(!lease.is_valid(at(0)) && lease.valid_until() == Moment::ALWAYS);
    assert_eq!(lease.next_renewal(), Moment::NEVER);
}

#[test]
fn an_answer_that_comes_late_counts_if_nobody_looked_in_between() {
    let mut lease = Lease::acquired(at(0), LENGTH);
    assert!(!lease.is_valid(at(350)));
    assert!(lease.renewed(at(200)));
    assert!(lease.is_valid(at(350)));
}

#[test]
fn a_renewal_that_was_sent_too_late_ends_the_lease() {
    let mut lease = Lease::acquired(at(0), LENGTH);
    assert!(!lease.renewed(at(300)));
    assert!(!lease.renewed(at(200)));
    assert!(!lease.is_valid(at(0)));
}

#[test]
fn renewals_are_sent_each_third_and_sooner_after_a_failure() {
    let mut lease = Lease::acquired(at(0), LENGTH);
    assert_eq!(lease.next_renewal(), at(100));
    lease.renewal_sent(at(110), LENGTH);
    assert_eq!(lease.next_renewal(), at(210), "whether or not it is answered");
    lease.renewal_failed(at(120));
    assert_eq!(lease.next_renewal(), at(135));
    lease.renewal_failed(at(134));
    assert_eq!(lease.next_renewal(), at(135), "a failure puts nothing off");
    let mut short = Lease::acquired(at(0), Duration::from_millis(60));
    short.renewal_failed(at(0));
    assert_eq!(short.next_renewal(), at(10));
    let mut long = Lease::acquired(at(0), Duration::from_secs(3600));
    long.renewal_failed(at(0));
    assert_eq!(long.next_renewal(), at(500));
}

#[test]
fn an_endless_lease_ends_only_when_it_is_given_up() {
    let mut lease = Lease::endless();
    lease.renewal_sent(at(1), Duration::ZERO);
    lease.renewal_failed(at(2));
    assert_eq!((lease.valid_until(), lease.next_renewal()), (Moment::NEVER, Moment::NEVER));
    assert!(lease.observe(Moment(u64::MAX - 1)));
    lease.give_up();
    assert!(!lease.is_valid(at(0)) && !lease.renewed(at(0)));
}

#[test]
fn a_shorter_lease_counts_when_it_is_asked_for_and_a_longer_one_when_it_is_granted() {
    let mut lease = Lease::acquired(at(0), LENGTH);
    lease.renewal_sent(at(10), LENGTH / 3);
    assert_eq!((lease.valid_until(), lease.length()), (at(110), Some(LENGTH / 3)), "the log may have granted it");
    assert!(lease.renewed(at(5)));
    assert_eq!(lease.valid_until(), at(110), "an answer from before");
    lease.renewal_sent(at(20), LENGTH * 2);
    assert_eq!(lease.valid_until(), at(110));
    assert!(lease.renewed(at(20)));
    assert_eq!(lease.valid_until(), at(620));
    lease.renewal_sent(at(30), Duration::ZERO);
    assert_eq!((lease.valid_until(), lease.next_renewal()), (at(620), Moment::NEVER));
    lease.renewal_failed(at(35));
    assert_eq!(lease.next_renewal(), at(535), "it still ends, so it is tried again");
    assert!(lease.renewed(at(30)));
    assert_eq!(lease.valid_until(), Moment::NEVER);
    lease.renewal_sent(at(40), LENGTH);
    assert_eq!((lease.valid_until(), lease.next_renewal()), (at(340), at(140)));
}

#[derive(Debug, Clone)]
enum Event {
    Sent,
    Answered(usize),
    Failed,
    Looked,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::Sent), any::<usize>().prop_map(Event::Answered), Just(Event::Failed), Just(Event::Looked),]
}

proptest! {
    #[test]
    fn a_lease_is_never_longer_than_what_was_granted(
        events in proptest::collection::vec((0..120u64, event()), 1..40),
    ) {
        let mut now = 0;
        let (mut sent, mut answered) = (vec![at(0)], vec![at(0)]);
        let mut lease = Lease::acquired(at(0), LENGTH);
        let mut was_over = false;
        for (passed, event) in events {
            now += passed;
            let before = lease.valid_until();
            match event {
                Event::Sent => {
                    lease.renewal_sent(at(now), LENGTH);
                    sent.push(at(now));
                    prop_assert!(lease.next_renewal() > at(now));
                }
                Event::Answered(which) => {
                    let which = sent[which % sent.len()];
                    answered.push(which);
                    if lease.renewed(which) {
                        prop_assert!(lease.valid_until() >= before, "it went back");
                    }
                }
                Event::Failed => lease.renewal_failed(at(now)),
                Event::Looked => was_over |= !lease.observe(at(now)),
            }
            let granted = answered.iter().max().unwrap().plus(LENGTH);
            prop_assert!(lease.valid_until() <= granted);
            prop_assert!(!(was_over && lease.is_valid(at(now))), "it came back");
            prop_assert!(lease.next_renewal() == Moment::NEVER || lease.next_renewal() <= at(now + 100));
        }
    }
}
