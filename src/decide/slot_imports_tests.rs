use super::*;

const JOB: &str = "j";

fn slots() -> SlotRanges {
    "1-3".parse().expect("slots")
}

/// The migration of client 7, which the source has granted.
fn granted() -> (Imports, Instant) {
    let (mut imports, now) = (Imports::default(), Instant::now());
    assert!(imports.begin(7, JOB.to_owned(), slots(), "n".to_owned()));
    assert!(imports.paused(7, 100));
    assert_eq!(imports.look(now, Some(99)), None, "the log lacks a byte");
    assert_eq!(imports.look(now, None), None, "the log has nothing");
    assert_eq!(imports.look(now, Some(100)), Some(ImportAction::LetRequest(7)));
    imports.granted(7);
    (imports, now)
}

/// As [`granted`], and its claim is on its way.
fn claiming() -> (Imports, Instant, SlotStep) {
    let (mut imports, now) = granted();
    let end = ImportAction::End { job: JOB.to_owned(), source_node: "n".to_owned() };
    assert_eq!(imports.look(now, Some(100)), Some(end));
    let intend = SlotStep::Intend { job: JOB.to_owned(), slots: slots(), source: "s".to_owned() };
    assert_eq!(imports.ended(JOB, Some("s".to_owned())), Some(ImportAction::Ask(intend.clone())));
    let claim = SlotStep::Claim { job: JOB.to_owned(), source: "s".to_owned() };
    assert_eq!(imports.answered(&intend, Ok(SlotAnswer::Done), now), [ImportAction::Ask(claim.clone())]);
    (imports, now, claim)
}

fn settle(outcome: Outcome) -> SlotStep {
    SlotStep::Settle { job: JOB.to_owned(), outcome }
}

fn unknown() -> Result<SlotAnswer, NotDone> {
    Err(NotDone::Unknown("silence".to_owned()))
}

#[test]
fn slots_are_served_when_source_and_target_have_stored_that_they_moved() {
    let (mut imports, now, claim) = claiming();
    let plan = ImportAction::Plan { job: JOB.to_owned(), above: 5 };
    assert_eq!(imports.answered(&claim, Ok(SlotAnswer::Granted { config_epoch: 5 }), now), [plan]);
    let taken = settle(Outcome::Taken { config_epoch: 22 });
    assert_eq!(imports.planned(JOB, 22), Some(ImportAction::Ask(taken.clone())));
    assert!(imports.is_settling());
    let forget = SlotStep::Forget { job: JOB.to_owned(), source: "s".to_owned() };
    let next = [ImportAction::Take(slots(), 22), ImportAction::Ask(forget.clone())];
    assert_eq!(imports.answered(&taken, Ok(SlotAnswer::Done), now), next);
    assert!(imports.answered(&forget, Ok(SlotAnswer::Done), now).is_empty() && imports.is_idle());
}

#[test]
fn an_import_that_the_source_has_given_up_is_dropped() {
    let (mut imports, now, claim) = claiming();
    let refused = Err(NotDone::Refused("no grant".to_owned()));
    assert_eq!(imports.answered(&claim, refused, now), [ImportAction::Ask(settle(Outcome::Void))]);
    assert_eq!(imports.answered(&settle(Outcome::Void), Ok(SlotAnswer::Done), now), [ImportAction::Drop(slots())]);
    assert!(imports.is_idle());
}

#[test]
fn a_claim_of_which_nobody_knows_is_made_again_and_deletes_nothing() {
    let (mut imports, now, claim) = claiming();
    assert!(imports.answered(&claim, unknown(), now).is_empty());
    assert_eq!(imports.look(now, Some(100)), None);
    assert_eq!(imports.look(now + RETRY_WAIT, Some(100)), Some(ImportAction::Ask(claim)));
    imports.disconnected(7);
    assert!(!imports.is_idle(), "the source's connection has ended before");
}

#[test]
fn a_config_epoch_that_is_too_low_by_now_is_planned_anew() {
    let (mut imports, now, claim) = claiming();
    imports.answered(&claim, Ok(SlotAnswer::Granted { config_epoch: 5 }), now);
    imports.planned(JOB, 22);
    let refused = Err(NotDone::Refused("lower".to_owned()));
    let plan = ImportAction::Plan { job: JOB.to_owned(), above: 22 };
    assert_eq!(imports.answered(&settle(Outcome::Taken { config_epoch: 22 }), refused, now), [plan]);
    assert!(imports.planned(JOB, 40).is_some());
}

#[test]
fn what_the_server_has_given_up_before_is_not_claimed() {
    let (mut imports, now) = granted();
    assert!(imports.look(now, Some(100)).is_some());
    assert_eq!(imports.ended(JOB, None), None);
    assert!(imports.is_idle());
    let (mut imports, _) = granted();
    imports.disconnected(7);
    assert!(imports.is_idle());
}

#[test]
fn an_answer_to_an_earlier_question_is_none() {
    let (mut imports, now, _) = claiming();
    let late = SlotStep::Intend { job: JOB.to_owned(), slots: slots(), source: "s".to_owned() };
    assert!(imports.answered(&late, Ok(SlotAnswer::Done), now).is_empty());
    assert!(imports.answered(&settle(Outcome::Void), Ok(SlotAnswer::Done), now).is_empty());
}

#[test]
fn a_source_is_taken_at_its_word_only_after_it_was_asked() {
    let mut imports = Imports::default();
    assert!(imports.begin(7, JOB.to_owned(), slots(), "n".to_owned()));
    imports.granted(7);
    assert_eq!(imports.look(Instant::now(), Some(u64::MAX)), None);
    assert!(!imports.paused(8, 1), "of another client");
    assert!(!imports.begin(8, JOB.to_owned(), slots(), "n".to_owned()), "a job has one connection");
    assert!(!imports.begin(8, "other".to_owned(), slots(), "n".to_owned()), "the same slots");
    assert!(imports.begin(8, "other".to_owned(), "9".parse().expect("slots"), "n".to_owned()));
    assert!(imports.may_own(2) && !imports.may_own(4));
}

#[test]
fn what_is_claimed_outlives_a_time_in_which_this_node_serves_nobody() {
    let (mut imports, now, claim) = claiming();
    assert!(imports.are_claiming());
    imports.end_undecided();
    imports.ask_again(now);
    assert_eq!(imports.look(now, None), Some(ImportAction::Ask(claim)));
    let (mut imports, now) = granted();
    assert!(!imports.are_claiming());
    imports.ask_again(now);
    imports.end_undecided();
    assert!(imports.is_idle(), "the source aborts");
}
