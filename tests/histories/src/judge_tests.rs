use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redis::Value;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::{judge, Verdict};
use crate::draw::draw;
use crate::history::{Event, History, Outcome, Recorder, Session};
use crate::keyspace::Keyspace;
use crate::operation::Operation::{self, Append, Get, Set};
use crate::operation::{Key, Kind};

const CASES: u64 = 3000;
const KEY: Key = Key { round: 1, kind: Kind::Text, number: 0 };

/// Asks and is told at once.
fn done(recorder: &Recorder, session: Session, operation: Operation, value: Value) -> usize {
    let call = recorder.invoked(session, &operation);
    recorder.answered(call, value);
    call
}

fn text(value: &str) -> Value {
    Value::BulkString(value.as_bytes().to_vec())
}

fn verdict(recorder: &Recorder) -> Verdict {
    judge(&recorder.history()).expect("the history is short and in order")
}

#[test]
fn a_lost_write_is_found() {
    let recorder = Recorder::default();
    done(&recorder, 1, Set(KEY, "a".into()), Value::Okay);
    let read = done(&recorder, 2, Get(KEY), Value::Nil);
    assert_eq!(verdict(&recorder), Verdict::Violation { unexplained: vec![read] });
}

#[test]
fn a_read_of_what_then_vanishes_is_found() {
    let recorder = Recorder::default();
    recorder.invoked(1, &Set(KEY, "a".into())); // never answered
    done(&recorder, 2, Get(KEY), text("a"));
    assert_eq!(verdict(&recorder), Verdict::Linearizable);
    done(&recorder, 2, Get(KEY), Value::Nil);
    assert!(matches!(verdict(&recorder), Verdict::Violation { .. }));
}

#[test]
fn what_was_never_answered_may_happen_late_or_never() {
    let recorder = Recorder::default();
    recorder.invoked(1, &Append(KEY, "a".into()));
    recorder.invoked(2, &Append(KEY, "b".into()));
    done(&recorder, 3, Get(KEY), Value::Nil);
    done(&recorder, 3, Get(KEY), text("b"));
    assert_eq!(verdict(&recorder), Verdict::Linearizable);
    done(&recorder, 3, Get(KEY), text("bb"));
    assert!(matches!(verdict(&recorder), Verdict::Violation { .. }));
}

#[test]
fn what_was_refused_must_not_happen() {
    let recorder = Recorder::default();
    let call = recorder.invoked(1, &Set(KEY, "a".into()));
    recorder.refused(call);
    done(&recorder, 1, Get(KEY), Value::Nil);
    assert_eq!(verdict(&recorder), Verdict::Linearizable);
    done(&recorder, 1, Get(KEY), text("a"));
    assert!(matches!(verdict(&recorder), Verdict::Violation { .. }));
}

#[test]
fn concurrent_operations_take_effect_in_any_order_that_explains_them() {
    let recorder = Recorder::default();
    let calls = [1, 2, 3].map(|session| (session, recorder.invoked(session, &Append(KEY, format!("{session}")))));
    for (session, call) in calls {
        recorder.answered(call, Value::Int(4 - i64::from(session)));
    }
    done(&recorder, 1, Get(KEY), text("321"));
    assert_eq!(verdict(&recorder), Verdict::Linearizable);
}

/// The plain reference object, which refuses nothing but wrong answers.
impl SequentialSpec for Keyspace {
    type Op = Operation;
    type Ret = Value;

    fn invoke(&mut self, operation: &Operation) -> Value {
        self.apply(operation)
    }
}

/// The verdict of the plain search, in which what is never answered stays in flight.
fn is_linearizable(history: &History) -> bool {
    let mut tester = LinearizabilityTester::new(Keyspace::default());
    for event in &history.events {
        let done = match event {
            Event::Invoked(call) => {
                tester.on_invoke(history.calls[*call].session, history.calls[*call].operation.clone()).map(drop)
            }
            Event::Answered(call) => match &history.calls[*call].outcome {
                Outcome::Answered(value) => tester.on_return(history.calls[*call].session, value.clone()).map(drop),
                other => panic!("an answered call is {other}"),
            },
            Event::Note(_) => Ok(()),
        };
        done.expect("the history is in order");
    }
    tester.is_consistent()
}

/// A short history of a server that may forget what it did, and of clients that may not learn what it did.
fn random_history(random: &mut StdRng) -> History {
    let (recorder, mut keyspace) = (Recorder::default(), Keyspace::default());
    let (forgets, breaks) = (random.random_range(0.0..0.3), random.random_range(0.0..0.5));
    let mut in_flight: Vec<(Session, usize, Operation, Option<Value>)> = Vec::new();
    let mut idle: Vec<Session> = (0..3).map(|_| recorder.begin_session()).collect();
    let mut to_come = random.random_range(4..=8);
    while to_come > 0 || !in_flight.is_empty() {
        if to_come > 0 && !idle.is_empty() && (in_flight.is_empty() || random.random_bool(0.5)) {
            to_come -= 1;
            let session = idle.swap_remove(random.random_range(0..idle.len()));
            let operation = draw(1, session as usize, to_come, random);
            in_flight.push((session, recorder.invoked(session, &operation), operation, None));
            continue;
        }
        let chosen = random.random_range(0..in_flight.len());
        let (session, call, operation, answer) = &mut in_flight[chosen];
        if let Some(value) = answer.take() {
            recorder.answered(*call, value);
            idle.push(*session);
            in_flight.swap_remove(chosen);
        } else if random.random_bool(breaks) {
            if random.random_bool(0.5) {
                keyspace.apply(operation);
            }
            idle.push(recorder.begin_session());
            in_flight.swap_remove(chosen);
        } else if random.random_bool(forgets) {
            *answer = Some(keyspace.clone().apply(operation));
        } else {
            *answer = Some(keyspace.apply(operation));
        }
    }
    recorder.history()
}

#[test]
fn the_search_finds_what_the_plain_search_finds() {
    let mut linearizable = 0;
    for seed in 0..CASES {
        let history = random_history(&mut StdRng::seed_from_u64(seed));
        let expected = is_linearizable(&history);
        let verdict = judge(&history).expect("the history is short and in order");
        assert_eq!(verdict == Verdict::Linearizable, expected, "seed {seed}: {verdict:?}\n{}", history.describe(&[]));
        linearizable += u64::from(expected);
    }
    assert!((CASES / 10..CASES * 9 / 10).contains(&linearizable), "{linearizable} of {CASES} are linearizable");
}
