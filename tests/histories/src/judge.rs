//! Whether a history is linearizable: whether each operation can have taken effect at one moment between its call and its
//! answer, so that all answers are those of a server that does one operation after the other.
//!
//! The search is that of [`LinearizabilityTester`]: it tries all orders that agree with what was seen, one operation after the
//! other. The [`Reference`] refuses steps that cannot help, or it would take for ever.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{ensure, Result};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::SeedableRng;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use crate::history::{Call, Event, History, Outcome, Session};
use crate::reference::{Answer, Limits, Numbered, Reference, Search, MAX_OPERATIONS};

/// Searches that take more steps are given up, and another one is begun. All together may take about a minute. First it is
/// tried with few operations in a row that were never answered: of these, all orders before each answer are what takes long,
/// and what really happened has few. Only a search without that limit can find that there is no order.
const SEARCHES: [Limits; 11] = [
    Limits { steps: 4_000, row: 1 },
    Limits { steps: 10_000, row: 2 },
    Limits { steps: 10_000, row: 3 },
    Limits { steps: 4_000, row: Limits::NO_ROW },
    Limits { steps: 4_000, row: Limits::NO_ROW },
    Limits { steps: 10_000, row: Limits::NO_ROW },
    Limits { steps: 50_000, row: 2 },
    Limits { steps: 100_000, row: 3 },
    Limits { steps: 100_000, row: 4 },
    Limits { steps: 10_000, row: Limits::NO_ROW },
    Limits { steps: 400_000, row: Limits::NO_ROW },
];

/// What a history was found to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains all answers.
    Linearizable,
    /// There is none. The order that explains most leaves these calls out.
    Violation {
        /// Places in [`History::calls`].
        unexplained: Vec<usize>,
    },
    /// The search took too long.
    Undecided,
}

/// Judges a history that is over. Nothing may have been in the keys when it began.
///
/// # Errors
/// The history is too long.
pub fn judge(history: &History) -> Result<Verdict> {
    let says_something = |call: &Call| match call.outcome {
        Outcome::Answered(_) => true,
        Outcome::Refused => false,
        Outcome::Unknown => !call.operation.is_read(),
    };
    let kept: Vec<usize> = (0..history.calls.len()).filter(|&i| says_something(&history.calls[i])).collect();
    ensure!(kept.len() <= MAX_OPERATIONS, "a history of {} operations is too long to be judged", kept.len());
    // A search is over soon or lasts long, and which of both is a matter of the order in which it tries the sessions.
    for (attempt, limits) in SEARCHES.into_iter().enumerate() {
        let search = Rc::new(RefCell::new(Search::new(limits)));
        let order = Order::shuffled(attempt as u64, history);
        if tester(history, &kept, &order, Rc::clone(&search))?.is_consistent() {
            return Ok(Verdict::Linearizable);
        }
        let search = search.borrow();
        if search.is_exhausted() {
            let unexplained = kept.into_iter().enumerate().filter(|(number, _)| !search.explained(*number));
            return Ok(Verdict::Violation { unexplained: unexplained.map(|(_, call)| call).collect() });
        }
    }
    Ok(Verdict::Undecided)
}

/// The order in which a search tries sessions.
struct Order(Vec<Session>);

impl Order {
    fn shuffled(seed: u64, history: &History) -> Self {
        let last = history.calls.iter().map(|call| call.session).max().unwrap_or(0);
        let mut order: Vec<Session> = (0..=last).collect();
        order.shuffle(&mut StdRng::seed_from_u64(seed));
        Order(order)
    }

    fn caller(&self, history: &History, call: usize) -> Caller {
        let Call { session, outcome, .. } = &history.calls[call];
        match outcome {
            Outcome::Unknown => Caller::Unanswered(call),
            _ => Caller::Session(self.0[*session as usize]),
        }
    }
}

/// Who does an operation, for the search, which tries them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Session(Session),
    /// An operation that was never answered stands alone: nothing comes after it.
    Unanswered(usize),
}

/// Tells the tester all that happened to the calls in `kept`.
fn tester(
    history: &History,
    kept: &[usize],
    order: &Order,
    search: Rc<RefCell<Search>>,
) -> Result<LinearizabilityTester<Caller, Reference>> {
    let is_answered = |call: &usize| matches!(history.calls[*call].outcome, Outcome::Answered(_));
    let answered = (0..kept.len()).filter(|&number| is_answered(&kept[number]));
    let mut tester = LinearizabilityTester::new(Reference::new(answered, search));
    let caller = |call: usize| order.caller(history, call);
    for event in &history.events {
        match event {
            Event::Invoked(call) => {
                let Ok(number) = kept.binary_search(call) else { continue };
                let operation = history.calls[*call].operation.clone();
                accepted(
                    tester.on_invoke(caller(*call), Rc::new(Numbered::new(number, operation, is_answered(call)))),
                )?;
            }
            Event::Answered(call) => {
                if let Outcome::Answered(value) = &history.calls[*call].outcome {
                    accepted(tester.on_return(caller(*call), Answer::Was(Rc::new(value.clone()))))?;
                }
            }
            Event::Note(_) => {}
        }
    }
    // What was never answered returns when all is over, with any answer. To take effect after everything else is the same
    // as never to take effect, so this says no more than that it is in flight for ever.
    for call in kept.iter().filter(|&&call| history.calls[call].outcome == Outcome::Unknown) {
        accepted(tester.on_return(caller(*call), Answer::Any))?;
    }
    Ok(tester)
}

fn accepted<T>(result: Result<T, String>) -> Result<()> {
    result.map(drop).map_err(anyhow::Error::msg)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
